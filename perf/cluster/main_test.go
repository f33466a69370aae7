package main

import (
	"strings"
	"testing"
)

// A row that there is not is refused before anything is started.
func TestUnknownRow(t *testing.T) {
	o := &options{rows: []string{"produce", "speed"}, sluice: "/nowhere/sluice"}
	if err := o.run(); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("%v", err)
	}
	o.rows = o.rows[:1]
	if err := o.run(); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("%v", err)
	}
}

// Ratios are those of runs that were made in turn, not of medians.
func TestRatio(t *testing.T) {
	tb := newTable("test")
	for _, v := range [][2]float64{{1, 3}, {10, 20}, {2, 8}} {
		tb.add("one", figures{cpu: v[0]})
		tb.add("three", figures{cpu: v[1]})
	}
	of := func(f figures) float64 { return f.cpu }
	if got := tb.ratio(of); got != 3 {
		t.Errorf("ratio %v, want 3", got)
	}
	if mid, least, most := tb.middle("one", of); mid != 2 || least != 1 || most != 10 {
		t.Errorf("%v, %v to %v", mid, least, most)
	}
}
