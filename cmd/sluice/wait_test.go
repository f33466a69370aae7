package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

// Who waits hears once of each step, is not put off by a node that does not answer, and is told that what he waits for goes on when he goes.
func TestWait(t *testing.T) {
	var out strings.Builder
	w := &wait{out: &out, tick: time.Microsecond}
	type look struct {
		done bool
		line string
		err  error
	}
	run := func(ctx context.Context, looks ...look) error {
		i := -1
		return w.until(ctx, func() (bool, string, error) {
			i++
			return looks[i].done, looks[i].line, looks[i].err
		})
	}
	err := run(t.Context(), look{line: "catches up: 1"}, look{line: "catches up: 2"}, look{err: status.Error(codes.Unavailable, "it starts")}, look{line: "catches up: 3"}, look{done: true})
	if want := "catches up: 1\nno answer: it starts\ncatches up: 3\n"; err != nil || out.String() != want {
		t.Errorf("%v, said %q, want %q", err, out.String(), want)
	}
	refused := errors.New("refused")
	if err := run(t.Context(), look{err: refused}); !errors.Is(err, refused) {
		t.Errorf("of a refusal: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = w.until(ctx, func() (bool, string, error) {
		cancel()
		return false, "", nil
	})
	if err != nil {
		err = w.until(ctx, func() (bool, string, error) { return false, "", status.Error(codes.Canceled, "gone") })
	}
	if err == nil || !strings.Contains(err.Error(), "goes on") {
		t.Errorf("interrupted: %v", err)
	}
}

func TestComes(t *testing.T) {
	for _, c := range []struct {
		n    *api.Node
		done bool
		line string
	}{
		{&api.Node{Id: 2, State: "joining", Progress: &api.NodeProgress{Phase: "none"}}, false, "node 2 has not joined yet"},
		{&api.Node{Id: 2, State: "active"}, false, "node 2: the node that leads cannot be asked how far it is"},
		{&api.Node{Id: 2, State: "active", Progress: &api.NodeProgress{Phase: "away"}}, false, "node 2 away"},
		{&api.Node{Id: 2, State: "active", Progress: &api.NodeProgress{Phase: "catching_up", DoneBytes: 1, TotalBytes: 2}}, false, "node 2 catches up: 1B of 2B"},
		{&api.Node{Id: 2, State: "active", Progress: &api.NodeProgress{Phase: "in_sync"}}, true, ""},
		{&api.Node{Id: 2, State: "active", Progress: &api.NodeProgress{Phase: "none"}}, true, ""},
	} {
		if done, line := comes(c.n); done != c.done || line != c.line {
			t.Errorf("%v: %v %q", c.n, done, line)
		}
	}
}
