package pace

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

// run tells a meter of so many seconds of work, four times in each.
func (w *work) run(seconds int, done, more int64) {
	for range 4 * seconds {
		w.clk.Advance(250 * time.Millisecond)
		w.done, w.total = w.done+done/4, w.total+more/4
		w.m.See(w.done, w.total)
	}
}

type work struct {
	clk         *clock.Manual
	m           *Meter
	done, total int64
}

func newWork(total int64) *work {
	clk := clock.NewManual(time.Unix(0, 0))
	w := &work{clk: clk, m: NewMeter(clk), total: total}
	w.m.See(0, total)
	return w
}

func near(got, want, by float64) bool { return got > want-by && got < want+by }

// The estimate is what is left over what is done more than comes.
func TestMeter(t *testing.T) {
	w := newWork(100_000)
	if p := w.m.Progress(); p != (Progress{Total: 100_000, Left: Unknown}) {
		t.Errorf("of what has just begun it says %+v", p)
	}
	w.run(10, 1000, 0)
	if p := w.m.Progress(); p.Done != 10_000 || p.Total != 100_000 || !near(float64(p.Rate), 1000, 5) || !near(p.Left.Seconds(), 90, 1) {
		t.Errorf("of a steady one it says %+v", p)
	}
	w.run(30, 1000, 500)
	if p := w.m.Progress(); p.Total != 115_000 || !near(float64(p.Rate), 1000, 5) || !near(p.Left.Seconds(), 75_000/500, 2) {
		t.Errorf("while more comes it says %+v", p)
	}
	w.run(30, 2000, 0)
	if p := w.m.Progress(); !near(float64(p.Rate), 2000, 10) || !near(p.Left.Seconds(), float64(w.total-w.done)/2000, 1) {
		t.Errorf("of one that goes faster now it says %+v", p)
	}
}

func TestMeterSaysNever(t *testing.T) {
	w := newWork(100_000)
	w.run(2, 1000, 1500)
	if p := w.m.Progress(); p.Left != Unknown {
		t.Errorf("after two seconds it says %+v", p)
	}
	w.run(20, 1000, 1500)
	if p := w.m.Progress(); p.Left != Never {
		t.Errorf("of one to which more comes than is done it says %+v", p)
	}
	w.run(60, 1000, 0)
	if p := w.m.Progress(); p.Left < time.Second || p.Left > 2*time.Minute {
		t.Errorf("when no more comes it says %+v", p)
	}
	w.run(120, 0, 0)
	if p := w.m.Progress(); p.Left != Unknown || p.Rate != 0 {
		t.Errorf("of one that stands still it says %+v", p)
	}
}

func TestMeterEnds(t *testing.T) {
	w := newWork(10_000)
	w.run(10, 1000, 0)
	if p := w.m.Progress(); p.Left != 0 || p.Done != p.Total {
		t.Errorf("at the end it says %+v", p)
	}
	w.m.See(11_000, 10_000) // it is more than was thought
	if p := w.m.Progress(); p.Total != 11_000 || p.Left != 0 {
		t.Errorf("behind the end it says %+v", p)
	}
}

// What is told at once again changes no rate.
func TestMeterTakesItsTime(t *testing.T) {
	w := newWork(100_000)
	w.run(10, 1000, 0)
	before := w.m.Progress().Rate
	for range 100 {
		w.clk.Advance(time.Millisecond)
		w.m.See(w.done, w.total)
	}
	if got := w.m.Progress().Rate; got != before {
		t.Errorf("the rate is %d, and was %d", got, before)
	}
}
