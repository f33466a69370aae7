package server

import (
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// TestRotateBeforeApplied: what was committed and not yet applied when the segment ended is behind a checkpoint all the same, once it is applied, though nothing else is written:
// who brings out all that there is waits for it.
func TestRotateBeforeApplied(t *testing.T) {
	w := newTierWorld(t, 1)
	ls := w.n.storage.(*logStorage)
	mt := w.topics[0]
	part := w.partition(mt, 0)
	b := w.batch(mt.parts[0], nil)
	b.seal(record.Producer{}, 0)
	held, release := make(chan struct{}), make(chan struct{})
	written := ls.log.Stats().Bytes.Load()
	w.loop.Post(engine.TaskFunc(func(*engine.Loop) {
		if err := w.local.Append(w.app, part, b.raw, broker.AppendOptions{}, broker.Token(0)); err != nil {
			t.Error(err)
		}
		close(held)
		<-release // what is committed is applied here
	}))
	<-held
	testx.Eventually(t, patience, func() bool { return ls.log.Stats().Bytes.Load() > written })
	ls.Rotate()
	testx.Eventually(t, patience, func() bool { return !ls.log.Rotating() })
	testx.Eventually(t, patience, func() bool { return !ls.forced.Load() }) // a checkpoint begins
	if !ls.log.Lags() {
		t.Error("what is not applied is behind a checkpoint")
	}
	close(release)
	testx.Eventually(t, patience, func() bool { return !ls.log.Lags() })
	<-w.sink.got
	if err := stopNode(w.n); err != nil {
		t.Error(err)
	}
}
