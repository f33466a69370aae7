package broker

import "encoding/binary"

// A subscription that is lowered to QoS 0 keeps its filter's queue for a while: what lies there was owed before, and the flow must not be
// interrupted. When its session has been sent all, and has acknowledged it, the filter is let go of.

// queued says whether a SUBSCRIBE needs its filter's queue: by its QoS, or because one that it replaces has it. at is the latter's place.
func (n *joiningNames) queued(r *SubscribeRequest, have []durableSubscription, at int) bool {
	if r.QoS > 0 {
		return true
	}
	if r.Group != nil {
		return false
	}
	if at >= 0 && have[at].number != 0 {
		return true
	}
	_, queued := n.has(nil, r.Filter)
	return queued
}

func (s *durableSubscription) lowered() bool {
	return s.number != 0 && s.opts&optQoS == 0 && s.group == ""
}

// lookLowered has the tick look after the session's lowered subscriptions, if it has any.
func (l *Local) lookLowered(f *feed) {
	if f.lowered {
		return
	}
	subs := f.c.sess.d.subscriptions()
	for i := range subs {
		if subs[i].lowered() {
			f.lowered = true
			l.lowered = append(l.lowered, f)
			return
		}
	}
}

// endLowered lets go of the filters that are not needed any more.
func (l *Local) endLowered() {
	again := l.lowered[:0]
	for _, f := range l.lowered {
		f.lowered = false
		if f.c.feed != f || f.c.state != clientConnected {
			continue
		}
		if !f.idle() || !l.dropLowered(f) {
			f.lowered = true
			again = append(again, f)
		}
	}
	clear(l.lowered[len(again):])
	l.lowered = again
}

// idle says whether all that the queues hold was sent and acknowledged, and no subscription is on its way.
func (f *feed) idle() bool {
	for i := range f.shards {
		if f.shards[i].behind {
			return false
		}
	}
	return len(f.c.jobs()) == 0 && f.open == 0 && f.due == 0 && f.fetching == 0 && f.retaining == 0 && f.parked == nil && len(f.waiting) == 0 && len(f.joining) == 0
}

// dropLowered makes it a command. False: the log takes none now.
func (l *Local) dropLowered(f *feed) bool {
	var body []byte
	n := uint64(0)
	subs := f.c.sess.d.subscriptions()
	for i := range subs {
		if s := &subs[i]; s.lowered() {
			plain := durableSubscription{filter: s.filter, opts: s.opts &^ optDurable, id: s.id}
			body = appendSubscriptionRow(body, &plain)
			n++
		}
	}
	cmd := binary.AppendUvarint(appendCommand(nil, cmdSubscribe, f.c.sess.d.id), n)
	return n == 0 || l.b.command(f.c.sess.shard, append(cmd, body...), entry{}) == nil
}
