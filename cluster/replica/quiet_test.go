package replica

import (
	"context"
	"errors"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// Who has stopped following and is quiet acknowledges nothing any more: its stream is closed at its end, also if it was only just opened, and the leader has none of
// it soon. Until then it is none of the Followers, and is served all the same.
func TestQuiet(t *testing.T) {
	one, two := newNode(t, 1, options{}), newNode(t, 2, options{})
	connect(t, one, two)
	one.lead(1)
	one.opens()
	for range 20 { // at any moment of a stream's begin
		two.r.Follow(1, 1)
		f := two.r.fetched.Load()
		two.r.Rest()
		if err := two.r.Quiet(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !f.over() || f.stream.Load() != nil || f.acks.Load() != nil {
			t.Fatal("it is quiet, and has a stream")
		}
	}
	two.r.Follow(1, 1)
	testx.Eventually(t, soon, func() bool { return one.r.Serves(2) }, "it is served")
	same(t, one, two)
	if one.r.Serves(3) || two.r.Serves(1) {
		t.Error("somebody is served who has not come")
	}
	two.r.Rest()
	if err := two.r.Quiet(t.Context()); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, soon, func() bool { return !one.r.Serves(2) }, "the leader has no stream of it")
}

// Quiet waits for the stream, not for who is told that the node is behind, who may call it; and no longer than ctx.
func TestQuietWaits(t *testing.T) {
	n := newNode(t, 1, options{})
	f := newFetcher(n.r, 2, 1)
	n.r.mu.Lock()
	n.r.mu.fetch = f
	n.r.mu.Unlock()
	n.r.Rest()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.r.Quiet(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a stream that does not end: %v", err)
	}
	close(f.ended)
	if err := n.r.Quiet(t.Context()); err != nil {
		t.Error(err)
	}
	n.r.Follow(2, 2)
	n.r.Rest()
	n.r.mu.Lock()
	left := len(n.r.mu.ending)
	n.r.mu.Unlock()
	if left != 1 {
		t.Errorf("%d are waited for, one has just been told", left)
	}
}
