package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// memDir is a file system in memory with an empty folder "data".
func memDir(t testing.TB) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	if err := errors.Join(m.MkdirAll("data"), m.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	return m
}

// faultyRun runs a history on a disk that fails, until it is over or refused, then takes the failing away, cuts the power, and looks
// whether the log tells the truth.
func faultyRun(t *testing.T, mode Durability, judge func(vfs.Op) vfs.Verdict) (ops int, failed bool) {
	t.Helper()
	w := newWorld(smallOptions(mode))
	fault := &vfs.Fault{FS: w.mem, Judge: judge}
	mem, k := w.mem, w.knows()
	o := w.o
	o.FS = fault
	l, _, err := check(o, k)
	if err == nil {
		w.l = l
		if err = l.Start(w); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < 25 && err == nil; i++ {
			w.put([worldParts]int{3000, i % 3 * 900, 200})
			testx.Eventually(t, waitFor, w.idle)
			if i%6 == 5 {
				w.setStart(0, record.Offset(2*i))
				err = w.checkpoint(true)
			}
			w.mu.Lock()
			err = errors.Join(err, w.mu.err)
			w.mu.Unlock()
		}
		k = w.knows()
		_ = l.Close() // may fail; what counts is what the disk holds
		k.most, k.mostIdx = w.knows().most, w.knows().mostIdx
	}
	failed = err != nil
	ops = fault.Ops()
	for i, cut := range []vfs.Cut{{}, {Keep: true}, {Rand: seeded(uint64(ops))}} {
		after := o
		after.FS = mem.Crash(cut)
		l, _, cerr := check(after, k)
		if cerr != nil {
			t.Fatalf("cut %d, the error was %v: %v", i, err, cerr)
		}
		_ = l.Close()
	}
	return ops, failed
}

func TestErrorAtAnyOperation(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		total, _ := faultyRun(t, mode, nil)
		step := max(total/60, 1)
		failures := 0
		for n := 0; n < total; n += step {
			if _, failed := faultyRun(t, mode, vfs.FailNth(n, syscall.EIO)); failed {
				failures++
			}
			var once atomic.Int64
			faultyRun(t, mode, func(op vfs.Op) vfs.Verdict {
				// One operation alone fails, a write after a part of it.
				if once.Add(1) == int64(n) {
					return vfs.Verdict{Err: syscall.EIO, Short: 5000}
				}
				return vfs.Verdict{}
			})
		}
		if failures == 0 {
			t.Errorf("%v: no error of %d operations was told", mode, total)
		}
	}
}

// TestFullAtAnyWrite lets single writes fail for want of space: the log may go on, and must keep what it acknowledged.
func TestFullAtAnyWrite(t *testing.T) {
	for n := int64(1); n < 120; n += 4 {
		var writes atomic.Int64
		faultyRun(t, Sync, func(op vfs.Op) vfs.Verdict {
			if (op.Kind == vfs.OpWrite || op.Kind == vfs.OpAllocate) && writes.Add(1) == n {
				return vfs.Verdict{Err: syscall.ENOSPC, Short: 8192}
			}
			return vfs.Verdict{}
		})
	}
}

// allocating lets a disk be full for new segments only: those that are there were written in full.
func allocating(s *vfs.Space) func(vfs.Op) vfs.Verdict {
	return func(op vfs.Op) vfs.Verdict {
		if op.Kind != vfs.OpAllocate {
			return vfs.Verdict{}
		}
		return s.Judge(op)
	}
}

func TestFullDisk(t *testing.T) {
	mem, clk := memDir(t), clock.NewManual(time.Unix(1e9, 0))
	space := vfs.NewSpace(1 << 30)
	var low atomic.Bool
	o := smallOptions(Sync)
	o.Dir, o.FS, o.Clock = "data", &vfs.Fault{FS: mem, Judge: allocating(space)}, clk
	o.Events.Space = low.Store
	l := open(t, o)
	next, group := record.Offset(0), func(o record.Offset) []byte { return recordsFrame(nil, 1, o, 2, 3000) }
	var err error
	for err == nil && next < 1000 {
		if next == 20 {
			space.Add(100<<10 - space.Left())
		}
		if err = l.src.commit(t, group(next)); err == nil {
			next += 2
		}
	}
	if !errors.Is(err, ErrFull) || errors.Is(err, ErrIO) {
		t.Fatalf("a full disk is told as %v", err)
	}
	if !low.Load() || !l.LowSpace() {
		t.Error("the event was not told")
	}
	if err := l.src.commit(t, group(next)); !errors.Is(err, ErrFull) {
		t.Fatalf("while it is full: %v", err)
	}
	if got := offsets(t, l.Log, 1, 0); len(got) != int(next) {
		t.Fatalf("%d records on a full disk, %d acknowledged", len(got), next)
	}
	space.Add(10 << 20)
	testx.Eventually(t, waitFor, func() bool {
		clk.Advance(time.Second)
		return !l.LowSpace()
	})
	testx.Eventually(t, waitFor, func() bool {
		clk.Advance(time.Second)
		return l.src.commit(t, group(next)) == nil
	})
	next += 2
	if low.Load() || l.Err() != nil || l.Stats().FailedFull.Load() == 0 {
		t.Error("it does not know that there is space again")
	}
	l.close(t)
	l = open(t, o)
	if got := offsets(t, l.Log, 1, 0); len(got) != int(next) {
		t.Fatalf("%d records after all, %d acknowledged", len(got), next)
	}
	l.close(t)
}

// urgentSource has frames that make room.
type urgentSource struct{ *testSource }

func (s urgentSource) GatherUrgent(dst []byte, most int) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.urgent) == 0 {
		return dst, false
	}
	dst = append(dst, s.mu.urgent[0]...)
	s.mu.urgent = s.mu.urgent[1:]
	return dst, len(s.mu.urgent) > 0
}

// Refuse fails what is not urgent.
func (s urgentSource) Refuse(err error) { s.Failed(err) }

func TestUrgentOnFullDisk(t *testing.T) {
	mem := memDir(t)
	space := vfs.NewSpace(1 << 30)
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", &vfs.Fault{FS: mem, Judge: allocating(space)}
	l, err := Open(o)
	if err == nil {
		err = l.Replay(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	src := urgentSource{newTestSource(l)}
	if err := l.Start(src); err != nil {
		t.Fatal(err)
	}
	next := record.Offset(0)
	for err == nil {
		if next == 2 {
			space.Add(100<<10 - space.Left())
		}
		err = src.commit(t, recordsFrame(nil, 1, next, 1, 3000))
		next++
	}
	if !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	src.mu.Lock()
	src.mu.put++
	src.mu.urgent = append(src.mu.urgent, commandFrame(nil, 0, 1, "a delete"))
	acked := src.mu.acked
	src.mu.Unlock()
	l.Wake()
	testx.Eventually(t, waitFor, func() bool {
		src.mu.Lock()
		defer src.mu.Unlock()
		return src.mu.acked > acked
	}, "the delete was not logged")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNamedErrors(t *testing.T) {
	mem := memDir(t)
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", mem
	l := open(t, o)
	if _, err := Open(o); !errors.Is(err, ErrLocked) {
		t.Errorf("a second open: %v", err)
	}
	l.close(t)
	for _, kind := range []vfs.OpKind{vfs.OpOpen, vfs.OpMkdir} {
		denied := o
		denied.FS = &vfs.Fault{FS: mem, Judge: vfs.FailNth(0, &fs.PathError{Op: "open", Path: "data", Err: fs.ErrPermission}, kind)}
		if _, err := Open(denied); !errors.Is(err, ErrPermission) {
			t.Errorf("no permission to %s: %v", kind, err)
		}
	}
	if err := vfs.WriteFile(mem, "data/FORMAT", []byte("sluice journal\nformat 2\n")); err != nil {
		t.Fatal(err)
	}
	var fe *FormatError
	if _, err := Open(o); !errors.As(err, &fe) || !strings.Contains(fe.Found, "format 2") || fe.Known != 1 {
		t.Errorf("a newer format: %v", err)
	}
	if err := mem.Remove("data/FORMAT"); err != nil {
		t.Fatal(err)
	}
	var ce *CorruptError
	l2 := open(t, Options{Dir: "other", FS: mem})
	l2.close(t)
	if err := vfs.WriteFile(mem, "data/wal/0000000000000001.log", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.As(err, &ce) {
		t.Errorf("no format file, but a log: %v", err)
	}
	unreplayed, err := Open(Options{Dir: "third", FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	if err := unreplayed.Start(nil); !errors.Is(err, ErrNotReplayed) {
		t.Errorf("start before replay: %v", err)
	}
	_ = unreplayed.Close()
}

// filled is a closed log of some segments, with a checkpoint in the middle.
func filled(t testing.TB, clean bool) (Options, *vfs.Mem, int) {
	t.Helper()
	mem := memDir(t)
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", mem, 1<<40
	l := open(t, o)
	next := 0
	for i := range 60 {
		if err := l.src.commit(t, recordsFrame(commandFrame(nil, 1, uint64(i), "x"), 1, record.Offset(next), 2, 1500)); err != nil {
			t.Fatal(err)
		}
		next += 2
		if i == 30 {
			at := l.src.end()
			for s := range record.ShardID(2) {
				if err := l.Checkpointer().Write(s, uint64(i), at, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Checkpointer().Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	crashed := mem.Crash(vfs.Cut{Keep: true})
	l.close(t)
	if !clean {
		mem = crashed
	}
	o.FS = mem
	return o, mem, next
}

func TestFlippedBit(t *testing.T) {
	_, base, _ := filled(t, true)
	names, err := base.List("data/wal")
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "spare") })
	for _, name := range names {
		info, err := base.Stat("data/wal/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(0); off < info.Size; off += info.Size/23 + 1 {
			mem := base.Crash(vfs.Cut{Keep: true})
			if err := mem.Flip("data/wal/"+name, off, 3); err != nil {
				t.Fatal(err)
			}
			if err := readAll(mem, 120); err != nil && !isCorrupt(err) {
				t.Errorf("%s at %d: %v", name, off, err)
			}
		}
	}
}

func isCorrupt(err error) bool {
	var ce *CorruptError
	return errors.As(err, &ce) && ce.Path != "" && ce.Reason != ""
}

// readAll opens a log and reads partition 1, which must have so many records or be called corrupt.
func readAll(mem *vfs.Mem, want int) error {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", mem
	l, err := Open(o)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Replay(nil); err != nil {
		return err
	}
	got, err := tryOffsets(l, 1, 0)
	if err == nil && len(got) != want {
		return fmt.Errorf("%d records of %d", len(got), want)
	}
	return err
}

func TestCutAndMissingFiles(t *testing.T) {
	_, base, _ := filled(t, true)
	names, err := base.List("data/wal")
	if err != nil {
		t.Fatal(err)
	}
	corrupt := 0
	for _, name := range names {
		for _, size := range []int64{-1, 0, 100, 4096, 20000, 60000} {
			mem := base.Crash(vfs.Cut{Keep: true})
			path := "data/wal/" + name
			if size < 0 {
				err = mem.Remove(path)
			} else {
				var f vfs.File
				if f, err = mem.Open(path, vfs.Write); err == nil {
					err = f.Truncate(min(size, mustSize(t, f)))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			err := readAll(mem, 120)
			if isCorrupt(err) || errors.Is(err, ErrIO) || errors.Is(err, ErrOffsetOutOfRange) {
				corrupt++
				continue
			}
			// A segment before the checkpoint that is not there at all is one that was recycled.
			if err != nil && size >= 0 {
				t.Errorf("%s cut to %d: %v", name, size, err)
			}
		}
	}
	if corrupt < 5 {
		t.Errorf("only %d cuts were noticed", corrupt)
	}
}

func mustSize(t *testing.T, f vfs.File) int64 {
	t.Helper()
	n, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTornTail tears the last group, which was never acknowledged, and the log goes on over it.
func TestTornTail(t *testing.T) {
	o, mem, next := filled(t, false)
	l := open(t, o)
	s := l.com.active
	at, number := s.end, s.number()
	l.close(t) // writes a clean end at that place
	f, err := mem.Open(s.path, vfs.Write)
	if err != nil {
		t.Fatal(err)
	}
	torn := make([]byte, 3*blockSize)
	copy(torn[groupHeaderSize:], recordsFrame(nil, 1, record.Offset(next), 2, 6000))
	h := groupHeader{segment: number, seq: l.com.seq, prevCRC: 0, length: 9000, frames: 1}
	h.put(torn[:groupHeaderSize+9000], groupSeed(h.segment))
	if _, err := f.WriteAt(torn[:2*blockSize], at); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	if l.Stats().TornCut.Load() != 1 {
		t.Error("nothing was cut")
	}
	if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(next), 2, 100)); err != nil {
		t.Fatal(err)
	}
	l.close(t)
	if err := readAll(mem, next+2); err != nil {
		t.Fatal(err)
	}
}

func TestCheckpointStoreFails(t *testing.T) {
	mem := memDir(t)
	var on atomic.Bool
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", &vfs.Fault{FS: mem, Judge: func(op vfs.Op) vfs.Verdict {
		if on.Load() && strings.Contains(op.Path, "/checkpoint/") && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync) {
			return vfs.Verdict{Err: syscall.EIO}
		}
		return vfs.Verdict{}
	}}
	l := open(t, o)
	commit := func(next int) {
		t.Helper()
		if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(next), 1, 100)); err != nil {
			t.Fatal(err)
		}
	}
	commit(0)
	on.Store(true)
	if err := l.Checkpointer().Write(1, 1, l.src.end(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Checkpointer().Flush(); err == nil {
		t.Fatal("a flush on a failing disk succeeded")
	}
	commit(1) // the log goes on
	if err := l.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	on.Store(false)
	l = open(t, o)
	if len(l.frames) != 2 {
		t.Fatalf("replayed %d frames", len(l.frames))
	}
	l.close(t)
}
