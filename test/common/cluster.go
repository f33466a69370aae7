package common

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// patience bounds what elections, joins and copies take on a machine that others work on as well.
const patience = 60 * time.Second

// Cluster is several processes that are the nodes of one cluster. Their addresses stay the same over restarts.
type Cluster struct {
	Nodes []*Node
	t     testing.TB
	where func(id int) (by []string, host string)
	on    Ground
	of    string // the program of nodes that are added; empty: Binary
}

// Node is one process of a Cluster. Its methods are for one goroutine at a time; what clients need of it, Kafka and MQTT, never changes.
type Node struct {
	ID          int
	Kafka, MQTT string // addresses
	Between     string // where the other nodes reach it
	Dir         string
	Disk        *Disk // where the cluster stands on disks

	settings []string
	by       []string // what the node is started by
	program  string   // empty: Binary
	t        testing.TB
	mu       sync.Mutex
	broker   *Broker // nil: it is down
}

// clusterSettings keep nodes small: several of them share a machine.
var clusterSettings = []string{"engine.loops=1", "cluster.shards=8", "journal.segment_size=8MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB"}

// StartCluster starts n nodes, has them join, and waits until all are in sync.
func StartCluster(t testing.TB, n int, settings ...string) *Cluster {
	t.Helper()
	return StartClusterBy(t, n, func(int) ([]string, string) { return nil, "" }, settings...)
}

// StartClusterBy is StartCluster with nodes that are started by another command (TryStartBy), on a host of their own: where says both of node id, an empty
// host is loopback.
func StartClusterBy(t testing.TB, n int, where func(id int) (by []string, host string), settings ...string) *Cluster {
	t.Helper()
	return (&Cluster{t: t, where: where}).start(n, settings...)
}

// StartClusterOf is StartCluster with nodes of another program.
func StartClusterOf(t testing.TB, program string, n int, settings ...string) *Cluster {
	t.Helper()
	return (&Cluster{t: t, where: func(int) ([]string, string) { return nil, "" }, of: program}).start(n, settings...)
}

// Ground is what the nodes of a cluster stand on that a test has its hands on.
type Ground struct {
	Net   *Network // between them; nil: they reach each other as they listen
	Disks string   // of so much each, as mount has it; empty: directories of the test's
}

// StartClusterOn is StartCluster on such ground.
func StartClusterOn(t testing.TB, on Ground, n int, settings ...string) *Cluster {
	t.Helper()
	return (&Cluster{t: t, where: func(int) ([]string, string) { return nil, "" }, on: on}).start(n, settings...)
}

func (c *Cluster) start(n int, settings ...string) *Cluster {
	t := c.t
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs())
		}
	})
	var first string
	for id := 1; id <= n; id++ {
		at := c.address(id, 7000)
		own := []string{"listeners.cluster=" + at}
		if c.on.Net != nil {
			at = c.on.Net.front(t, id, at)
			own = append(own, "cluster.advertised="+at)
		}
		if id == 1 {
			first = at
		} else {
			own = append(own, "cluster.peers="+first)
		}
		c.AddNode(at, append(own, settings...)...)
	}
	c.AwaitSynced()
	return c
}

// address is one of node id: a free one on loopback, or a port of its host.
func (c *Cluster) address(id, port int) string {
	if _, host := c.where(id); host != "" {
		return net.JoinHostPort(host, strconv.Itoa(port))
	}
	return testx.ClosedAddr(c.t)
}

// AddNode starts one more node, which joins at the address between nodes that others reach it at.
func (c *Cluster) AddNode(at string, settings ...string) *Node {
	c.t.Helper()
	id := len(c.Nodes) + 1
	n := &Node{ID: id, t: c.t, program: c.of, Kafka: c.address(id, 9092), MQTT: c.address(id, 1883), Between: at}
	n.by, _ = c.where(id)
	if c.on.Disks == "" {
		n.Dir = c.t.TempDir()
	} else {
		n.Disk = NewDisk(c.t, c.on.Disks)
		n.Dir, n.by = n.Disk.Dir, n.Disk.By
	}
	n.settings = append([]string{"node.id=" + strconv.Itoa(n.ID), "listeners.grpc=" + testx.ClosedAddr(c.t), "listeners.kafka.tcp=" + n.Kafka, "listeners.mqtt.tcp=" + n.MQTT}, clusterSettings...)
	n.settings = append(n.settings, settings...)
	add := []string{"node", "add", strconv.Itoa(n.ID), "--address", at}
	for _, s := range settings {
		if roles, ok := strings.CutPrefix(s, "node.roles="); ok {
			add = append(add, "--roles", strings.Trim(roles, "[]"))
			if !strings.Contains(roles, "broker") {
				n.settings = append(n.settings, "listeners.kafka.tcp=off", "listeners.mqtt.tcp=off", "listeners.mqtt.ws=off")
			}
		}
	}
	if len(c.Nodes) > 0 {
		c.Must(add...)
	}
	c.Nodes = append(c.Nodes, n)
	n.Start()
	return n
}

// Start starts the node again.
func (n *Node) Start() {
	n.t.Helper()
	if err := n.TryStart(); err != nil {
		n.t.Fatal(err)
	}
}

// TryStart is Start for a node that may refuse.
func (n *Node) TryStart() error {
	n.t.Helper()
	program := n.program
	if program == "" {
		program = Binary(n.t)
	}
	b, err := tryStart(n.t, append(slices.Clone(n.by), program), n.Dir, n.settings...)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broker = b
	return nil
}

// Program changes what the node runs from its next start on; empty: Binary.
func (n *Node) Program(path string) { n.program = path }

// Set changes settings from the next start on.
func (n *Node) Set(settings ...string) { n.settings = append(n.settings, settings...) }

// Replace has the node, which is down and has lost its disk, come back with an empty one.
func (c *Cluster) Replace(n *Node) {
	c.t.Helper()
	if err := os.RemoveAll(n.Dir); err != nil {
		c.t.Fatal(err)
	}
	c.Must("node", "replace", strconv.Itoa(n.ID))
	for _, o := range c.Nodes {
		if o != n {
			n.Set("cluster.peers=" + o.Between)
			break
		}
	}
	n.Start()
}

// Skew has the node's wall clock be wrong by so much from its next start on.
func (n *Node) Skew(by time.Duration) { n.by = []string{"env", skewVariable + "=" + by.String()} }

// Settings are those that it is started with.
func (n *Node) Settings() []string { return slices.Clone(n.settings) }

// Broker is the process, nil while there is none.
func (n *Node) Broker() *Broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broker
}

func (n *Node) take() *Broker {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.broker
	n.broker = nil
	return b
}

// Kill is kill -9.
func (n *Node) Kill() { n.take().Kill() }

// Stop ends the node in order.
func (n *Node) Stop() {
	n.t.Helper()
	if err := n.take().Stop(); err != nil {
		n.t.Errorf("node %d: %v", n.ID, err)
	}
}

// Run runs the command line against the node.
func (n *Node) Run(args ...string) (string, error) {
	n.t.Helper()
	b := n.Broker()
	if b == nil {
		return "", fmt.Errorf("node %d is down", n.ID)
	}
	args = append(append(slices.Clone(n.by), Binary(n.t)), append(slices.Clone(args), "--server", b.Listeners["grpc"])...)
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s at node %d: %w: %s", strings.Join(args, " "), n.ID, err, errs.String())
	}
	return out.String(), nil
}

// Must runs the command line against any node until one does it.
func (c *Cluster) Must(args ...string) (out string) {
	c.t.Helper()
	var err error
	testx.Eventually(c.t, patience, func() bool {
		for _, n := range c.Nodes {
			if out, err = n.Run(args...); err == nil {
				return true
			}
		}
		return false
	}, strings.Join(args, " "))
	return out
}

// Status is what `sluice shard status` shows.
type Status struct {
	Leader   int
	Epoch    uint32
	Replicas []int
	InSync   []int `json:"in_sync"`
	Open     bool
	Yields   map[int]string // why nodes leave the lead to others
}

// String is for a test that has failed.
func (s *Status) String() string { return fmt.Sprintf("%+v", *s) }

// Status is what a node knows of the shards, false while it knows no leader.
func (n *Node) Status() (s Status, ok bool) {
	n.t.Helper()
	out, err := n.Run("shard", "status", "--output", "json")
	if err != nil || json.Unmarshal([]byte(out), &s) != nil {
		return s, false
	}
	return s, s.Leader != 0
}

// Leader waits until some node that runs leads, and gives it.
func (c *Cluster) Leader() (leader *Node) {
	c.t.Helper()
	testx.Eventually(c.t, patience, func() bool {
		for _, n := range c.Nodes {
			if n.Broker() == nil {
				continue
			}
			if s, ok := n.Status(); ok && s.Leader == n.ID {
				leader = n
				return true
			}
		}
		return false
	}, "a node leads")
	return leader
}

// AwaitSynced waits until all nodes are in sync.
func (c *Cluster) AwaitSynced() {
	c.t.Helper()
	var last Status
	testx.Eventually(c.t, patience, func() bool {
		s, ok := c.Leader().Status()
		last = s
		return ok && len(s.InSync) == len(c.Nodes)
	}, "all nodes are in sync", &last)
}

// KafkaAddrs are the nodes' addresses for Kafka clients.
func (c *Cluster) KafkaAddrs() (list []string) {
	for _, n := range c.Nodes {
		list = append(list, n.Kafka)
	}
	return list
}

// Logs is what all nodes that run have to say, for a test that has failed.
func (c *Cluster) Logs() string {
	var b strings.Builder
	for _, n := range c.Nodes {
		if p := n.Broker(); p != nil {
			fmt.Fprintf(&b, "--- node %d\n%s\n", n.ID, p.Log())
		}
	}
	return b.String()
}
