package topics

import "github.com/sluicemq/sluice/alloc"

// The entries of a row lie where their number says: the first in the row itself, a few in a small block, more in a chain of big
// blocks, where a hash finds a subscriber's. Going back to a smaller kind waits until half of it stays free, so that one
// subscriber who comes and goes does not move the others each time.
const (
	keptInline = iota
	keptFew
	keptMany
	keptChain

	fewEntries   = 4
	manyEntries  = 16
	blockEntries = 64
	blockShift   = 6 // a place is block<<blockShift | index
)

// entryBlock is a part of the chain of a row. Only the first block of a chain may have room.
type entryBlock struct {
	row     uint32
	next    uint32
	n       uint32
	entries [blockEntries]Entry
}

// entryStore holds the entries of a shard's rows that do not fit into the rows.
type entryStore struct {
	few    alloc.Slab[[fewEntries]Entry]
	many   alloc.Slab[[manyEntries]Entry]
	blocks alloc.Slab[entryBlock]
	places alloc.Table // (row, subscriber) -> place, for chains
}

func (s *entryStore) bytes() int64 {
	return s.few.Bytes() + s.many.Bytes() + s.blocks.Bytes() + s.places.Bytes()
}

// flat is the array of a row that is no chain; r.n of its entries are in use.
func (s *entryStore) flat(r *row) []Entry {
	switch r.kind {
	case keptInline:
		return r.one[:]
	case keptFew:
		return s.few.At(r.list)[:]
	default:
		return s.many.At(r.list)[:]
	}
}

func (h *hasher) entry(id, subscriber uint32) uint64 {
	return mix(h.salt ^ uint64(id)<<32 ^ uint64(subscriber))
}

// place finds a subscriber in a chain, or 0.
func (s *entryStore) place(h *hasher, id, subscriber uint32) uint32 {
	p, _ := s.places.Lookup(h.entry(id, subscriber), func(p uint32) bool {
		b := s.blocks.At(p >> blockShift)
		return b.row == id && b.entries[p%blockEntries].Subscriber == subscriber
	})
	return p
}

// find is the entry of subscriber, or nil.
func (s *entryStore) find(h *hasher, id uint32, r *row, subscriber uint32) *Entry {
	if r.kind == keptChain {
		p := s.place(h, id, subscriber)
		if p == 0 {
			return nil
		}
		return &s.blocks.At(p >> blockShift).entries[p%blockEntries]
	}
	list := s.flat(r)[:r.n]
	for i := range list {
		if list[i].Subscriber == subscriber {
			return &list[i]
		}
	}
	return nil
}

// add takes in e, whose subscriber has no entry.
func (s *entryStore) add(h *hasher, id uint32, r *row, e Entry) {
	if r.kind != keptChain {
		list := s.flat(r)
		if int(r.n) < len(list) {
			list[r.n] = e
			r.n++
			return
		}
		s.keep(h, id, r, r.kind+1)
		if r.kind != keptChain {
			s.flat(r)[r.n] = e
			r.n++
			return
		}
	}
	s.push(h, id, r, e)
}

// push puts e into the first block of the chain.
func (s *entryStore) push(h *hasher, id uint32, r *row, e Entry) {
	if r.list == 0 || s.blocks.At(r.list).n == blockEntries {
		i := s.blocks.Alloc()
		b := s.blocks.At(i)
		b.row, b.next = id, r.list
		r.list = i
	}
	b := s.blocks.At(r.list)
	b.entries[b.n] = e
	s.places.Insert(h.entry(id, e.Subscriber), r.list<<blockShift|b.n)
	b.n++
	r.n++
}

// remove takes subscriber's entry out, and says whether there was one. The last entry takes its place.
func (s *entryStore) remove(h *hasher, id uint32, r *row, subscriber uint32) bool {
	if r.kind == keptChain {
		return s.removeChained(h, id, r, subscriber)
	}
	e := s.find(h, id, r, subscriber)
	if e == nil {
		return false
	}
	r.n--
	*e = s.flat(r)[r.n]
	switch {
	case r.kind == keptMany && r.n <= fewEntries/2:
		s.keep(h, id, r, keptFew)
	case r.kind == keptFew && r.n <= 1:
		s.keep(h, id, r, keptInline)
	}
	return true
}

func (s *entryStore) removeChained(h *hasher, id uint32, r *row, subscriber uint32) bool {
	p := s.place(h, id, subscriber)
	if p == 0 {
		return false
	}
	s.places.Delete(h.entry(id, subscriber), p)
	first := s.blocks.At(r.list)
	first.n--
	if last := r.list<<blockShift | first.n; last != p {
		e := first.entries[first.n]
		s.places.Replace(h.entry(id, e.Subscriber), last, p)
		s.blocks.At(p >> blockShift).entries[p%blockEntries] = e
	}
	if first.n == 0 {
		i := r.list
		r.list = first.next
		s.blocks.Free(i)
	}
	r.n--
	if r.n <= manyEntries/2 {
		s.keep(h, id, r, keptMany)
	}
	return true
}

// keep moves the entries of r to another kind. Only neighbours of the kinds meet, so there are at most manyEntries.
func (s *entryStore) keep(h *hasher, id uint32, r *row, kind uint8) {
	var held [manyEntries]Entry
	n := r.n
	if r.kind == keptChain {
		at := uint32(0)
		for i := r.list; i != 0; {
			b := s.blocks.At(i)
			for j, e := range b.entries[:b.n] {
				s.places.Delete(h.entry(id, e.Subscriber), i<<blockShift|uint32(j))
				held[at] = e
				at++
			}
			next := b.next
			s.blocks.Free(i)
			i = next
		}
	} else {
		copy(held[:n], s.flat(r)[:n])
		s.drop(r)
	}
	r.kind, r.list = kind, 0
	switch kind {
	case keptFew:
		r.list = s.few.Alloc()
	case keptMany:
		r.list = s.many.Alloc()
	case keptChain:
		r.n = 0
		for _, e := range held[:n] {
			s.push(h, id, r, e)
		}
		return
	}
	copy(s.flat(r), held[:n])
}

// drop frees the block of a row that is no chain.
func (s *entryStore) drop(r *row) {
	switch r.kind {
	case keptFew:
		s.few.Free(r.list)
	case keptMany:
		s.many.Free(r.list)
	}
}

// appendTo appends all entries of r.
func (s *entryStore) appendTo(dst []Entry, r *row) []Entry {
	if r.kind != keptChain {
		return append(dst, s.flat(r)[:r.n]...)
	}
	for i := r.list; i != 0; {
		b := s.blocks.At(i)
		dst = append(dst, b.entries[:b.n]...)
		i = b.next
	}
	return dst
}
