package topics

import (
	"bytes"
	"slices"
)

// Place is how far a way through all entries has come. The zero value is its beginning.
type Place struct {
	Shard, Row uint32
	Subscriber uint32 // of Row's entries, those of lower subscribers are behind
}

// Listed is one entry with its filter.
type Listed struct {
	Tenant        uint32
	Group, Filter []byte // copies, shared by the entries of a row; Group is nil if it is not shared
	Entry         Entry
}

// walkRows is how many rows one call looks at under a lock.
const walkRows = 4096

// List appends up to n entries from at on to dst; end says that there are no more. It looks at a bounded number of rows, so it may give fewer. A
// subscription that is there from the beginning to the end of a way is listed once.
func (x *Index) List(at Place, n int, dst []Listed) (_ []Listed, next Place, end bool) {
	if at.Shard >= shards {
		return dst, at, true
	}
	s := &x.shards[at.Shard]
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := &s.mu.tables
	most := t.last + 1
	for seen := 0; at.Row < most && n > 0 && seen < walkRows; seen++ {
		r := t.row(at.Row)
		if r == nil {
			at.Row, at.Subscriber = at.Row+1, 0
			continue
		}
		entries, more := t.entries.from(r, at.Subscriber, n)
		if len(entries) > 0 {
			group, filter := t.textOf(r)
			for _, e := range entries {
				dst = append(dst, Listed{r.tenant, group, filter, e})
			}
			n -= len(entries)
		}
		if more {
			at.Subscriber = entries[len(entries)-1].Subscriber + 1
			break
		}
		at.Row, at.Subscriber = at.Row+1, 0
	}
	if at.Row >= most {
		at = Place{Shard: at.Shard + 1}
	}
	return dst, at, at.Shard >= shards
}

// textOf gives a row's share name, nil if it has none, and its filter.
func (t *tables) textOf(r *row) (group, filter []byte) {
	if r.shared {
		group = append([]byte{}, t.text.Get(r.group)...)
	}
	if r.node != 0 {
		return group, t.trie.filter(&t.text, r.node, r.multi)
	}
	return group, bytes.Clone(t.text.Get(r.text))
}

// from gives the n entries of r with the lowest subscribers from one on, in their order; more: there are others behind.
func (s *entryStore) from(r *row, first uint32, n int) (list []Entry, more bool) {
	take := func(entries []Entry) {
		for _, e := range entries {
			if e.Subscriber < first {
				continue
			}
			list = append(list, e)
			if len(list) >= 2*n+64 {
				list, more = lowest(list, n), true
			}
		}
	}
	if r.kind != keptChain {
		take(s.flat(r)[:r.n])
	} else {
		for i := r.list; i != 0; {
			b := s.blocks.At(i)
			take(b.entries[:b.n])
			i = b.next
		}
	}
	more = more || len(list) > n
	return lowest(list, n), more
}

func lowest(list []Entry, n int) []Entry {
	slices.SortFunc(list, func(a, b Entry) int {
		if a.Subscriber < b.Subscriber {
			return -1
		}
		return 1
	})
	return list[:min(n, len(list))]
}
