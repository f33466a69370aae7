package link

import (
	"sync/atomic"
	"time"
)

// counters are what a mesh has counted since it was made.
type counters struct {
	bytesIn, bytesOut   atomic.Uint64
	framesIn, framesOut atomic.Uint64
	writes              atomic.Uint64
	connects, dials     atomic.Uint64
	resets              atomic.Uint64
	clockWarnings       atomic.Uint64
	warned              atomic.Int64
	ends                [numReasons + 1]atomic.Uint64
	refusals            [numReasons + 1]atomic.Uint64
	kinds               [numKinds]kindCounters // 0: of all
}

type kindCounters struct {
	bytesIn, bytesOut, rawOut atomic.Uint64
	framesIn, framesOut       atomic.Uint64
	messagesIn, messagesOut   atomic.Uint64
	stalls, busy              atomic.Uint64
}

// Stats are what a mesh has counted since it was made.
type Stats struct {
	BytesIn, BytesOut   uint64 // as TLS gets them
	FramesIn, FramesOut uint64
	Writes              uint64 // turns of the writers
	Connects            uint64 // connections that came up
	Dials               uint64 // attempts
	Resets              uint64 // channels that this end refused or ended for want of memory
	ClockWarnings       uint64
	MemoryBytes         int64 // that received messages pin now
	Ends                map[Reason]uint64
	Refusals            map[Reason]uint64 // handshakes that failed, either end's
	Kinds               map[Kind]KindStats
	RTT                 map[NodeID]time.Duration // of the last answered ping
	ClockOff            map[NodeID]time.Duration
	Queued              map[NodeID]int // bytes that wait to be sent, of all channels
	Peers               int
}

// KindStats are those of one kind of channel.
type KindStats struct {
	BytesIn, BytesOut       uint64 // of data frames, as they were sent
	RawOut                  uint64 // BytesOut before compression
	FramesIn, FramesOut     uint64
	MessagesIn, MessagesOut uint64
	Stalls                  uint64 // times that a channel had something to send and no credit
	Busy                    uint64 // messages that found the queue full
}

// Stats gathers what was counted.
func (m *Mesh) Stats() Stats {
	n := &m.counters
	s := Stats{
		BytesIn: n.bytesIn.Load(), BytesOut: n.bytesOut.Load(), FramesIn: n.framesIn.Load(), FramesOut: n.framesOut.Load(), Writes: n.writes.Load(),
		Connects: n.connects.Load(), Dials: n.dials.Load(), Resets: n.resets.Load(), ClockWarnings: n.clockWarnings.Load(), MemoryBytes: m.memory.Load(),
		Ends: make(map[Reason]uint64), Refusals: make(map[Reason]uint64), Kinds: make(map[Kind]KindStats),
		RTT: make(map[NodeID]time.Duration), ClockOff: make(map[NodeID]time.Duration), Queued: make(map[NodeID]int),
	}
	for r := range Reason(numReasons) {
		if v := n.ends[r].Load(); v > 0 {
			s.Ends[r] = v
		}
		if v := n.refusals[r].Load(); v > 0 {
			s.Refusals[r] = v
		}
	}
	for _, k := range Kinds() {
		c := &n.kinds[k]
		s.Kinds[k] = KindStats{BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), RawOut: c.rawOut.Load(), FramesIn: c.framesIn.Load(),
			FramesOut: c.framesOut.Load(), MessagesIn: c.messagesIn.Load(), MessagesOut: c.messagesOut.Load(), Stalls: c.stalls.Load(), Busy: c.busy.Load()}
	}
	var live []*conn
	m.mu.Lock()
	for id, d := range m.mu.rtt {
		s.RTT[id] = d
	}
	for id, c := range m.mu.conns {
		if c.live.Load() {
			live = append(live, c)
			s.ClockOff[id] = c.peer.ClockOff
		}
	}
	m.mu.Unlock()
	s.Peers = len(live)
	for _, c := range live {
		c.mu.Lock()
		s.Queued[c.peer.ID] = c.mu.queued
		c.mu.Unlock()
	}
	return s
}

func (n *counters) count(list *[numReasons + 1]atomic.Uint64, err error) {
	list[min(ReasonOf(err), numReasons)].Add(1)
}
