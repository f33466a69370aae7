package kafka

import (
	"sync/atomic"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// counters are one loop's, written by it alone.
type counters struct {
	open              int64
	requests          [apiKeys]uint64
	bytesIn, bytesOut uint64
	broken            uint64 // connections ended because of what the client sent
	followed          uint64 // bytes of records that were read here while another node led
	sentNearer        uint64 // readers of a partition that were sent to a follower
	sentBack          uint64 // and to the leader
}

// published is a copy of counters that any goroutine may read.
type published struct{ now atomic.Pointer[counters] }

func (p *published) show(c *counters) {
	n := *c
	p.now.Store(&n)
}

// Counters are what a node's Kafka connections have done, once a second.
type Counters struct {
	Open              int64
	Requests          map[string]uint64 // by API
	BytesIn, BytesOut uint64
	Broken            uint64
	Followed          uint64 // bytes of records that were read here while another node led
	SentNearer        uint64 // readers of a partition that were sent to a follower in their rack
	SentBack          uint64 // and to the leader, by a follower
}

// Snapshot sums up the loops.
func (h *Handler) Snapshot() Counters {
	s := Counters{Requests: make(map[string]uint64)}
	for k, serve := range served {
		if serve != nil {
			s.Requests[wire.APIKey(k).String()] = 0
		}
	}
	for _, l := range h.loops {
		c := l.shown.now.Load()
		if c == nil {
			continue
		}
		s.Open += c.open
		s.BytesIn += c.bytesIn
		s.BytesOut += c.bytesOut
		s.Broken += c.broken
		s.Followed += c.followed
		s.SentNearer += c.sentNearer
		s.SentBack += c.sentBack
		for k, n := range c.requests {
			if n > 0 {
				s.Requests[wire.APIKey(k).String()] += n
			}
		}
	}
	return s
}
