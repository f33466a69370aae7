package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// A node in another rack gets the place of one of three that stand in one, while clients produce; a leader that drains loses the lead and its place to the node that has
// none, and gets it back. Each record is there once.
func TestBalance(t *testing.T) {
	c := common.StartCluster(t, 3, "node.rack=a")
	at := testx.ClosedAddr(t)
	c.AddNode(at, "node.rack=b", "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)
	c.Must("node", "add", "4", "--address", at, "--wait")
	ctx, cancel := context.WithTimeout(context.Background(), 2*longest)
	defer cancel()
	l := &load{t: t, c: c}
	produce(ctx, t, l, "copied", 0, 100)
	stop, ended := make(chan struct{}), make(chan int, 1)
	cl := l.open(kgo.DefaultProduceTopic("copied"))
	defer cl.Close()
	go func() {
		n := 100
		defer func() { ended <- n }()
		for {
			if err := cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(n))).FirstErr(); err != nil {
				t.Error(err)
				return
			}
			n++
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	var plan balancePlan
	testx.Eventually(t, longest, func() bool {
		plan = balanceAt(t, c, "--dry-run")
		return !plan.Balanced
	}, "the node has said in which rack it is")
	if s, _ := c.Leader().Status(); plan.LeadMoves || len(plan.Nodes) != 4 || plan.Nodes[3] != (balancePlace{4, "b", false, true}) || !slices.Equal(s.Replicas, []int{1, 2, 3}) {
		t.Errorf("a plan %+v, %v", plan, &s)
	}
	plan = balanceAt(t, c, "--wait")
	placedAt(t, c, plan.goes())
	for _, flag := range []string{"--rack-aware", "--rack-aware=false"} {
		if plan = balanceAt(t, c, flag); !plan.Balanced {
			t.Errorf("once more, with %s: %+v", flag, plan)
		}
	}
	drains := c.Leader().ID
	c.Must("node", "drain", fmt.Sprint(drains))
	testx.Eventually(t, longest, func() bool {
		plan = balanceAt(t, c, "--wait")
		return plan.goes() == drains
	}, "one drains", &plan)
	placedAt(t, c, drains)
	close(stop)
	n := <-ended
	checkRecords(ctx, t, l, n)
	offsets, err := kadm.NewClient(cl).ListEndOffsets(ctx, "copied")
	if o, ok := offsets.Lookup("copied", 0); err != nil || !ok || o.Offset != int64(n) {
		t.Errorf("%v, %+v, want %d records", err, o, n)
	}
	if out, err := c.Nodes[0].Run("shard", "balance", "--dry-run", "--wait"); err == nil || !strings.Contains(err.Error(), "give one of them") {
		t.Errorf("%q, %v", out, err)
	}
}

type balancePlace struct {
	Node       int
	Rack       string
	Has, Shall bool
}

// goes is the node that is to have the shards no more; 0: none.
func (p *balancePlan) goes() int {
	for _, n := range p.Nodes {
		if !n.Shall {
			return n.Node
		}
	}
	return 0
}

type balancePlan struct {
	Balanced  bool
	LeadMoves bool `json:"lead_moves"`
	Nodes     []balancePlace
}

// balanceAt runs the command at the node that has no part in it at first.
func balanceAt(t *testing.T, c *common.Cluster, flags ...string) (p balancePlan) {
	t.Helper()
	out, err := c.Nodes[3].Run(append([]string{"shard", "balance", "--output", "json"}, flags...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &p)
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", flags, err, out)
	}
	return p
}

// placedAt waits until all nodes but one have the shards and are in sync, and one of them leads.
func placedAt(t *testing.T, c *common.Cluster, but int) {
	t.Helper()
	var want []int
	for _, n := range c.Nodes {
		if n.ID != but {
			want = append(want, n.ID)
		}
	}
	var s common.Status
	testx.Eventually(t, longest, func() bool {
		s, _ = c.Nodes[3].Status()
		return s.Leader != but && slices.Equal(slices.Sorted(slices.Values(s.Replicas)), want) && slices.Equal(s.InSync, want)
	}, "all have the shards but node", but, &s)
}
