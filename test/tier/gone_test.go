package tier

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// A store that cannot be used keeps a node neither from starting nor from taking records; when it is there, all goes out. So it is when it goes and comes back
// while the node runs.
func TestStoreGone(t *testing.T) { everywhere(t, storeGone) }

func storeGone(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	store, leave, back := store.leaving(t)
	leave()
	n := start(t, t.TempDir(), store)
	n.immediate()
	written := 0
	for round := range 2 {
		failed := n.failures()
		for range 10 {
			n.produce(written, written+200)
			written += 200
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var out strings.Builder
		cmd := exec.CommandContext(ctx, common.Binary(t), "tier", "offload", "--all", "--server", n.run.Listeners["grpc"])
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testx.Eventually(t, patience, func() bool { return n.failures() > failed }, "the store is not missed")
		n.produce(written, written+200)
		written += 200
		back()
		if err := cmd.Wait(); err != nil {
			t.Errorf("round %d: offload does not go on once the store is there: %v %s", round, err, out.String())
		}
		n.offload()
		if got := values(n.consume(written)); len(slices.Compact(got)) != written {
			t.Errorf("round %d: %d records of %d", round, len(got), written)
		}
		leave()
	}
	back()
	n.sluice("tier", "verify")
}

// A node whose history lies in a store does not start without it: readers would skip it.
func TestStoreForgotten(t *testing.T) { everywhere(t, storeForgotten) }

func storeForgotten(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	dir := t.TempDir()
	n := start(t, dir, store)
	n.immediate()
	n.produce(0, 100)
	n.offload()
	want := n.consume(100)
	n.run.Kill()
	_, err := common.TryStart(t, dir, "listeners.kafka.tcp=127.0.0.1:0")
	if err == nil || !strings.Contains(err.Error(), "tier.store is off") {
		t.Errorf("it starts: %v", err)
	}
	n = start(t, dir, store)
	if got := n.consume(100); !maps.Equal(got, want) {
		t.Error("once it is named again other records are read")
	}
}

// failures counts requests to the store that have failed.
func (n *node) failures() (sum float64) {
	n.Helper()
	for _, kind := range []string{"permanent", "unavailable", "throttled", "full", "denied"} {
		sum += n.metric(`sluice_tier_errors_total{kind="` + kind + `"}`)
	}
	return sum
}

// leaving is the place by a way that can be taken from under a node, and given back.
func (p *place) leaving(t *testing.T) (by *place, leave, back func()) {
	t.Helper()
	by = &place{kind: p.kind, settings: maps.Clone(p.settings)}
	switch p.kind {
	case "local":
		dir := filepath.Join(p.settings["dir"], "store")
		by.settings["dir"] = dir
		must := func(err error) {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
		leave = func() {
			must(os.Rename(dir, dir+"-away"))
			must(os.WriteFile(dir, []byte("no folder"), 0o600))
		}
		back = func() {
			must(os.Remove(dir))
			must(os.Rename(dir+"-away", dir))
		}
		return by, leave, back
	case "s3":
		u, err := url.Parse(p.settings["endpoint"])
		if err != nil {
			t.Fatal(err)
		}
		g := newGate(t, u.Host)
		u.Host = g.address
		by.settings["endpoint"] = u.String()
		return by, g.shut, g.open
	}
	g := newGate(t, strings.Split(p.settings["name_nodes"], ",")[0])
	by.settings["name_nodes"] = g.address
	return by, g.shut, g.open
}

// gate passes connections on to a service, or ends them all.
type gate struct {
	address, to string
	wg          sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		conns  map[net.Conn]struct{}
	}
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{address: l.Addr().String(), to: to}
	g.mu.conns = make(map[net.Conn]struct{})
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.shut()
		g.wg.Wait()
	})
	return g
}

// keep notes a connection, or ends it.
func (g *gate) keep(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.closed {
		_ = c.Close()
		return false
	}
	g.mu.conns[c] = struct{}{}
	return true
}

func (g *gate) pass(in net.Conn) {
	if !g.keep(in) {
		return
	}
	out, err := net.Dial("tcp", g.to)
	if err != nil || !g.keep(out) {
		_ = in.Close()
		return
	}
	var both sync.WaitGroup
	for to, from := range map[net.Conn]net.Conn{in: out, out: in} {
		both.Go(func() {
			_, _ = io.Copy(to, from)
			_, _ = to.Close(), from.Close() // one way's end is the other's
		})
	}
	both.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.mu.conns, in)
	delete(g.mu.conns, out)
}

// shut ends all connections, and those to come.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.closed = true
	for c := range g.mu.conns {
		_ = c.Close()
	}
}

// open passes connections on again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.closed = false
}
