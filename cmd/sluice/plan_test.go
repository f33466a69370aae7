package main

import (
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/bench/plan"
)

const exampleFleet = "../../examples/fleet-100k.yaml"

func TestPlan(t *testing.T) {
	unknown := file(t, "f.yaml", "node: {cores: 2, memory: 1GiB}\nheadrom: 10%\n")
	for _, tt := range []struct {
		args []string
		want int
		says string
	}{
		{[]string{"plan"}, 0, "Usage"},
		{[]string{"plan", "fleets"}, 2, "unknown command"},
		{[]string{"plan", "--fleet", exampleFleet}, 0, "90 % interval"},
		{[]string{"plan", "--fleet", exampleFleet}, 0, "of another machine than yours"},
		{[]string{"plan", "--fleet", "absent.yaml"}, 1, "absent.yaml"},
		{[]string{"plan", "--fleet", unknown}, 1, "f.yaml:2:1: headrom: unknown key; the nearest known one is headroom"},
		{[]string{"plan", "--fleet", exampleFleet, "--output", "xml"}, 2, "none of table, json, yaml"},
		{[]string{"plan", "--fleet", exampleFleet, "--model", unknown}, 1, "is no model"},
		{[]string{"plan", "--fleet", exampleFleet, "--model", "absent.json"}, 1, "absent.json"},
		{[]string{"plan", "fit"}, 2, "no file of results"},
		{[]string{"plan", "fit", "absent.jsonl"}, 1, "absent.jsonl"},
		{[]string{"plan", "fit", unknown}, 1, "f.yaml:1"},
		{[]string{"plan", "measure"}, 2, "want --pid"},
		{[]string{"plan", "measure", "--pid", "1", "--start", "x"}, 2, "want --pid"},
		{[]string{"plan", "measure", "--start", "x"}, 2, "--metrics"},
		{[]string{"plan", "measure", "--pid", "1", "--kind", "disk"}, 2, "none of cpu, memory"},
		{[]string{"plan", "measure", "--list"}, 0, "memory of 5000 connections by tls"},
	} {
		out, code := sluice(t, "", tt.args...)
		if code != tt.want || !strings.Contains(out, tt.says) {
			t.Errorf("sluice %s: code %d, want %d and %q:\n%s", strings.Join(tt.args, " "), code, tt.want, tt.says, out)
		}
	}
}

// The three forms of an answer say the same.
func TestPlanOutput(t *testing.T) {
	asJSON, _ := sluice(t, "", "plan", "--fleet", exampleFleet, "--output", "json")
	asYAML, _ := sluice(t, "", "plan", "--fleet", exampleFleet, "--output", "yaml")
	var a plan.Answer
	if err := json.Unmarshal([]byte(asJSON), &a); err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := yaml.Unmarshal([]byte(asYAML), &m); err != nil {
		t.Fatal(err)
	}
	if a.Nodes < 1 || a.Low > a.Nodes || a.High < a.Nodes || len(a.Resources) < 5 || len(a.Warnings) == 0 || m["nodes"] != a.Nodes || m["binds"] != a.Binds {
		t.Errorf("%s\n%s", asJSON, asYAML)
	}
	d, err := plan.Default()
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	model := file(t, "m.json", string(b))
	if out, code := sluice(t, "", "plan", "--fleet", exampleFleet, "--model", model); code != 0 || strings.Contains(out, "of another machine") || !strings.Contains(out, "m.json") {
		t.Errorf("with a model of one's own: code %d\n%s", code, out)
	}
}
