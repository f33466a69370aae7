package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/plan"
)

// resultBytesMax bounds a file of results.
const resultBytesMax = 256 << 20

// ReadFiles reads files of results, each of which is what Run has written, or a run or a ladder of sluice bench (--json). What a run
// that says nothing of the node leaves, and a scenario that package plan has no events for, becomes an observation with a doubt;
// one without the server's CPU time is an error.
func ReadFiles(names []string) (list []plan.Observation, err error) {
	for _, name := range names {
		f, err := os.Open(filepath.Clean(name))
		if err != nil {
			return nil, err
		}
		more, err := read(f, name)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// benchFile is as much of a ladder (package bench/ladder) as is needed, or a result.
type benchFile struct {
	Ladder   *string `json:"ladder"`
	Scenario *string `json:"scenario"`
	Rungs    []struct {
		Runs []struct {
			Result *bench.Result `json:"result"`
		} `json:"runs"`
	} `json:"rungs"`
}

func read(f io.ReadSeeker, name string) ([]plan.Observation, error) {
	var x benchFile
	if json.NewDecoder(io.LimitReader(f, resultBytesMax)).Decode(&x) != nil || x.Ladder == nil && x.Scenario == nil {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return plan.ReadObservations(f, name)
	}
	var results []*bench.Result
	if x.Ladder != nil {
		for _, g := range x.Rungs {
			for _, r := range g.Runs {
				if r.Result != nil {
					results = append(results, r.Result)
				}
			}
		}
	} else {
		r := &bench.Result{}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if err := json.NewDecoder(io.LimitReader(f, resultBytesMax)).Decode(r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		results = append(results, r)
	}
	var list []plan.Observation
	for _, r := range results {
		o, err := ofResult(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, *o)
	}
	return list, nil
}

// known are the scenarios whose measured part is a load that package plan has events for.
var known = []string{"pairs", "publish", "fanout", "fanin", "shared", "produce", "e2e", "transactions", "consume"}

// ofResult makes an observation of a run of sluice bench. The node was on the generator's machine: its CPU time is known.
func ofResult(r *bench.Result) (*plan.Observation, error) {
	if r.Server == nil || r.Server.CPUSeconds <= 0 {
		return nil, fmt.Errorf("%s at %.0f/s: the run does not say what CPU time the server used: sluice bench needs --pid", r.Scenario, r.Config.Rate)
	}
	o := &plan.Observation{Rung: nameOf(r), Started: r.Started, Machine: machineOf(r), Version: r.Tool, Seconds: r.Seconds, CPU: r.Server.CPUSeconds,
		Timetable: r.Config.Rate > 0, Clients: r.Generator.BusyCores}
	o.Load.Cores = float64(r.Hardware.Cores)
	switch {
	case r.Void != "":
		o.Doubt = r.Void
	case len(r.Violations) > 0:
		o.Doubt = r.Violations[0]
	case r.Partial:
		o.Doubt = "interrupted"
	case r.Seconds <= 0:
		o.Doubt, o.Seconds = "nothing was measured", 1
	}
	parts := r.Parts
	if len(parts) == 0 {
		parts = []*bench.Result{r}
	}
	for _, p := range parts {
		if !slices.Contains(known, p.Scenario) || p.Events == nil {
			o.Doubt = "no model has the events of " + p.Scenario
			continue
		}
		if len(r.Parts) > 0 { // they are measured together
			whole := *p
			whole.Seconds, whole.Hardware = r.Seconds, r.Hardware
			p = &whole
		}
		addLoad(&o.Load, p)
	}
	if late := r.Generator.Late; late != nil {
		o.Late = late.P99
	}
	if m := r.Server.Metrics; m != nil {
		o.Counted = true
		o.Wakeups, o.Reads, o.Writes, o.Flushes, o.Written = m.Wakeups, m.SocketReads, m.SocketWrites, m.Groups, m.JournalBytes
		o.Received, o.Sent = m.BytesIn, m.BytesOut
	}
	return o, nil
}

// addLoad adds what the clients of a run, or of a part of one, did.
func addLoad(l *plan.Load, p *bench.Result) {
	r := &result{Result: p, seconds: p.Seconds}
	if p.Kafka != nil {
		f := kafkaFlowOf(r)
		l.Kafka = append(l.Kafka, f)
		l.KafkaConns += f.Producers + f.Consumers
		return
	}
	on := plan.TCP
	switch e := p.Events; {
	case e.TLS && e.WebSocket:
		on = plan.WSS
	case e.TLS:
		on = plan.TLS
	case e.WebSocket:
		on = plan.WS
	}
	one := plan.Load{}
	usual(on, func(f *plan.Flow) { f.Shared = p.Scenario == "shared" })(r, &one)
	l.Flows = append(l.Flows, one.Flows...)
	l.Conns[on] += one.Conns[on]
	l.Subscriptions += one.Subscriptions
	l.Sessions += one.Sessions
}

// nameOf is the rung's name: runs of one load are one rung.
func nameOf(r *bench.Result) string {
	name := r.Scenario
	if r.Name != "" {
		name = r.Name
	}
	if r.Config.Durable {
		name += " durable"
	}
	c := &r.Config
	return fmt.Sprintf("%s qos%d %d:%d %d B %.0f/s", name, c.QoS, c.Publishers, c.Subscribers, c.Payload, c.Rate)
}
