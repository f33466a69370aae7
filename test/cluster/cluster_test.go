// Package cluster starts several real processes as the nodes of one cluster and asks for what an operator and clients count on: that users, rules,
// quotas and bindings changed on one node are seen on all, while nodes are killed and come back.
package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) {
	code := m.Run()
	common.Clean()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var every = flag.Bool("cluster.every", false, "kill each node in turn, not the one alone that leads")

// soon bounds what elections and joins take.
const soon = 30 * time.Second

type node struct {
	*common.Broker
	t        *testing.T
	id       int
	dir      string
	settings []string
}

// newNode starts a node.
func newNode(t *testing.T, id int, settings ...string) *node {
	t.Helper()
	n := &node{t: t, id: id, dir: t.TempDir()}
	n.settings = append([]string{"node.id=" + strconv.Itoa(id), "listeners.grpc=127.0.0.1:0", "cluster.shards=4", "engine.loops=1", "journal.segment_size=4MiB", "journal.group_size=1MiB",
		"limits.packet_size=512KiB"}, settings...)
	n.start()
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.Broker = common.Start(n.t, n.dir, n.settings...)
}

// run runs the command line against the node.
func (n *node) run(stdin string, args ...string) (string, error) {
	n.t.Helper()
	cmd := exec.Command(common.Binary(n.t), append(args, "--server", n.Listeners["grpc"])...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (n *node) must(args ...string) string {
	n.t.Helper()
	out, err := n.run("secret secret\n", args...)
	if err != nil {
		n.t.Fatalf("node %d: %v", n.id, err)
	}
	return out
}

// eventually runs the command line against the node until it does what is asked.
func (n *node) eventually(args ...string) {
	n.t.Helper()
	var err error
	testx.Eventually(n.t, soon, func() bool {
		_, err = n.run("", args...)
		return err == nil
	}, "node", n.id, "does", strings.Join(args, " "), &err)
}

// sees waits until a listing of the node has a text.
func (n *node) sees(text string, args ...string) {
	n.t.Helper()
	testx.Eventually(n.t, soon, func() bool {
		out, err := n.run("", args...)
		return err == nil && strings.Contains(out, text)
	}, "node", n.id, "shows", text, "in", strings.Join(args, " "))
}

type listed struct {
	Cluster string
	Nodes   []struct {
		ID      int
		State   string
		Address string
		Leader  bool
	}
}

func (n *node) nodes() (l listed) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.must("node", "list", "--output", "json")), &l); err != nil {
		n.t.Fatal(err)
	}
	return l
}

// leads says whether the node leads, as it knows.
func (n *node) leads() bool {
	n.t.Helper()
	for _, o := range n.nodes().Nodes {
		if o.ID == n.id {
			return o.Leader
		}
	}
	return false
}

func (n *node) active(id int) {
	n.t.Helper()
	testx.Eventually(n.t, soon, func() bool {
		for _, o := range n.nodes().Nodes {
			if o.ID == id {
				return o.State == "active"
			}
		}
		return false
	}, "node", id, "is active")
}

// A node that was alone becomes the first of three, on line, and takes along what it had. From then on all three have one catalog, while any one of
// them is down; with two down changes are refused by name and what is there is served; it all goes on when they are back.
func TestLoneNodeBecomesThree(t *testing.T) {
	at := testx.ClosedAddr(t)
	one := newNode(t, 1)
	one.must("user", "add", "alone")
	one.must("acl", "add", "--user", "alone", "--operation", "publish", "--topic", "plant/#")
	one.must("quota", "set", "--user", "alone", "--produce", "1MiB")
	one.must("binding", "add", "plant/#", "--topic", "plants")
	one.must("ban", "add", "--client-id", "mallory")
	if _, err := one.run("", "node", "list"); err == nil || !strings.Contains(err.Error(), "alone") {
		t.Errorf("nodes of a lone node: %v", err)
	}
	if err := one.Stop(); err != nil {
		t.Fatal(err)
	}
	one.settings = append(one.settings, "listeners.cluster="+at)
	one.start()
	moved := func(n *node) {
		t.Helper()
		n.sees("alone", "user", "list")
		n.sees("plant/#", "acl", "list")
		n.sees("alone", "quota", "list")
		n.sees("plants", "binding", "list")
		n.sees("mallory", "ban", "list")
	}
	moved(one)

	all := grown(t, one, at, moved)
	id, err := os.ReadFile(filepath.Join(all[2].dir, "CLUSTER"))
	if err != nil || strings.TrimSpace(string(id)) != all[0].nodes().Cluster {
		t.Errorf("node 3 keeps the name %q, %v", id, err)
	}
	for i, n := range all {
		name := fmt.Sprint("by-", i+1)
		n.must("user", "add", name)
		for _, o := range all {
			o.sees(name, "user", "list")
		}
	}
	oneAway(t, all)
	twoAway(t, all)

	one.eventually("shard", "move", "--to", "1")
	one.eventually("node", "remove", "3")
	if _, err := one.run("", "node", "remove", "1"); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Errorf("node 1 removes itself: %v", err)
	}
	all[1].sees("removed", "node", "list")
	all[1].must("user", "add", "two")
	one.sees("two", "user", "list")
	one.ready(true)
	all[2].ready(false)
	for _, n := range all {
		if err := n.Stop(); err != nil {
			t.Errorf("node %d: %v", n.id, err)
		}
	}
}

// grown lets two nodes join the first one, which listens at an address.
func grown(t *testing.T, one *node, at string, moved func(*node)) (all [3]*node) {
	t.Helper()
	all[0] = one
	for i := 1; i < 3; i++ {
		addr := testx.ClosedAddr(t)
		one.must("node", "add", strconv.Itoa(i+1), "--address", addr)
		all[i] = newNode(t, i+1, "listeners.cluster="+addr, "cluster.peers="+at)
		all[i].active(i + 1)
		moved(all[i])
	}
	return all
}

// oneAway kills the node that leads, or each one in turn, while another one changes the catalog.
func oneAway(t *testing.T, all [3]*node) {
	t.Helper()
	for down, n := range all {
		if !*every && !n.leads() {
			continue
		}
		n.Kill()
		name := fmt.Sprint("without-", down+1)
		changer, other := all[(down+1)%3], all[(down+2)%3]
		testx.Eventually(t, soon, func() bool {
			_, err := changer.run("secret secret\n", "user", "add", name)
			return err == nil || strings.Contains(err.Error(), "there is")
		}, "a change while node", down+1, "is down")
		other.sees(name, "user", "list")
		n.start()
		n.sees(name, "user", "list")
	}
}

// ready waits until the node says whether clients are to come to it.
func (n *node) ready(want bool) {
	n.t.Helper()
	testx.Eventually(n.t, soon, func() bool {
		resp, err := http.Get("http://" + n.Listeners["http"] + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return (resp.StatusCode == http.StatusOK) == want
	}, "node", n.id, "is ready:", want)
}

// twoAway kills two nodes, and starts them again.
func twoAway(t *testing.T, all [3]*node) {
	t.Helper()
	one := all[0]
	all[1].Kill()
	all[2].Kill()
	testx.Eventually(t, soon, func() bool {
		_, err := one.run("secret secret\n", "user", "add", "nobody")
		if err == nil {
			t.Fatal("a change was made by one of three")
		}
		return strings.Contains(err.Error(), "fewer than half")
	}, "changes are refused by name")
	one.sees("by-3", "user", "list")
	one.ready(false)
	all[1].start()
	all[2].start()
	testx.Eventually(t, soon, func() bool {
		_, err := one.run("secret secret\n", "user", "add", "back")
		return err == nil
	}, "changes are made again")
	all[2].sees("back", "user", "list")
	for _, n := range all {
		n.ready(true)
	}
}

// What does not belong together does not start.
func TestRefused(t *testing.T) {
	at := testx.ClosedAddr(t)
	one := newNode(t, 1, "listeners.cluster="+at)
	lone := newNode(t, 2)
	if err := lone.Stop(); err != nil {
		t.Fatal(err)
	}
	addr := testx.ClosedAddr(t)
	one.must("node", "add", "2", "--address", addr)
	refused := func(dir string, want string, settings ...string) {
		t.Helper()
		_, err := common.TryStart(t, dir, settings...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", settings, err, want)
		}
	}
	refused(lone.dir, "can form a cluster", append(lone.settings, "listeners.cluster="+addr, "cluster.peers="+at)...)
	refused(t.TempDir(), "another number of shards", append(lone.settings, "cluster.shards=5", "listeners.cluster="+addr, "cluster.peers="+at)...)
	refused(t.TempDir(), "is another node", append(lone.settings, "node.id=1", "listeners.cluster="+addr, "cluster.peers="+at)...)
	if err := one.Stop(); err != nil {
		t.Fatal(err)
	}
	refused(one.dir, "set listeners.cluster", lone.settings[1:]...)
	refused(one.dir, "belongs to node 1", append(one.settings, "node.id=2")...)
	one.start()
	if err := one.Stop(); err != nil {
		t.Fatal(err)
	}
}

// A node that waits to be let in ends at once, in order, when it is told to.
func TestEndedWhileJoining(t *testing.T) {
	at, addr := testx.ClosedAddr(t), testx.ClosedAddr(t)
	newNode(t, 1, "listeners.cluster="+at)
	args := append([]string{"start", "--data", t.TempDir()}, testx.Flags(append(testx.Listeners("mqtt.tcp", "http"), "node.id=2", "listeners.grpc=127.0.0.1:0", "cluster.shards=4",
		"listeners.cluster="+addr, "cluster.peers="+at)...)...)
	cmd := exec.Command(common.Binary(t), args...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waits, told := false, time.Time{}
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if !waits && strings.Contains(lines.Text(), "lets this one in yet") {
			waits, told = true, time.Now()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !waits || time.Since(told) > 20*time.Second {
		t.Errorf("%v, waited %v, %v after the signal", err, waits, time.Since(told))
	}
}
