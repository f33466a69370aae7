package mqtt

import "github.com/sluicemq/sluice/proto/mqtt/wire"

// idTable holds packet identifiers with one byte of state each, four bytes an entry, in open addressing. Identifiers are mostly
// handed out one after the other, so the identifier itself is the hash and entries lie in the order of sending, each in its own slot: that
// none is elsewhere is known, so that taking one out need not look at all that follow. The zero value is empty and holds no memory.
type idTable struct {
	slots []uint32 // id | state<<16; 0: free, as no identifier is 0
	n     int32
	moved int32 // entries that are not in the slot of their identifier
}

// idTableKeep is how many slots an empty table keeps.
const idTableKeep = 64

func (t *idTable) len() int { return int(t.n) }

// find gives the slot of id, or the free one where it belongs. The table must have slots.
func (t *idTable) find(id uint16) int {
	mask := len(t.slots) - 1
	i := int(id) & mask
	for t.slots[i] != 0 && uint16(t.slots[i]) != id {
		i = (i + 1) & mask
	}
	return i
}

// get gives the state of id.
func (t *idTable) get(id uint16) (state uint8, ok bool) {
	if t.n == 0 {
		return 0, false
	}
	v := t.slots[t.find(id)]
	return uint8(v >> 16), v != 0
}

// put sets the state of id, which must not be 0.
func (t *idTable) put(id uint16, state uint8) {
	if 4*(t.len()+1) > 3*len(t.slots) {
		t.grow()
	}
	i := t.find(id)
	if t.slots[i] == 0 {
		t.n++
		if i != int(id)&(len(t.slots)-1) {
			t.moved++
		}
	}
	t.slots[i] = uint32(id) | uint32(state)<<16
}

func (t *idTable) grow() {
	old := t.slots
	t.slots = make([]uint32, max(8, 2*len(old)))
	t.n, t.moved = 0, 0
	for _, v := range old {
		if v != 0 {
			t.put(uint16(v), uint8(v>>16))
		}
	}
}

// del takes id out and tells whether it was there.
func (t *idTable) del(id uint16) bool {
	if t.n == 0 {
		return false
	}
	i := t.find(id)
	if t.slots[i] == 0 {
		return false
	}
	mask := len(t.slots) - 1
	t.n--
	if i != int(id)&mask {
		t.moved--
	}
	if t.n == 0 && len(t.slots) > idTableKeep {
		t.slots = nil
		return true
	}
	if t.moved == 0 {
		t.slots[i] = 0
		return true
	}
	// What follows moves up, unless it would come before the slot that it belongs to.
	for j := (i + 1) & mask; t.slots[j] != 0; j = (j + 1) & mask {
		home := int(uint16(t.slots[j])) & mask
		if (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			if i == home {
				t.moved--
			}
			i = j
		}
	}
	t.slots[i] = 0
	return true
}

// ack is the answer to one PUBLISH, in the order of receipt.
type ack struct {
	id     uint16
	typ    wire.PacketType // PUBACK or PUBREC
	done   bool
	reason wire.ReasonCode
}

// ackRing holds the answers that are due, oldest first: the core finishes in any order, and answers leave in that of receipt
// (MQTT 4.6). The zero value is empty.
type ackRing struct {
	ring       []ack // a power of two
	head, tail uint32
}

func (r *ackRing) len() int { return int(r.tail - r.head) }

// push adds an answer that is due and returns its number.
func (r *ackRing) push(a ack) uint32 {
	if r.len() == len(r.ring) {
		grown := make([]ack, max(8, 2*len(r.ring)))
		for i := r.head; i != r.tail; i++ {
			grown[int(i)&(len(grown)-1)] = *r.at(i)
		}
		r.ring = grown
	}
	seq := r.tail
	r.tail++
	*r.at(seq) = a
	return seq
}

func (r *ackRing) at(seq uint32) *ack { return &r.ring[int(seq)&(len(r.ring)-1)] }

// drop takes the newest answer back.
func (r *ackRing) drop() { r.tail-- }

// finish notes the result of the answer with this number.
func (r *ackRing) finish(seq uint32, reason wire.ReasonCode) bool {
	if seq-r.head >= uint32(r.len()) {
		return false
	}
	a := r.at(seq)
	a.done, a.reason = true, reason
	return true
}

// pop gives the oldest answer if it is known.
func (r *ackRing) pop() (a ack, ok bool) {
	if r.head == r.tail || !r.at(r.head).done {
		return a, false
	}
	a = *r.at(r.head)
	r.head++
	if r.head == r.tail && len(r.ring) > idTableKeep {
		r.ring = nil
	}
	return a, true
}

// waits tells whether an answer of this type to id is due and not known.
func (r *ackRing) waits(id uint16, typ wire.PacketType) bool {
	for i := r.head; i != r.tail; i++ {
		if a := r.at(i); a.id == id && a.typ == typ && !a.done {
			return true
		}
	}
	return false
}
