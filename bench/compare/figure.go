package compare

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/bench"
)

// Figure is one number of a result.
type Figure struct {
	Name string
	Of   func(*bench.Result) float64 // 0: the result has none
}

// Figures are what a table shows, where a result has them.
func Figures() []Figure {
	server := func(of func(*bench.Server) float64) func(*bench.Result) float64 {
		return func(r *bench.Result) float64 {
			if r.Server == nil {
				return 0
			}
			return of(r.Server)
		}
	}
	latency := func(of func(*bench.Distribution) float64) func(*bench.Result) float64 {
		return func(r *bench.Result) float64 {
			if r.Latency == nil {
				return 0
			}
			return of(r.Latency)
		}
	}
	list := []Figure{
		{"CPU µs/message", server(func(s *bench.Server) float64 { return s.CPUPerMessage })},
		{"CPU µs/delivery", server(func(s *bench.Server) float64 { return s.CPUPerDelivery })},
		{"CPU µs/connection", server(func(s *bench.Server) float64 { return s.CPUPerConnection })},
		{"bytes/connection", server(func(s *bench.Server) float64 { return s.BytesPerConnection })},
		{"received/s", func(r *bench.Result) float64 { return r.Rates.ReceivedPerSecond }},
		{"p50 µs", latency(func(d *bench.Distribution) float64 { return d.P50 })},
		{"p99 µs", latency(func(d *bench.Distribution) float64 { return d.P99 })},
		{"p99.9 µs", latency(func(d *bench.Distribution) float64 { return d.P999 })},
	}
	list = append(list, kafkaFigures()...)
	for _, step := range []string{"subscribe", "queue", "drain", "store", "fetch", "connect", "create", "read back", "reconnect"} {
		find := func(of func(*bench.Step) float64) func(*bench.Result) float64 {
			return func(r *bench.Result) float64 {
				for i := range r.Steps {
					if r.Steps[i].Name == step {
						return of(&r.Steps[i])
					}
				}
				return 0
			}
		}
		list = append(list, Figure{step + " CPU µs", find(func(s *bench.Step) float64 { return s.CPUEach })},
			Figure{step + " /s", find(func(s *bench.Step) float64 { return s.PerSecond })})
		if step == "subscribe" || step == "queue" {
			list = append(list, Figure{step + " bytes", find(func(s *bench.Step) float64 { return s.BytesEach })})
		}
	}
	return list
}

// kafkaFigures are those of runs against a Kafka broker.
func kafkaFigures() []Figure {
	of := func(of func(*bench.KafkaResult) float64) func(*bench.Result) float64 {
		return func(r *bench.Result) float64 {
			if r.Kafka == nil {
				return 0
			}
			return of(r.Kafka)
		}
	}
	ms := func(d *bench.Distribution, of func(*bench.Distribution) float64) float64 {
		if d == nil {
			return 0
		}
		return of(d) / 1e3
	}
	p50 := func(d *bench.Distribution) float64 { return d.P50 }
	return []Figure{
		{"sent MB/s", of(func(k *bench.KafkaResult) float64 { return k.SentMB })},
		{"read MB/s", of(func(k *bench.KafkaResult) float64 { return k.ReceivedMB })},
		{"CPU µs/MB", of(func(k *bench.KafkaResult) float64 { return k.CPUPerMB })},
		{"EndTxn p50 ms", of(func(k *bench.KafkaResult) float64 { return ms(k.Commits, p50) })},
		{"assigned ms", of(func(k *bench.KafkaResult) float64 {
			return ms(k.Assigned, func(d *bench.Distribution) float64 { return d.Max })
		})},
		{"resident MB", func(r *bench.Result) float64 {
			if r.Kafka == nil || r.Server == nil {
				return 0
			}
			return float64(r.Server.RSSAfter) / 1e6
		}},
	}
}

// Shows says whether a figure belongs to a row: latency only where messages go by a timetable, since without one it tells
// the length of the queue, and per delivery only where that is not the same as per message.
func (f Figure) Shows(results []*bench.Result) bool {
	for _, r := range results {
		timed := r.Config.Rate > 0
		if strings.HasSuffix(f.Name, " µs") && strings.HasPrefix(f.Name, "p") && !timed {
			return false
		}
		if f.Name == "CPU µs/delivery" && r.Scenario != "fanout" {
			return false
		}
		if f.Name == "received/s" && timed {
			return false
		}
	}
	return true
}

// Spread is the median of some values, and the lowest and highest.
type Spread struct{ Median, Low, High float64 }

// SpreadOf gives the spread of at least one value.
func SpreadOf(values []float64) Spread {
	v := slices.Clone(values)
	slices.Sort(v)
	n := len(v)
	return Spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// Number prints a figure with the digits that mean something.
func Number(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// WriteHeader writes the head of a table with a column for each name; the ratios are to the first.
func WriteHeader(w io.Writer, names []string) {
	fmt.Fprint(w, "| scenario | figure |")
	for i, name := range names {
		fmt.Fprintf(w, " %s |", name)
		if i > 0 {
			fmt.Fprint(w, " ratio |")
		}
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---|", 2*len(names)-1))
}

// WriteRow writes a line for each figure that some of the results have: those of each column, several runs of it.
func WriteRow(w io.Writer, name string, columns [][]*bench.Result) {
	for _, f := range Figures() {
		if !f.Shows(slices.Concat(columns...)) {
			continue
		}
		cells := make([]Spread, len(columns))
		any := false
		for i, list := range columns {
			var values []float64
			for _, res := range list {
				if v := f.Of(res); v != 0 {
					values = append(values, v)
				}
			}
			if len(values) > 0 {
				cells[i] = SpreadOf(values)
				any = true
			}
		}
		if any {
			writeCells(w, name, f.Name, cells)
		}
	}
}

func writeCells(w io.Writer, name, figure string, cells []Spread) {
	fmt.Fprintf(w, "| %s | %s |", name, figure)
	for i, c := range cells {
		if c == (Spread{}) {
			fmt.Fprint(w, " – |")
		} else {
			fmt.Fprintf(w, " %s (%s to %s) |", Number(c.Median), Number(c.Low), Number(c.High))
		}
		switch {
		case i == 0:
		case c.Median == 0 || cells[0].Median == 0:
			fmt.Fprint(w, " – |")
		default:
			fmt.Fprintf(w, " %.2f |", c.Median/cells[0].Median)
		}
	}
	fmt.Fprintln(w)
}
