package engine

import (
	"sync/atomic"
	"time"
)

// Deadlines are lazy: SetDeadline stores a tick in the connection, and the wheel looks at the connection when the tick comes that it was
// told first. l.wheelAt says for each slot when that is. An entry cannot be taken back, so a slot may have several when a deadline was
// moved forward: the earliest counts, and one that comes before wheelAt is a left-over and ends. Entries outlive the connection, and
// serve the slot's next owner.

// wheelAhead is how far ahead entries are made, in ticks. A later deadline is looked at on the way, so left-overs are few.
const wheelAhead = 600

// SetDeadline has the connection closed with ErrIdle once NowMono reaches mono, to 100 ms, unless it is moved before; 0 is never. It
// costs a store when the deadline moves back, as keep-alive does.
func (c *Conn) SetDeadline(mono int64) {
	if mono == 0 {
		c.deadline = 0
		return
	}
	if c.flags&(flagClosed|flagClosing) != 0 {
		return // the engine's own deadline counts
	}
	c.setDeadline(mono)
}

func (c *Conn) setDeadline(mono int64) {
	c.deadline = c.loop.wheel.TickAt(time.Duration(mono))
	c.loop.watch(c.slot, c.deadline)
}

// setWriteDeadline puts off the end of a connection whose peer does not take its output.
func (c *Conn) setWriteDeadline() {
	if d := c.lst.o.WriteTimeout; d > 0 {
		c.out.deadline = c.loop.wheel.TickAt(time.Duration(c.loop.now) + d)
		c.loop.watch(c.slot, c.out.deadline)
	}
}

// nextDeadline is the earlier of the connection's and its output's; 0 is none.
func (c *Conn) nextDeadline() uint32 {
	if c.out == nil || c.flags&flagBlocked == 0 || c.out.deadline == 0 {
		return c.deadline
	}
	if c.deadline == 0 || int32(c.out.deadline-c.deadline) < 0 {
		return c.out.deadline
	}
	return c.deadline
}

// watch has the wheel look at the slot at tick or before.
func (l *Loop) watch(slot, tick uint32) {
	if at := l.wheelAt[slot]; at != 0 && int32(tick-at) >= 0 {
		return
	}
	if now := l.wheel.Now(); int32(tick-now) > wheelAhead {
		tick = now + wheelAhead
	}
	l.wheelAt[slot] = tick
	l.wheel.Add(slot, tick)
}

// due is called by the wheel when a slot's tick has come, and returns the tick at which to call again.
func (l *Loop) due(slot uint32) uint32 {
	now, at := l.wheel.Now(), l.wheelAt[slot]
	if at == 0 || int32(at-now) > 0 {
		return 0
	}
	l.wheelAt[slot] = 0
	c := l.slots[slot]
	if c == nil {
		return 0
	}
	again := c.nextDeadline()
	if again == 0 {
		return 0
	}
	if int32(again-now) <= 0 {
		c.expire(again != c.deadline)
		return 0
	}
	if int32(again-now) > wheelAhead {
		again = now + wheelAhead
	}
	l.wheelAt[slot] = again
	return again
}

// expire ends a connection whose time is over, or that of its output.
func (c *Conn) expire(output bool) {
	switch {
	case output:
		c.shut(ErrWriteTimeout)
	case c.flags&flagLinger != 0:
		c.shut(c.closeErr())
	case c.flags&flagClosing != 0:
		c.shut(c.closeErr())
	default:
		if c.flags&flagOpen == 0 {
			c.loop.local.refusedTimeout++
		}
		c.shut(ErrIdle)
	}
}

type ticker struct {
	every, next int64
	f           func()
	stopped     atomic.Bool
}

func (t *ticker) stop() { t.stopped.Store(true) }

func (l *Loop) runTimers() {
	tick := l.wheel.TickNow(time.Duration(l.now))
	if tick != l.wheel.Now() {
		l.wheel.Advance(tick, l.due)
	}
	live := l.tickers[:0]
	for _, t := range l.tickers {
		if t.stopped.Load() {
			continue
		}
		live = append(live, t)
		if l.now >= t.next {
			// A late loop does not catch up: what was missed is gone.
			t.next = max(t.next+t.every, l.now+t.every/2)
			t.f()
		}
	}
	clear(l.tickers[len(live):])
	l.tickers = live
}

// untilTimer is the time until the wheel or a ticker wants the loop, in ns; negative if neither does.
func (l *Loop) untilTimer() int64 {
	d := int64(-1)
	if l.wheel.Len() > 0 {
		d = int64(l.wheel.Now()+1)*int64(wheelTick) - l.now
		d = max(d, 0)
	}
	for _, t := range l.tickers {
		if left := max(t.next-l.now, 0); d < 0 || left < d {
			d = left
		}
	}
	return d
}
