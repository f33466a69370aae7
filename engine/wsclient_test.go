package engine

import (
	"io"
	"net"
	"net/url"
	"testing"

	"github.com/gobwas/ws"
)

// wsClient makes a byte stream of binary frames. Control frames are answered as a client does.
type wsClient struct {
	net.Conn
	r     io.Reader
	left  int64
	close []byte // payload of the close frame that came
}

func dialWS(t testing.TB, c net.Conn) *wsClient {
	t.Helper()
	d := ws.Dialer{Protocols: []string{"mqtt"}}
	br, hs, err := d.Upgrade(c, &url.URL{Scheme: "ws", Host: "localhost", Path: "/mqtt"})
	if err != nil {
		t.Fatal(err)
	}
	if hs.Protocol != "mqtt" {
		t.Fatalf("subprotocol %q", hs.Protocol)
	}
	w := &wsClient{Conn: c, r: c}
	if br != nil {
		w.r = br
	}
	return w
}

// Write sends p as one frame.
func (w *wsClient) Write(p []byte) (int, error) {
	if err := w.frame(ws.OpBinary, true, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *wsClient) frame(op ws.OpCode, fin bool, p []byte) error {
	mask := ws.NewMask()
	b := append([]byte(nil), p...)
	ws.Cipher(b, mask, 0)
	return ws.WriteFrame(w.Conn, ws.Frame{Header: ws.Header{Fin: fin, OpCode: op, Masked: true, Mask: mask, Length: int64(len(p))}, Payload: b})
}

// Read reads from the current frame, or from the next one.
func (w *wsClient) Read(p []byte) (int, error) {
	for w.left == 0 {
		h, err := ws.ReadHeader(w.r)
		if err != nil {
			return 0, err
		}
		if h.OpCode.IsControl() {
			b := make([]byte, h.Length)
			if _, err := io.ReadFull(w.r, b); err != nil {
				return 0, err
			}
			if h.OpCode == ws.OpClose {
				w.close = b
				return 0, io.EOF
			}
			continue
		}
		w.left = h.Length
	}
	n, err := w.r.Read(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	return n, err
}
