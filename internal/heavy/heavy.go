// Package heavy counts by name for the names that come most often, in memory that does not grow with how many names there are: the space-saving sketch of Metwally,
// Agrawal and El Abbadi. It knows nothing of what it counts.
//
// A table has so many rows. A name that has one is counted exactly from the time on that it has got it. A name without one takes the row of the name that has the least
// weight, and that weight; so a name that makes up more than one in so many of what comes is in the table, whatever else comes.
package heavy

import (
	"bytes"
	"hash/maphash"
)

// Counts are what is counted of a name.
type Counts struct{ MessagesIn, BytesIn, MessagesOut, BytesOut uint64 }

// Add sums o into c.
func (c *Counts) Add(o *Counts) {
	c.MessagesIn += o.MessagesIn
	c.BytesIn += o.BytesIn
	c.MessagesOut += o.MessagesOut
	c.BytesOut += o.BytesOut
}

// Row is a name in a table.
type Row struct {
	Name   []byte // the table's, while it has the row
	Counts Counts // since it has the row, or since Reset
	hash   uint64
	weight uint64 // at least how often it has come
	key    uint64 // of the heap: weight as it was when the row was last put in its place
	pos    int
}

// Weight is what rows are kept by: how often the name has come lately, no less, by no more than the least weight too high.
func (r *Row) Weight() uint64 { return r.weight }

// Reset begins a new count, for whoever has taken the one before. The row stays.
func (r *Row) Reset() { r.Counts = Counts{} }

// Table counts names. It belongs to one goroutine.
type Table struct {
	seed   maphash.Seed
	byHash map[uint64]*Row
	heap   []*Row // by key, the least first; keys lag behind weights
	size   int
	last   *Row // the row that was asked for last: names often come several times in a row
}

// New makes a table of so many rows, at least one.
func New(rows int) *Table {
	return &Table{seed: maphash.MakeSeed(), byHash: make(map[uint64]*Row, rows), heap: make([]*Row, 0, rows), size: max(rows, 1)}
}

// Size is how many rows there can be.
func (t *Table) Size() int { return t.size }

// Rows are those in use, in no order. They are the table's.
func (t *Table) Rows() []*Row { return t.heap }

// Hit gives name's row, with n added to its weight. name is a view.
func (t *Table) Hit(name []byte, n uint64) *Row {
	if r := t.last; r != nil && bytes.Equal(r.Name, name) {
		r.weight += n
		return r
	}
	hash := maphash.Bytes(t.seed, name)
	r := t.byHash[hash]
	if r == nil || !bytes.Equal(r.Name, name) { // another name of the same hash loses its row: that is as rare as it is harmless
		r = t.take(hash, r)
		r.Name = append(r.Name[:0], name...)
	}
	r.weight += n
	t.last = r
	return r
}

// take gives a row to a new name.
func (t *Table) take(hash uint64, same *Row) *Row {
	r := same
	switch {
	case r != nil:
	case len(t.heap) < t.size:
		r = &Row{pos: len(t.heap)}
		t.heap = append(t.heap, r)
		t.up(r.pos) // with weight 0 it belongs to the top
	default:
		r = t.least()
		delete(t.byHash, r.hash)
	}
	r.hash, r.Counts = hash, Counts{}
	t.byHash[hash] = r
	return r
}

// least is the row of the least weight. Rows that have grown since they were put in their places are moved first: each hit is paid for once.
func (t *Table) least() *Row {
	for {
		r := t.heap[0]
		if r.key == r.weight {
			return r
		}
		r.key = r.weight
		t.down(0)
	}
}

// Fade halves all weights, so that names that come no more make room. Counts stay.
func (t *Table) Fade() {
	for _, r := range t.heap {
		r.weight /= 2
		r.key /= 2 // what is in order stays in order
	}
}

func (t *Table) swap(i, j int) {
	h := t.heap
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (t *Table) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if t.heap[p].key <= t.heap[i].key {
			return
		}
		t.swap(i, p)
		i = p
	}
}

func (t *Table) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(t.heap) {
			return
		}
		if c+1 < len(t.heap) && t.heap[c+1].key < t.heap[c].key {
			c++
		}
		if t.heap[i].key <= t.heap[c].key {
			return
		}
		t.swap(i, c)
		i = c
	}
}
