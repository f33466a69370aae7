package engine

import (
	"net/netip"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// TestAdmit: who is not admitted is closed without being read, and takes no place; behind a proxy it is the client's address that counts.
func TestAdmit(t *testing.T) {
	asked := make(chan netip.Addr, 1)
	s := start(t, ways()[0], echo(), func(_ *Options, o *ListenerOptions) {
		o.Admit = func(a netip.Addr) bool { asked <- a; return false }
	})
	c := s.dialRaw()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("not closed")
	}
	if a := testx.Receive(t, asked, patience); !a.IsLoopback() {
		t.Errorf("asked about %v", a)
	}
	if st := s.e.Stats(); st.Refused.Banned != 1 || st.Accepted != 0 || st.Open != 0 {
		t.Errorf("%+v", st)
	}
}

func TestAdmitBehindProxy(t *testing.T) {
	banned := netip.MustParseAddr("203.0.113.9")
	for _, transport := range []string{"epoll", "netpoll"} {
		if transport == "epoll" && !epollHere {
			continue
		}
		t.Run(transport, func(t *testing.T) {
			s, from := behindProxy(t, way{transport, "tcp"}, func(_ *Options, o *ListenerOptions) {
				o.Admit = func(a netip.Addr) bool { return a != banned }
			})
			c := s.dialRaw()
			write(t, c, []byte("PROXY TCP4 203.0.113.9 192.0.2.1 4660 1883\r\nhello"))
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("it is answered with %d bytes", n)
			}
			testx.Eventually(t, patience, func() bool { st := s.e.Stats(); return st.Refused.Banned == 1 && st.Open == 0 && st.Opened == 0 })
			c = s.dialRaw()
			write(t, c, []byte("PROXY TCP4 203.0.113.8 192.0.2.1 4660 1883\r\nhello"))
			wantRead(t, c, "hello")
			if a := testx.Receive(t, from, patience); a.Addr() != netip.MustParseAddr("203.0.113.8") {
				t.Errorf("comes from %v", a)
			}
		})
	}
}
