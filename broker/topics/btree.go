package topics

import (
	"encoding/binary"
	"math/bits"

	"github.com/sluicemq/sluice/alloc"
)

// A B+ tree of row numbers, ordered by (tenant, topic), in which '/' is lower than any other byte: so a topic stands right before
// the topics below it, and all topics that share their first levels are neighbours.
const (
	leafRows  = 62
	innerKids = 48
	treeDepth = 8 // 12 children at least, but for the root: more than 2^32 rows
)

type leaf struct {
	n    uint32
	rows [leafRows]uint32
}

// inner holds for each child the first row below it.
type inner struct {
	n    uint32
	kids [innerKids]uint32
	mins [innerKids]uint32
}

type tree struct {
	leaves alloc.Slab[leaf]
	inners alloc.Slab[inner]
	root   uint32 // 0: empty
	height int    // inner nodes above a leaf
}

// treePath leads to a row: the inner nodes from the root on with the child taken in each, and the leaf.
type treePath struct {
	nodes [treeDepth]uint32
	kids  [treeDepth]uint32
	leaf  uint32
	at    uint32
}

func (t *tree) bytes() int64 { return t.leaves.Bytes() + t.inners.Bytes() }

// compareTopics orders a and b with '/' below any other byte.
func compareTopics(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if d := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); d != 0 {
			i += bits.TrailingZeros64(d) / 8
			return compareBytes(a[i], b[i])
		}
	}
	for ; i < n; i++ {
		if a[i] != b[i] {
			return compareBytes(a[i], b[i])
		}
	}
	return len(a) - len(b)
}

func compareBytes(a, b byte) int {
	switch {
	case a == levelSeparator:
		return -1
	case b == levelSeparator:
		return 1
	}
	return int(a) - int(b)
}

// compare orders a row against a key.
func (r *retainedTables) compare(id, tenant uint32, key []byte) int {
	row := r.rows.At(id)
	if row.tenant != tenant {
		if row.tenant < tenant {
			return -1
		}
		return 1
	}
	return compareTopics(r.text.Get(row.text), key)
}

// lowerBound is the first of rows that is not below the key, or their number.
func (r *retainedTables) lowerBound(rows []uint32, tenant uint32, key []byte) uint32 {
	lo, hi := 0, len(rows)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if r.compare(rows[mid], tenant, key) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint32(lo)
}

// seek leads p to the first row that is not below the key in the leaf where the key belongs; at may be behind that leaf's last.
// The tree is not empty.
func (r *retainedTables) seek(p *treePath, tenant uint32, key []byte) {
	id := r.tree.root
	for l := range r.tree.height {
		n := r.tree.inners.At(id)
		// The child before the first one that begins above the key. One that begins with the key itself is the right one.
		i := r.lowerBound(n.mins[:n.n], tenant, key)
		if i == n.n || i > 0 && r.compare(n.mins[i], tenant, key) != 0 {
			i--
		}
		p.nodes[l], p.kids[l] = id, i
		id = n.kids[i]
	}
	p.leaf = id
	f := r.tree.leaves.At(id)
	p.at = r.lowerBound(f.rows[:f.n], tenant, key)
}

// seekLooks is what a way from the root costs, counted in rows looked at in order.
const seekLooks = 8

// seekOn leads p, which stands on a row below the key, to the key, and answers what that cost. A key near by costs a look into the
// same leaf.
func (r *retainedTables) seekOn(p *treePath, tenant uint32, key []byte) (looks int) {
	f := r.tree.leaves.At(p.leaf)
	if r.compare(f.rows[f.n-1], tenant, key) < 0 {
		r.seek(p, tenant, key)
		return seekLooks
	}
	p.at += r.lowerBound(f.rows[p.at:f.n], tenant, key)
	return 1
}

// row is the row at p, after moving p on from the end of a leaf; 0 at the end of the tree.
func (t *tree) row(p *treePath) uint32 {
	f := t.leaves.At(p.leaf)
	if p.at < f.n {
		return f.rows[p.at]
	}
	l := t.height - 1
	for ; l >= 0; l-- {
		if n := t.inners.At(p.nodes[l]); p.kids[l]+1 < n.n {
			break
		}
	}
	if l < 0 {
		return 0
	}
	p.kids[l]++
	id := t.inners.At(p.nodes[l]).kids[p.kids[l]]
	for l++; l < t.height; l++ {
		p.nodes[l], p.kids[l] = id, 0
		id = t.inners.At(id).kids[0]
	}
	p.leaf, p.at = id, 0
	return t.leaves.At(id).rows[0]
}

// insert adds a row whose key is not in the tree.
func (r *retainedTables) insert(id, tenant uint32, key []byte) {
	t := &r.tree
	if t.root == 0 {
		t.root = t.leaves.Alloc()
		f := t.leaves.At(t.root)
		f.n, f.rows[0] = 1, id
		return
	}
	var p treePath
	r.seek(&p, tenant, key)
	f := t.leaves.At(p.leaf)
	added := uint32(0) // a node split off to the right of the one at the level below
	if f.n == leafRows {
		added = t.leaves.Alloc()
		cut := uint32(leafRows / 2)
		if p.at == leafRows {
			cut = leafRows // rows that come in order leave full leaves behind
		}
		g := t.leaves.At(added)
		g.n = uint32(copy(g.rows[:], f.rows[cut:]))
		f.n = cut
		if p.at >= cut {
			f, p.at = g, p.at-cut
		}
	}
	copy(f.rows[p.at+1:f.n+1], f.rows[p.at:f.n])
	f.rows[p.at] = id
	f.n++
	for l := t.height - 1; l >= 0; l-- {
		n := t.inners.At(p.nodes[l])
		n.mins[p.kids[l]] = t.min(n.kids[p.kids[l]], l+1)
		if added != 0 {
			added = t.insertKid(p.nodes[l], p.kids[l]+1, added, l+1)
		}
	}
	if added != 0 {
		root := t.inners.Alloc()
		n := t.inners.At(root)
		n.n, n.kids[0], n.kids[1] = 2, t.root, added
		n.mins[0], n.mins[1] = t.min(t.root, 0), t.min(added, 0)
		t.root = root
		t.height++
	}
}

// min is the first row below a node at a level, counted from the root.
func (t *tree) min(id uint32, level int) uint32 {
	if level == t.height {
		return t.leaves.At(id).rows[0]
	}
	return t.inners.At(id).mins[0]
}

// insertKid makes kid, of a level, child number i of an inner node, and answers the node that it had to split off, or 0.
func (t *tree) insertKid(id, i, kid uint32, level int) (added uint32) {
	n := t.inners.At(id)
	if n.n == innerKids {
		added = t.inners.Alloc()
		cut := uint32(innerKids / 2)
		if i == innerKids {
			cut = innerKids
		}
		g := t.inners.At(added)
		g.n = uint32(copy(g.kids[:], n.kids[cut:]))
		copy(g.mins[:], n.mins[cut:])
		n.n = cut
		if i >= cut {
			n, i = g, i-cut
		}
	}
	copy(n.kids[i+1:n.n+1], n.kids[i:n.n])
	copy(n.mins[i+1:n.n+1], n.mins[i:n.n])
	n.kids[i], n.mins[i] = kid, t.min(kid, level)
	n.n++
	return added
}

// remove takes the row with this key out.
func (r *retainedTables) remove(tenant uint32, key []byte) {
	t := &r.tree
	var p treePath
	r.seek(&p, tenant, key)
	f := t.leaves.At(p.leaf)
	copy(f.rows[p.at:], f.rows[p.at+1:f.n])
	f.n--
	for l := t.height - 1; l >= 0; l-- {
		t.settle(p.nodes[l], p.kids[l], l+1)
	}
	for t.height > 0 && t.inners.At(t.root).n == 1 {
		old := t.root
		t.root = t.inners.At(old).kids[0]
		t.inners.Free(old)
		t.height--
	}
	if t.height == 0 && t.leaves.At(t.root).n == 0 {
		t.leaves.Free(t.root)
		t.root = 0
	}
}

// settle mends an inner node after child number i, of a level, has lost something: the child may be empty, begin later, or fit into
// a neighbour.
func (t *tree) settle(id, i uint32, level int) {
	n := t.inners.At(id)
	if t.size(n.kids[i], level) == 0 {
		t.dropKid(n, i, level)
		return
	}
	n.mins[i] = t.min(n.kids[i], level)
	if t.size(n.kids[i], level) > t.room(level)/4 || n.n == 1 {
		return
	}
	if i+1 == n.n {
		i--
	}
	if t.size(n.kids[i], level)+t.size(n.kids[i+1], level) > t.room(level)*3/4 {
		return
	}
	if level == t.height {
		f, g := t.leaves.At(n.kids[i]), t.leaves.At(n.kids[i+1])
		f.n += uint32(copy(f.rows[f.n:], g.rows[:g.n]))
	} else {
		f, g := t.inners.At(n.kids[i]), t.inners.At(n.kids[i+1])
		copy(f.mins[f.n:], g.mins[:g.n])
		f.n += uint32(copy(f.kids[f.n:], g.kids[:g.n]))
	}
	t.dropKid(n, i+1, level)
}

func (t *tree) dropKid(n *inner, i uint32, level int) {
	if level == t.height {
		t.leaves.Free(n.kids[i])
	} else {
		t.inners.Free(n.kids[i])
	}
	copy(n.kids[i:], n.kids[i+1:n.n])
	copy(n.mins[i:], n.mins[i+1:n.n])
	n.n--
}

func (t *tree) size(id uint32, level int) uint32 {
	if level == t.height {
		return t.leaves.At(id).n
	}
	return t.inners.At(id).n
}

func (t *tree) room(level int) uint32 {
	if level == t.height {
		return leafRows
	}
	return innerKids
}
