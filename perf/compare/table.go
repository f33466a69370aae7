package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/compare"
)

func printHeader(w io.Writer, sources []*source, rounds int) {
	fmt.Fprintf(w, "Median of %d interleaved rounds (lowest to highest); a ratio is to %s in the same round.\n\n", rounds, sources[0].name)
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = s.name
	}
	compare.WriteHeader(w, names)
}

// printRow prints a line for each figure that the row has. results are those of each round, in the order of the sources.
func printRow(w io.Writer, r row, results [][]*bench.Result, sources int) {
	all := slices.DeleteFunc(slices.Concat(results...), func(r *bench.Result) bool { return r == nil })
	for _, f := range compare.Figures() {
		if !f.Shows(all) {
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
				v := f.Of(res)
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
		fmt.Fprintf(w, "| %s | %s |", r.name, f.Name)
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
	s := compare.SpreadOf(values)
	return fmt.Sprintf(" %s (%s to %s) |", compare.Number(s.Median), compare.Number(s.Low), compare.Number(s.High))
}
