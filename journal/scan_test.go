package journal

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// A scanner that takes groups ahead has one while it is being written, and has it once; another one has it when it is in the log. When such a write fails,
// nothing may come in its place: the log takes no more, also if it was for want of room. Length: one history, told in order.
func TestScanAhead(t *testing.T) {
	o := smallOptions(Sync)
	began, goOn := make(chan struct{}), make(chan error)
	var held atomic.Bool
	o.Dir = "data/log"
	o.FS = &vfs.Fault{FS: memDir(t), Judge: func(op vfs.Op) (v vfs.Verdict) {
		if op.Kind == vfs.OpWrite && held.CompareAndSwap(true, false) {
			began <- struct{}{}
			v.Err = <-goOn
		}
		return v
	}}
	l := open(t, o)
	l.src.ahead.Store(true)
	next := uint64(1)
	group := func() []byte {
		next++
		return generation(commandFrame(nil, 0, next-1, "command"), 7, record.Offset(next-2), next-1, 1)
	}
	if err := l.src.commit(t, group()); err != nil { // there is a segment with room
		t.Fatal(err)
	}
	first, err := l.Scan(Position{})
	if err != nil {
		t.Fatal(err)
	}
	first.Ahead()
	other, err := l.Scan(Position{})
	if err != nil {
		t.Fatal(err)
	}
	has := func(sc *Scanner, want bool, what string) {
		t.Helper()
		if frames, _, err := sc.Next(); err != nil || (len(frames) > 0) != want {
			t.Errorf("%s: %d bytes, %v", what, len(frames), err)
		}
	}
	has(first, true, "what was written")
	has(other, true, "what was written, another one")
	has(first, false, "nothing more")

	held.Store(true)
	l.src.put(group())
	<-began
	<-first.Ready()
	has(first, true, "what is being written")
	has(first, false, "it comes once")
	has(other, false, "another one")
	goOn <- nil
	testx.Eventually(t, waitFor, l.src.settled)
	<-other.Ready()
	has(other, true, "what was being written")
	has(first, false, "it comes once, also when it is written")

	held.Store(true)
	l.src.put(group())
	<-began
	<-first.Ready()
	has(first, true, "what will not be written")
	goOn <- syscall.ENOSPC
	testx.Eventually(t, waitFor, l.src.settled)
	has(other, false, "what was not written")
	if err := l.Err(); !errors.Is(err, ErrIO) {
		t.Errorf("the log goes on: %v", err)
	}
	if err := l.src.commit(t, group()); err == nil {
		t.Error("another group has its place")
	}
	first.Close()
	other.Close()
	_ = l.Close() // it has failed
}

// A group that is shown is written while a scanner looks for it: the scanner has it, since nobody wakes it again.
func TestScanAheadIsWrittenMeanwhile(t *testing.T) {
	o := smallOptions(Sync)
	began, goOn := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	o.Dir = "data/log"
	o.FS = &vfs.Fault{FS: memDir(t), Judge: func(op vfs.Op) (v vfs.Verdict) {
		if op.Kind == vfs.OpWrite && held.CompareAndSwap(true, false) {
			began <- struct{}{}
			<-goOn
		}
		return v
	}}
	l := open(t, o)
	l.src.ahead.Store(true)
	if err := l.src.commit(t, commandFrame(nil, 0, 1, "command")); err != nil {
		t.Fatal(err)
	}
	sc, err := l.Scan(Position{})
	if err != nil {
		t.Fatal(err)
	}
	sc.Ahead()
	if frames, _, err := sc.Next(); err != nil || len(frames) == 0 {
		t.Fatalf("%d bytes, %v", len(frames), err)
	}
	held.Store(true)
	l.src.put(commandFrame(nil, 0, 2, "command"))
	<-began
	<-sc.Ready() // the group is shown
	sc.looked = func() {
		sc.looked = nil
		close(goOn)
		testx.Eventually(t, waitFor, l.src.settled)
	}
	if frames, _, err := sc.Next(); err != nil || len(frames) == 0 {
		select {
		case <-sc.Ready():
		default:
			t.Errorf("%d bytes, %v, and nobody will wake it", len(frames), err)
		}
	}
	sc.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// What a scanner has gone over and what lies ahead of it are the log's size, over segments as well.
func TestScanPassed(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data/log", memDir(t)
	l := open(t, o)
	write := func(from, n int) {
		t.Helper()
		for i := range n {
			if err := l.src.commit(t, commandFrame(nil, 0, uint64(from+i), string(make([]byte, 3000)))); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(1, 60)
	sc, err := l.Scan(Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		sc.Close()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	at, _ := sc.Position()
	size := l.SizeFrom(at)
	if size < 60*3000 {
		t.Fatalf("%d bytes from %s", size, at)
	}
	read := func() (n int) {
		t.Helper()
		for {
			frames, _, err := sc.Next()
			if err != nil {
				t.Fatal(err)
			}
			if at, passed := sc.Position(); passed+l.SizeFrom(at) != size {
				t.Fatalf("at %s %d bytes are passed and %d left, of %d", at, passed, l.SizeFrom(at), size)
			}
			if len(frames) == 0 {
				return n
			}
			n++
		}
	}
	n := read()
	at, passed := sc.Position()
	if n != 60 || passed != size || at.Segment == 1 {
		t.Errorf("%d groups, %d bytes of %d, at %s", n, passed, size, at)
	}
	write(61, 1)
	if more := l.SizeFrom(at); more < 3000 {
		t.Errorf("%d bytes more", more)
	} else {
		size += more
	}
	n = read()
	if _, passed = sc.Position(); n != 1 || passed != size {
		t.Errorf("%d groups, %d bytes of %d", n, passed, size)
	}
}
