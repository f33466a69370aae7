package engine

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// tlsWays are those whose handshake is TLS alone.
func tlsWays(t *testing.T, f func(t *testing.T, w way)) {
	t.Helper()
	for _, w := range ways() {
		if w.layer == "tls" {
			t.Run(w.transport, func(t *testing.T) { f(t, w) })
		}
	}
}

func TestTLSGarbage(t *testing.T) {
	tlsWays(t, func(t *testing.T, w way) {
		s := start(t, w, echo())
		for _, garbage := range []string{
			"GET / HTTP/1.1\r\n\r\n",
			"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
			string(pattern(100_000)),
			"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 507), // a hello of nonsense
			"\x16\x03\x01\xff\xff" + strings.Repeat("x", 70_000),                      // a record over the limit
		} {
			c := s.dialRaw()
			_, _ = c.Write([]byte(garbage)) // it may be reset on the way
			_, _ = io.ReadAll(c)
			_ = c.Close()
		}
		testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 0 })
		if st := s.e.Stats(); st.Refused.Handshake != 5 || st.Opened != 0 {
			t.Errorf("%+v", st)
		}
		good := s.dial()
		write(t, good, []byte("x"))
		wantRead(t, good, "x")
	})
}

// TestTLSGarbageLater: a session that is established ends at the first record that does not decrypt.
func TestTLSGarbageLater(t *testing.T) {
	tlsWays(t, func(t *testing.T, w way) {
		why := make(chan error, 1)
		h := echo()
		h.close = func(_ *Conn, err error) { why <- err }
		s := start(t, w, h)
		raw := s.dialRaw()
		c := tls.Client(raw, s.cert.ClientConfig(false))
		write(t, c, []byte("x"))
		wantRead(t, c, "x")
		write(t, raw, []byte("\x17\x03\x03\x00\x20"+strings.Repeat("y", 32)))
		if err := testx.Receive(t, why, patience); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("closed with %v", err)
		}
	})
}

// TestTLSVersions: records and handshakes come byte by byte, in both versions, with and without a client's certificate.
func TestTLSVersions(t *testing.T) {
	tlsWays(t, func(t *testing.T, w way) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			states := make(chan *tls.ConnectionState, 1)
			h := echo()
			h.open = func(c *Conn) { states <- c.TLS() }
			s := start(t, w, h, func(_ *Options, o *ListenerOptions) { o.TLS.ClientAuth = tls.RequestClientCert })
			cfg := s.cert.ClientConfig(true)
			cfg.MaxVersion = version
			c := tls.Client(byteWise{s.dialRaw()}, cfg)
			want := pattern(40_000)
			go func() { _, _ = c.Write(want) }()
			if got := read(t, c, len(want)); !bytes.Equal(got, want) {
				t.Error("echo differs")
			}
			st := testx.Receive(t, states, patience)
			if st.Version != version || len(st.PeerCertificates) == 0 || st.PeerCertificates[0].Subject.CommonName != "client" {
				t.Errorf("state %+v", st)
			}
		}
	})
}

// byteWise writes in small pieces.
type byteWise struct{ net.Conn }

func (b byteWise) Write(p []byte) (int, error) {
	for i := 0; i < len(p); {
		n := 1
		if i > 2000 {
			n = min(999, len(p)-i)
		}
		if _, err := b.Conn.Write(p[i : i+n]); err != nil {
			return i, err
		}
		i += n
	}
	return len(p), nil
}

// TestTLSReload: new connections see what GetConfigForClient says at their time; old ones live on.
func TestTLSReload(t *testing.T) {
	tlsWays(t, func(t *testing.T, w way) {
		var cfg atomic.Pointer[tls.Config]
		s := start(t, w, echo(), func(_ *Options, o *ListenerOptions) {
			cfg.Store(o.TLS)
			o.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return cfg.Load(), nil }}
		})
		old := s.dial().(*tls.Conn)
		s.cert.Reissue(t)
		cfg.Store(s.cert.ServerConfig())
		fresh := s.dial().(*tls.Conn)
		for _, c := range []net.Conn{old, fresh} {
			write(t, c, []byte("x"))
			wantRead(t, c, "x")
		}
		if old.ConnectionState().PeerCertificates[0].Equal(fresh.ConnectionState().PeerCertificates[0]) {
			t.Error("the certificate is still the old one")
		}
	})
}

// TestTLSPool: no more handshakes than allowed have a goroutine, what waits has its turn, and what is over is refused.
func TestTLSPool(t *testing.T) {
	tlsWays(t, func(t *testing.T, w way) {
		s := start(t, w, echo(), func(o *Options, l *ListenerOptions) {
			o.HandshakesMax, o.HandshakesWaiting = 2, 1
			l.HandshakeTimeout = 300 * time.Millisecond
		})
		before := runtime.NumGoroutine()
		var conns []net.Conn
		for i := range 4 {
			c := s.dialRaw()
			conns = append(conns, c)
			write(t, c, []byte{0x16, 3, 1}) // the first three bytes of a handshake that goes no further
			testx.Eventually(t, patience, func() bool { return s.e.Stats().BytesIn == int64(3*(i+1)) })
		}
		if _, err := conns[3].Read(make([]byte, 1)); err == nil {
			t.Error("the fourth was not refused")
		}
		if n := runtime.NumGoroutine(); w.transport == "epoll" && n > before+4 { // netpoll keeps a pool of its own
			t.Errorf("%d goroutines, before %d", n, before)
		}
		if st := s.e.Stats(); st.Refused.HandshakesFull != 1 {
			t.Errorf("%+v", st)
		}
		// They time out and leave room.
		testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 0 })
		c := s.dial()
		write(t, c, []byte("x"))
		wantRead(t, c, "x")
	})
}
