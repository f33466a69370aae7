package main

import (
	"slices"
	"strings"
	"testing"
)

func TestUnknownProfile(t *testing.T) {
	if err := run(&options{kind: "time", out: t.TempDir(), rate: 512}); err == nil || !strings.Contains(err.Error(), "allocs, block") {
		t.Errorf("%v", err)
	}
}

func TestBenchArgs(t *testing.T) {
	for scenario, want := range map[string]string{
		"pairs --qos 1":      "bench mqtt pairs --qos 1",
		"produce":            "bench kafka produce",
		"kafka e2e --rate 1": "bench kafka e2e --rate 1",
		"finance-feed":       "bench run finance-feed",
		"run ./own.yaml":     "bench run ./own.yaml",
	} {
		if got, err := benchArgs(scenario); err != nil || !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, %v", scenario, got, err)
		}
	}
	for _, bad := range []string{"", "mqtt", "run"} {
		if got, err := benchArgs(bad); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

func TestLoadIsMissing(t *testing.T) {
	err := run(&options{kind: "cpu", out: t.TempDir(), scenario: "pairs", sluice: "/nowhere/sluice"})
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("%v", err)
	}
}
