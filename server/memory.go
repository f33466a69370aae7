package server

import (
	"log/slog"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/proto/mqtt"
)

// memoryWatch looks a few times a second at how much memory the process holds, and tells the protocol when it gets short.
type memoryWatch struct {
	stop chan struct{}
	done sync.WaitGroup
}

// memoryEvery is how often it looks: a flood cannot fill gigabytes in between.
const memoryEvery = 250 * time.Millisecond

// memoryLimit is limits.memory, or the runtime's soft limit.
func memoryLimit(cfg *config.Config) int64 {
	if cfg.Limits.Memory > 0 {
		return int64(cfg.Limits.Memory)
	}
	return debug.SetMemoryLimit(-1)
}

func watchMemory(h *mqtt.Handler, logger *slog.Logger, limit func() int64) *memoryWatch {
	w := &memoryWatch{stop: make(chan struct{})}
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		t := time.NewTicker(memoryEvery)
		defer t.Stop()
		level := int32(mqtt.PressureNone)
		samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
			{Name: "/gc/heap/allocs:bytes"}}
		rest := quietness{h: h}
		for {
			select {
			case <-w.stop:
				return
			case <-t.C:
			}
			metrics.Read(samples)
			used := int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
			if next := pressureOf(used, limit()); next != level {
				logger.Warn("memory pressure changed", "level", next, "was", level, "used_bytes", used)
				level = next
				h.Pressure(level)
			}
			if rest.look(samples[2].Value.Uint64()) {
				debug.FreeOSMemory()
			}
		}
	}()
	return w
}

// quietness finds the time to give memory back: the collector, which is set to let the heap grow to five times of what lives, would
// keep what a storm of connections has left behind for as long as nothing happens.
type quietness struct {
	h      *mqtt.Handler
	allocs uint64 // at the beginning of the quiet time
	bytes  uint64
	looks  int
	freed  uint64 // allocs when memory was given back last
}

const (
	quietFor     = 5 * time.Second
	quietAllocs  = 1 << 20 // bytes allocated in that time
	quietBytes   = 1 << 20 // bytes received
	worthFreeing = 8 << 20
)

// look is called every memoryEvery, and says when.
func (q *quietness) look(allocs uint64) bool {
	bytes := q.h.Snapshot().BytesIn
	if allocs-q.allocs > quietAllocs || bytes-q.bytes > quietBytes {
		q.allocs, q.bytes, q.looks = allocs, bytes, 0
		return false
	}
	if q.looks++; q.looks*int(memoryEvery) < int(quietFor) || allocs-q.freed < worthFreeing {
		return false
	}
	q.freed = allocs
	return true
}

// pressureOf is the level for so much in use: what the last collection found alive, and the stacks.
func pressureOf(used, limit int64) int32 {
	switch {
	case limit <= 0 || limit == math.MaxInt64:
		return mqtt.PressureNone
	case used > limit/100*95:
		return mqtt.PressureRefuse
	case used > limit/100*80:
		return mqtt.PressureShed
	}
	return mqtt.PressureNone
}

func (w *memoryWatch) close() {
	close(w.stop)
	w.done.Wait()
}
