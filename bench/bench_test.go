package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a run of each scenario that takes a fraction of a second.
func small(scenario string, b *brokertest.Broker) bench.Config {
	cfg := bench.Config{
		Scenario: scenario, URL: b.URL(), Publishers: 4, Subscribers: 3, Conns: 50, Filters: 250, Messages: 300, Inflight: 16,
		Settle: 10 * time.Millisecond, Drain: 300 * time.Millisecond, Stall: 50 * time.Millisecond, LateMax: time.Hour, PIDs: []int{os.Getpid()}, Seed: 7,
	}
	switch scenario {
	case "queue":
		cfg.QoS = 1
	case "reconnect":
		cfg.QoS, cfg.Rate, cfg.DropEvery = 1, 5000, 20*time.Millisecond
	}
	return cfg
}

func mustRun(t *testing.T, cfg bench.Config) *bench.Result {
	t.Helper()
	res, err := bench.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestEveryScenarioPassesOnASoundBroker(t *testing.T) {
	for _, scenario := range bench.Scenarios() {
		for qos := byte(0); qos < 3; qos++ {
			if ((scenario == "queue" || scenario == "reconnect") && qos == 0) || ((scenario == "idle" || scenario == "storm") && qos > 0) {
				continue
			}
			for _, threads := range []int{1, 2} {
				b := brokertest.Start(t, brokertest.Options{})
				cfg := small(scenario, b)
				cfg.QoS, cfg.Threads = qos, threads
				cfg.Version = 4 + byte(threads)%2
				cfg.Stall, cfg.Drain = 5*time.Second, 5*time.Second // a slow machine is no fault
				res := mustRun(t, cfg)
				if !res.OK || len(res.Violations) > 0 || len(res.Notes) > 0 {
					t.Errorf("%s at QoS %d: %q, %v", scenario, qos, res.Violations, res.Notes)
				}
				b.Close()
			}
		}
	}
}

func TestCounts(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	for scenario, want := range map[string][2]uint64{
		"pairs": {1200, 1200}, "fanout": {1200, 3600}, "fanin": {1200, 3600}, "shared": {1200, 1200}, "wildcards": {1200, 1200},
		"queue": {300, 300}, "retained": {300, 900},
	} {
		res := mustRun(t, small(scenario, b))
		if got := [2]uint64{res.Counts.Sent, res.Counts.Received}; got != want {
			t.Errorf("%s: sent and received %v, want %v", scenario, got, want)
		}
		if res.Server == nil || res.Server.RSSAfter == 0 || res.Server.Threads == 0 {
			t.Errorf("%s: the server's process was not looked at: %+v", scenario, res.Server)
		}
	}
	if n := b.Retained(); n != 0 {
		t.Errorf("%d retained messages are left behind", n)
	}
	testx.Eventually(t, time.Second, func() bool { return b.Sessions() == 0 }, "sessions are left behind")
}

// What is stored goes by a timetable if there is one; what is drained and fetched then comes as fast as ever, and all of it is verified.
func TestStoreByTimetable(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	for scenario, received := range map[string]uint64{"queue": 300, "retained": 900} {
		cfg := small(scenario, b)
		cfg.Rate, cfg.LateMax = 1500, time.Minute
		res := mustRun(t, cfg)
		if res.Counts.Sent != 300 || res.Counts.Received != received || res.Steps[0].Seconds < 0.15 || res.Void != "" {
			t.Errorf("%s: %d sent in %.2f s, %d received; %s", scenario, res.Counts.Sent, res.Steps[0].Seconds, res.Counts.Received, res.Void)
		}
	}
	if n := b.Retained(); n != 0 {
		t.Errorf("%d retained messages are left behind", n)
	}
}

// TestFaultsAreFound lets a broker do each kind of wrong in each scenario that delivers messages.
func TestFaultsAreFound(t *testing.T) {
	faults := map[string]struct {
		faults brokertest.Faults
		qos    byte
		word   string
		not    string // scenarios that promise nothing about it
	}{
		"drops":             {brokertest.Faults{DropEvery: 50}, 0, "LOST", "queue"},
		"drops at QoS 1":    {brokertest.Faults{DropEvery: 50}, 1, "LOST", ""},
		"doubles at QoS 0":  {brokertest.Faults{DoubleEvery: 50}, 0, "DUPLICATES", "queue"},
		"doubles at QoS 2":  {brokertest.Faults{DoubleEvery: 50}, 2, "DUPLICATES", ""},
		"reorders":          {brokertest.Faults{ReorderEvery: 50}, 1, "REORDERED", "retained"},
		"corrupts":          {brokertest.Faults{CorruptEvery: 50}, 1, "CORRUPT", ""},
		"stalls":            {brokertest.Faults{StallAfter: 100}, 1, "LOST", ""},
		"cuts":              {brokertest.Faults{CloseAfter: 100}, 1, "DISCONNECTED", ""},
		"answers nothing":   {brokertest.Faults{NoPuback: true}, 1, "UNANSWERED", ""},
		"refuses":           {brokertest.Faults{RefuseEvery: 50}, 1, "REFUSED", ""},
		"refuses at QoS 2":  {brokertest.Faults{RefuseEvery: 50}, 2, "REFUSED", ""},
		"dies":              {brokertest.Faults{DieAfter: 100}, 1, "DI", ""}, // DIED, or DISCONNECTED before anybody could see more
		"forgets the queue": {brokertest.Faults{IgnoreQueued: 50}, 1, "LOST", "pairs fanout fanin shared wildcards retained"},
	}
	for name, f := range faults {
		for _, scenario := range []string{"pairs", "fanout", "fanin", "shared", "wildcards", "queue", "retained", "publish"} {
			delivers := scenario != "publish"
			if strings.Contains(f.not, scenario) || !delivers && f.word != "UNANSWERED" && f.word != "REFUSED" && f.word != "DI" {
				continue
			}
			t.Run(name+"/"+scenario, func(t *testing.T) {
				t.Parallel()
				b := brokertest.Start(t, brokertest.Options{Faults: f.faults})
				cfg := small(scenario, b)
				cfg.QoS = f.qos
				cfg.Drain = 100 * time.Millisecond
				res, err := bench.Run(t.Context(), cfg)
				if err != nil && (name == "cuts" || name == "dies") && len(res.Violations) > 0 {
					return // while others were still connecting: the result says so as well
				}
				if err != nil {
					t.Fatal(err)
				}
				if res.OK || !strings.Contains(strings.Join(res.Violations, "\n"), f.word) {
					t.Errorf("found %q, not %s; counts %+v, notes %v", res.Violations, f.word, res.Counts, res.Notes)
				}
			})
		}
	}
}

// TestFaultHasItsSecond lets a broker begin to do wrong a second after the start.
func TestFaultHasItsSecond(t *testing.T) {
	const rate, from = 1000, 1100
	for name, f := range map[string]struct {
		faults brokertest.Faults
		of     func(*bench.Point) uint64
	}{
		"LOST":       {brokertest.Faults{From: from, DropEvery: 10}, func(p *bench.Point) uint64 { return p.Lost }},
		"DUPLICATES": {brokertest.Faults{From: from, DoubleEvery: 10}, func(p *bench.Point) uint64 { return p.Duplicates }},
		"REORDERED":  {brokertest.Faults{From: from, ReorderEvery: 10}, func(p *bench.Point) uint64 { return p.Reordered }},
		"CORRUPT":    {brokertest.Faults{From: from, CorruptEvery: 10}, func(p *bench.Point) uint64 { return p.Corrupt }},
		"DIED":       {brokertest.Faults{DieAfter: from}, func(p *bench.Point) uint64 { return p.Disconnected }},
		"STALLED":    {brokertest.Faults{PauseAfter: from, Pause: 2500 * time.Millisecond}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.Start(t, brokertest.Options{Faults: f.faults})
			cfg := bench.Config{Scenario: "pairs", URL: b.URL(), Publishers: 4, Rate: rate, QoS: 2, Warmup: -1, Duration: 2 * time.Second,
				Drain: 300 * time.Millisecond, LateMax: time.Hour}
			if name == "STALLED" {
				cfg.Duration, cfg.Drain = 5*time.Second, 5*time.Second
			}
			res := mustRun(t, cfg)
			var fault *bench.Fault
			for i := range res.Faults {
				if res.Faults[i].Kind == name {
					fault = &res.Faults[i]
				}
			}
			if res.OK || fault == nil || fault.First < 0.9 || fault.First > 2.9 || fault.Last < fault.First {
				t.Fatalf("%q, %+v, notes %v", res.Violations, fault, res.Notes)
			}
			if f.of == nil {
				return
			}
			for i := range res.Series.Points {
				p := &res.Series.Points[i]
				if n := f.of(p); n > 0 && p.Second+1 < fault.First {
					t.Errorf("second %v has %d, the first fault is of %v", p.Second, n, fault.First)
				} else if n > 0 {
					return
				}
			}
			t.Errorf("no second has it: %+v", res.Series.Points)
		})
	}
}

// TestRefusedConnections: a broker that takes no more connections is found out by scenarios that have nothing else.
func TestRefusedConnections(t *testing.T) {
	for _, scenario := range []string{"idle", "storm"} {
		b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{FullAfter: 20}})
		res, err := bench.Run(t.Context(), small(scenario, b))
		if err == nil || res == nil || res.OK || len(res.Faults) == 0 || res.Faults[0].Kind != "NOT CONNECTED" {
			t.Errorf("%s: %v, %+v", scenario, err, res)
		}
	}
}

func TestLossAtQoS0MayBeAllowed(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{DropEvery: 10}})
	cfg := small("pairs", b)
	cfg.AllowLoss = true
	cfg.Rate = 20_000
	if res := mustRun(t, cfg); !res.OK || res.Counts.Lost != 120 {
		t.Errorf("%q, %d lost", res.Violations, res.Counts.Lost)
	}
}

func TestRateAndLatency(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	cfg := small("pairs", b)
	cfg.Messages, cfg.Rate, cfg.Warmup, cfg.Duration = 0, 2000, 100*time.Millisecond, 500*time.Millisecond
	res := mustRun(t, cfg)
	if !res.OK || res.Counts.Sent < 1150 || res.Counts.Sent > 1201 || res.Counts.Received != res.Counts.Sent {
		t.Errorf("%q, %+v", res.Violations, res.Counts)
	}
	if res.Latency == nil || res.Latency.Count < 900 || res.Latency.Count > 1001 || res.Latency.P50 <= 0 || res.Latency.Max < res.Latency.P99 {
		t.Errorf("latency %+v", res.Latency)
	}
	if res.Generator.Late == nil || res.Generator.CPUSeconds <= 0 {
		t.Errorf("the generator says nothing of itself: %+v", res.Generator)
	}
}

func TestEveryTransport(t *testing.T) {
	cert := testx.TempCert(t)
	for _, o := range []brokertest.Options{{TLS: cert.ServerConfig()}, {WebSocket: true}, {TLS: cert.ServerConfig(), WebSocket: true}} {
		b := brokertest.Start(t, o)
		cfg := small("pairs", b)
		cfg.TLS, cfg.QoS, cfg.Payload = cert.ClientConfig(false), 2, 3000
		if res := mustRun(t, cfg); !res.OK || res.Counts.Received != 1200 {
			t.Errorf("%s: %q, %+v", b.URL(), res.Violations, res.Counts)
		}
	}
}

func TestInterruptedRunIsPartial(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	cfg := small("pairs", b)
	cfg.Messages, cfg.Rate, cfg.Warmup, cfg.Duration = 0, 1000, -1, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Progress = func(line string) {
		if strings.Contains(line, "received") {
			cancel()
		}
	}
	res, err := bench.Run(ctx, cfg)
	if err != nil || !res.Partial || res.Counts.Sent == 0 {
		t.Fatalf("%v, %+v", err, res)
	}
}

func TestCannotConnect(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{Refuse: 0x87}})
	if _, err := bench.Run(t.Context(), small("pairs", b)); err == nil || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("a broker that refuses: %v", err)
	}
	cfg := small("idle", b)
	b.Close()
	if _, err := bench.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("no broker: %v", err)
	}
}

func TestMisuse(t *testing.T) {
	for word, change := range map[string]func(*bench.Config){
		"scenario": func(c *bench.Config) { c.Scenario = "nonsense" },
		"scheme":   func(c *bench.Config) { c.URL = "http://x" },
		"version":  func(c *bench.Config) { c.Version = 3 },
		"QoS":      func(c *bench.Config) { c.QoS = 3 },
		"payload":  func(c *bench.Config) { c.Payload = 10 },
		"negative": func(c *bench.Config) { c.Rate = -1 },
		"rate":     func(c *bench.Config) { c.Rate = 1e9 },
		"absent":   func(c *bench.Config) { c.Scenario = "queue" },
	} {
		cfg := bench.Config{Scenario: "pairs", URL: "127.0.0.1:1"}
		change(&cfg)
		var bad *bench.MisuseError
		if _, err := bench.Run(t.Context(), cfg); !errors.As(err, &bad) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", word, err)
		}
	}
}

func TestOutput(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{DropEvery: 100}})
	res := mustRun(t, small("pairs", b))
	var table bytes.Buffer
	if err := res.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(table.String(), "LOST: 12 deliveries") || !strings.Contains(table.String(), "server memory") {
		t.Errorf("table:\n%s", table.String())
	}
	out, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{`"lost":12`, `"p99_9":`, `"seed":7`, `"kernel":"Linux`, `"ok":false`} {
		if !bytes.Contains(out, []byte(key)) {
			t.Errorf("%s is not in %s", key, out)
		}
	}
}
