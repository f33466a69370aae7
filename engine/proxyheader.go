package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The header of the PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt has it. What is here looks at bytes alone.

const (
	proxyV1Max = 107     // bytes of a header of version 1, its end of line included
	proxyV2Max = 8 << 10 // of one of version 2: addresses, and what some proxies tell of TLS with the client's certificate

	proxyIDMax    = 128
	proxyFixed    = 16 // signature, version and command, family, length
	proxyTypeHost = 0x02
	proxyTypeCRC  = 0x03
	proxyTypeID   = 0x05
	proxyTypeTLS  = 0x20
	proxyTypeName = 0x22 // inside of proxyTypeTLS
	proxyUnixSize = 216
)

var (
	proxyV1Start = []byte("PROXY ")
	proxyV2Start = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// ErrProxyHeader is why a connection ended that did not begin with a header of the PROXY protocol on a listener that asks for one.
var ErrProxyHeader = errors.New("PROXY protocol")

func proxyError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProxyHeader}, args...)...)
}

// proxyHeader is what a header says.
type proxyHeader struct {
	local  bool           // the proxy speaks for itself: nobody stands behind it
	source netip.AddrPort // the client; zero if the proxy does not say, or not by IP
	told   Proxied
	tls    int // how many TLS values there are
}

// Proxied is what a proxy has told of its client beside the address.
type Proxied struct {
	// CommonName is that of the certificate that the client has shown to the proxy, which has verified it; empty: there is none.
	CommonName string
	Authority  string // the host name that the client has asked for by TLS
	UniqueID   string // the number that the proxy knows the connection by: any bytes, at most 128
}

// Proxied is what a trusted proxy has told of the client; nil: nothing. On its loop.
func (c *Conn) Proxied() *Proxied {
	if c.ext == nil {
		return nil
	}
	return c.ext.proxied
}

// parseProxy reads the header at the start of b. size is its length, 0 while more of it has to come. The header is judged as far as it is
// there: one that can't become valid is an error at once.
func parseProxy(b []byte) (h proxyHeader, size int, err error) {
	if startsLike(b, proxyV2Start) {
		return parseProxyV2(b)
	}
	if startsLike(b, proxyV1Start) {
		return parseProxyV1(b)
	}
	return h, 0, proxyError("the connection begins with no header: %q", b[:min(len(b), proxyFixed)])
}

// startsLike tells whether b begins with start, or is the beginning of it.
func startsLike(b, start []byte) bool {
	n := min(len(b), len(start))
	return bytes.Equal(b[:n], start[:n])
}

func parseProxyV1(b []byte) (h proxyHeader, size int, err error) {
	end := bytes.Index(b[:min(len(b), proxyV1Max)], []byte("\r\n"))
	if end < 0 {
		if len(b) >= proxyV1Max {
			return h, 0, proxyError("a header of version 1 has more than %d bytes", proxyV1Max)
		}
		return h, 0, nil
	}
	size = end + 2
	line := string(b[:end])
	f := strings.Split(line, " ")
	if f[1] == "UNKNOWN" {
		return h, size, nil // what follows counts for nothing
	}
	if f[1] != "TCP4" && f[1] != "TCP6" || len(f) != 6 {
		return h, 0, proxyError("not a header of version 1: %q", line)
	}
	src, ok := proxyAddr(f[2], f[4], f[1] == "TCP4")
	if _, dst := proxyAddr(f[3], f[5], f[1] == "TCP4"); !ok || !dst {
		return h, 0, proxyError("addresses or ports that are none: %q", line)
	}
	h.source = src
	return h, size, nil
}

// proxyAddr reads an address and a port of version 1.
func proxyAddr(host, port string, four bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(host)
	if err != nil || a.Zone() != "" || a.Is4() != four {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

func parseProxyV2(b []byte) (h proxyHeader, size int, err error) {
	if len(b) < proxyFixed {
		return h, 0, nil
	}
	size = proxyFixed + int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case b[12]>>4 != 2:
		return h, 0, proxyError("version %d, known are 1 and 2", b[12]>>4)
	case b[12]&15 > 1:
		return h, 0, proxyError("command %d, known are LOCAL (0) and PROXY (1)", b[12]&15)
	case size > proxyV2Max:
		return h, 0, proxyError("a header of %d bytes, %d are read", size, proxyV2Max)
	case len(b) < size:
		return h, 0, nil
	}
	b = b[:size]
	h.local = b[12]&15 == 0
	body := b[proxyFixed:]
	addresses := 0
	switch b[13] >> 4 {
	case 1:
		addresses = 2*4 + 4
	case 2:
		addresses = 2*16 + 4
	case 3:
		addresses = proxyUnixSize
	}
	if h.local && len(body) < addresses {
		return h, size, nil // what comes with LOCAL counts for nothing
	}
	if len(body) < addresses {
		return h, 0, proxyError("addresses of %d bytes, want %d", len(body), addresses)
	}
	if err := h.readTypes(b, proxyFixed+addresses); err != nil {
		return h, 0, err
	}
	if h.local {
		h.told = Proxied{}
		return h, size, nil
	}
	switch b[13] {
	case 0x11: // TCP over IPv4
		h.source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:]))
	case 0x21: // TCP over IPv6
		h.source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:]))
	}
	return h, size, nil
}

// proxyValue finds the value of the type and length at b[at:].
func proxyValue(b []byte, at int) (value, n int, err error) {
	if len(b)-at < 3 {
		return 0, 0, proxyError("a value is cut")
	}
	n = int(binary.BigEndian.Uint16(b[at+1:]))
	value = at + 3
	if len(b)-value < n {
		return 0, 0, proxyError("a value of %d bytes, %d are left", n, len(b)-value)
	}
	return value, n, nil
}

// readTypes goes through the types, lengths and values from at on: they have to end with the header, and a checksum has to be right.
func (h *proxyHeader) readTypes(b []byte, at int) error {
	for at < len(b) {
		value, n, err := proxyValue(b, at)
		if err != nil {
			return err
		}
		switch b[at] {
		case proxyTypeTLS:
			if err := h.readTLS(b[value : value+n]); err != nil {
				return err
			}
		case proxyTypeHost:
			if !utf8.Valid(b[value : value+n]) {
				return proxyError("an authority that is no text")
			}
			h.told.Authority = string(b[value : value+n])
		case proxyTypeID:
			if n > proxyIDMax {
				return proxyError("a unique id of %d bytes", n)
			}
			h.told.UniqueID = string(b[value : value+n])
		case proxyTypeCRC:
			if n != 4 {
				return proxyError("a checksum of %d bytes", n)
			}
			sum := crc32.Update(0, castagnoli, b[:value])
			sum = crc32.Update(sum, castagnoli, make([]byte, 4))
			sum = crc32.Update(sum, castagnoli, b[value+4:])
			if sum != binary.BigEndian.Uint32(b[value:]) {
				return proxyError("the checksum is wrong")
			}
		}
		at = value + n
	}
	return nil
}

// What the first byte of proxyTypeTLS says.
const (
	proxyOverTLS  = 1 << iota // the client has come by TLS
	proxyCertConn             // and has shown a certificate in this connection
	proxyCertSess             // or in the session that it goes on with
)

// readTLS reads what is told of the client's TLS: one byte of flags, the result of verifying its certificate, where 0 is good, and values.
func (h *proxyHeader) readTLS(b []byte) error {
	const fixed = 1 + 4
	if len(b) < fixed {
		return proxyError("a TLS value of %d bytes", len(b))
	}
	shown := b[0]&proxyOverTLS != 0 && b[0]&(proxyCertConn|proxyCertSess) != 0 && binary.BigEndian.Uint32(b[1:]) == 0
	names := 0
	for at := fixed; at < len(b); {
		value, n, err := proxyValue(b, at)
		if err != nil {
			return err
		}
		if name := b[value : value+n]; b[at] == proxyTypeName {
			if names++; names > 1 || !utf8.Valid(name) || bytes.IndexByte(name, 0) >= 0 {
				return proxyError("common names that are none, or two of them")
			}
			if shown {
				h.told.CommonName = string(name)
			}
		}
		at = value + n
	}
	if h.tls++; h.tls > 1 {
		return proxyError("two TLS values")
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
