package engine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/sluicemq/sluice/internal/testx"
)

// clientFrame is a frame as a client sends it, with any header.
func clientFrame(b0 byte, masked bool, p []byte) []byte {
	f := []byte{b0, 0}
	switch {
	case len(p) < 126:
		f[1] = byte(len(p))
	case len(p) < 1<<16:
		f[1] = 126
		f = binary.BigEndian.AppendUint16(f, uint16(len(p)))
	default:
		f[1] = 127
		f = binary.BigEndian.AppendUint64(f, uint64(len(p)))
	}
	if !masked {
		return append(f, p...)
	}
	f[1] |= 0x80
	mask := [4]byte{1, 2, 3, 4}
	f = append(f, mask[:]...)
	at := len(f)
	f = append(f, p...)
	ws.Cipher(f[at:], mask, 0)
	return f
}

func TestWebSocketViolations(t *testing.T) {
	for _, v := range []struct {
		name string
		send []byte
		echo string
		code int
	}{
		{"unmasked", clientFrame(0x82, false, []byte("x")), "", 1002},
		{"text", clientFrame(0x81, true, []byte("x")), "", 1003},
		{"reserved bit", clientFrame(0xc2, true, []byte("x")), "", 1002},
		{"reserved opcode", clientFrame(0x83, true, []byte("x")), "", 1002},
		{"reserved control opcode", clientFrame(0x8b, true, []byte("x")), "", 1002},
		{"continuation of nothing", clientFrame(0x80, true, []byte("x")), "", 1002},
		{"message in a message", append(clientFrame(0x02, true, []byte("a")), clientFrame(0x82, true, []byte("b"))...), "a", 1002},
		{"ping in fragments", clientFrame(0x09, true, []byte("x")), "", 1002},
		{"long ping", clientFrame(0x89, true, make([]byte, 126)), "", 1002},
		{"long form of a short length", []byte{0x82, 0xfe, 0, 5, 1, 2, 3, 4}, "", 1002},
		{"longest form of a short length", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4}, "", 1002},
		{"length over 63 bits", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, "", 1002},
		{"too big", []byte{0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4}, "", 1009},
		{"too big in fragments", append(clientFrame(0x02, true, make([]byte, 60_000)), clientFrame(0x00, true, make([]byte, 60_000))...), string(make([]byte, 60_000)), 1009},
		{"close code 1005", clientFrame(0x88, true, []byte{3, 237}), "", 1002},
		{"close code 999", clientFrame(0x88, true, []byte{3, 231}), "", 1002},
		{"close of one byte", clientFrame(0x88, true, []byte{3}), "", 1002},
		{"close reason not UTF-8", clientFrame(0x88, true, []byte{3, 232, 0xff}), "", 1007},
		{"normal close", clientFrame(0x88, true, []byte{3, 232, 'b', 'y', 'e'}), "", 1000},
		{"close without code", clientFrame(0x88, true, nil), "", 1000},
		{"private code", clientFrame(0x88, true, []byte{0x0f, 0xa0}), "", 4000},
		{"data before the violation", append(clientFrame(0x82, true, []byte("good")), clientFrame(0x81, true, []byte("bad"))...), "good", 1003},
	} {
		for _, w := range ways() {
			if w.layer != "ws" {
				continue
			}
			t.Run(v.name+"/"+w.transport, func(t *testing.T) {
				t.Parallel()
				why := make(chan error, 1)
				h := echo()
				h.close = func(_ *Conn, err error) { why <- err }
				s := start(t, w, h, func(_ *Options, o *ListenerOptions) { o.WSMessageMax = 100_000 })
				c := s.dial().(*wsClient)
				write(t, c.Conn, v.send)
				got, err := io.ReadAll(c)
				if err != nil || string(got) != v.echo {
					t.Errorf("echo of %d bytes, want %d, %v", len(got), len(v.echo), err)
				}
				if len(c.close) < 2 || int(binary.BigEndian.Uint16(c.close)) != v.code {
					t.Errorf("close frame %v, want %d", c.close, v.code)
				}
				_ = c.Close()
				_ = testx.Receive(t, why, patience)
			})
		}
	}
}

// readFrame reads a frame whose payload the test knows to be small.
func readFrame(r io.Reader) (f ws.Frame, err error) {
	if f.Header, err = ws.ReadHeader(r); err != nil {
		return f, err
	}
	if f.Header.Length > 1<<20 {
		return f, fmt.Errorf("a frame of %d bytes", f.Header.Length)
	}
	f.Payload = make([]byte, f.Header.Length)
	_, err = io.ReadFull(r, f.Payload)
	return f, err
}

// TestWebSocketControl: pings between fragments are answered, and a message may come in as many frames as it likes.
func TestWebSocketControl(t *testing.T) {
	for _, w := range ways() {
		if w.layer != "ws" && w.layer != "wss" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			h := echo()
			s := start(t, w, h)
			c := s.dial().(*wsClient)
			var all []byte
			all = append(all, clientFrame(0x02, true, []byte("one "))...)
			all = append(all, clientFrame(0x89, true, []byte("are you there"))...)
			all = append(all, clientFrame(0x00, true, nil)...)
			all = append(all, clientFrame(0x8a, true, []byte("unasked pong"))...)
			all = append(all, clientFrame(0x00, true, []byte("two "))...)
			all = append(all, clientFrame(0x80, true, []byte("three"))...)
			all = append(all, clientFrame(0x82, true, nil)...)
			for _, b := range all {
				write(t, c.Conn, []byte{b})
			}
			var pong, data []byte
			for len(data) < len("one two three") {
				f, err := readFrame(c.r)
				if err != nil {
					t.Fatal(err)
				}
				if f.Header.Masked || f.Header.Rsv != 0 || !f.Header.Fin {
					t.Errorf("header %+v", f.Header)
				}
				if f.Header.OpCode == ws.OpPong {
					pong = f.Payload
				} else {
					data = append(data, f.Payload...)
				}
			}
			if string(pong) != "are you there" || string(data) != "one two three" {
				t.Errorf("pong %q, data %q", pong, data)
			}
		})
	}
}

func TestWebSocketUpgrade(t *testing.T) {
	const good = "GET /mqtt?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	for _, v := range []struct {
		name, head string
		status     int
		protocol   string
	}{
		{"no subprotocol", good, 101, ""},
		{"mqtt", good + "Sec-WebSocket-Protocol: mqtt\r\n", 101, "mqtt"},
		{"first known one", good + "Sec-WebSocket-Protocol: amqp, mqttv3.1, mqtt\r\n", 101, "mqttv3.1"},
		{"unknown subprotocol", good + "Sec-WebSocket-Protocol: amqp\r\n", 400, ""},
		{"extension is not taken", good + "Sec-WebSocket-Extensions: permessage-deflate\r\n", 101, ""},
		{"allowed origin", good + "Origin: https://good.example\r\n", 101, ""},
		{"other origin", good + "Origin: https://bad.example\r\n", 403, ""},
		{"other path", strings.Replace(good, "/mqtt", "/other", 1), 404, ""},
		{"no upgrade", "GET /mqtt HTTP/1.1\r\nHost: h\r\n", 400, ""},
		{"no request", "\x10\x0c\x00\x04MQTT\r\n", 400, ""},
		{"long head", good + "X: " + strings.Repeat("x", 9000) + "\r\n", 431, ""},
		{"old version", strings.Replace(good, "Version: 13", "Version: 8", 1), 426, ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := start(t, way{ways()[0].transport, "ws"}, echo(), func(_ *Options, o *ListenerOptions) {
				o.WSOrigins = []string{"https://good.example"}
			})
			c := s.dialRaw()
			write(t, c, []byte(v.head+"\r\n"))
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != v.status || resp.Header.Get("Sec-WebSocket-Protocol") != v.protocol ||
				resp.Header.Get("Sec-WebSocket-Extensions") != "" {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
			if v.status == 101 {
				write(t, c, clientFrame(0x82, true, []byte("x")))
				if f, err := readFrame(br); err != nil || string(f.Payload) != "x" {
					t.Errorf("%v %v", f, err)
				}
				return
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after the refusal: %v", err)
			}
		})
	}
}

// TestWebSocketRequestWithData: frames that come with the request, and a request that comes byte by byte.
func TestWebSocketRequestWithData(t *testing.T) {
	head := "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	all := append([]byte(head), clientFrame(0x82, true, []byte("early"))...)
	for _, step := range []int{len(all), 1, 7} {
		s := start(t, way{ways()[0].transport, "ws"}, echo())
		c := s.dialRaw()
		for b := all; len(b) > 0; b = b[min(step, len(b)):] {
			write(t, c, b[:min(step, len(b))])
		}
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		wantRead(t, &wsClient{Conn: c, r: br}, "early")
	}
}

// frameLoop is a loop without sockets: frames in, bytes out.
func frameLoop(tb testing.TB) (*Conn, *bytes.Buffer) {
	tb.Helper()
	var got bytes.Buffer
	e := &Engine{base: time.Now()}
	l, err := newLoop(e, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(l.poll.close)
	h := &hooks{data: func(_ *Conn, b []byte) int {
		got.Write(b)
		return len(b)
	}}
	ln := &listener{e: e, o: ListenerOptions{Handler: h, WSMessageMax: 1 << 20, HighWater: 1 << 20, MaxInput: 1 << 24}}
	c := &Conn{loop: l, lst: ln, fd: -1, flags: flagFramed | flagOpen | flagArmedIn, ext: &extension{ws: &wsState{}}}
	l.takeSlot(c)
	l.takeSlot(c)
	return c, &got
}

// FuzzWebSocket feeds frames in two splits: both must give the same bytes, the same answers and the same end.
func FuzzWebSocket(f *testing.F) {
	f.Add(clientFrame(0x82, true, []byte("hello")), 3)
	f.Add(append(clientFrame(0x02, true, []byte("a")), clientFrame(0x80, true, []byte("b"))...), 1)
	f.Add(append(clientFrame(0x89, true, []byte("ping")), clientFrame(0x88, true, []byte{3, 232})...), 5)
	f.Add(clientFrame(0x82, true, make([]byte, 300)), 100)
	f.Add(clientFrame(0x82, false, []byte("x")), 2)
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4, 5}, 4)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		if len(in) > readBytes {
			return
		}
		run := func(step int) (data, answer []byte, err error) {
			c, got := frameLoop(t)
			for b := in; len(b) > 0 && c.flags&(flagClosed|flagClosing) == 0; {
				n := min(step, len(b))
				copy(c.loop.scratch[headroom:], b[:n])
				c.wsInput(c.loop.scratch, headroom, n)
				b = b[n:]
			}
			if q := c.out; q != nil {
				q.seal()
				for _, s := range q.segs[q.head:] {
					answer = append(answer, s.p...)
				}
			}
			return got.Bytes(), answer, c.closeErr()
		}
		d1, a1, e1 := run(len(in) + 1)
		d2, a2, e2 := run(1 + (step&0x7fffffff)%64)
		if !bytes.Equal(d1, d2) || !bytes.Equal(a1, a2) || !errors.Is(e1, e2) && e1.Error() != e2.Error() {
			t.Errorf("whole: %q %q %v; in steps of %d: %q %q %v", d1, a1, e1, step, d2, a2, e2)
		}
		if len(d1) > len(in) {
			t.Error("more out than in")
		}
	})
}

var _ net.Conn = (*wsClient)(nil)
