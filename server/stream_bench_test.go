package server

import (
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// streamBench is the core on a log of its own, with loops on goroutines, and no sockets.
type streamBench struct {
	b     *broker.Broker
	store storage
	loops []*benchLoop
}

type benchLoop struct {
	l     *broker.Local
	woken chan struct{}
	todo  chan func()
	done  chan struct{}
}

func (l *benchLoop) run() {
	defer close(l.done)
	for {
		select {
		case fn, ok := <-l.todo:
			if !ok {
				return
			}
			fn()
		case <-l.woken:
			l.l.Drain()
		}
		l.l.EndTurn()
	}
}

func newStreamBench(tb testing.TB, loops, partitions int) *streamBench {
	tb.Helper()
	s := openStreamBench(tb, loops, partitions, storageOptions{dir: tb.TempDir(), checkpointInterval: time.Hour, checkpointBytes: 1 << 40})
	tb.Cleanup(func() { s.close(tb) })
	return s
}

func openStreamBench(tb testing.TB, loops, partitions int, o storageOptions) *streamBench {
	tb.Helper()
	s := &streamBench{b: broker.New(broker.Options{Loops: loops})}
	for i := range loops {
		l := &benchLoop{l: s.b.Local(i), woken: make(chan struct{}, 1), todo: make(chan func()), done: make(chan struct{})}
		l.l.SetWake(func() {
			select {
			case l.woken <- struct{}{}:
			default:
			}
		})
		s.loops = append(s.loops, l)
	}
	spec := &broker.TopicSpec{Name: "t", ID: broker.TopicID{1}}
	for i := range partitions {
		spec.Partitions = append(spec.Partitions, broker.PartitionSpec{ID: record.PartitionID(1000 + i), Shard: record.ShardID(i % 64)})
	}
	s.b.SetTopic(spec)
	var err error
	if s.store, err = openStorage(o, s.b, slog.New(slog.DiscardHandler)); err != nil {
		tb.Fatal(err)
	}
	for _, l := range s.loops {
		go l.run()
	}
	return s
}

func (s *streamBench) close(tb testing.TB) {
	tb.Helper()
	for _, l := range s.loops {
		close(l.todo)
		<-l.done
	}
	if err := s.store.close(); err != nil {
		tb.Error(err)
	}
	s.b.Close()
}

func (s *streamBench) partition(i int) *broker.Partition {
	return s.b.Topic(0, "t").Partition(int32(i))
}

func benchBatch(records, size int) record.Batch {
	var b record.BatchBuilder
	now := time.Now().UnixMilli()
	b.Begin(nil, now)
	for i := range records {
		b.Append(&record.Input{Value: make([]byte, size), Timestamp: now, OffsetDelta: int32(i)})
	}
	return b.Finish(&record.BatchOptions{})
}

// window keeps a number of batches under way, as the connections of pipelining producers do.
type window struct {
	l     *benchLoop
	a     *broker.Appender
	parts []*broker.Partition
	next  int
	batch record.Batch
	room  int
	left  int
	acked atomic.Int64
	all   chan struct{}
	want  int64
}

func (w *window) Appended(_ broker.Token, r broker.AppendResult) {
	if r.Err != nil {
		panic(r.Err)
	}
	w.room++
	w.fill()
	if w.acked.Add(1) == w.want {
		close(w.all)
	}
}

func (w *window) Resume() { w.fill() }

func (w *window) fill() {
	for w.room > 0 && w.left > 0 {
		if w.l.l.Append(w.a, w.parts[w.next%len(w.parts)], w.batch, broker.AppendOptions{}, 1) != nil {
			return
		}
		w.next++
		w.room--
		w.left--
	}
}

func (s *streamBench) produce(n, inFlight int, batch record.Batch, parts ...*broker.Partition) {
	var all []*window
	for i, l := range s.loops {
		w := &window{l: l, batch: batch, parts: parts, next: i, room: inFlight, left: n / len(s.loops), all: make(chan struct{}), want: int64(n / len(s.loops))}
		all = append(all, w)
		l.todo <- func() {
			w.a = l.l.NewAppender(w)
			w.fill()
		}
	}
	for _, w := range all {
		<-w.all
	}
}

// BenchmarkAppend is what a batch costs from Append to Appended, on stable storage.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ records, size, partitions, inFlight int }{{1, 100, 8, 256}, {1, 1000, 8, 256}, {16, 1000, 8, 64}, {64, 1000, 8, 32}, {900, 1000, 2, 5}} {
		b.Run(fmt.Sprintf("%dx%d", c.records, c.size), func(b *testing.B) {
			s := newStreamBench(b, runtime.GOMAXPROCS(0), c.partitions)
			var parts []*broker.Partition
			for i := range c.partitions {
				parts = append(parts, s.partition(i))
			}
			batch := benchBatch(c.records, c.size)
			s.produce(1000, c.inFlight, batch, parts...)
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			cpu := cpuTime(b)
			b.ResetTimer()
			s.produce(max(b.N, len(s.loops)), c.inFlight, batch, parts...)
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N*c.records), "cpu-ns/record")
		})
	}
}

// BenchmarkFetch reads a partition from memory, 1 MiB at once.
func BenchmarkFetch(b *testing.B) {
	for _, where := range []string{"tail", "cold"} {
		b.Run(where, func(b *testing.B) {
			s := newStreamBench(b, 1, 1)
			p := s.partition(0)
			batch := benchBatch(16, 1000)
			n := 1000
			if where == "cold" {
				n = 30_000
			}
			s.produce(n, 64, batch, p)
			l := s.loops[0]
			var f broker.StreamFetch
			from := record.Offset(0)
			b.ReportAllocs()
			b.ResetTimer()
			got := 0
			for b.Loop() {
				done := make(chan struct{})
				l.todo <- func() {
					if !l.l.FetchTail(p, from, 1<<20, false, &f) {
						close(done)
						return
					}
					l.l.FetchCold(p, from, 1<<20, false, &f, func() { close(done) })
				}
				<-done
				got += f.Bytes
				from += record.Offset(16 * len(f.Batches))
				if from >= record.Offset(16*n)/2 && where == "cold" || from >= record.Offset(16*n) {
					from = 0
				}
				f.Release()
			}
			b.SetBytes(int64(got / b.N))
		})
	}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	d, err := processCPU()
	if err != nil {
		tb.Skip(err)
	}
	return d
}

// In steady state neither an append nor a fetch allocates.
func TestStreamAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	s := newStreamBench(t, 1, 4)
	var parts []*broker.Partition
	for i := range 4 {
		parts = append(parts, s.partition(i))
	}
	for _, batch := range []record.Batch{benchBatch(1, 100), benchBatch(30, 1000)} {
		s.produce(4000, 64, batch, parts...)
		// What the process allocates by the clock, and for groups that are small since the machine is starved, is counted too, and only ever
		// adds: what a batch costs is in every round, so the least of them has it.
		per := math.Inf(1)
		for range 4 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			const n = 2000
			s.produce(n, 64, batch, parts...)
			runtime.ReadMemStats(&after)
			per = min(per, float64(after.Mallocs-before.Mallocs)/n)
		}
		if per > 0.05 {
			t.Errorf("%d bytes: %.3f allocations a batch", len(batch), per)
		}
	}
	l := s.loops[0]
	done := make(chan float64)
	l.todo <- func() {
		var f broker.StreamFetch
		p := parts[0]
		done <- testing.AllocsPerRun(1000, func() {
			if l.l.FetchTail(p, p.HighWatermark()-60, 1<<20, false, &f); f.Bytes == 0 {
				t.Error("nothing was found")
			}
			f.Release()
		})
	}
	if n := <-done; n != 0 {
		t.Errorf("%v allocations a fetch", n)
	}
}
