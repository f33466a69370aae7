package journal

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
)

// A log that has its bytes takes what makes room and nothing else, over a restart too, and goes on by itself when room was made.
// Length: a log that fills, and is looked at on the way.
func TestLimit(t *testing.T) {
	o := smallOptions(Sync)
	mem := memDir(t)
	o.Dir, o.FS, o.MaxBytes = "data", mem, 512<<10
	var src urgentSource
	start := func() *Log {
		l, err := Open(o)
		if err == nil {
			err = l.Replay(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		src = urgentSource{newTestSource(l)}
		if err := l.Start(src); err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := start()
	n := 0
	put := func() error {
		err := src.commit(t, recordsFrame(nil, 1, l.LogEnd(1), 2, 2000))
		n++
		return err
	}
	for n < 1000 && put() == nil {
		if n%10 == 0 {
			(&opened{Log: l, src: src.testSource}).checkpointed(t)
		}
	}
	var err error
	testx.Eventually(t, waitFor, func() bool { // the last checkpoint may make room yet
		err = put()
		return err != nil && l.Limited()
	}, "the log takes all")
	if !errors.Is(err, ErrLimit) || !errors.Is(err, ErrFull) || errors.Is(err, vfs.ErrFull) {
		t.Fatalf("%d groups, %d bytes of files: %v", n, l.Used(), err)
	}
	if used := l.Used(); used > o.MaxBytes || used < o.MaxBytes/2 || l.Stats().FailedLimit.Load() == 0 || l.Err() != nil || l.LowSpace() {
		t.Errorf("%d bytes of files, limited %v: %v", l.Used(), l.Limited(), l.Err())
	}
	urgent := func() {
		t.Helper()
		src.mu.Lock()
		acked := src.mu.acked
		src.mu.urgent = append(src.mu.urgent, commandFrame(nil, 0, uint64(1000+n), string(make([]byte, 9000))))
		src.mu.Unlock()
		n++
		l.Wake()
		testx.Eventually(t, waitFor, func() bool {
			src.mu.Lock()
			defer src.mu.Unlock()
			return src.mu.acked > acked
		})
	}
	for range 30 { // more than the segment has set aside
		urgent()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = start()
	if err := put(); !errors.Is(err, ErrLimit) {
		t.Errorf("after a restart: %v", err)
	}
	urgent()
	l.SetLogStart(1, l.LogEnd(1)*3/4)
	(&opened{Log: l, src: src.testSource}).checkpointed(t)
	testx.Eventually(t, waitFor, func() bool { return !l.Limited() }, "what was let go of has made no room")
	if err := put(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A source that cannot tell what is urgent is refused.
func TestLimitWithoutUrgent(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.MaxBytes = "data", memDir(t), 256<<10
	l := open(t, o)
	defer l.close(t)
	for i := range 1000 {
		if err := l.src.commit(t, commandFrame(nil, 0, uint64(i+1), string(make([]byte, 4000)))); errors.Is(err, ErrLimit) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("the log takes all")
}
