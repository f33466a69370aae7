package offload

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
)

// machine does anything in any order. Its model is the world: which records were written, and which of them may be asked for; each of those must be in
// the log, or in the store and in a committed row, after each operation, and at any moment that something leaves the log.
type machine struct {
	*world
	r *rapid.T
	k *killer
}

func (m *machine) part(label string) *part {
	return m.mu.parts[record.PartitionID(100+rapid.IntRange(0, 5).Draw(m.r, label))]
}

func (m *machine) produce() {
	p := m.part("to")
	if p.dropped {
		return
	}
	for range rapid.IntRange(1, 12).Draw(m.r, "batches") {
		m.world.produce(p, rapid.IntRange(1, 5).Draw(m.r, "records"), rapid.SampledFrom([]int{50, 400, 3000}).Draw(m.r, "bytes"))
	}
	if rapid.Bool().Draw(m.r, "undecided") {
		p.LastStable = p.all[rapid.IntRange(0, len(p.all)-1).Draw(m.r, "stable")].base
	}
}

func (m *machine) deleteRecords() {
	p := m.part("of")
	if p.dropped {
		return
	}
	o := p.start + record.Offset(rapid.IntRange(0, 40).Draw(m.r, "below"))
	if rapid.IntRange(0, 9).Draw(m.r, "all") == 0 {
		o = p.end
	}
	m.deleteBelow(p, min(o, p.LastStable))
}

func (m *machine) policy() {
	p := m.part("of")
	m.mu.Lock()
	defer m.mu.Unlock()
	p.Policy = rapid.SampledFrom([]Policy{None, Archive, Immediate, Immediate}).Draw(m.r, "policy")
	p.LocalBytes = rapid.SampledFrom([]int64{-1, 0, 5000}).Draw(m.r, "local bytes")
	p.LocalMillis = rapid.SampledFrom([]int64{-1, 0, 60_000}).Draw(m.r, "local time")
	p.RetentionMillis = rapid.SampledFrom([]int64{-1, 3_600_000}).Draw(m.r, "retention")
}

// faults has the store, and the commits, fail for a number of calls.
func (m *machine) faults() {
	kinds := []tier.Kind{tier.Unavailable, tier.Throttled, tier.Full, tier.Denied}
	kind := rapid.SampledFrom(kinds).Draw(m.r, "kind")
	n := rapid.IntRange(0, 12).Draw(m.r, "calls")
	how := rapid.IntRange(0, 2).Draw(m.r, "how")
	m.s.setFault(func(op, _ string) *fault {
		if n--; n < 0 {
			return nil
		}
		return &fault{err: storeError(kind), after: how == 1, cut: how == 2 && op == "put"}
	})
	c := rapid.IntRange(0, 8).Draw(m.r, "commits")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.commitOK = func([]Change) (apply, answer bool, err error) {
		if c--; c < 0 {
			return true, true, nil
		}
		return false, true, storeError(tier.Full)
	}
}

func (m *machine) calm() {
	m.s.setFault(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.commitOK = nil
}

// offload makes a turn, of which anything may come, a death at any step too.
func (m *machine) offload() {
	m.k.at = -1
	if rapid.IntRange(0, 3).Draw(m.r, "kill") == 0 {
		m.k.at = m.k.n + rapid.IntRange(0, 14).Draw(m.r, "at")
	}
	killed := func() (killed bool) {
		defer func() {
			if r := recover(); r != nil {
				if r != errKilled { //nolint:errorlint // the very value
					panic(r)
				}
				killed = true
			}
		}()
		if rapid.IntRange(0, 7).Draw(m.r, "flush") == 0 {
			// What cannot be read, or cannot be stored, is never flushed: the context ends it.
			ctx, cancel := context.WithCancel(bg)
			n := 0
			m.slept = func() {
				if n++; n > 30 {
					cancel()
				}
			}
			defer func() { m.slept = nil; cancel() }()
			_ = m.f.Flush(ctx)
		} else {
			_ = m.f.Turn(bg)
		}
		return false
	}()
	if killed {
		m.die()
	}
	m.k.at = -1
}

// die ends the process: what it held is free, what was not committed is not.
func (m *machine) die() {
	m.mu.Lock()
	m.mu.held = 0
	m.mu.Unlock()
	m.k.dead = false
	m.restart()
}

func (m *machine) pressure() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.pressed = !m.mu.pressed
}

// end lets all come to rest: then store and manifest have the same objects.
func (m *machine) end() {
	m.calm()
	m.mu.pressed = false
	m.k.at = -1
	for range 14 {
		m.clk.Advance(7 * time.Hour)
		if err := m.f.Turn(bg); err != nil {
			m.r.Fatal(err)
		}
	}
	m.check()
	if there, rows := len(m.s.objectNames()), m.m.Stats().Objects; there != rows {
		m.r.Errorf("%d objects in the store, %d in the manifest: %v", there, rows, m.s.objectNames())
	}
	if n := m.m.Stats().Dead; n != 0 {
		m.r.Errorf("%d objects are dead", n)
	}
	for id, p := range m.mu.parts {
		// All that is due of what has a policy is there.
		if _, end, ok := m.m.Bounds(id); !p.dropped && p.Policy == Immediate && p.start < p.LastStable && m.localStart(p) < p.LastStable && (!ok || end < p.LastStable) {
			if list := m.listLocked(p, max(end, p.start), p.LastStable); len(list) > 0 {
				m.r.Errorf("partition %d is offloaded to %d of %d", id, end, p.LastStable)
			}
		}
	}
}

// TestModel does anything in any order.
func TestModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		k := &killer{at: -1}
		o := small()
		o.Step = k.step
		o.Memory = rapid.SampledFrom([]int64{0, 2000}).Draw(r, "memory")
		m := &machine{world: newWorld(failer{t, r}, o), r: r, k: k}
		defer func() { m.f.Close() }()
		for i := range 6 {
			p := m.add(record.PartitionID(100+i), record.ShardID(i%2), Immediate)
			p.LocalBytes = 0
		}
		m.s.uncond = rapid.Bool().Draw(r, "unconditional")
		r.Repeat(map[string]func(*rapid.T){
			"":        func(*rapid.T) { m.check() },
			"produce": func(*rapid.T) { m.produce() }, "seal": func(*rapid.T) { m.seal() }, "delete records": func(*rapid.T) { m.deleteRecords() },
			"drop": func(*rapid.T) {
				if rapid.IntRange(0, 9).Draw(r, "really") == 0 {
					m.drop(m.part("dropped"))
				}
			},
			"policy": func(*rapid.T) { m.policy() }, "faults": func(*rapid.T) { m.faults() }, "calm": func(*rapid.T) { m.calm() },
			"offload": func(*rapid.T) { m.offload() }, "offload again": func(*rapid.T) { m.offload() },
			"restart": func(*rapid.T) { m.die() }, "pressure": func(*rapid.T) { m.pressure() },
			"time": func(*rapid.T) {
				m.clk.Advance(rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Minute, 5 * time.Hour, 30 * time.Hour}).Draw(r, "passed"))
			},
		})
		m.end()
	})
}

// failer is the test of a world that rapid runs: its failures are those of the run.
type failer struct {
	testing.TB
	r *rapid.T
}

func (f failer) Helper()                      {}
func (f failer) Error(args ...any)            { f.r.Error(args...) }
func (f failer) Errorf(s string, args ...any) { f.r.Errorf(s, args...) }
func (f failer) Fatal(args ...any)            { f.r.Fatal(args...) }
func (f failer) Fatalf(s string, args ...any) { f.r.Fatalf(s, args...) }
