package broker

import (
	"encoding/binary"
	"slices"
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

// SharedGroups lists shared groups with numbers above after, in their order, at most max of them. Any goroutine may call it.
func (b *Broker) SharedGroups(after uint64, max int) []SharedGroupState {
	list := b.filters.sharedAfter(after, max)
	for i := range list {
		for _, s := range b.shards {
			s.addLag(&list[i])
		}
	}
	return list
}

// SharedGroup finds a shared group by its name and filter.
func (b *Broker) SharedGroup(tenant uint32, name, filter string) (g SharedGroupState, ok bool) {
	if g, ok = b.filters.shared(tenant, name, filter); ok {
		for _, s := range b.shards {
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

func (t *filterTable) sharedAfter(after uint64, max int) (list []SharedGroupState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var numbers []uint64
	for n, f := range t.byNum {
		if n > after && f.shared && len(f.users) > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers[:min(len(numbers), max)] {
		list = append(list, t.stateLocked(t.byNum[n]))
	}
	return list
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
