package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/perf/process"
)

// node is one that is measured, with a directory of its own.
type node struct {
	o          *options
	dir        string
	mqtt, grpc string
	*process.Node
}

// start starts a node with more settings, KEY=VALUE each.
func (o *options) start(settings ...string) (n *node, err error) {
	n = &node{o: o}
	if n.dir, err = os.MkdirTemp("", "guards-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(n.dir)
		}
	}()
	if n.mqtt, err = process.Address(); err != nil {
		return nil, err
	}
	if n.grpc, err = process.Address(); err != nil {
		return nil, err
	}
	args := []string{"start", "--data", n.dir}
	for _, s := range append([]string{"listeners.mqtt.tcp=" + n.mqtt, "listeners.grpc=" + n.grpc, "listeners.mqtt.ws=off", "listeners.kafka.tcp=off", "listeners.http=off",
		"journal.durability=memory"}, settings...) {
		args = append(args, "--set", s)
	}
	n.Node, err = process.Start(o.sluice, args...)
	return n, err
}

func (n *node) close() error {
	err := n.Stop()
	return errors.Join(err, os.RemoveAll(n.dir))
}

// ask runs the command line against the node.
func (n *node) ask(args ...string) error {
	out, err := exec.Command(n.o.sluice, append(args, "--server", n.grpc)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// bench runs a load of sluice bench mqtt. A load that finds something wrong is an error.
func (n *node) bench(args ...string) (*bench.Result, error) {
	args = append([]string{"bench", "mqtt", args[0], "--url", "mqtt://" + n.mqtt, "--pid", strconv.Itoa(n.PID), "--quiet", "--json", "-"}, args[1:]...)
	cmd := exec.Command(n.o.sluice, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var r bench.Result
	if jerr := json.Unmarshal(out.Bytes(), &r); jerr != nil {
		return nil, errors.Join(fmt.Errorf("the load: %w\n%s", jerr, errs.String()), err)
	}
	switch {
	case len(r.Violations) > 0:
		return nil, fmt.Errorf("the load found what is wrong: %s", strings.Join(r.Violations, "; "))
	case r.Server == nil:
		return nil, errors.Join(errors.New("the load has no figures of the node"), err)
	case r.Void != "":
		say("the generator lacked something: %s", r.Void) // of latencies, not of the node's CPU time
	}
	return &r, nil
}
