package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
)

// socketMeter is what a link knows of how its peer takes what it is sent.
type socketMeter interface {
	Stalled() time.Duration
	Socket() (engine.SocketState, bool)
}

var _ socketMeter = (*engine.Conn)(nil)

// pauses are the reasons for which a connection is not read from, as others know them.
var pauses = []struct {
	block uint8
	why   broker.ReadPause
}{
	{blockConnect, broker.PauseConnect}, {blockBusy, broker.PauseLog}, {blockAcks, broker.PauseAnswers}, {blockRequests, broker.PauseRequests},
	{blockQuota, broker.PauseQuota}, {blockAuto, broker.PauseRequests}, {blockTenant, broker.PauseTenant},
}

// Explain shows what the connection holds and waits for; ok false: nobody has come in by it yet. On its loop. It asks the kernel once.
func (c *conn) Explain() (s broker.ClientState, ok bool) {
	if c.state != stateUp || c.client == nil {
		return s, false
	}
	now, h := c.l.loop.NowMono(), c.l.h
	s = broker.ClientState{ReceiveMax: int(c.receiveMax), Window: c.window(), OutBytes: c.link.Queued(), OutBound: h.queueBytes(),
		OutFull: h.settings.Load().QueueBytes, Pressure: int(h.pressure.Load()), Core: c.l.core.Waits(c.client)}
	if m, ok := c.link.(socketMeter); ok {
		s.Stalled = m.Stalled()
		if k, ok := m.Socket(); ok {
			s.Network = &broker.NetworkState{Unsent: k.Unsent, Full: k.Full, Repeats: k.Repeats, RTT: k.RTT}
		}
	}
	if c.out != nil && c.out.flight.len() > 0 {
		s.Silent = max(time.Duration(now-c.out.heard), 1)
	}
	if c.in != nil {
		s.Unanswered = c.in.acks.len()
	}
	for _, p := range pauses {
		if c.blocked&p.block != 0 {
			s.NotRead = append(s.NotRead, p.why)
		}
	}
	x := c.extra
	if x == nil {
		return s, true
	}
	if q := x.quota; q != nil {
		if c.flags&flagOverQuota != 0 {
			s.SendOwed = max(q.use.Owed(broker.QuotaConsume, now), 1)
		}
		if c.blocked&blockQuota != 0 {
			s.ReadOwed = max(q.use.Owed(broker.QuotaProduce, now), min(q.use.Owed(broker.QuotaRequest, now), requestThrottleMax), 1)
		}
	}
	if c.flags&flagOverTenant != 0 {
		s.SendOwed = max(s.SendOwed, c.who.use.OwedOut(now), 1)
	}
	if c.blocked&blockTenant != 0 {
		s.ReadOwed = max(s.ReadOwed, c.who.use.OwedIn(now), 1)
	}
	if x.drops != nil {
		for why, n := range x.drops {
			if n > 0 {
				s.Dropped = append(s.Dropped, broker.DropCount{Reason: Drop(why).String(), N: n})
			}
		}
	}
	return s, true
}

// dropped counts a message of the connection's client, or to it, that is not given on.
func (c *conn) dropped(why Drop) {
	c.l.n.Dropped[why]++
	if c.l.fate != fateUnasked {
		c.l.fate = fateDropped + fate(why)
	}
	x := c.extras()
	if x.drops == nil {
		x.drops = new([dropReasons]uint64)
	}
	x.drops[why]++
}
