package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// truth are the costs that made-up observations follow.
func truth() *Parameters {
	return &Parameters{
		CPU: Terms{Base: 3000, Connect: 20, ConnectTLS: 300, MessagesIn: 0.4, MessagesOut: 0.5, Acks: 0.3, Bytes: 5e-4, TLSMessages: 1.5,
			JournaledBytes: 4e-4, Flush: 40, ColdFlush400: 100, ColdStart: 3, ColdConn: 4, Wakeup: 6, WakeupInside: 4, Calls: 1.2},
		Wake:  Sharing{30_000, Terms{fromPublisher: 1, fromReceiver: 0.9, toOtherLoop: 1, ofFlush: 1.1, ofConnect: 2, ofTimer: 4}},
		Flush: Sharing{5000, Terms{ofKept: 1}},
		Reads: Terms{ofTurns: 1, ofConnect: 2}, Writes: Terms{ofTurns: 1, ofConnect: 1}, Fetches: 1000, ColdAfter: 12e-3,
		Memory:   Terms{heldBase: 30e6, "tcp_connection": 600, "tls_connection": 14_000, heldSubscription: 150},
		Disk:     Terms{Flush: 4000, Journaled: 30, JournaledBytes: 1},
		Received: Terms{In0: 20, In1: 23, InBytes: 1}, Sent: Terms{Out0: 20, Out1: 23, OutBytes: 1},
	}
}

// madeUp gives rungs of many kinds, whose figures are off by the given relative error.
func madeUp(p *Parameters, noise float64, rng *rand.Rand) (list []Observation) {
	off := func() float64 { return math.Exp(noise * rng.NormFloat64()) }
	add := func(name string, l Load) {
		l.Cores = 2
		v := p.events(&l)
		o := Observation{Rung: name, Started: time.Unix(1e9, 0).UTC(), Version: "test", Machine: Machine{CPU: "made up", Cores: 2}, Load: l, Seconds: 2,
			CPU: 2 * v.costly().cost(p.CPU) / 1e6 * off(), Timetable: true, Counted: true,
			Wakeups: 2 * v.turns() * off(), Reads: 2 * v[Read] * off(), Writes: 2 * v[Write] * off(), Flushes: 2 * v[Flush] * off(),
			Written: 2 * diskTerms(v).cost(p.Disk), Received: 2 * receivedTerms(&l, v).cost(p.Received), Sent: 2 * sentTerms(&l, v).cost(p.Sent)}
		list = append(list, o)
	}
	for _, rate := range []float64{500, 1000, 2000, 4000, 9000, 20_000, 50_000} {
		for _, size := range []float64{64, 300, 2048} {
			for _, x := range []struct {
				kind string
				flow Flow
			}{
				{"plain", Flow{}}, {"qos1", Flow{QoS: 1, OutQoS: 1}}, {"tls", Flow{From: TLS, To: TLS}}, {"kept", Flow{QoS: 1, OutQoS: 1, Durable: true}},
			} {
				f := x.flow
				f.Publishers, f.Receivers, f.Rate, f.Size, f.Fanout, f.Cross = 100, 100, rate, size, 1, 0.5
				add(fmt.Sprintf("%s %.0f %.0f", x.kind, rate, size), Load{Flows: []Flow{f}})
			}
		}
	}
	for _, n := range []float64{100, 400, 900, 2000} {
		add(fmt.Sprintf("connects %.0f", n), Load{Connects: [transports]float64{TCP: n}})
		add(fmt.Sprintf("handshakes %.0f", n), Load{Connects: [transports]float64{TLS: n / 5}})
		add(fmt.Sprintf("fan-out %.0f", n), Load{Flows: []Flow{{Publishers: 1, Receivers: n, Rate: 50, Size: 64, Fanout: n, Cross: 1}}})
	}
	for _, kind := range []Transport{TCP, TLS} {
		for i, n := range []float64{3000, 6000, 12_000, 20_000} {
			l := Load{Subscriptions: n * float64(1+i)}
			l.Conns[kind] = n
			t := l.held()
			delete(t, heldBase)
			list = append(list, Observation{Rung: fmt.Sprintf("memory %v %.0f", kind, n), Machine: Machine{CPU: "made up", Cores: 2}, Load: l, Seconds: 1, Settled: true,
				MemoryBefore: 30e6, MemoryAfter: 30e6 + t.cost(p.Memory)*off()})
		}
	}
	return list
}

// Without errors the fit finds the costs themselves, wake-ups and flushes that saturate included.
func TestFitFindsTruth(t *testing.T) {
	p := truth()
	got, err := fit(flat(byRung(madeUp(p, 0, rand.New(rand.NewPCG(1, 1)))), nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !near(got.Wake.Max, p.Wake.Max, 0.13) || !near(got.Flush.Max, p.Flush.Max, 0.13) { // the tries are 12 % apart
		t.Errorf("loops turn %.0f times, not %.0f; the disk %.0f, not %.0f", got.Wake.Max, p.Wake.Max, got.Flush.Max, p.Flush.Max)
	}
	for _, x := range []struct {
		got, want Terms
		names     []string
	}{
		{got.CPU, p.CPU, []string{Wakeup, ConnectTLS, TLSMessages, Bytes}},
		{got.Memory, p.Memory, []string{"tcp_connection", "tls_connection", heldSubscription}},
		{got.Reads, p.Reads, []string{ofTurns}},
		{got.Disk, p.Disk, []string{Flush, JournaledBytes}},
	} {
		for _, name := range x.names {
			if !near(x.got[name]/x.want[name], 1, 0.1) {
				t.Errorf("%s costs %.4g, not %.4g", name, x.got[name], x.want[name])
			}
		}
	}
}

// One rung that was disturbed, a hundredfold, moves nothing else by much.
func TestFitBearsOutliers(t *testing.T) {
	p := truth()
	list := madeUp(p, 0.02, rand.New(rand.NewPCG(2, 1)))
	for i := range list {
		if strings.HasPrefix(list[i].Rung, "plain 50000 ") {
			list[i].CPU /= 100
			list[i].Wakeups /= 100
		}
	}
	got, err := fit(flat(byRung(list), nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := Load{Cores: 2, Flows: []Flow{{Publishers: 100, Receivers: 100, Rate: 3000, Size: 100, Fanout: 1, Cross: 0.5}}}
	if has, want := got.Predict(&l).CPU, p.Predict(&l).CPU; !near(has/want, 1, 0.15) {
		t.Errorf("%.4g cores, not %.4g", has, want)
	}
}

// The 90 % interval holds what is measured nine times in ten, over several made-up machines; and the half that was not seen is predicted.
func TestIntervalsHold(t *testing.T) {
	within, all := 0.0, 0.0
	for seed := range uint64(4) {
		m, err := Fit(madeUp(truth(), 0.06, rand.New(rand.NewPCG(seed, 9))), FitOptions{Replicas: 12, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		e := &m.Check.CPU
		if e.Median > 0.10 || e.P90 > 0.4 {
			t.Errorf("seed %d: median error %.3f, nine in ten below %.3f", seed, e.Median, e.P90)
		}
		within += e.Coverage * float64(e.Rungs)
		all += float64(e.Rungs)
		if m.Check.Memory.Rungs == 0 || m.Check.Memory.Median > 0.15 {
			t.Errorf("seed %d: memory is off by %.3f over %d rungs", seed, m.Check.Memory.Median, m.Check.Memory.Rungs)
		}
	}
	if c := within / all; c < 0.85 || c > 0.99 {
		t.Errorf("%.1f %% of %.0f values lie in their 90 %% interval", c*100, all)
	}
}

func TestFitRefuses(t *testing.T) {
	list := madeUp(truth(), 0, rand.New(rand.NewPCG(1, 1)))
	if _, err := Fit(list[:5], FitOptions{}); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("five rungs: %v", err)
	}
	if _, err := Fit(nil, FitOptions{}); err == nil {
		t.Error("no rungs make a model")
	}
	list[3].Machine.CPU = "another"
	if _, err := Fit(list, FitOptions{}); err == nil || !strings.Contains(err.Error(), "different machines") {
		t.Errorf("two machines: %v", err)
	}
	if _, err := ReadObservations(strings.NewReader("{\"rung\":\"x\",\"seconds\":1}\nnonsense\n"), "r.jsonl"); err == nil || !strings.Contains(err.Error(), "r.jsonl:2") {
		t.Errorf("a broken line: %v", err)
	}
	if _, err := ReadObservations(strings.NewReader("{}\n"), "r.jsonl"); err == nil {
		t.Error("something else is read as results")
	}
}

// A model's file gives the same model again, but for digits that no fit knows; what is no model is refused.
func TestModelRoundTrip(t *testing.T) {
	m, err := Fit(madeUp(truth(), 0.05, rand.New(rand.NewPCG(3, 3))), FitOptions{Replicas: 10})
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseModel("m.json", b)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range m.Parameters.CPU {
		if again.Parameters.CPU[name] != v {
			t.Errorf("%s: %v, was %v", name, again.Parameters.CPU[name], v)
		}
	}
	for i := range m.Replicas {
		if !near(again.Replicas[i].CPU[Wakeup], m.Replicas[i].CPU[Wakeup], 1e-3) {
			t.Errorf("replica %d: %v, was %v", i, again.Replicas[i].CPU[Wakeup], m.Replicas[i].CPU[Wakeup])
		}
	}
	twice, err := again.Append(nil)
	if err != nil || !bytes.Equal(b, twice) {
		t.Errorf("written again it is another file (%v)", err)
	}
	for text, want := range map[string]string{
		"":              "no model",
		"{}":            "format 0",
		`{"format":2}`:  "costs are missing",
		string(b[:100]): "no model",
	} {
		if _, err := ParseModel("m.json", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
	again.Parameters.CPU[Wakeup] = -1
	bad, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseModel("m.json", bad); err == nil || !strings.Contains(err.Error(), "wakeup") {
		t.Errorf("a negative cost: %v", err)
	}
}

// Of two rungs of one kind each half has one, whatever stands between them.
func TestSplit(t *testing.T) {
	var rungs []rung
	for _, name := range []string{"qos0 50 pairs", "qos1 1 pairs", "qos0 60 pairs", "kafka e2e 3/s 1k", "qos0 70 pairs", "kafka e2e 5/s 2k", "qos1 9 pairs"} {
		rungs = append(rungs, rung{{Rung: name}})
	}
	for seed := range uint64(20) {
		kinds := [2]map[string]int{{}, {}}
		for side, half := range split(rungs, rand.New(rand.NewPCG(seed, 1))) {
			for _, r := range half {
				kinds[side][kindOf(r[0].Rung)]++
			}
		}
		for i := range kinds {
			if kinds[i]["qos1 pairs"] != 1 || kinds[i]["kafka e2e"] != 1 || kinds[i]["qos0 pairs"]+kinds[1-i]["qos0 pairs"] != 3 || kinds[i]["qos0 pairs"] < 1 {
				t.Errorf("seed %d: %v", seed, kinds)
			}
		}
	}
}

// What two measurements of one rung differ by is said beside the errors of the model.
func TestRepeats(t *testing.T) {
	one := func(name string, cpu float64) *Observation {
		return &Observation{Rung: name, Seconds: 1, CPU: cpu, Timetable: true}
	}
	r := repeats([]rung{{one("a", 0.1), one("a", 0.11)}, {one("b", 0.2)}, {one("c", 0.3), one("c", 0.3), {Rung: "c", Seconds: 1, CPU: 9, Doubt: "busy", Timetable: true}}}, measuredCPU(true))
	if r.Rungs != 2 || r.Median < 0 || r.Median > 0.1 || !near(r.P90, 0.1, 0.1) {
		t.Errorf("%+v", r)
	}
	var out strings.Builder
	e := Errors{Rungs: 1, Rows: []Row{{Measured: 1, Predicted: 1.1}, {Measured: 1, Predicted: 2}}, Median: 0.2, Repeat: r}
	e.write(&out, "CPU", 0.15)
	for _, want := range []string{"NOT within 15 %", "50 % of the errors are within 15 %", "the floor: two measurements of one rung differ by"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q does not say %q", out.String(), want)
		}
	}
}
