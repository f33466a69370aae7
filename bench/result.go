package bench

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what a run found. Its JSON form is read by perf/compare and by scripts.
type Result struct {
	Name       string    `json:"name,omitempty"` // of the scenario file, or of the part of one
	Scenario   string    `json:"scenario"`       // the kind of load; mixed: Parts has a result of each
	URL        string    `json:"url"`
	Started    time.Time `json:"started"`
	Tool       string    `json:"version"` // of this generator
	Seed       uint64    `json:"seed"`
	OK         bool      `json:"ok"`                // nothing is wrong, and Void is empty
	Void       string    `json:"void,omitempty"`    // why this says nothing of the broker: what the generator lacked
	Partial    bool      `json:"partial,omitempty"` // interrupted
	Violations []string  `json:"violations"`        // what the broker did wrong, the worst first, with the seconds in which it did
	Faults     []Fault   `json:"faults,omitempty"`  // the same, for programs
	Notes      []Note    `json:"notes,omitempty"`

	Config    Settings      `json:"config"`
	Hardware  Hardware      `json:"hardware"`
	Counts    Counts        `json:"counts"`
	Seconds   float64       `json:"seconds"` // the measured part
	Rates     Rates         `json:"rates"`
	Latency   *Distribution `json:"latency_us,omitempty"` // from the intended time of sending
	Acks      *Distribution `json:"ack_us,omitempty"`     // likewise, to the acknowledgement of MQTT; Kafka has its own
	Connects  *Distribution `json:"connect_us,omitempty"` // from dialing to CONNACK
	Server    *Server       `json:"server,omitempty"`     // with the server's process ids
	Generator Generator     `json:"generator"`
	Steps     []Step        `json:"steps,omitempty"`
	Balance   *Balance      `json:"balance,omitempty"` // shared
	Kafka     *KafkaResult  `json:"kafka,omitempty"`   // against a Kafka broker
	Events    *Events       `json:"events,omitempty"`
	Parts     []*Result     `json:"parts,omitempty"` // of a mixed run: each verified by itself; Server is of all of them, here alone
	Series    *Series       `json:"series,omitempty"`

	total   stats
	window  [2]usage // the measured part's ends
	cfg     *Config
	tls, ws bool
	death   string
}

// Note is a remark about the run, with the second in which it was first due.
type Note struct {
	Second float64 `json:"second"`
	Count  int     `json:"count"`
	Text   string  `json:"text"`
}

// Settings are the parts of a Config that a result depends on.
type Settings struct {
	Version        int     `json:"mqtt_version,omitempty"`
	Publishers     int     `json:"publishers"`
	Subscribers    int     `json:"subscribers"`
	Connections    int     `json:"connections"`
	Filters        int     `json:"filters,omitempty"`
	Messages       uint64  `json:"messages,omitempty"`
	Payload        int     `json:"payload"`
	QoS            int     `json:"qos"`
	Rate           float64 `json:"rate,omitempty"`
	Inflight       int     `json:"inflight,omitempty"`
	WarmupSeconds  float64 `json:"warmup_seconds"`
	Duration       float64 `json:"duration_seconds"`
	SettleSeconds  float64 `json:"settle_seconds,omitempty"`
	Durable        bool    `json:"durable"`
	Threads        int     `json:"threads"`
	ReceiveMaximum int     `json:"receive_maximum,omitempty"`
}

// Hardware is what the generator ran on.
type Hardware struct {
	CPU         string  `json:"cpu"`
	Cores       int     `json:"cores"`
	MemoryBytes int64   `json:"memory_bytes"`
	Kernel      string  `json:"kernel"`
	LoadAverage float64 `json:"load_average"` // of the minute before
}

// Counts are of the whole run, warm-up and drain included.
type Counts struct {
	Sent           uint64 `json:"sent"`
	Acked          uint64 `json:"acked"`
	Received       uint64 `json:"received"` // deliveries
	Lost           uint64 `json:"lost"`     // deliveries that never came, of messages that the broker answered for
	Duplicates     uint64 `json:"duplicates"`
	Reordered      uint64 `json:"reordered"`
	Corrupt        uint64 `json:"corrupt"`
	Stray          uint64 `json:"stray"`          // came to whom they were not meant for
	Unacknowledged uint64 `json:"unacknowledged"` // above QoS 0, when the run was over
	Undecided      uint64 `json:"undecided"`      // deliveries missing of those
	Refused        uint64 `json:"refused"`        // acknowledged with a failure
	Redelivered    uint64 `json:"redelivered"`    // carried the DUP flag
	Resent         uint64 `json:"resent"`         // QoS 2 PUBLISH again before its PUBREL
	Disconnects    uint64 `json:"disconnects"`    // connections that stood and were ended
	NotConnected   uint64 `json:"not_connected"`  // connections that never stood
}

// Rates are of the measured part.
type Rates struct {
	SentPerSecond     float64 `json:"sent_per_second"`
	ReceivedPerSecond float64 `json:"received_per_second"`
}

// Generator is what the generator says of itself.
type Generator struct {
	CPUSeconds  float64       `json:"cpu_seconds"`       // of the whole run
	BusyCores   float64       `json:"busy_cores"`        // in the measured part
	Late        *Distribution `json:"late_us,omitempty"` // of sends by timetable that nothing but the generator held up
	WaitSeconds float64       `json:"wait_seconds"`      // in the measured part: of its threads, ready to run, for a processor
	Held        uint64        `json:"held_by_broker"`    // sends that waited because the broker did not read or answer
	Stalls      uint64        `json:"stalls"`            // times that nothing came back for Config.Stall
	Bottleneck  string        `json:"bottleneck,omitempty"`
}

// Step is one step of a scenario that has several: storing, fetching, draining.
type Step struct {
	Name      string  `json:"name"`
	Count     uint64  `json:"count"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
	CPUEach   float64 `json:"cpu_us_each,omitempty"`
	BytesEach float64 `json:"bytes_each,omitempty"` // resident memory that the server gained, by Count

	CPUSeconds float64        `json:"cpu_seconds,omitempty"` // of the server
	Events     *Events        `json:"events,omitempty"`
	Metrics    *ServerMetrics `json:"metrics,omitempty"`
}

// Balance is how a share group's members got on, in deliveries.
type Balance struct {
	Least uint64 `json:"least"`
	Most  uint64 `json:"most"`
}

func newResult(c *Config) *Result {
	s := &Result{Scenario: c.Scenario, URL: c.URL, Started: time.Now().UTC().Truncate(time.Second), Tool: c.Tool, Seed: c.Seed}
	s.Hardware.Cores = runtime.NumCPU()
	describeMachine(&s.Hardware)
	return s
}

// fillResult turns the counters into the result. The loops have stopped.
func (r *run) fillResult() {
	s, t, cfg := r.result, &r.result.total, &r.cfg
	c := &s.Counts
	c.Sent, c.Acked, c.Received, c.Duplicates, c.Reordered = t.sent, t.acked-t.cleared, t.received, t.duplicates, t.reordered
	c.Corrupt, c.Stray, c.Redelivered, c.Resent = t.corrupt, t.stray, t.dup, t.resent
	c.Disconnects, c.NotConnected = t.marks[faultDisconnected].count, t.marks[faultNotConnected].count
	s.Config = Settings{
		Version: int(cfg.Version), Publishers: len(r.pubs), Subscribers: len(r.subs), Connections: int(r.dialCount.Load()),
		Messages: cfg.Messages, Payload: cfg.Payload, QoS: int(cfg.QoS), Rate: cfg.Rate, Durable: cfg.Durable, Threads: cfg.Threads,
		WarmupSeconds: cfg.Warmup.Seconds(), Duration: cfg.Duration.Seconds(), ReceiveMaximum: cfg.ReceiveMaximum,
	}
	if cfg.Rate == 0 {
		s.Config.Inflight = cfg.Inflight
	}
	if cfg.Scenario == "wildcards" {
		s.Config.Filters = cfg.Filters
	}
	if cfg.Scenario == "idle" {
		s.Config.SettleSeconds = cfg.Settle.Seconds()
	}
	if s.Seconds > 0 {
		s.Rates = Rates{float64(t.sentMeasured) / s.Seconds, float64(t.receivedMeasured) / s.Seconds}
	}
	s.Events = s.events(&s.window[0].Tally, &s.window[1].Tally)
	s.fillServer()
	s.Latency, s.Acks, s.Connects = distribution(t.delivery), distribution(t.acks), distribution(t.connects)
	s.Generator.Late, s.Generator.Held, s.Generator.Stalls = distribution(t.lateness), t.held, t.stalls
	s.Generator.Bottleneck = r.bottleneck()
	s.Void = r.void()
	r.fillSeries()
	r.mu.Lock()
	for _, text := range r.mu.order {
		n := r.mu.notes[text]
		s.Notes = append(s.Notes, Note{float64(n.at) / 1e9, n.count, text})
	}
	r.mu.Unlock()
	s.judge(cfg)
}

// judge lists what the broker did wrong.
func (s *Result) judge(cfg *Config) {
	c := &s.Counts
	s.Violations, s.Faults = []string{}, nil
	if cfg.QoS > 0 {
		s.charge(faultLost, c.Lost, "%d deliveries of acknowledged messages never came", c.Lost)
	} else if !cfg.AllowLoss {
		s.charge(faultLost, c.Lost, "%d deliveries at QoS 0 never came", c.Lost)
	}
	if cfg.QoS != 1 {
		s.charge(faultDuplicate, c.Duplicates, "%d deliveries came again at QoS %d", c.Duplicates, cfg.QoS)
	}
	s.charge(faultReordered, c.Reordered, "%d deliveries came after a later one of the same publisher", c.Reordered)
	s.charge(faultCorrupt, c.Corrupt, "%d deliveries are not what was sent", c.Corrupt)
	s.charge(faultStray, c.Stray, "%d deliveries came to a client that they were not for", c.Stray)
	s.judgeConnections()
	s.charge(faultRefused, c.Refused, "%d messages were answered by a failure", c.Refused)
	if !s.Partial {
		s.charge(faultUnanswered, c.Unacknowledged, "%d messages were never acknowledged", c.Unacknowledged)
	}
	s.OK = len(s.Violations) == 0 && s.Void == ""
}

// judgeConnections lists what the broker did wrong to all clients, or to connections.
func (s *Result) judgeConnections() {
	c, m := &s.Counts, &s.total.marks
	s.charge(faultDied, min(m[faultDied].count, 1), "%s", s.death)
	stalled := &m[faultStalled]
	s.charge(faultStalled, stalled.count, "the broker sent nothing at all for longer than %v, %d times", max(s.cfg.Stall, silenceMin), stalled.count)
	s.charge(faultNotConnected, c.NotConnected, "%d connections could not be had", c.NotConnected)
	s.charge(faultDisconnected, c.Disconnects, "%d connections failed or were ended by the broker", c.Disconnects)
}

// writeVerdict writes what must be seen before any figure.
func (s *Result) writeVerdict(b *strings.Builder) {
	for _, v := range s.Violations {
		fmt.Fprintf(b, "%s\n", v)
	}
	if s.Void != "" {
		fmt.Fprintf(b, "NO RESULT: %s\n", s.Void)
	}
	if s.Generator.Bottleneck != "" {
		fmt.Fprintf(b, "GENERATOR: %s\n", s.Generator.Bottleneck)
	}
	if s.Partial {
		b.WriteString("PARTIAL: the run was interrupted\n")
	}
}

// WriteTable prints the result for people.
func (s *Result) WriteTable(w io.Writer) error {
	var b strings.Builder
	s.writeVerdict(&b)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	switch {
	case s.Kafka != nil:
		s.kafkaHead(row)
	case len(s.Parts) > 0:
		row("scenario", "%d loads at once on %s", len(s.Parts), s.URL)
	default:
		row("scenario", "%s, %s, MQTT version %d, QoS %d, %d bytes", s.Scenario, s.URL, s.Config.Version, s.Config.QoS, s.Config.Payload)
		row("clients", "%d publishers, %d subscribers, %d connections", s.Config.Publishers, s.Config.Subscribers, s.Config.Connections)
	}
	c := &s.Counts
	if c.Sent > 0 {
		row("messages", "%d sent, %d acknowledged, %d received, %d lost, %d again, %d reordered, %d corrupt",
			c.Sent, c.Acked, c.Received, c.Lost, c.Duplicates, c.Reordered, c.Corrupt)
	}
	if s.Rates.SentPerSecond > 0 {
		row("rate", "%.0f sent/s, %.0f received/s in %.1f s", s.Rates.SentPerSecond, s.Rates.ReceivedPerSecond, s.Seconds)
	}
	spread := func(name string, d *Distribution) {
		if d != nil {
			row(name, "p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  p99.99 %.1f  max %.1f", d.P50, d.P90, d.P99, d.P999, d.P9999, d.Max)
		}
	}
	spread("latency µs", s.Latency)
	spread("acknowledged µs", s.Acks)
	spread("connect µs", s.Connects)
	if s.Kafka != nil {
		s.kafkaRows(row, spread)
	}
	s.serverRows(row)
	for _, x := range s.Steps {
		row(x.Name, "%d in %.2f s, %.0f/s, server CPU %.2f µs each, %.0f bytes each", x.Count, x.Seconds, x.PerSecond, x.CPUEach, x.BytesEach)
	}
	if s.Balance != nil {
		row("balance", "%d to %d deliveries a member", s.Balance.Least, s.Balance.Most)
	}
	if s.Generator.CPUSeconds > 0 { // of a part of a mixed run the whole has it
		row("generator", "%.2f s of CPU, %.2f cores in the measured part, %.2f s without a processor, %d sends held up by the broker",
			s.Generator.CPUSeconds, s.Generator.BusyCores, s.Generator.WaitSeconds, s.Generator.Held)
	}
	spread("late sends µs", s.Generator.Late)
	for _, n := range s.Notes {
		row("note", "at %.1f s: %s (%d times)", n.Second, n.Text, n.Count)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	for _, p := range s.Parts {
		if err == nil {
			_, err = fmt.Fprintf(w, "\npart %s\n", p.Name)
		}
		if err == nil {
			err = p.WriteTable(w)
		}
	}
	return err
}

func (s *Result) serverRows(row func(string, string, ...any)) {
	v := s.Server
	if v == nil {
		return
	}
	if v.CPUPerMessage+v.CPUPerDelivery > 0 {
		row("server CPU", "%.3f µs a message, %.3f µs a delivery, %.0f µs a MB on the wire, %.2f cores, %.1f context switches per 1000 messages",
			v.CPUPerMessage, v.CPUPerDelivery, v.CPUPerMB, v.BusyCores, v.SwitchesPerThousand)
	}
	if v.CPUPerConnection > 0 {
		row("server CPU", "%.1f µs a connection", v.CPUPerConnection)
	}
	if v.DiskPerMessage > 0 {
		row("server disk", "%.1f bytes and %.5f flushes a message, %.1f MB in all", v.DiskPerMessage, v.FlushesPerMessage,
			max(float64(v.DiskWriteBytes), v.journalBytes())/1e6)
	}
	if m := v.Metrics; m != nil && s.Events != nil && s.Events.Messages > 0 {
		n := float64(s.Events.Messages)
		row("server a message", "%.4f wake-ups, %.4f socket reads, %.4f socket writes, %.3f allocations, %.1f bytes allocated; GC %.2f s of CPU",
			m.Wakeups/n, m.SocketReads/n, m.SocketWrites/n, m.Allocations/n, m.AllocatedBytes/n, m.GCCPUSeconds)
	}
	row("server memory", "%.1f MB before, %.1f MB after, %d threads", float64(v.RSSBefore)/1e6, float64(v.RSSAfter)/1e6, v.Threads)
	if v.BytesPerConnection != 0 {
		row("a connection", "%.0f bytes resident", v.BytesPerConnection)
	}
}
