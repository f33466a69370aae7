package journal

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchSource has always one more group of the same size, until it has given them all.
type benchSource struct {
	group []byte
	left  atomic.Int64
	bytes int64
	err   error
	done  chan struct{}
}

func (s *benchSource) Gather(dst []byte, most int) ([]byte, bool) {
	if s.left.Load() <= 0 {
		return dst, false
	}
	return append(dst, s.group[:min(len(s.group), most)&^1023]...), true // whole frames of 1 KiB
}

func (s *benchSource) Committed(g *Group) {
	s.bytes += int64(len(g.Frames()))
	if s.left.Add(-1) == 0 {
		close(s.done)
	}
}

func (s *benchSource) Failed(err error) {
	if s.left.Swap(0) > 0 {
		s.err = err
		close(s.done)
	}
}

// commands fills a group of size bytes with frames of 1 KiB.
func commands(size int) (g []byte) {
	payload := string(make([]byte, 1024-record.FrameHeaderSize))
	for len(g)+1024 <= size {
		g = commandFrame(g, 0, uint64(len(g)), payload)
	}
	return g
}

// BenchmarkCommit is one group from Gather to Committed, the next one waiting already.
func BenchmarkCommit(b *testing.B) {
	for _, mode := range []Durability{Sync, Async} {
		for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%v/%dKiB", mode, size>>10), func(b *testing.B) {
				l, err := Open(Options{Dir: b.TempDir(), Durability: mode, SegmentBytes: 64 << 20})
				if err == nil {
					err = l.Replay(nil)
				}
				if err != nil {
					b.Fatal(err)
				}
				src := &benchSource{group: commands(size), done: make(chan struct{})}
				if err := l.Start(src); err != nil {
					b.Fatal(err)
				}
				src.left.Store(int64(b.N))
				b.ResetTimer()
				cpu := cpuTime()
				l.Wake()
				<-src.done
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
				b.StopTimer()
				b.SetBytes(src.bytes / int64(b.N))
				if src.err != nil {
					b.Fatal(src.err)
				}
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkAsyncWays compares what async mode could do with a group of 64 KiB: write it into the page cache, or copy it into a map
// whose pages are there, each with a flush of what is new every 64 groups.
func BenchmarkAsyncWays(b *testing.B) {
	const size, segment = 64 << 10, 64 << 20
	group := commands(size)
	file := func(b *testing.B) vfs.File {
		b.Helper()
		f, err := vfs.OS{}.Open(b.TempDir()+"/f", vfs.Write|vfs.Create)
		if err == nil {
			err = f.Allocate(0, segment)
		}
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	run := func(b *testing.B, put func(off int64), flush func(off, n int64)) {
		b.Helper()
		b.SetBytes(size)
		b.ResetTimer()
		cpu := cpuTime()
		for i := range b.N {
			off := int64(i) * size % segment
			put(off)
			if i%64 == 63 {
				flush(off-63*size, 64*size)
			}
		}
		b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	}
	b.Run("write", func(b *testing.B) {
		f := file(b)
		run(b, func(off int64) { _, _ = f.WriteAt(group, off) }, func(_, _ int64) { _ = f.Sync() })
		_ = f.Close()
	})
	b.Run("map", func(b *testing.B) {
		f := file(b)
		m, err := f.Map(0, segment, true)
		if err == nil {
			err = m.Populate(0, segment)
		}
		if err != nil {
			b.Fatal(err)
		}
		run(b, func(off int64) { copy(m.Bytes()[off:], group) }, func(off, n int64) { _ = m.Sync(off, n) })
		_ = m.Close()
		_ = f.Close()
	})
}

// BenchmarkRecover opens and replays a log of so many bytes (SLUICE_RECOVER_MIB, 64 if not set).
func BenchmarkRecover(b *testing.B) {
	mib := 64
	if s := os.Getenv("SLUICE_RECOVER_MIB"); s != "" {
		if _, err := fmt.Sscan(s, &mib); err != nil {
			b.Fatal(err)
		}
	}
	o := Options{Dir: b.TempDir()}
	l := open(b, o)
	next := record.Offset(0)
	for n := 0; n < mib<<20; {
		var g []byte
		for len(g) < 900<<10 {
			g = recordsFrame(g, 1, next, 10, 400)
			next += 10
		}
		if err := l.src.commit(b, g); err != nil {
			b.Fatal(err)
		}
		n += len(g)
	}
	l.close(b)
	b.SetBytes(int64(mib) << 20)
	b.ResetTimer()
	for range b.N {
		l := mustReplay(b, o)
		b.StopTimer()
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func mustReplay(b *testing.B, o Options) *Log {
	b.Helper()
	l, err := Open(o)
	if err == nil {
		err = l.Replay(func(record.Frame, Position) error { return nil })
	}
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// BenchmarkOpenEmpty is what the log adds to the start of a broker on an empty directory, and how much memory it holds then.
func BenchmarkOpenEmpty(b *testing.B) {
	var before, after runtime.MemStats
	for range b.N {
		b.StopTimer()
		dir := b.TempDir()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		l := open(b, Options{Dir: dir})
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		l.close(b)
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapAlloc)-float64(before.HeapAlloc), "held-B")
}

// BenchmarkFetchTail is a fetch of 64 KiB that the tail holds.
func BenchmarkFetchTail(b *testing.B) {
	l := open(b, Options{Dir: b.TempDir()})
	for i := range 100 {
		if err := l.src.commit(b, recordsFrame(nil, 1, record.Offset(10*i), 10, 800)); err != nil {
			b.Fatal(err)
		}
	}
	var f Fetched
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := l.Fetch(1, record.Offset(i*10%500), 64<<10, &f); err != nil {
			b.Fatal(err)
		}
		f.Release()
	}
	l.close(b)
}
