package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// indexes are those that a scanner finds of a shard now.
func indexes(t *testing.T, sc *Scanner, shard record.ShardID) (list []uint64, groups int) {
	t.Helper()
	for {
		frames, _, err := sc.Next()
		if err != nil {
			t.Fatal(err)
		}
		if len(frames) == 0 {
			return list, groups
		}
		groups++
		for len(frames) > 0 {
			f, n, err := record.ViewFrame(frames)
			if err != nil {
				t.Fatal(err)
			}
			if f.Shard == shard {
				list = append(list, f.Index)
			}
			frames = frames[n:]
		}
	}
}

// A scanner that looks for some shards is not woken for groups of others, and is behind them all the same: it holds no more of the log than one that has read
// them. What has something for it comes.
func TestScanOnly(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		o := smallOptions(Sync)
		o.Dir, o.FS = "data/log", memDir(t)
		l := open(t, o)
		l.src.ahead.Store(ahead)
		commit := func(group []byte) {
			t.Helper()
			if err := l.src.commit(t, group); err != nil {
				t.Fatal(err)
			}
		}
		commit(commandFrame(nil, 0, 1, "command"))
		sc, err := l.Scan(Position{})
		if err != nil {
			t.Fatal(err)
		}
		if ahead {
			sc.Ahead()
		}
		sc.Only(1, 2)
		if _, groups := indexes(t, sc, 1); groups != 0 {
			t.Errorf("%d groups of another shard", groups)
		}
		atEnd := func(what string) {
			t.Helper()
			at, passed := sc.Position()
			if left := l.SizeFrom(at); left != 0 || passed != l.src.end().Offset-blockSize {
				t.Errorf("%s: it is at %s, has passed %d bytes, and %d are left", what, at, passed, left)
			}
		}
		atEnd("what was there")
		for i := range uint64(5) {
			commit(commandFrame(nil, 0, i+2, "command"))
			commit(commandFrame(nil, 3, i+1, "command"))
		}
		if len(sc.Ready()) > 0 {
			t.Error("it is woken for other shards")
		}
		atEnd("what has come")
		commit(commandFrame(commandFrame(nil, 0, 7, "command"), 2, 1, "command"))
		<-sc.Ready()
		if list, groups := indexes(t, sc, 2); groups != 1 || len(list) != 1 {
			t.Errorf("%d groups have frames %d", groups, list)
		}
		atEnd("what it looks for")
		sc.Close()
		l.close(t)
	}
}

// follows waits until a scanner has given all frames of a shard, one behind the other.
func follows(sc *Scanner, shard record.ShardID, last uint64) error {
	for next := uint64(1); next <= last; {
		frames, _, err := sc.Next()
		if err != nil {
			return err
		}
		if len(frames) == 0 {
			<-sc.Ready()
		}
		for len(frames) > 0 {
			f, n, err := record.ViewFrame(frames)
			if err != nil || f.Shard == shard && f.Index != next {
				return errors.Join(err, errors.New("a frame is missing"))
			}
			if f.Shard == shard {
				next++
			}
			frames = frames[n:]
		}
	}
	return nil
}

// It waits for nothing but Ready, and misses nothing: not at the end of a segment, nor of what is shown before it is written.
func TestScanOnlyMissesNothing(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data/log", memDir(t)
	l := open(t, o)
	l.src.ahead.Store(true)
	const groups, seldom = 3000, 7
	type scan struct {
		*Scanner
		shard record.ShardID
	}
	var scans []scan
	for shard := range record.ShardID(3) {
		for _, ahead := range []bool{false, true} {
			sc, err := l.Scan(Position{})
			if err != nil {
				t.Fatal(err)
			}
			if ahead {
				sc.Ahead()
			}
			sc.Only(shard, 1)
			scans = append(scans, scan{sc, shard})
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	last := make([]uint64, 3)
	made := make([][]byte, groups)
	for i := range made {
		shard := 0
		if rnd.IntN(seldom) == 0 {
			shard = 1 + rnd.IntN(2)
		}
		last[shard]++
		made[i] = commandFrame(nil, record.ShardID(shard), last[shard], string(make([]byte, rnd.IntN(3000))))
	}
	done := make(chan error, len(scans))
	for _, sc := range scans {
		go func() { done <- follows(sc.Scanner, sc.shard, last[sc.shard]) }()
	}
	for _, group := range made {
		l.src.put(group)
	}
	testx.Eventually(t, waitFor, l.src.settled)
	for range scans {
		if err := testx.Receive(t, done, waitFor); err != nil {
			t.Error(err)
		}
	}
	for _, sc := range scans {
		indexes(t, sc.Scanner, sc.shard) // an idle one may be a segment behind
		at, _ := sc.Position()
		if left := l.SizeFrom(at); left != 0 {
			t.Errorf("shard %d: %d bytes are left", sc.shard, left)
		}
		sc.Close()
	}
	l.close(t)
}

// Who asks for what was written since the log was opened, or lies in the segment that is written to, has it from there, though nothing is known of what lies before.
func TestShardPositionSinceOpened(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data/log", memDir(t)
	l := open(t, o)
	for i := range 60 {
		if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(i+1), 1, 3000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Checkpointer().Write(1, 60, l.src.end(), nil), l.Checkpointer().Flush()); err != nil {
		t.Fatal(err)
	}
	end := l.src.end()
	l.close(t)
	l = open(t, o)
	held, err := l.Scan(Position{}) // what lies ahead of it stays in the log
	if err != nil {
		t.Fatal(err)
	}
	if got := l.ShardPosition(2, 1); !got.Before(end) {
		t.Errorf("what was never written is looked for from %s on", got)
	}
	if err := errors.Join(l.src.commit(t, commandFrame(nil, 1, 61, "since")), l.src.commit(t, commandFrame(nil, 2, 1, "the first of its shard"))); err != nil {
		t.Fatal(err)
	}
	active := l.src.end().Segment
	if active < 3 {
		t.Fatalf("the log is at %s", l.src.end())
	}
	for _, c := range []struct {
		shard record.ShardID
		index uint64
		want  bool
	}{{1, 61, true}, {1, 62, true}, {1, 57, true}, {1, 56, false}, {2, 1, true}, {3, 1, false}} {
		if p := l.ShardPosition(c.shard, c.index); p.Segment == active != c.want {
			t.Errorf("frame %d of shard %d is looked for from %s on, and the log is written to in segment %d", c.index, c.shard, p, active)
		}
	}
	held.Close()
	l.close(t)
}

// What it costs a group that others than those whom it is for scan the log as well: by looking at it, and by passing over it. Processor time.
//
//	TMPDIR=/dev/shm go test ./journal -run - -bench IdleScanners -cpu 1,2 -benchtime 20000x
func BenchmarkIdleScanners(b *testing.B) {
	for _, scanners := range []int{0, 10, 30} {
		for _, only := range []bool{false, true} {
			for _, frames := range []int{1, 64} {
				b.Run(fmt.Sprintf("scanners=%d/only=%t/frames=%d", scanners, only, frames), func(b *testing.B) { idleScanners(b, scanners, only, frames) })
			}
		}
	}
}

func idleScanners(b *testing.B, scanners int, only bool, frames int) {
	b.Helper()
	l := open(b, Options{Dir: b.TempDir(), Durability: Async})
	var scans sync.WaitGroup
	stop := make(chan struct{})
	for range scanners {
		sc, err := l.Scan(Position{})
		if err != nil {
			b.Fatal(err)
		}
		if only {
			sc.Only(1, 4)
		}
		scans.Go(func() {
			defer sc.Close()
			for {
				list, _, err := sc.Next()
				for len(list) > 0 && err == nil {
					var n int
					_, n, err = record.ViewFrame(list)
					list = list[n:]
				}
				if err != nil {
					return
				}
				select {
				case <-sc.Ready():
				case <-stop:
					return
				}
			}
		})
	}
	var group []byte
	for range frames {
		group = commandFrame(group, 0, 1, string(make([]byte, 1024)))
	}
	cpu := processorTime(b)
	for b.Loop() {
		l.src.put(group)
		for !l.src.settled() {
			runtime.Gosched()
		}
	}
	b.ReportMetric(float64((processorTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
	close(stop)
	scans.Wait()
	l.close(b)
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// aheadScans are of shard 0, of shard 1 and of all, and at the end of the log.
func aheadScans(t *testing.T, l *opened) []*Scanner {
	t.Helper()
	scans := make([]*Scanner, 3)
	for i := range scans {
		sc, err := l.Scan(Position{})
		if err != nil {
			t.Fatal(err)
		}
		sc.Ahead()
		if i < 2 {
			sc.Only(record.ShardID(i), 1)
		}
		for range 2 {
			if _, _, err := sc.Next(); err != nil {
				t.Fatal(err)
			}
		}
		scans[i] = sc
	}
	return scans
}

// TestScanHeldBack: of a group that is shown before it is written a scanner has nothing whose shards are held back, nor has one that looks for all; they are woken when it is written.
// One that nobody may have yet is not shown, and the log goes on if it cannot be written.
func TestScanHeldBack(t *testing.T) {
	o := smallOptions(Sync)
	began, goOn := make(chan struct{}), make(chan struct{})
	var stops, fails atomic.Bool
	o.Dir = "data/log"
	o.FS = &vfs.Fault{FS: memDir(t), Judge: func(op vfs.Op) (v vfs.Verdict) {
		if op.Kind == vfs.OpWrite && stops.CompareAndSwap(true, false) {
			began <- struct{}{}
			<-goOn
		}
		if op.Kind == vfs.OpWrite && fails.CompareAndSwap(true, false) {
			v.Err = syscall.ENOSPC
		}
		return v
	}}
	l := open(t, o)
	l.src.held = []record.ShardID{1}
	l.src.ahead.Store(true)
	if err := l.src.commit(t, commandFrame(nil, 0, 1, "command")); err != nil {
		t.Fatal(err)
	}
	scans := aheadScans(t, l)
	has := func(i int) bool {
		t.Helper()
		frames, _, err := scans[i].Next()
		if err != nil {
			t.Fatal(err)
		}
		return len(frames) > 0
	}
	stops.Store(true)
	l.src.put(commandFrame(commandFrame(nil, 0, 2, "own"), 1, 1, "followed"))
	<-began
	<-scans[0].Ready()
	if !has(0) || has(1) || has(2) {
		t.Error("what is held back is shown, or what is not is not")
	}
	close(goOn)
	testx.Eventually(t, waitFor, l.src.settled)
	for i := 1; i < 3; i++ {
		if testx.Receive(t, scans[i].Ready(), waitFor); !has(i) {
			t.Errorf("scanner %d was woken for nothing", i)
		}
	}
	scans[0].Close()
	fails.Store(true)
	if err := l.src.commit(t, commandFrame(commandFrame(nil, 0, 3, "own"), 1, 2, "followed")); err == nil {
		t.Fatal("a disk without room took a group")
	}
	if err := l.src.commit(t, commandFrame(commandFrame(nil, 0, 3, "own"), 1, 2, "followed")); err != nil {
		t.Errorf("nobody has seen the group that failed: %v", err)
	}
	scans[1].Close()
	scans[2].Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
