package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemq/sluice/perf/process"
)

// patience bounds what joins and elections take on a machine that has other work.
const patience = process.Patience

// node is one process.
type node struct {
	id          int
	dir         string
	args        []string
	kafka, mqtt string
	grpc        string
	process     *process.Node
}

// nodes are the brokers that are measured: one that is alone, or three of one cluster.
type nodes struct {
	o    *options
	dir  string
	list []*node
}

// startNodes starts n of them, and waits until all are in sync.
func startNodes(o *options, n int, settings ...string) (c *nodes, err error) {
	c = &nodes{o: o}
	if c.dir, err = os.MkdirTemp(o.dir, "cluster-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var first string
	for id := 1; id <= n; id++ {
		set := append([]string(nil), settings...)
		if n > 1 {
			between := o.address()
			set = append(set, "listeners.cluster="+between)
			if id == 1 {
				first = between
			} else {
				set = append(set, "cluster.peers="+first)
				if _, err := c.ask(c.list[0], "node", "add", strconv.Itoa(id), "--address", between); err != nil {
					return nil, err
				}
			}
		}
		nd := &node{id: id, dir: filepath.Join(c.dir, strconv.Itoa(id)), kafka: o.address(), mqtt: o.address(), grpc: o.address()}
		set = append([]string{"node.id=" + strconv.Itoa(id), "listeners.kafka.tcp=" + nd.kafka, "listeners.mqtt.tcp=" + nd.mqtt, "listeners.grpc=" + nd.grpc,
			"listeners.mqtt.ws=off", "listeners.http=off"}, set...)
		nd.args = []string{"start", "--data", nd.dir}
		for _, s := range append(set, o.set...) {
			nd.args = append(nd.args, "--set", s)
		}
		c.list = append(c.list, nd)
		if _, err := nd.start(o.sluice); err != nil {
			return nil, err
		}
	}
	_, err = c.synced()
	return c, err
}

// start starts the process, and tells how long it took to be ready.
func (n *node) start(binary string) (took time.Duration, err error) {
	if n.process, err = process.Start(binary, n.args...); err != nil {
		return 0, fmt.Errorf("node %d: %w", n.id, err)
	}
	return n.process.Took, nil
}

// stop ends the process in order.
func (n *node) stop() error {
	p := n.process
	n.process = nil
	if err := p.Stop(); err != nil {
		return fmt.Errorf("node %d: %w", n.id, err)
	}
	return nil
}

// close ends all and forgets what they had.
func (c *nodes) close() {
	for _, n := range c.list {
		if n.process != nil {
			n.process.Kill()
		}
	}
	_ = os.RemoveAll(c.dir)
}

// ask runs the command line against a node.
func (c *nodes) ask(n *node, args ...string) ([]byte, error) {
	cmd := exec.Command(c.o.sluice, append(args, "--server", n.grpc)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes(), nil
}

// synced waits until one node leads and all are in sync, and gives the one that leads. A node that is alone leads.
func (c *nodes) synced() (*node, error) {
	if len(c.list) == 1 {
		return c.list[0], nil
	}
	var last error
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		var s struct {
			Leader int
			InSync []int `json:"in_sync"`
			Open   bool
		}
		out, err := c.ask(c.list[0], "shard", "status", "--output", "json")
		if err == nil {
			err = json.Unmarshal(out, &s)
		}
		if last = err; err == nil && s.Leader != 0 && len(s.InSync) == len(c.list) {
			return c.list[s.Leader-1], nil
		}
	}
	return nil, errors.Join(fmt.Errorf("not all nodes are in sync after %v", patience), last)
}

// pids are the processes.
func (c *nodes) pids() (list []int) {
	for _, n := range c.list {
		list = append(list, n.process.PID)
	}
	return list
}

// address is one of loopback that nobody listens on.
func (o *options) address() string {
	for {
		port := 0
		if o.port > 0 {
			port, o.port = o.port, o.port+1
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			if port == 0 {
				panic(err) // no port of the machine is free
			}
			continue
		}
		_ = l.Close()
		return l.Addr().String()
	}
}
