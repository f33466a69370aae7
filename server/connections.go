package server

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/engine"
)

// connections lets the control plane go through the connections of all loops and protocols.
type connections struct{ loops []*engine.Loop }

var _ control.Connections = connections{}

// Visit shows the connections among the next n places from at on, on their loop.
func (c connections) Visit(at broker.RowPlace, n int, fn func(control.Connection), done func(next broker.RowPlace, end bool)) {
	c.visit(at, n, func(state any) {
		if conn, ok := state.(control.Connection); ok {
			fn(conn)
		}
	}, done)
}

// visit shows what handlers have made of the connections.
func (c connections) visit(at broker.RowPlace, n int, fn func(state any), done func(next broker.RowPlace, end bool)) {
	if at.Part < 0 || at.Part >= len(c.loops) || at.Row < 0 {
		done(broker.RowPlace{}, true)
		return
	}
	c.loops[at.Part].Post(engine.TaskFunc(func(l *engine.Loop) {
		next := broker.RowPlace{Part: at.Part, Row: l.States(at.Row, n, fn)}
		if next.Row < 0 {
			next = broker.RowPlace{Part: at.Part + 1}
		}
		done(next, next.Part == len(c.loops))
	}))
}
