package compare_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/compare"
	"github.com/sluicemq/sluice/bench/ladder"
)

func save(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "result.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func result(cpu float64) *bench.Result {
	return &bench.Result{
		Name: "fan-in", Scenario: "fanin", OK: true, Tool: "1", Violations: []string{}, Hardware: bench.Hardware{CPU: "x", Cores: 2, Kernel: "L"},
		Config: bench.Settings{Rate: 1000, Payload: 64}, Server: &bench.Server{CPUPerMessage: cpu}, Latency: &bench.Distribution{P50: 10 * cpu, P99: 100},
	}
}

func side(t *testing.T, files ...string) *compare.Side {
	t.Helper()
	s, err := compare.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRatios(t *testing.T) {
	a, b := side(t, save(t, result(2)), save(t, result(4)), save(t, result(3))), side(t, save(t, result(6)))
	if w := compare.Warnings(a, b); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
	var out strings.Builder
	if err := compare.Write(&out, a, b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Median of 3 and 1 runs", "| fan-in (fanin) | CPU µs/message | 3.00 (2.00 to 4.00) | 6.00 (6.00 to 6.00) | 2.00 |",
		"| fan-in (fanin) | p50 µs | 30.00 (20.00 to 40.00) | 60.00 (60.00 to 60.00) | 2.00 |",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, out.String())
		}
	}
}

func TestWarnings(t *testing.T) {
	for want, change := range map[string]func(r *bench.Result){
		"the scenarios differ: fan-in (fanin), fan-out (fanout)": func(r *bench.Result) { r.Name, r.Scenario = "fan-out", "fanout" },
		"the generator's versions differ: 1, 2":                  func(r *bench.Result) { r.Tool = "2" },
		"the machines differ in cores: 2, 64":                    func(r *bench.Result) { r.Hardware.Cores = 64 },
		"the machines differ in kernel: L, M":                    func(r *bench.Result) { r.Hardware.Kernel = "M" },
		"the settings differ in qos: 0, 1":                       func(r *bench.Result) { r.Config.QoS = 1 },
		"the settings differ in rate: 1000, 2000":                func(r *bench.Result) { r.Config.Rate = 2000 },
		"the server's processes were looked at in one":           func(r *bench.Result) { r.Server = nil },
		"has no result: late":                                    func(r *bench.Result) { r.Void = "late" },
		"the broker failed: LOST: 1":                             func(r *bench.Result) { r.Violations = []string{"LOST: 1"} },
		"was interrupted":                                        func(r *bench.Result) { r.Partial = true },
		"busy":                                                   func(r *bench.Result) { r.Generator.Bottleneck = "busy" },
		"the parts differ: 0, 1":                                 func(r *bench.Result) { r.Parts = []*bench.Result{result(1)} },
	} {
		other := result(2)
		change(other)
		w := compare.Warnings(side(t, save(t, result(2))), side(t, save(t, other)))
		if len(w) != 1 || !strings.Contains(w[0], want) {
			t.Errorf("want %q, got %q", want, w)
		}
	}
}

func TestLadders(t *testing.T) {
	answer := func(held, missed float64) *ladder.Answer {
		return &ladder.Answer{Ladder: "fan-in", Objective: "p99 < 5ms", Held: held, Missed: missed, Rule: ladder.RuleObjective}
	}
	a, b := side(t, save(t, answer(1000, 1050))), side(t, save(t, answer(2000, 2100)))
	var out strings.Builder
	if err := compare.Write(&out, a, b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "| fan-in | rate that holds | 1000 (1000 to 1000) | 2000 (2000 to 2000) | 2.00 |") || strings.Contains(out.String(), "overlap") {
		t.Error(out.String())
	}
	out.Reset()
	if err := compare.Write(&out, a, side(t, save(t, answer(1020, 1100)))); err != nil || !strings.Contains(out.String(), "The intervals overlap") {
		t.Error(err, out.String())
	}
	if w := compare.Warnings(a, side(t, save(t, result(1)))); len(w) != 1 || !strings.Contains(w[0], "one is a ladder") {
		t.Errorf("%q", w)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, v := range []any{map[string]int{"x": 1}, []int{1}, "text"} {
		if _, err := compare.Read([]string{save(t, v)}); err == nil {
			t.Errorf("%v is read", v)
		}
	}
	if _, err := compare.Read([]string{"absent.json"}); err == nil {
		t.Error("an absent file is read")
	}
}
