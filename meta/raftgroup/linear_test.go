package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sluicemq/sluice/meta"
)

// linearOp is a read (value is what came) or a write of a user's password.
type linearOp struct {
	user  string
	write bool
	value string
}

// registers is the model: each user is a register. The state is its value.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byUser := map[string][]porcupine.Operation{}
		for _, op := range history {
			u := op.Input.(linearOp).user
			byUser[u] = append(byUser[u], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range byUser {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		op := input.(linearOp)
		if op.write {
			return true, op.value
		}
		return output.(string) == state.(string), state
	},
}

// history is what clients have asked and heard.
type history struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	begun time.Time
}

func (h *history) add(client int, op linearOp, out string, call, done int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Output: out, Call: call, Return: done})
}

func (h *history) now() int64 { return int64(time.Since(h.begun)) }

// Clients of all nodes write and read behind a barrier while the leader is cut off again and again: there is one order of all of it that
// everybody's answers agree with.
func TestLinearizable(t *testing.T) {
	ns := three(t, nil)
	h := &history{begun: time.Now()}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for id, n := range ns.list {
		for k := range 3 {
			clients.Go(func() { h.client(int(id)*10+k, n, stop) })
		}
	}
	for range 3 {
		l := ns.leader()
		l.net.set(true)
		<-time.After(500 * time.Millisecond) // the time for which it is away
		l.net.set(false)
		<-time.After(300 * time.Millisecond) // and back
	}
	close(stop)
	clients.Wait()
	written, read := 0, 0
	for _, op := range h.ops {
		if op.Input.(linearOp).write {
			written++
		} else {
			read++
		}
	}
	t.Logf("%d writes, %d reads", written, read)
	if written < 20 || read < 20 {
		t.Errorf("too little has happened")
	}
	if res := porcupine.CheckOperationsTimeout(registers, h.ops, 30*time.Second); res != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", res)
	}
}

// client asks until it is stopped. A write of which nobody knows what becomes may take effect at any later time.
func (h *history) client(id int, n *testNode, stop <-chan struct{}) {
	r := rand.New(rand.NewPCG(uint64(id), 1))
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(r.IntN(20)) * time.Millisecond):
		}
		name := fmt.Sprint("r", r.IntN(3))
		call := h.now()
		if r.IntN(2) == 0 {
			op := linearOp{name, true, fmt.Sprintf("%d-%d", id, i)}
			err := n.set((&meta.User{Name: name, Password: op.value}).Entry())
			done := h.now()
			switch {
			case errors.Is(err, meta.ErrNoMajority), errors.Is(err, meta.ErrConflict):
				continue // not made, by their names
			case err != nil:
				done = int64(time.Hour)
			}
			h.add(id, op, "", call, done)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := n.g.Barrier(ctx)
		cancel()
		if err != nil {
			continue
		}
		out := ""
		if u := n.c.Load().User(name); u != nil {
			out = u.Password
		}
		h.add(id, linearOp{user: name}, out, call, h.now())
	}
}
