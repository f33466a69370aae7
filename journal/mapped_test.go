package journal

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// On a real disk, readers of the segment that is written to see what was committed and nothing else, in pages that they have looked at before
// too, while segments are recycled under their eyes.
func TestMappedWhileWritten(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		t.Run(mode.String(), func(t *testing.T) { mappedWhileWritten(t, mode) })
	}
}

func mappedWhileWritten(t *testing.T, mode Durability) {
	t.Helper()
	const (
		groups = 800
		size   = 6000 // of a value: a view of the map
		kept   = 200  // records that the log keeps
	)
	o := smallOptions(mode)
	o.Dir, o.SegmentBytes, o.LogBytesMax, o.TailBytes = t.TempDir()+"/data", 512<<10, 1<<40, 1
	l := open(t, o)
	var end atomic.Int64
	var done atomic.Bool
	var wg sync.WaitGroup
	for seed := range uint64(3) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			for !done.Load() {
				if !mappedRead(t, l, rng, end.Load(), size) {
					return
				}
			}
		})
	}
	for i := range record.Offset(groups) {
		if err := l.src.commit(t, recordsFrame(nil, 1, i, 1, size)); err != nil {
			t.Fatal(err)
		}
		end.Store(int64(i) + 1)
		if i%kept == kept-1 {
			l.SetLogStart(1, i-kept/2)
			l.checkpointed(t)
		}
	}
	done.Store(true)
	wg.Wait()
	testx.Eventually(t, waitFor, func() bool { return l.Stats().Recycled.Load() > 0 }, "no segment was recycled")
	if s := l.Stats(); s.MapReads.Load() == 0 || s.DiskReads.Load() > 0 {
		t.Errorf("%d reads of maps, %d of files", s.MapReads.Load(), s.DiskReads.Load())
	}
	l.close(t)
}

// mappedRead reads from somewhere in the log, holds what it has got for a moment, and looks at it.
func mappedRead(t *testing.T, l *opened, rng *rand.Rand, end int64, size int) bool {
	t.Helper()
	start := int64(l.LogStart(1))
	if end <= start {
		return true
	}
	r := FetchRequest{Partition: 1, From: record.Offset(start + rng.Int64N(end-start)), MaxBytes: 30_000, Trust: true}
	var f Fetched
	ok, err := l.ReadTail(&r, &f)
	if err == nil && !ok {
		err = l.Read(&r, &f)
	}
	if err != nil {
		return r.From < l.LogStart(1) // the log has let go of it meanwhile
	}
	defer f.Release()
	err = vfs.Guard(func() error {
		next := r.From
		for _, raw := range f.Batches {
			b := record.Batch(bytes.Clone(raw))
			if err := b.Verify(); err != nil || b.BaseOffset() != next || !bytes.Equal(b, batchOf(next, 1, size)) {
				t.Errorf("offset %d: batch %d, %v", next, b.BaseOffset(), err)
			}
			next++
		}
		return nil
	})
	if err != nil || len(f.Batches) == 0 {
		t.Errorf("%d batches from %d, %v", len(f.Batches), r.From, err)
	}
	return !t.Failed()
}

// What is not in memory is none of ReadTail's, and what the log has of its files in its own memory has a bound.
func TestMappedMemory(t *testing.T) {
	o := smallOptions(Sync)
	fsys := &countingFS{FS: memDir(t)}
	o.Dir, o.FS, o.SegmentBytes, o.LogBytesMax, o.TailBytes = "data", fsys, 1<<20, 1<<40, 1
	l := open(t, o)
	const records = 40
	for i := range record.Offset(records) {
		if err := l.src.commit(t, recordsFrame(nil, 1, i, 1, 8000)); err != nil {
			t.Fatal(err)
		}
	}
	var f Fetched
	r := FetchRequest{Partition: 1, MaxBytes: 1}
	fsys.away.Store(true)
	if ok, err := l.ReadTail(&r, &f); ok || err != nil {
		t.Fatalf("read what is on the disk alone: %v, %v", ok, err)
	}
	fsys.away.Store(false)
	for range touchedMax/touchStep + 1 {
		if ok, err := l.ReadTail(&r, &f); !ok || err != nil || len(f.Batches) != 1 {
			t.Fatal(ok, err, len(f.Batches))
		}
		f.Release()
	}
	if fsys.dropped.Load() == 0 {
		t.Error("nothing was let go of")
	}
	if n := l.touched.Load(); n > touchedMax {
		t.Errorf("%d bytes are counted", n)
	}
	l.close(t)
}

// countingFS has maps whose bytes may be away, and counts how often they are let go of.
type countingFS struct {
	vfs.FS
	away    atomic.Bool
	dropped atomic.Int64
}

type countingFile struct {
	vfs.File
	fs *countingFS
}

type countingMap struct {
	vfs.Mapping
	fs *countingFS
}

func (c *countingFS) Open(path string, flag vfs.Flag) (vfs.File, error) {
	f, err := c.FS.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &countingFile{f, c}, nil
}

func (f *countingFile) Map(off, n int64, writable bool) (vfs.Mapping, error) {
	m, err := f.File.Map(off, n, writable)
	if err != nil {
		return nil, err
	}
	return &countingMap{m, f.fs}, nil
}

func (m *countingMap) Resident(int64, int64) bool { return !m.fs.away.Load() }

func (m *countingMap) Drop(int64, int64) { m.fs.dropped.Add(1) }
