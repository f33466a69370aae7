package alloc

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// TestMillionRowsUnseen fills all tables with a million rows and asks the runtime how much of the heap its collector scans.
func TestMillionRowsUnseen(t *testing.T) {
	if testing.Short() || testx.RaceEnabled {
		t.Skip("a million rows take their time")
	}
	scanned := func() int64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/gc/scan/heap:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	before := scanned()
	const n = 1 << 20
	var rows Slab[row]
	var names Arena
	var index Table
	wheel := NewWheel(100*time.Millisecond, 4096)
	name := []byte("devices/0000/temperature")
	for i := range n {
		r := rows.Alloc()
		name[8], name[9], name[10] = byte(i), byte(i>>8), byte(i>>16)
		names.Alloc(name)
		index.Insert(mix(uint64(i)), r)
		wheel.Add(r, uint32(i%5000))
	}
	if grown := scanned() - before; grown > 1<<20 {
		t.Errorf("a collection has %d bytes more to scan", grown)
	}
	t.Logf("per row: slab %.1f, arena %.1f, table %.1f, wheel %.1f bytes", float64(rows.Bytes())/n, float64(names.Bytes())/n,
		float64(index.Bytes())/n, float64(wheel.Bytes())/n)
	start := time.Now()
	runtime.GC()
	t.Logf("a collection over %d rows takes %v", n, time.Since(start))
	runtime.KeepAlive(&rows)
	runtime.KeepAlive(&names)
	runtime.KeepAlive(&index)
	runtime.KeepAlive(wheel)
}

// TestTablesAllocs guards rows, strings, entries and timers in steady state.
func TestTablesAllocs(t *testing.T) {
	skipAllocs(t)
	var rows Slab[row]
	var names Arena
	var index Table
	wheel := NewWheel(time.Millisecond, 64)
	name := []byte("devices/7/temp")
	fn := func(uint32) uint32 { return 0 }
	once := func() {
		r := rows.Alloc()
		h := names.Alloc(name)
		index.Insert(77, r)
		slot, ok := index.Lookup(77, func(s uint32) bool { return rows.At(s).a == 0 && len(names.Get(h)) == len(name) })
		if !ok {
			t.Error("an entry is lost")
		}
		wheel.Add(slot, wheel.Now()+1)
		wheel.Advance(wheel.Now()+1, fn)
		index.Delete(77, slot)
		names.Free(h)
		rows.Free(r)
	}
	once()
	if got := testing.AllocsPerRun(1000, once); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
