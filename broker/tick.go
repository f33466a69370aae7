package broker

import (
	"container/heap"
	"math"
	"slices"
	"time"

	"github.com/sluicemq/sluice/internal/events"
)

// expiredFollowed is for how long a node that follows keeps retained messages that have expired by its own clock.
const expiredFollowed = 24 * time.Hour

// Tick is the loop's slow work: progress of sessions into the journal, sessions and wills whose time has come, queues that
// nobody needs any more. The server calls it about once a second.
func (l *Local) Tick() {
	l.journalProgress()
	for _, c := range l.failedFeeds {
		l.later(c)
	}
	l.failedFeeds = nil
	l.endLowered()
	now := l.b.nowMilli()
	lim, waits := l.b.limits.Load(), false
	for _, s := range l.b.shards {
		if s.home != l {
			continue
		}
		l.keepReplicated(s)
		leads := s.leads()
		if s.set > 0 {
			l.sweepStreams(s, &lim.Stream, now, leads)
			continue
		}
		waits = l.publishLate(s, false) || waits
		l.sweepStreams(s, &lim.Stream, now, leads)
		if leads {
			waits = l.due(s, now) || waits
			l.publishDelayed(s, now)
			l.groupProgress(s)
			if l.b.Leading() { // else the reader of a queue may be in a shard that is not up yet
				l.trim(s, lim, now)
			}
			l.collectGrown(s, lim)
			l.sweepRelays(s)
		} else {
			l.trimFollowed(s)
			s.passTimers(now)
		}
	}
	if waits {
		l.startPace()
	}
	l.limit(lim, now)
	l.sweepGroups(now)
	l.sweepTxns(now)
	if l.id == 0 {
		expired := now
		if !l.b.homes[0].leads() { // a follower's clock may be ahead, and it may lead tomorrow
			expired -= expiredFollowed.Milliseconds()
		}
		l.expireRetained(expired)
		l.passGhosts()
		if l.b.behindGroups.Load() > 0 {
			l.b.drainGroups()
		}
	}
}

// journalProgress makes the progress of this loop's sessions commands.
func (l *Local) journalProgress() {
	again := l.changed[:0]
	for i, f := range l.changed {
		l.changed[i] = nil
		f.listed = false
		if f.c.feed != f {
			continue
		}
		l.journalKept(f)
		if !f.changed {
			continue
		}
		f.restored = slices.DeleteFunc(f.restored, func(e outEntry) bool {
			return e.state == outDone && e.seq <= seqOf(f.position, e.shard)
		})
		if l.journalPosition(f) {
			f.changed, f.rowGrants = false, 0
			continue
		}
		f.listed = true
		again = append(again, f)
	}
	l.changed = again
}

// timer is when a durable session wants to be looked at.
type timer struct {
	at int64
	id uint64
}

type timers []timer

// Len, Less, Swap, Push and Pop are heap.Interface.
func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	return t[i].at < t[j].at || t[i].at == t[j].at && t[i].id < t[j].id
}
func (t timers) Swap(i, j int) { t[i], t[j] = t[j], t[i] }

// Push adds a timer.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop removes the last.
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}

// armLocked sees to it that the session is looked at when its will is due and when it expires. A timer that is set already and comes
// first is enough: it sets the next one. So a session that comes and goes has one timer, not one for each time.
func (s *shard) armLocked(d *durable) {
	at := int64(math.MaxInt64)
	for _, t := range [2]int64{d.deadline, d.willAt} {
		if t != 0 {
			at = min(at, t)
		}
	}
	s.armAtLocked(d, at)
}

func (s *shard) armAtLocked(d *durable, at int64) {
	if at == math.MaxInt64 || d.armed != 0 && d.armed <= at {
		return
	}
	d.armed = at
	heap.Push(&s.mu.timers, timer{at, d.id})
}

// passTimersTurn is how many timers one tick passes over where a shard is followed.
const passTimersTurn = 4096

// passTimers passes over timers of sessions that are gone, or have moved theirs, in a shard that is followed. Those that are due it leaves to the leader.
func (s *shard) passTimers(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range passTimersTurn {
		if len(s.mu.timers) == 0 || s.mu.timers[0].at > now {
			return
		}
		t := s.mu.timers[0]
		sess := s.mu.byID[t.id]
		if sess == nil || sess.d.armed != t.at {
			heap.Pop(&s.mu.timers)
			continue
		}
		for _, at := range [2]int64{sess.d.deadline, sess.d.willAt} {
			if at != 0 && at <= now {
				return
			}
		}
		heap.Pop(&s.mu.timers)
		sess.d.armed = 0
		s.armLocked(sess.d)
	}
}

// retryAfter is when something is tried again for which the log had no room, in milliseconds.
const retryAfter = 1000

// due ends sessions and publishes wills whose time has come. more: wills wait for their turn, in a list of their own, so that sessions which have none end in time. The
// commands that do it are the owner's: apply reads no clock.
func (l *Local) due(s *shard, now int64) (more bool) {
	for l.dueWilling(s, now) {
	}
	for {
		s.mu.Lock()
		if len(s.mu.timers) == 0 || s.mu.timers[0].at > now {
			more = len(s.mu.willing) > 0
			s.mu.Unlock()
			return more
		}
		t := heap.Pop(&s.mu.timers).(timer)
		sess := s.mu.byID[t.id]
		if sess == nil || sess.d.armed != t.at {
			s.mu.Unlock()
			continue
		}
		sess.d.armed = 0
		switch {
		case !sess.idleLocked() || sess.d.willing:
			s.mu.Unlock()
		case sess.willDueLocked(now) && (len(s.mu.willing) > 0 || !l.mayWill()):
			sess.d.willing = true
			s.mu.willing = append(s.mu.willing, t.id)
			s.mu.Unlock()
		default:
			l.endDueLocked(s, sess, now)
		}
	}
}

// dueWilling publishes the will of the session that has waited longest for its turn. False: it has to go on waiting, or there is none.
func (l *Local) dueWilling(s *shard, now int64) bool {
	s.mu.Lock()
	q := s.mu.willing
	if len(q) == 0 {
		s.mu.Unlock()
		return false
	}
	sess := s.mu.byID[q[0]]
	wants := sess != nil && sess.idleLocked() && sess.willDueLocked(now)
	if wants && !l.mayWill() {
		s.mu.Unlock()
		return false
	}
	if s.mu.willing = q[1:]; len(q) == 1 {
		s.mu.willing = nil
	}
	if sess != nil {
		sess.d.willing = false
	}
	switch {
	case wants:
		l.endDueLocked(s, sess, now)
		return true
	case sess != nil: // its client was here meanwhile
		s.restLocked(sess)
	}
	s.mu.Unlock()
	return true
}

// idleLocked says that a kept session is nobody's, and is not ending.
func (sess *Session) idleLocked() bool {
	return !sess.d.connected && !sess.d.ending && sess.client == nil && sess.next == nil
}

func (sess *Session) willDueLocked(now int64) bool {
	return sess.will != nil && sess.d.willAt != 0 && sess.d.willAt <= now
}

// endDueLocked does what a session's timer is for; a will has its turn. It lets go of the shard's lock.
func (l *Local) endDueLocked(s *shard, sess *Session, now int64) {
	d, will := sess.d, sess.will
	if !sess.willDueLocked(now) {
		will = nil
	}
	expired := d.deadline != 0 && d.deadline <= now
	d.ending = expired
	switch {
	case expired:
	case will == nil:
		s.armLocked(d)
	case d.deadline != 0:
		s.armAtLocked(d, d.deadline)
	}
	s.mu.Unlock()
	again := func(error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		d.ending = false
		s.armAtLocked(d, now+retryAfter)
	}
	if will != nil && !l.publishWill(sess.key(), will) { // the list is full; the session keeps the will meanwhile
		again(nil)
		return
	}
	switch {
	case expired:
		l.b.stats.SessionsExpired.Add(1)
		if err := l.b.command(s, appendCommand(nil, cmdRemove, d.id), entry{done: func() { l.b.sessionGone(sess, events.SessionEnded, "it has expired") }, failed: again}); err != nil {
			again(err)
		}
	case will != nil:
		// Not written, the will comes again after a restart: once too often is better than never.
		_ = l.b.command(s, appendCommand(nil, cmdWillDone, d.id), entry{})
	}
}

// groupProgress journals how far shared groups have come.
func (l *Local) groupProgress(s *shard) {
	var cmd []byte
	s.mu.Lock()
	for _, g := range s.mu.groups {
		if g.changed {
			g.changed = false
			m := g.mark()
			cmd = appendBytes(cmd, m.encode(appendCommand(nil, cmdGroup, g.number)))
		}
	}
	s.mu.Unlock()
	for d := (decoder{b: cmd}); len(d.b) > 0; {
		if l.b.command(s, d.bytes(), entry{}) != nil {
			return
		}
	}
}
