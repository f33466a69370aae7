package tier

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// beside is a place of the same kind that holds nothing of the other, as backup.store has it.
func (p *place) beside(t *testing.T) (other *place, text string) {
	t.Helper()
	other = &place{kind: p.kind, settings: maps.Clone(p.settings)}
	for key, to := range map[string]string{"prefix": "-vault", "dir": "-vault"} {
		if other.settings[key] != "" {
			other.settings[key] += to
		}
	}
	var list []string
	for _, key := range slices.Sorted(maps.Keys(other.settings)) {
		value := other.settings[key]
		if key == "secret_key" {
			file := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			value = "file:" + file
		}
		list = append(list, key+"="+value)
	}
	t.Cleanup(func() { other.empty(t) })
	return other, p.kind + ":" + strings.Join(list, ",")
}

// restore runs sluice restore with the settings of a node, and gives what it prints.
func restore(t *testing.T, dir string, set []string) string {
	t.Helper()
	args := []string{"restore", "--data", dir, "--verify", "-o", "json"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs strings.Builder
	cmd := exec.CommandContext(ctx, common.Binary(t), args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("restore: %v\n%s", err, errs.String())
	}
	return string(out)
}

// A backup of a node whose history has left the log keeps that history, whatever the node does to it afterwards: a node that is restored reads all
// of it. Create, list, verify, restore and delete run against the store.
func TestBackupHoldsHistory(t *testing.T) { everywhere(t, backupHoldsHistory) }

func backupHoldsHistory(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	vault, text := store.beside(t)
	set := []string{"tier.delete_delay=1s", "kafka.check_interval=1s", "backup.rate=0", "backup.store=" + text}
	n := start(t, t.TempDir(), store, set...)
	n.immediate()
	n.publish(0, 100)
	n.produce(0, 900)
	want := n.consume(1000)
	n.offload()
	var made struct{ ID, State string }
	if err := json.Unmarshal([]byte(n.sluice("backup", "create", "-o", "json")), &made); err != nil || made.State != "complete" {
		t.Fatalf("%+v %v", made, err)
	}
	there := store.objects(t)
	n.produce(900, 950)
	n.offload()
	n.sluice("topic", "alter", "temps", "--set", "retention.ms=1")
	testx.Eventually(t, patience, func() bool { return n.metric("sluice_tier_objects") == 0 }, "history stays in the manifest")
	testx.Eventually(t, patience, func() bool { return n.metric("sluice_tier_deleted_objects_total") > 0 }, "what came after the backup is not removed")
	if got := store.objects(t); got < there {
		t.Errorf("%d objects of %d are left", got, there)
	}
	if list := n.sluice("backup", "list"); !strings.Contains(list, made.ID) {
		t.Errorf("listed %s", list)
	}
	n.sluice("backup", "verify", made.ID)
	n.run.Kill()

	dir := filepath.Join(t.TempDir(), "data")
	var restored struct {
		Verified struct {
			Read int64 `json:"tier_read"`
			All  int64 `json:"tier_objects"`
		}
	}
	if err := json.Unmarshal([]byte(restore(t, dir, append(store.flags(), set...))), &restored); err != nil || restored.Verified.All == 0 || restored.Verified.Read != restored.Verified.All {
		t.Errorf("read %+v, %v", restored, err)
	}
	n = start(t, dir, store, append(set, "node.id=7")...)
	if got := n.consume(1000); !maps.Equal(got, want) {
		t.Error("the restored node reads other records than were written")
	}
	testx.Eventually(t, patience, func() bool { return len(store.list(t, "holds/node-", false)) == 1 }, "the restored node does not hold what it needs")
	n.sluice("backup", "delete", made.ID)
	if left := append(vault.list(t, "", false), store.list(t, "holds/backup-", false)...); len(left) > 0 {
		t.Errorf("%v is left of the backup", left)
	}
	if got := n.consume(1000); !maps.Equal(got, want) {
		t.Error("with its backup the restored node has lost records")
	}
	n.run.Kill()
}

// metric reads one metric without labels.
func (n *node) metric(name string) (v float64) {
	n.Helper()
	r, err := http.Get("http://" + n.run.Listeners["http"] + "/metrics")
	if err != nil {
		n.Fatal(err)
	}
	defer r.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if v, err = strconv.ParseFloat(strings.TrimSpace(rest), 64); err != nil {
				n.Fatal(err)
			}
			return v
		}
	}
	n.Fatalf("there is no metric %s", name)
	return 0
}
