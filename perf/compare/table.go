package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/bench"
)

// figure is one number of a result.
type figure struct {
	name string
	of   func(*bench.Result) float64 // 0: the result has none
}

// figures are what a table shows, where a scenario has them.
func figures() []figure {
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
	list := []figure{
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
	for _, step := range []string{"subscribe", "queue", "drain", "store", "fetch", "connect", "create", "read back"} {
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
		list = append(list, figure{step + " CPU µs", find(func(s *bench.Step) float64 { return s.CPUEach })},
			figure{step + " /s", find(func(s *bench.Step) float64 { return s.PerSecond })})
		if step == "subscribe" || step == "queue" {
			list = append(list, figure{step + " bytes", find(func(s *bench.Step) float64 { return s.BytesEach })})
		}
	}
	return list
}

// kafkaFigures are those of runs against a Kafka broker.
func kafkaFigures() []figure {
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
	return []figure{
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

// shows says whether a figure belongs to a row: latency only where messages go by a timetable, since without one it tells
// the length of the queue, and per delivery only where that is not the same as per message.
func shows(f figure, results []*bench.Result) bool {
	for _, r := range results {
		timed := r.Config.Rate > 0
		if strings.HasSuffix(f.name, " µs") && strings.HasPrefix(f.name, "p") && !timed {
			return false
		}
		if f.name == "CPU µs/delivery" && r.Scenario != "fanout" {
			return false
		}
		if f.name == "received/s" && timed {
			return false
		}
	}
	return true
}

// spread is the median of some values, and the lowest and highest.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	v := slices.Clone(values)
	slices.Sort(v)
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func number(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func printHeader(w io.Writer, sources []*source, rounds int) {
	fmt.Fprintf(w, "Median of %d interleaved rounds (lowest to highest); a ratio is to %s in the same round.\n\n", rounds, sources[0].name)
	fmt.Fprint(w, "| scenario | figure |")
	for i, s := range sources {
		fmt.Fprintf(w, " %s |", s.name)
		if i > 0 {
			fmt.Fprint(w, " ratio |")
		}
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---|", 2*len(sources)-1))
}

// printRow prints a line for each figure that the row has. results are those of each round, in the order of the sources.
func printRow(w io.Writer, r row, results [][]*bench.Result, sources int) {
	all := slices.DeleteFunc(slices.Concat(results...), func(r *bench.Result) bool { return r == nil })
	for _, f := range figures() {
		if !shows(f, all) {
			continue
		}
		values, ratios := make([][]float64, sources), make([][]float64, sources)
		any := false
		for _, round := range results {
			first := 0.0
			for i, res := range round {
				if res == nil {
					continue
				}
				v := f.of(res)
				if v == 0 {
					continue
				}
				any = true
				values[i] = append(values[i], v)
				if i == 0 {
					first = v
				} else if first != 0 {
					ratios[i] = append(ratios[i], v/first)
				}
			}
		}
		if !any {
			continue
		}
		fmt.Fprintf(w, "| %s | %s |", r.name, f.name)
		for i := range sources {
			fmt.Fprint(w, cell(values[i]))
			if i > 0 {
				fmt.Fprint(w, cell(ratios[i]))
			}
		}
		fmt.Fprintln(w)
	}
}

// cell is the median and the spread.
func cell(values []float64) string {
	if len(values) == 0 {
		return " – |"
	}
	s := spreadOf(values)
	return fmt.Sprintf(" %s (%s to %s) |", number(s.median), number(s.low), number(s.high))
}
