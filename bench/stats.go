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
	batches, produces, fetches uint64 // of Kafka, in the measured part
	stalls                     uint64
	held                       uint64 // sends that the broker held up

	delivery *hdrhistogram.Histogram // from the intended time
	lateness *hdrhistogram.Histogram // of sends that nothing but the generator held up
	connects *hdrhistogram.Histogram // from dialing to CONNACK
}

func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(1, histMax, histDigits) }

func (s *stats) init() {
	s.delivery, s.lateness, s.connects = newHist(), newHist(), newHist()
}

func (s *stats) latency(ns int64) { observe(s.delivery, ns) }
func (s *stats) connect(ns int64) { observe(s.connects, ns) }

func observe(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/histUnit, 1), histMax)) // in range, so it cannot fail
}

// send notes how late a message goes out. held: the broker was the cause.
func (s *stats) send(late int64, held, measured bool) {
	switch {
	case held:
		s.held++
	case measured:
		observe(s.lateness, late)
	}
}

// merge adds o to s.
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
	s.batches += o.batches
	s.produces += o.produces
	s.fetches += o.fetches
	s.stalls += o.stalls
	s.held += o.held
	s.delivery.Merge(o.delivery)
	s.lateness.Merge(o.lateness)
	s.connects.Merge(o.connects)
}
