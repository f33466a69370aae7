package replica

import (
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// The leader knows how much of its log a follower has yet to get, and how much it got.
func TestProgress(t *testing.T) {
	leader, follower := newNode(t, 1, options{log: large}), newNode(t, 2, options{log: large})
	connect(t, leader, follower)
	leader.lead(1)
	leader.opens()
	const records, size = 40, 50 << 10
	for i := range records {
		leader.append(i%testShards, batch("x", size))
	}
	testx.Eventually(t, soon, func() bool { n, err := leader.sink.count(); return n == records && err == nil }, "all is written")
	follower.r.Follow(1, 1)
	same(t, leader, follower)
	var f Follower
	testx.Eventually(t, soon, func() bool {
		list := leader.r.Followers()
		if len(list) != 1 {
			return false
		}
		f = list[0]
		return f.Progress.Done == f.Progress.Total && f.Lag == 0
	}, "the follower has all", &f)
	if f.Progress.Done < records*size || f.Progress.Left != 0 {
		t.Errorf("%+v", f)
	}
	before := f.Progress.Total
	leader.append(0, batch("y", size))
	testx.Eventually(t, soon, func() bool {
		list := leader.r.Followers()
		return len(list) == 1 && list[0].Progress.Total >= before+size && list[0].Progress.Done == list[0].Progress.Total
	}, "it has what came later")
}
