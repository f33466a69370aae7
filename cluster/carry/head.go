package carry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sluicemq/sluice/engine"
)

// headVersion is the version of a tunnel's head that is written, and the only one that is read. docs/format/link.md has the bytes.
const headVersion = 1

const (
	flagTLS         = 1 << iota // the client speaks TLS with its node
	flagWebSocket               // and WebSocket
	flagCertificate             // it has shown a certificate, which is in the head
	flagCertAfter               // it has shown one, which is the first message
	flagsKnown      = flagTLS | flagWebSocket | flagCertificate | flagCertAfter
)

// headMost is what a head may have, as the link has it; a certificate that does not fit goes into a message.
const headMost = 4 << 10

// head is what the leader is told of a client.
type head struct {
	flags    byte
	remote   netip.AddrPort // zero: a Unix socket
	listener string
	// With flagTLS.
	version, suite uint16
	serverName     string
	certificate    []byte // DER of the client's own; nil: it has shown none
}

// headOf is what the node of a client knows of it.
func headOf(c *engine.Conn) (h head) {
	h.remote, h.listener = c.Remote(), c.Listener()
	if c.WebSocket() {
		h.flags |= flagWebSocket
	}
	if t := c.TLS(); t != nil {
		h.flags |= flagTLS
		h.version, h.suite, h.serverName = t.Version, t.CipherSuite, t.ServerName
		if len(t.PeerCertificates) > 0 {
			h.certificate = t.PeerCertificates[0].Raw
		}
	}
	return h
}

// append appends the head to dst. after is the certificate if it has to be the first message.
func (h *head) append(dst []byte) (out, after []byte) {
	flags := h.flags
	room := headMost - (2 + 1 + 16 + 2 + 1 + len(h.listener) + 4 + 1 + len(h.serverName) + 4)
	switch {
	case h.certificate == nil:
	case len(h.certificate) <= room:
		flags |= flagCertificate
	default:
		flags |= flagCertAfter
		after = h.certificate
	}
	dst = append(dst, headVersion, flags)
	ip := h.remote.Addr().Unmap().AsSlice()
	dst = append(dst, byte(len(ip)))
	dst = append(dst, ip...)
	dst = binary.LittleEndian.AppendUint16(dst, h.remote.Port())
	dst = appendText(dst, h.listener)
	if flags&flagTLS == 0 {
		return dst, nil
	}
	dst = binary.LittleEndian.AppendUint16(dst, h.version)
	dst = binary.LittleEndian.AppendUint16(dst, h.suite)
	dst = appendText(dst, h.serverName)
	if flags&flagCertificate != 0 {
		dst = append(dst, h.certificate...)
	}
	return dst, after
}

func appendText(dst []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(dst, byte(len(s))), s...)
}

var errHead = errors.New("the head of the tunnel cannot be read")

// decode reads a head. The certificate is a copy.
func (h *head) decode(b []byte) error {
	if len(b) < 3 {
		return errHead
	}
	if b[0] != headVersion {
		return fmt.Errorf("a tunnel's head of version %d, this node reads %d", b[0], headVersion)
	}
	h.flags = b[1]
	ip, b, ok := cutText(b[2:])
	if !ok || len(b) < 2 || h.flags&^flagsKnown != 0 {
		return errHead
	}
	port := binary.LittleEndian.Uint16(b)
	if len(ip) > 0 {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return errHead
		}
		h.remote = netip.AddrPortFrom(addr, port)
	}
	name, b, ok := cutText(b[2:])
	if !ok {
		return errHead
	}
	h.listener = string(name)
	if h.flags&flagTLS == 0 {
		if h.flags&(flagCertificate|flagCertAfter) != 0 || len(b) > 0 {
			return errHead
		}
		return nil
	}
	if len(b) < 4 {
		return errHead
	}
	h.version, h.suite = binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	if name, b, ok = cutText(b[4:]); !ok || h.flags&flagCertificate == 0 != (len(b) == 0) {
		return errHead
	}
	h.serverName = string(name)
	h.certificate = append(h.certificate, b...)
	return nil
}

// cutText takes a text behind its length.
func cutText(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return nil, nil, false
	}
	return b[1 : 1+b[0]], b[1+b[0]:], true
}

// state is the client's TLS session as the leader knows it; nil without one. A certificate that cannot be read is none: nobody is let in by it.
func (h *head) state() *tls.ConnectionState {
	if h.flags&flagTLS == 0 {
		return nil
	}
	s := &tls.ConnectionState{HandshakeComplete: true, Version: h.version, CipherSuite: h.suite, ServerName: h.serverName}
	if cert, err := x509.ParseCertificate(h.certificate); err == nil {
		s.PeerCertificates = []*x509.Certificate{cert}
	}
	return s
}
