package replica

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
)

// A follower that catches up gets what it lacks at the pace; one that acknowledgements wait for has none, and nobody has where too few are in sync.
func TestPace(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	p := NewPace(clk, 64<<10)
	leader, follower := newNode(t, 1, options{log: large, pace: p}), newNode(t, 2, options{log: large})
	connect(t, leader, follower)
	leader.lead(1)
	leader.opens()
	const size = 32 << 10
	write := func(records int) {
		t.Helper()
		for range records {
			leader.append(0, batch("x", size))
		}
		testx.Eventually(t, soon, func() bool { st := leader.b.Replica(0); return st.Durable == st.Last }, "all is written")
	}
	write(20)
	leader.r.Await(nil, false)
	follower.r.Follow(1, 1)
	testx.Eventually(t, soon, func() bool { return clk.Pending() == 1 }, "it waits")
	if have, all := follower.b.Replica(0).Durable, leader.b.Replica(0).Durable; have >= all {
		t.Errorf("it has %d of %d frames at once", have, all)
	}
	began := clk.Mono()
	testx.Eventually(t, soon, func() bool {
		if clk.Pending() > 0 {
			clk.Advance(50 * time.Millisecond)
		}
		return follower.b.Replica(0).Durable == leader.b.Replica(0).Durable
	}, "it has all")
	if took := clk.Mono() - began; took < 8*time.Second || took > 12*time.Second { // 640 KiB
		t.Errorf("it took %v", took)
	}
	same(t, leader, follower)

	leader.r.Await([]link.NodeID{2}, false)
	write(20)
	same(t, leader, follower)
	leader.r.Await(nil, true)
	write(20)
	same(t, leader, follower)
	if clk.Pending() != 0 {
		t.Error("somebody waits")
	}
	leader.r.Await(nil, false)
	p.Set(0)
	write(20)
	same(t, leader, follower)
}
