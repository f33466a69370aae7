package measure

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/plan"
)

// Options say what to measure.
type Options struct {
	URL, TLSURL, WSURL, WSSURL, KafkaURL string // what has no address is not measured
	TLS                                  *tls.Config
	Username, Password                   string
	PID                                  int
	// Start is a command that starts the node: instead of PID, and then each measure of memory has a fresh one.
	Start   []string
	NodeLog io.Writer // what it says; nil: nothing
	Metrics string    // http://…/metrics; empty: sharing is not counted, and rungs driven by answers are left out of the fit
	Version string

	Kind     string        // "cpu", "memory", "" both
	Only     []string      // beginnings of rungs' names; none: all
	Duration time.Duration // of the measured part of a load; 0: 3 s
	Settle   time.Duration // until a node counts as quiet; 0: 7 s
	Limit    time.Duration // begin no further rung after so long; 0: none
	Repeat   int           // run what has fewer observations; 0: 1

	Done     []plan.Observation              // from an earlier call: what has Repeat of them is passed over
	Keep     func(o *plan.Observation) error // takes a finished observation
	Progress func(format string, a ...any)   // nil: none
	Client   *http.Client                    // for the metrics; nil: a plain one
}

// Rungs are the names of all rungs, in their order.
func Rungs() (names []string) {
	for _, r := range all("") {
		names = append(names, r.name)
	}
	return names
}

func all(kind string) (list []rung) {
	if kind != "cpu" {
		list = append(list, memoryRungs()...)
	}
	if kind != "memory" {
		list = append(list, messageRungs()...)
		list = append(list, storeRungs()...)
		list = append(list, kafkaRungs()...)
	}
	return list
}

// url is where a rung runs; empty: nowhere.
func (o *Options) url(r *rung) string {
	if r.kafka != nil {
		return o.KafkaURL
	}
	return [...]string{o.URL, o.TLSURL, o.WSURL, o.WSSURL}[r.on]
}

// Left lists the rungs that are to be run, and how many have no address.
func (o *Options) left() (list []rung, unreachable int) {
	have := map[string]int{}
	for i := range o.Done {
		if o.Done[i].Doubt == "" {
			have[o.Done[i].Rung]++
		}
	}
	for pass := range max(o.Repeat, 1) { // all of them again, rather than each again at once: the machine has minutes of its own
		unreachable = 0
		for _, r := range all(o.Kind) {
			switch {
			case len(o.Only) > 0 && !slices.ContainsFunc(o.Only, func(p string) bool { return strings.HasPrefix(r.name, p) }):
			case have[r.name] > pass:
			case o.url(&r) == "":
				unreachable++
			default:
				list = append(list, r)
			}
		}
	}
	return list, unreachable
}

// Run measures what is left, and gives how many rungs still are. An interrupted one leaves nothing behind.
func Run(ctx context.Context, o Options) (left int, err error) {
	if o.Duration == 0 {
		o.Duration = 3 * time.Second
	}
	if o.Settle == 0 {
		o.Settle = 7 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	see := &observer{pid: o.PID, metrics: o.Metrics, client: o.Client}
	if see.client == nil {
		see.client = &http.Client{}
		defer see.client.CloseIdleConnections()
	}
	own := &node{command: o.Start, log: o.NodeLog}
	defer func() { err = errors.Join(err, own.stop()) }()
	list, unreachable := o.left()
	if unreachable > 0 {
		o.Progress("%d rungs are left out: their address is not given", unreachable)
	}
	began := time.Now()
	for i := range list {
		if ctx.Err() != nil || o.Limit > 0 && time.Since(began) > o.Limit {
			return len(list) - i, nil
		}
		o.Progress("%d of %d: %s", i+1, len(list), list[i].name)
		if len(o.Start) > 0 && (list[i].memory || own.process == nil) {
			if err := own.restart(ctx, see); err != nil {
				return len(list) - i, err
			}
		}
		if err := o.one(ctx, &list[i], see); err != nil {
			if ctx.Err() != nil {
				return len(list) - i, nil
			}
			return len(list) - i, fmt.Errorf("rung %q: %w", list[i].name, err)
		}
	}
	return 0, nil
}

// one runs a rung and keeps its observations.
func (o *Options) one(ctx context.Context, r *rung, see *observer) error {
	see.samples, see.settle, see.err = nil, nil, nil
	if r.memory {
		see.settle = map[int]time.Duration{0: o.Settle, r.at.to: o.Settle}
		if len(o.Start) > 0 {
			see.settle[0] = o.Settle / 4 // fresh
		}
	}
	see.take(ctx)
	began := time.Now().UTC().Truncate(time.Second)
	res, err := o.load(ctx, r, func() { see.take(ctx) })
	if err != nil {
		return err
	}
	pause(ctx, 100*time.Millisecond) // until the node has seen the last connection's end
	see.take(ctx)
	if see.err != nil {
		return see.err
	}
	if ctx.Err() != nil || res.Partial {
		return context.Canceled
	}
	windows := append([]window{r.at}, r.steps...)
	for step, w := range windows {
		if w.to < 0 {
			w.to = len(see.samples) - 1
		}
		if w.to >= len(see.samples) {
			return fmt.Errorf("the run was looked at %d times, not %d", len(see.samples), w.to+1)
		}
		obs := observation(r, res, see.samples[w.from], see.samples[w.to], step)
		obs.Started, obs.Version, obs.Machine = began, o.Version, machineOf(res)
		if obs.Doubt != "" {
			o.Progress("  does not count: %s", obs.Doubt)
		} else {
			o.Progress("  %.2f s of CPU in %.1f s, memory %+.1f MB", obs.CPU, obs.Seconds, (obs.MemoryAfter-obs.MemoryBefore)/1e6)
		}
		if err := o.Keep(obs); err != nil {
			return err
		}
	}
	return nil
}

// load runs bench.
func (o *Options) load(ctx context.Context, r *rung, sampled func()) (*bench.Result, error) {
	common := func(c *bench.Config) {
		c.URL, c.TLS, c.Username, c.Password, c.Sampled, c.Seed, c.Tool = o.url(r), o.TLS, o.Username, o.Password, sampled, 1, o.Version
		// Devices sleep between their messages. A generator that looks at the clock instead is awake for some answers and asleep for
		// others, which makes the same load cost the node up to twice as much at one rate as at another.
		c.Spin = -1
		c.Warmup, c.Drain = 700*time.Millisecond, 3*time.Second
		if c.Messages == 0 || c.Scenario == "consume" {
			c.Duration = o.Duration
		}
		if r.memory && c.Scenario == "wildcards" || c.Scenario == "e2e" && r.memory {
			c.Duration = 200 * time.Millisecond
		}
	}
	if !r.memory {
		defer pin()()
	}
	var res *bench.Result
	var err error
	if r.kafka != nil {
		k := *r.kafka
		common(&k.Config)
		res, err = bench.RunKafka(ctx, k)
	} else {
		c := *r.mqtt
		common(&c)
		if (c.Scenario == "queue" || c.Scenario == "retained") && c.Rate > 0 {
			c.Messages = uint64(c.Rate * o.Duration.Seconds())
		}
		res, err = bench.Run(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	if len(res.Violations) > 0 && !res.Partial {
		return nil, errors.New(res.Violations[0])
	}
	return res, nil
}

func machineOf(res *bench.Result) plan.Machine {
	h := &res.Hardware
	return plan.Machine{CPU: h.CPU, Cores: h.Cores, MemoryBytes: float64(h.MemoryBytes), Kernel: h.Kernel}
}

// observation makes one of what lies between two samples.
func observation(r *rung, res *bench.Result, from, to sample, step int) *plan.Observation {
	o := &plan.Observation{Rung: r.name, Seconds: to.at.Sub(from.ended).Seconds(), CPU: (to.first - from.last).Seconds(), Settled: r.memory,
		MemoryBefore: from.memory, MemoryAfter: to.memory, Mapped: to.mapped}
	if step > 0 {
		o.Rung = fmt.Sprintf("%s: step %d", r.name, step+1)
	}
	x := &result{Result: res, seconds: o.Seconds, step: step, before: from, after: to}
	o.Load.Cores = float64(runtime.NumCPU())
	r.shape(x, &o.Load)
	o.Timetable = r.timetable() && step == 0
	o.Clients = res.Generator.BusyCores
	if late := res.Generator.Late; late != nil {
		o.Late = late.P99
	}
	if r.memory {
		o.CPU = 0 // a quiet node's
	} else if o.Timetable {
		o.Doubt = res.Void
	}
	if from.counters == nil || to.counters == nil {
		return o
	}
	grown := func(name string) float64 { return to.counters[name] - from.counters[name] }
	o.Counted = true
	o.Wakeups = grown("sluice_engine_wakeups_total")
	o.Reads, o.Writes = grown(`sluice_engine_system_calls_total{call="read"}`), grown(`sluice_engine_system_calls_total{call="write"}`)
	o.Flushes, o.Written = grown("sluice_journal_groups_total"), grown("sluice_journal_written_bytes_total")
	if r.memory {
		o.Load.Logged = o.Written
	}
	o.Received, o.Sent = grown("sluice_engine_received_bytes_total"), grown("sluice_engine_sent_bytes_total")
	return o
}

// timetable tells whether clients send by themselves, each at its time.
func (r *rung) timetable() bool {
	if r.kafka != nil {
		return r.kafka.Rate > 0
	}
	return (r.mqtt.Rate > 0 || r.mqtt.ConnectRate > 0) && !r.memory && r.mqtt.KeepAlive == 0
}

// Writer keeps observations as lines, each written at once.
func Writer(w io.Writer) func(o *plan.Observation) error {
	return func(o *plan.Observation) error {
		b, err := json.Marshal(o)
		if err != nil {
			return err
		}
		_, err = w.Write(append(b, '\n'))
		return err
	}
}
