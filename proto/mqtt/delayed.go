package mqtt

import (
	"bytes"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

var (
	delayedPrefix = []byte("$delayed/")
	cancelLevel   = []byte("cancel")
)

// delayMost is the longest delay that there can be, in seconds: as with EMQX.
const delayMost = 4294967

// delay is when a message is to be published. The zero one is at once.
type delay struct {
	seconds uint32
	cancel  bool // forget what the client has delayed to the topic
}

// due is when a message is published that comes at now, both in Unix milliseconds.
func (d delay) due(now int64) int64 { return now + int64(d.seconds)*1000 }

// takeDelay takes $delayed/SECONDS/ or $delayed/cancel/ off a message's topic, as EMQX knows the first. What is left is the topic for all that
// comes after. Other topics cost a look at their first byte.
func takeDelay(p *wire.Publish, s *Settings) (d delay, bad *failure) {
	if len(p.Topic) == 0 || p.Topic[0] != '$' {
		return d, nil
	}
	rest, found := bytes.CutPrefix(p.Topic, delayedPrefix)
	if !found {
		return d, nil
	}
	if s.Delayed <= 0 {
		return d, failDelayedOff
	}
	how, topic, found := bytes.Cut(rest, []byte{'/'})
	if !found || len(topic) == 0 || bytes.HasPrefix(topic, delayedPrefix) {
		return d, failDelayed
	}
	if d.cancel = bytes.Equal(how, cancelLevel); !d.cancel {
		if d.seconds, bad = delaySeconds(how, s); bad != nil {
			return d, bad
		}
	}
	p.Topic = topic
	return d, nil
}

func delaySeconds(text []byte, s *Settings) (uint32, *failure) {
	n := uint64(0)
	for _, b := range text {
		if b < '0' || b > '9' {
			return 0, failDelayed
		}
		n = min(n*10+uint64(b-'0'), delayMost+1) // nobody can count past it
	}
	switch {
	case len(text) == 0:
		return 0, failDelayed
	case n > delayMost, time.Duration(n)*time.Second > s.Delayed:
		return 0, failDelayedLong
	}
	return uint32(n), nil
}

// give hands a message to the core: to be published now or later, or to have others forgotten.
func (c *conn) give(m *broker.Message, d delay, dedupe bool, t broker.Token) (broker.Outcome, error) {
	switch {
	case d.cancel:
		return c.l.core.CancelDelayed(c.client, m, dedupe, t)
	case d.seconds > 0:
		return c.l.core.Delay(c.client, m, d.due(m.Timestamp), dedupe, t)
	}
	return c.l.core.Publish(c.client, m, dedupe, t)
}
