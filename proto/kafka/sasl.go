package kafka

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

const mechanismPlain = "PLAIN"

const (
	// greetingBytesMax bounds the requests of who has not said who it is.
	greetingBytesMax = 512 << 10
	// reauthPause is how long after one re-authentication another one may begin, as with Kafka.
	reauthPause = int64(time.Second)
)

// saslState is how far a client has come in saying who it is.
type saslState struct {
	mechanism string              // agreed on, of the conversation under way; empty: there is none
	bare      bool                // version 0 of the handshake: what follows are tokens without a header
	talk      broker.Conversation // nil for PLAIN
	by        string              // the mechanism by which the client came in; empty: by none
	began     int64               // when it came in, by the loop's clock
	expires   int64               // from when on it has to say anew who it is; 0: never
}

// greet finds out whether the client may come in as it is: by its certificate, or without credentials.
func (c *conn) greet() {
	id, done, err := c.l.h.authn.Quick(c.credentials())
	if !done || err != nil {
		return
	}
	if err := c.enterTenant(&id); err != nil {
		c.misbehaved("too many connections", err)
		c.shutIn(connectThrottleMax, err)
		return
	}
	c.id = &id
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

var (
	errNotAuthenticated = errors.New("a request before authentication")
	errInBetween        = errors.New("a request in the middle of authentication")
	errExpired          = errors.New("the session has expired, and the client has not said anew who it is")
	errBadToken         = errors.New("SASL token cannot be read")
	errRefused          = errors.New("authentication failed")

	errTooManyConnections = errors.New("too many connections of its address")
	errTenantFull         = errors.New("its tenant is at a limit of its connections")
	errOtherUser          = errors.New("the user cannot be changed by re-authentication")
	errMechanism          = errors.New("the SASL mechanism is not offered")
)

// admitted says whether a request may be served: who has not said who it is may only do so, and so may who has to say it anew.
func (c *conn) admitted(k wire.APIKey) error {
	switch {
	case k == wire.SASLHandshake || k == wire.SASLAuthenticate:
		return nil
	case c.sasl.by != "" && c.sasl.mechanism != "":
		return errInBetween
	case k == wire.APIVersions:
		return nil
	case c.id == nil:
		return errNotAuthenticated
	case c.sasl.expires != 0 && c.l.loop.NowMono() >= c.sasl.expires:
		return errExpired
	}
	return nil
}

// mechanisms are those that are offered.
func (h *Handler) mechanisms() (list []string) {
	allowed := h.settings.Load().Mechanisms
	offer := func(m string) {
		if slices.Contains(allowed, m) {
			list = append(list, m)
		}
	}
	offer(mechanismPlain)
	if h.sasl != nil {
		for _, m := range h.sasl.Mechanisms() {
			offer(m)
		}
	}
	return list
}

// converse begins a conversation by a mechanism that is offered.
func (c *conn) converse(mechanism string, bare bool) {
	s := &c.sasl
	s.mechanism, s.bare, s.talk = mechanism, bare, nil
	if mechanism != mechanismPlain {
		s.talk = c.l.h.sasl.Converse(mechanism, c.credentials())
	}
}

// saslStep is what came of a token.
type saslStep struct {
	answer   []byte
	done     bool // the client is in
	lifetime time.Duration
	err      error
}

// token takes a token of the conversation, off the loop, and calls told on it. The authenticator bounds how many wait.
func (c *conn) token(token []byte, t ticket, told func(r *request, s saslStep)) {
	talk := c.sasl.talk
	settle := func(id broker.Identity, s saslStep) {
		t.later(c.l, func(r *request) { told(r, r.c.stepped(&id, s)) })
	}
	if talk == nil {
		c.plain(token, settle)
		return
	}
	token = bytes.Clone(token)
	c.l.h.working.Go(func() {
		ctx, cancel := context.WithTimeout(c.l.h.ctx, verifyTimeout)
		defer cancel()
		answer, done, err := talk.Step(ctx, token)
		clear(token)
		s := saslStep{answer: answer, done: done, err: err}
		if !done {
			settle(broker.Identity{}, s)
			return
		}
		settle(talk.Identity(), s)
	})
}

// plain takes the one token of PLAIN.
func (c *conn) plain(token []byte, settle func(broker.Identity, saslStep)) {
	user, password, err := plainToken(token)
	if err != nil {
		settle(broker.Identity{}, saslStep{err: err})
		return
	}
	cr := c.credentials()
	cr.Username, cr.HasUsername, cr.Password = user, true, password
	cr.PeerCertificates = nil // the name says who it is now, not the certificate
	if id, known, err := c.l.h.authn.Quick(cr); known {
		clear(password)
		settle(id, saslStep{done: err == nil, err: err})
		return
	}
	c.l.h.working.Go(func() {
		ctx, cancel := context.WithTimeout(c.l.h.ctx, verifyTimeout)
		defer cancel()
		id, err := c.l.h.authn.Authenticate(ctx, cr)
		clear(password)
		settle(id, saslStep{done: err == nil, err: err})
	})
}

// plainToken reads a token of PLAIN (RFC 4616): authorization id, user and password, with zero bytes between them.
func plainToken(b []byte) (user string, password []byte, err error) {
	parts := bytes.Split(b, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[0]) > 0 && !bytes.Equal(parts[0], parts[1]) {
		return "", nil, errBadToken
	}
	return string(parts[1]), bytes.Clone(parts[2]), nil
}

// stepped takes the outcome of a token over.
func (c *conn) stepped(id *broker.Identity, s saslStep) saslStep {
	if s.err != nil || !s.done {
		return s
	}
	if s.lifetime, s.err = c.admit(id); s.err != nil {
		return saslStep{err: s.err}
	}
	now := c.l.loop.NowMono()
	c.sasl = saslState{by: c.sasl.mechanism, began: now}
	if s.lifetime > 0 {
		c.sasl.expires = now + int64(s.lifetime)
	}
	return s
}

// admit lets the client in, and says for how long; 0: for ever. The user may have been changed, and everybody looked at again, between the answer
// and now.
func (c *conn) admit(id *broker.Identity) (lifetime time.Duration, err error) {
	h := c.l.h
	if h.recheck != nil {
		if err := h.recheck.Recheck(id, c.certificates()); err != nil {
			return 0, err
		}
	}
	if c.sasl.by != "" && (c.id.User != id.User || c.id.Tenant != id.Tenant) {
		return 0, fmt.Errorf("%w: from %q to %q", errOtherUser, c.id.User, id.User)
	}
	lifetime = h.settings.Load().SessionLifetime
	if id.Expires != 0 {
		left := time.Duration(id.Expires-h.now().UnixMilli()) * time.Millisecond
		if left <= 0 {
			return 0, errExpired
		}
		if lifetime == 0 || left < lifetime {
			lifetime = left
		}
	}
	if err := c.enterTenant(id); err != nil {
		return 0, err
	}
	if c.id != nil && c.id.Tenant != id.Tenant { // it came in without a word before, and was another tenant's
		c.fetches, c.turns = nil, turns{}
	}
	c.id, c.access = id, nil
	return lifetime, nil
}
