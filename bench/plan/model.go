package plan

import "math"

// Parameters are what one fit found.
type Parameters struct {
	CPU       Terms   `json:"cpu_us"`     // for each event
	ColdAfter float64 `json:"cold_after"` // seconds after which no cache has a connection any more
	Wake      Sharing `json:"wakeups"`
	Flush     Sharing `json:"flushes"`
	Reads     Terms   `json:"reads"`
	Writes    Terms   `json:"writes"`
	Fetches   float64 `json:"fetches_per_consumer"` // most in a second
	Memory    Terms   `json:"memory_bytes"`
	Disk      Terms   `json:"disk_bytes"`
	Received  Terms   `json:"received_bytes"`
	Sent      Terms   `json:"sent_bytes"`
}

// Usage is what a load takes of a node.
type Usage struct {
	CPU      float64 `json:"cpu_cores"`
	Memory   float64 `json:"memory_bytes"`
	Disk     float64 `json:"disk_write_bytes_per_second"`
	Flushes  float64 `json:"flushes_per_second"`
	Received float64 `json:"received_bytes_per_second"`
	Sent     float64 `json:"sent_bytes_per_second"`
	Stored   float64 `json:"stored_bytes"`

	Events Terms `json:"events_per_second"`
}

// Predict says what a load takes.
func (p *Parameters) Predict(l *Load) Usage {
	v := p.events(l)
	u := Usage{Events: v, CPU: v.costly().cost(p.CPU) / 1e6, Flushes: v[Flush], Memory: l.held().cost(p.Memory), Stored: l.StoredBytes}
	u.Disk = diskTerms(v).cost(p.Disk)
	u.Received, u.Sent = receivedTerms(l, v).cost(p.Received), sentTerms(l, v).cost(p.Sent)
	return u
}

// events adds what is shared to what follows from the load directly.
func (p *Parameters) events(l *Load) Terms {
	v := l.direct()
	for i := range l.Kafka {
		v[Fetch] += l.Kafka[i].fetches(p.Fetches)
	}
	v[ColdConn] = l.cold(v[Fetch], p.ColdAfter)
	v[Flush] = saturate(l.flushArrivals().cost(p.Flush.Costs), p.Flush.Max)
	loops := max(l.Cores, 1)
	turns := loops * saturate(l.wakeArrivals(v[Flush], v[Fetch]).cost(p.Wake.Costs)/loops, p.Wake.Max)
	in, out := l.crowds(v[Fetch])
	v[Read] = l.callTerms(in, in, turns).cost(p.Reads)
	v[Write] = l.callTerms(out, in, turns).cost(p.Writes)
	v.wake(turns)
	v.setCold()
	return v
}

// cold is how many messages a second come from or go to a connection that has had none for so many seconds, where each comes by chance.
// What follows a message on its connection within its exchange finds it warm.
func (l *Load) cold(fetches, after float64) (sum float64) {
	add := func(conns, rate float64) {
		if conns > 0 {
			sum += rate * math.Exp(-rate/conns*after)
		}
	}
	for i := range l.Flows {
		f := &l.Flows[i]
		add(f.Publishers, f.published())
		add(f.Receivers, f.Rate*f.Fanout)
	}
	consumers := 0.0
	for i := range l.Kafka {
		add(l.Kafka[i].Producers, l.Kafka[i].Produces)
		consumers += l.Kafka[i].Consumers
	}
	add(consumers, fetches)
	conns := 0.0
	for _, n := range l.Conns {
		conns += n
	}
	add(conns, l.Pings)
	return sum
}

// wake sets the two kinds of wake-ups of so many in all, once the reads are known: what has nothing to read was woken from inside.
func (t Terms) wake(turns float64) {
	t[Wakeup] = min(turns, t[Read])
	t[WakeupInside] = turns - t[Wakeup]
}

// coldFlushes are flushes by how long the one before is over. One that follows at once finds a core awake, its caches full, and the
// runtime's threads still looking for work; later ones find ever less of that. How many of f a second come so much later that it
// is gone follows from the times being by chance: those before which nothing came for so many seconds, (1-exp(-f·t))/t.
var coldFlushes = []struct {
	name  string
	after float64
}{{ColdFlush100, 100e-6}, {ColdFlush400, 400e-6}, {ColdFlush1600, 1.6e-3}, {ColdFlush6400, 6.4e-3}}

// coldFlush is what the names of coldFlushes begin with.
const coldFlush = "cold_flush"

// setCold sets what is dearer the more seldom it comes, once the flushes are known, and what clients begin, which finds the loop asleep or
// them.
func (t Terms) setCold() {
	for _, c := range coldFlushes {
		t[c.name] = -math.Expm1(-t[Flush]*c.after) / c.after
	}
	t[ColdStart] = t[In1] + t[In2] + t[Ping] + t[Connect] + t[Produce] + min(t[In0], t[Out0])
}

// turns are all wake-ups.
func (t Terms) turns() float64 { return t[Wakeup] + t[WakeupInside] }

// The things that a node holds.
const (
	heldBase          = "base"
	heldKafka         = "kafka_connection"
	heldSession       = "kept_session"
	heldSubscription  = "subscription"
	heldRetained      = "retained_message"
	heldRetainedBytes = "retained_byte"
	heldQueued        = "queued_reference"
	heldPartition     = "kafka_partition"
	heldTail          = "log_tail_byte" // of what was written last
	heldTLS           = "tls_in_use"    // once for a node
	heldStreams       = "kafka_in_use"  // likewise
)

// tailBytes is how much of the log's end a node keeps in memory: the default of journal.tail_size, 16 MiB, and what is being filled.
const tailBytes = 24 << 20

func heldConn(t Transport) string { return t.String() + "_connection" }

// held is what takes memory.
func (l *Load) held() Terms {
	t := Terms{heldBase: 1, heldKafka: l.KafkaConns, heldSession: l.Sessions, heldSubscription: l.Subscriptions, heldRetained: l.RetainedCount,
		heldRetainedBytes: l.RetainedBytes, heldQueued: l.QueuedRefs, heldPartition: l.Partitions, heldTail: min(l.Logged, tailBytes)}
	for kind, n := range l.Conns {
		t[heldConn(Transport(kind))] = n
		if n > 0 && Transport(kind).secure() {
			t[heldTLS] = 1
		}
	}
	if l.KafkaConns > 0 {
		t[heldStreams] = 1
	}
	return t
}

// diskTerms are what is written to the log.
func diskTerms(v Terms) Terms {
	return Terms{Flush: v[Flush], Journaled: v[Journaled], JournaledBytes: v[JournaledBytes], DurableOut: v[DurableOut], Batch: v[Batch],
		ProduceBytes: v[ProduceBytes], Transaction: v[Transaction], Retained: v[Retained], Queued: v[Queued]}
}

// receivedTerms and sentTerms are what goes through sockets, TLS and frames included.
func receivedTerms(l *Load, v Terms) Terms {
	t := Terms{In0: v[In0], In1: v[In1], In2: v[In2], InBytes: v[InBytes], Connect: v[Connect], ConnectTLS: v[ConnectTLS], Ping: v[Ping],
		Produce: v[Produce], Transaction: v[Transaction], Batch: v[Batch], ProduceBytes: v[ProduceBytes], Fetch: v[Fetch], Out1: v[Out1], Out2: v[Out2]}
	for i := range l.Flows {
		f := &l.Flows[i]
		if f.From.secure() {
			t[TLSMessages] += f.Rate
		}
		if f.From.webSocket() {
			t[WSMessages] += f.Rate
		}
	}
	return t
}

func sentTerms(l *Load, v Terms) Terms {
	t := Terms{Out0: v[Out0], Out1: v[Out1], Out2: v[Out2], OutBytes: v[OutBytes], Connect: v[Connect], ConnectTLS: v[ConnectTLS], Ping: v[Ping],
		In1: v[In1], In2: v[In2], Produce: v[Produce], Transaction: v[Transaction], Fetch: v[Fetch], FetchBytes: v[FetchBytes]}
	for i := range l.Flows {
		f := &l.Flows[i]
		if f.To.secure() {
			t[TLSMessages] += f.Rate * f.Fanout
		}
		if f.To.webSocket() {
			t[WSMessages] += f.Rate * f.Fanout
		}
	}
	return t
}

// Spend is how many cores' time the events of a second should take on a node that has so many connections, as far as its counters tell.
func (m *Model) Spend(rates Terms, wakeups, conns float64) (cores float64) {
	p := &m.Parameters
	v := rates.times(1)
	v.wake(wakeups)
	v.setCold()
	for _, n := range []float64{v[In0] + v[In1] + v[In2] + v[Ping], v[Out0] + v[Out1] + v[Out2]} {
		v[ColdConn] += n * math.Exp(-n/max(conns, 1)*p.ColdAfter)
	}
	return v.costly().cost(p.CPU) / 1e6
}
