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

// besideOne drives one node and three in turn.
func (o *options) besideOne(title string, load ...string) error {
	t := newTable(title)
	for range o.rounds {
		for _, n := range []int{1, 3} {
			c, err := startNodes(o, n)
			if err != nil {
				return err
			}
			f, err := c.produce(load...)
			c.close()
			if err != nil {
				return err
			}
			t.add(fmt.Sprint(n), f)
		}
	}
	t.print()
	return nil
}

// shards drives three nodes with 8 and with 64 shards, and partitions in all of them.
func (o *options) shards() error {
	t := newTable("three nodes with 8 and 64 shards, produce 1 KiB to 64 partitions, batches of 16 KiB")
	for range o.rounds {
		for _, n := range []int{8, 64} {
			c, err := startNodes(o, 3, "cluster.shards="+strconv.Itoa(n))
			if err != nil {
				return err
			}
			f, err := c.produce("--partitions", "64", "--producers", "4", "--batch-bytes", "16384", "--records", "200000", "--warmup", "0s")
			c.close()
			if err != nil {
				return err
			}
			t.add(fmt.Sprintf("%d shards", n), f)
		}
	}
	t.print()
	return nil
}

// produce drives the node that leads by sluice bench, which reads back what it has produced. A first load, of which nothing is told, warms the nodes up.
func (c *nodes) produce(load ...string) (figures, error) {
	if _, err := c.bench("--records", "50000", "--warmup", "0s"); err != nil {
		return figures{}, err
	}
	leader, err := c.synced()
	if err != nil {
		return figures{}, err
	}
	stop, err := c.beside(leader)
	if err != nil {
		return figures{}, err
	}
	r, err := c.bench(load...)
	if err := errors.Join(err, stop()); err != nil {
		return figures{}, err
	}
	f := figures{cpu: r.Server.CPUPerMessage, rate: r.Rates.SentPerSecond}
	if a := r.Kafka.Acknowledged; a != nil {
		f.p50, f.p99 = a.P50, a.P99
	}
	return f, nil
}

// bench runs sluice bench kafka produce.
func (c *nodes) bench(load ...string) (*bench.Result, error) {
	args := append([]string{"bench", "kafka", "produce", "--url", "kafka://" + c.list[0].kafka, "--quiet", "--json", "-"}, load...)
	for _, pid := range c.pids() {
		args = append(args, "--pid", strconv.Itoa(pid))
	}
	cmd := exec.Command(c.o.sluice, args...)
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
	case r.Server == nil || r.Kafka == nil:
		return nil, errors.Join(errors.New("the load has no figures of the nodes"), err)
	case r.Void != "":
		say("the generator lacked something: %s", r.Void) // of latencies, not of the nodes' CPU time
	}
	return &r, nil
}

// beside runs the hook beside a load. What it gives ends it.
func (c *nodes) beside(leader *node) (stop func() error, err error) {
	if c.o.hook == "" {
		return func() error { return nil }, nil
	}
	args := []string{strconv.Itoa(leader.process.PID)}
	for _, n := range c.list {
		if n != leader {
			args = append(args, strconv.Itoa(n.process.PID))
		}
	}
	cmd := exec.Command(c.o.hook, args...)
	cmd.SysProcAttr = process.OwnGroup()
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was told to end
		return nil
	}, nil
}
