package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// refused runs `sluice start` on dir, which must end with exit code 1, with an error that has all of these words, and without a ready line.
func refused(t *testing.T, dir string, as *syscall.Credential, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, common.Binary(t), append([]string{"start", "--data", dir}, testx.Flags(testx.Listeners("mqtt.tcp")...)...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGKILL}
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want exit code 1\n%s", err, &log)
	}
	if strings.Contains(out.String(), "ready") {
		t.Errorf("it says %q", &out)
	}
	for _, w := range words {
		if !strings.Contains(log.String(), w) {
			t.Errorf("%q is not in what it says:\n%s", w, &log)
		}
	}
	t.Logf("it says: %s", strings.TrimSpace(log.String()))
}

// filled makes a directory with some hundred kept messages that no checkpoint covers, as kill -9 leaves it.
func filled(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	b := common.Start(t, dir, "journal.checkpoint_interval=1h")
	sub, pub := common.Exchange{ID: "sub"}, common.Exchange{ID: "pub"}
	for _, x := range []*common.Exchange{&sub, &pub} {
		if err := x.Connect(b.URL()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sub.C.Subscribe(wire.FilterRequest{Filter: []byte("a"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, pub.C, 200)
	b.Kill()
	return dir
}

func publish(t *testing.T, c *mqttclient.Client, n int) {
	t.Helper()
	for i := range n {
		if _, err := c.Publish(&wire.PublishOut{Topic: []byte("a"), QoS: 1, Payload: fmt.Appendf(nil, "message %d is here", i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func segment(t *testing.T, dir string) string {
	t.Helper()
	var found string
	names, _ := filepath.Glob(filepath.Join(dir, "journal", "wal", "*"))
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && bytes.Contains(b, []byte("message 100 is here")) {
			found = n
		}
	}
	if found == "" {
		t.Fatalf("no segment holds the messages: %v", names)
	}
	return found
}

// A bit that flipped in the middle of the log is no torn end: what was acknowledged lies behind it, so nothing is cut.
func TestFlippedBit(t *testing.T) {
	dir := filled(t)
	name := segment(t, dir)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("message 100 is here"))] ^= 4
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, nil, filepath.Base(name), "corrupt at byte")
	after, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(after, b) {
		t.Errorf("the start changed the segment: %v", err)
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	b := common.Start(t, dir)
	refused(t, dir, nil, dir, "in use by another process")
	x := common.Exchange{ID: "still-served"}
	if err := x.Connect(b.URL()); err != nil {
		t.Error(err)
	} else {
		_ = x.C.Close()
	}
}

func TestOtherFormat(t *testing.T) {
	dir := filled(t)
	name := filepath.Join(dir, "journal", "FORMAT")
	if err := os.WriteFile(name, []byte("sluice journal\nformat 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, nil, name, "format 2", "format 1")
	if err := os.WriteFile(name, []byte("sluice journal\nformat 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	common.Start(t, dir).Kill() // nothing was touched
}

// Other shards than the data was made with would look for every session in the wrong place.
func TestOtherShards(t *testing.T) {
	dir := filled(t)
	if err := os.WriteFile(filepath.Join(dir, "SHARDS"), []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, nil, "cluster.shards", "7", dir)
}

func TestNoPermission(t *testing.T) {
	dir := filled(t)
	var as *syscall.Credential
	if os.Geteuid() == 0 {
		as = &syscall.Credential{Uid: 65534, Gid: 65534} // root may do everything: another user tries
	}
	for _, name := range []string{filepath.Join(dir, "journal"), dir} {
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, 0); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Chmod(name, 0o700) }()
		if name != dir {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, "SHARDS"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, dir, as, dir, "permission")
	}
}

// A segment that is shorter than it was made has lost something.
func TestCutFile(t *testing.T) {
	dir := filled(t)
	name := segment(t, dir)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, int64(bytes.Index(b, []byte("message 100 is here")))); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, nil, filepath.Base(name), "corrupt")
}
