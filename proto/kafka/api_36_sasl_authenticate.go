package kafka

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// saslAuthenticate takes a token of the mechanism agreed on. A client that is refused is told so, then its connection ends.
func saslAuthenticate(r *request, m *kmsg.SASLAuthenticateRequest) {
	resp := m.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	resp.SASLAuthBytes = []byte{}
	if r.c.sasl.mechanism == "" {
		why := "SaslHandshake comes first"
		resp.ErrorCode, resp.ErrorMessage = int16(wire.IllegalSASLState), &why
		r.respond(resp)
		return
	}
	r.c.token(m.SASLAuthBytes, r.ticket(), func(r *request, s saslStep) {
		if s.err == nil {
			if s.answer != nil {
				resp.SASLAuthBytes = s.answer
			}
			resp.SessionLifetimeMillis = s.lifetime.Milliseconds()
			r.respond(resp)
			return
		}
		why := whyRefused(s.err)
		c := r.c
		c.misbehaved("authentication failed", s.err)
		if errors.Is(s.err, errTenantFull) {
			c.shutIn(connectThrottleMax, s.err)
			return
		}
		resp.ErrorCode, resp.ErrorMessage = int16(wire.SASLAuthenticationFailed), &why
		r.respond(resp)
		c.shut(errRefused)
	})
}

// whyRefused is what a client is told: nothing of who is there and who is not.
func whyRefused(err error) string {
	switch {
	case errors.Is(err, broker.ErrAuthBusy):
		return "too many clients are being verified: try again"
	case errors.Is(err, broker.ErrBanned):
		return "banned"
	case errors.Is(err, errOtherUser):
		return errOtherUser.Error()
	}
	return "authentication failed"
}

// bareToken takes a token without a header: the answer is one too; a client that is refused is closed.
func (c *conn) bareToken(token []byte) {
	r := c.l.newRequest()
	r.c, r.call = c, wire.Call{Key: wire.SASLAuthenticate}
	c.enqueue(r)
	c.token(token, r.ticket(), func(r *request, s saslStep) {
		if s.err != nil {
			r.c.misbehaved("authentication failed", s.err)
			if errors.Is(s.err, errTenantFull) {
				r.c.shutIn(connectThrottleMax, s.err)
				return
			}
			r.c.shut(errRefused)
			return
		}
		r.out = wire.AppendFrame(r.buffer(), s.answer)
		r.finish()
	})
}
