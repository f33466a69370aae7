package perf

import (
	"testing"
)

// spendMessage holds what a message may cost: the keys of the section that the budget has.
func spendMessage(t *testing.T, section string, u usage, messages float64) {
	t.Helper()
	for _, x := range []struct {
		key  string
		used float64
	}{{"allocations", u.mallocs}, {"bytes", u.bytes}, {"socket_calls", u.socket}, {"loop_calls", u.loop}, {"journal_writes", u.groups},
		{"journal_flushes", u.flushes}} {
		spend(t, section+"."+x.key, x.used/messages)
	}
}

// TestBudgetPipelined measures what a message costs from socket to socket when many are under way.
func TestBudgetPipelined(t *testing.T) {
	plainBuild(t)
	for _, tc := range []struct {
		name   string
		o      pipeOptions
		rounds int
	}{
		{"qos0", pipeOptions{qos: 0, window: 64}, 500},
		{"qos1", pipeOptions{qos: 1, window: 20}, 500},
		{"qos2", pipeOptions{qos: 2, window: 20}, 500},
		{"qos1_durable", pipeOptions{qos: 1, window: 20, durable: true}, 300},
		{"qos2_durable", pipeOptions{qos: 2, window: 20, durable: true}, 300},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := []string{"journal.durability=memory"}
			if tc.o.durable {
				set = append(smallTail, "journal.durability=async")
			}
			n := start(t, set...)
			var pipes []*pipe
			for i := range 8 {
				pipes = append(pipes, newPipe(t, n, i, tc.o))
			}
			run(t, pipes, 100) // buffers and tables take their size
			u := n.used(func() { run(t, pipes, tc.rounds) })
			spendMessage(t, "publish_pipelined_"+tc.name, u, float64(tc.rounds*tc.o.window*len(pipes)))
		})
	}
}

// TestBudgetOne measures what a message costs that goes alone, each step after the one before: the number of system calls repeats exactly.
func TestBudgetOne(t *testing.T) {
	plainBuild(t)
	for _, tc := range []struct {
		name       string
		o          pipeOptions
		durability string
		rounds     int
	}{
		{"qos0", pipeOptions{}, "memory", 2000},
		{"qos1", pipeOptions{qos: 1}, "memory", 2000},
		{"qos2", pipeOptions{qos: 2}, "memory", 2000},
		{"qos1_durable", pipeOptions{qos: 1, durable: true}, "sync", 500},
		{"qos2_durable", pipeOptions{qos: 2, durable: true}, "sync", 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := start(t, "journal.durability="+tc.durability)
			p := []*pipe{newPipe(t, n, 0, tc.o)}
			run(t, p, tc.rounds/4)
			u := n.used(func() { run(t, p, tc.rounds) })
			spendMessage(t, "publish_one_"+tc.name, u, float64(tc.rounds))
		})
	}
}

// TestBudgetFanout measures what a delivery costs of a message to a hundred subscribers.
func TestBudgetFanout(t *testing.T) {
	plainBuild(t)
	for _, tc := range []struct {
		name string
		qos  byte
	}{{"qos0", 0}, {"qos1", 1}} {
		t.Run(tc.name, func(t *testing.T) {
			n := start(t, "journal.durability=memory")
			const fan, rounds = 100, 100
			p := []*pipe{newPipe(t, n, 0, pipeOptions{qos: tc.qos, fan: fan})}
			run(t, p, 20)
			u := n.used(func() { run(t, p, rounds) })
			spendMessage(t, "fanout_delivery_"+tc.name, u, fan*rounds)
		})
	}
}
