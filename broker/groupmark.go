package broker

import (
	"encoding/binary"
	"math"
	"slices"
)

// mark is the group's place as the next mark has it.
func (g *groupQueue) mark() groupMark {
	m := groupMark{cursor: g.cursor, open: append([]uint64(nil), g.again...)}
	for seq := range g.out {
		m.open = append(m.open, seq)
	}
	slices.Sort(m.open)
	return m
}

// groupMark is how far a shared group has come: all at or below cursor is finished, but what is open. What is finished at QoS 2 was
// promised to somebody, or is done.
type groupMark struct {
	cursor uint64
	open   []uint64 // ascending
}

// finished is up to where all is.
func (m *groupMark) finished() uint64 {
	if len(m.open) > 0 {
		return min(m.cursor, m.open[0]-1)
	}
	return m.cursor
}

// join takes in a later mark of the group itself. It may have been made before a promise that came first: what is finished stays so.
func (m *groupMark) join(n groupMark) {
	open := slices.DeleteFunc(n.open, func(seq uint64) bool {
		_, found := slices.BinarySearch(m.open, seq)
		return seq <= m.cursor && !found
	})
	for _, seq := range m.open {
		if seq > n.cursor {
			open = append(open, seq)
		}
	}
	slices.Sort(open)
	m.cursor, m.open = max(m.cursor, n.cursor), slices.Compact(open)
}

// reopen takes back that a message is finished.
func (m *groupMark) reopen(seq uint64) {
	if at, found := slices.BinarySearch(m.open, seq); !found && seq > 0 && seq <= m.cursor {
		m.open = slices.Insert(m.open, at, seq)
	}
}

func (m *groupMark) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, m.cursor)
	dst = binary.AppendUvarint(dst, uint64(len(m.open)))
	last := uint64(0)
	for _, seq := range m.open {
		dst = binary.AppendUvarint(dst, seq-last)
		last = seq
	}
	return dst
}

func (d *decoder) groupMark() groupMark {
	m := groupMark{cursor: d.uvarint()}
	if len(d.b) == 0 {
		return m
	}
	last := uint64(0)
	for n := d.count(); n > 0; n-- {
		step := d.uvarint()
		if step == 0 || last+step < last {
			d.bad = true
			return groupMark{}
		}
		last += step
		m.open = append(m.open, last)
	}
	return m
}

// savedGroupLocked gives a group to apply commands to. One that has ended by then leaves nothing behind; where the shard is followed, it is not known whether it has.
func (s *shard) savedGroupLocked(b *Broker, number uint64) *groupQueue {
	if s.mu.groups[number] == nil && !b.recovering && s.leadsLocked() {
		return nil
	}
	s.mu.rows.group(number)
	return s.groupLocked(number)
}

// begunLocked notes that a message of a group is its member's own. What the group handed out before it stays open.
func (s *shard) begunLocked(b *Broker, number, seq uint64) {
	g := s.savedGroupLocked(b, number)
	if g == nil {
		return
	}
	m := &g.saved
	if seq <= m.cursor {
		if at, found := slices.BinarySearch(m.open, seq); found {
			m.open = slices.Delete(m.open, at, at+1)
		}
		return
	}
	if q := s.mu.queues[number]; q != nil {
		m.open = q.between(m.open, m.cursor, seq, math.MaxInt)
	}
	m.cursor = seq
}

// applyGroup keeps how far a group has come.
func (s *shard) applyGroup(b *Broker, d *decoder) {
	number := d.uvarint()
	m := d.groupMark()
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.savedGroupLocked(b, number); g != nil && !d.bad {
		g.saved.join(m)
	}
}

// recoveredLocked has a group go on from its mark: what is open is handed out anew.
func (g *groupQueue) recoveredLocked() {
	g.cursor, g.again = g.saved.cursor, slices.Clone(g.saved.open)
	g.position = 0
	g.advance()
	g.changed = false
}

// handsOutLocked says whether shared groups hand out what comes: not before a new leader knows them all, and where each of them has come to.
func (s *shard) handsOutLocked() bool { return s.rep == nil || s.mu.handsOut }

// forgetGroupsLocked leaves of shared groups, and of promises, what the log says: another node hands out what is open.
func (s *shard) forgetGroupsLocked() {
	s.mu.handsOut = false
	for _, list := range s.mu.promised { // another node may send it first
		for i := range list {
			list[i].fresh = false
		}
	}
	for _, g := range s.mu.groups {
		clear(g.out)
		g.recoveredLocked()
		if g.behind {
			g.behind = false
			s.home.b.behindGroups.Add(-1)
		}
	}
}

// takeUpGroups has the shared groups of all shards go on from their marks, and those of which nothing was handed out yet begin. The node leads all home shards.
func (b *Broker) takeUpGroups() {
	shared := b.filters.sharedNumbers()
	for _, s := range b.homes {
		s.mu.Lock()
		if s.leadsLocked() && !s.mu.handsOut {
			s.forgetGroupsLocked()
			s.mu.handsOut = true
			for _, n := range shared {
				if s.mu.queues[n] != nil {
					s.groupLocked(n)
				}
			}
			for _, g := range s.mu.groups {
				g.behind = true
				b.behindGroups.Add(1)
			}
		}
		s.mu.Unlock()
	}
	b.drainGroups()
}
