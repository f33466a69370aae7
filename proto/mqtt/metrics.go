package mqtt

import (
	"sync"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Drop says why a message was not given on.
type Drop uint8

// The reasons for a drop.
const (
	DropSlowReader     Drop = iota // QoS 0 to a client whose queue is over its bound
	DropQueueFull                  // no place left in the queue of a session without expiry
	DropTooLarge                   // larger than the client takes
	DropExpired                    // expired before it could be sent
	DropNotAuthorized              // published without leave
	DropRefused                    // published against a limit: topic, QoS, retain, payload format
	DropUnavailable                // the core could not take it
	DropQuota                      // a quota was used up
	DropPendingAtClose             // waited for a place in the window when its session ended
	DropOutside                    // its topic does not lie under the prefix of the client's listener
	dropReasons
)

var dropNames = [dropReasons]string{"slow_reader", "queue_full", "too_large", "expired", "not_authorized", "refused",
	"unavailable", "quota", "session_end", "outside_prefix"}

// String is the reason as a metric's label.
func (d Drop) String() string { return dropNames[d] }

// Drops are all reasons, in their order.
func Drops() []Drop {
	all := make([]Drop, dropReasons)
	for i := range all {
		all[i] = Drop(i)
	}
	return all
}

// Counters are what a Handler has counted since it was made.
type Counters struct {
	Open        int64      // connections now, with or without CONNECT
	Connected   int64      // of them those with a session
	PacketsIn   [16]uint64 // by wire.PacketType
	PacketsOut  [16]uint64
	BytesIn     uint64    // of whole packets
	MessagesIn  [3]uint64 // by QoS
	MessagesOut [3]uint64
	PayloadIn   uint64 // bytes
	PayloadOut  uint64
	Dropped     [dropReasons]uint64
	Connects    [256]uint64 // by wire.ReasonCode of the CONNACK, in MQTT 5's codes whatever the version
	Disconnects [256]uint64 // by wire.ReasonCode that the connection ended with, given by either side
	Lost        uint64      // connections that ended without a DISCONNECT from either side
	Late        uint64      // messages found to be late, of those that were looked at (Settings.SlowThreshold)
	Misbehaved  uint64      // log lines about clients, left out ones included
}

// add sums o into c.
func (c *Counters) add(o *Counters) {
	c.Open += o.Open
	c.Connected += o.Connected
	c.BytesIn += o.BytesIn
	c.PayloadIn += o.PayloadIn
	c.PayloadOut += o.PayloadOut
	c.Lost += o.Lost
	c.Misbehaved += o.Misbehaved
	c.Late += o.Late
	for _, s := range []struct{ to, from []uint64 }{
		{c.PacketsIn[:], o.PacketsIn[:]}, {c.PacketsOut[:], o.PacketsOut[:]}, {c.MessagesIn[:], o.MessagesIn[:]},
		{c.MessagesOut[:], o.MessagesOut[:]}, {c.Dropped[:], o.Dropped[:]}, {c.Connects[:], o.Connects[:]},
		{c.Disconnects[:], o.Disconnects[:]},
	} {
		for i, v := range s.from {
			s.to[i] += v
		}
	}
}

// published is the copy of a loop's counters that others may read. The loop refreshes it once a second.
type published struct {
	sync.Mutex
	Counters
}

// Snapshot sums the counters of all loops, as they were at most a second ago. Any goroutine may call it.
func (h *Handler) Snapshot() Counters {
	var sum Counters
	for _, l := range h.loops {
		l.shown.Lock()
		sum.add(&l.shown.Counters)
		l.shown.Unlock()
	}
	return sum
}

// show publishes the loop's counters.
func (l *loopState) show() {
	l.shown.Lock()
	l.shown.Counters = l.n
	l.shown.Unlock()
}

// sent counts an outgoing packet.
func (l *loopState) sent(t wire.PacketType) { l.n.PacketsOut[t&15]++ }
