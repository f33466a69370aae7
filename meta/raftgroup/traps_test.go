package raftgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	dragonboat "github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

// An address that stands for all of a machine's makes Dragonboat fail later, and others look for this node on themselves.
func TestUnspecifiedAddress(t *testing.T) {
	for _, a := range []string{"0.0.0.0:7000", "[::]:7000", ":7000"} {
		g := New(Options{Dir: t.TempDir(), Node: 1, Cluster: "c", Address: a, Shards: 4, Form: &Form{}, Logger: quiet})
		if err := g.Start(within(t), meta.New(g)); err == nil || !strings.Contains(err.Error(), a) {
			t.Errorf("%s: %v", a, err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"n0", "n", "1", "n01", "n65536", "n-1", "127.0.0.1:1"} {
		if (transportFactory{}).Validate(s) {
			t.Errorf("%q is a node to Dragonboat", s)
		}
	}
	if !(transportFactory{}).Validate(target(65535)) || nodeOfReplica(replicaOf(7, 3)) != 7 {
		t.Error("a node is none")
	}
}

// A node that comes back at another address says so itself: nothing of it is in Dragonboat's files.
func TestAddressChanges(t *testing.T) {
	ns := three(t, nil)
	old := ns.list[3].address
	ns.stop(3)
	ns.list[1].mustSet(t, user("away"))
	back := ns.start(3, "")
	if back.address == old {
		t.Skip("the same port came again")
	}
	back.sees(t, "away")
	for _, n := range ns.list {
		testx.Eventually(t, soon, func() bool { return n.c.Load().Node(3).Address == back.address }, "the new address is known")
	}
	back.mustSet(t, user("from there"))
	// All of them at once: they find each other again by what they say of themselves.
	addresses := map[meta.NodeID]string{}
	for id, n := range ns.list {
		addresses[id] = n.address
	}
	for id := range addresses {
		ns.stop(id)
	}
	ns.start(1, addresses[1])
	ns.start(2, "")
	ns.start(3, addresses[3])
	ns.list[2].mustSet(t, user("moved"))
	ns.list[3].sees(t, "moved")
}

// The numbers that are in the files for good are these, and Dragonboat refuses others.
func TestWorkerCounts(t *testing.T) {
	ns := newNodes(t)
	n := ns.start(1, "")
	c := n.g.hostConfig()
	if c.Expert.Engine.ExecShards != 1 || c.Expert.LogDB.Shards != 1 {
		t.Errorf("%d step workers and %d logs: data that are there have 1 and 1", c.Expert.Engine.ExecShards, c.Expert.LogDB.Shards)
	}
	// Of the log's buffers none is larger than this: the default has 2 GiB.
	if mb := c.Expert.LogDB.KVWriteBufferSize * c.Expert.LogDB.KVMaxWriteBufferNumber * c.Expert.LogDB.Shards >> 20; mb > 8 {
		t.Errorf("the log's buffers may take %d MiB", mb)
	}
	address := n.address
	ns.stop(1)
	for name, change := range map[string]func(*Group){
		"step workers": func(g *Group) { c := g.hostConfig(); c.Expert.Engine.ExecShards = 2; refusedHost(t, c) },
		"logs":         func(g *Group) { c := g.hostConfig(); c.Expert.LogDB.Shards = 2; refusedHost(t, c) },
		"deployment":   func(g *Group) { c := g.hostConfig(); c.DeploymentID++; refusedHost(t, c) },
	} {
		t.Run(name, func(*testing.T) {
			other := ns.open(1, address)
			defer other.g.Close()
			if err := other.g.identify(); err != nil {
				t.Fatal(err)
			}
			change(other.g)
		})
	}
	ns.start(1, address)
}

func refusedHost(t *testing.T, c config.NodeHostConfig) {
	t.Helper()
	h, err := dragonboat.NewNodeHost(c)
	if err == nil {
		h.Close()
		t.Error("data of others were opened")
	}
}

// #369: a state that is older than what its log goes on from would be taken for whole.
func TestStateBehindItsLog(t *testing.T) {
	ns := three(t, func(o *Options) { o.SnapshotEntries = 10 })
	old := t.TempDir()
	state := filepath.Join(ns.dir, "2", "state")
	address := ns.list[2].address
	ns.stop(2)
	if err := os.CopyFS(old, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	ns.start(2, address)
	for i := range 60 {
		ns.list[1].mustSet(t, user(fmt.Sprint("u", i)))
	}
	ns.list[2].sees(t, "u59")
	testx.Eventually(t, soon, func() bool {
		lr, err := ns.list[2].g.host.GetLogReader(shardID)
		if err != nil {
			t.Fatal(err)
		}
		ss := lr.Snapshot()
		if ss.Index > 0 {
			_ = ss.Unref()
		}
		return ss.OnDiskIndex > 50
	}, "the log has a snapshot")
	ns.stop(2)
	if err := errors.Join(os.RemoveAll(state), os.CopyFS(state, os.DirFS(old))); err != nil {
		t.Fatal(err)
	}
	ns.refusedStart(t, ns.open(2, address), ErrBehind)
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	ns.refusedStart(t, ns.open(2, address), ErrBehind)
	ns.list[1].mustSet(t, user("the others go on"))
}

// A log that is gone is not begun anew: the node would vote a second time. Under another name of the machine it is found.
func TestLogFolder(t *testing.T) {
	ns := newNodes(t)
	n := ns.start(1, "")
	n.mustSet(t, user("a"))
	address := n.address
	ns.stop(1)
	raft := filepath.Join(ns.dir, "1", "raft")
	id, err := readIdentity(filepath.Join(ns.dir, "1"))
	if err != nil {
		t.Fatal(err)
	}
	// As if it had run on a machine with another name.
	if err := os.Rename(filepath.Join(raft, id.host), filepath.Join(raft, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	id.host = "elsewhere"
	if err := id.write(filepath.Join(ns.dir, "1")); err != nil {
		t.Fatal(err)
	}
	if ns.start(1, address).c.Load().User("a") == nil {
		t.Error("nothing is there under the machine's new name")
	}
	ns.list[1].mustSet(t, user("b"))
	ns.stop(1)
	if err := os.RemoveAll(raft); err != nil {
		t.Fatal(err)
	}
	ns.refusedStart(t, ns.open(1, address), ErrLogLost)
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	id := newIdentity(7)
	id.cluster, id.copy, id.run, id.host, id.started, id.voter, id.joined = "c", 3, 1<<40, "h", true, true, true
	if err := id.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readIdentity(dir)
	if err != nil || *got != *id {
		t.Errorf("%+v %v", got, err)
	}
	path := filepath.Join(dir, identityFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "format 2\n" + strings.TrimPrefix(string(whole), "format 1\n"), "format 1\nnode x\n", "format 1\nnode 1\n", string(whole) + "more 1\n", "x"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readIdentity(dir); !errors.Is(err, ErrIdentity) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Two nodes run a newer program: what it writes, an older one refuses by name. It serves what it had, goes on to vote, and has everything once
// its program is newer.
func TestNewerCommand(t *testing.T) {
	ns := three(t, func(o *Options) {
		if o.Node != 3 {
			o.reads = 2
		}
	})
	old := ns.list[3]
	old.mustSet(t, user("before"))
	newer := ns.list[1]
	newer.sees(t, "before")
	cmd := appendCommand(nil, &command{replica: replicaOf(9, 1), run: 1, seq: 1, base: 1 << 40, changes: []meta.Entry{user("newer")}})
	cmd[0] = 2
	testx.Eventually(t, soon, func() bool {
		_, state := newer.g.attempt(cmd, time.Second)
		return state == attemptDone
	}, "the newer command is made")
	newer.sees(t, "newer")
	ns.list[2].sees(t, "newer")
	testx.Eventually(t, soon, func() bool { return errors.Is(old.g.Halted(), ErrCommandVersion) }, "the older program refuses it")
	if err := old.set(user("x")); !errors.Is(err, ErrHalted) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a change: %v", err)
	}
	if err := old.g.Barrier(within(t)); !errors.Is(err, ErrHalted) {
		t.Errorf("a barrier: %v", err)
	}
	if s := old.c.Load(); s.User("before") == nil || s.User("newer") != nil {
		t.Error("it does not serve what it had")
	}
	ns.stop(2)
	newer.mustSet(t, user("with the vote of the old one"))
	address := old.address
	ns.stop(3)
	// It stays halted however often it is started.
	old = ns.start(3, address)
	testx.Eventually(t, soon, func() bool { return old.g.Halted() != nil }, "it refuses the command again")
	ns.stop(3)
	ns.tweak = func(o *Options) { o.reads = 2 }
	old = ns.start(3, address)
	old.sees(t, "newer")
	old.sees(t, "with the vote of the old one")
	old.mustSet(t, user("after"))
}

// Three idle nodes cost little.
func TestIdle(t *testing.T) {
	ns := three(t, func(o *Options) { o.Tick = tick })
	ns.list[1].mustSet(t, user("a"))
	const watch = 2 * time.Second
	before := cpuTime(t)
	<-time.After(watch) // what passes while nothing happens is the matter
	used := cpuTime(t) - before
	t.Logf("three idle nodes: %.2f %% of a core", 100*used.Seconds()/watch.Seconds())
	if used > watch*15/100 { // 5 % each, by the issue
		t.Errorf("three idle nodes took %v of CPU in %v", used, watch)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// What has formed the cluster may be in the log alone: it is not formed again.
func TestFormedByTheLog(t *testing.T) {
	ns := newNodes(t)
	n := ns.start(1, "")
	n.mustSet(t, user("a"))
	address := n.address
	ns.stop(1)
	if err := os.RemoveAll(filepath.Join(ns.dir, "1", "state")); err != nil {
		t.Fatal(err)
	}
	ns.start(1, address).sees(t, "a")
}
