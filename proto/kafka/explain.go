package kafka

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

// pauses are the reasons for which a connection is not read from, as others know them. That its client reads too slowly shows by itself.
var pauses = []struct {
	block uint8
	why   broker.ReadPause
}{
	{blockOrder, broker.PauseOrder}, {blockBusy, broker.PauseLog}, {blockQuota, broker.PauseQuota}, {blockJoin, broker.PauseAnswers},
	{blockLeader, broker.PauseConnect},
}

// Explain shows what the connection holds and waits for; ok false: it is on its way out. On its loop. It asks the kernel once.
func (c *conn) Explain() (s broker.ClientState, ok bool) {
	if c.closing {
		return s, false
	}
	s = broker.ClientState{OutBytes: c.link.Queued(), OutBound: queuedMax, OutFull: queuedMax, Unanswered: int(c.running)}
	if m, ok := c.link.(socketMeter); ok {
		s.Stalled = m.Stalled()
		if k, ok := m.Socket(); ok {
			s.Network = &broker.NetworkState{Unsent: k.Unsent, Full: k.Full, Repeats: k.Repeats, RTT: k.RTT}
		}
	}
	for _, p := range pauses {
		if c.blocked&p.block != 0 {
			s.NotRead = append(s.NotRead, p.why)
		}
	}
	if c.quota != nil && c.blocked&blockQuota != 0 {
		s.ReadOwed = max(time.Duration(c.quota.until-c.l.loop.NowMono()), 1)
	}
	return s, true
}
