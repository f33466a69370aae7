package server

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/bench/plan"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// capacity compares what the node uses with what a model says that it would, by counters that are kept anyway.
type capacity struct {
	n     *node
	model *plan.Model
	stop  chan struct{}
	done  sync.WaitGroup

	expected, headroom, drift atomic.Uint64 // bits of float64
}

const (
	// capacityEvery is how often the node looks at itself, and capacityLooks how many looks the last minute has.
	capacityEvery = 5 * time.Second
	capacityLooks = 12
	// capacityIdle is the CPU time of a second below which drift says nothing: a node without load is not what was measured.
	capacityIdle = 0.05
)

// capacityLook is one look.
type capacityLook struct {
	at             time.Time
	used, expected float64    // CPU seconds, since the node began
	events         plan.Terms // since the node began
	wakeups        float64
}

// startCapacity reads the model and begins to compare; nil without one.
func startCapacity(n *node, file string) (*capacity, error) {
	if file == "" {
		return nil, nil
	}
	m, err := plan.LoadModel(file)
	if err != nil {
		return nil, fmt.Errorf("capacity.model: %w", err)
	}
	c := &capacity{n: n, model: m, stop: make(chan struct{})}
	c.headroom.Store(math.Float64bits(1))
	c.done.Go(c.run)
	return c, nil
}

func (c *capacity) run() {
	tick := time.NewTicker(capacityEvery)
	defer tick.Stop()
	looks := []capacityLook{c.look(nil)}
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		looks = append(looks, c.look(&looks[len(looks)-1]))
		if len(looks) > capacityLooks {
			looks = looks[1:]
		}
		c.compare(looks[0], looks[len(looks)-1])
	}
}

// compare sets the gauges by what lies between two looks.
func (c *capacity) compare(from, to capacityLook) {
	seconds := to.at.Sub(from.at).Seconds()
	used, expected := (to.used-from.used)/seconds, (to.expected-from.expected)/seconds
	c.headroom.Store(math.Float64bits(1 - used/float64(runtime.GOMAXPROCS(0))))
	drift := 0.0
	if used > capacityIdle && expected > 0 {
		drift = used/expected - 1
	}
	c.drift.Store(math.Float64bits(drift))
	c.expected.Store(math.Float64bits(to.expected))
}

// look counts, and adds what the model says for all since the look before.
func (c *capacity) look(before *capacityLook) capacityLook {
	l := capacityLook{at: time.Now(), used: processSeconds()}
	var conns float64
	l.events, l.wakeups, conns = c.events()
	if before == nil {
		return l
	}
	seconds := l.at.Sub(before.at).Seconds()
	rates := plan.Terms{plan.Base: 1}
	for name, v := range l.events {
		rates[name] = (v - before.events[name]) / seconds
	}
	l.expected = before.expected + seconds*c.model.Spend(rates, (l.wakeups-before.wakeups)/seconds, conns)
	return l
}

// processSeconds is the CPU time of the process.
func processSeconds() float64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
}

// events are those that have happened since the node began, as far as they are counted. What goes over TLS and WebSockets and
// what is kept for sessions is not counted apart from the rest: it shows as drift.
func (c *capacity) events() (t plan.Terms, wakeups, conns float64) {
	m, k, e, j := c.n.mqtt.Snapshot(), c.n.kafka.Snapshot(), c.n.engine.Stats(), c.n.storage.counts()
	t = plan.Terms{
		plan.Connect: float64(m.PacketsIn[wire.CONNECT]), plan.ConnectTLS: float64(e.Handshakes), plan.Ping: float64(m.PacketsIn[wire.PINGREQ]),
		plan.InBytes: float64(m.PayloadIn), plan.OutBytes: float64(m.PayloadOut),
		plan.Produce: float64(k.Requests["Produce"]), plan.Fetch: float64(k.Requests["Fetch"]),
		plan.ProduceBytes: float64(k.BytesIn), plan.FetchBytes: float64(k.BytesOut),
		plan.Batch: float64(k.Requests["Produce"]), // at least one each
		plan.Read:  float64(e.Reads), plan.Write: float64(e.Writes), plan.Flush: float64(j.groups),
		plan.Journaled:      float64(c.n.broker.Stats().Journaled.Load()),
		plan.JournaledBytes: max(0, float64(j.writtenBytes)-float64(k.BytesIn)),
	}
	for q, name := range []string{plan.In0, plan.In1, plan.In2} {
		t[name] = float64(m.MessagesIn[q])
	}
	for q, name := range []string{plan.Out0, plan.Out1, plan.Out2} {
		t[name] = float64(m.MessagesOut[q])
	}
	return t, float64(e.Wakeups), float64(m.Open + k.Open)
}

// collect shows the comparison.
func (c *capacity) collect(k sink) {
	if c == nil {
		return
	}
	k.seconds("sluice_capacity_predicted_cpu_seconds_total", time.Duration(math.Float64frombits(c.expected.Load())*float64(time.Second)))
	k.gauge("sluice_capacity_headroom_ratio", math.Float64frombits(c.headroom.Load()))
	k.gauge("sluice_capacity_drift_ratio", math.Float64frombits(c.drift.Load()))
}

func (c *capacity) close() {
	if c != nil {
		close(c.stop)
		c.done.Wait()
	}
}
