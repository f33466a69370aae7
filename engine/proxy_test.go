package engine

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// proxyV2 is a header of version 2.
func proxyV2(command, family byte, body ...byte) string {
	h := append(append([]byte(nil), proxyV2Start...), 0x20|command, family, byte(len(body)>>8), byte(len(body)))
	return string(append(h, body...))
}

var (
	proxyInet  = []byte{203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x34, 0x07, 0x5b}
	proxyInet6 = append(append(append([]byte{0x20, 1, 0x0d, 0xb8}, make([]byte, 11)...), 9), append(make([]byte, 16), 0x12, 0x34, 0x07, 0x5b)...)
)

// withChecksum is the header that proxyInet makes with a checksum, off by wrong.
func withChecksum(wrong uint32) string {
	h := []byte(proxyV2(1, 0x11, append(proxyInet, 3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 0)...))
	binary.BigEndian.PutUint32(h[proxyFixed+len(proxyInet)+3:], crc32.Checksum(h, castagnoli)+wrong)
	return string(h)
}

func TestProxyHeader(t *testing.T) {
	four, six := "203.0.113.9:4660", "[2001:db8::9]:4660"
	tests := []struct{ name, in, source, err string }{
		{"1, IPv4", "PROXY TCP4 203.0.113.9 192.0.2.1 4660 1883\r\n", four, ""},
		{"1, IPv6", "PROXY TCP6 2001:db8::9 ::1 4660 1883\r\n", six, ""},
		{"1, IPv4 in IPv6", "PROXY TCP6 ::ffff:203.0.113.9 ::1 4660 1883\r\n", four, ""},
		{"1, unknown", "PROXY UNKNOWN\r\n", "", ""},
		{"1, unknown with addresses", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", ""},
		{"1, the other family", "PROXY TCP4 2001:db8::9 ::1 4660 1883\r\n", "", "none"},
		{"1, port", "PROXY TCP4 203.0.113.9 192.0.2.1 66000 1883\r\n", "", "none"},
		{"1, port with a zero", "PROXY TCP4 203.0.113.9 192.0.2.1 01 1883\r\n", "", "none"},
		{"1, destination", "PROXY TCP4 203.0.113.9 here 1 1883\r\n", "", "none"},
		{"1, too few", "PROXY TCP4 203.0.113.9\r\n", "", "not a header"},
		{"1, nothing", "PROXY \r\n", "", "not a header"},
		{"1, protocol", "PROXY UDP4 203.0.113.9 192.0.2.1 4660 1883\r\n", "", "not a header"},
		{"1, without end", "PROXY TCP4 " + strings.Repeat("1", 200), "", "more than 107"},
		{"2, IPv4", proxyV2(1, 0x11, proxyInet...), four, ""},
		{"2, IPv6", proxyV2(1, 0x21, proxyInet6...), six, ""},
		{"2, checksum", withChecksum(0), four, ""},
		{"2, wrong checksum", withChecksum(1), "", "checksum is wrong"},
		{"2, checksum of another size", proxyV2(1, 0x11, append(proxyInet, 3, 0, 1, 0)...), "", "checksum of 1 bytes"},
		{"2, values that mean nothing here", proxyV2(1, 0x11, append(proxyInet, 1, 0, 2, 'h', '2', 0xee, 0, 0)...), four, ""},
		{"2, value cut", proxyV2(1, 0x11, append(proxyInet, 1, 0)...), "", "is cut"},
		{"2, value too long", proxyV2(1, 0x11, append(proxyInet, 1, 0, 9, 'h')...), "", "of 9 bytes, 1 are left"},
		{"2, local", proxyV2(0, 0), "", ""},
		{"2, local with addresses", proxyV2(0, 0x11, proxyInet...), "", ""},
		{"2, local with few", proxyV2(0, 0x11, 1, 2), "", ""},
		{"2, no family", proxyV2(1, 0), "", ""},
		{"2, UDP", proxyV2(1, 0x12, proxyInet...), "", ""},
		{"2, Unix", proxyV2(1, 0x31, make([]byte, proxyUnixSize)...), "", ""},
		{"2, a family to come", proxyV2(1, 0x41), "", ""},
		{"2, addresses cut", proxyV2(1, 0x21, proxyInet...), "", "addresses of 12 bytes"},
		{"2, command", proxyV2(2, 0x11, proxyInet...), "", "command 2"},
		{"2, version", strings.Replace(proxyV2(1, 0x11, proxyInet...), "\x21\x11", "\x31\x11", 1), "", "version 3"},
		{"2, too long", proxyV2(1, 0x11, make([]byte, proxyV2Max)...), "", "8192 are read"},
		{"MQTT", "\x10\x0c\x00\x04MQTT", "", "begins with no header"},
		{"TLS", "\x16\x03\x01", "", "begins with no header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, size, err := parseProxy([]byte(tt.in + "rest"))
			if tt.err != "" {
				if !errors.Is(err, ErrProxyHeader) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			var want netip.AddrPort
			if tt.source != "" {
				want = netip.MustParseAddrPort(tt.source)
			}
			if err != nil || size != len(tt.in) || h.source != want || h.local != strings.Contains(tt.name, "local") {
				t.Errorf("%+v, %d of %d bytes, %v", h, size, len(tt.in), err)
			}
			for n := range tt.in {
				if _, size, err := parseProxy([]byte(tt.in[:n])); size != 0 || err != nil {
					t.Errorf("%d bytes of it: %d, %v", n, size, err)
				}
			}
		})
	}
}

// withName is a header that tells a common name.
func withName(flags byte, verified byte, name string) string {
	sub := append([]byte{proxyTypeName, 0, byte(len(name))}, name...)
	value := append([]byte{flags, 0, 0, 0, verified}, sub...)
	return proxyV2(1, 0x21, append(append(slices.Clone(proxyInet6), proxyTypeTLS, 0, byte(len(value))), value...)...)
}

// A proxy's number of a connection and the host name are told whatever family it is of, and bounded.
func TestProxyAuthority(t *testing.T) {
	values := func(id int) string {
		return proxyV2(1, 0x21, append(append(append(slices.Clone(proxyInet6), proxyTypeHost, 0, 4), "host"...), append([]byte{proxyTypeID, 0, byte(id)}, make([]byte, id)...)...)...)
	}
	if h, _, err := parseProxy([]byte(values(2))); err != nil || h.told != (Proxied{Authority: "host", UniqueID: "\x00\x00"}) {
		t.Errorf("%+v, %v", h, err)
	}
	if _, _, err := parseProxy([]byte(values(129))); err == nil {
		t.Error("an id of 129 bytes is taken")
	}
}

// The name of a certificate counts if the proxy says that it was shown and is good.
func TestProxyCommonName(t *testing.T) {
	for _, tc := range []struct {
		in, want string
		bad      bool
	}{
		{withName(proxyOverTLS|proxyCertConn, 0, "pump"), "pump", false},
		{withName(proxyOverTLS|proxyCertSess, 0, "pump"), "pump", false},
		{withName(proxyOverTLS, 0, "pump"), "", false},
		{withName(proxyCertConn, 0, "pump"), "", false},
		{withName(proxyOverTLS|proxyCertConn, 1, "pump"), "", false},
		{withName(proxyOverTLS|proxyCertConn, 0, "\xff"), "", true},
		{withName(proxyOverTLS|proxyCertConn, 0, "a\x00b"), "", true},
		{withName(proxyOverTLS|proxyCertConn, 0, ""), "", false},
		{proxyV2(1, 0x21, append(slices.Clone(proxyInet6), proxyTypeTLS, 0, 1, 1)...), "", true},
		{proxyV2(1, 0x21, append(slices.Clone(proxyInet6), proxyTypeTLS, 0, 7, 3, 0, 0, 0, 0, proxyTypeName, 0)...), "", true},
	} {
		h, _, err := parseProxy([]byte(tc.in))
		if h.told.CommonName != tc.want || (err != nil) != tc.bad {
			t.Errorf("%q: %+v, %v", tc.in, h, err)
		}
	}
}

// FuzzProxyHeader: what is there of a header is judged alike in whole and in parts, and more bytes behind it change nothing.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 203.0.113.9 192.0.2.1 4660 1883\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(proxyV2(1, 0x21, proxyInet6...)))
	f.Add([]byte(proxyV2(0, 0)))
	f.Add([]byte(withChecksum(0)))
	f.Add([]byte(proxyV2(1, 0x21, append(slices.Clone(proxyInet6), proxyTypeHost, 0, 1, 'h', proxyTypeID, 0, 1, 7)...)))
	f.Add([]byte(withName(proxyOverTLS|proxyCertConn, 0, "pump")))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, size, err := parseProxy(in)
		if size > len(in) || size > proxyV2Max || err != nil && size != 0 {
			t.Fatalf("%d of %d bytes, %v", size, len(in), err)
		}
		if err == nil && size == 0 && len(in) >= proxyV2Max {
			t.Fatal("still waits for more")
		}
		if size > 0 {
			if again, n, err := parseProxy(append(in[:size:size], "x"...)); err != nil || n != size || again != h {
				t.Fatalf("%+v, %d, %v; with more behind it %+v, %d", h, size, err, again, n)
			}
			if _, n, err := parseProxy(in[:size-1]); n != 0 || err != nil {
				t.Fatalf("but its last byte: %d, %v", n, err)
			}
		}
	})
}

// behindProxy starts a listener of w that trusts everybody, and tells where connections come from.
func behindProxy(t *testing.T, w way, change ...func(*Options, *ListenerOptions)) (*setup, chan netip.AddrPort) {
	t.Helper()
	from := make(chan netip.AddrPort, 4)
	h := echo()
	h.open = func(c *Conn) { from <- c.Remote() }
	all := append([]func(*Options, *ListenerOptions){func(_ *Options, o *ListenerOptions) { o.Proxy = func(netip.Addr) bool { return true } }}, change...)
	return start(t, w, h, all...), from
}

// TestProxy: below each stack of layers, in one packet with what follows and byte by byte.
func TestProxy(t *testing.T) {
	for _, w := range ways() {
		if w.layer == "fed" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			s, from := behindProxy(t, w)
			for _, tt := range []struct{ header, want string }{
				{"PROXY TCP4 203.0.113.9 192.0.2.1 4660 1883\r\n", "203.0.113.9:4660"},
				{proxyV2(1, 0x21, append(proxyInet6, 2, 0, 1, 'x')...), "[2001:db8::9]:4660"},
				{proxyV2(1, 0), "0.0.0.0:0"}, // not loopback, which the proxy is on
			} {
				for _, cut := range []bool{false, true} {
					raw := s.dialRaw()
					var c net.Conn = &headed{Conn: raw, header: tt.header}
					if cut {
						write(t, byteWise{raw}, []byte(tt.header))
						c = raw
					}
					if s.o.TLS != nil {
						c = tls.Client(c, s.cert.ClientConfig(false))
					}
					if s.o.WebSocket {
						c = dialWS(t, c)
					}
					write(t, c, []byte("hello"))
					wantRead(t, c, "hello")
					if got := testx.Receive(t, from, patience); got != netip.MustParseAddrPort(tt.want) {
						t.Errorf("%q: comes from %v, want %s", tt.header, got, tt.want)
					}
					_ = c.Close()
				}
			}
		})
	}
}

// headed sends a header in one write with the first bytes.
type headed struct {
	net.Conn
	header string
}

func (h *headed) Write(p []byte) (int, error) {
	head := len(h.header)
	n, err := h.Conn.Write(append([]byte(h.header), p...))
	h.header = ""
	return max(n-head, 0), err
}

// TestProxyLocal: what the proxy says for itself has its own address.
func TestProxyLocal(t *testing.T) {
	s, from := behindProxy(t, ways()[0])
	c := s.dialRaw()
	write(t, c, []byte(proxyV2(0, 0)+"x"))
	wantRead(t, c, "x")
	if got, want := testx.Receive(t, from, patience), c.LocalAddr().String(); got.String() != want {
		t.Errorf("comes from %v, want %s", got, want)
	}
}

// TestProxyRefused: no header, a bad one, too long a one and none in time end the connection before the handler sees it; who is not trusted
// is closed without being read.
func TestProxyRefused(t *testing.T) {
	for _, transport := range []string{"epoll", "netpoll"} {
		if transport == "epoll" && !epollHere {
			continue
		}
		t.Run(transport, func(t *testing.T) {
			s, _ := behindProxy(t, way{transport, "tcp"}, func(_ *Options, o *ListenerOptions) {
				o.HandshakeTimeout = 300 * time.Millisecond
			})
			for i, in := range []string{"\x10\x0c\x00\x04MQTT", "PROXY TCP4 a b c d\r\n", string(proxyV2Start) + "\x21\x11\xff\xff"} {
				c := s.dialRaw()
				write(t, c, []byte(in))
				if n, err := c.Read(make([]byte, 1)); err == nil {
					t.Errorf("%q is answered with %d bytes", in, n)
				}
				testx.Eventually(t, patience, func() bool { return s.e.Stats().Refused.Proxy == int64(i+1) })
			}
			c := s.dialRaw()
			write(t, c, []byte("PROXY TCP4 "))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("a header that does not come ends with %v", err)
			}
			testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 0 })
			if st := s.e.Stats(); st.Refused.Timeout != 1 || st.Opened != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestProxyUntrusted(t *testing.T) {
	asked := make(chan netip.Addr, 1)
	s := start(t, ways()[0], echo(), func(_ *Options, o *ListenerOptions) {
		o.Proxy = func(a netip.Addr) bool { asked <- a; return false }
	})
	c := s.dialRaw()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("not closed")
	}
	if a := testx.Receive(t, asked, patience); !a.IsLoopback() {
		t.Errorf("asked about %v", a)
	}
	if st := s.e.Stats(); st.Refused.Untrusted != 1 || st.Accepted != 0 || st.Open != 0 {
		t.Errorf("%+v", st)
	}
}
