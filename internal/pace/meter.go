package pace

import (
	"math"
	"sync"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

// Progress is how far work is that takes long.
type Progress struct {
	Done, Total int64 // bytes; Total grows where more comes meanwhile
	Rate        int64 // bytes a second that were done lately; 0: none, or not known yet
	// Left is how long the rest takes, if all goes on as it did lately: Unknown, Never, or a time.
	Left time.Duration
}

// What Progress.Left says beside times.
const (
	Unknown time.Duration = -1 // too little was seen yet, or nothing is done
	Never   time.Duration = -2 // more comes than is done
)

const (
	meterStep  = 200 * time.Millisecond // what comes sooner changes no rate
	meterFade  = 5 * time.Second        // what is so long ago counts for a third
	meterKnown = time.Second            // before that nothing is said
	meterMost  = 10 * 365 * 24 * time.Hour
)

// Meter measures how fast work goes, and how fast more of it comes: both as averages that forget. It is safe for concurrent use.
type Meter struct {
	clk clock.Clock
	mu  struct {
		sync.Mutex
		begun       bool
		done, total int64         // as told last
		at          time.Duration // of what the averages have
		atDone      int64
		atTotal     int64
		seen        time.Duration // how long it was measured
		weight      float64       // of what the averages have, towards 1: there was nothing before they began
		rate, grow  float64       // bytes a second, by weight
	}
}

// NewMeter makes one. Nothing was done yet.
func NewMeter(clk clock.Clock) *Meter { return &Meter{clk: clk} }

// See tells it how far the work is. It is called now and then, the more often the better.
func (m *Meter) See(done, total int64) {
	now := m.clk.Mono()
	m.mu.Lock()
	defer m.mu.Unlock()
	total = max(done, total)
	s := &m.mu
	s.done, s.total = done, total
	if !s.begun {
		s.begun, s.at, s.atDone, s.atTotal = true, now, done, total
		return
	}
	d := now - s.at
	if d < meterStep {
		return
	}
	fade := math.Exp(-d.Seconds() / meterFade.Seconds())
	s.rate = s.rate*fade + (1-fade)*float64(max(done-s.atDone, 0))/d.Seconds()
	s.grow = s.grow*fade + (1-fade)*float64(max(total-s.atTotal, 0))/d.Seconds()
	s.weight = s.weight*fade + 1 - fade
	s.seen += d
	s.at, s.atDone, s.atTotal = now, done, total
}

// Progress is how far the work is, by what it was told last.
func (m *Meter) Progress() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.mu
	p := Progress{Done: s.done, Total: s.total, Left: Unknown}
	rate, grow := 0.0, 0.0
	if s.seen >= meterKnown {
		rate, grow = s.rate/s.weight, s.grow/s.weight
		p.Rate = int64(rate)
	}
	left := float64(s.total-s.done) / (rate - grow)
	switch {
	case s.begun && s.done >= s.total:
		p.Left = 0
	case rate < 1: // it stands still: nobody knows
	case rate <= grow:
		if s.seen >= meterFade {
			p.Left = Never
		}
	case left < meterMost.Seconds():
		p.Left = time.Duration(left * float64(time.Second))
	}
	return p
}
