package measure

import (
	"fmt"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/plan"
)

// memoryRungs hold something and look at the node's memory once it is quiet.
func memoryRungs() (list []rung) {
	for _, x := range []struct {
		on      plan.Transport
		n       int
		durable bool
	}{{plan.TCP, 6000, false}, {plan.TCP, 10_000, false}, {plan.TCP, 12_500, false}, {plan.TCP, 15_000, false}, {plan.TLS, 1000, false},
		{plan.TLS, 2500, false}, {plan.TLS, 3500, false}, {plan.TLS, 5000, false}, {plan.WS, 5000, false}, {plan.WS, 12_000, false}, {plan.WSS, 1000, false},
		{plan.WSS, 2500, false}, {plan.TCP, 5000, true}, {plan.TCP, 12_000, true}} {
		name := fmt.Sprintf("memory of %d connections by %v", x.n, x.on)
		if x.durable {
			name = fmt.Sprintf("memory of %d connections with kept sessions", x.n)
		}
		list = append(list, rung{name: name, on: x.on, memory: true, at: window{0, 2},
			mqtt: &bench.Config{Scenario: "idle", Conns: x.n, Settle: 1, Durable: x.durable},
			shape: func(_ *result, l *plan.Load) {
				l.Conns[x.on] = float64(x.n)
				if x.durable {
					l.Sessions = float64(x.n)
				}
			}})
	}
	for _, n := range []int{50_000, 100_000, 150_000, 200_000} {
		list = append(list, rung{name: fmt.Sprintf("memory of %d subscriptions", n), memory: true, at: window{0, 2},
			mqtt: &bench.Config{Scenario: "wildcards", Filters: n, Rate: 100},
			shape: func(r *result, l *plan.Load) {
				l.Subscriptions, l.Conns[plan.TCP] = float64(n), float64(r.Config.Connections)
			}})
	}
	for _, x := range []struct{ n, payload int }{{20_000, 64}, {60_000, 64}, {10_000, 1024}, {30_000, 1024}} {
		list = append(list, rung{name: fmt.Sprintf("memory of %d retained messages of %d B", x.n, x.payload), memory: true, at: window{0, 2},
			mqtt: &bench.Config{Scenario: "retained", Messages: uint64(x.n), Payload: x.payload, QoS: 1},
			shape: func(_ *result, l *plan.Load) {
				l.RetainedCount, l.RetainedBytes, l.Conns[plan.TCP] = float64(x.n), float64(x.n*x.payload), 8
			}})
	}
	for _, x := range []struct{ n, sessions int }{{100_000, 200}, {200_000, 300}, {300_000, 300}, {500_000, 200}} {
		list = append(list, rung{name: fmt.Sprintf("memory of %d messages for %d absent sessions", x.n, x.sessions), memory: true, at: window{0, 2},
			mqtt: &bench.Config{Scenario: "queue", Messages: uint64(x.n), Subscribers: x.sessions, QoS: 1},
			shape: func(_ *result, l *plan.Load) {
				l.QueuedRefs, l.Sessions, l.Subscriptions = float64(x.n), float64(x.sessions), float64(x.sessions)
				l.Conns[plan.TCP] = float64(x.sessions)
			}})
	}
	for _, x := range []struct{ consumers, partitions int }{{300, 300}, {800, 800}, {100, 1500}, {100, 4000}, {400, 2000}, {50, 2500}} {
		list = append(list, rung{name: fmt.Sprintf("memory of %d consumers, %d partitions", x.consumers, x.partitions), memory: true, at: window{0, 1},
			kafka: &bench.KafkaConfig{Config: bench.Config{Scenario: "e2e", Rate: 50, Subscribers: x.consumers, Payload: 64}, Partitions: x.partitions, Acks: -1},
			shape: func(_ *result, l *plan.Load) {
				l.KafkaConns, l.Partitions = float64(x.consumers+2), float64(x.partitions)
			}})
	}
	return list
}
