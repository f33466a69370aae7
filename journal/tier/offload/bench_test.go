package offload

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/localtier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// bulk is a log and a catalog of partitions that have so many bytes each, in extents of a size. It makes no bytes: those are one buffer.
type bulk struct {
	parts   int
	shards  int
	each    int64 // bytes of a partition
	extent  int64
	records int64 // of an extent

	man   *history.Manifest
	bytes []byte
	open  atomic.Int64 // extents that are listed and held
	most  int64
}

func newBulk(parts, shards int, each, extent int64) *bulk {
	return &bulk{parts: parts, shards: shards, each: each, extent: extent, records: 10, man: history.NewManifest(), bytes: make([]byte, 1<<20)}
}

func (b *bulk) last() record.Offset { return record.Offset(b.each / b.extent * b.records) }

func (b *bulk) Partitions(yield func(Partition) bool) {
	for i := range b.parts {
		p := Partition{Topic: object.Topic{Name: "t", Index: int32(i), Partition: record.PartitionID(1000 + i)}, Shard: record.ShardID(i % b.shards), Policy: Immediate,
			LocalMillis: -1, LocalBytes: -1, RetentionMillis: -1, LastStable: b.last()}
		if !yield(p) {
			return
		}
	}
}

func (b *bulk) Exists(record.PartitionID) bool { return true }

func (b *bulk) Forget(record.PartitionID, record.Offset) {}

func (b *bulk) Aborted(record.PartitionID, record.Offset, record.Offset) []object.Aborted { return nil }

func (b *bulk) Change(shard record.ShardID, changes []Change, done func(error)) {
	for _, c := range changes {
		if err := b.man.Apply(shard, c.Key, c.Value); err != nil {
			done(err)
			return
		}
	}
	done(nil)
}

func (b *bulk) Ready(_ record.PartitionID, from, until record.Offset) (int64, uint64) {
	return int64(until-from) / b.records * b.extent, uint64(from)
}

func (b *bulk) Pieces(_ record.PartitionID, from, until record.Offset, maxBytes int64) (Pieces, error) {
	ps := &bulkPieces{b: b}
	for o, bytes := from, int64(0); o < until && (bytes == 0 || bytes+b.extent <= maxBytes); o, bytes = o+record.Offset(b.records), bytes+b.extent {
		ps.extents = append(ps.extents, object.Extent{First: o, Last: o + record.Offset(b.records) - 1, Bytes: b.extent})
	}
	b.most = max(b.most, b.open.Add(int64(cap(ps.extents))))
	return ps, nil
}

func (b *bulk) LocalStart(record.PartitionID) record.Offset           { return 0 }
func (b *bulk) SetLocalStart(record.PartitionID, record.Offset)       {}
func (b *bulk) Excess(record.PartitionID, int64, int64) record.Offset { return 0 }
func (b *bulk) Rotate()                                               {}

// Sync has nothing to do.
func (b *bulk) Sync() error { return nil }

type bulkPieces struct {
	b       *bulk
	extents []object.Extent
}

func (ps *bulkPieces) Extents() []object.Extent { return ps.extents }
func (ps *bulkPieces) Release()                 { ps.b.open.Add(-int64(cap(ps.extents))) }

func (ps *bulkPieces) Open(from, to int) io.ReadCloser {
	return io.NopCloser(&bulkReader{b: ps.b, left: int64(to-from) * ps.b.extent})
}

type bulkReader struct {
	b    *bulk
	left int64
}

func (r *bulkReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b.bytes[:min(int64(len(r.b.bytes)), r.left)])
	r.left -= int64(n)
	return n, nil
}

// sink takes what it is given, and counts.
type sink struct {
	memStore
	puts  int
	bytes int64
	heap  uint64 // the most that was in use during a Put
}

func (s *sink) Put(ctx context.Context, name string, r io.Reader, size int64, _ tier.PutOptions) error {
	if _, ok := object.ParseName(name); !ok {
		return s.memStore.Put(ctx, name, r, size, tier.PutOptions{})
	}
	s.puts++
	s.bytes += size
	n, buf := int64(0), make([]byte, 64*kib)
	for {
		k, err := r.Read(buf)
		if n += int64(k); err != nil {
			break
		}
	}
	if n != size {
		return storeError(tier.Unavailable)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.heap = max(s.heap, m.HeapAlloc)
	return nil
}

func newSink() *sink {
	s := new(sink)
	s.objects = make(map[string]memObject)
	s.w = &world{clk: newClock()}
	return s
}

// TestSmallPartitions: a thousand small partitions over 64 shards take fewer than one PUT for 8 MiB.
func TestSmallPartitions(t *testing.T) {
	b := newBulk(1000, 64, 2*mib, 64*kib)
	s := newSink()
	f := New(Options{Store: s, Log: b, Catalog: b, Manifest: b.man, Clock: newClock()})
	defer f.Close()
	if err := f.Turn(bg); err != nil {
		t.Fatal(err)
	}
	if s.bytes < 1000*2*mib*9/10 {
		t.Fatalf("%d bytes", s.bytes)
	}
	if per := float64(s.puts) / (float64(s.bytes) / (8 * mib)); per >= 1 {
		t.Errorf("%.2f PUTs for 8 MiB", per)
	} else {
		t.Logf("%d PUTs, %d MiB: %.2f for 8 MiB", s.puts, s.bytes/mib, per)
	}
}

// TestTrickle: where the same partitions come by little, nothing but MaxLag makes small objects.
func TestTrickle(t *testing.T) {
	b := newBulk(1000, 64, 64*kib, 64*kib)
	s := newSink()
	clk := newClock()
	f := New(Options{Store: s, Log: b, Catalog: b, Manifest: b.man, Clock: clk})
	defer f.Close()
	for range 60 {
		if err := f.Turn(bg); err != nil {
			t.Fatal(err)
		}
		b.each += 64 * kib
		clk.Advance(5 * time.Second)
	}
	if per := float64(s.puts) / (float64(s.bytes) / (8 * mib)); per >= 1 || s.puts == 0 {
		t.Errorf("%d PUTs: %.2f for 8 MiB", s.puts, per)
	} else {
		t.Logf("%d PUTs, %d MiB: %.2f for 8 MiB", s.puts, s.bytes/mib, per)
	}
}

// TestMemory: with tiny batches, whose layout takes more than their bytes, the bound holds.
func TestMemory(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the detector's memory is counted too")
	}
	b := newBulk(20, 1, 8*mib, 70)
	b.records = 1
	s := newSink()
	const bound = 4 * mib
	f := New(Options{Store: s, Log: b, Catalog: b, Manifest: b.man, Clock: newClock(), Memory: bound, ObjectBytes: 1 << 30})
	defer f.Close()
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := f.Turn(bg); err != nil {
		t.Fatal(err)
	}
	if s.bytes < 140*mib {
		t.Fatalf("%d bytes", s.bytes)
	}
	// One answer of the log may go over it: 8 MiB of batches of 70 bytes.
	const over = pieceBytes / 70 * extentMemory * 5 / 4
	if got := int64(s.heap) - int64(before.HeapAlloc); got > bound+over+mib {
		t.Errorf("%d KiB in use, with a bound of %d KiB", got/kib, int64(bound)/kib)
	} else {
		t.Logf("%d KiB in use, %d extents held, %d objects", got/kib, b.most, s.puts)
	}
	if n := b.open.Load(); n != 0 {
		t.Errorf("%d extents are held", n)
	}
}

func cpu() time.Duration {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkLocal is what it costs to bring out a megabyte to a directory.
func BenchmarkLocal(b *testing.B) {
	for _, extent := range []int64{1 * kib, 16 * kib, 256 * kib} {
		b.Run(fmt.Sprintf("extent=%dKiB", extent/kib), func(b *testing.B) {
			s, err := localtier.Open(bg, localtier.Options{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			from, bytes := cpu(), int64(0)
			for b.Loop() {
				l := newBulk(16, 1, 16*mib, extent)
				f := New(Options{Store: s, StoreName: "local", Log: l, Catalog: l, Manifest: l.man})
				if err := f.Turn(bg); err != nil {
					b.Fatal(err)
				}
				bytes += f.stats.Bytes.Load()
				f.Close()
			}
			b.SetBytes(bytes / int64(b.N))
			b.ReportMetric(float64(cpu()-from)/float64(bytes)*mib/1e6, "cpu-ms/MB")
		})
	}
}

// BenchmarkPlan is what a turn costs that finds nothing to do.
func BenchmarkPlan(b *testing.B) {
	l := newBulk(100_000, 64, 0, 64*kib)
	f := New(Options{Store: newSink(), Log: l, Catalog: l, Manifest: l.man})
	defer f.Close()
	for b.Loop() {
		if err := f.Turn(bg); err != nil {
			b.Fatal(err)
		}
	}
}
