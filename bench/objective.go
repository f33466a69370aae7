package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Objective is what a run must hold to: latencies below limits. That nothing is lost goes without saying.
type Objective []Bound

// Bound is one limit.
type Bound struct {
	Of    string // p50, p90, p99, p99.9, p99.99, max or mean
	Limit time.Duration
	Equal bool // the limit itself still holds
}

// boundNames are the figures that may be bounded.
var boundNames = []string{"p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"}

// ParseObjective reads `p99 < 5ms`, or several such, joined by `and`.
func ParseObjective(s string) (Objective, error) {
	var o Objective
	for part := range strings.SplitSeq(s, " and ") {
		part = strings.TrimSpace(part)
		if part == "loss = 0" {
			continue
		}
		of, limit, ok := strings.Cut(part, "<")
		if !ok {
			return nil, fmt.Errorf("want an objective such as p99 < 5ms, found %q", part)
		}
		b := Bound{Of: strings.TrimSpace(of)}
		if limit, ok = strings.CutPrefix(limit, "="); ok {
			b.Equal = true
		}
		if !slices.Contains(boundNames, b.Of) {
			return nil, fmt.Errorf("objective %q: want one of %s before <", part, strings.Join(boundNames, ", "))
		}
		var err error
		if b.Limit, err = time.ParseDuration(strings.TrimSpace(limit)); err != nil || b.Limit <= 0 {
			return nil, fmt.Errorf("objective %q: want a time such as 500us or 5ms behind <", part)
		}
		o = append(o, b)
	}
	if len(o) == 0 {
		return nil, fmt.Errorf("want an objective such as p99 < 5ms, found %q", s)
	}
	return o, nil
}

// String gives the form that ParseObjective reads.
func (o Objective) String() string {
	parts := make([]string, len(o))
	for i, b := range o {
		parts[i] = b.String()
	}
	return strings.Join(parts, " and ")
}

// String gives `p99 < 5ms`.
func (b Bound) String() string {
	sign := "<"
	if b.Equal {
		sign = "<="
	}
	return fmt.Sprintf("%s %s %v", b.Of, sign, b.Limit)
}

// Value gives the figure that b bounds, in microseconds.
func (b Bound) Value(d *Distribution) float64 {
	switch b.Of {
	case "p50":
		return d.P50
	case "p90":
		return d.P90
	case "p99":
		return d.P99
	case "p99.9":
		return d.P999
	case "p99.99":
		return d.P9999
	case "max":
		return d.Max
	}
	return d.Mean
}

// Holds tells whether a distribution is within b.
func (b Bound) Holds(d *Distribution) bool {
	v, limit := b.Value(d), float64(b.Limit)/1e3
	return v < limit || b.Equal && v == limit
}

// Response is what an objective looks at: the latency of deliveries, or where there are none, of acknowledgements; nil if the run has
// neither.
func (s *Result) Response() *Distribution {
	switch {
	case s.Latency != nil:
		return s.Latency
	case s.Kafka != nil:
		return s.Kafka.Acknowledged
	}
	return s.Acks
}

// Missed lists what of the objective a result does not hold to, a mixed one in each of its parts.
func (o Objective) Missed(s *Result) []string {
	var missed []string
	if len(s.Parts) > 0 {
		for _, p := range s.Parts {
			for _, m := range o.Missed(p) {
				missed = append(missed, p.Name+": "+m)
			}
		}
		return missed
	}
	d := s.Response()
	if d == nil {
		return nil
	}
	for _, b := range o {
		if !b.Holds(d) {
			missed = append(missed, fmt.Sprintf("%s is %s, not %s", b.Of, microseconds(b.Value(d)), b))
		}
	}
	return missed
}

// microseconds prints a time in the unit that fits.
func microseconds(us float64) string {
	d := time.Duration(us * 1e3)
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(100 * time.Nanosecond).String()
}
