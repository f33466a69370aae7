package broker

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// lateWill is a will whose session is gone or has another connection, and that waits for its turn or for room in a pending list.
type lateWill struct {
	key   sessionKey
	will  *Will
	older *lateWill // of the same client
	sent  bool
}

// lateWills are those of the clients of one shard, the oldest first. Guarded by its lock.
type lateWills struct {
	list  []*lateWill
	by    map[sessionKey]*lateWill
	bytes int
}

// Bounds of the pace of wills.
const (
	willBurst    = 100 * time.Millisecond // of the rate that may come at once
	willPace     = 20 * time.Millisecond  // how often those that wait are looked at
	lateBytesMax = 1 << 20                // of one shard; beyond it the oldest do not wait for their turn
)

// mayWill takes a turn of the rate at which this loop publishes wills. Connections that end together have as many wills, and whoever is subscribed
// to them all would get them at once: more than he can take, and in the way of all other messages.
func (l *Local) mayWill() bool {
	rate := l.b.limits.Load().WillRate
	now := l.b.clock.Mono()
	if l.willNext = max(l.willNext, now-willBurst); l.willNext > now {
		return false
	}
	l.willNext += time.Duration(int64(time.Second) * int64(len(l.b.locals)) / rate)
	return true
}

// giveWill publishes the will of a session whose connection is gone, or has it wait for its turn.
func (l *Local) giveWill(sess *Session, w *Will) {
	if !l.mayWill() || !l.publishWill(sess.key(), w) {
		l.oweWill(sess.shard, sess.key(), w)
	}
}

// oweWill has a will wait in the shard of its client.
func (l *Local) oweWill(s *shard, key sessionKey, w *Will) {
	q := &s.mu.wills
	s.mu.Lock()
	if q.by == nil {
		q.by = make(map[sessionKey]*lateWill)
	}
	late := &lateWill{key: key, will: w, older: q.by[key]}
	q.by[key] = late
	q.list = append(q.list, late)
	q.bytes += w.size()
	full := q.bytes > lateBytesMax
	s.mu.Unlock()
	if full {
		l.publishLate(s, true)
	}
	s.home.startPace()
}

// startPace has the loop look at wills that wait, until there are none. Any goroutine.
func (l *Local) startPace() {
	if !l.pacing.Swap(true) {
		l.Run(l.pace)
	}
}

// pace publishes what the rate allows of the wills that wait.
func (l *Local) pace() {
	l.pacing.Store(false)
	now, more := l.b.nowMilli(), false
	for _, s := range l.b.shards {
		if s.home == l {
			more = l.publishLate(s, false) || more
			more = s.leads() && l.due(s, now) || more
		}
	}
	if more && !l.pacing.Swap(true) {
		l.SetTimer(&l.paceTimer, willPace, l.pace)
	}
}

// publishLate publishes wills of s that wait: as long as the rate allows it, or, over, until they take no more than they may. It says whether
// there are more.
func (l *Local) publishLate(s *shard, over bool) (more bool) {
	q := &s.mu.wills
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(q.list) > 0 {
		late := q.list[0]
		if late.sent {
			q.dropFirst()
			continue
		}
		if over && q.bytes <= lateBytesMax || !over && !l.mayWill() {
			return true
		}
		q.dropFirst()
		q.endLocked(late)
		s.mu.Unlock()
		ok := l.publishWill(late.key, late.will)
		s.mu.Lock()
		if !ok { // behind the others; the pending lists are full
			again := &lateWill{key: late.key, will: late.will, older: q.by[late.key]}
			q.by[late.key] = again
			q.list = append(q.list, again)
			q.bytes += late.will.size()
			return true
		}
	}
	q.list = nil
	return false
}

func (q *lateWills) dropFirst() {
	q.list[0] = nil
	q.list = q.list[1:]
}

// endLocked marks a will as published.
func (q *lateWills) endLocked(late *lateWill) {
	late.sent = true
	q.bytes -= late.will.size()
	if q.by[late.key] == late {
		delete(q.by, late.key) // those before it were there first, and are gone
	}
}

// takeLocked takes the wills of a client that wait, the oldest first.
func (q *lateWills) takeLocked(key sessionKey) (wills []*Will) {
	for late := q.by[key]; late != nil; late = late.older {
		if !late.sent {
			late.sent = true
			q.bytes -= late.will.size()
			wills = append(wills, late.will)
			late.will = nil // its place in the list stays, and is not in q.bytes
		}
	}
	delete(q.by, key)
	slices.Reverse(wills)
	return wills
}

// owedLocked takes the wills of a client that comes back and that are not its to take back: they are published before anything that it does.
// One whose delay has not passed is cancelled by that, as MQTT 5 has it.
func (s *shard) owedLocked(key sessionKey, have *Session, now int64) (wills []*Will) {
	if s.mu.wills.by != nil {
		wills = s.mu.wills.takeLocked(key)
	}
	if have != nil && have.d != nil && have.will != nil && have.d.willAt != 0 && (have.will.Delay == 0 || have.d.willAt <= now) {
		have.d.willAt = 0
		wills = append(wills, have.will)
	}
	return wills
}

// giveOwed publishes what owedLocked has taken, at once.
func (l *Local) giveOwed(s *shard, key sessionKey, wills []*Will) {
	for _, w := range wills {
		if !l.publishWill(key, w) {
			l.oweWill(s, key, w)
		}
	}
}

func (w *Will) size() int { return len(w.Topic) + len(w.Payload) + len(w.Props) + 64 }

// endedWill publishes the will that a session still waits with when it ends before its time.
func (l *Local) endedWill(sess *Session) {
	sess.shard.mu.Lock()
	will := sess.will
	if sess.d.willAt == 0 {
		will = nil
	}
	sess.d.willAt = 0
	sess.shard.mu.Unlock()
	if will != nil && !l.publishWill(sess.key(), will) {
		l.oweWill(sess.shard, sess.key(), will)
	}
}

// publishWill publishes w for a session whose connection is gone. It is taken like any publish of the broker's own. False means that
// it has to be tried again.
func (l *Local) publishWill(key sessionKey, w *Will) bool {
	now := l.b.nowMilli()
	m := Message{Topic: w.Topic, Payload: w.Payload, Props: w.Props, QoS: w.QoS, Retain: w.Retain, Timestamp: now}
	if w.Expiry > 0 {
		m.Deadline = now + int64(w.Expiry/time.Millisecond)
	}
	_, err := l.Publish(nil, &m, false, 0)
	switch {
	case errors.Is(err, ErrBusy):
		return false
	case err != nil:
		l.b.logger.Warn("will not published", "client", key.id, "err", err)
	default:
		l.b.stats.WillsPublished.Add(1)
	}
	return true
}

func (s *shard) applyWillDone(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := s.mu.byID[id]; sess != nil {
		sess.will, sess.d.willAt = nil, 0
		s.mu.rows.session(id)
	}
}

func appendWill(dst []byte, w *Will) []byte {
	if w == nil {
		return append(dst, 0)
	}
	dst = append(dst, 1, w.QoS, byte(boolBit(w.Retain)))
	dst = binary.AppendUvarint(dst, uint64(w.Delay))
	dst = binary.AppendUvarint(dst, uint64(w.Expiry))
	dst = appendBytes(dst, w.Topic)
	dst = appendBytes(dst, w.Payload)
	return appendBytes(dst, w.Props)
}

func (d *decoder) will() *Will {
	if d.uvarint() == 0 || d.bad {
		return nil
	}
	w := &Will{QoS: QoS(d.uvarint()), Retain: d.uvarint() == 1}
	w.Delay, w.Expiry = time.Duration(d.uvarint()), time.Duration(d.uvarint())
	w.Topic = append([]byte(nil), d.bytes()...)
	w.Payload = append([]byte(nil), d.bytes()...)
	w.Props = append([]byte(nil), d.bytes()...)
	return w
}
