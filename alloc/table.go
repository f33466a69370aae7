package alloc

// A table grows in segments of tableSegment cells. Up to that size a segment doubles; then it splits in two by one more bit of the
// hash, so that no insertion ever moves more than a segment's entries.
const (
	tableFirst    = 16
	tableSegment  = 1024
	tableDepthMax = 22 // a directory of 4 million segments
)

// Table maps hashes to slots of the caller's, such as rows of a Slab. It keeps 32 bits of each hash and compares no keys: the
// caller verifies the text of what Lookup offers. An entry takes 8 bytes, and about 13 with the room to grow; cells hold no
// pointers. The zero value is ready; it is not safe for concurrent use, but lookups may run beside each other. Slot 0 is no slot.
//
// Hashes should be seeded per process: whoever can choose keys could choose them to collide.
type Table struct {
	dir   []*tableSeg // 1<<depth places, picked by the upper bits of the kept hash; neighbours may share a segment
	depth uint8
	n     int
	cells int
}

// tableSeg is an open-addressed table with linear probing. A cell is hash<<32 | slot, and 0 if empty; deletion moves later cells
// back, so there are no graves.
type tableSeg struct {
	cells []uint64
	used  int
	depth uint8 // bits of the hash that all entries share
}

// keep is the part of a hash that is stored. Both halves go in, so that any hash good enough for a map is good enough here.
func keep(hash uint64) uint32 { return uint32(hash>>32) ^ uint32(hash) }

// home is the cell of a kept hash in a segment. The directory took the upper bits, so this takes the lower ones.
func (g *tableSeg) home(h uint32) uint32 { return h & uint32(len(g.cells)-1) }

func (t *Table) seg(h uint32) *tableSeg {
	return t.dir[uint64(h)<<t.depth>>32]
}

// Len is the number of entries.
func (t *Table) Len() int { return t.n }

// Bytes is what the table pins.
func (t *Table) Bytes() int64 { return int64(t.cells)*8 + int64(cap(t.dir))*8 + int64(len(t.dir))*40 }

// Lookup returns the slot entered under hash that eq accepts. eq is asked about slots whose hash is equal in the bits kept: nearly
// always one, and the right one.
func (t *Table) Lookup(hash uint64, eq func(slot uint32) bool) (slot uint32, ok bool) {
	if t.n == 0 {
		return 0, false
	}
	h := keep(hash)
	g := t.seg(h)
	mask := uint32(len(g.cells) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		c := g.cells[i]
		if c == 0 {
			return 0, false
		}
		if uint32(c>>32) == h && eq(uint32(c)) {
			return uint32(c), true
		}
	}
}

// Insert enters slot, which is not 0, under hash. It does not look for an equal key: Lookup first.
func (t *Table) Insert(hash uint64, slot uint32) {
	if slot == 0 {
		panic("alloc: slot 0 in a table")
	}
	if t.dir == nil {
		t.dir = []*tableSeg{t.newSeg(tableFirst, 0)}
	}
	h := keep(hash)
	g := t.seg(h)
	for g.used >= len(g.cells)/16*13 {
		t.grow(g, h)
		g = t.seg(h)
	}
	g.put(uint64(h)<<32 | uint64(slot))
	t.n++
}

// Replace enters slot in place of old under hash, and tells whether old was there.
func (t *Table) Replace(hash uint64, old, slot uint32) bool {
	g, i, ok := t.find(hash, old)
	if ok {
		g.cells[i] = g.cells[i]&^0xffffffff | uint64(slot)
	}
	return ok
}

// Delete takes slot, entered under hash, out, and tells whether it was there.
func (t *Table) Delete(hash uint64, slot uint32) bool {
	g, i, ok := t.find(hash, slot)
	if !ok {
		return false
	}
	g.take(i)
	t.n--
	return true
}

// Range calls fn for each slot, in no order, until it returns false. fn must not change the table.
func (t *Table) Range(fn func(slot uint32) bool) {
	var last *tableSeg
	for _, g := range t.dir {
		if g == last {
			continue // places that share a segment are neighbours
		}
		last = g
		for _, c := range g.cells {
			if c != 0 && !fn(uint32(c)) {
				return
			}
		}
	}
}

func (t *Table) find(hash uint64, slot uint32) (g *tableSeg, i uint32, ok bool) {
	if t.n == 0 || slot == 0 {
		return nil, 0, false
	}
	h := keep(hash)
	g = t.seg(h)
	want := uint64(h)<<32 | uint64(slot)
	mask := uint32(len(g.cells) - 1)
	for i = h & mask; g.cells[i] != 0; i = (i + 1) & mask {
		if g.cells[i] == want {
			return g, i, true
		}
	}
	return nil, 0, false
}

func (t *Table) newSeg(cells int, depth uint8) *tableSeg {
	t.cells += cells
	return &tableSeg{cells: make([]uint64, cells), depth: depth}
}

// grow makes room in g, the segment of h.
func (t *Table) grow(g *tableSeg, h uint32) {
	if len(g.cells) >= tableSegment && g.depth < tableDepthMax && g.splits() {
		t.split(g, h)
		return
	}
	old := g.cells
	t.cells += len(old)
	g.cells, g.used = make([]uint64, 2*len(old)), 0
	for _, c := range old {
		if c != 0 {
			g.put(c)
		}
	}
}

// splits tells whether the next bit of the hash parts the entries. Where it does not, because many were entered under one hash,
// the segment has to grow, or the directory would.
func (g *tableSeg) splits() bool {
	upper := 0
	for _, c := range g.cells {
		if c<<g.depth>>63 != 0 {
			upper++
		}
	}
	return upper >= g.used/8 && upper <= g.used-g.used/8
}

// split parts g by the next bit of the hash.
func (t *Table) split(g *tableSeg, h uint32) {
	if g.depth == t.depth {
		dir := make([]*tableSeg, 2*len(t.dir))
		for i, s := range t.dir {
			dir[2*i], dir[2*i+1] = s, s
		}
		t.dir = dir
		t.depth++
	}
	depth := g.depth + 1
	lower, upper := t.newSeg(len(g.cells), depth), t.newSeg(len(g.cells), depth)
	for _, c := range g.cells {
		switch {
		case c == 0:
		case c<<g.depth>>63 != 0:
			upper.put(c)
		default:
			lower.put(c)
		}
	}
	t.cells -= len(g.cells)
	span := 1 << (t.depth - depth) // places of each half
	from := int(uint64(h)<<t.depth>>32) &^ (2*span - 1)
	for i := range span {
		t.dir[from+i], t.dir[from+span+i] = lower, upper
	}
}

func (g *tableSeg) put(c uint64) {
	mask := uint32(len(g.cells) - 1)
	i := g.home(uint32(c >> 32))
	for g.cells[i] != 0 {
		i = (i + 1) & mask
	}
	g.cells[i] = c
	g.used++
}

// take empties cell i and moves back each later cell of the run that may not stand behind an empty one.
func (g *tableSeg) take(i uint32) {
	mask := uint32(len(g.cells) - 1)
	for j := (i + 1) & mask; g.cells[j] != 0; j = (j + 1) & mask {
		home := g.home(uint32(g.cells[j] >> 32))
		if (j-home)&mask >= (j-i)&mask {
			g.cells[i] = g.cells[j]
			i = j
		}
	}
	g.cells[i] = 0
	g.used--
}
