package alloc

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWheelTicks(t *testing.T) {
	w := NewWheel(100*time.Millisecond, 100)
	if len(w.heads) != 128 || w.Tick() != 100*time.Millisecond {
		t.Errorf("%d slots", len(w.heads))
	}
	for _, tc := range []struct {
		mono    time.Duration
		at, now uint32
	}{{0, 1, 0}, {1, 1, 0}, {100 * time.Millisecond, 1, 1}, {101 * time.Millisecond, 2, 1}} {
		if at, now := w.TickAt(tc.mono), w.TickNow(tc.mono); at != tc.at || now != tc.now {
			t.Errorf("%v: at %d, now %d", tc.mono, at, now)
		}
	}
}

// TestWheelLazy puts a deadline off the cheap way: the row's tick moves, and the wheel looks again.
func TestWheelLazy(t *testing.T) {
	w := NewWheel(time.Millisecond, 8)
	deadline := map[uint32]uint32{1: 5, 2: 5, 3: 100}
	for k, d := range deadline {
		w.Add(k, d)
	}
	deadline[2] = 40
	var fired []uint32
	for now := uint32(1); now <= 200; now++ {
		w.Advance(now, func(k uint32) uint32 {
			if int32(deadline[k]-now) > 0 {
				return deadline[k]
			}
			if deadline[k] != now {
				t.Errorf("key %d at %d, want %d", k, now, deadline[k])
			}
			fired = append(fired, k)
			return 0
		})
	}
	if len(fired) != 3 || fired[0] != 1 || fired[1] != 2 || fired[2] != 3 || w.Len() != 0 {
		t.Errorf("fired %v, %d left", fired, w.Len())
	}
}

func TestWheelWraps(t *testing.T) {
	w := NewWheel(time.Millisecond, 16)
	w.now = math.MaxUint32 - 3
	w.Add(1, 5)
	w.Add(2, math.MaxUint32)
	var fired []uint32
	for range 12 {
		w.Advance(w.now+1, func(k uint32) uint32 {
			fired = append(fired, k, w.now)
			return 0
		})
	}
	if len(fired) != 4 || fired[0] != 2 || fired[1] != math.MaxUint32 || fired[2] != 1 || fired[3] != 5 {
		t.Errorf("fired %v", fired)
	}
}

// TestWheelModel: each key is called in the Advance that reaches its deadline, whatever the steps, and once.
func TestWheelModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := NewWheel(time.Millisecond, 1<<rapid.IntRange(0, 6).Draw(t, "slots"))
		due := make(map[uint32]uint32)
		next := uint32(0)
		add := func(deadline uint32) {
			next++
			due[next] = max(deadline, w.Now()+1)
			w.Add(next, deadline)
		}
		for range rapid.IntRange(1, 60).Draw(t, "rounds") {
			for range rapid.IntRange(0, 5).Draw(t, "adds") {
				add(w.Now() + rapid.Uint32Range(0, 300).Draw(t, "ahead"))
			}
			now := w.Now() + rapid.Uint32Range(0, 100).Draw(t, "step")
			w.Advance(now, func(k uint32) uint32 {
				d, ok := due[k]
				if !ok || d > now {
					t.Fatalf("key %d at %d, due at %d (%v)", k, now, d, ok)
				}
				delete(due, k)
				if k%5 == 0 {
					add(now + k%7)
				}
				if k%3 == 0 {
					due[k] = now + 1 + k%90
					return due[k]
				}
				return 0
			})
			for k, d := range due {
				if d <= now {
					t.Fatalf("key %d was due at %d, and it is %d", k, d, now)
				}
			}
			if w.Len() != len(due) {
				t.Fatalf("%d entries, want %d", w.Len(), len(due))
			}
		}
	})
}

func BenchmarkWheelReCheck(b *testing.B) {
	const keys = 1 << 20
	w := NewWheel(time.Millisecond, 4096)
	for k := range uint32(keys) {
		w.Add(k, k%4096+1)
	}
	seen := 0
	fn := func(uint32) uint32 { seen++; return w.Now() + 4000 }
	for b.Loop() {
		w.Advance(w.Now()+1, fn)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(seen), "ns/key")
}
