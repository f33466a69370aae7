package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MixPart is one load of a mixed run. One of MQTT and Kafka is set.
type MixPart struct {
	Name  string
	MQTT  *Config
	Kafka *KafkaConfig
}

// gate has the parts of a mixed run begin together and say goodbye together.
type gate struct {
	base    time.Time
	ready   chan struct{} // a part that is ready for load
	start   chan struct{} // closed once at is set
	at      int64         // ns since base: when load begins
	drained chan struct{} // a part whose load is over and has come
	leave   chan struct{} // closed once all have
	files   atomic.Int64  // connections of all parts

	mu struct {
		sync.Mutex
		runs []*run
	}
}

// enter makes r a part of the mixed run; its number is what keeps its source addresses apart from those of the others.
func (g *gate) enter(r *run) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.gate, r.base, r.dialOffset = g, g.base, len(g.mu.runs)*connsPerSource
	g.mu.runs = append(g.mu.runs, r)
}

func (g *gate) count(of func(*counts) *atomic.Uint64) (n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.mu.runs {
		n += r.count(of)
	}
	return n
}

// await waits for one word of each part.
func (g *gate) await(ctx context.Context, words chan struct{}, parts int) error {
	for range parts {
		select {
		case <-words:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// begin gives the time at which load begins: soon, or once all parts of a mixed run are ready.
func (r *run) begin() (int64, error) {
	if r.gate == nil {
		return r.clock() + int64(startDelay), nil
	}
	if err := r.pass(r.gate.ready, r.gate.start); err != nil {
		return 0, err
	}
	return r.gate.at, nil
}

// finished waits until the load of all parts of a mixed run has come to its end, so that none disturbs what of another is under way.
func (r *run) finished() error {
	if r.gate == nil {
		return nil
	}
	return r.pass(r.gate.drained, r.gate.leave)
}

func (r *run) pass(word chan<- struct{}, open <-chan struct{}) error {
	select {
	case word <- struct{}{}:
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	select {
	case <-open:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// RunMixed runs several loads at the same time in this process, with one warm-up and one measured part, which common has, with what
// else is of the whole: PIDs, Tool, Progress, Sampled, Seed. Each part is verified by itself; what the server used is measured
// once. The result has a result of each part. See Run for the error.
func RunMixed(ctx context.Context, common Config, parts []MixPart) (*Result, error) {
	common.Scenario = "mixed"
	common.setDefaults()
	if !supported {
		return nil, errors.New("the load generator runs on Linux only")
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := &gate{base: time.Now(), ready: make(chan struct{}), start: make(chan struct{}), drained: make(chan struct{}), leave: make(chan struct{})}
	m := &run{cfg: common, ctx: inner, base: g.base, result: newResult(&common)}
	m.mu.notes = map[string]*note{}
	m.recorder = newRecorder(0)
	m.measureFrom.Store(math.MaxInt64)
	threads := 0
	for _, p := range parts {
		threads += p.threads()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	if n := threads + 2; runtime.GOMAXPROCS(0) < n {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
	}
	own := ownCPU()
	w := m.startWatch()
	results, errs := make([]*Result, len(parts)), make([]error, len(parts))
	var all sync.WaitGroup
	for i, p := range parts {
		all.Go(func() {
			results[i], errs[i] = p.run(inner, g)
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", p.Name, errs[i])
				cancel(errs[i])
			}
		})
	}
	err := m.conduct(g, len(parts))
	all.Wait()
	w.halt()
	m.result.Generator.CPUSeconds = (ownCPU() - own).Seconds()
	m.fillMixed(results)
	if first := firstCause(errs); first != nil {
		err = first
	}
	if lack := lackOf(err); lack != nil {
		err, m.result.Void, m.result.OK = lack, lack.Error(), false
	}
	if ctx.Err() != nil {
		m.result.Partial = true
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	return m.result, err
}

// firstCause gives the error that is not only that another part ended the run.
func firstCause(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}

func (p *MixPart) threads() int {
	if p.Kafka != nil {
		return max(p.Kafka.Threads, 1)
	}
	return max(p.MQTT.Threads, 1)
}

// run does the part. What is of the whole is taken out of its configuration.
func (p *MixPart) run(ctx context.Context, g *gate) (*Result, error) {
	strip := func(c *Config) {
		c.PIDs, c.Metrics, c.Progress, c.Sampled = nil, "", nil, nil
	}
	var res *Result
	var err error
	if p.Kafka != nil {
		k := *p.Kafka
		strip(&k.Config)
		res, err = runKafkaAt(ctx, k, g)
	} else {
		cfg := *p.MQTT
		strip(&cfg)
		res, err = runAt(ctx, cfg, g)
	}
	if res != nil {
		res.Name = p.Name
	}
	return res, err
}

// conduct opens the gate when all are ready and measures the server between.
func (r *run) conduct(g *gate, parts int) error {
	if err := g.await(r.ctx, g.ready, parts); err != nil {
		return err
	}
	r.progress("%d loads are ready", parts)
	g.at = r.clock() + int64(startDelay)
	close(g.start)
	from := g.at + int64(r.cfg.Warmup)
	until := from + int64(r.cfg.Duration)
	r.measureFrom.Store(from)
	r.measureUntil.Store(until)
	if err := r.sleep(from); err != nil {
		return err
	}
	before, err := r.sample()
	if err != nil {
		return err
	}
	err = r.measureMixed(g, until)
	after, serr := r.sample()
	r.result.setUsage(before, after, time.Duration(min(r.clock(), until)-from))
	if err = errors.Join(err, serr); err != nil {
		return err
	}
	if err := g.await(r.ctx, g.drained, parts); err != nil {
		return err
	}
	close(g.leave)
	return nil
}

// measureMixed waits for the end of the measured part with a line of progress each second.
func (r *run) measureMixed(g *gate, until int64) error {
	last, lastSent := g.count(countFresh), g.count(countSent)
	for {
		next := min(r.clock()+int64(time.Second), until)
		if err := r.sleep(next); err != nil {
			return err
		}
		now, sent := g.count(countFresh), g.count(countSent)
		r.progress("%d sent, %d in the last second; %d received, %d", sent, sent-lastSent, now, now-last)
		last, lastSent = now, sent
		if next == until {
			return nil
		}
	}
}

// fillMixed adds the parts up.
func (r *run) fillMixed(parts []*Result) {
	s := r.result
	s.Violations = []string{}
	s.Generator.Late = nil
	var urls, limits, voids []string
	var events Events
	for _, p := range parts {
		if p == nil {
			continue
		}
		s.Parts = append(s.Parts, p)
		s.total.sentMeasured += p.total.sentMeasured
		s.total.receivedMeasured += p.total.receivedMeasured
		s.Counts.add(&p.Counts)
		events.add(p.Events)
		s.Config.Publishers += p.Config.Publishers
		s.Config.Subscribers += p.Config.Subscribers
		s.Config.Connections += p.Config.Connections
		s.Config.Rate += p.Config.Rate
		s.Config.Threads += p.Config.Threads
		s.Generator.Held += p.Generator.Held
		s.Generator.Stalls += p.Generator.Stalls
		s.Partial = s.Partial || p.Partial
		p.Generator.CPUSeconds, p.Generator.BusyCores, p.Generator.WaitSeconds = 0, 0, 0 // of the process: the whole has it
		for _, v := range p.Violations {
			s.Violations = append(s.Violations, p.Name+": "+v)
		}
		for _, f := range p.Faults {
			f.Part = p.Name
			s.Faults = append(s.Faults, f)
		}
		for _, n := range p.Notes {
			n.Text = p.Name + ": " + n.Text
			s.Notes = append(s.Notes, n)
		}
		if p.Generator.Bottleneck != "" {
			limits = append(limits, p.Name+": "+p.Generator.Bottleneck)
		}
		if p.Void != "" {
			voids = append(voids, p.Name+": "+p.Void)
		}
		if !slices.Contains(urls, p.URL) {
			urls = append(urls, p.URL)
		}
	}
	s.URL = strings.Join(urls, " ")
	s.Config.WarmupSeconds, s.Config.Duration = r.cfg.Warmup.Seconds(), r.cfg.Duration.Seconds()
	s.Generator.Bottleneck, s.Void = strings.Join(limits, "; "), strings.Join(voids, "; ")
	if s.Seconds > 0 {
		s.Rates = Rates{float64(s.total.sentMeasured) / s.Seconds, float64(s.total.receivedMeasured) / s.Seconds}
	}
	s.Events = &events
	s.fillServer()
	r.fillMixedSeries(parts)
	s.OK = len(s.Violations) == 0 && s.Void == "" && len(s.Parts) == len(parts)
}

// add adds the counters of o, which may be nil.
func (e *Events) add(o *Events) {
	if o == nil {
		return
	}
	for _, x := range []struct {
		a *uint64
		b uint64
	}{
		{&e.Messages, o.Messages}, {&e.Deliveries, o.Deliveries}, {&e.Batches, o.Batches}, {&e.Produces, o.Produces},
		{&e.Fetches, o.Fetches}, {&e.BytesSent, o.BytesSent}, {&e.BytesReceived, o.BytesReceived}, {&e.WireIn, o.WireIn},
		{&e.WireOut, o.WireOut}, {&e.Connects, o.Connects}, {&e.Disconnects, o.Disconnects}, {&e.Pings, o.Pings},
		{&e.Subscribes, o.Subscribes}, {&e.Filters, o.Filters}, {&e.AcksIn, o.AcksIn}, {&e.AcksOut, o.AcksOut},
		{&e.Retained, o.Retained}, {&e.Durable, o.Durable}, {&e.BatchesOut, o.BatchesOut}, {&e.Requests, o.Requests},
		{&e.EndTxns, o.EndTxns},
	} {
		*x.a += x.b
	}
	for i := range e.PublishesIn {
		e.PublishesIn[i] += o.PublishesIn[i]
		e.PublishOut[i] += o.PublishOut[i]
	}
}

func (c *Counts) add(o *Counts) {
	c.Sent += o.Sent
	c.Acked += o.Acked
	c.Received += o.Received
	c.Lost += o.Lost
	c.Duplicates += o.Duplicates
	c.Reordered += o.Reordered
	c.Corrupt += o.Corrupt
	c.Stray += o.Stray
	c.Unacknowledged += o.Unacknowledged
	c.Undecided += o.Undecided
	c.Refused += o.Refused
	c.Redelivered += o.Redelivered
	c.Resent += o.Resent
	c.Disconnects += o.Disconnects
	c.NotConnected += o.NotConnected
}

// hold is an idle fleet as a part of a mixed run: it stands from the beginning of load to its end.
func (r *run) hold() error {
	start, err := r.begin()
	if err != nil {
		return err
	}
	from := start + int64(r.cfg.Warmup)
	until := from + int64(r.cfg.Duration)
	r.measureFrom.Store(from)
	r.measureUntil.Store(until)
	if err := r.sleep(until); err != nil {
		return err
	}
	r.result.Seconds = r.cfg.Duration.Seconds()
	r.stopAt.Store(math.MaxInt64)
	return r.finished()
}
