package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// lead makes the shard's replica its leader. Its log is what it is; the frame that it begins its epoch with comes behind, and when that is
// committed, so is all before it, and the shard opens.
func (l *Local) lead(s *shard, epoch record.Epoch, others []uint64, least int) error {
	s.mu.Lock()
	r := s.rep
	last := r.lastEpoch()
	s.mu.Unlock()
	if epoch <= last {
		return fmt.Errorf("%w: epoch %d, and %d began before", ErrStaleEpoch, epoch, last)
	}
	if err := l.demote(s, RoleLeader, epoch); err != nil {
		return err
	}
	s.mu.Lock()
	r.peers, r.least = r.peers[:0], least
	for _, n := range others {
		r.peerOf(n).inSync = true
	}
	r.claimLocked(s)
	first := s.markDirtyLocked()
	l.b.advance(s)
	if first {
		l.b.dirtyShard(s)
	}
	return nil
}

// followLeader makes the shard's replica follow. What its log has beyond what it has in common with the leader's is taken back.
func (l *Local) followLeader(s *shard, epoch record.Epoch, history []EpochStart, end uint64) (from uint64, err error) {
	s.mu.Lock()
	r := s.rep
	if r.role == RoleFollower && r.synced && r.epoch == epoch { // an answer of before: what came since is the leader's, too
		defer s.mu.Unlock()
		return s.mu.index + 1, nil
	}
	s.mu.Unlock()
	if err := l.demote(s, RoleFollower, epoch); err != nil {
		return 0, err
	}
	s.mu.Lock()
	last := common(r.epochs, s.mu.index, history, end)
	if last < max(r.hw, s.mu.applied) {
		applied := s.mu.applied
		s.mu.Unlock()
		return 0, fmt.Errorf("%w: shard %d up to %d, in common up to %d", ErrDiverged, s.id, applied, last)
	}
	first := false
	if last < s.mu.index {
		r.takeBackLocked(s, last)
		first = s.markDirtyLocked()
	}
	r.synced = true
	l.b.advance(s)
	if first {
		l.b.dirtyShard(s)
	}
	return last + 1, nil
}

// takeBackLocked has the shard end with a frame. What was to be written is not, what was written is taken back by the log.
func (r *replica) takeBackLocked(s *shard, last uint64) {
	gathered := s.mu.index // or on its way
	keep := 0
	for rest := r.inbound; len(rest) > 0; {
		f, n, err := record.ViewFrame(rest)
		if err != nil {
			break
		}
		if gathered == s.mu.index {
			gathered = f.Index - 1
		}
		if f.Index <= last {
			keep += n
		}
		rest = rest[n:]
	}
	r.inbound = r.inbound[:keep]
	if last < gathered {
		r.truncating, r.truncTo = true, last
		r.gen++
		r.durable = min(r.durable, last)
	}
	r.cutEpochs(last)
	s.mu.index = last
}

// demote ends what the replica was, if it led, and gives it a role. Tables that commands on their way have moved ahead of go back to what was
// applied.
func (l *Local) demote(s *shard, role Role, epoch record.Epoch) error {
	s.mu.Lock()
	r := s.rep
	if epoch < r.epoch || epoch == r.epoch && role == RoleLeader {
		s.mu.Unlock()
		return fmt.Errorf("%w: %d, it is at %d", ErrStaleEpoch, epoch, r.epoch)
	}
	led := r.open
	r.role, r.epoch, r.open, r.synced, r.claim, r.told = role, epoch, false, false, 0, 0
	f := s.mu.fill
	if s.mu.fill = nil; f != nil {
		index := s.mu.index
		s.takeLocked(f)
		s.mu.index = index // nothing of it will be
		s.rollBackBatchesLocked(f)
	}
	if led {
		s.leading.Store(false)
		if s.set == 0 {
			l.b.openShards.Add(-1)
		}
		s.forgetExpectedLocked()
		s.forgetGroupsLocked()
	}
	s.mu.Unlock()
	if f != nil {
		l.fail(s, f, ErrNotLeader)
	}
	l.disownStale(s)
	if led && s.set == 0 {
		l.closeShard(s)
	}
	return nil
}

// forgetExpectedLocked has partitions and producers stand where the tables do.
func (s *shard) forgetExpectedLocked() {
	s.mu.joined = nil
	for _, p := range s.mu.streams {
		p.mu.next = p.HighWatermark()
		if until := p.until.Load(); until > int64(p.mu.next) {
			p.until.Store(int64(p.mu.next))
		}
		for i := range p.mu.producers.rows {
			row := &p.mu.producers.rows[i]
			if row.announced = -1; row.ahead != nil {
				s.dropAheadLocked(row)
			}
		}
	}
}

// openShard begins to lead: all that the log has is applied. What only leaders keep beside the tables is made of them.
func (l *Local) openShard(s *shard) {
	s.mu.Lock()
	s.rep.open = true
	s.leading.Store(true)
	if s.set > 0 {
		s.mu.Unlock()
		return // it has partitions alone, and these are as the tables have them
	}
	all := l.b.openShards.Add(1) == int32(len(l.b.homes))
	s.mu.Unlock()
	if all {
		l.b.dropEnded()
		l.b.dropEndedGroups()
		l.b.takeUpGroups()
	}
	l.reviveGroups(s)
	l.reviveTxns(s)
	l.endAbandoned(s)
}

// endAbandoned ends the sessions that the leader before had connections for: they count as gone since now.
func (l *Local) endAbandoned(s *shard) {
	now := l.b.nowMilli()
	var cmds [][]byte
	s.mu.Lock()
	for id, sess := range s.mu.byID {
		d := sess.d
		if !d.connected || sess.client != nil {
			continue
		}
		willAt := int64(0)
		if sess.will != nil {
			willAt = now + int64(min(sess.will.Delay, d.expiry)/time.Millisecond) + 1
		}
		cmd := appendCommand(nil, cmdDisconnect, id)
		cmd = binary.AppendUvarint(cmd, uint64(d.expiry))
		cmd = binary.AppendUvarint(cmd, uint64(deadlineOf(now, d.expiry)))
		cmd = binary.AppendUvarint(cmd, uint64(willAt))
		f := &feed{position: d.position, restored: d.inflight}
		cmds = append(cmds, f.encode(cmd, true))
	}
	s.mu.Unlock()
	for _, cmd := range cmds {
		_ = l.b.command(s, cmd, entry{}) // not written, another leader does it
	}
}

// closeShard ends what only leaders keep: groups, transactional ids, connections of the shard's sessions.
func (l *Local) closeShard(s *shard) {
	for _, g := range l.groupTable.groups {
		if g.s == s {
			l.abandonGroup(g)
		}
	}
	for key, t := range l.txns {
		if t.s != s {
			continue
		}
		delete(l.txns, key)
		l.timers.remove(&t.expiry)
		if e := t.closing; e != nil {
			t.closing = nil
			e.tell(ErrNotLeader) // whoever leads has the decision
		}
		waiting := t.waiting
		t.waiting = nil
		for _, fn := range waiting {
			fn(ErrNotLeader)
		}
	}
	var clients []*Client
	s.mu.Lock()
	s.mu.sessions.each(func(sess *Session) {
		if sess.client != nil {
			clients = append(clients, sess.client)
		}
	})
	s.mu.Unlock()
	for _, c := range clients {
		c.local.post(post{kind: postKick, c: c, err: ErrNotLeader})
	}
}

// abandonGroup forgets what is not in the tables of a group that another node leads now. Its members look for their coordinator.
func (l *Local) abandonGroup(g *group) {
	for _, m := range g.members {
		l.timers.remove(&m.seen)
		if m.join != nil {
			m.join(JoinResult{Err: ErrNotLeader, MemberID: m.id})
			m.join = nil
		}
		if m.sync != nil {
			m.sync(SyncResult{Err: ErrNotLeader})
			m.sync = nil
		}
	}
	for _, p := range g.pending {
		l.timers.remove(&p.expiry)
	}
	if g.consumer != nil {
		for _, m := range g.consumer.members {
			l.timers.remove(&m.seen)
			l.timers.remove(&m.revoke)
		}
	}
	l.dropGroup(g)
}

// keepReplicated looks after what a failed log has left to be written.
func (l *Local) keepReplicated(s *shard) {
	if s.rep == nil {
		return
	}
	s.mu.Lock()
	first := (s.rep.truncating || len(s.rep.inbound) > 0) && s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
}
