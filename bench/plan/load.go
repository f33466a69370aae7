package plan

import "math"

// Transport is what MQTT runs over.
type Transport int

// The transports.
const (
	TCP Transport = iota
	TLS
	WS
	WSS
	transports
)

var transportNames = [transports]string{"tcp", "tls", "ws", "wss"}

// String is the transport's name in files.
func (t Transport) String() string { return transportNames[t] }

func (t Transport) secure() bool    { return t == TLS || t == WSS }
func (t Transport) webSocket() bool { return t == WS || t == WSS }

// Load is what clients do to one node, in events per second, and what it holds for them.
type Load struct {
	Cores float64 `json:"cores"` // loops: one a core

	Conns      [transports]float64 `json:"conns"` // MQTT connections
	KafkaConns float64             `json:"kafka_conns,omitempty"`
	Connects   [transports]float64 `json:"connects"` // per second
	Pings      float64             `json:"pings,omitempty"`

	Flows []Flow      `json:"flows,omitempty"`
	Kafka []KafkaFlow `json:"kafka,omitempty"`
	// Drains are deliveries of what has waited, to sessions that have come back.
	Drains []Drain `json:"drains,omitempty"`

	Subscriptions float64 `json:"subscriptions,omitempty"`
	Sessions      float64 `json:"sessions,omitempty"` // kept ones
	RetainedCount float64 `json:"retained_count,omitempty"`
	RetainedBytes float64 `json:"retained_bytes,omitempty"`
	QueuedRefs    float64 `json:"queued_refs,omitempty"`
	Partitions    float64 `json:"partitions,omitempty"`
	Logged        float64 `json:"logged_bytes,omitempty"` // written to the log so far; its end stays in memory
	StoredBytes   float64 `json:"stored_bytes,omitempty"` // on disk: retention of streams, what is queued and retained
}

// Flow is one kind of message.
type Flow struct {
	Publishers float64   `json:"publishers"`
	Rate       float64   `json:"rate"` // messages per second of all of them
	Size       float64   `json:"size"` // payload bytes
	QoS        int       `json:"qos"`
	From       Transport `json:"from"`
	Retain     bool      `json:"retain,omitempty"`

	Receivers float64   `json:"receivers,omitempty"` // connections that get deliveries
	Fanout    float64   `json:"fanout,omitempty"`    // deliveries of each message to them
	OutQoS    int       `json:"out_qos,omitempty"`
	To        Transport `json:"to,omitempty"`
	Durable   bool      `json:"durable,omitempty"`  // to kept sessions
	Shared    bool      `json:"shared,omitempty"`   // by a shared subscription
	Again     bool      `json:"again,omitempty"`    // the messages of a flow before, to others: published, and stored, with that one
	Together  bool      `json:"together,omitempty"` // receivers are one program, whose acknowledgements come at the same time
	Cross     float64   `json:"cross,omitempty"`    // of each message, bundles of deliveries to other loops than the publisher's
	Absent    float64   `json:"absent,omitempty"`   // references of each message queued for absent sessions
}

// Spread gives Cross for receivers that are on loops by chance: how many of the other loops have one of fanout.
func Spread(fanout, loops float64) float64 {
	if loops <= 1 || fanout <= 0 {
		return 0
	}
	return (loops - 1) * (1 - math.Pow(1-1/loops, fanout))
}

// Drain is what sessions get that were absent, while they are back.
type Drain struct {
	Rate      float64   `json:"rate"` // deliveries per second
	Size      float64   `json:"size"`
	QoS       int       `json:"qos"`
	Receivers float64   `json:"receivers"` // connections that get them at the same time
	To        Transport `json:"to,omitempty"`
	Retained  bool      `json:"retained,omitempty"` // instead: retained messages, to whoever subscribes
}

// KafkaFlow is one kind of record.
type KafkaFlow struct {
	Producers float64 `json:"producers"`
	Rate      float64 `json:"rate"` // records per second
	Size      float64 `json:"size"` // bytes of a record in a batch
	Batches   float64 `json:"batches"`
	Produces  float64 `json:"produces"` // requests per second
	Consumers float64 `json:"consumers,omitempty"`
	Fetches   float64 `json:"fetches,omitempty"` // requests per second; 0 with consumers: the model says
	Read      float64 `json:"read,omitempty"`    // bytes fetched per second

	Transactions float64 `json:"transactions,omitempty"` // ended per second
}

// largeBytes is the payload from which on the node sends by reference (proto/mqtt/deliver.go).
const largeBytes = 4096

// published is how many messages a second come in with this flow.
func (f *Flow) published() float64 {
	if f.Again {
		return 0
	}
	return f.Rate
}

// kept tells whether a flow's messages go to the log.
func (f *Flow) kept() bool {
	return f.Retain || (f.Durable || f.Absent > 0) && min(f.QoS, f.OutQoS) > 0
}

// packetsIn are the packets that a message makes clients send: the publishers, and the receivers of each delivery.
func (f *Flow) packetsIn() (publisher, receiver float64) {
	return [3]float64{1, 1, 2}[f.QoS], [3]float64{0, 1, 2}[min(f.QoS, f.OutQoS)]
}

// packetsOut are those that it makes the node send to each.
func (f *Flow) packetsOut() (publisher, receiver float64) {
	return [3]float64{0, 1, 2}[f.QoS], [3]float64{1, 1, 2}[min(f.QoS, f.OutQoS)]
}

// direct are the events that follow from the load without any sharing, per second.
func (l *Load) direct() Terms {
	v := Terms{}
	v[Base] = 1
	for t := range transports {
		v[Connect] += l.Connects[t]
		if t.secure() {
			v[ConnectTLS] += l.Connects[t]
		}
		if t.webSocket() {
			v[ConnectWS] += l.Connects[t]
		}
	}
	v[Ping] = l.Pings
	for i := range l.Flows {
		l.Flows[i].add(v)
	}
	for i := range l.Drains {
		l.Drains[i].add(v)
	}
	for i := range l.Kafka {
		k := &l.Kafka[i]
		v[Produce] += k.Produces
		v[Transaction] += k.Transactions
		v[Batch] += k.Batches
		v[Record] += k.Rate
		v[ProduceBytes] += k.Rate * k.Size
		v[FetchBytes] += k.Read
	}
	return v
}

func (f *Flow) add(v Terms) {
	in := [3]string{In0, In1, In2}[f.QoS]
	q := min(f.QoS, f.OutQoS)
	out := [3]string{Out0, Out1, Out2}[q]
	deliveries := f.Rate * f.Fanout
	published := f.published()
	v[in] += published
	v[InBytes] += published * f.Size
	v[out] += deliveries
	v[OutBytes] += deliveries * f.Size
	if f.Size >= largeBytes && !f.To.secure() {
		v[OutLarge] += deliveries
	}
	v.carry(f.From, published, f.Size)
	v.carry(f.To, deliveries, f.Size)
	if f.kept() {
		v[Journaled] += published
		v[JournaledBytes] += published * f.Size
	}
	if f.Durable && q > 0 {
		v[DurableOut] += f.Rate * f.Fanout
	}
	if f.Shared {
		v[SharedOut] += f.Rate * f.Fanout
	}
	if f.Retain {
		v[Retained] += published
	}
	v[Queued] += f.Rate * f.Absent
}

func (d *Drain) add(v Terms) {
	v[[3]string{Out0, Out1, Out2}[d.QoS]] += d.Rate
	v[OutBytes] += d.Rate * d.Size
	v[ReadBytes] += d.Rate * d.Size
	if d.Size >= largeBytes && !d.To.secure() {
		v[OutLarge] += d.Rate
	}
	if d.Retained {
		v[RetainedOut] += d.Rate
	} else {
		v[Drained] += d.Rate
	}
	v.carry(d.To, d.Rate, d.Size)
}

// carry adds what messages cost for what they run over.
func (t Terms) carry(over Transport, n, size float64) {
	if over.secure() {
		t[TLSMessages] += n
		t[TLSBytes] += n * size
	}
	if over.webSocket() {
		t[WSMessages] += n
	}
}
