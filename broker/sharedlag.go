package broker

import (
	"encoding/binary"
	"strings"
)

// SharedGroupState is how a shared subscription stands for which messages are kept: one that a kept session is a member of.
type SharedGroupState struct {
	Number       uint64 // of its filter, for good
	Tenant       uint32
	Name, Filter string // of $share/NAME/FILTER
	Members      int    // connected or not
	Lag          int64  // messages that no member has finished
	Out          int64  // of these, those that members have
	// Oldest is when the first of the lag came, in Unix milliseconds; 0: there is none. It may be that of one up to 511 messages earlier in a
	// queue, which is finished.
	Oldest int64
}

// SharedGroups gives the shared groups among the next n rows from at on, and where the rest begins; end: that was all. A group that is there
// all the time from a way's beginning to its end is seen once. Any goroutine may call it.
func (b *Broker) SharedGroups(at, n int) (list []SharedGroupState, next int, end bool) {
	list, next, end = b.filters.sharedRows(at, n)
	for i := range list {
		for _, s := range b.homes {
			s.addLag(&list[i])
		}
	}
	return list, next, end
}

// SharedGroup finds a shared group by its name and filter.
func (b *Broker) SharedGroup(tenant uint32, name, filter string) (g SharedGroupState, ok bool) {
	if g, ok = b.filters.shared(tenant, name, filter); ok {
		for _, s := range b.homes {
			s.addLag(&g)
		}
	}
	return g, ok
}

// addLag adds what a group has yet to do in the shard.
func (s *shard) addLag(g *SharedGroupState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, at := s.mu.queues[g.Number], s.mu.groups[g.Number]
	if q == nil {
		return
	}
	cursor, position := uint64(0), uint64(0)
	if at != nil {
		cursor, position = at.cursor, at.position
		g.Lag += int64(len(at.out) + len(at.again))
		g.Out += int64(len(at.out))
	}
	waiting, _ := q.backlog(cursor)
	g.Lag += waiting
	if at != nil && waiting == 0 && len(at.out)+len(at.again) == 0 {
		return
	}
	for _, bl := range q.blocks {
		if bl.last > position {
			if g.Oldest == 0 || bl.since < g.Oldest {
				g.Oldest = bl.since
			}
			return
		}
	}
}

func (t *filterTable) sharedRows(at, n int) (list []SharedGroupState, next int, end bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at < 0 || at >= len(t.rows) {
		return nil, 0, true
	}
	next = min(at+n, len(t.rows))
	for _, f := range t.rows[at:next] {
		if f != nil && len(f.users) > 0 {
			list = append(list, t.stateLocked(f))
		}
	}
	return list, next, next == len(t.rows)
}

func (t *filterTable) shared(tenant uint32, name, filter string) (SharedGroupState, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byText[filterText(tenant, name, filter)]
	if f == nil || !f.shared || len(f.users) == 0 {
		return SharedGroupState{}, false
	}
	return t.stateLocked(f), true
}

func (t *filterTable) stateLocked(f *durableFilter) SharedGroupState {
	name, filter, _ := strings.Cut(f.text[4:], "\x00")
	return SharedGroupState{Number: f.number, Tenant: binary.BigEndian.Uint32([]byte(f.text[:4])), Name: name, Filter: filter, Members: len(t.groups[f.id])}
}
