package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

const (
	waitTick = 500 * time.Millisecond // between two looks
	waitLine = 10 * time.Second       // between two lines that say the same but for numbers, where there is no terminal
)

// addWait gives a command --wait.
func addWait(c *cobra.Command, on *bool) {
	c.Flags().BoolVar(on, "wait", false, "wait until it has come about, and say on standard error how far it is; when interrupted it goes on, and the same command waits for it again")
}

// wait is what a command waits for.
type wait struct {
	out  io.Writer
	term bool
	tick time.Duration
	said string // the line before its numbers
	at   time.Time
}

func newWait(cmd *cobra.Command) *wait {
	w := &wait{out: cmd.ErrOrStderr(), tick: waitTick}
	if f, ok := w.out.(*os.File); ok {
		w.term = term.IsTerminal(int(f.Fd()))
	}
	return w
}

// say shows how far it is: over the last line of a terminal, elsewhere now and then.
func (w *wait) say(line string) {
	head, _, _ := strings.Cut(line, ": ")
	switch {
	case w.term:
		fmt.Fprint(w.out, "\r\033[K", line)
	case head != w.said || time.Since(w.at) >= waitLine:
		w.at = time.Now()
		fmt.Fprintln(w.out, line)
	}
	w.said = head
}

// until looks until it is done. A node that does not answer is asked again: it may be the one that was changed, or its leader is about to change.
func (w *wait) until(ctx context.Context, look func() (done bool, line string, err error)) error {
	defer func() {
		if w.term && w.said != "" {
			fmt.Fprintln(w.out)
		}
	}()
	t := time.NewTicker(w.tick)
	defer t.Stop()
	for {
		done, line, err := look()
		switch code := status.Code(err); {
		case ctx.Err() != nil:
			return errors.New("interrupted: what was asked for goes on, and the same command waits for it again")
		case err == nil && done:
			return nil
		case err == nil:
			w.say(line)
		case code == codes.Unavailable || code == codes.DeadlineExceeded:
			w.say("no answer: " + plain(cause(status.Convert(err).Message())))
		default:
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// node finds a node; nil: there is none.
func (k *controlCall) node(id uint32) (*api.Node, error) {
	r, err := ask(k, api.NewNodesClient(k).List, &api.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(r.Nodes, func(n *api.Node) bool { return n.Id == id }); i >= 0 {
		return r.Nodes[i], nil
	}
	return nil, nil //nolint:nilnil // there is none
}

func (k *controlCall) shards() (*api.ShardStatus, error) {
	return ask(k, api.NewShardsClient(k).Status, &api.ShardStatusRequest{})
}

// comes says whether a node is one of the cluster that has what it shall have, and how far it is.
func comes(n *api.Node) (done bool, line string) {
	p := n.GetProgress()
	switch {
	case n.State != "active":
		return false, fmt.Sprintf("node %d has not joined yet", n.Id)
	case p == nil:
		return false, fmt.Sprintf("node %d: the node that leads cannot be asked how far it is", n.Id)
	case p.Phase == phaseInSync, p.Phase == phaseNone:
		return true, ""
	}
	row := nodeProgressOf(p)
	return false, fmt.Sprintf("node %d %s", n.Id, row.text())
}

// awaitNode waits until a node is in sync, or has nothing to be in sync with.
func (k *controlCall) awaitNode(id uint32) error {
	twice := false // the node that leads may hear of it later than the one that is asked
	return newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		n, err := k.node(id)
		switch {
		case err != nil:
			return false, "", err
		case n == nil:
			return false, fmt.Sprintf("node %d is not known yet", id), nil
		case n.State == "removed":
			return false, "", fmt.Errorf("node %d was removed", id)
		}
		done, line := comes(n)
		if done && n.Progress.Phase == phaseNone && !twice {
			twice = true
			return false, fmt.Sprintf("node %d has joined", id), nil
		}
		return done, line, nil
	})
}

// awaitGone waits until a node is removed and has no shards.
func (k *controlCall) awaitGone(id uint32) error {
	return newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		n, err := k.node(id)
		if err != nil || n == nil || n.State != "removed" {
			return false, fmt.Sprintf("node %d is not removed yet", id), err
		}
		s, err := k.shards()
		if err != nil {
			return false, "", err
		}
		has := slices.ContainsFunc(setsOf(s), func(set *api.ShardSet) bool { return slices.Contains(set.Replicas, id) })
		return !has, fmt.Sprintf("node %d has shards yet", id), nil
	})
}

// awaitOtherLead waits until other nodes lead all sets.
func (k *controlCall) awaitOtherLead(id uint32) error {
	return newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		s, err := k.shards()
		if err != nil {
			return false, "", err
		}
		for _, set := range setsOf(s) {
			if set.Leader == 0 || set.Leader == id {
				return false, fmt.Sprintf("node %d leads%s, or nobody does: in sync are %v", id, ofSet(set), set.InSync), nil
			}
		}
		return true, "", nil
	})
}

// ofSet names a set in a line, unless it is the first.
func ofSet(set *api.ShardSet) string {
	if set.Number == 0 {
		return ""
	}
	return fmt.Sprintf(" set %d", set.Number)
}

// moveWhenInSync has a node lead a set as soon as it can.
func (k *controlCall) moveWhenInSync(number, to uint32) (s *api.ShardStatus, err error) {
	err = newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		if s, err = k.shards(); err != nil {
			return false, "", err
		}
		all := setsOf(s)
		if number >= uint32(len(all)) {
			return false, "", fmt.Errorf("set %d: %w", number, errNoSet)
		}
		set := all[number]
		if set.Leader == to {
			return true, "", nil
		}
		i := slices.IndexFunc(set.Progress, func(p *api.NodeProgress) bool { return p.Node == to })
		switch {
		case slices.Contains(set.InSync, to):
		case i >= 0:
			row := nodeProgressOf(set.Progress[i])
			return false, fmt.Sprintf("node %d %s", to, row.text()), nil
		case slices.Contains(set.Replicas, to):
			return false, fmt.Sprintf("node %d is not in sync", to), nil
		}
		_, err := ask(k, api.NewShardsClient(k).Move, &api.MoveShardsRequest{To: to, Set: number})
		if status.Code(err) == codes.FailedPrecondition && slices.Contains(set.InSync, to) {
			err = nil // it was in sync; it is looked at again
		}
		return false, fmt.Sprintf("node %d is to lead%s", to, ofSet(set)), err
	})
	return s, err
}
