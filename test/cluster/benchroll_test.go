package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// A load over all leaders goes on while a node is stopped in order and started again. All that was acknowledged is there once and in order, and the pause is told.
func TestLoadSurvivesRestart(t *testing.T) {
	c := common.StartCluster(t, 3)
	c.Must("shard", "sets", "3", "--wait")
	cmd := exec.Command(common.Binary(t), "bench", "kafka", "produce", "--url", "kafka://"+c.Nodes[0].Kafka+","+c.Nodes[1].Kafka, "--spread", "--partitions", "6",
		"--rate", "500", "--duration", "15s", "--late-max", "1h", "--quiet", "--json", "-")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	victim := c.Nodes[2]
	testx.Eventually(t, longest, func() bool { return bytes.Contains([]byte(c.Must("topic", "list")), []byte("sb-")) }, "the load's topic is there")
	begun := time.Now()
	testx.Eventually(t, longest, func() bool { return time.Since(begun) > 3*time.Second }, "load goes on")
	victim.Stop()
	victim.Start()
	var exit *exec.ExitError
	if err := <-done; err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r bench.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	x := r.Kafka
	if r.Counts.Acked != r.Counts.Sent || r.Counts.Lost+r.Counts.Duplicates+r.Counts.Reordered > 0 || len(r.Violations) > 0 || !x.Verified {
		t.Errorf("%+v, %v, notes %v", r.Counts, r.Violations, r.Notes)
	}
	if len(x.Nodes) != 3 || x.Moves == 0 || x.Pauses == nil || x.Pauses.Partitions != 6 {
		t.Fatalf("nodes %+v, %d moves, pauses %+v", x.Nodes, x.Moves, x.Pauses)
	}
	t.Logf("longest pause %.0f ms, %d moves, %d connections lost, %d sent again", x.Pauses.Longest, x.Moves, x.Cut, x.Resent)
	if t.Failed() {
		t.Log(c.Logs())
	}
}
