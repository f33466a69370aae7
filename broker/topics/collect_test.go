package topics

import (
	"fmt"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// collectorCPU is the processor time that collections have taken so far, in seconds.
func collectorCPU() float64 {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64() - s[1].Value.Float64() // idle marking takes nobody's time
}

// TestMillionRowsUnseen holds a million subscriptions and a million retained topics: a collection takes less than 10 ms of CPU more
// than without them, and no bytes of them are scanned.
func TestMillionRowsUnseen(t *testing.T) {
	if testing.Short() || testx.RaceEnabled {
		t.Skip("a million rows take their time, and the race detector's count for nothing")
	}
	const n = 1_000_000
	const rounds = 5
	runtime.GC()
	x := fill(t, n, mixedFilter)
	r := NewRetained(RetainedOptions{})
	for i := range n {
		if _, err := r.Put(0, mixedTopic(i), uint32(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	before := collectorCPU()
	for range rounds {
		runtime.GC()
	}
	each := (collectorCPU() - before) / rounds * 1000
	s := []metrics.Sample{{Name: "/gc/scan/heap:bytes"}}
	metrics.Read(s)
	scanned := s[0].Value.Uint64()
	t.Logf("a collection: %.2f ms of CPU, %d bytes scanned; index %d MB, retained %d MB", each, scanned, x.Bytes()>>20, r.Bytes()>>20)
	if each > 10 {
		t.Errorf("a collection takes %.1f ms of CPU", each)
	}
	if scanned > 8<<20 {
		t.Errorf("a collection scans %d bytes", scanned)
	}
	runtime.KeepAlive(x)
	runtime.KeepAlive(r)
}

// heapOf is what f's result holds on the heap.
func heapOf[T any](f func() T) (T, int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return v, int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// TestBytesEach guards the memory of a filter with one subscriber and of a retained topic, by the heap's count and our own.
func TestBytesEach(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector's shadow is not ours; the plain run counts")
	}
	const n = 100_000
	check := func(name string, heap, own int64, most int64) {
		t.Logf("%s: %d bytes each on the heap, %d by our count", name, heap/n, own/n)
		if heap/n > most {
			t.Errorf("%s: %d bytes each, at most %d", name, heap/n, most)
		}
		if own < heap*8/10 || own > heap*12/10 {
			t.Errorf("%s: Bytes says %d, the heap %d", name, own, heap)
		}
	}
	wild, heap := heapOf(func() *Index { return fill(t, n, wildFilter) })
	check("wildcard filter", heap, wild.Bytes(), 200)
	mixed, heap := heapOf(func() *Index { return fill(t, n, mixedFilter) })
	check("mixed filter", heap, mixed.Bytes(), 220)
	text := int64(0)
	r, heap := heapOf(func() *Retained {
		r := NewRetained(RetainedOptions{})
		for i := range n {
			topic := mixedTopic(i)
			text += int64(len(topic))
			if _, err := r.Put(0, topic, 1); err != nil {
				t.Fatal(err)
			}
		}
		return r
	})
	check("retained topic", heap, r.Bytes(), 150+text/n)
	t.Logf("a topic has %d bytes", text/n)
	runtime.KeepAlive(wild)
	runtime.KeepAlive(mixed)
	runtime.KeepAlive(r)
}

// mixedFilter is filter i of a mix of 60 % without wildcards, 25 % with one '+', 15 % with '#'. A topic of its shape that it matches
// is mixedTopic(i).
func mixedFilter(i int) []byte {
	site, device, sensor := i%100, i, i%7
	switch k := i % 20; {
	case k < 12:
		return fmt.Appendf(nil, "site%d/line%d/device%d/sensor%d", site, i%13, device, sensor)
	case k < 17:
		return fmt.Appendf(nil, "site%d/+/device%d/sensor%d", site, device, sensor)
	default:
		return fmt.Appendf(nil, "site%d/line%d/device%d/#", site, i%13, device)
	}
}

func mixedTopic(i int) []byte {
	return fmt.Appendf(nil, "site%d/line%d/device%d/sensor%d", i%100, i%13, i, i%7)
}

// wildFilter is a wildcard filter of its own levels.
func wildFilter(i int) []byte { return fmt.Appendf(nil, "site%d/+/device%d/#", i%100, i) }

func fill(tb testing.TB, n int, filter func(int) []byte) *Index {
	tb.Helper()
	x := New(Options{})
	for i := range n {
		if _, _, err := x.Subscribe(0, nil, filter(i), Entry{Subscriber: uint32(i)}); err != nil {
			tb.Fatal(err)
		}
	}
	return x
}
