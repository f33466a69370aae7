package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/bench"
)

// Item is one thing that a report is about: a result, or a ladder.
type Item struct {
	Name   string // what it is called in the report
	Result *bench.Result
	Ladder *Ladder
}

// Ladder is what a report shows of a ladder's file: see package ladder, which writes it.
type Ladder struct {
	Name      string  `json:"ladder"`
	Objective string  `json:"objective"`
	Seconds   float64 `json:"seconds"`
	Partial   bool    `json:"partial"`
	Rule      string  `json:"rule"`
	Reason    string  `json:"reason"`
	Held      float64 `json:"held"`
	Missed    float64 `json:"missed"`
	Voided    float64 `json:"void"`
	Rungs     []struct {
		Rate    float64  `json:"rate"`
		Verdict string   `json:"verdict"`
		Reasons []string `json:"reasons"`
		Bounds  []struct {
			Of     string  `json:"of"`
			Low    float64 `json:"low"`
			Median float64 `json:"median"`
			High   float64 `json:"high"`
		} `json:"bounds"`
		Runs []struct {
			Verdict string        `json:"verdict"`
			Result  *bench.Result `json:"result"`
			Error   string        `json:"error"`
		} `json:"runs"`
	} `json:"rungs"`
}

// fileBytesMax bounds a file that is read.
const fileBytesMax = 256 << 20

// Read reads what --json of sluice bench has written: a result, or a ladder.
func Read(file string) (Item, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Item{}, err
	}
	if info.Size() > fileBytesMax {
		return Item{}, fmt.Errorf("%s: %d bytes are over %d", file, info.Size(), fileBytesMax)
	}
	b, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return Item{}, err
	}
	it, err := parse(b)
	if err != nil {
		return it, fmt.Errorf("%s: %w", file, err)
	}
	it.Name = strings.TrimSuffix(filepath.Base(file), ".json")
	return it, nil
}

// Of gives the item of a result or a ladder's answer.
func Of(name string, v any) (Item, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Item{}, err
	}
	it, err := parse(b)
	it.Name = name
	return it, err
}

func parse(b []byte) (Item, error) {
	var probe struct {
		Rungs    []json.RawMessage `json:"rungs"`
		Scenario *string           `json:"scenario"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return Item{}, fmt.Errorf("this is no result: %w", err)
	}
	switch {
	case probe.Rungs != nil:
		it := Item{Ladder: &Ladder{}}
		return it, json.Unmarshal(b, it.Ladder)
	case probe.Scenario != nil:
		it := Item{Result: &bench.Result{}}
		return it, json.Unmarshal(b, it.Result)
	}
	return Item{}, errors.New("this is neither the result of a run nor that of a ladder")
}

// results gives the results of the item: its own, or those of a ladder's runs.
func (it *Item) results() []*bench.Result {
	if it.Result != nil {
		return []*bench.Result{it.Result}
	}
	var out []*bench.Result
	for _, rung := range it.Ladder.Rungs {
		for _, run := range rung.Runs {
			if run.Result != nil {
				out = append(out, run.Result)
			}
		}
	}
	return out
}

// first gives one result that says on what and with what the item was measured; nil: none does.
func (it *Item) first() *bench.Result {
	if all := it.results(); len(all) > 0 {
		return all[0]
	}
	return nil
}

// Warnings says in what the items differ beside what they are to be compared in: results of different machines, generators,
// scenarios or settings do not say which broker is better.
func Warnings(items []Item) []string {
	var out []string
	for _, c := range []struct {
		what string
		of   func(*bench.Result) string
	}{
		{"machines", func(r *bench.Result) string {
			return fmt.Sprintf("%s, %d cores, %d MB", r.Hardware.CPU, r.Hardware.Cores, r.Hardware.MemoryBytes>>20)
		}},
		{"kernels", func(r *bench.Result) string { return r.Hardware.Kernel }},
		{"versions of the generator", func(r *bench.Result) string { return r.Tool }},
		{"scenarios", func(r *bench.Result) string { return strings.TrimSpace(r.Name + " " + r.Scenario) }},
		{"settings", settings},
	} {
		var seen []string
		for i := range items {
			if r := items[i].first(); r != nil && !slices.Contains(seen, c.of(r)) {
				seen = append(seen, c.of(r))
			}
		}
		if len(seen) > 1 {
			out = append(out, fmt.Sprintf("different %s: %s", c.what, strings.Join(seen, " · ")))
		}
	}
	return out
}

// settings are those that make two results of one scenario alike. Rate is not among them: ladders and sweeps vary it.
func settings(r *bench.Result) string {
	if len(r.Parts) > 0 {
		var all []string
		for _, p := range r.Parts {
			all = append(all, p.Name+": "+settings(p))
		}
		return strings.Join(all, "; ")
	}
	c := &r.Config
	if c.Publishers+c.Subscribers == 0 && c.Connections > 0 {
		return fmt.Sprintf("%d connections", c.Connections)
	}
	s := fmt.Sprintf("%d publishers, %d subscribers, %d bytes, QoS %d, %d in flight", c.Publishers, c.Subscribers, c.Payload, c.QoS, c.Inflight)
	if c.Durable {
		s += ", durable"
	}
	if k := r.Kafka; k != nil {
		s += fmt.Sprintf(", %d partitions, batches of %d, acks %d, %s", k.Partitions*k.Topics, k.BatchBytes, k.Acks, k.Compression)
	}
	return s
}
