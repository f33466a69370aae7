package mqtt

import (
	"bytes"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// judgeWill looks for what makes a will unacceptable whoever sends it.
func judgeWill(w *wire.Will, s *Settings) *failure {
	switch {
	case w.QoS > s.MaxQoS:
		return failWillQoS
	case w.Retain && !s.Retain:
		return failWillRetain
	case s.Topics.CheckName(w.Topic) != nil, bytes.HasPrefix(w.Topic, delayedPrefix):
		return failWillTopic
	case s.ValidatePayload && w.Props.PayloadFormat == 1 && !wire.ValidPayload(w.Payload):
		return failWillPayload
	}
	return nil
}

// judgeWillTopic asks whether this client may publish its will.
func (c *conn) judgeWillTopic(topic []byte) *failure {
	if reserved(topic, c.l.h.settings.Load()) {
		return failWillACL
	}
	if a := c.l.h.authz; a != nil && !a.Authorize(c.identity(), broker.ActionPublish, topic) {
		return failWillACL
	}
	return nil
}

// copyWill gives the core a will of its own.
func copyWill(w *wire.Will) *broker.Will {
	forward, _ := w.Props.Forward(nil)
	will := &broker.Will{
		Topic: bytes.Clone(w.Topic), Payload: bytes.Clone(w.Payload), Props: bytes.Clone(forward),
		QoS: w.QoS, Retain: w.Retain, Delay: time.Duration(w.Delay) * time.Second,
	}
	if w.Props.HasExpiry {
		// The core knows 0 as never; a will that expires at once has as good as no time left.
		will.Expiry = max(time.Duration(w.Props.Expiry)*time.Second, time.Millisecond)
	}
	return will
}

var (
	sysPrefix   = []byte("$SYS/")
	sysRoot     = []byte("$SYS")
	shareMarker = []byte("$share/")
)

// reserved tells whether topic is one that clients do not publish to: the server's own tree, and what would look like a shared
// subscription.
func reserved(topic []byte, s *Settings) bool {
	if len(topic) == 0 || topic[0] != '$' {
		return false
	}
	if bytes.HasPrefix(topic, shareMarker) {
		return true
	}
	return !s.AllowSysPublish && (bytes.HasPrefix(topic, sysPrefix) || bytes.Equal(topic, sysRoot))
}
