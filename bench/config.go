package bench

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Config says what a run does. Zero values take the defaults named here; a scenario ignores what it has no use for.
type Config struct {
	Scenario string
	URL      string
	TLS      *tls.Config
	Username string
	Password string
	Version  byte // 4 or 5; 0: 5

	Publishers  int // 0: the scenario's own number
	Subscribers int
	Conns       int    // idle, storm
	Filters     int    // wildcards; 0: 100,000
	Messages    uint64 // of each publisher; 0: as many as Duration allows (queue, retained: 100,000 and 10,000 in all)
	Payload     int    // bytes; 0: 64
	QoS         byte

	Rate     float64 // messages per second of all publishers; 0: driven by what comes back
	Inflight int     // unanswered of each pair; 0: 64 at QoS 0, 20 above

	Warmup         time.Duration // negative: none; 0: 1 s, none with Messages
	Duration       time.Duration // 0: 10 s
	Settle         time.Duration // idle: between the last CONNECT and the look at the memory; 0: 60 s
	LateMax        time.Duration // a timetable that the generator itself keeps worse than this at p99 makes no result; 0: 1 ms
	Drain          time.Duration // how long nothing may come before the run is over; 0: 5 s
	Stall          time.Duration // after which a publisher no longer waits for what may be lost; 0: 1 s
	ConnectTimeout time.Duration // without any progress; 0: 30 s
	KeepAlive      time.Duration // 0: 20 min, 1 s at least
	ConnectRate    float64       // connections per second; 0: as fast as they come
	ConnectBurst   int           // connections under way at once; 0: 64, less than any broker's backlog
	Spin           time.Duration // with Rate: look instead of sleeping for so long before a send; 0: 60 µs, negative: sleep
	ReceiveMaximum int           // of the receivers; 0: not given

	DropEvery time.Duration // reconnect: between two cuts; 0: 2 s
	DropShare float64       // reconnect: of the subscribers, how many are cut; 0: half

	Durable   bool   // sessions outlive connections; they are removed after the run
	Keep      bool   // retained, queue: leave behind what was stored
	AllowLoss bool   // loss at QoS 0 is no failure
	PIDs      []int  // the server's processes, if they run on this machine
	Metrics   string // where the server shows its metrics, in Prometheus's text format; "": nowhere
	Seed      uint64
	Threads   int // 0: 1

	Tool     string            // the generator's version, for the result
	Progress func(line string) // nil: none
	Sampled  func()            // called before and after each measured part, when the server is looked at; nil: nothing
}

// MisuseError is a configuration that makes no sense.
type MisuseError struct{ Detail string }

// Error says what does not fit.
func (e *MisuseError) Error() string { return e.Detail }

func misuse(format string, args ...any) error { return &MisuseError{fmt.Sprintf(format, args...)} }

// setDefaults fills in what is zero. It leaves a completed configuration as it is.
func (c *Config) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Version == 0 {
		c.Version = wire.V5
	}
	if c.Payload == 0 {
		c.Payload = 64
	}
	if c.Inflight == 0 {
		c.Inflight = 20
		if c.QoS == 0 {
			c.Inflight = 64
		}
	}
	if c.Warmup == 0 && c.Messages == 0 {
		c.Warmup = time.Second
	}
	c.Warmup = max(c.Warmup, 0)
	if c.Scenario == "idle" || c.Scenario == "storm" {
		c.Rate = 0 // they send nothing
	}
	def(&c.Duration, 10*time.Second)
	def(&c.LateMax, lateMax)
	def(&c.Spin, 60*time.Microsecond)
	def(&c.Settle, 60*time.Second)
	def(&c.Drain, 5*time.Second)
	def(&c.Stall, time.Second)
	def(&c.ConnectTimeout, 30*time.Second)
	def(&c.KeepAlive, 20*time.Minute)
	def(&c.DropEvery, 2*time.Second)
	if c.DropShare == 0 {
		c.DropShare = 0.5
	}
	if c.ConnectBurst == 0 {
		c.ConnectBurst = 64
	}
	if c.Filters == 0 {
		c.Filters = 100_000
	}
	if c.Threads == 0 {
		c.Threads = 1
	}
}

// RateMax is the most messages or records a second that a timetable may have.
const RateMax = 20e6

// Check refuses a configuration that cannot be run, as Run does, with a MisuseError.
func (c *Config) Check() error {
	full := *c
	full.setDefaults()
	return full.validate()
}

// validate refuses what cannot be run. It comes after setDefaults.
func (c *Config) validate() error {
	if _, ok := scenarios[c.Scenario]; !ok {
		return misuse("scenario %q is none of %s", c.Scenario, strings.Join(Scenarios(), ", "))
	}
	if _, err := mqttclient.ParseTarget(c.URL); err != nil {
		return misuse("%v", err)
	}
	switch {
	case c.Version != wire.V311 && c.Version != wire.V5:
		return misuse("MQTT version %d is neither 4 nor 5", c.Version)
	case c.QoS > 2:
		return misuse("QoS %d is none of 0, 1, 2", c.QoS)
	case c.Payload < MinPayload:
		return misuse("a payload of %d bytes cannot be verified: %d are needed", c.Payload, MinPayload)
	case c.Payload > 64<<20:
		return misuse("a payload of %d bytes is over 64 MiB", c.Payload)
	case c.Publishers < 0 || c.Subscribers < 0 || c.Conns < 0 || c.Filters < 0 || c.Threads < 0 || c.Rate < 0:
		return misuse("a number is negative")
	case c.Rate > RateMax:
		return misuse("a rate of %.0f messages a second is more than can be sent", c.Rate)
	case c.Inflight < 0 || c.Inflight > 65535:
		return misuse("%d unanswered messages: 1 to 65535 can be in flight", c.Inflight)
	case c.Threads > 64:
		return misuse("%d threads are over 64", c.Threads)
	case c.DropEvery < 0 || c.DropShare < 0 || c.DropShare > 1:
		return misuse("a share of %v every %v cannot be dropped", c.DropShare, c.DropEvery)
	case c.QoS == 0 && (c.Scenario == "reconnect" || c.Scenario == "queue"):
		return misuse("%s needs QoS 1 or 2: nothing is kept for an absent session at QoS 0", c.Scenario)
	case c.KeepAlive < time.Second || c.KeepAlive > 65535*time.Second:
		return misuse("keep-alive %v is not between 1 s and 65535 s", c.KeepAlive)
	}
	return nil
}

// Scenario is one kind of load.
type Scenario struct {
	Name  string
	About string
	run   func(*run) error
}

var scenarios map[string]Scenario

func init() {
	scenarios = map[string]Scenario{}
	for _, s := range []Scenario{
		{"pairs", "point to point: each publisher has a subscriber of its own", runPairs},
		{"publish", "publishers to topics that nobody has subscribed to", runPublish},
		{"fanout", "one publisher, many subscribers to its topic", runFanout},
		{"fanin", "many publishers, one subscriber to all of them", runFanin},
		{"shared", "publishers, and a group that shares one subscription", runShared},
		{"wildcards", "many wildcard filters: what a SUBSCRIBE and a delivery through them cost", runWildcards},
		{"reconnect", "pairs whose subscribers lose their connections and come back to their sessions while load runs", runReconnect},
		{"idle", "connections that do nothing: resident memory of each", runIdle},
		{"storm", "connections as fast as the broker takes them", runStorm},
		{"queue", "messages for absent sessions: store, then drain", runQueue},
		{"retained", "retained messages: store, then fetch by a wildcard", runRetained},
	} {
		scenarios[s.Name] = s
	}
}

// Scenarios names all scenarios in order.
func Scenarios() []string {
	var names []string
	for name := range scenarios {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// AboutScenario says in a line what a scenario does.
func AboutScenario(name string) string { return scenarios[name].About }
