package plan

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

const smallFleet = `
node: {cores: 4, memory: 8GiB, price: 100, currency: EUR}
headroom: 20%
devices:
  - name: meters
    count: 1000
    transport: tls
    publish: [{rate: 6/min, size: 100B, qos: 1, to: [{class: hub}]}]
  - {name: hub, count: 2, on_every_node: true, kept: true}
`

func TestFleetErrors(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key", "headroom: 20%", "headrom: 20%", "f.yaml:3:1: headrom: unknown key; the nearest known one is headroom"},
		{"an unknown key below", "count: 1000", "cuont: 1000", "devices[0].cuont: unknown key; the nearest known one is count"},
		{"a key that is near to none", "headroom: 20%", "zzzzzzzzzz: 1", "zzzzzzzzzz: unknown key; there are name, node"},
		{"a key twice", "headroom: 20%", "headroom: 20%\nheadroom: 30%", "f.yaml:4:1: headroom: is set twice, first in line 3"},
		{"no rate", "6/min", "6", `devices[0].publish[0].rate: want a rate such as 0.5/s, 6/min, 4/h or 2/d, found "6"`},
		{"a rate of another unit", "6/min", "6/fortnight", "want a rate such as"},
		{"a negative rate", "6/min", "-6/min", "want a rate such as"},
		{"a share above all", "headroom: 20%", "headroom: 120%", "headroom: want a share from 0% to 100%"},
		{"all of it", "headroom: 20%", "headroom: 100%", "f.yaml:3:11: headroom: want at most 95%"},
		{"no size", "100B", "100 bytes", "want a size such as 64MiB"},
		{"a transport that there is not", "transport: tls", "transport: udp", "devices[0].transport: want tcp, tls, ws, wss"},
		{"QoS 3", "qos: 1", "qos: 3", "devices[0].publish[0].qos: want 0, 1 or 2"},
		{"a class that there is not", "class: hub", "class: hubs", `devices[0].publish[0].to[0].class: there is no class "hubs"; want hub`},
		{"a class twice", "name: hub", "name: meters", `there is another class "meters"`},
		{"absent without coming back", "transport: tls", "transport: tls\n    connected: 50%", "want reconnects"},
		{"absent and not kept", "transport: tls", "transport: tls\n    connected: 50%\n    reconnects: 1/d", "without kept: true"},
		{"a list for a value", "cores: 4", "cores: [4]", "node.cores: want a value, found a list"},
		{"a value for a list", "publish: [{rate: 6/min, size: 100B, qos: 1, to: [{class: hub}]}]", "publish: 6/min", "devices[0].publish: want a list"},
		{"no value", "memory: 8GiB", "memory: ", "node.memory: has no value"},
		{"no node", "node: {cores: 4, memory: 8GiB, price: 100, currency: EUR}", "name: x", "node.cores: want the cores of a node"},
		{"not YAML", "headroom: 20%", "headroom: [20%", "not YAML"},
		{"a burst below 1", "headroom: 20%", "burst: 0.5", "f.yaml:3:8: burst: want 1 or more"},
	} {
		text := strings.Replace(smallFleet, c.old, c.new, 1)
		if text == smallFleet {
			t.Errorf("%s: nothing was replaced", c.name)
		}
		_, err := ParseFleet("f.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "f.yaml:") {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.want)
		}
	}
	if _, err := ParseFleet("f.yaml", nil); err == nil {
		t.Error("an empty file is a fleet")
	}
	if _, err := ParseFleet("f.yaml", []byte(strings.Replace(strings.Replace(smallFleet, "6/min", "x", 1), "20%", "y", 1))); err == nil ||
		strings.Count(err.Error(), "f.yaml:") != 2 {
		t.Errorf("two faults are not both said: %v", err)
	}
}

func FuzzParseFleet(f *testing.F) {
	f.Add(smallFleet)
	f.Add("node: {cores: 1e300}\ndevices: [~]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		fleet, err := ParseFleet("f.yaml", []byte(text))
		if err == nil {
			l := fleet.load(1, fleet.Burst)
			_ = truth().Predict(l)
		}
	})
}

func parsed(t *testing.T, text string) *Fleet {
	t.Helper()
	f, err := ParseFleet("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func madeUpModel(t *testing.T) *Model {
	t.Helper()
	m, err := Fit(madeUp(truth(), 0.05, rand.New(rand.NewPCG(3, 3))), FitOptions{Replicas: 10})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// More of a resource needed, or less of it there, never means fewer nodes; each resource can be the one that binds.
func TestAnswers(t *testing.T) {
	m := madeUpModel(t)
	for _, c := range []struct {
		name, old, new, binds string
		nodes                 func(n int) bool
	}{
		{"as it is", "zzz", "", "CPU", func(n int) bool { return n == 1 }},
		{"many messages", "6/min", "300/s", "CPU", func(n int) bool { return n > 1 }},
		{"little memory", "count: 1000", "count: 1000000", "memory", func(n int) bool { return n >= 3 && n < 10 }},
		{"little network", "price: 100,", "price: 100, network: 100kbit,", "network out", func(n int) bool { return n > 1 }},
		{"a slow disk", "price: 100,", "price: 100, disk_write: 500kB,", "disk writes", func(n int) bool { return n > 1 }},
	} {
		a, err := m.Ask(parsed(t, strings.Replace(smallFleet, c.old, c.new, 1)), "test")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.name == "as it is" {
			if a.Nodes != 1 || a.Surviving != 2 || a.Price != 200 {
				t.Errorf("%s: %d nodes, %d with one to spare, %.0f EUR", c.name, a.Nodes, a.Surviving, a.Price)
			}
			continue
		}
		if !c.nodes(a.Nodes) || a.Binds != c.binds || a.Low > a.Nodes || a.High < a.Nodes {
			t.Errorf("%s: %d nodes (%d to %d), %s binds, want %s", c.name, a.Nodes, a.Low, a.High, a.Binds, c.binds)
		}
		if _, err := json.Marshal(a); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, r := range a.Resources {
			if r.Low > r.Needs || r.High < r.Needs || r.May > 0 && r.Needs > r.May {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
	}
	f := parsed(t, strings.Replace(smallFleet, "count: 2,", "count: 10000000,", 1))
	if _, err := m.Ask(f, "test"); err == nil || !strings.Contains(err.Error(), "memory is too little") {
		t.Errorf("what is on every node and does not fit: %v", err)
	}
}

// An answer says by what it goes beyond the measurements, how far, and what was never measured.
func TestExtrapolationWarnings(t *testing.T) {
	m := madeUpModel(t)
	find := func(text, want string) bool {
		a, err := m.Ask(parsed(t, text), "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range a.Warnings {
			if strings.Contains(w, want) {
				return true
			}
		}
		t.Logf("warnings: %q", a.Warnings)
		return false
	}
	if !find(smallFleet, "cores 2.0 times") {
		t.Error("four cores, measured on two: no warning")
	}
	if !find(strings.Replace(smallFleet, "size: 100B", "size: 20KiB", 1), "message size 10.0 times") {
		t.Error("large messages: no warning")
	}
	if !find(strings.Replace(smallFleet, "count: 1000", "count: 100000", 1), "tls connection 5.0 times") {
		t.Error("many connections: no warning")
	}
	if !find(strings.Replace(smallFleet, "transport: tls", "transport: ws", 1), "never measured") {
		t.Error("WebSockets without any rung: no warning")
	}
	within := strings.Replace(smallFleet, "cores: 4", "cores: 2", 1)
	if find(within, "beyond what was measured") {
		t.Error("a warning about a fleet that lies within the measurements")
	}
	if !find(strings.Replace(within, "6/min", "300/s", 1), "each node is a broker by itself") {
		t.Error("several nodes, and nothing about clusters")
	}
}

// What streams do is shared by the nodes: transactions at the peak, and the end of the log, which each keeps in memory up to its bound.
func TestStreamLoad(t *testing.T) {
	f := parsed(t, smallFleet+"streams: [{name: s, rate: 1000/s, size: 1KiB, transactions: 40/s}]\n")
	l := f.load(2, 3)
	if len(l.Kafka) != 1 || l.Kafka[0].Transactions != 60 || l.Kafka[0].Rate != 1500 || l.Logged != tailBytes {
		t.Errorf("%+v, %.0f bytes of the log", l.Kafka, l.Logged)
	}
	if v := l.direct(); v[Transaction] != 60 {
		t.Errorf("%v", v)
	}
	f.Streams, f.Devices[1].Kept = nil, false
	if l := f.load(2, 3); l.Logged != 0 {
		t.Errorf("%.0f bytes of the log are kept for what is not written to it", l.Logged)
	}
}
