package cluster

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/test/common"
)

// A load that begins at a node which does not lead drives the one that does.
func TestLoadFindsLeader(t *testing.T) {
	c := common.StartCluster(t, 3)
	leader := c.Leader()
	for _, n := range c.Nodes {
		if n == leader {
			continue
		}
		cmd := exec.Command(common.Binary(t), "bench", "kafka", "produce", "--url", "kafka://"+n.Kafka, "--records", "2000", "--partitions", "4", "--quiet", "--json", "-")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		var r bench.Result
		if jerr := json.Unmarshal(out, &r); jerr != nil {
			t.Fatalf("node %d: %v, %v: %s", n.ID, err, jerr, errs.String())
		}
		if r.Counts.Acked != 2000 || r.Counts.Lost != 0 || len(r.Violations) > 0 || !r.Kafka.Verified {
			t.Errorf("node %d: %+v, %v", n.ID, r.Counts, r.Violations)
		}
	}
}
