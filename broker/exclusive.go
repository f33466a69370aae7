package broker

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrExclusive says that another session has the filter exclusively.
var ErrExclusive = errors.New("broker: filter is another session's exclusively")

// exclusiveTable knows which session has a filter exclusively. It is made of subscriptions, and so of what the log says of those of kept
// sessions: a restart and a follower come to the same table. The zero value is ready.
//
// A filter may have several holders while a log is replayed: shards come one after the other, so its next holder may be seen before the
// last one has left. A SUBSCRIBE is granted when there is nobody else, so what the log ends with is one.
type exclusiveTable struct {
	some atomic.Int64 // filters that somebody holds
	mu   sync.Mutex
	rows map[exclusiveKey][]exclusiveHolder
}

type exclusiveKey struct {
	tenant uint32
	filter string
}

type exclusiveHolder struct {
	sess  *Session
	held  bool // by a subscription
	asked int  // SUBSCRIBEs on their way into the log
}

// reserve takes the filter for a SUBSCRIBE that is on its way into the log, until settle. False: it is another session's.
func (t *exclusiveTable) reserve(sess *Session, filter []byte) bool {
	return t.change(sess, filter, true, func(h *exclusiveHolder) { h.asked++ })
}

// settle ends what reserve began: the subscription holds the filter by now, or there is none.
func (t *exclusiveTable) settle(sess *Session, filter []byte) {
	t.change(sess, filter, false, func(h *exclusiveHolder) { h.asked-- })
}

// take has a subscription hold the filter if it is no other session's.
func (t *exclusiveTable) take(sess *Session, filter []byte) bool {
	return t.change(sess, filter, true, func(h *exclusiveHolder) { h.held = true })
}

// hold has a subscription hold the filter, whoever else does.
func (t *exclusiveTable) hold(sess *Session, filter []byte) {
	t.change(sess, filter, false, func(h *exclusiveHolder) { h.held = true })
}

// release says that no subscription of the session holds the filter any more. It costs nothing where nobody holds any.
func (t *exclusiveTable) release(sess *Session, filter []byte) {
	if t.some.Load() != 0 {
		t.change(sess, filter, false, func(h *exclusiveHolder) { h.held = false })
	}
}

// change makes a change to what the session has of the filter. alone: only if no other session has any of it.
func (t *exclusiveTable) change(sess *Session, filter []byte, alone bool, fn func(h *exclusiveHolder)) bool {
	key := exclusiveKey{sess.tenant, string(filter)}
	t.mu.Lock()
	defer t.mu.Unlock()
	row := t.rows[key]
	at := slices.IndexFunc(row, func(h exclusiveHolder) bool { return h.sess == sess })
	if alone && len(row) > 0 && (at < 0 || len(row) > 1) {
		return false
	}
	h := exclusiveHolder{sess: sess}
	if at >= 0 {
		h = row[at]
		row = slices.Delete(row, at, at+1)
	}
	if fn(&h); h.held || h.asked > 0 {
		row = append(row, h)
	}
	if len(row) == 0 {
		delete(t.rows, key)
	} else {
		if t.rows == nil {
			t.rows = make(map[exclusiveKey][]exclusiveHolder)
		}
		t.rows[key] = row
	}
	t.some.Store(int64(len(t.rows)))
	return true
}

// reserveExclusive takes the filter of a SUBSCRIBE for a kept session, if it asks for that.
func (b *Broker) reserveExclusive(sess *Session, r *SubscribeRequest) error {
	if !r.Exclusive {
		return nil
	}
	if err := b.knowsHolders(); err != nil {
		return err
	}
	if !b.exclusive.reserve(sess, r.Filter) {
		return ErrExclusive
	}
	return nil
}

// takeExclusive is reserveExclusive for a live session, whose subscription is there at once.
func (b *Broker) takeExclusive(sess *Session, r *SubscribeRequest) error {
	if !r.Exclusive {
		return nil
	}
	if err := b.knowsHolders(); err != nil {
		return err
	}
	if !b.exclusive.take(sess, r.Filter) {
		return ErrExclusive
	}
	return nil
}

// knowsHolders says whether all that was acknowledged is applied: a new leader's shards open one by one, and the holder may be in one that
// has not yet.
func (b *Broker) knowsHolders() error {
	if !b.Leading() {
		return ErrNotLeader
	}
	return nil
}

// settleExclusive ends what reserveExclusive began.
func (b *Broker) settleExclusive(sess *Session, jobs []subscribeJob) {
	for i := range jobs {
		if r := &jobs[i].r; r.Exclusive {
			b.exclusive.settle(sess, r.Filter)
		}
	}
}

// noteExclusive has the table follow a durable subscription that was added or replaced.
func (b *Broker) noteExclusive(sess *Session, sub *durableSubscription) {
	switch {
	case sub.group != "":
	case sub.opts&optExclusive != 0:
		b.exclusive.hold(sess, []byte(sub.filter))
	default:
		b.exclusive.release(sess, []byte(sub.filter))
	}
}
