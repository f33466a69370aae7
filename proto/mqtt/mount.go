package mqtt

import (
	"bytes"
	"math"
	"strings"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A listener may have a topic prefix, its mountpoint: everything that its clients name lies under it. It is put before a topic once rules have
// rewritten that, so that no rule leads out of it, and before anybody is asked about it: the core, authorizers and traces know full names alone.

// mountSet finds the prefix of a client that was verified; nil: it may come in.
func (c *conn) mountSet(s *Settings, id *broker.Identity) *failure {
	if len(s.Mounts) == 0 {
		return nil
	}
	template := s.Mounts[c.link.Listener()]
	if template == "" {
		return nil
	}
	prefix, ok := expand(template, c.clientID(), id.User)
	if !ok || strings.HasPrefix(prefix, "$") || len(prefix) >= math.MaxUint16 {
		return failMount
	}
	c.extras().mount = prefix
	c.flags |= flagMounted
	return nil
}

// mount is the prefix of a client with flagMounted.
func (c *conn) mount() string {
	if c.extra == nil { // its connection has ended
		return ""
	}
	return c.extra.mount
}

// mountTopic puts the prefix before a topic that is published to. It is a view that the next one overwrites. Topics that begin with $ would come out
// among what wildcards of the listener's other clients match.
func (c *conn) mountTopic(topic []byte) (full []byte, bad *failure) {
	mount := c.mount()
	switch {
	case len(topic) > 0 && topic[0] == '$':
		return topic, failTopicReserved
	case len(mount)+len(topic) > math.MaxUint16:
		return topic, failTopicLimit
	}
	l := c.l
	l.mounted = append(append(l.mounted[:0], mount...), topic...)
	return l.mounted, nil
}

// mountWill puts the prefix before the topic of a will, which is the connection's own.
func (c *conn) mountWill(w *broker.Will) *failure {
	if c.flags&flagMounted == 0 {
		return nil
	}
	full, bad := c.mountTopic(w.Topic)
	if bad != nil || c.l.h.settings.Load().Topics.CheckName(full) != nil {
		return failWillTopic
	}
	w.Topic = bytes.Clone(full)
	return nil
}

// mountFilter puts the prefix before a filter, behind $share/GROUP/ if that is in full. What it makes lies in l.rewrite, as in readFilter.
func (c *conn) mountFilter(full []byte, filter wire.Filter) ([]byte, wire.Filter, error) {
	l, mount := c.l, c.mount()
	if bytes.HasPrefix(filter.Topic, exclusivePrefix) || len(mount)+len(full) > math.MaxUint16 {
		return full, filter, wire.ErrTopicFilter // the first is wrong, and would not look so any more
	}
	begin := len(l.rewrite)
	out := append(l.rewrite, full[:len(full)-len(filter.Topic)]...)
	out = append(append(out, mount...), filter.Topic...)
	l.rewrite = out
	full = out[begin:len(out):len(out)]
	filter, err := wire.ParseFilter(full)
	return full, filter, err
}

// unmounted is the name of a topic for the client; false: it has none, since the topic does not lie under the prefix. That is so for subscriptions
// that its session has brought from another listener.
func (c *conn) unmounted(topic []byte) ([]byte, bool) {
	mount := c.mount()
	if len(topic) <= len(mount) || string(topic[:len(mount)]) != mount {
		return topic, false
	}
	return topic[len(mount):], true
}
