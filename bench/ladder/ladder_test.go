package ladder_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/ladder"
)

// queue is a broker with one server and exponential times, of which the answers are known: p99 is ln(100)/(capacity-rate).
type queue struct {
	capacity float64
	noise    float64 // of each figure, up and down
	rng      *rand.Rand
	runs     int
}

func (q *queue) run(_ context.Context, rate float64) (*bench.Result, error) {
	q.runs++
	d := &bench.Distribution{Count: 1000, P50: 1e6, P99: 1e6}
	res := &bench.Result{OK: true, Latency: d, Rates: bench.Rates{SentPerSecond: rate}}
	if free := q.capacity - rate; free > 0 {
		d.P50 = math.Log(2) / free * 1e6
		d.P99 = math.Log(100) / free * 1e6 * (1 + q.noise*(2*q.rng.Float64()-1))
	} else {
		res.Rates.SentPerSecond = q.capacity
	}
	return res, nil
}

func newQueue(capacity, noise float64) *queue {
	return &queue{capacity: capacity, noise: noise, rng: rand.New(rand.NewPCG(1, 2))}
}

func options(t *testing.T, run func(context.Context, float64) (*bench.Result, error)) ladder.Options {
	t.Helper()
	o, err := bench.ParseObjective("p99 < 5ms")
	if err != nil {
		t.Fatal(err)
	}
	return ladder.Options{Scenario: "test", Objective: o, From: 1000, To: 1e6, Growth: 2, Precision: 0.05, Repeats: 3, MaxTime: time.Hour, Run: run}
}

// TestKneeIsInTheInterval: whatever the capacity, the interval holds the rate at which p99 crosses the objective.
func TestKneeIsInTheInterval(t *testing.T) {
	for _, capacity := range []float64{1100, 1950, 3000, 9000, 45_000, 123_456, 800_000} {
		q := newQueue(capacity, 0)
		a, err := ladder.Climb(t.Context(), options(t, q.run))
		if err != nil {
			t.Fatal(err)
		}
		knee := capacity - math.Log(100)/0.005
		if a.Held > knee || a.Missed < knee || a.Rule != ladder.RuleObjective || a.Partial {
			t.Errorf("capacity %.0f: %.0f to %.0f does not hold %.0f, %s (%s)", capacity, a.Held, a.Missed, knee, a.Rule, a.Reason)
		}
		if a.Missed-a.Held > 0.05*a.Missed+1 {
			t.Errorf("capacity %.0f: %.0f to %.0f is wide", capacity, a.Held, a.Missed)
		}
		for _, r := range a.Rungs {
			if near := r.Rate == a.Held || r.Rate == a.Missed; near && len(r.Runs) < 3 {
				t.Errorf("the rung at %.0f was run %d times", r.Rate, len(r.Runs))
			}
		}
		if q.runs > 60 {
			t.Errorf("capacity %.0f took %d runs", capacity, q.runs)
		}
	}
}

// TestNoise: with figures that are 10 % up and down, the interval is within 10 % of the knee.
func TestNoise(t *testing.T) {
	q := newQueue(20_000, 0.1)
	a, err := ladder.Climb(t.Context(), options(t, q.run))
	knee := 20_000 - math.Log(100)/0.005
	if err != nil || a.Held < 0.9*knee || a.Missed > 1.1*knee || len(a.Rungs) < 6 {
		t.Errorf("%.0f to %.0f, knee %.0f, %v", a.Held, a.Missed, knee, err)
	}
	for _, r := range a.Rungs {
		if r.Rate == a.Held && (len(r.Bounds) != 1 || r.Bounds[0].Low >= r.Bounds[0].High || r.Bounds[0].Median < r.Bounds[0].Low) {
			t.Errorf("spread %+v", r.Bounds)
		}
	}
}

func TestRules(t *testing.T) {
	q := newQueue(20_000, 0)
	void := func(above float64) func(context.Context, float64) (*bench.Result, error) {
		return func(ctx context.Context, rate float64) (*bench.Result, error) {
			res, err := q.run(ctx, rate)
			if rate > above {
				res.Void, res.OK, res.Latency.P99 = "the generator is late", false, 1e6
			}
			return res, err
		}
	}
	for name, tt := range map[string]struct {
		change       func(o *ladder.Options)
		rule         string
		reason       string
		held, missed float64 // at most, at least
		partial      bool
	}{
		"max rate": {change: func(o *ladder.Options) { o.To = 5000 }, rule: ladder.RuleMaxRate, reason: "5000", held: 5000},
		"generator": {change: func(o *ladder.Options) { o.Run = void(6000) }, rule: ladder.RuleGenerator, reason: "the generator is late",
			held: 6000},
		"sockets": {change: func(o *ladder.Options) {
			o.Run = func(context.Context, float64) (*bench.Result, error) {
				return nil, &bench.LackError{Detail: "open files"}
			}
		}, rule: ladder.RuleGenerator, reason: "open files"},
		"violation": {change: func(o *ladder.Options) {
			o.Run = func(ctx context.Context, rate float64) (*bench.Result, error) {
				res, err := q.run(ctx, rate)
				if rate > 3000 {
					res.Violations, res.OK = []string{"CORRUPT: 1 deliveries are not what was sent"}, false
				}
				return res, err
			}
		}, rule: ladder.RuleViolation, reason: "CORRUPT", held: 2000, partial: true},
		"loss is a miss": {change: func(o *ladder.Options) {
			o.Run = func(ctx context.Context, rate float64) (*bench.Result, error) {
				res, err := q.run(ctx, rate)
				if rate > 3000 {
					res.Violations, res.OK = []string{"LOST: 1 deliveries"}, false
				}
				return res, err
			}
		}, rule: ladder.RuleObjective, reason: "LOST", held: 3000, missed: 3000},
		"max time": {change: func(o *ladder.Options) { o.Each = 2 * time.Hour }, rule: ladder.RuleMaxTime, reason: "a run takes 2h", partial: true},
		"downwards": {change: func(o *ladder.Options) { o.From = 500_000 }, rule: ladder.RuleObjective, reason: "not p99 < 5ms",
			held: 19_079, missed: 19_079},
		"nothing holds": {change: func(o *ladder.Options) { o.Run = newQueue(900, 0).run }, rule: ladder.RuleObjective, reason: "p99", missed: 1},
		"own lateness": {change: func(o *ladder.Options) {
			o.Run = func(ctx context.Context, rate float64) (*bench.Result, error) {
				res, err := q.run(ctx, rate)
				if rate > 6000 {
					res.Latency.P99, res.Generator.Late = 6000, &bench.Distribution{P99: 4000}
				}
				return res, err
			}
		}, rule: ladder.RuleGenerator, reason: "4000 µs late", held: 6000},
	} {
		o := options(t, q.run)
		tt.change(&o)
		a, err := ladder.Climb(t.Context(), o)
		if err != nil || a.Rule != tt.rule || !strings.Contains(a.Reason, tt.reason) || a.Partial != tt.partial {
			t.Errorf("%s: %v, %s (%s), partial %v", name, err, a.Rule, a.Reason, a.Partial)
		}
		if a.Held > tt.held || a.Held < 0.94*tt.held-1 || a.Missed < tt.missed || tt.missed == 0 && a.Missed > 0 {
			t.Errorf("%s: %.0f to %.0f, want %.0f to %.0f", name, a.Held, a.Missed, tt.held, tt.missed)
		}
	}
}

// TestInterrupted: what was found until then is there, and marked.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := newQueue(20_000, 0)
	o := options(t, func(ctx context.Context, rate float64) (*bench.Result, error) {
		if q.runs == 4 {
			cancel()
		}
		return q.run(ctx, rate)
	})
	a, err := ladder.Climb(ctx, o)
	if err != nil || !a.Partial || a.Rule != ladder.RuleInterrupted || a.Held != 8000 || len(a.Rungs) != 4 {
		t.Errorf("%v, %+v", err, a)
	}
}

// TestBroken: a broker that is not there is said at once; one that goes away ends the ladder after some tries.
func TestBroken(t *testing.T) {
	gone := errors.New("connection refused")
	a, err := ladder.Climb(t.Context(), options(t, func(context.Context, float64) (*bench.Result, error) { return nil, gone }))
	if !errors.Is(err, gone) || a.Held != 0 {
		t.Errorf("%v, %+v", err, a)
	}
	q := newQueue(20_000, 0)
	a, err = ladder.Climb(t.Context(), options(t, func(ctx context.Context, rate float64) (*bench.Result, error) {
		if q.runs > 2 {
			return nil, gone
		}
		return q.run(ctx, rate)
	}))
	if err != nil || a.Rule != ladder.RuleBroken || !a.Partial || a.Held != 4000 {
		t.Errorf("%v, %+v", err, a)
	}
	a, err = ladder.Climb(t.Context(), options(t, func(context.Context, float64) (*bench.Result, error) {
		return nil, &bench.LackError{Detail: "open files"}
	}))
	if err != nil || a.Rule != ladder.RuleGenerator || len(a.Rungs) != 3 {
		t.Errorf("%v, %s after %d rungs", err, a.Rule, len(a.Rungs))
	}
	if _, err := ladder.Climb(t.Context(), ladder.Options{}); err == nil {
		t.Error("no options are taken")
	}
}

// TestMixed: each part must hold.
func TestMixed(t *testing.T) {
	a, err := ladder.Climb(t.Context(), options(t, func(_ context.Context, rate float64) (*bench.Result, error) {
		part := func(name string, p99 float64) *bench.Result {
			return &bench.Result{Name: name, Latency: &bench.Distribution{P99: p99}}
		}
		return &bench.Result{Rates: bench.Rates{SentPerSecond: rate}, Parts: []*bench.Result{part("fast", 10), part("slow", rate/2), {Name: "idle"}}}, nil
	}))
	if err != nil || a.Held >= 10_000 || a.Missed < 10_000 || !strings.Contains(a.Reason, "slow: p99 is") {
		t.Errorf("%v, %.0f to %.0f, %s", err, a.Held, a.Missed, a.Reason)
	}
	if fmt.Sprint(a.Rungs[0].Bounds) != "[{p99 500 500 500}]" {
		t.Errorf("%v", a.Rungs[0].Bounds)
	}
}
