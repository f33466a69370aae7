package measure

import (
	"fmt"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/plan"
)

// window says which of a run's samples an observation lies between. Sample 0 is before the run, the last one after it, and
// those between are bench's, in pairs.
type window struct{ from, to int } // to: -1 is the last

// rung is one short load.
type rung struct {
	name   string
	on     plan.Transport
	mqtt   *bench.Config
	kafka  *bench.KafkaConfig
	memory bool     // a measure of memory: the node has to be quiet around it
	at     window   // what is observed
	steps  []window // further observations of the same run, whose loads shape fills in too
	shape  func(r *result, l *plan.Load)
}

// result is what a rung's run gave.
type result struct {
	*bench.Result
	seconds float64 // of the window
	step    int     // which window: 0 is at, 1 the first of steps
	before  sample
	after   sample
}

// each is how often something happened in a second, of the measured part as the clients saw it.
func (r *result) each(n uint64) float64 { return float64(n) / max(r.Seconds, 1e-9) }

// counter is the growth of a counter of the server's in a second.
func (r *result) counter(name string) float64 {
	return (r.after.counters[name] - r.before.counters[name]) / max(r.seconds, 1e-9)
}

// loaded is the usual window: between the two samples of the measured part.
var loaded = window{1, 2}

// flowOf is the flow of a load that publishers and subscribers make.
func flowOf(r *result, on plan.Transport) plan.Flow {
	e := r.Events
	f := plan.Flow{
		Publishers: float64(r.Config.Publishers), Rate: r.each(e.Messages), Size: float64(r.Config.Payload), QoS: r.Config.QoS, From: on,
		Receivers: float64(r.Config.Subscribers), OutQoS: r.Config.QoS, To: on, Durable: r.Config.Durable,
	}
	if e.Messages > 0 {
		f.Fanout = float64(e.Deliveries) / float64(e.Messages)
	}
	loops := max(r.Hardware.Cores, 1)
	f.Cross = plan.Spread(f.Fanout, float64(loops))
	if r.Scenario == "pairs" { // connections are dealt out in turn, subscribers first: the loops of a pair are a matter of their number
		f.Cross = 0
		if r.Config.Publishers%loops != 0 {
			f.Cross = 1
		}
	}
	f.Together = r.Scenario == "fanout"
	return f
}

func usual(on plan.Transport, change func(f *plan.Flow)) func(r *result, l *plan.Load) {
	return func(r *result, l *plan.Load) {
		f := flowOf(r, on)
		if change != nil {
			change(&f)
		}
		l.Flows = []plan.Flow{f}
		l.Conns[on] = float64(r.Config.Publishers + r.Config.Subscribers) // others come and go to make and remove sessions
		l.Subscriptions = float64(r.Config.Subscribers)
		if r.Config.Durable {
			l.Sessions = l.Conns[on]
		}
	}
}

// timed makes a rung of a load by timetable.
func timed(name string, on plan.Transport, cfg bench.Config) rung {
	return rung{name: name, on: on, mqtt: &cfg, at: loaded, shape: usual(on, nil)}
}

type pairLevel struct {
	pairs   int
	rate    float64
	payload int
}

func pairs(kind string, on plan.Transport, qos byte, durable bool, levels ...pairLevel) (list []rung) {
	for _, x := range levels {
		name := fmt.Sprintf("%s %d pairs %.0f/s %d B", kind, x.pairs, x.rate, x.payload)
		list = append(list, timed(name, on, bench.Config{Scenario: "pairs", Publishers: x.pairs, Rate: x.rate, Payload: x.payload, QoS: qos, Durable: durable}))
	}
	return list
}

func messageRungs() (list []rung) {
	add := func(more []rung) { list = append(list, more...) }
	add(pairs("qos0", plan.TCP, 0, false, pairLevel{50, 1000, 64}, pairLevel{101, 2000, 64}, pairLevel{51, 4000, 256}, pairLevel{200, 8000, 64},
		pairLevel{1001, 10000, 256}, pairLevel{200, 20000, 64}, pairLevel{101, 40000, 64}, pairLevel{200, 80000, 128},
		pairLevel{100, 2000, 8192}, pairLevel{201, 5000, 4096}, pairLevel{101, 15000, 2048}))
	for _, x := range []pairLevel{{50, 2000, 64}, {200, 8000, 64}, {200, 40000, 256}, {50, 4000, 8192}} {
		r := timed(fmt.Sprintf("publish %d at %.0f/s %d B", x.pairs, x.rate, x.payload), plan.TCP,
			bench.Config{Scenario: "publish", Publishers: x.pairs, Rate: x.rate, Payload: x.payload})
		list = append(list, r)
	}
	add(pairs("qos1", plan.TCP, 1, false, pairLevel{50, 1000, 64}, pairLevel{201, 4000, 64}, pairLevel{200, 12000, 256}, pairLevel{101, 30000, 64}, pairLevel{101, 3000, 4096}))
	add(pairs("qos2", plan.TCP, 2, false, pairLevel{51, 1000, 64}, pairLevel{200, 3000, 64}, pairLevel{201, 8000, 128}, pairLevel{100, 15000, 64}))
	for _, x := range []struct {
		subs int
		rate float64
		qos  byte
	}{{50, 200, 0}, {200, 50, 0}, {500, 40, 0}, {1000, 100, 0}, {100, 100, 1}, {500, 30, 1}} {
		list = append(list, timed(fmt.Sprintf("fanout qos%d to %d at %.0f/s", x.qos, x.subs, x.rate), plan.TCP,
			bench.Config{Scenario: "fanout", Subscribers: x.subs, Rate: x.rate, QoS: x.qos}))
	}
	for _, x := range []struct {
		pubs int
		rate float64
		qos  byte
	}{{500, 2000, 0}, {1000, 10000, 0}, {1000, 30000, 0}, {500, 4000, 1}, {1000, 12000, 1}} {
		list = append(list, timed(fmt.Sprintf("fanin qos%d from %d at %.0f/s", x.qos, x.pubs, x.rate), plan.TCP,
			bench.Config{Scenario: "fanin", Publishers: x.pubs, Rate: x.rate, QoS: x.qos}))
	}
	for _, rate := range []float64{2000, 16000} {
		r := timed(fmt.Sprintf("shared 64 to 8 at %.0f/s", rate), plan.TCP, bench.Config{Scenario: "shared", Rate: rate})
		r.shape = usual(plan.TCP, func(f *plan.Flow) { f.Shared = true })
		list = append(list, r)
	}
	add(pairs("tls", plan.TLS, 0, false, pairLevel{50, 1000, 64}, pairLevel{101, 4000, 64}, pairLevel{101, 12000, 256}, pairLevel{50, 2000, 4096}, pairLevel{100, 5000, 2048}))
	add(pairs("ws", plan.WS, 0, false, pairLevel{50, 1000, 64}, pairLevel{101, 4000, 64}, pairLevel{101, 12000, 256}, pairLevel{50, 2000, 4096}, pairLevel{100, 5000, 2048}))
	add(pairs("durable qos1", plan.TCP, 1, true, pairLevel{50, 500, 64}, pairLevel{101, 2000, 64}, pairLevel{100, 6000, 256}, pairLevel{201, 15000, 64}, pairLevel{51, 2000, 2048}, pairLevel{100, 4000, 1024}))
	add(pairs("durable qos2", plan.TCP, 2, true, pairLevel{50, 500, 64}, pairLevel{101, 2000, 64}, pairLevel{100, 5000, 256}, pairLevel{51, 1000, 1024}))
	for _, x := range []pairLevel{{500, 100, 64}, {1000, 200, 64}, {1500, 100, 64}} {
		r := timed(fmt.Sprintf("pings of %d connections", 2*x.pairs), plan.TCP, bench.Config{Scenario: "pairs", Publishers: x.pairs, Rate: x.rate,
			KeepAlive: time.Second, ConnectRate: float64(2 * x.pairs)})
		r.shape = func(r *result, l *plan.Load) {
			usual(plan.TCP, nil)(r, l)
			l.Pings = r.counter(`sluice_mqtt_packets_received_total{type="pingreq"}`)
		}
		list = append(list, r)
	}
	return append(list, timed2()...)
}

// timed2 are connects at a rate, each connection staying until all stand.
func timed2() (list []rung) {
	for _, x := range []struct {
		on   plan.Transport
		n    int
		rate float64
	}{{plan.TCP, 1000, 400}, {plan.TCP, 3000, 1500}, {plan.TCP, 6000, 0}, {plan.TLS, 400, 150}, {plan.TLS, 900, 350}, {plan.TLS, 1000, 0},
		{plan.WS, 1000, 400}, {plan.WS, 3000, 1500}} {
		r := rung{name: fmt.Sprintf("connect %v %d at %.0f/s", x.on, x.n, x.rate), on: x.on, at: window{1, -1},
			mqtt: &bench.Config{Scenario: "storm", Conns: x.n, ConnectRate: x.rate}}
		r.shape = func(res *result, l *plan.Load) { l.Connects[x.on] = float64(x.n) / max(res.seconds, 1e-9) }
		list = append(list, r)
	}
	return list
}

// stored is the load of a step that stores; the run's own figures are of the step after it.
func stored(change func(f *plan.Flow)) func(r *result, l *plan.Load) {
	return func(r *result, l *plan.Load) {
		f := flowOf(r, plan.TCP)
		f.Rate, f.Fanout, f.Cross = float64(r.Config.Messages)/max(r.seconds, 1e-9), 0, 0
		change(&f)
		l.Flows = []plan.Flow{f}
		l.Conns[plan.TCP] = f.Publishers
	}
}

// storeRungs store for absent sessions and retain, by timetable; and drain and fetch what was stored, as fast as it is taken.
func storeRungs() (list []rung) {
	type level struct {
		sessions, rate, payload int
		qos                     byte
	}
	for _, x := range []level{{8, 1000, 64, 1}, {50, 3000, 256, 1}, {100, 8000, 64, 1}, {32, 20000, 128, 1}, {8, 1500, 2048, 1}, {40, 4000, 1024, 1},
		{16, 1000, 64, 2}, {50, 4000, 256, 2}} {
		name := fmt.Sprintf("queue qos%d %d/s for %d sessions %d B", x.qos, x.rate, x.sessions, x.payload)
		r := timed(name, plan.TCP, bench.Config{Scenario: "queue", Subscribers: x.sessions, Rate: float64(x.rate), Payload: x.payload, QoS: x.qos})
		r.shape = stored(func(f *plan.Flow) { f.Absent, f.Durable = 1, false })
		list = append(list, r)
	}
	for _, x := range []level{{8, 1000, 64, 0}, {8, 6000, 256, 0}, {8, 20000, 64, 0}, {8, 3000, 2048, 0}, {8, 1000, 64, 1}, {8, 5000, 256, 1}, {8, 15000, 64, 1},
		{8, 2000, 2048, 1}} {
		name := fmt.Sprintf("retained qos%d %d/s of %d B", x.qos, x.rate, x.payload)
		r := timed(name, plan.TCP, bench.Config{Scenario: "retained", Rate: float64(x.rate), Payload: x.payload, QoS: x.qos})
		r.shape = stored(func(f *plan.Flow) { f.Retain, f.Receivers = true, 0 })
		list = append(list, r)
	}
	for _, x := range []level{{8, 80000, 64, 1}, {32, 60000, 256, 1}, {8, 30000, 2048, 1}, {50, 30000, 1024, 1}, {16, 30000, 64, 2}, {50, 30000, 256, 2}} {
		list = append(list, rung{name: fmt.Sprintf("drain qos%d %d of %d sessions %d B", x.qos, x.rate, x.sessions, x.payload), at: window{3, 4},
			mqtt: &bench.Config{Scenario: "queue", Subscribers: x.sessions, Messages: uint64(x.rate), Payload: x.payload, QoS: x.qos},
			shape: func(res *result, l *plan.Load) {
				l.Drains = []plan.Drain{{Rate: float64(x.rate) / max(res.seconds, 1e-9), Size: float64(x.payload), QoS: int(x.qos), Receivers: float64(x.sessions)}}
				l.Connects[plan.TCP] = float64(x.sessions) / max(res.seconds, 1e-9)
			}})
	}
	for _, x := range []level{{1, 120000, 64, 0}, {1, 80000, 256, 0}, {1, 15000, 2048, 0}, {1, 40000, 1024, 0}, {1, 80000, 64, 1}, {1, 60000, 256, 1}} {
		list = append(list, rung{name: fmt.Sprintf("fetch retained qos%d %d of %d B", x.qos, x.rate, x.payload), at: window{3, 4},
			mqtt: &bench.Config{Scenario: "retained", Messages: uint64(x.rate), Payload: x.payload, QoS: x.qos},
			shape: func(res *result, l *plan.Load) {
				l.Drains = []plan.Drain{{Rate: float64(x.rate) / max(res.seconds, 1e-9), Size: float64(x.payload), QoS: int(x.qos), Receivers: 1, Retained: true}}
			}})
	}
	return list
}

type kafkaLevel struct {
	scenario             string
	rate                 float64
	size, batch          int
	linger               time.Duration
	producers, consumers int
	partitions           int
	commit               time.Duration // transactions
}

// kafkaFlowOf is the flow of a load that producers and consumers make.
func kafkaFlowOf(r *result) plan.KafkaFlow {
	e := r.Events
	f := plan.KafkaFlow{Producers: float64(r.Config.Publishers), Rate: r.each(e.Messages), Batches: r.each(e.Batches), Produces: r.each(e.Produces),
		Transactions: r.each(e.EndTxns), Fetches: r.each(e.Fetches), Read: r.each(e.BytesReceived)}
	if r.Scenario != "produce" {
		f.Consumers = float64(r.Config.Subscribers)
	}
	if e.Messages > 0 {
		f.Size = float64(e.BytesSent) / float64(e.Messages)
	}
	return f
}

// every names how often a transaction ends.
func (x *kafkaLevel) every() string {
	if x.commit == 0 {
		return ""
	}
	return fmt.Sprintf(" commit %v", x.commit)
}

func kafkaRungs() (list []rung) {
	for _, x := range []kafkaLevel{
		{"produce", 500, 1024, 16 << 10, 0, 1, 1, 1, 0}, {"produce", 1500, 256, 16 << 10, 0, 4, 1, 4, 0}, {"produce", 4000, 1024, 16 << 10, 0, 8, 1, 8, 0},
		{"produce", 10000, 1024, 16 << 10, 5 * time.Millisecond, 4, 1, 4, 0}, {"produce", 40000, 256, 64 << 10, 5 * time.Millisecond, 4, 1, 8, 0},
		{"produce", 100000, 100, 256 << 10, 10 * time.Millisecond, 2, 1, 4, 0}, {"produce", 20000, 2048, 256 << 10, 10 * time.Millisecond, 4, 1, 4, 0},
		{"e2e", 300, 1024, 16 << 10, 0, 1, 1, 1, 0}, {"e2e", 1000, 1024, 16 << 10, 0, 2, 2, 2, 0}, {"e2e", 3000, 256, 16 << 10, 0, 4, 4, 4, 0},
		{"e2e", 8000, 1024, 16 << 10, 5 * time.Millisecond, 4, 4, 4, 0}, {"e2e", 30000, 256, 64 << 10, 5 * time.Millisecond, 4, 2, 8, 0},
		{"e2e", 15000, 2048, 128 << 10, 10 * time.Millisecond, 4, 2, 4, 0}, {"e2e", 2000, 1024, 16 << 10, 2 * time.Millisecond, 8, 8, 8, 0},
		{"transactions", 500, 256, 16 << 10, 0, 2, 1, 2, 50 * time.Millisecond}, {"transactions", 2000, 1024, 16 << 10, 0, 4, 2, 4, 20 * time.Millisecond},
		{"transactions", 5000, 256, 16 << 10, 5 * time.Millisecond, 4, 2, 4, 100 * time.Millisecond}, {"transactions", 20000, 256, 64 << 10, 5 * time.Millisecond, 4, 4, 8, 40 * time.Millisecond},
		{"transactions", 1000, 1024, 16 << 10, 2 * time.Millisecond, 8, 2, 8, 10 * time.Millisecond}, {"transactions", 10000, 1024, 64 << 10, 5 * time.Millisecond, 8, 4, 8, 100 * time.Millisecond},
		{"consume", 0, 1024, 16 << 10, 0, 1, 1, 1, 0}, {"consume", 0, 256, 256 << 10, 0, 2, 2, 4, 0}, {"consume", 0, 1024, 1000 << 10, 0, 1, 1, 1, 0},
	} {
		r := rung{name: fmt.Sprintf("kafka %s %.0f/s %d B batch %dk linger %v %d:%d %dp", x.scenario, x.rate, x.size, x.batch>>10, x.linger, x.producers, x.consumers, x.partitions) + x.every(),
			at: loaded, kafka: &bench.KafkaConfig{Config: bench.Config{Scenario: x.scenario, Rate: x.rate, Payload: x.size, Publishers: x.producers, Subscribers: x.consumers},
				BatchBytes: x.batch, Linger: x.linger, Partitions: x.partitions, SkipReadBack: true, Acks: -1, Commit: x.commit}}
		if x.scenario == "consume" {
			r.at = window{3, 4} // behind the step that stores
			r.kafka.Messages = uint64(48 << 20 / x.size)
		}
		r.shape = func(res *result, l *plan.Load) {
			f := kafkaFlowOf(res)
			l.Kafka = []plan.KafkaFlow{f}
			l.KafkaConns = f.Producers + f.Consumers
		}
		list = append(list, r)
	}
	return list
}
