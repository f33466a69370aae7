package link

import (
	"encoding/binary"
	"fmt"
)

// openHere opens a channel from this end.
func (c *conn) openHere(kind Kind, head []byte, recv Receiver) (*Channel, error) {
	if kind == 0 || kind >= numKinds || len(head) > headerMost {
		return nil, fmt.Errorf("link: open a channel of kind %d with a header of %d bytes, at most %d", kind, len(head), headerMost)
	}
	if c.windows[kind] == 0 {
		return nil, failure(ReasonKind, "node %d has no %v channels", c.peer.ID, kind)
	}
	ch := &Channel{c: c, kind: kind, mine: true, recv: recv, credit: c.windows[kind]}
	ch.left.Store(int64(c.m.limits[kind].Window))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return nil, ErrDown
	}
	if c.mu.nextID > 1<<31 {
		return nil, failure(ReasonBusy, "node %d: no more numbers for channels", c.peer.ID)
	}
	ch.id = c.mu.nextID
	c.mu.nextID += 2
	c.mu.channels[ch.id] = ch
	c.mu.control = appendControl(c.mu.control, c.crc, header{channel: ch.id, typ: frameOpen}, []byte{byte(kind)}, head)
	c.wakeLocked()
	return ch, nil
}

// opened is a channel that the peer opens.
func (c *conn) opened(id uint32, kind Kind, head []byte) error {
	odd := !c.peer.Dialed // the dialer's are odd
	if id&1 == 1 != odd || id <= c.peerLast {
		return failure(ReasonChannel, "channel %d cannot be opened behind %d", id, c.peerLast)
	}
	c.peerLast = id
	ch := &Channel{c: c, id: id, kind: kind}
	if kind == 0 || kind >= numKinds || c.m.accept[kind] == nil {
		return c.refuse(id, ReasonKind, fmt.Sprintf("no %v channels here", kind))
	}
	ch.credit = c.windows[kind]
	ch.left.Store(int64(c.m.limits[kind].Window))
	c.mu.Lock()
	if c.mu.err != nil {
		c.mu.Unlock()
		return nil
	}
	busy := c.mu.open[kind] >= c.m.limits[kind].Channels
	if !busy {
		ch.slot = true
		c.mu.open[kind]++
		c.mu.channels[id] = ch
	}
	c.mu.Unlock()
	if busy {
		return c.refuse(id, ReasonBusy, fmt.Sprintf("%d %v channels are open", c.m.limits[kind].Channels, kind))
	}
	recv, err := c.m.accept[kind](ch, head)
	if err != nil {
		c.m.counters.resets.Add(1)
		ch.end(ReasonNotAdmitted, err.Error(), true)
		return nil
	}
	ch.recv = recv
	return nil
}

// refuse answers a channel that this end does not take. The peer takes it for the channel's end, and owes one in turn.
func (c *conn) refuse(id uint32, r Reason, text string) error {
	c.m.counters.resets.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return nil
	}
	if len(c.mu.refused) > refusedMost || len(c.mu.channels) > channelsMost {
		return failure(ReasonFlood, "channels are opened faster than they can be refused")
	}
	// It stays until the peer has closed it too: until then it may send on it within its window.
	ch := &Channel{c: c, id: id, kind: KindTunnel}
	ch.ended.Store(true)
	ch.left.Store(windowMost)
	c.mu.channels[id] = ch
	c.mu.refused = appendControl(c.mu.refused, c.crc, header{channel: id, typ: frameClose}, reasonPayload(r, text))
	c.wakeLocked()
	return nil
}

// channelsMost bounds all channels of a connection, those that are ending included.
const channelsMost = 1 << 17

// credited is credit from the peer.
func (c *conn) credited(id, n uint32) error {
	ch, err := c.channel(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 || ch.credit+int(n) > 1<<31 {
		return failure(ReasonMalformed, "%d bytes of credit for channel %d, which has %d", n, id, ch.credit)
	}
	ch.credit += int(n)
	ch.stalled = false
	c.readyLocked(ch)
	return nil
}

// peerClosed ends a channel that the peer has ended: nothing of it comes any more, and it is answered unless that has been done.
func (c *conn) peerClosed(id uint32, p []byte) error {
	ch, err := c.channel(id)
	if err != nil {
		return err
	}
	said := decodeReason(p)
	c.mu.Lock()
	if c.mu.err != nil {
		c.mu.Unlock()
		return nil // the end of the connection ends it
	}
	delete(c.mu.channels, id)
	ch.asked = true
	if ch.slot {
		c.mu.open[ch.kind]--
	}
	var flood error
	if ch.ended.Load() {
		if ch.reason != ReasonNone && said.Reason == ReasonNone {
			said = &Error{Reason: ch.reason, Text: ch.text}
		}
	} else {
		ch.counted = true
		if c.mu.answers++; c.mu.answers > answersMost {
			flood = failure(ReasonFlood, "channels are closed faster than they can be answered")
		}
		c.endLocked(ch, ReasonNone, "", true)
	}
	c.mu.Unlock()
	c.last = nil
	if said.Reason == ReasonNone {
		c.closed(ch, nil)
	} else {
		c.closed(ch, said)
	}
	return flood
}

func (c *conn) pingFrom(stamp uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.pong, c.mu.pongStamp = true, stamp
	c.wakeLocked()
}

func (c *conn) pongFrom(stamp uint64) {
	if took := int64(c.m.clock.Mono()) - int64(stamp); took >= 0 {
		c.m.setRTT(c.peer.ID, took)
	}
}

// startKeepalive looks at the connection a few times within each of the times that it is to notice.
func (c *conn) startKeepalive() {
	every := min(c.m.o.DeadAfter, c.m.o.WriteTimeout) / 4
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = c.m.clock.AfterFunc(every, func() {
		if c.tick() {
			c.mu.Lock()
			t := c.timer
			c.mu.Unlock()
			t.Reset(every)
		}
	})
}

// tick says whether there is more to look at.
func (c *conn) tick() bool {
	now := int64(c.m.clock.Mono())
	if silent := now - c.lastRead.Load(); silent > int64(c.m.o.DeadAfter) {
		c.fail(failure(ReasonDead, "nothing heard for %d ms", silent/1e6), true)
		return false
	}
	if since := c.writing.Load(); since != 0 && now-since > int64(c.m.o.WriteTimeout) {
		c.fail(failure(ReasonNotReading, "a write has waited for %d ms", (now-since)/1e6), false)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return false
	}
	if now-c.lastSent.Load() >= int64(c.m.o.DeadAfter/4) {
		c.mu.ping = true
		c.wakeLocked()
	}
	return true
}

func appendStamp(dst []byte, crc bool, typ frameType, stamp uint64) []byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], stamp)
	return appendControl(dst, crc, header{typ: typ}, b[:])
}
