package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// layer is what lies between a socket and the MQTT stream: TLS, a WebSocket, or one in the other.
type layer struct {
	raw  []byte // for the socket, not yet written
	tls  *tls.Conn
	feed *tlsFeed
	ws   *wsLayer
}

type wsLayer struct {
	accept string
	head   []byte // the answer to the upgrade, while it is not whole
	frames mqttclient.Frames
	frame  []byte
}

func (w *wsLayer) request(t mqttclient.Target) (request []byte) {
	request, w.accept = mqttclient.UpgradeRequest(t)
	return request
}

// appendRaw takes bytes for the socket, through TLS if there is any.
func (y *layer) appendRaw(raw, b []byte) []byte {
	if y.tls == nil {
		return append(raw, b...)
	}
	y.feed.out = raw
	_, _ = y.tls.Write(b) // the feed never fails, and an error of TLS itself is met by the next read
	raw, y.feed.out = y.feed.out, nil
	return raw
}

// wrap turns the connection's MQTT bytes into bytes for the socket.
func (y *layer) wrap(c *conn) error {
	if len(c.out) == 0 || c.phase == phaseUpgrade {
		return nil
	}
	b := c.out
	if y.ws != nil {
		y.ws.frame = mqttclient.AppendFrame(y.ws.frame[:0], mqttclient.OpBinary, b, rand.Uint32())
		b = y.ws.frame
	}
	y.raw = y.appendRaw(y.raw, b)
	c.l.putBuffer(c.out)
	c.out = nil
	if y.ws != nil && cap(y.ws.frame) > 4<<10 {
		y.ws.frame = nil
	}
	return nil
}

// unwrap takes bytes from the socket and passes the MQTT bytes in them on.
func (y *layer) unwrap(c *conn, b []byte) error {
	if y.tls == nil {
		return y.unframe(c, b)
	}
	y.feed.in = b
	for c.fd >= 0 {
		n, err := y.tls.Read(c.l.plainBuffer())
		if n > 0 {
			if err := y.unframe(c, c.l.plain[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, errFeedEmpty) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
	}
	return nil
}

func (l *loop) plainBuffer() []byte {
	if l.plain == nil {
		l.plain = make([]byte, readBufferBytes)
	}
	return l.plain
}

// unframe takes the bytes of a WebSocket, if it is one, and passes the MQTT bytes in them on.
func (y *layer) unframe(c *conn, b []byte) error {
	w := y.ws
	if w == nil {
		return c.input(b)
	}
	if c.phase == phaseUpgrade {
		w.head = append(w.head, b...)
		n, err := mqttclient.CheckUpgrade(w.head, w.accept)
		if err != nil || n == 0 {
			return err
		}
		b, w.head = w.head[n:], nil
		c.sendConnect()
	}
	closed := false
	data, err := w.frames.Feed(b, func(op byte, payload []byte) {
		switch op {
		case mqttclient.OpPing:
			y.raw = y.appendRaw(y.raw, mqttclient.AppendFrame(nil, mqttclient.OpPong, payload, rand.Uint32()))
			c.markDirty()
		case mqttclient.OpClose:
			closed = true
		}
	})
	if len(data) > 0 && err == nil {
		err = c.input(data)
	}
	if err == nil && closed {
		err = fmt.Errorf("the broker closed the WebSocket: %w", io.EOF)
	}
	return err
}

// errFeedEmpty tells crypto/tls that nothing is there yet. Being temporary, it leaves the tls.Conn usable.
var errFeedEmpty net.Error = feedEmpty{}

type feedEmpty struct{}

func (feedEmpty) Error() string   { return "nothing to read yet" }
func (feedEmpty) Timeout() bool   { return true }
func (feedEmpty) Temporary() bool { return true }

// tlsFeed stands below a tls.Conn. During the handshake it reads and writes the socket and may block; after that it hands
// over what the loop has read, and keeps what the loop shall write.
type tlsFeed struct {
	fd        int
	handshake bool
	deadline  time.Time
	in, out   []byte
}

// Read gives bytes from the socket during the handshake, afterwards those in f.in.
func (f *tlsFeed) Read(b []byte) (int, error) {
	if !f.handshake {
		if len(f.in) == 0 {
			return 0, errFeedEmpty
		}
		n := copy(b, f.in)
		f.in = f.in[n:]
		return n, nil
	}
	for {
		n, err := sysRead(f.fd, b)
		if errors.Is(err, errBlocked) {
			if err = sysWaitFor(f.fd, false, time.Until(f.deadline)); err == nil {
				continue
			}
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		return n, err
	}
}

// Write writes to the socket during the handshake, afterwards to f.out.
func (f *tlsFeed) Write(b []byte) (int, error) {
	if !f.handshake {
		f.out = append(f.out, b...)
		return len(b), nil
	}
	done := 0
	for done < len(b) {
		n, err := sysWrite(f.fd, b[done:])
		if errors.Is(err, errBlocked) {
			err = sysWaitFor(f.fd, true, time.Until(f.deadline))
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Close does nothing: the socket belongs to the connection.
func (f *tlsFeed) Close() error                     { return nil }
func (f *tlsFeed) LocalAddr() net.Addr              { return nil }
func (f *tlsFeed) RemoteAddr() net.Addr             { return nil }
func (f *tlsFeed) SetDeadline(time.Time) error      { return nil }
func (f *tlsFeed) SetReadDeadline(time.Time) error  { return nil }
func (f *tlsFeed) SetWriteDeadline(time.Time) error { return nil }

// handshakes runs TLS handshakes on a bounded number of goroutines.
type handshakes struct {
	slots chan struct{}
	all   sync.WaitGroup
}

// handshakesMax bounds how many handshakes run at once.
const handshakesMax = 32

// start does c's handshake and gives c to its loop then. It is called on the loop.
func (h *handshakes) start(c *conn, fd int) {
	l := c.l
	deadline := time.Now().Add(l.run.cfg.ConnectTimeout)
	h.all.Go(func() {
		h.slots <- struct{}{}
		defer func() { <-h.slots }()
		feed := &tlsFeed{fd: fd, handshake: true, deadline: deadline}
		cfg := l.run.tls
		if c.host != "" && c.host != l.run.tlsHost {
			cfg = cfg.Clone()
			cfg.ServerName = c.host
		}
		secure := tls.Client(feed, cfg)
		err := sysWaitFor(fd, true, time.Until(deadline))
		if err == nil {
			err = dialResult(fd)
		}
		if err == nil {
			ctx, cancel := context.WithDeadline(context.Background(), deadline)
			err = secure.HandshakeContext(ctx)
			cancel()
		}
		feed.handshake = false
		if !l.post(func(l *loop) { c.secured(secure, feed, err) }) {
			sysClose(fd)
		}
	})
}

func (c *conn) secured(secure *tls.Conn, feed *tlsFeed, err error) {
	if err == nil {
		err = c.l.add(c, wantRead)
	}
	if err != nil {
		c.down(fmt.Errorf("TLS handshake: %w", err))
		return
	}
	c.layer.tls, c.layer.feed = secure, feed
	c.opened()
}
