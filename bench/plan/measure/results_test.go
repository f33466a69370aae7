package measure_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/plan"
	"github.com/sluicemq/sluice/bench/plan/measure"
)

// A run of sluice bench and a ladder of such runs are observations too, with the loads that their clients made.
func TestResultsOfBench(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	run := func(change func(c *bench.Config)) string {
		c := bench.Config{Scenario: "fanout", URL: b.URL(), Subscribers: 5, Rate: 200, Payload: 100, QoS: 1, Warmup: -1, Duration: 200 * time.Millisecond,
			PIDs: []int{os.Getpid()}, LateMax: time.Minute, Tool: "test"}
		change(&c)
		res, err := bench.Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if res.Server != nil {
			res.Server.CPUSeconds = 0.05 // the kernel's clock is too coarse for so short a run
		}
		text, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "r.json")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	fan := run(func(*bench.Config) {})
	kept := run(func(c *bench.Config) {
		c.Scenario, c.Publishers, c.Subscribers, c.Durable, c.Rate = "pairs", 4, 4, true, 400
	})
	ladder := fmt.Sprintf(`{"ladder":"x","rungs":[{"rate":200,"runs":[{"verdict":"held","result":%s},{"verdict":"broken","error":"x"}]},{"runs":[{"result":%s}]}]}`, fan, kept)
	parts := fmt.Sprintf(`{"scenario":"mixed","seconds":0.2,"hardware":{"cores":2},"server":{"cpu_seconds":0.1},"config":{"rate":600},"parts":[%s,%s]}`, fan, kept)
	idle := run(func(c *bench.Config) { c.Scenario, c.Conns, c.Settle = "idle", 3, time.Millisecond })
	list, err := measure.ReadFiles([]string{write(fan), write(ladder), write(parts), write(idle), write(`{"rung":"r","seconds":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 6 || list[0].Rung != list[1].Rung || list[5].Rung != "r" {
		t.Fatalf("%d observations: %+v", len(list), list)
	}
	o := &list[0]
	if f := o.Load.Flows[0]; o.Doubt != "" || !o.Timetable || o.CPU <= 0 || o.Seconds < 0.1 || o.Version != "test" || f.Receivers != 5 || f.Size != 100 ||
		f.QoS != 1 || f.Rate < 100 || f.Rate > 400 || f.Fanout < 4 || f.Fanout > 6 || !f.Together || o.Load.Conns[plan.TCP] != 6 {
		t.Errorf("%+v", o)
	}
	if f := list[2].Load.Flows[0]; !f.Durable || f.Publishers != 4 || list[2].Load.Sessions != 8 {
		t.Errorf("%+v", list[2])
	}
	if l := &list[3].Load; len(l.Flows) != 2 || l.Conns[plan.TCP] != 14 || l.Flows[0].Rate < 100 || l.Flows[0].Rate > 400 {
		t.Errorf("mixed: %+v", l)
	}
	if !strings.Contains(list[4].Doubt, "idle") {
		t.Errorf("idle connections: %+v", list[4])
	}
	for text, want := range map[string]string{
		run(func(c *bench.Config) { c.PIDs = nil }): "--pid",
		`{"some":"thing"}`:                          "not a result",
		"nonsense":                                  "r.json:1",
	} {
		if _, err := measure.ReadFiles([]string{write(text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}
