package bench

// Events are what the clients did in the measured part of a run, or in a step of one, counted by themselves. With the CPU time of
// the same part they say what each kind costs (package plan). Both are taken at the same moments. In and out are the broker's:
// in is what clients sent.
type Events struct {
	Messages      uint64 `json:"messages"`   // or records, sent
	Deliveries    uint64 `json:"deliveries"` // or records, received
	Batches       uint64 `json:"batches,omitempty"`
	Produces      uint64 `json:"produces,omitempty"` // requests
	Fetches       uint64 `json:"fetches,omitempty"`  // requests
	BytesSent     uint64 `json:"bytes_sent"`         // payloads; of Kafka, batches
	BytesReceived uint64 `json:"bytes_received"`

	WireIn      uint64 `json:"wire_bytes_in"` // of sockets, with TLS and WebSocket frames, without TLS handshakes
	WireOut     uint64 `json:"wire_bytes_out"`
	Connects    uint64 `json:"connects,omitempty"` // CONNECT; of Kafka, connections
	TLS         bool   `json:"tls,omitempty"`      // all connections are
	WebSocket   bool   `json:"websocket,omitempty"`
	Disconnects uint64 `json:"disconnects,omitempty"`
	Pings       uint64 `json:"pings,omitempty"`
	Subscribes  uint64 `json:"subscribes,omitempty"` // packets
	Filters     uint64 `json:"filters,omitempty"`    // in them

	PublishesIn [3]uint64 `json:"publishes_in"` // MQTT, by QoS
	PublishOut  [3]uint64 `json:"publishes_out"`
	AcksIn      uint64    `json:"acks_in,omitempty"` // PUBACK, PUBREC, PUBREL, PUBCOMP that clients sent
	AcksOut     uint64    `json:"acks_out,omitempty"`
	Retained    uint64    `json:"retained,omitempty"` // of PublishesIn, with the retain flag
	Durable     uint64    `json:"durable,omitempty"`  // of PublishesIn, at QoS 1 or 2 in a run with durable sessions

	BatchesOut uint64 `json:"batches_out,omitempty"` // Kafka: fetched
	Requests   uint64 `json:"requests,omitempty"`    // Kafka: of all kinds
	EndTxns    uint64 `json:"end_txns,omitempty"`
}

// tally are a loop's counters of events, from the beginning of the run on.
type tally struct {
	connects, disconnects, pings, subscribes, filters uint64
	in, out                                           [3]uint64 // PUBLISH sent to the broker, and from it
	acksIn, acksOut, retained                         uint64
	records, recordsOut, batches, batchesOut          uint64
	batchBytes, batchBytesOut                         uint64
	requests, produces, fetches, endTxns              uint64
	wireIn, wireOut                                   uint64 // bytes
}

func (t *tally) each(o *tally, f func(a *uint64, b uint64)) {
	for _, x := range []struct {
		a *uint64
		b uint64
	}{
		{&t.connects, o.connects}, {&t.disconnects, o.disconnects}, {&t.pings, o.pings}, {&t.subscribes, o.subscribes},
		{&t.filters, o.filters}, {&t.in[0], o.in[0]}, {&t.in[1], o.in[1]}, {&t.in[2], o.in[2]}, {&t.out[0], o.out[0]},
		{&t.out[1], o.out[1]}, {&t.out[2], o.out[2]}, {&t.acksIn, o.acksIn}, {&t.acksOut, o.acksOut}, {&t.retained, o.retained},
		{&t.records, o.records}, {&t.recordsOut, o.recordsOut}, {&t.batches, o.batches}, {&t.batchesOut, o.batchesOut},
		{&t.batchBytes, o.batchBytes}, {&t.batchBytesOut, o.batchBytesOut}, {&t.requests, o.requests}, {&t.produces, o.produces},
		{&t.fetches, o.fetches}, {&t.endTxns, o.endTxns}, {&t.wireIn, o.wireIn}, {&t.wireOut, o.wireOut},
	} {
		f(x.a, x.b)
	}
}

func (t *tally) add(o *tally) { t.each(o, func(a *uint64, b uint64) { *a += b }) }
func (t *tally) sub(o *tally) { t.each(o, func(a *uint64, b uint64) { *a -= b }) }

// events gives what happened from the moment at which before was counted to the one of after.
func (s *Result) events(before, after *tally) *Events {
	t := *after
	t.sub(before)
	if t == (tally{}) {
		return nil
	}
	payload := uint64(s.cfg.Payload)
	in, out := t.in[0]+t.in[1]+t.in[2], t.out[0]+t.out[1]+t.out[2]
	e := &Events{
		Messages: in + t.records, Deliveries: out + t.recordsOut, Batches: t.batches, Produces: t.produces, Fetches: t.fetches,
		BytesSent: in*payload + t.batchBytes, BytesReceived: out*payload + t.batchBytesOut,
		WireIn: t.wireIn, WireOut: t.wireOut, Connects: t.connects, TLS: s.tls, WebSocket: s.ws,
		Disconnects: t.disconnects, Pings: t.pings, Subscribes: t.subscribes, Filters: t.filters, PublishesIn: t.in, PublishOut: t.out,
		AcksIn: t.acksIn, AcksOut: t.acksOut, Retained: t.retained, BatchesOut: t.batchesOut, Requests: t.requests, EndTxns: t.endTxns,
	}
	if s.cfg.Durable {
		e.Durable = t.in[1] + t.in[2]
	}
	return e
}
