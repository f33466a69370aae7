package mqtt

import (
	"github.com/sluicemq/sluice/internal/rewrite"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// rules are those by which the client's topics are rewritten; nil: none.
func (c *conn) rules(s *Settings) rewrite.Rules {
	if s.Rewrite == nil || c.insider(s) {
		return nil
	}
	return s.Rewrite
}

// rewriteTopic gives the topic that rules put in the place of one that is published to. It is a view that the next one overwrites.
func (c *conn) rewriteTopic(s *Settings, topic []byte) []byte {
	rules := c.rules(s)
	if rules == nil {
		return topic
	}
	out, ok := rules.Apply(c.l.rewrite[:0], topic, rewrite.Publish)
	if !ok {
		return topic
	}
	c.l.rewrite = out
	return out
}

// readFilter takes a filter of a SUBSCRIBE or UNSUBSCRIBE apart, after rules and the listener's prefix have put another one behind its $share/GROUP/ or $exclusive/. full is
// what authorizers are asked about. A client cannot have something else made of a filter that is wrong. The views hold until the packet is
// answered: what a packet has made lies behind each other in l.rewrite.
func (c *conn) readFilter(text []byte, s *Settings) (full []byte, filter wire.Filter, exclusive bool, err error) {
	full, exclusive = cutExclusive(text)
	filter, err = wire.ParseFilter(full)
	if rules := c.rules(s); err == nil && rules != nil {
		full, filter, err = c.rewriteFilter(rules, full, filter)
	}
	if err == nil && c.flags&flagMounted != 0 {
		full, filter, err = c.mountFilter(full, filter)
	}
	return full, filter, exclusive, err
}

func (c *conn) rewriteFilter(rules rewrite.Rules, full []byte, filter wire.Filter) ([]byte, wire.Filter, error) {
	l := c.l
	begin := len(l.rewrite)
	out, ok := rules.Apply(append(l.rewrite, full[:len(full)-len(filter.Topic)]...), filter.Topic, rewrite.Subscribe)
	if !ok {
		return full, filter, nil
	}
	l.rewrite = out
	full = out[begin:len(out):len(out)]
	filter, err := wire.ParseFilter(full)
	return full, filter, err
}
