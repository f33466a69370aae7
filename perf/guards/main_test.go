package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

// A row that there is not is refused before anything is started.
func TestUnknownRow(t *testing.T) {
	o := &options{sluice: "/nowhere/sluice"}
	if err := o.run([]string{"rules", "speed"}); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("%v", err)
	}
	if err := o.run([]string{"rules"}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("%v", err)
	}
}

// What is paced is run as often as it is meant to be, and what one run finds wrong is told.
func TestPaced(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if n, err := paced(ctx, 1000, 4, func(int) error { return nil }); err != nil || n < 1 || n > 310 {
		t.Errorf("%d runs, %v", n, err)
	}
	if _, err := paced(t.Context(), 1e6, 1, func(int) error { return context.Canceled }); err == nil {
		t.Error("an error is not told")
	}
}

// Ratios are shown by their median.
func TestRatios(t *testing.T) {
	if got := (ratios{3, 1, 2}).String(); got != "2.00 (1.00 to 3.00)" {
		t.Error(got)
	}
}
