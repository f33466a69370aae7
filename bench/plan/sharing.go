package plan

import "math"

// Sharing says how many wake-ups or flushes come of arrivals. Few arrivals have one each; of many, those that come while one is
// under way share the next. With a arrivals a second and room for Max turns a second there are a·Max/(a+Max) turns: as many
// as arrivals when those are few, never more than Max.
type Sharing struct {
	Max   float64 `json:"max"`   // turns per second, of a loop or of the disk
	Costs Terms   `json:"costs"` // arrivals that one of each kind is worth
}

func saturate(a, limit float64) float64 {
	if a <= 0 {
		return 0
	}
	return a * limit / (a + limit)
}

// unsaturate is its inverse. What is at the limit stands for very many.
func unsaturate(turns, limit float64) float64 { return turns * limit / max(limit-turns, limit/1e3) }

// The kinds of arrivals.
const (
	fromPublisher = "from_publishers" // packets
	fromReceiver  = "from_receivers"  // acknowledgements
	together      = "from_receivers_together"
	toOtherLoop   = "to_other_loops" // bundles of deliveries
	ofFlush       = "flushes"        // the loops learn of one
	ofConnect     = "connects"
	ofHandshake   = "tls_handshakes"
	ofProduce     = "kafka_produces"
	ofFetch       = "kafka_fetches"
	ofTransaction = "kafka_transactions"
	ofTimer       = "timers" // once for each loop

	ofKept     = "kept_publishes"
	ofKeptQoS2 = "kept_publishes_qos2"
	ofAck      = "kept_deliveries"
	ofAckQoS2  = "kept_deliveries_qos2"
	ofRetain   = "retained"
)

// flushArrivals are what has to reach the log, in a second.
func (l *Load) flushArrivals() Terms {
	t := Terms{ofTimer: 1}
	for i := range l.Flows {
		f := &l.Flows[i]
		switch {
		case f.Retain:
			t[ofRetain] += f.published()
		case f.kept() && f.QoS == 2:
			t[ofKeptQoS2] += f.published()
		case f.kept():
			t[ofKept] += f.published()
		}
		if f.kept() && f.Durable {
			if min(f.QoS, f.OutQoS) == 2 {
				t[ofAckQoS2] += f.Rate * f.Fanout
			} else {
				t[ofAck] += f.Rate * f.Fanout
			}
		}
	}
	for i := range l.Kafka {
		t[ofProduce] += l.Kafka[i].Produces
		t[ofTransaction] += l.Kafka[i].Transactions
	}
	return t
}

// wakeArrivals are what wakes the loops, in a second.
func (l *Load) wakeArrivals(flushes, fetches float64) Terms {
	t := Terms{ofTimer: l.Cores, fromPublisher: l.Pings, ofFlush: flushes, ofFetch: fetches}
	for i := range l.Flows {
		f := &l.Flows[i]
		in, ack := f.packetsIn()
		t[fromPublisher] += f.published() * in
		if f.Together {
			t[together] += f.Rate * ack
		} else {
			t[fromReceiver] += f.Rate * f.Fanout * ack
		}
		t[toOtherLoop] += f.Rate * f.Cross
	}
	for i := range l.Kafka {
		t[ofProduce] += l.Kafka[i].Produces
		t[ofTransaction] += l.Kafka[i].Transactions
	}
	for kind, n := range l.Connects {
		t[ofConnect] += n
		if Transport(kind).secure() {
			t[ofHandshake] += n
		}
	}
	return t
}

// fetches are the Fetch requests of a flow's consumers in a second: each new batch answers one, unless more come than a
// consumer asks.
func (k *KafkaFlow) fetches(perConsumer float64) float64 {
	if k.Fetches > 0 || k.Consumers == 0 {
		return k.Fetches
	}
	return k.Consumers * (longPolls + saturate(k.Batches/k.Consumers, perConsumer))
}

// longPolls are the answers in a second to a consumer that has nothing to read.
const longPolls = 2

// crowd are connections that each have so many packets in a second.
type crowd struct{ conns, packets float64 }

// calls is how many turns find something of theirs to read (or to write) in a second, where a loop turns so often and takes so
// many packets in each turn. A connection with few packets has a call for each; one with many has several in one call.
func calls(list []crowd, turns, perTurn float64) (sum float64) {
	perTurn = max(perTurn, 1)
	for _, c := range list {
		if c.conns > 0 && turns > 0 {
			share := min(1, c.packets/c.conns/(turns*perTurn))
			sum += c.conns * turns * (1 - math.Pow(1-share, perTurn))
		}
	}
	return sum
}

// crowds are those that send to the node, and that it sends to.
func (l *Load) crowds(fetches float64) (in, out []crowd) {
	for i := range l.Flows {
		f := &l.Flows[i]
		pin, rin := f.packetsIn()
		pout, rout := f.packetsOut()
		d := f.Rate * f.Fanout
		in = append(in, crowd{f.Publishers, f.published() * pin}, crowd{f.Receivers, d * rin})
		out = append(out, crowd{f.Publishers, f.published() * pout}, crowd{f.Receivers, d * rout})
	}
	for i := range l.Drains {
		d := &l.Drains[i]
		ack := [3]float64{0, 1, 2}[d.QoS]
		in = append(in, crowd{d.Receivers, d.Rate * ack})
		out = append(out, crowd{d.Receivers, d.Rate * max(ack, 1)})
	}
	consumers := 0.0
	for i := range l.Kafka {
		k := &l.Kafka[i]
		in = append(in, crowd{k.Producers, k.Produces + k.Transactions})
		out = append(out, crowd{k.Producers, k.Produces + k.Transactions})
		consumers += k.Consumers
	}
	in, out = append(in, crowd{consumers, fetches}), append(out, crowd{consumers, fetches})
	conns := l.KafkaConns
	for _, n := range l.Conns {
		conns += n
	}
	return append(in, crowd{conns, l.Pings}), append(out, crowd{conns, l.Pings})
}

// callTerms are what system calls follow from: packets by what loops turn, and what connections cost once.
func (l *Load) callTerms(crowds, arriving []crowd, turns float64) Terms {
	packets := 0.0
	for _, c := range arriving {
		packets += c.packets
	}
	t := Terms{ofTurns: calls(crowds, turns/max(l.Cores, 1), packets/max(turns, 1))}
	for kind, n := range l.Connects {
		t[ofConnect] += n
		if Transport(kind).secure() {
			t[ofHandshake] += n
		}
	}
	return t
}

const ofTurns = "packets_by_turn"
