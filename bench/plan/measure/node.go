package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// node is a server that Run starts itself, anew for each measure of memory: what one rung made it take it does not give back in full.
type node struct {
	command []string
	log     io.Writer
	process *exec.Cmd
	ended   chan error
}

const (
	nodeStarts = 30 * time.Second // that a node has until its metrics answer
	nodeStops  = 15 * time.Second
	nodePoll   = 100 * time.Millisecond
)

// restart ends the node if it runs, and starts it.
func (n *node) restart(ctx context.Context, see *observer) error {
	if err := n.stop(); err != nil {
		return err
	}
	n.process = exec.Command(n.command[0], n.command[1:]...) //nolint:gosec // the user's own command
	n.process.Stdout, n.process.Stderr = n.log, n.log
	if err := n.process.Start(); err != nil {
		n.process = nil
		return fmt.Errorf("start the node: %w", err)
	}
	n.ended = make(chan error, 1)
	go func(p *exec.Cmd, ended chan<- error) { ended <- p.Wait() }(n.process, n.ended)
	see.pid = n.process.Process.Pid
	until := time.Now().Add(nodeStarts)
	for ctx.Err() == nil {
		if _, err := see.scrape(ctx); err == nil {
			return nil
		} else if time.Now().After(until) {
			return fmt.Errorf("the node does not answer: %w", err)
		}
		select {
		case err := <-n.ended:
			n.process = nil
			return fmt.Errorf("the node ended at once: %w", errors.Join(err, errors.New("see what it said with --node-log")))
		default:
			pause(ctx, nodePoll)
		}
	}
	return ctx.Err()
}

// stop ends the node as a user would, and in the end by force.
func (n *node) stop() error {
	if n.process == nil {
		return nil
	}
	_ = n.process.Process.Signal(os.Interrupt)
	p := n.process
	n.process = nil
	select {
	case err := <-n.ended:
		_ = err // its exit code says nothing about the measurements
		return nil
	case <-time.After(nodeStops):
		return errors.Join(errors.New("the node did not end when asked to"), p.Process.Kill())
	}
}
