package auth

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// ldapStub is a directory server that knows as much of LDAP as the tests need.
type ldapStub struct {
	t     *testing.T
	ln    net.Listener
	tls   *tls.Config       // for StartTLS; nil: refused
	words map[string]string // passwords by DN
	codes map[string]uint16 // what binds of a DN are answered, whatever the password is
	stall chan struct{}     // not nil: nothing is answered until it is closed
	done  chan struct{}     // closed at the end
	find  func(bound, base, filter string) []stubEntry

	mu    sync.Mutex
	conns []net.Conn
	dials int
	binds []string // DNs
}

type stubEntry struct {
	dn    string
	attrs map[string][]string
}

func newLDAPStub(t *testing.T, listen func(net.Listener) net.Listener) *ldapStub {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if listen != nil {
		ln = listen(ln)
	}
	s := &ldapStub{t: t, ln: ln, words: make(map[string]string), done: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.dials++
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		close(s.done)
		_ = ln.Close()
		s.cut()
		wg.Wait()
	})
	return s
}

func (s *ldapStub) setFind(find func(bound, base, filter string) []stubEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.find = find
}

// cut breaks all connections.
func (s *ldapStub) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

func (s *ldapStub) counts() (dials int, binds []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials, append([]string(nil), s.binds...)
}

func (s *ldapStub) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	bound := ""
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		if s.stall != nil {
			select {
			case <-s.stall:
			case <-s.done:
				return
			}
		}
		id, op := p.Children[0].Value.(int64), p.Children[1]
		switch op.Tag {
		case ldap.ApplicationBindRequest:
			dn, word := op.Children[1].Value.(string), op.Children[2].Data.String()
			s.mu.Lock()
			s.binds = append(s.binds, dn)
			right := dn == "" || s.words[dn] == word && word != ""
			s.mu.Unlock()
			code := uint16(ldap.LDAPResultInvalidCredentials)
			if right {
				code, bound = ldap.LDAPResultSuccess, dn
			}
			if c := s.codes[dn]; c != 0 {
				code = c
			}
			s.send(c, id, result(ldap.ApplicationBindResponse, code))
		case ldap.ApplicationSearchRequest:
			filter, err := ldap.DecompileFilter(op.Children[6])
			if err != nil {
				s.t.Error(err)
				return
			}
			s.mu.Lock()
			find := s.find
			s.mu.Unlock()
			entries := find(bound, op.Children[0].Value.(string), filter)
			for i, e := range entries {
				if most := op.Children[3].Value.(int64); most > 0 && int64(i) >= most {
					break
				}
				s.send(c, id, e.packet())
			}
			s.send(c, id, result(ldap.ApplicationSearchResultDone, ldap.LDAPResultSuccess))
		case ldap.ApplicationExtendedRequest:
			if s.tls == nil {
				s.send(c, id, result(ldap.ApplicationExtendedResponse, ldap.LDAPResultProtocolError))
				continue
			}
			s.send(c, id, result(ldap.ApplicationExtendedResponse, ldap.LDAPResultSuccess))
			c = tls.Server(c, s.tls)
		default: // unbind
			return
		}
	}
}

func result(tag ber.Tag, code uint16) *ber.Packet {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(code), ""))
	for range 2 {
		p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
	}
	return p
}

func (e *stubEntry) packet() *ber.Packet {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, e.dn, ""))
	list := ber.NewSequence("")
	for name, values := range e.attrs {
		attr, set := ber.NewSequence(""), ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		attr.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, name, ""))
		for _, v := range values {
			set.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, v, ""))
		}
		attr.AppendChild(set)
		list.AppendChild(attr)
	}
	p.AppendChild(list)
	return p
}

func (s *ldapStub) send(c net.Conn, id int64, op *ber.Packet) {
	p := ber.NewSequence("")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	p.AppendChild(op)
	_, _ = c.Write(p.Bytes()) // the client may be gone
}
