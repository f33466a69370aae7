package topics

import (
	"bytes"
	"encoding/binary"

	"github.com/sluicemq/sluice/alloc"
)

// node is one level of one or more filters. A '#' takes no node: it is endMulti of the level before it, because "a/#" matches
// "a" too. The root of a tenant has its number as text and no parent.
type node struct {
	parent   uint32
	plus     uint32 // the child '+'
	end      uint32 // first row of the filter that ends here
	endMulti uint32 // first row of the filter that ends in '#' behind this
	kids     uint32 // children that are not '+'
	n        uint16 // length of the level
	text     [nodeText]byte
}

// nodeText is how long a level may be to stand in its node. The text of a longer one is in the arena, and its handle here.
const nodeText = 18

// trie holds filters with wildcards. Nothing in it recurses: a filter of any depth costs a loop.
type trie struct {
	nodes    alloc.Slab[node]
	children alloc.Table // (parent, level) -> node
	// roots has an entry for each tenant with a filter here: mostly one, which every match asks for.
	roots map[uint32]uint32
}

func (t *trie) bytes() int64 { return t.nodes.Bytes() + t.children.Bytes() + int64(len(t.roots))*16 }

// ends is where the first row of a filter is kept.
func (t *trie) ends(n uint32, multi bool) *uint32 {
	if multi {
		return &t.nodes.At(n).endMulti
	}
	return &t.nodes.At(n).end
}

// level is the text of a node, a view.
func (n *node) level(a *alloc.Arena) []byte {
	if n.n <= nodeText {
		return n.text[:n.n]
	}
	return a.Get(alloc.Handle(binary.LittleEndian.Uint64(n.text[:])))
}

func (n *node) setLevel(a *alloc.Arena, level []byte) {
	n.n = uint16(len(level))
	if len(level) <= nodeText {
		copy(n.text[:], level)
		return
	}
	binary.LittleEndian.PutUint64(n.text[:], uint64(a.Alloc(level)))
}

func (n *node) isPlus() bool { return n.n == 1 && n.text[0] == singleLevelMarker }

// child finds the child of parent with this level, or 0. hash is the level's.
func (t *trie) child(h *hasher, a *alloc.Arena, parent uint32, level []byte, hash uint64) uint32 {
	id, _ := t.children.Lookup(h.pair(hash, parent), func(id uint32) bool {
		n := t.nodes.At(id)
		return n.parent == parent && string(n.level(a)) == string(level)
	})
	return id
}

// root finds the node where the filters of tenant begin, or 0.
func (t *trie) root(tenant uint32, create bool) uint32 {
	id := t.roots[tenant]
	if id != 0 || !create {
		return id
	}
	id = t.nodes.Alloc()
	n := t.nodes.At(id)
	n.n = 4
	binary.LittleEndian.PutUint32(n.text[:], tenant)
	if t.roots == nil {
		t.roots = make(map[uint32]uint32)
	}
	t.roots[tenant] = id
	return id
}

func (t *trie) add(h *hasher, a *alloc.Arena, parent uint32, level []byte, hash uint64) uint32 {
	id := t.nodes.Alloc()
	n := t.nodes.At(id)
	n.parent = parent
	n.setLevel(a, level)
	if n.isPlus() {
		t.nodes.At(parent).plus = id
		return id
	}
	t.nodes.At(parent).kids++
	t.children.Insert(h.pair(hash, parent), id)
	return id
}

// walk goes down a valid filter, and answers the node where it ends, or 0.
func (t *trie) walk(h *hasher, a *alloc.Arena, tenant uint32, filter []byte, create bool) (at uint32, multi bool) {
	at = t.root(tenant, create)
	for at != 0 {
		level, rest, more := bytes.Cut(filter, separator)
		next, hash := uint32(0), uint64(0)
		switch {
		case len(level) == 1 && level[0] == multiLevelMarker:
			return at, true
		case len(level) == 1 && level[0] == singleLevelMarker:
			next = t.nodes.At(at).plus
		default:
			hash = h.level(level)
			next = t.child(h, a, at, level, hash)
		}
		if next == 0 && create {
			next = t.add(h, a, at, level, hash)
		}
		at = next
		if !more {
			break
		}
		filter = rest
	}
	return at, false
}

// prune removes the node, and those above it, that no filter needs.
func (t *trie) prune(h *hasher, a *alloc.Arena, id uint32) {
	for id != 0 {
		n := t.nodes.At(id)
		if n.end != 0 || n.endMulti != 0 || n.plus != 0 || n.kids != 0 {
			return
		}
		parent := n.parent
		switch {
		case parent == 0:
			delete(t.roots, binary.LittleEndian.Uint32(n.text[:]))
		case n.isPlus():
			t.nodes.At(parent).plus = 0
		default:
			t.children.Delete(h.pair(h.level(n.level(a)), parent), id)
			t.nodes.At(parent).kids--
		}
		if n.n > nodeText {
			a.Free(alloc.Handle(binary.LittleEndian.Uint64(n.text[:])))
		}
		t.nodes.Free(id)
		id = parent
	}
}

// filter reads the filter of a node back, from its end to its begin.
func (t *trie) filter(a *alloc.Arena, id uint32, multi bool) []byte {
	size := -1 // no separator before the first level
	if multi {
		size += 2
	}
	for i := id; t.nodes.At(i).parent != 0; i = t.nodes.At(i).parent {
		size += int(t.nodes.At(i).n) + 1
	}
	b := make([]byte, size)
	at := size + 1 // one behind the last level's separator, were there one
	if multi {
		b[size-1] = multiLevelMarker
		at -= 2
	}
	for i := id; t.nodes.At(i).parent != 0; i = t.nodes.At(i).parent {
		level := t.nodes.At(i).level(a)
		if at--; at < size {
			b[at] = levelSeparator
		}
		at -= len(level)
		copy(b[at:], level)
	}
	return b
}

// matchLevel is a level of the topic that is being matched: its place in the topic, and its hash.
type matchLevel struct {
	hash     uint64
	from, to int
}

// matchFrame is a node whose levels before depth have matched.
type matchFrame struct {
	node  uint32
	depth int32
}

// level cuts the topic up to level d, which exists. Only as many levels are cut as the trie is deep.
func (m *Matches) level(h *hasher, topic []byte, d int) *matchLevel {
	for len(m.levels) <= d {
		from := 0
		if n := len(m.levels); n > 0 {
			from = m.levels[n-1].to + 1
		}
		to := len(topic)
		if i := bytes.IndexByte(topic[from:], levelSeparator); i >= 0 {
			to = from + i
		}
		m.levels = append(m.levels, matchLevel{h.level(topic[from:to]), from, to})
	}
	return &m.levels[d]
}

// match collects the filters of tenant that match topic. It visits each node at most once, and only nodes all of whose levels
// match.
func (t *tables) match(h *hasher, tenant uint32, topic []byte, m *Matches, number uint32) {
	at := matchFrame{node: t.trie.root(tenant, false)}
	if at.node == 0 {
		return
	}
	m.stack = m.stack[:0]
	for {
		n := t.trie.nodes.At(at.node)
		if n.endMulti != 0 {
			t.collect(m, number, n.endMulti)
		}
		next := uint32(0)
		if at.depth > 0 && m.levels[at.depth-1].to == len(topic) {
			if n.end != 0 {
				t.collect(m, number, n.end)
			}
		} else if n.kids != 0 || n.plus != 0 {
			l := m.level(h, topic, int(at.depth))
			if n.plus != 0 {
				next = n.plus
			}
			if n.kids != 0 {
				if kid := t.trie.child(h, &t.text, at.node, topic[l.from:l.to], l.hash); kid != 0 {
					if next != 0 {
						m.stack = append(m.stack, matchFrame{next, at.depth + 1})
					}
					next = kid
				}
			}
		}
		if next != 0 {
			at = matchFrame{next, at.depth + 1}
			continue
		}
		if len(m.stack) == 0 {
			return
		}
		at = m.stack[len(m.stack)-1]
		m.stack = m.stack[:len(m.stack)-1]
	}
}
