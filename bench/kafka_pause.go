package bench

import (
	"fmt"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A pause of a partition is a time in which records of it waited for their acknowledgement, and none came: from the last acknowledgement, or from
// when the oldest record that waits was meant to be sent if that is later, to the next acknowledgement. So a partition to which nobody sends has none.

// acknowledged notes an acknowledgement of a batch whose first record was meant to be sent at intended.
func (p *kpart) acknowledged(now, intended int64, counts bool) {
	if since := max(p.ackedAt.Swap(now), intended); counts {
		p.paused(since, now)
	}
}

// paused notes a pause.
func (p *kpart) paused(since, until int64) {
	for {
		longest := p.pause.Load()
		if until-since <= longest {
			return
		}
		if p.pause.CompareAndSwap(longest, until-since) {
			p.pauseEnd.Store(until)
			return
		}
	}
}

// KafkaPause is the longest time of a partition in which records waited and none was acknowledged.
type KafkaPause struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Millis    float64 `json:"ms"`
	Second    float64 `json:"second"` // of the run, in which it ended
}

// KafkaPauses are the longest pauses of all partitions to which something was sent.
type KafkaPauses struct {
	Partitions int          `json:"partitions"`
	Longest    float64      `json:"longest_ms"`
	Median     float64      `json:"median_ms"`
	OverSecond int          `json:"over_a_second"` // of Partitions
	Worst      []KafkaPause `json:"worst"`         // the longest first, pausesMax at most
}

// pausesMax bounds how many partitions a result names.
const pausesMax = 100

// pauses sums up the pauses. The loops have stopped.
func (r *kafkaRun) pauses() *KafkaPauses {
	end := min(r.clock(), max(r.stopAt.Load(), r.measureUntil.Load()))
	if from := r.measureFrom.Load(); r.k.Acks != 0 && from != math.MaxInt64 { // what was never acknowledged waits until the end
		for _, p := range r.producers {
			p.unsettled(func(b *kbatch) {
				if part := b.lane.part; end > b.intended {
					part.paused(max(part.ackedAt.Load(), b.intended, from), end)
				}
			})
		}
	}
	var list []KafkaPause
	for _, p := range r.parts {
		if ns := p.pause.Load(); ns > 0 {
			list = append(list, KafkaPause{p.topic.name, p.index, float64(ns) / 1e6, seconds(p.pauseEnd.Load())})
		}
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, func(a, b KafkaPause) int {
		switch {
		case a.Millis > b.Millis:
			return -1
		case a.Millis < b.Millis:
			return 1
		}
		return 0
	})
	x := &KafkaPauses{Partitions: len(list), Longest: list[0].Millis, Median: list[len(list)/2].Millis}
	for _, p := range list {
		if p.Millis > 1000 {
			x.OverSecond++
		}
	}
	x.Worst = list[:min(len(list), pausesMax)]
	if most := r.k.PauseMax; most > 0 {
		for _, p := range list {
			if p.Millis > float64(most)/1e6 {
				r.result.total.marks[faultPaused].add(int64(p.Second*1e9), 1)
			}
		}
	}
	return x
}

// pauseRows are the rows about pauses.
func (x *KafkaPauses) rows(row func(string, string, ...any)) {
	w := x.Worst[0]
	row("longest pause", "%.0f ms without an acknowledgement: %s/%d, up to second %.1f; median of %d partitions %.0f ms, %d over a second",
		x.Longest, w.Topic, w.Partition, w.Second, x.Partitions, x.Median, x.OverSecond)
}

// nodeStats are what a loop's connections to a node have done.
type nodeStats struct {
	acked, ackedMeasured, ackedBytes uint64
	received, receivedMeasured       uint64
	receivedBytes                    uint64
	lost                             uint64 // connections
	acks, delivery                   *hdrhistogram.Histogram
}

// statsOf gives the counters of a node on the loop.
func (r *kafkaRun) statsOf(l *loop, node int32) *nodeStats {
	m := r.byNode[l.id]
	if m[node] == nil {
		m[node] = &nodeStats{}
	}
	return m[node]
}

// KafkaNode is what a node of several did.
type KafkaNode struct {
	ID         int32         `json:"id"`
	Address    string        `json:"address"`
	Partitions int           `json:"partitions"` // that it leads at the end
	Acked      uint64        `json:"acked"`      // records
	Received   uint64        `json:"received"`   // records
	AckedRate  float64       `json:"acked_per_second,omitempty"`
	ReadRate   float64       `json:"received_per_second,omitempty"`
	AckedMB    float64       `json:"acked_mb_per_second,omitempty"`
	ReceivedMB float64       `json:"received_mb_per_second,omitempty"`
	Lost       uint64        `json:"connections_lost"`
	Acks       *Distribution `json:"ack_us,omitempty"`
	Latency    *Distribution `json:"latency_us,omitempty"` // from the intended time to delivery
}

// nodeResults adds up what the loops have counted for each node.
func (r *kafkaRun) nodeResults(seconds float64) (list []KafkaNode) {
	t := r.nodes.table.Load()
	if t == nil || len(t.nodes) < 2 {
		return nil
	}
	leads := map[int32]int{}
	for _, l := range t.leaders {
		leads[l.node]++
	}
	per := func(n uint64) float64 { return float64(n) / max(seconds, 1e-9) }
	for id, node := range t.nodes {
		x := KafkaNode{ID: id, Address: node.target.Addr, Partitions: leads[id]}
		acks, delivery := newHist(), newHist()
		for _, m := range r.byNode {
			s := m[id]
			if s == nil {
				continue
			}
			x.Acked += s.acked
			x.Received += s.received
			x.Lost += s.lost
			if seconds > 0 {
				x.AckedRate += per(s.ackedMeasured)
				x.ReadRate += per(s.receivedMeasured)
				x.AckedMB += per(s.ackedBytes) / 1e6
				x.ReceivedMB += per(s.receivedBytes) / 1e6
			}
			if s.acks != nil {
				acks.Merge(s.acks)
			}
			if s.delivery != nil {
				delivery.Merge(s.delivery)
			}
		}
		x.Acks, x.Latency = distribution(acks), distribution(delivery)
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b KafkaNode) int { return int(a.ID - b.ID) })
	return list
}

// rows are the rows about a node.
func (x *KafkaNode) rows(row func(string, string, ...any)) {
	name := fmt.Sprintf("node %d", x.ID)
	text := fmt.Sprintf("%s, leads %d partitions, %d records acknowledged (%.0f/s, %.1f MB/s), %d received", x.Address, x.Partitions, x.Acked, x.AckedRate, x.AckedMB, x.Received)
	if x.ReceivedMB > 0 {
		text += fmt.Sprintf(" (%.0f/s, %.1f MB/s)", x.ReadRate, x.ReceivedMB)
	}
	if x.Lost > 0 {
		text += fmt.Sprintf(", %d connections lost", x.Lost)
	}
	row(name, "%s", text)
	for _, d := range []struct {
		what string
		d    *Distribution
	}{{"acknowledged µs", x.Acks}, {"latency µs", x.Latency}} {
		if d.d != nil {
			row(name, "%s p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f", d.what, d.d.P50, d.d.P90, d.d.P99, d.d.P999, d.d.Max)
		}
	}
}
