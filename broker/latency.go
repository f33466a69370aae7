package broker

import (
	"sync/atomic"
	"time"
)

// Latencies are what users feel, each as a histogram for Prometheus to read at any time. Nothing is timed message by message: what a turn of a
// loop, a pending list or a bundle has in common is timed once, from its first message on, so a message counts as at least as late as it was.
type Latencies struct {
	Ack      Latency // of QoS 1 and 2: from the turn in which PUBLISH was read to that in which its acknowledgement is written
	Delivery Latency // from there to the turn in which it is handed to a connection that keeps up
	Fetch    Latency // a read of the log for sessions that are behind, or for a stream's readers
}

// latencyBuckets are powers of two from 10 µs on, up to 5 s.
const latencyBuckets = 20

// Latency counts durations by buckets. Any goroutine may add and read.
type Latency struct {
	buckets [latencyBuckets + 1]atomic.Uint64
	nanos   atomic.Int64
}

// observe counts n that took d each.
func (h *Latency) observe(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	i, bound := 0, 10*time.Microsecond
	for ; i < latencyBuckets && d > bound; i++ {
		bound *= 2
	}
	h.buckets[i].Add(n)
	h.nanos.Add(int64(d) * int64(n))
}

// Snapshot gives the count, the sum in seconds, and how many took at most so many seconds.
func (h *Latency) Snapshot() (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, latencyBuckets)
	bound := 10 * time.Microsecond
	for i := range h.buckets {
		count += h.buckets[i].Load()
		if i < latencyBuckets {
			buckets[bound.Seconds()] = count
			bound *= 2
		}
	}
	return count, time.Duration(h.nanos.Load()).Seconds(), buckets
}

// turnTimes is what one turn of a loop has to time.
type turnTimes struct {
	began time.Duration // when its first message came, by the clock's Mono; 0: none has
	since time.Duration // the same of the messages that are handed out right now
	acked uint64
	given uint64
}

// begin notes that a message has come.
func (l *Local) begin() {
	if l.times.began == 0 {
		l.times.began = l.b.clock.Mono()
	}
	l.times.since = l.times.began
}

// given counts what handing out since a time has given, by fn.
func (l *Local) timed(since time.Duration, fn func()) {
	was, before := l.times.since, l.times.given
	l.times.since = since
	fn()
	if n := l.times.given - before; n > 0 && since > 0 {
		l.b.latencies.Delivery.observe(l.b.clock.Mono()-since, n)
	}
	l.times.since, l.times.given = was, before
}

// sinceAtMost notes when a message of the list has come: the list is as old as its oldest.
func (p *pending) sinceAtMost(at time.Duration) {
	if p.since == 0 || at < p.since {
		p.since = at
	}
}

// endTimes ends the turn.
func (l *Local) endTimes() {
	t := &l.times
	if t.began != 0 {
		d := l.b.clock.Mono() - t.began
		l.b.latencies.Ack.observe(d, t.acked)
		l.b.latencies.Delivery.observe(d, t.given)
	}
	*t = turnTimes{}
}

// Latencies gives the histograms.
func (b *Broker) Latencies() *Latencies { return &b.latencies }
