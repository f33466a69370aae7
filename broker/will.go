package broker

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// lateWill is a will whose session is gone or has another connection, and that waits for its turn or for room in a pending list.
type lateWill struct {
	key          sessionKey
	will         *Will     // nil: it was taken
	older, newer *lateWill // of the same client
}

// lateWills are those of the clients of one shard, the oldest first. Guarded by its lock.
type lateWills struct {
	list  []*lateWill
	taken int                      // of the list
	by    map[sessionKey]*lateWill // the newest of each client
	bytes int
}

// Bounds of the pace of wills.
const (
	willBurst     = 100 * time.Millisecond // of the rate that may come at once
	willPace      = 20 * time.Millisecond  // how often those that wait are looked at
	willDebt      = time.Second            // of the rate that wills of clients which come back take ahead
	willShare     = 4                      // one of so many turns is left to those that wait, whoever comes back
	lateBytesMax  = 2 << 20                // of one shard; beyond it the oldest do not wait for their turn
	lateBytesMost = 256 << 20              // of all shards; beyond it wills are dropped: the log has had no room for long
)

// mayWill takes a turn of the rate at which this loop publishes wills. Connections that end together have as many wills, and whoever is subscribed
// to them all would get them at once: more than he can take, and in the way of all other messages.
func (l *Local) mayWill() bool {
	now, turn := l.b.clock.Mono(), l.willTurn()
	l.willLeast = max(l.willLeast, now-willBurst)
	if max(l.willNext, now-willBurst) > now && l.willLeast > now {
		return false
	}
	l.chargeWill()
	l.willLeast = min(l.willLeast, now) + willShare*turn
	return true
}

// willTurn is how long it takes from one turn of this loop to the next.
func (l *Local) willTurn() time.Duration {
	return time.Duration(int64(time.Second) * int64(len(l.b.locals)) / l.b.limits.Load().WillRate)
}

// chargeWill takes a turn for a will, whether there is one or not: those that wait, wait longer.
func (l *Local) chargeWill() {
	now, turn := l.b.clock.Mono(), l.willTurn()
	l.willNext = min(max(l.willNext, now-willBurst)+turn, now+max(willDebt, turn))
}

// giveWill publishes the will of a session whose connection is gone, or has it wait for its turn.
func (l *Local) giveWill(sess *Session, w *Will) {
	if !l.mayWill() || !l.publishWill(sess.key(), w) {
		l.oweWill(sess.shard, sess.key(), w)
	}
}

// oweWill has a will wait in the shard of its client, or drops it if too much waits.
func (l *Local) oweWill(s *shard, key sessionKey, w *Will) {
	if waiting, size := &l.b.stats.WillsWaiting, int64(w.size(key)); waiting.Add(size) > lateBytesMost {
		waiting.Add(-size)
		l.b.stats.WillsDropped.Add(1)
		l.dropped.warn(l, "will not published: too many wait", key, nil)
		return
	}
	s.mu.Lock()
	s.mu.wills.addLocked(key, w)
	full := s.mu.wills.bytes > lateBytesMax
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
	n := len(l.b.homes)
	l.paceFrom++ // turns go round: who fills one shard is not in the way of the others
	for i := range n {
		if s := l.b.homes[(l.paceFrom+i)%n]; s.home == l {
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
	for q.skipLocked(); len(q.list) > 0; q.skipLocked() {
		if over && q.bytes <= lateBytesMax || !over && !l.mayWill() {
			return true
		}
		key := q.list[0].key
		will := q.takeLocked(q.list[0])
		s.mu.Unlock()
		ok := l.publishWill(key, will)
		s.mu.Lock()
		if !ok { // behind the others; the pending lists are full
			q.addLocked(key, will)
			return true
		}
		l.b.stats.WillsWaiting.Add(-int64(will.size(key)))
	}
	return false
}

// addLocked has a will wait behind all others. What it takes was counted.
func (q *lateWills) addLocked(key sessionKey, w *Will) {
	if q.by == nil {
		q.by = make(map[sessionKey]*lateWill)
	}
	late := &lateWill{key: key, will: w, older: q.by[key]}
	if late.older != nil {
		late.older.newer = late
	}
	q.by[key] = late
	q.list = append(q.list, late)
	q.bytes += w.size(key)
}

// takeLocked takes a will out. Its place in the list stays until it is the first, or most are such.
func (q *lateWills) takeLocked(late *lateWill) *Will {
	w, older, newer := late.will, late.older, late.newer
	q.bytes -= w.size(late.key)
	if older != nil {
		older.newer = newer
	}
	switch {
	case newer != nil:
		newer.older = older
	case older != nil:
		q.by[late.key] = older
	default:
		delete(q.by, late.key)
	}
	*late = lateWill{}
	if q.taken++; q.taken > 64 && q.taken > len(q.list)/2 {
		q.list = slices.DeleteFunc(q.list, func(l *lateWill) bool { return l.will == nil })
		q.taken = 0
	}
	return w
}

// skipLocked has the list begin with a will.
func (q *lateWills) skipLocked() {
	n := 0
	for n < len(q.list) && q.list[n].will == nil {
		q.list[n] = nil
		n++
	}
	q.taken -= n
	if q.list = q.list[n:]; len(q.list) == 0 {
		q.list = nil
	}
}

// takeAllLocked takes the wills of a client that wait, the oldest first.
func (q *lateWills) takeAllLocked(key sessionKey) (wills []*Will) {
	for late := q.by[key]; late != nil; late = q.by[key] {
		wills = append(wills, q.takeLocked(late))
	}
	slices.Reverse(wills)
	return wills
}

// owedLocked takes the wills of a client that comes back and that are not its to take back: they are published before anything that it does.
// One whose delay has not passed is cancelled by that, as MQTT 5 has it.
func (s *shard) owedLocked(key sessionKey, have *Session, now int64) (wills []*Will) {
	wills = s.mu.wills.takeAllLocked(key)
	for _, w := range wills {
		s.home.b.stats.WillsWaiting.Add(-int64(w.size(key)))
	}
	if have != nil && have.d != nil && have.will != nil && have.d.willAt != 0 && (have.will.Delay == 0 || have.d.willAt <= now) {
		have.d.willAt = 0
		wills = append(wills, have.will)
	}
	return wills
}

// giveOwed publishes what owedLocked has taken, at once: a client that is connected again must not be told gone behind what it says. The turns are those of wills that wait.
func (l *Local) giveOwed(s *shard, key sessionKey, wills []*Will) {
	for _, w := range wills {
		l.chargeWill()
		if !l.publishWill(key, w) {
			l.oweWill(s, key, w)
		}
	}
}

// size is about what a will takes in memory that waits, with its place.
func (w *Will) size(key sessionKey) int {
	return len(w.Topic) + len(w.Payload) + len(w.Props) + len(key.id) + 360
}

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

// publishWill publishes w for a session whose connection is gone. It is taken like any publish of the broker's own, in the tenant of the session. False means that
// it has to be tried again.
func (l *Local) publishWill(key sessionKey, w *Will) bool {
	now := l.b.nowMilli()
	m := Message{Topic: w.Topic, Payload: w.Payload, Props: w.Props, QoS: w.QoS, Retain: w.Retain, Timestamp: now}
	if w.Expiry > 0 {
		m.Deadline = now + int64(w.Expiry/time.Millisecond)
	}
	_, err := l.publish(nil, key.tenant, &m, false, 0)
	switch {
	case errors.Is(err, ErrBusy):
		return false
	case err != nil:
		l.b.stats.WillsDropped.Add(1)
		l.dropped.warn(l, "will not published", key, err)
	default:
		l.b.stats.WillsPublished.Add(1)
	}
	return true
}

// seldom has what may happen to thousands at once said once a second. A loop's.
type seldom struct {
	next time.Duration
	more int64
}

func (o *seldom) warn(l *Local, what string, key sessionKey, err error) {
	now := l.b.clock.Mono()
	if now < o.next {
		o.more++
		return
	}
	l.b.logger.Warn(what, "client", key.id, "err", err, "others", o.more) //nolint:sloglint // literals of the callers
	o.next, o.more = now+time.Second, 0
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
