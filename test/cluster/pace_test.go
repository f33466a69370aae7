package cluster

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// catchUp is how far nodes are, as `sluice shard status` shows it.
type catchUp struct {
	Progress []struct {
		Node        int
		Phase       string
		Done        int64   `json:"done_bytes"`
		Total       int64   `json:"total_bytes"`
		PerSecond   int64   `json:"bytes_per_second"`
		SecondsLeft *uint64 `json:"seconds_left"`
		Never       bool
	}
}

// A node that joins gets what there is at cluster.catchup_rate, and is in sync then. Meanwhile any node shows how far it is, how fast, and how long it takes yet.
func TestCatchUpPaced(t *testing.T) {
	const rate = 1 << 20
	c := common.StartCluster(t, 1, "cluster.catchup_rate=1MiB")
	ctx, cancel := context.WithTimeout(context.Background(), 2*longest)
	defer cancel()
	l := &load{t: t, c: c}
	const records = 3000
	produce(ctx, t, l, "copied", 0, records)
	at := testx.ClosedAddr(t)
	began := time.Now()
	n := c.AddNode(at, "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)
	var shown catchUp
	testx.Eventually(t, longest, func() bool {
		out, err := n.Run("shard", "status", "--output", "json")
		if err != nil || json.Unmarshal([]byte(out), &shown) != nil || len(shown.Progress) != 2 {
			return false
		}
		p := &shown.Progress[1]
		return p.Node == 2 && p.Phase == "catching_up" && p.Done > 0 && p.Done < p.Total && p.Total > records*1000 && p.PerSecond > 0 && p.PerSecond < 2*rate &&
			p.SecondsLeft != nil && *p.SecondsLeft > 0 && !p.Never
	}, "the node shows how far it is", &shown)
	if out, err := c.Nodes[0].Run("node", "add", "2", "--address", at, "--wait"); err != nil || !strings.Contains(out, "active") { // it was added: this waits on
		t.Errorf("wait for the node: %q, %v", out, err)
	}
	if s, ok := c.Nodes[0].Status(); !ok || len(s.InSync) != 2 {
		t.Errorf("it is not in sync: %v", &s)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it took %v to get 3 MB at 1 MiB a second", took)
	}
	for _, args := range [][]string{{"node", "replace", "2", "--wait"}, {"shard", "move", "--to", "2", "--wait"}} { // it is in sync, and stays so
		if out, err := c.Nodes[0].Run(args...); err != nil {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	if leader := c.Leader(); leader != n {
		t.Errorf("node %d leads", leader.ID)
	}
	checkRecords(ctx, t, l, records)
	if out, err := n.Run("node", "drain", "2", "--wait"); err != nil || c.Leader() == n {
		t.Errorf("drain: %q, %v", out, err)
	}
	if out, err := c.Nodes[0].Run("node", "remove", "2", "--wait"); err != nil || !strings.Contains(out, "removed") {
		t.Errorf("remove: %q, %v", out, err)
	}
}

// The rate changes while a node catches up, by a reload of the node that leads.
func TestCatchUpPaceReloaded(t *testing.T) {
	const records = 3000
	c := common.StartCluster(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*longest)
	defer cancel()
	l := &load{t: t, c: c}
	produce(ctx, t, l, "copied", 0, records)
	first := c.Nodes[0]
	rate := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(first.Dir, "sluice.yaml"), []byte("cluster: {catchup_rate: "+text+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rate("64KiB") // at which it takes three quarters of a minute
	first.Stop()
	first.Start()
	at := testx.ClosedAddr(t)
	n := c.AddNode(at, "listeners.cluster="+at, "cluster.peers="+first.Between)
	var shown catchUp
	testx.Eventually(t, longest, func() bool {
		out, err := n.Run("shard", "status", "--output", "json")
		if err != nil || json.Unmarshal([]byte(out), &shown) != nil || len(shown.Progress) != 2 {
			return false
		}
		p := &shown.Progress[1]
		return p.Phase == "catching_up" && p.PerSecond > 0 && p.PerSecond < 256<<10 && p.SecondsLeft != nil && p.Done < p.Total
	}, "the node catches up slowly", &shown)
	slow := time.Duration(*shown.Progress[1].SecondsLeft) * time.Second
	rate("64MiB")
	began := time.Now()
	if err := syscall.Kill(first.Broker().PID, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if out, err := first.Run("node", "add", "2", "--address", at, "--wait"); err != nil {
		t.Fatalf("wait for the node: %q, %v", out, err)
	}
	if took := time.Since(began); took >= slow {
		t.Errorf("in sync after %v; by the rate before it would have been %v", took, slow)
	}
	checkRecords(ctx, t, l, records)
}
