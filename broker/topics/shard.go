package topics

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/alloc"
)

// row is one filter with at least one entry: a cache line.
type row struct {
	mark       uint64
	text       alloc.Handle // of a filter without wildcards; the others are read off the trie
	group      alloc.Handle
	tenant     uint32
	node       uint32 // of the trie, where a filter with wildcards ends; 0: no wildcards
	next, prev uint32 // rows of the same filter; the one that is not shared, if any, comes first
	n          uint32 // entries
	list       uint32 // their block, unless kept inline
	one        [1]Entry
	kind       uint8
	multi      bool // the filter ends in a level # behind node
	shared     bool
	live       bool
}

// shard is a part of the index under one lock.
type shard struct {
	filters atomic.Int64 // rows: whoever matches passes by an empty shard without its lock
	mu      struct {
		sync.RWMutex
		tables
	}
	_ [64]byte // readers of neighbours do not share a cache line
}

// tables are the rows of a shard and the ways to them. A shard of filters without wildcards has no nodes, one of filters with
// wildcards no exact.
type tables struct {
	rows    alloc.Slab[row]
	last    uint32 // no row has a higher number
	text    alloc.Arena
	exact   alloc.Table // (tenant, filter) -> first row
	shared  alloc.Table // (tenant, group, filter) -> row
	entries entryStore
	trie    trie
}

// place is where the rows of one filter hang: in the trie, or in the hash.
type place struct {
	hash  uint64 // of (tenant, filter)
	first uint32 // row
	node  uint32
	multi bool
}

func (t *tables) bytes() int64 {
	return t.rows.Bytes() + t.text.Bytes() + t.exact.Bytes() + t.shared.Bytes() + t.entries.bytes() + t.trie.bytes()
}

// row is the row with a number that may be stale, or nil.
func (t *tables) row(id uint32) *row {
	if id == 0 || id > t.last {
		return nil
	}
	if r := t.rows.At(id); r.live {
		return r
	}
	return nil
}

// find is the place of a filter. If it has no row, first is 0; a filter with wildcards gets its nodes if create says so.
func (t *tables) find(h *hasher, tenant uint32, filter []byte, wild, create bool) place {
	p := place{hash: h.text(tenant, filter)}
	if !wild {
		p.first, _ = t.exact.Lookup(p.hash, func(id uint32) bool {
			r := t.rows.At(id)
			return r.tenant == tenant && bytes.Equal(t.text.Get(r.text), filter)
		})
		return p
	}
	if p.node, p.multi = t.trie.walk(h, &t.text, tenant, filter, create); p.node != 0 {
		p.first = *t.trie.ends(p.node, p.multi)
	}
	return p
}

// rowAt is the row of group at p, or 0.
func (t *tables) rowAt(h *hasher, p *place, tenant uint32, group, filter []byte) uint32 {
	if p.first == 0 {
		return 0
	}
	if group == nil {
		if t.rows.At(p.first).shared {
			return 0
		}
		return p.first
	}
	id, _ := t.shared.Lookup(h.join(p.hash, h.level(group)), func(id uint32) bool {
		r := t.rows.At(id)
		return r.tenant == tenant && r.node == p.node && r.multi == p.multi && bytes.Equal(t.text.Get(r.group), group) &&
			(r.node != 0 || bytes.Equal(t.text.Get(r.text), filter))
	})
	return id
}

// addRow makes the row of group at p.
func (t *tables) addRow(h *hasher, p *place, tenant uint32, group, filter []byte) uint32 {
	id := t.rows.Alloc()
	t.last = max(t.last, id)
	r := t.rows.At(id)
	r.live, r.tenant, r.node, r.multi = true, tenant, p.node, p.multi
	if p.node == 0 {
		r.text = t.text.Alloc(filter)
	}
	if group != nil {
		r.shared = true
		r.group = t.text.Alloc(group)
		t.shared.Insert(h.join(p.hash, h.level(group)), id)
		if p.first != 0 && !t.rows.At(p.first).shared { // behind the one that is not shared
			first := t.rows.At(p.first)
			r.prev, r.next = p.first, first.next
			if r.next != 0 {
				t.rows.At(r.next).prev = id
			}
			first.next = id
			return id
		}
	}
	r.next = p.first
	if r.next != 0 {
		t.rows.At(r.next).prev = id
	}
	t.setFirst(p, id)
	return id
}

// setFirst makes id, or none if it is 0, the first row at p.
func (t *tables) setFirst(p *place, id uint32) {
	switch {
	case p.node != 0:
		*t.trie.ends(p.node, p.multi) = id
	case p.first == 0:
		t.exact.Insert(p.hash, id)
	case id == 0:
		t.exact.Delete(p.hash, p.first)
	default:
		t.exact.Replace(p.hash, p.first, id)
	}
	p.first = id
}

// dropRow removes a row without entries, and what of the trie served it alone.
func (t *tables) dropRow(h *hasher, p *place, id uint32) {
	r := t.rows.At(id)
	if r.next != 0 {
		t.rows.At(r.next).prev = r.prev
	}
	if r.prev != 0 {
		t.rows.At(r.prev).next = r.next
	} else {
		t.setFirst(p, r.next)
	}
	if r.shared {
		t.shared.Delete(h.join(p.hash, h.level(t.text.Get(r.group))), id)
		t.text.Free(r.group)
	}
	t.text.Free(r.text)
	t.entries.drop(r)
	*r = row{}
	t.rows.Free(id)
	if p.node != 0 {
		t.trie.prune(h, &t.text, p.node)
	}
}

// collect appends the rows that hang behind first.
func (t *tables) collect(m *Matches, number uint32, first uint32) {
	for id := first; id != 0; {
		r := t.rows.At(id)
		from := len(m.entries)
		m.entries = t.entries.appendTo(m.entries, r)
		to := len(m.entries)
		// A view stays right when a later append moves the buffer: nothing writes to the old one again.
		m.Filters = append(m.Filters, MatchedFilter{filterID(id, number), r.mark, r.shared, m.entries[from:to:to]})
		id = r.next
	}
}
