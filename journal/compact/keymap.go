package compact

import (
	"hash/maphash"

	"github.com/sluicemq/sluice/journal/record"
)

// keyMap knows the last offset of each key of a stretch of a partition: open addressing over 16 bytes a key, without a pointer. Keys are known
// by 88 bits of a seeded hash, which nobody outside can make collide; two of 10 million keys do with a chance of one in 10^12.
type keyMap struct {
	seeds [2]maphash.Seed
	base  record.Offset // offsets are counted from here
	slots []keySlot
	n     int
	most  int // slots
}

// keySlot is a key: 64 bits of its hash, of which 0 is none, then 24 more and 40 of its offset.
type keySlot struct{ hash, rest uint64 }

const (
	keySlotSize    = 16
	keyOffsetBits  = 40
	keyOffsetMask  = 1<<keyOffsetBits - 1
	keySlotsAtOnce = 1 << 12
	keySlotsLeast  = 16
)

// newKeyMap makes a map that takes at most so many bytes.
func newKeyMap(base record.Offset, bytes int) *keyMap {
	m := &keyMap{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, base: base, most: keySlotsLeast}
	for m.most*2*keySlotSize <= bytes {
		m.most *= 2
	}
	m.slots = make([]keySlot, min(m.most, keySlotsAtOnce))
	return m
}

func (m *keyMap) hash(key []byte) (h, rest uint64) {
	return max(maphash.Bytes(m.seeds[0], key), 1), maphash.Bytes(m.seeds[1], key) &^ keyOffsetMask
}

// find gives the slot of a key, or the free one where it belongs.
func (m *keyMap) find(h, rest uint64) *keySlot {
	mask := uint64(len(m.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if s := &m.slots[i]; s.hash == 0 || s.hash == h && s.rest&^keyOffsetMask == rest {
			return s
		}
	}
}

// put notes the offset of a key; they rise. false: the map is full.
func (m *keyMap) put(key []byte, o record.Offset) bool {
	delta := uint64(o - m.base)
	if delta > keyOffsetMask {
		return false
	}
	h, rest := m.hash(key)
	s := m.find(h, rest)
	if s.hash == 0 {
		if m.n >= len(m.slots)/4*3 {
			if !m.grow() {
				return false
			}
			s = m.find(h, rest)
		}
		m.n++
	}
	*s = keySlot{h, rest | delta}
	return true
}

func (m *keyMap) grow() bool {
	if len(m.slots) >= m.most {
		return false
	}
	old := m.slots
	m.slots = make([]keySlot, 2*len(old))
	for _, s := range old {
		if s.hash != 0 {
			*m.find(s.hash, s.rest&^keyOffsetMask) = s
		}
	}
	return true
}

// after tells whether the key comes again behind o.
func (m *keyMap) after(key []byte, o record.Offset) bool {
	s := m.find(m.hash(key))
	return s.hash != 0 && m.base+record.Offset(s.rest&keyOffsetMask) > o
}
