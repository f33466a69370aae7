package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/sluicemq/sluice/perf/process"
)

const (
	// settleFor is how long nodes that have nothing to do are left alone before they are measured, and idleFor how long they are measured.
	settleFor = 15 * time.Second
	idleFor   = 30 * time.Second
)

// idle is what three nodes take of a processor while nobody asks anything of them.
func (o *options) idle() error {
	c, err := startNodes(o, 3, "cluster.shards=64")
	if err != nil {
		return err
	}
	defer c.close()
	what := "three nodes with 64 shards, idle"
	if o.sets > 0 {
		what += fmt.Sprintf(", %d sets of shards beside the first", o.sets)
		if _, err := c.ask(c.list[0], "shard", "sets", strconv.Itoa(o.sets), "--wait"); err != nil {
			return err
		}
	}
	time.Sleep(settleFor)
	before, err := c.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	time.Sleep(idleFor)
	after, err := c.cpu()
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	fmt.Println("\n" + what) //nolint:forbidigo // the result
	for i := range after {
		fmt.Printf("  node %d: %.1f %% of a core\n", i+1, 100*(after[i]-before[i]).Seconds()/took) //nolint:forbidigo // the result
	}
	return nil
}

// cpu is what each node has taken.
func (c *nodes) cpu() (list []time.Duration, err error) {
	for _, pid := range c.pids() {
		d, err := process.CPU(pid)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}
