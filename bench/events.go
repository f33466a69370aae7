package bench

// Events are what the clients did in the measured part of a run, counted by themselves. With the CPU time of the same part
// they say what each kind costs (package plan).
type Events struct {
	Messages      uint64 `json:"messages"`   // or records, sent
	Deliveries    uint64 `json:"deliveries"` // or records, received
	Batches       uint64 `json:"batches,omitempty"`
	Produces      uint64 `json:"produces,omitempty"` // requests
	Fetches       uint64 `json:"fetches,omitempty"`  // requests
	BytesSent     uint64 `json:"bytes_sent"`         // payloads; of Kafka, batches
	BytesReceived uint64 `json:"bytes_received"`
}

// fillEvents takes them from the counters of all loops.
func (s *Result) fillEvents(payload int) {
	t := &s.total
	s.Events = &Events{
		Messages: t.sentMeasured, Deliveries: t.receivedMeasured, Batches: t.batches, Produces: t.produces, Fetches: t.fetches,
		BytesSent: t.sentBytes, BytesReceived: t.receivedBytes,
	}
	if t.batches+t.fetches == 0 {
		s.Events.BytesSent = t.sentMeasured * uint64(payload)
		s.Events.BytesReceived = t.receivedMeasured * uint64(payload)
	}
}
