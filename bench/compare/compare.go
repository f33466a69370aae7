package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/ladder"
)

// fileBytesMax bounds a file of results.
const fileBytesMax = 256 << 20

// Side is one side of a comparison: results of one kind, of one or several runs.
type Side struct {
	Name    string // of its files
	Results []*bench.Result
	Ladders []*ladder.Answer
}

// Read reads files that sluice bench wrote with --json.
func Read(files []string) (*Side, error) {
	s := &Side{Name: strings.Join(files, ", ")}
	for _, name := range files {
		if err := s.read(name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

func (s *Side) read(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return err
	}
	if len(b) > fileBytesMax {
		return fmt.Errorf("is larger than %d bytes", fileBytesMax)
	}
	var kind struct {
		Ladder   *string `json:"ladder"`
		Scenario *string `json:"scenario"`
	}
	if err := json.Unmarshal(b, &kind); err != nil {
		return fmt.Errorf("is no result: %w", err)
	}
	switch {
	case kind.Ladder != nil:
		a := &ladder.Answer{}
		s.Ladders = append(s.Ladders, a)
		return json.Unmarshal(b, a)
	case kind.Scenario != nil:
		r := &bench.Result{}
		s.Results = append(s.Results, r)
		return json.Unmarshal(b, r)
	}
	return errors.New("is no result of sluice bench")
}

// all gives every result of a side, those of ladders included.
func (s *Side) all() []*bench.Result {
	list := slices.Clone(s.Results)
	for _, a := range s.Ladders {
		for _, rung := range a.Rungs {
			for _, run := range rung.Runs {
				if run.Result != nil && run.Verdict != ladder.Void {
					list = append(list, run.Result)
				}
			}
		}
	}
	return list
}

// Warnings says why two sides should not be compared, or only with care.
func Warnings(a, b *Side) []string {
	var out []string
	warn := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, s := range []*Side{a, b} {
		for _, r := range s.Results {
			switch {
			case r.Void != "":
				warn("%s has no result: %s", s.Name, r.Void)
			case len(r.Violations) > 0:
				warn("%s: the broker failed: %s", s.Name, r.Violations[0])
			case r.Partial:
				warn("%s was interrupted", s.Name)
			case r.Generator.Bottleneck != "":
				warn("%s: %s", s.Name, r.Generator.Bottleneck)
			}
		}
		for _, l := range s.Ladders {
			if l.Partial {
				warn("%s was not climbed to its end (%s)", s.Name, l.Rule)
			}
		}
	}
	if (len(a.Ladders) > 0) != (len(b.Ladders) > 0) {
		warn("one is a ladder and the other a single run")
		return out
	}
	left, right := a.all(), b.all()
	if len(left) == 0 || len(right) == 0 {
		return out
	}
	for _, r := range slices.Concat(left[1:], right) {
		differ(warn, left[0], r, len(a.Ladders) > 0)
	}
	for i := range a.Ladders {
		for j := range b.Ladders {
			if x, y := a.Ladders[i].Objective, b.Ladders[j].Objective; x != y {
				warn("the objectives differ: %s, %s", x, y)
			}
		}
	}
	return out
}

// differ warns of what keeps two results from being compared. ladder: the rates differ as they should.
func differ(warn func(string, ...any), a, b *bench.Result, ladder bool) {
	if a.Scenario != b.Scenario || a.Name != b.Name {
		warn("the scenarios differ: %s, %s", label(a), label(b))
	}
	if a.Tool != b.Tool {
		warn("the generator's versions differ: %s, %s", a.Tool, b.Tool)
	}
	x, y := a.Hardware, b.Hardware
	x.LoadAverage, y.LoadAverage = 0, 0
	fields(x, y, func(name string, p, q any) { warn("the machines differ in %s: %v, %v", name, p, q) })
	fields(a.Config, b.Config, func(name string, p, q any) {
		if !ladder || name != "rate" {
			warn("the settings differ in %s: %v, %v", name, p, q)
		}
	})
	if k, l := a.Kafka, b.Kafka; k != nil && l != nil {
		for name, pair := range map[string][2]any{
			"topics": {k.Topics, l.Topics}, "partitions": {k.Partitions, l.Partitions}, "keys": {k.Keys, l.Keys},
			"batch_bytes": {k.BatchBytes, l.BatchBytes}, "linger_ms": {k.LingerMS, l.LingerMS}, "acks": {k.Acks, l.Acks},
			"compression": {k.Compression, l.Compression}, "idempotent": {k.Idempotent, l.Idempotent},
		} {
			if pair[0] != pair[1] {
				warn("the settings differ in %s: %v, %v", name, pair[0], pair[1])
			}
		}
	}
	if (a.Server == nil) != (b.Server == nil) {
		warn("the server's processes were looked at in one of them alone")
	}
	if len(a.Parts) != len(b.Parts) {
		warn("the parts differ: %d, %d", len(a.Parts), len(b.Parts))
		return
	}
	for i := range a.Parts {
		differ(warn, a.Parts[i], b.Parts[i], ladder)
	}
}

func label(r *bench.Result) string {
	if r.Name != "" && r.Name != r.Scenario {
		return r.Name + " (" + r.Scenario + ")"
	}
	return r.Scenario
}

// fields calls f for each field in which two structs differ, by its name in JSON.
func fields[T any](a, b T, f func(name string, a, b any)) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		p, q := x.Field(i).Interface(), y.Field(i).Interface()
		if !reflect.DeepEqual(p, q) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			f(name, p, q)
		}
	}
}

// Write prints two sides with their ratios.
func Write(w io.Writer, a, b *Side) error {
	var out strings.Builder
	for _, text := range Warnings(a, b) {
		fmt.Fprintf(&out, "WARNING: %s\n", text)
	}
	if out.Len() > 0 {
		out.WriteString("\n")
	}
	fmt.Fprintf(&out, "Median of %d and %d runs (lowest to highest); the ratio is to the first.\n\n", runs(a), runs(b))
	WriteHeader(&out, []string{a.Name, b.Name})
	if len(a.Results) > 0 || len(b.Results) > 0 {
		WriteRow(&out, name(a, b), [][]*bench.Result{a.Results, b.Results})
		writeParts(&out, a, b)
	}
	if len(a.Ladders) > 0 && len(b.Ladders) > 0 {
		writeLadders(&out, a, b)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func runs(s *Side) int { return len(s.Results) + len(s.Ladders) }

func name(a, b *Side) string {
	for _, s := range []*Side{a, b} {
		if len(s.Results) > 0 {
			return label(s.Results[0])
		}
	}
	return ""
}

// writeParts writes rows of the parts of mixed results that both sides have.
func writeParts(w io.Writer, a, b *Side) {
	if len(a.Results) == 0 || len(b.Results) == 0 {
		return
	}
	for i, p := range a.Results[0].Parts {
		columns := make([][]*bench.Result, 2)
		for c, s := range []*Side{a, b} {
			for _, r := range s.Results {
				if i < len(r.Parts) && r.Parts[i].Name == p.Name {
					columns[c] = append(columns[c], r.Parts[i])
				}
			}
		}
		WriteRow(w, p.Name, columns)
	}
}

// writeLadders writes the rates that held, and those that were missed.
func writeLadders(w io.Writer, a, b *Side) {
	rates := func(s *Side, of func(*ladder.Answer) float64) Spread {
		var values []float64
		for _, l := range s.Ladders {
			if v := of(l); v > 0 {
				values = append(values, v)
			}
		}
		if len(values) == 0 {
			return Spread{}
		}
		return SpreadOf(values)
	}
	row := func(figure string, of func(*ladder.Answer) float64) {
		writeCells(w, a.Ladders[0].Ladder, figure, []Spread{rates(a, of), rates(b, of)})
	}
	row("rate that holds", func(l *ladder.Answer) float64 { return l.Held })
	row("rate that is missed", func(l *ladder.Answer) float64 { return l.Missed })
	x, y := a.Ladders[0], b.Ladders[0]
	if x.Missed > 0 && y.Missed > 0 && x.Held < y.Missed && y.Held < x.Missed {
		fmt.Fprint(w, "\nThe intervals overlap: no difference is shown.\n")
	}
}
