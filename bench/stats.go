package bench

import "github.com/HdrHistogram/hdrhistogram-go"

// Histograms count tenths of a microsecond, up to ten minutes, to three digits.
const (
	histUnit   = 100 // ns
	histMax    = int64(600e9 / histUnit)
	histDigits = 3
)

// stats are a loop's counters. Those named Measured and the histograms are of the measured part of the run alone, the
// others of all of it.
type stats struct {
	sent, sentMeasured         uint64
	acked, cleared             uint64 // cleared: of what was acked, no messages of the run
	received, receivedMeasured uint64 // deliveries
	fresh                      uint64 // deliveries of a message not delivered before
	duplicates, reordered      uint64
	corrupt, stray             uint64
	dup                        uint64 // deliveries with the DUP flag
	resent                     uint64 // QoS 2 packets sent again within their handshake
	sentBytes, receivedBytes   uint64 // of batches, in the measured part
	stalls                     uint64
	held                       uint64 // sends that the broker held up

	tally    tally
	marks    [faultKinds]mark
	cutting  cutting                 // of the second under way
	connects *hdrhistogram.Histogram // from dialing to CONNACK

	// Of the whole measured part, set when the run is over: until then they are in pieces (series.go).
	delivery, acks, lateness *hdrhistogram.Histogram
}

// cutting is what a loop measures in one second: handed over at its end, and replaced by an empty one. Nothing is counted in
// two histograms, so that a message costs the generator one.
type cutting struct {
	delivery split                   // from the intended time
	acks     split                   // likewise, to the acknowledgement
	lateness *hdrhistogram.Histogram // of sends of the measured part that nothing but the generator held up
}

// split is a histogram of what does not belong to the measured part, and one of what does. Each is made when it is needed.
type split [2]*hdrhistogram.Histogram

func (p *split) observe(ns int64, measured bool) {
	h := &p[0]
	if measured {
		h = &p[1]
	}
	observeIn(h, ns)
}

func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(1, histMax, histDigits) }

func (s *stats) init() {
	s.connects = newHist()
}

func (s *stats) latency(ns int64, measured bool) { s.cutting.delivery.observe(ns, measured) }
func (s *stats) ack(ns int64, measured bool)     { s.cutting.acks.observe(ns, measured) }
func (s *stats) connect(ns int64)                { observe(s.connects, ns) }

func observe(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/histUnit, 1), histMax)) // in range, so it cannot fail
}

// observeIn counts in *h, which it makes when there is none.
func observeIn(h **hdrhistogram.Histogram, ns int64) {
	if *h == nil {
		*h = newHist()
	}
	observe(*h, ns)
}

// send notes how late a message goes out. held: the broker was the cause.
func (s *stats) send(late int64, held, measured bool) {
	switch {
	case held:
		s.held++
	case measured:
		observeIn(&s.cutting.lateness, late)
	}
}

// merge adds the counters of o to s.
func (s *stats) merge(o *stats) {
	s.sent += o.sent
	s.sentMeasured += o.sentMeasured
	s.acked += o.acked
	s.cleared += o.cleared
	s.received += o.received
	s.receivedMeasured += o.receivedMeasured
	s.fresh += o.fresh
	s.duplicates += o.duplicates
	s.reordered += o.reordered
	s.corrupt += o.corrupt
	s.stray += o.stray
	s.dup += o.dup
	s.resent += o.resent
	s.sentBytes += o.sentBytes
	s.receivedBytes += o.receivedBytes
	s.stalls += o.stalls
	s.held += o.held
	s.tally.add(&o.tally)
	for k := range o.marks {
		s.marks[k].merge(&o.marks[k])
	}
	s.connects.Merge(o.connects)
}
