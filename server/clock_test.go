package server

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// jumpingClock is the system's, but for wall time, which somebody sets.
type jumpingClock struct {
	clock.Real
	offset atomic.Int64
}

func (c *jumpingClock) Now() time.Time { return c.Real.Now().Add(time.Duration(c.offset.Load())) }

// Wall time jumps both ways under a node, and over a restart: connections stay, nothing that is kept is lost.
func TestClockJumps(t *testing.T) {
	mem := vfs.NewMem()
	clk := &jumpingClock{}
	with := func(o *nodeOptions) { o.storage.clock = clk }
	const never = ^uint32(0)
	kept := 0
	n, url := testNode(t, mem, with)
	keeper := dial(t, url, "keeper", never)
	subscribe(t, keeper, "kept", 1)
	_ = keeper.Close()
	for _, jump := range []time.Duration{-365 * 24 * time.Hour, 48 * time.Hour, 3 * 365 * 24 * time.Hour, -time.Hour} {
		pub, live := dial(t, url, "pub", 0), dial(t, url, "live", 0)
		subscribe(t, live, "free", 1)
		clk.offset.Add(int64(jump))
		for range 10 {
			if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1}); err != nil {
				t.Fatalf("after a jump of %v: %v", jump, err)
			}
			kept++
		}
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("free"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := live.Receive(patience); err != nil {
			t.Errorf("after a jump of %v: %v", jump, err)
		}
		if err := stopNode(n); err != nil {
			t.Fatal(err)
		}
		n, url = testNode(t, mem, with)
	}
	if got := drainQueue(t, url, "keeper", kept); got != kept {
		t.Errorf("%d kept of %d acknowledged", got, kept)
	}
	if err := stopNode(n); err != nil {
		t.Error(err)
	}
}
