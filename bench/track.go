package bench

// seen is what a track makes of one delivery.
type seen uint8

const (
	seenInOrder   seen = iota
	seenGap            // in order, with some missing before it
	seenLate           // one of the missing: reordered
	seenDuplicate      // delivered before
)

// track is what one receiver, or one group of receivers, has got of one publisher: all numbers below next but those in
// missing, each once.
type track struct {
	next    uint64
	gaps    uint64   // how many bits are set in missing
	missing []uint64 // bit n of word w: number base+64w+n has not come
	base    uint64   // a multiple of 64
	cell    *cell    // the publisher's credit, which fresh deliveries give back
}

// see takes a delivery of number seq.
func (t *track) see(seq uint64) seen {
	if seq == t.next {
		t.next++
		return seenInOrder
	}
	if seq > t.next {
		for n := t.next; n < seq; n++ {
			t.mark(n)
		}
		t.next = seq + 1
		return seenGap
	}
	if !t.isMissing(seq) {
		return seenDuplicate
	}
	at := seq - t.base
	t.missing[at/64] &^= 1 << (at % 64)
	t.gaps--
	return seenLate
}

func (t *track) mark(seq uint64) {
	if t.missing == nil {
		t.base = seq &^ 63
	}
	at := seq - t.base
	for uint64(len(t.missing)) <= at/64 {
		t.missing = append(t.missing, 0)
	}
	t.missing[at/64] |= 1 << (at % 64)
	t.gaps++
}

func (t *track) isMissing(seq uint64) bool {
	if seq >= t.next {
		return true
	}
	if t.missing == nil || seq < t.base {
		return false
	}
	at := seq - t.base
	return at/64 < uint64(len(t.missing)) && t.missing[at/64]>>(at%64)&1 == 1
}

// fresh is how many different numbers have come.
func (t *track) fresh() uint64 { return t.next - t.gaps }

// lost is how many of the numbers below sent have not come, and of them how many are in unanswered: those that the
// broker never took over, of which it owes nothing.
func (t *track) lost(sent uint64, unanswered map[uint64]bool) (lost, excused uint64) {
	lost = t.gaps
	if sent > t.next {
		lost += sent - t.next
	}
	for seq := range unanswered {
		if seq < sent && t.isMissing(seq) {
			excused++
		}
	}
	return lost - excused, excused
}

// bitset16 is a set of packet identifiers.
type bitset16 [1 << 16 / 64]uint64

func (b *bitset16) has(id uint16) bool { return b[id/64]>>(id%64)&1 == 1 }
func (b *bitset16) add(id uint16)      { b[id/64] |= 1 << (id % 64) }
func (b *bitset16) remove(id uint16)   { b[id/64] &^= 1 << (id % 64) }
