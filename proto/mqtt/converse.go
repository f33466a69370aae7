package mqtt

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// talk is what a connection keeps of its enhanced authentication, as long as it lives: it may be done anew, by the same method.
type talk struct {
	method string
	by     broker.Conversation // nil: none is under way
	busy   bool                // a message of the client is being looked at, off the loop
}

// scramPrefix begins the names of the SASL mechanisms that MQTT offers. The others take what MQTT has as user name and password.
const scramPrefix = "SCRAM-"

// offers says whether a client may come in by an authentication method.
func (h *Handler) offers(method []byte) bool {
	m := string(method)
	return h.sasl != nil && strings.HasPrefix(m, scramPrefix) && slices.Contains(h.sasl.Mechanisms(), m)
}

// talk is the connection's enhanced authentication, nil if its CONNECT named no method.
func (c *conn) talk() *talk {
	if c.extra == nil {
		return nil
	}
	return c.extra.talk
}

// converse begins the authentication that CONNECT asks for. It has the time that verification has, from CONNECT on.
func (c *conn) converse(method, data []byte) {
	c.state = stateVerify
	if timeout := c.l.h.settings.Load().ConnectTimeout; timeout > 0 {
		c.link.SetDeadline(c.l.loop.NowMono() + int64(timeout))
	}
	t := &talk{method: string(method)}
	c.extras().talk = t
	if err := c.begin(t, c.setup.creds, data); err != nil {
		c.broken(wire.CONNECT, err)
	}
}

// onAuth takes what the client says in its authentication, or the beginning of another one. Other packets are taken meanwhile if the client is
// in already.
func (c *conn) onAuth(body []byte) error {
	a, err := wire.DecodeAuth(body)
	if err != nil {
		return err
	}
	t := c.talk()
	switch {
	case t == nil:
		return failAuthPacket
	case string(a.AuthMethod) != t.method:
		return failOtherMethod
	case t.busy || (a.Reason == wire.ReAuthenticate) != (t.by == nil):
		return failAuthOrder
	case t.by != nil:
		c.step(t, a.AuthData)
		return nil
	}
	return c.begin(t, broker.Credentials{ClientID: c.clientID(), Remote: c.link.Remote(), PeerCertificates: c.certificates(),
		Listener: c.link.Listener()}, a.AuthData)
}

// begin begins a conversation. A client that has said nothing yet is asked to.
func (c *conn) begin(t *talk, creds broker.Credentials, data []byte) error {
	if t.by = c.l.h.sasl.Converse(t.method, creds); t.by == nil {
		return failAuthMethod
	}
	if data == nil {
		return c.sendAuth(wire.ContinueAuthentication, t, nil)
	}
	c.step(t, data)
	return nil
}

// step gives a message of the client to the conversation, off the loop: what a client makes a server compute is bounded by the pool.
func (c *conn) step(t *talk, message []byte) {
	t.busy = true
	s := &step{c: c, t: t, by: t.by, message: bytes.Clone(message)}
	if timeout := c.l.h.settings.Load().ConnectTimeout; timeout > 0 {
		s.until = time.Now().Add(timeout)
	}
	if !c.l.h.pools[broker.LaneHere].submit(s) {
		s.err = broker.ErrAuthBusy
		c.stepped(s)
		return
	}
	if c.state == stateVerify {
		c.block(blockConnect)
	}
}

// step is one message on its way through the pool and back to the loop.
type step struct {
	c       *conn
	t       *talk
	by      broker.Conversation
	message []byte
	until   time.Time // zero: the client waits for ever

	answer []byte
	done   bool
	id     broker.Identity
	err    error
}

// work runs on a goroutine of the pool.
func (s *step) work(ctx context.Context) {
	if !s.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, s.until)
		defer cancel()
	}
	if s.err = ctx.Err(); s.err == nil {
		s.answer, s.done, s.err = s.by.Step(ctx, s.message)
	}
	if s.err == nil && s.done {
		s.id = s.by.Identity()
	}
	clear(s.message)
	s.c.l.loop.Post(s)
}

// Run takes the answer on the loop. The connection may be gone by then.
func (s *step) Run(*engine.Loop) {
	c := s.c
	if c.state != stateVerify && c.state != stateUp || c.talk() != s.t {
		return
	}
	c.stepped(s)
	if c.state != stateConnecting {
		c.unblock(blockConnect)
	}
}

// stepped goes on with what came of a message.
func (c *conn) stepped(s *step) {
	s.t.busy = false
	if s.err == nil && !s.done {
		if err := c.sendAuth(wire.ContinueAuthentication, s.t, s.answer); err != nil {
			c.broken(wire.AUTH, err)
		}
		return
	}
	s.t.by = nil
	if errors.Is(s.err, broker.ErrBadCredentials) {
		s.err = broker.ErrNotAuthorized // there was no user name and no password
	}
	if c.state == stateUp {
		c.anew(s)
		return
	}
	c.setup.proof = s.answer
	c.verified(s.id, s.err)
}

// anew takes the outcome of a re-authentication: the client is who it was before, or is ended.
func (c *conn) anew(s *step) {
	err, f := s.err, failNotAuthorized
	if err == nil {
		err = c.recheckNew(&s.id)
	}
	switch {
	case errors.Is(err, broker.ErrBanned):
		f = failBannedNow
	case errors.Is(err, broker.ErrNotAuthorized):
	case err != nil:
		f = failAuthBusy
	case s.id.User != c.who.user || s.id.Tenant != c.who.tenant:
		f = failOtherUser
	default:
		c.vouch(&s.id)
		c.extra.acl = nil
		if err := c.sendAuth(wire.Success, s.t, s.answer); err != nil {
			c.broken(wire.AUTH, err)
		}
		return
	}
	c.broken(wire.AUTH, f)
}

// sendAuth sends an AUTH.
func (c *conn) sendAuth(code wire.ReasonCode, t *talk, data []byte) error {
	a := wire.Auth{Reason: code, AuthMethod: wire.View(t.method), AuthData: data}
	n := wire.SizeAuth(&a)
	if c.maxPacket != 0 && n > int(c.maxPacket) {
		return failAuthLarge
	}
	c.link.Commit(len(wire.AppendAuth(c.link.Reserve(n), &a)))
	c.l.sent(wire.AUTH)
	return nil
}
