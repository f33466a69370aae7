package scenarios_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/scenarios"
)

// TestStandardFiles: each is sound, is named as its file, says what it is about, and can be climbed if it has a ladder.
func TestStandardFiles(t *testing.T) {
	list := scenarios.Standard()
	if len(list) < 25 {
		t.Fatalf("%d standard files: %v", len(list), list)
	}
	for _, name := range list {
		f, err := scenarios.Open(name, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f.Name != name || len(f.About) < 10 {
			t.Errorf("%s: name %q, about %q", name, f.Name, f.About)
		}
		if strings.Contains(string(f.Text), "ladder:") {
			if err := f.Climbable(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestEveryLoadHasAFile: no kind of load is without one.
func TestEveryLoadHasAFile(t *testing.T) {
	have := map[string]bool{}
	for _, name := range scenarios.Standard() {
		f, err := scenarios.Open(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Parts {
			have[p.Protocol+" "+p.Kind] = true
		}
	}
	for _, kind := range bench.Scenarios() {
		if !have["mqtt "+kind] && kind != "publish" {
			t.Errorf("no file has the load mqtt %s", kind)
		}
	}
	for _, kind := range bench.KafkaScenarios() {
		if !have["kafka "+kind] {
			t.Errorf("no file has the load kafka %s", kind)
		}
	}
}

const pairs = `
name: mine
protocol: mqtt
load: pairs
settings:
  pairs: 4
  qos: 1
  rate: 2_000
  duration: 500ms
`

const mixed = `
name: fleet
protocol: mixed
settings: {duration: 2s, threads: 2, producers: 3}
parts:
  - {name: idle, protocol: mqtt, load: idle, settings: {connections: 10}}
  - {name: tele, protocol: mqtt, load: fanin, transport: ws, settings: {rate: 100, threads: 1}}
  - {name: log, protocol: kafka, load: e2e, settings: {rate: 50}}
`

func TestParse(t *testing.T) {
	f, err := scenarios.Parse("mine.yaml", []byte(pairs), []string{"qos=2", "ladder.objective=p50 < 1ms and max <= 1s"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := f.Parts[0].Config(&scenarios.Target{URLs: map[string]string{"mqtt": "10.0.0.1"}, PIDs: []int{7}}, "")
	if err != nil || cfg.Publishers != 4 || cfg.QoS != 2 || cfg.Rate != 2000 || cfg.Duration != 500*time.Millisecond || cfg.URL != "10.0.0.1" || len(cfg.PIDs) != 1 {
		t.Errorf("%v, %+v", err, cfg)
	}
	if f.Ladder.Objective != "p50 < 1ms and max <= 1s" || f.Parts[0].Rate() != 2000 {
		t.Errorf("%+v", f.Ladder)
	}
}

func TestParts(t *testing.T) {
	f, err := scenarios.Parse("fleet.yaml", []byte(mixed), []string{"log.rate=70", "duration=3s"})
	if err != nil {
		t.Fatal(err)
	}
	to := &scenarios.Target{URLs: map[string]string{"tele": "ws://h:1", "mqtt": "h:2"}}
	idle, err1 := f.Parts[0].Config(to, "idle")
	tele, err2 := f.Parts[1].Config(to, "tele")
	log, err3 := f.Parts[2].KafkaConfig(to, "log")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if idle.URL != "h:2" || idle.Threads != 2 || tele.URL != "ws://h:1" || tele.Threads != 1 || log.URL != "kafka://127.0.0.1" ||
		log.Rate != 70 || log.Publishers != 3 || log.Duration != 3*time.Second || idle.Duration != 3*time.Second {
		t.Errorf("%+v\n%+v\n%+v", idle, tele, log)
	}
	to.URLs["tele"] = "mqtt://h"
	if _, err := f.Parts[1].Config(to, "tele"); err == nil || !strings.Contains(err.Error(), "want ws://") {
		t.Errorf("an address of another transport: %v", err)
	}
}

// TestFaults: what is wrong is said with its line and column, and with what was meant.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "x.yaml:1:1: is empty",
		"- a\n":                                 "x.yaml:1:1: want keys and values, found a list",
		"a: b: c":                               "x.yaml:1:1: not YAML",
		"name: x\nprotocol: mqtt\nlod: pairs\n": "x.yaml:3:1: lod: unknown key; the nearest known one is load",
		"protocol: mtqq\n":                      `x.yaml:1:11: protocol: want mqtt, kafka or mixed, found "mtqq"`,
		"load: pairs\n":                         "x.yaml:1:1: protocol: want mqtt",
		"protocol: mqtt\nload: pair\n":          `x.yaml:2:7: load: mqtt has no load "pair"`,
		"protocol: mqtt\n":                      `x.yaml:1:1: load: mqtt has no load ""`,
		"protocol: mqtt\nload: pairs\nsettings:\n  rat: 5\n":                      "x.yaml:4:3: settings.rat: unknown key; the nearest known one is rate",
		"protocol: mqtt\nload: pairs\nsettings:\n  rate: 1e9\n":                   `x.yaml:4:9: settings.rate: want at most 2e+07, found "1e9"`,
		"protocol: mqtt\nload: pairs\nsettings: {rate: -1}\n":                     "x.yaml:3:18: settings.rate: want at least 0",
		"protocol: mqtt\nload: pairs\nsettings: {rate: fast}\n":                   `settings.rate: want a number, found "fast"`,
		"protocol: mqtt\nload: pairs\nsettings: {rate: .nan}\n":                   `settings.rate: want a number`,
		"protocol: mqtt\nload: pairs\nsettings: {qos: 3}\n":                       "settings.qos: want at most 2",
		"protocol: mqtt\nload: pairs\nsettings: {payload: 10}\n":                  "settings.payload: want at least 28",
		"protocol: mqtt\nload: pairs\nsettings: {duration: 5}\n":                  "settings.duration: want a duration such as",
		"protocol: mqtt\nload: pairs\nsettings: {rate: 1, rate: 2}\n":             "x.yaml:3:21: settings.rate: is set twice, first in line 3",
		"protocol: mqtt\nload: pairs\nsettings: {rate: [1]}\n":                    "settings.rate: want a value, found a list",
		"protocol: mqtt\nload: pairs\nsettings: [rate]\n":                         "settings: want keys below it, found a list",
		"protocol: mqtt\nload: queue\nsettings: {qos: 0}\n":                       "x.yaml:2:7: queue needs QoS 1 or 2",
		"protocol: mqtt\nload: pairs\nsettings: {rate: 5, inflight: 3, qos: 1}\n": "x.yaml:2:7: rate is a timetable",
		"protocol: mqtt\nload: pairs\ntransport: udp\n":                           "x.yaml:3:12: transport: want tcp, tls",
		"protocol: kafka\nload: e2e\ntransport: ws\n":                             "x.yaml:3:12: transport: want tcp, tls",
		"protocol: kafka\nload: produce\nsettings: {acks: 2}\n":                   `settings.acks: want all, 0 or 1, found "2"`,
		"protocol: kafka\nload: produce\nsettings: {compression: zip}\n":          "settings.compression: want none, gzip, snappy, lz4 or zstd",
		"protocol: kafka\nload: bound\n":                                          "x.yaml:2:7: bound needs topic",
		"protocol: mqtt\nload: pairs\nname: Über\n":                               "x.yaml:3:7: name: want lower-case letters",
		"protocol: mqtt\nload: pairs\nladder: {objective: fast}\n":                "x.yaml:3:21: ladder.objective: want an objective such as p99 < 5ms",
		"protocol: mqtt\nload: pairs\nladder: {objective: p98 < 5ms}\n":           "ladder.objective: objective \"p98 < 5ms\": want one of p50",
		"protocol: mqtt\nload: pairs\nladder: {from: 100, to: 10}\n":              "x.yaml:3:9: ladder: from 100 is more than to 10",
		"protocol: mqtt\nload: idle\nladder: {from: 100}\n":                       "x.yaml:3:9: ladder: load idle sends by no timetable",
		"protocol: mqtt\nload: pairs\nparts: []\n":                                "parts: only a scenario of protocol mixed has parts",
		"protocol: mixed\n": "parts: a mixed scenario needs them",
		"protocol: mixed\nload: pairs\nparts: [{name: a, protocol: mqtt, load: pairs}]\n":                                                       "x.yaml:2:7: load: the parts of a mixed scenario have it",
		"protocol: mixed\nparts: [{name: a, protocol: mqtt, load: storm}]\n":                                                                    "x.yaml:2:41: a: load storm cannot be a part",
		"protocol: mixed\nparts: [{name: a, protocol: mqtt, load: pairs, settings: {messages: 5}}]\n":                                           "not a number of messages",
		"protocol: mixed\nparts:\n- {name: a, protocol: mqtt, load: pairs}\n- {name: a, protocol: mqtt, load: pairs}\n":                         "x.yaml:4:10: parts[1].name: two parts are named a",
		"protocol: mixed\nparts:\n- {name: a, protocol: mqtt, load: pairs}\n- {name: b, protocol: mqtt, load: pairs, settings: {warmup: 2s}}\n": "b: warmup is 2s and that of the first part 1s",
		"protocol: mixed\nsettings: {rte: 5}\nparts: [{name: a, protocol: mqtt, load: pairs}]\n":                                                "x.yaml:2:12: settings.rte: unknown key; the nearest known one is rate",
		"protocol: mqtt\nload: pairs\n---\nprotocol: mqtt\n":                                                                                    "x.yaml:3:1: a scenario is one YAML document, found a second",
	} {
		_, err := scenarios.Parse("x.yaml", []byte(text), nil)
		var ps scenarios.Problems
		if !errors.As(err, &ps) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\nsaid %v\nwant %s", text, err, want)
		}
	}
}

func TestSetFaults(t *testing.T) {
	for set, want := range map[string]string{
		"rate":             "--set: rate: want KEY=VALUE",
		"rat=5":            "--set: rat: unknown key; the nearest known one is rate",
		"rate=x":           `--set: rate: want a number, found "x"`,
		"none.rate=5":      "--set: none.rate: unknown key",
		"ladder.form=5":    "--set: ladder.form: unknown key; the nearest known one is from",
		"ladder.growth=99": "--set: ladder.growth: want at most 10",
		"ladder.from=9e6":  "ladder: from 9e+06 is more than to 1e+06",
	} {
		if _, err := scenarios.Parse("mine.yaml", []byte(pairs), []string{set}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: said %v, want %s", set, err, want)
		}
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(path, []byte(pairs), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := scenarios.Open(path, nil); err != nil || f.Name != "mine" {
		t.Errorf("%+v, %v", f, err)
	}
	var bad *bench.MisuseError
	if _, err := scenarios.Open("fan-inn", nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "the nearest is fan-in") {
		t.Errorf("%v", err)
	}
	if _, err := scenarios.Open("absent.yaml", nil); err == nil {
		t.Error("an absent file is opened")
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range scenarios.Standard() {
		_, text, err := scenarios.Text(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(mixed))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := scenarios.Parse("x.yaml", text, nil)
		if err == nil && len(file.Parts) == 0 {
			t.Error("a file without a load is taken")
		}
	})
}
