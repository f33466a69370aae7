package kafka

import (
	"bytes"
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
	r.c.verify(bytes.Clone(m.SASLAuthBytes), r.ticket(), func(r *request, err error) {
		if err == nil {
			r.respond(resp)
			return
		}
		why := "authentication failed"
		if errors.Is(err, broker.ErrAuthBusy) {
			why = "too many clients are being verified: try again"
		}
		c := r.c
		c.misbehaved("authentication failed", err)
		resp.ErrorCode, resp.ErrorMessage = int16(wire.SASLAuthenticationFailed), &why
		r.respond(resp)
		c.shut(errRefused)
	})
}

// bareToken takes a token without a header: the answer is one too, empty; a client that is refused is closed.
func (c *conn) bareToken(token []byte) {
	c.sasl.bare = false
	r := c.l.newRequest()
	r.c, r.call = c, wire.Call{Key: wire.SASLAuthenticate}
	c.enqueue(r)
	c.verify(bytes.Clone(token), r.ticket(), func(r *request, err error) {
		if err != nil {
			r.c.misbehaved("authentication failed", err)
			r.c.shut(errRefused)
			return
		}
		r.out = wire.AppendFrame(r.out[:0], nil)
		r.finish()
	})
}
