package kafka

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// SASL mechanisms that are offered.
const mechanismPlain = "PLAIN"

// saslState is how far a client has come in saying who it is.
type saslState struct {
	mechanism string // agreed on
	bare      bool   // version 0 of the handshake: what follows are tokens without a header
}

// greet finds out whether the client may come in as it is: by its certificate, or without credentials.
func (c *conn) greet() {
	id, done, err := c.l.h.authn.Quick(c.credentials())
	if done && err == nil {
		c.id = &id
	}
}

// credentials are what the connection itself says about its client.
func (c *conn) credentials() broker.Credentials {
	cr := broker.Credentials{Listener: c.link.Listener()}
	if a, ok := c.link.RemoteAddr().(*net.TCPAddr); ok && a != nil {
		ap := a.AddrPort()
		cr.Remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	cr.PeerCertificates = c.certificates()
	return cr
}

func (c *conn) certificates() []*x509.Certificate {
	if t := c.link.TLS(); t != nil {
		return t.PeerCertificates
	}
	return nil
}

// admit lets the client in. The user may have been changed, and everybody looked at again, between the answer and now.
func (c *conn) admit(id *broker.Identity) error {
	if h := c.l.h; h.recheck != nil {
		if err := h.recheck.Recheck(id, c.certificates()); err != nil {
			return err
		}
	}
	c.id, c.access = id, nil
	return nil
}

// admitted says whether a request may be served: who has not said who it is may only do so.
func (c *conn) admitted(k wire.APIKey) bool {
	return c.id != nil || k == wire.APIVersions || k == wire.SASLHandshake || k == wire.SASLAuthenticate
}

var (
	errNotAuthenticated = errors.New("a request before authentication")
	errBadToken         = errors.New("SASL token cannot be read")
	errRefused          = errors.New("authentication failed")
)

// plainToken reads a token of PLAIN (RFC 4616): authorization id, user and password, with zero bytes between them.
func plainToken(b []byte) (user string, password []byte, err error) {
	parts := bytes.Split(b, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[0]) > 0 && !bytes.Equal(parts[0], parts[1]) {
		return "", nil, errBadToken
	}
	return string(parts[1]), bytes.Clone(parts[2]), nil
}

// verify asks who the client of a token is, off the loop, and calls done on it. The authenticator bounds how many wait.
func (c *conn) verify(token []byte, t ticket, done func(r *request, err error)) {
	user, password, err := plainToken(token)
	if err != nil {
		t.later(c.l, func(r *request) { done(r, err) })
		return
	}
	cr := c.credentials()
	cr.Username, cr.HasUsername, cr.Password, cr.ClientID = user, true, password, ""
	settle := func(id broker.Identity, err error) {
		clear(password)
		t.later(c.l, func(r *request) {
			if err == nil {
				err = r.c.admit(&id)
			}
			done(r, err)
		})
	}
	if id, known, err := c.l.h.authn.Quick(cr); known {
		settle(id, err)
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
		defer cancel()
		settle(c.l.h.authn.Authenticate(ctx, cr))
	}()
}
