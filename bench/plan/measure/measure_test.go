package measure_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/plan"
	"github.com/sluicemq/sluice/bench/plan/measure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// measured runs one rung against a broker that is this process, whose metrics grow by 1,000 wake-ups each time they are read.
func measured(t *testing.T, change func(o *measure.Options)) (list []plan.Observation, left int, err error) {
	t.Helper()
	b := brokertest.Start(t, brokertest.Options{})
	var asked atomic.Int64
	m := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# HELP x y\nsluice_engine_wakeups_total %d\nsluice_engine_system_calls_total{call=\"read\"} 5\n", 1000*asked.Add(1))
	}))
	defer m.Close()
	var file bytes.Buffer
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	o := measure.Options{URL: b.URL(), PID: os.Getpid(), Metrics: m.URL, Version: "test", Only: []string{"qos0 50 pairs"}, Duration: 200 * time.Millisecond,
		Settle: time.Millisecond, Keep: measure.Writer(&file), Client: client}
	change(&o)
	left, err = measure.Run(t.Context(), o)
	list, rerr := plan.ReadObservations(&file, "results")
	if rerr != nil {
		t.Fatal(rerr)
	}
	return list, left, err
}

func TestRung(t *testing.T) {
	list, left, err := measured(t, func(*measure.Options) {})
	if err != nil || left != 0 || len(list) != 1 {
		t.Fatalf("%d observations, %d left, %v", len(list), left, err)
	}
	o := &list[0]
	if o.CPU <= 0 || o.Seconds < 0.1 || o.Seconds > 10 || !o.Counted || o.Wakeups != 1000 || !o.Timetable || o.Version != "test" || o.MemoryAfter <= 0 {
		t.Errorf("%+v", o)
	}
	f := o.Load.Flows[0]
	if f.Publishers != 50 || f.Receivers != 50 || f.Size != 64 || f.Fanout < 0.5 || f.Rate < 300 || o.Load.Conns[plan.TCP] != 100 {
		t.Errorf("%+v", o.Load)
	}
}

// What is there already is passed over; what has no address is left out; what is over its time is left for the next call.
func TestResume(t *testing.T) {
	first, _, err := measured(t, func(*measure.Options) {})
	if err != nil {
		t.Fatal(err)
	}
	first[0].Doubt = "" // a busy machine's
	again, left, err := measured(t, func(o *measure.Options) { o.Done = first })
	if err != nil || len(again) != 0 || left != 0 {
		t.Errorf("run again: %d observations, %d left, %v", len(again), left, err)
	}
	var said []string
	none, left, err := measured(t, func(o *measure.Options) {
		o.Only = []string{"tls 50"}
		o.Progress = func(format string, a ...any) { said = append(said, fmt.Sprintf(format, a...)) }
	})
	if err != nil || len(none) != 0 || left != 0 || len(said) == 0 || !strings.Contains(said[0], "left out") {
		t.Errorf("no address: %d observations, %d left, %v, %q", len(none), left, err, said)
	}
	late, left, err := measured(t, func(o *measure.Options) { o.Limit = time.Nanosecond })
	if err != nil || len(late) != 0 || left != 1 {
		t.Errorf("over time: %d observations, %d left, %v", len(late), left, err)
	}
}

// An interrupted rung leaves nothing behind, and is no error.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var file bytes.Buffer
	b := brokertest.Start(t, brokertest.Options{})
	left, err := measure.Run(ctx, measure.Options{URL: b.URL(), PID: os.Getpid(), Only: []string{"qos0 50 pairs"}, Duration: time.Minute, Keep: measure.Writer(&file),
		Progress: func(string, ...any) { time.AfterFunc(300*time.Millisecond, cancel) }})
	if err != nil || left != 1 || file.Len() > 0 {
		t.Errorf("%d left, %d bytes of results, %v", left, file.Len(), err)
	}
}

// A broker that loses messages is no base for a model.
func TestFaultyBroker(t *testing.T) {
	_, left, err := measured(t, func(o *measure.Options) {
		o.URL = brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{DropEvery: 3}}).URL()
	})
	if err == nil || left != 1 || !strings.Contains(err.Error(), "LOST") {
		t.Errorf("%d left, %v", left, err)
	}
	_, _, err = measured(t, func(o *measure.Options) { o.PID = 1 << 30 })
	if err == nil || !strings.Contains(err.Error(), "no process") {
		t.Errorf("no such process: %v", err)
	}
	_, _, err = measured(t, func(o *measure.Options) { o.Metrics = "http://127.0.0.1:1/metrics" })
	if err == nil || !strings.Contains(err.Error(), "read the metrics") {
		t.Errorf("no metrics: %v", err)
	}
}

// Every rung has a name of its own: results are found by it.
func TestRungNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range measure.Rungs() {
		if seen[name] {
			t.Errorf("two rungs are named %q", name)
		}
		seen[name] = true
	}
	if len(seen) < 60 {
		t.Errorf("%d rungs", len(seen))
	}
}
