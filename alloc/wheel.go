package alloc

import (
	"time"

	"github.com/sluicemq/sluice/internal/invariant"
)

// Wheel is a lazy hashed timer wheel over keys of the caller's, one per loop. What happens often, such as a packet that puts a
// deadline off, only stores a tick in the caller's row: the wheel asks when its slot comes, and is told to look again later. The
// collector never looks into it; it is not safe for concurrent use.
//
// There is no removal: a row whose entry is still in the wheel must not be freed, or its callback must know a stale key. A key
// added twice is called twice. Ticks are counted in uint32 and may wrap: deadlines lie less than 1<<31 ticks ahead.
type Wheel struct {
	tick  time.Duration
	mask  uint32
	now   uint32 // the last tick that was looked at
	heads []uint32
	nodes Slab[wheelNode]
}

type wheelNode struct {
	key      uint32
	deadline uint32
	next     uint32
}

// NewWheel returns a wheel that stands at tick 0. Slots are rounded up to a power of two; deadlines farther ahead than slots ticks
// are passed over once per turn.
func NewWheel(tick time.Duration, slots int) *Wheel {
	n := 1
	for n < slots {
		n <<= 1
	}
	return &Wheel{tick: tick, mask: uint32(n - 1), heads: make([]uint32, n)}
}

// TickAt is the tick that begins at or after mono: a deadline that is never early. It is never 0, which a row or a callback may
// take for no deadline.
func (w *Wheel) TickAt(mono time.Duration) uint32 {
	return max(uint32((mono+w.tick-1)/w.tick), 1)
}

// TickNow is the tick that has begun by mono: what Advance takes.
func (w *Wheel) TickNow(mono time.Duration) uint32 {
	return uint32(mono / w.tick)
}

// Tick is the length of a tick.
func (w *Wheel) Tick() time.Duration { return w.tick }

// Now is the last tick that Advance looked at.
func (w *Wheel) Now() uint32 { return w.now }

// Len is the number of entries.
func (w *Wheel) Len() int { return w.nodes.Len() }

// Bytes is what the wheel pins.
func (w *Wheel) Bytes() int64 { return w.nodes.Bytes() + int64(len(w.heads))*4 }

// Add has key called at deadlineTick; one that has passed is called at the next tick.
func (w *Wheel) Add(key, deadlineTick uint32) {
	i := w.nodes.Alloc()
	w.link(i, key, deadlineTick)
}

func (w *Wheel) link(i, key, deadline uint32) {
	if int32(deadline-w.now) <= 0 {
		deadline = w.now + 1
	}
	n := w.nodes.At(i)
	n.key, n.deadline = key, deadline
	head := &w.heads[deadline&w.mask]
	n.next = *head
	*head = i
}

// Advance calls fn for each key whose deadline is nowTick or before, and moves the wheel there. fn returns the tick at which to be
// called again, or 0 for never. It may Add, but not Advance. A tick at or before the wheel's does nothing.
func (w *Wheel) Advance(nowTick uint32, fn func(key uint32) (again uint32)) {
	ahead := int32(nowTick - w.now)
	if ahead <= 0 {
		return
	}
	from := w.now + 1
	steps := uint32(ahead)
	if steps > uint32(len(w.heads)) {
		// Each slot once is enough, as due is judged by deadline, not by slot.
		steps = uint32(len(w.heads))
		from = nowTick - steps + 1
	}
	w.now = nowTick
	for t := from; steps > 0; t, steps = t+1, steps-1 {
		w.turn(t&w.mask, fn)
	}
}

// turn looks at one slot. The list is taken out first, so that what fn adds to this slot waits for its own tick.
func (w *Wheel) turn(slot uint32, fn func(key uint32) (again uint32)) {
	i := w.heads[slot]
	w.heads[slot] = 0
	for i != 0 {
		n := w.nodes.At(i)
		next := n.next
		switch {
		case int32(n.deadline-w.now) > 0:
			n.next = w.heads[slot]
			w.heads[slot] = i
		default:
			if again := fn(n.key); again != 0 {
				w.link(i, n.key, again)
			} else {
				w.nodes.Free(i)
			}
		}
		i = next
	}
	invariant.Check(w.nodes.Len() >= 0, "a wheel freed an entry twice")
}
