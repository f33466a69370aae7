package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/ladder"
	"github.com/sluicemq/sluice/bench/scenarios"
)

// TestBenchListAndShow: every standard scenario is listed, and what show prints can be run.
// lackedCPU is the answer of a run on a machine that is too busy.
const lackedCPU = "the generator lacked CPU"

func TestBenchListAndShow(t *testing.T) {
	out, code := sluice(t, "", "bench", "list")
	if code != 0 || strings.Count(out, "\n") != len(scenarios.Standard()) || !strings.Contains(out, "fan-in ") {
		t.Errorf("code %d:\n%s", code, out)
	}
	text, code := sluice(t, "", "bench", "show", "point-to-point")
	if code != 0 {
		t.Fatal(text)
	}
	b := brokertest.Start(t, brokertest.Options{})
	mine, result := file(t, "mine.yaml", text), filepath.Join(t.TempDir(), "r.json")
	args := []string{"bench", "run", mine, "--url", b.URL(), "--set", "pairs=2", "--set", "rate=500", "--set", "duration=200ms", "--set", "late-max=1h", "--json", result, "--quiet"}
	if out, code := sluice(t, "", args...); code != 0 && (code != 3 || !strings.Contains(out, lackedCPU)) || !strings.Contains(out, "scenario ") {
		t.Errorf("code %d:\n%s", code, out)
	}
	var res bench.Result
	b1, err := os.ReadFile(result)
	if err != nil || json.Unmarshal(b1, &res) != nil || res.Name != "point-to-point" || res.Scenario != "pairs" || res.Config.Rate != 500 {
		t.Errorf("%v, %+v", err, res)
	}
	if res.Void != "" { // this machine was too busy to send in time: no matter for what follows
		res.Void, res.Generator.Bottleneck = "", ""
		if b1, err = json.Marshal(&res); err != nil || os.WriteFile(result, b1, 0o600) != nil {
			t.Fatal("the result is not written: ", err)
		}
	}
	if out, code := sluice(t, "", "bench", "compare", result, result); code != 0 || strings.Contains(out, "WARNING") || !strings.Contains(out, " 1.00 ") {
		t.Errorf("code %d:\n%s", code, out)
	}
	bad := file(t, "bad.yaml", strings.Replace(text, "rate: 20000", "rat: 20000", 1))
	if out, code := sluice(t, "", "bench", "run", bad); code != 2 || !strings.Contains(out, "bad.yaml:9:3: settings.rat: unknown key; the nearest known one is rate") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := sluice(t, "", "bench", "run", "fan-inn"); code != 2 || !strings.Contains(out, "the nearest is fan-in") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := sluice(t, "", "bench", "run", "tls", "--url", b.URL()); code != 2 || !strings.Contains(out, "want mqtts://") {
		t.Errorf("code %d: %s", code, out)
	}
}

func TestBenchLadder(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	result := filepath.Join(t.TempDir(), "ladder.json")
	out, code := sluice(t, "", "bench", "ladder", "point-to-point", "--url", b.URL(), "--set", "pairs=2", "--set", "duration=100ms", "--set", "warmup=20ms",
		"--set", "late-max=1h", "--from", "200", "--to", "400", "--objective", "p50 < 10s", "--repeats", "2", "--json", result, "--quiet")
	var a ladder.Answer
	text, err := os.ReadFile(result)
	if err != nil || json.Unmarshal(text, &a) != nil {
		t.Fatal(err)
	}
	switch busy := strings.Contains(out, "ended by rule generator: ") && strings.Contains(out, lackedCPU); {
	case busy && a.Rule == "generator":
	case code != 0 || !strings.Contains(out, "p50 < 10s holds at 400 messages a second") || !strings.Contains(out, "ended by rule max rate"):
		t.Errorf("code %d:\n%s", code, out)
	case a.Held != 400 || len(a.Rungs) < 2 || a.Rungs[1].Runs[1].Result.Latency == nil:
		t.Errorf("%+v", a)
	}
	if out, code := sluice(t, "", "bench", "ladder", "idle-fleet"); code != 2 || !strings.Contains(out, "no timetable") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := sluice(t, "", "bench", "ladder", "fan-in", "--objective", "fast"); code != 2 || !strings.Contains(out, "want an objective") {
		t.Errorf("code %d: %s", code, out)
	}
	wrong := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{CorruptEvery: 5}})
	out, code = sluice(t, "", "bench", "ladder", "point-to-point", "--url", wrong.URL(), "--set", "duration=100ms", "--set", "late-max=1h", "--from", "200", "--quiet")
	if code != 1 || !strings.Contains(out, "rule violation") {
		t.Errorf("code %d:\n%s", code, out)
	}
}

// TestBenchWithoutResult: what the generator lacks is exit code 3.
func TestBenchWithoutResult(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	out, code := sluice(t, "", "bench", "mqtt", "publish", "--url", b.URL(), "--rate", "15e6", "--duration", "100ms", "--warmup", "0", "--drain", "100ms", "--publishers", "2",
		"--quiet")
	if code != 3 || !strings.HasPrefix(out, "NO RESULT: ") {
		t.Errorf("code %d:\n%s", code, out)
	}
}
