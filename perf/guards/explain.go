package main

import (
	"errors"
	"os/exec"
	"time"

	"github.com/sluicemq/sluice/perf/process"
)

// explainEvery is how often somebody asks.
const explainEvery = time.Second

// explain drives pairs while nobody asks, and while somebody asks once a second what holds a client and where a topic's messages go, with the messages of
// another client traced into the ring.
func (o *options) explain() error {
	print("\nCPU of a node that is asked for explanations while QoS 1 flows, beside one that is not")
	var all ratios
	for range o.rounds {
		var costs [2]float64
		for i, asked := range []bool{false, true} {
			cost, err := o.explained(asked)
			if err != nil {
				return err
			}
			costs[i] = cost
		}
		say("explain: %.2f and %.2f µs", costs[0], costs[1])
		all = append(all, costs[1]/costs[0])
	}
	print("  %-22s %s", "QoS 1, 20,000 msg/s", all)
	return nil
}

func (o *options) explained(asked bool) (cost float64, err error) {
	n, err := o.start()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	stop := func() error { return nil }
	if asked {
		if stop, err = n.asking(); err != nil {
			return 0, err
		}
	}
	r, err := n.bench("pairs", "--qos", "1", "--rate", "20000", "--duration", o.duration.String())
	if err := errors.Join(err, stop()); err != nil {
		return 0, err
	}
	return r.Server.CPUPerMessage, nil
}

// asking has one follow a client that is quiet, which turns the ring on, and another ask once a second.
func (n *node) asking() (stop func() error, err error) {
	follow := exec.Command(n.o.sluice, "trace", "client", "quiet", "--server", n.grpc)
	follow.SysProcAttr = process.OwnGroup()
	if err := follow.Start(); err != nil {
		return nil, err
	}
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- func() error {
			for {
				select {
				case <-end:
					return nil
				case <-time.After(explainEvery):
				}
				if err := n.ask("explain", "--topic", "bench/0"); err != nil {
					return err
				}
			}
		}()
	}()
	return func() error {
		close(end)
		err := <-ended
		_ = follow.Process.Kill()
		_ = follow.Wait()
		return err
	}, nil
}
