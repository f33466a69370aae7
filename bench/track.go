package bench

import "math/bits"

// seen is what a track makes of one delivery.
type seen uint8

const (
	seenInOrder   seen = iota
	seenGap            // in order, with some missing before it
	seenLate           // one of the missing: reordered
	seenDuplicate      // delivered before
)

// track is what one receiver, or one group of receivers, has got of one publisher: all numbers below next but those in
// holes, each once.
type track struct {
	next  uint64
	gaps  uint64 // how many bits are set in holes
	last  int64  // when the latest message of those delivered was meant to be sent, in ns of the run's clock
	holes *holes // nil: there never was one
	cell  *cell  // the publisher's credit, which fresh deliveries give back
}

// holes are the numbers that have not come.
type holes struct {
	missing []uint64 // bit n of word w: number base+64w+n has not come
	base    uint64   // a multiple of 64
	times   []holeTime
}

// holeTime says that numbers from from on, up to the next entry's, were found missing at the delivery of a message that was meant
// to be sent at at: they were sent shortly before. There is one for each second with a gap.
type holeTime struct {
	from uint64
	at   int64
}

// holeTimesMax bounds times: of what is found missing later, the last entry says when.
const holeTimesMax = 3600

// see takes a delivery of number seq, which was meant to be sent at at.
func (t *track) see(seq uint64, at int64) seen {
	if seq == t.next {
		t.next++
		t.last = at
		return seenInOrder
	}
	if seq > t.next {
		t.open(seq, at)
		t.next = seq + 1
		t.last = at
		return seenGap
	}
	if !t.isMissing(seq) {
		return seenDuplicate
	}
	n := seq - t.holes.base
	t.holes.missing[n/64] &^= 1 << (n % 64)
	t.gaps--
	return seenLate
}

// open notes that the numbers from next up to seq have not come.
func (t *track) open(seq uint64, at int64) {
	h := t.holes
	if h == nil {
		h = &holes{base: t.next &^ 63}
		t.holes = h
	}
	if k := len(h.times); k == 0 || k < holeTimesMax && h.times[k-1].at/1e9 != at/1e9 {
		h.times = append(h.times, holeTime{t.next, at})
	}
	for n := t.next - h.base; n < seq-h.base; n++ {
		for uint64(len(h.missing)) <= n/64 {
			h.missing = append(h.missing, 0)
		}
		h.missing[n/64] |= 1 << (n % 64)
	}
	t.gaps += seq - t.next
}

// seeOrder is see for a receiver that gets only a part of the publisher's messages: it tells order alone.
func (t *track) seeOrder(seq uint64) (inOrder bool) {
	if seq < t.next {
		return false
	}
	t.next = seq + 1
	return true
}

func (t *track) isMissing(seq uint64) bool {
	if seq >= t.next {
		return true
	}
	h := t.holes
	if h == nil || seq < h.base {
		return false
	}
	n := seq - h.base
	return n/64 < uint64(len(h.missing)) && h.missing[n/64]>>(n%64)&1 == 1
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

// when passes on at which moments the numbers that lost counts were meant to be sent, as far as is known: of a gap, when the next
// that came was; of what is missing at the end, when the last that came was, or began if none did.
func (t *track) when(sent uint64, unanswered map[uint64]bool, began int64, add func(at int64, n uint64)) {
	if t.gaps > 0 {
		k := 0
		for w, word := range t.holes.missing {
			for ; word != 0; word &= word - 1 {
				seq := t.holes.base + uint64(64*w+bits.TrailingZeros64(word))
				for k+1 < len(t.holes.times) && t.holes.times[k+1].from <= seq {
					k++
				}
				if !unanswered[seq] {
					add(t.holes.times[k].at, 1)
				}
			}
		}
	}
	if sent <= t.next {
		return
	}
	n := sent - t.next
	for seq := range unanswered {
		if seq >= t.next && seq < sent {
			n--
		}
	}
	if n > 0 {
		add(max(t.last, began), n)
	}
}

// bitset16 is a set of packet identifiers.
type bitset16 [1 << 16 / 64]uint64

func (b *bitset16) has(id uint16) bool { return b[id/64]>>(id%64)&1 == 1 }
func (b *bitset16) add(id uint16)      { b[id/64] |= 1 << (id % 64) }
func (b *bitset16) remove(id uint16)   { b[id/64] &^= 1 << (id % 64) }
