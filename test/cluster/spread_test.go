package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// Partitions of a topic are led by all three nodes. One of them is killed: others lead its partitions, those of the nodes that are left go on meanwhile, and when it is
// back it leads again what it led. Records are there once and in order, transactions over all partitions whole or not at all.
func TestSpreadLeaders(t *testing.T) {
	c := common.StartCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 4*longest)
	defer cancel()
	l := newLoad(ctx, t, c)
	l.spread = true
	l.begin()
	l.spreadOver(3)
	l.progress()
	victim := c.Nodes[0]
	if c.Leader() == victim { // the other groups and transactions are elsewhere
		victim = c.Nodes[1]
	}
	away := l.ledBy(victim.ID)
	victim.Kill()
	testx.Eventually(t, longest, func() bool { return len(l.leaders()) == 2 }, "others lead what node", victim.ID, "led")
	l.progress()
	victim.Start()
	c.AwaitSynced()
	l.spreadOver(3)
	if back := l.ledBy(victim.ID); fmt.Sprint(back) != fmt.Sprint(away) {
		t.Errorf("node %d led partitions %v before it was killed, and leads %v", victim.ID, away, back)
	}
	l.progress()
	l.end()
	if t.Failed() {
		t.Log(c.Logs())
	}
}

// leaders are the nodes that lead partitions, with how many.
func (l *load) leaders() map[int]int {
	cl := l.open(kgo.MetadataMaxAge(time.Second))
	defer cl.Close()
	list := make(map[int]int)
	ctx, cancel := context.WithTimeout(l.ctx, longest)
	defer cancel()
	m, err := kadm.NewClient(cl).Metadata(ctx, "chaos")
	if err != nil {
		return list
	}
	for _, p := range m.Topics["chaos"].Partitions {
		list[int(p.Leader)]++
	}
	return list
}

// ledBy are the partitions that a node leads.
func (l *load) ledBy(id int) (list []int32) {
	cl := l.open()
	defer cl.Close()
	m, err := kadm.NewClient(cl).Metadata(l.ctx, "chaos")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, p := range m.Topics["chaos"].Partitions.Sorted() {
		if int(p.Leader) == id {
			list = append(list, p.Partition)
		}
	}
	return list
}

// spreadOver waits until so many nodes lead partitions.
func (l *load) spreadOver(n int) {
	l.t.Helper()
	var now map[int]int
	testx.Eventually(l.t, longest, func() bool {
		now = l.leaders()
		return len(now) == n && now[-1] == 0
	}, "leaders are spread", fmt.Sprint(now))
}
