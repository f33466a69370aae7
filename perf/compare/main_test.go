package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
)

// TestMain is a broker, if it runs as one: it takes connections at the port that it is given and does as it is told.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && strings.HasPrefix(os.Args[1], "as-") {
		fakeBroker(os.Args[1], os.Args[2])
		return
	}
	os.Exit(m.Run())
}

func fakeBroker(kind, port string) {
	switch kind {
	case "as-broken":
		fmt.Println("no such option") //nolint:forbidigo // what a broker says
		os.Exit(3)
	case "as-deaf":
		signal.Ignore(syscall.SIGTERM)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		_ = c.Close()
	}
}

func TestRowsOfThePerformanceTable(t *testing.T) {
	for name, want := range map[string]int{"mqtt": 14, "kafka": 10} {
		p := protocols[name]
		rows, err := p.parseRows(strings.NewReader(p.rows))
		if err != nil || len(rows) != want || p.name != name {
			t.Fatalf("%s: %d rows, %v", name, len(rows), err)
		}
	}
	parseRows := protocols["mqtt"].parseRows
	for _, bad := range []string{"no colon", "x: nonsense --qos 1", "x: "} {
		if _, err := parseRows(strings.NewReader("# passed over\n\n" + bad)); err == nil || !strings.Contains(err.Error(), "line 3") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParsePeer(t *testing.T) {
	p, err := parsePeer("ours=127.0.0.1:1883,12,13")
	if err != nil || p.name != "ours" || p.addr != "127.0.0.1:1883" || len(p.pids) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "x", "x=addr", "=addr,1", "x=addr,y", "x=addr,-1"} {
		if _, err := parsePeer(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func silently(loud ...noise) func([]string, func()) noise {
	return func(_ []string, run func()) noise {
		run()
		if len(loud) == 0 {
			return noise{}
		}
		n := loud[0]
		loud = loud[1:]
		return n
	}
}

func TestTable(t *testing.T) {
	sources := []*source{{name: "ours", running: &peer{name: "ours"}}, {name: "theirs", running: &peer{name: "theirs"}}}
	var order []string
	fake := func(_ context.Context, p peer, _ row) (*bench.Result, error) {
		order = append(order, p.name)
		n := float64(len(order))
		res := &bench.Result{OK: true, Scenario: "pairs", Server: &bench.Server{CPUPerMessage: n}, Rates: bench.Rates{ReceivedPerSecond: 1000 * n}}
		switch {
		case len(order) == 6:
			res.OK, res.Violations = false, []string{"LOST: 1"}
		case len(order) == 7:
			return nil, errors.New("gone")
		}
		return res, nil
	}
	var out strings.Builder
	m := measurement{out: &out, progress: io.Discard, sources: sources, rounds: 4, run: fake, listen: silently()}
	err := m.measure(t.Context(), []row{{name: "row"}})
	if err == nil || strings.Join(order, " ") != strings.Repeat("ours theirs ", 3)+"ours theirs" {
		t.Errorf("%v, order %v", err, order)
	}
	for _, line := range []string{
		"| scenario | figure | ours | theirs | ratio |",
		"| row | CPU µs/message | 3.00 (1.00 to 5.00) | 4.00 (2.00 to 8.00) | 1.67 (1.33 to 2.00) |",
		"| row | received/s | 3000 (1000 to 5000) | 4000 (2000 to 8000) | 1.67 (1.33 to 2.00) |",
		"- row, round 4, ours: no result: gone", "- row, round 3, theirs: LOST: 1",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}

// A round in which others had too much of the machine does not count, is said, and is run again.
func TestVoidRounds(t *testing.T) {
	sources := []*source{{name: "ours", running: &peer{}}, {name: "theirs", running: &peer{}}}
	runs := 0
	fake := func(context.Context, peer, row) (*bench.Result, error) {
		runs++
		return &bench.Result{OK: true, Server: &bench.Server{CPUPerMessage: float64(runs)}}, nil
	}
	var out strings.Builder
	m := measurement{out: &out, progress: io.Discard, sources: sources, rounds: 2, retries: 2, loud: 0.1, run: fake,
		listen: silently(noise{}, noise{other: 0.5}, noise{stolen: 0.2}, noise{}, noise{other: 0.05})}
	if err := m.measure(t.Context(), []row{{name: "row"}}); err != nil || runs != 8 {
		t.Errorf("%v, %d runs", err, runs)
	}
	for _, line := range []string{
		"| row | CPU µs/message | 6.00 (5.00 to 7.00) | 7.00 (6.00 to 8.00) | 1.17 (1.14 to 1.20) |",
		"- row, round 1: other work took 50 % of the machine, more than the 10 % allowed",
		"- row, round 2: the host took 20 % of the machine away, more than the 10 % allowed",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
	m.listen = silently(slices.Repeat([]noise{{other: 1}}, 8)...)
	if err := m.measure(t.Context(), []row{{name: "row"}}); err == nil || !strings.Contains(out.String(), "row: 0 rounds of 2") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestNoise(t *testing.T) {
	before, ok1 := parseMachineTimes("cpu  100 0 100 1000 50 0 10 20 0 0")
	after, ok2 := parseMachineTimes("cpu  150 10 120 1100 60 0 20 30 0 0")
	if _, bad := parseMachineTimes("intr 1 2 3 4 5 6 7 8 9"); !ok1 || !ok2 || bad {
		t.Fatal("not read as it should be")
	}
	// 90 ticks busy, 110 idle, 10 stolen; 48 of the busy ones are the measurement's.
	if n := noiseBetween(before, after, 480*time.Millisecond); n.other != 0.2 || n.stolen*210 < 9.99 || n.stolen*210 > 10.01 {
		t.Errorf("%+v", n)
	}
	if n := noiseBetween(before, before, 0); n != (noise{}) {
		t.Errorf("%+v", n)
	}
}

// as is a source that starts this test as a broker.
func as(t *testing.T, kind string) *source {
	t.Helper()
	st, err := findStarter(kind+"="+os.Args[0]+" as-"+kind+" {port}", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	s := &source{name: kind, starter: st, place: place{dir: t.TempDir()}}
	t.Cleanup(s.stop)
	return s
}

func TestStartedBroker(t *testing.T) {
	was := endPatience
	t.Cleanup(func() { endPatience = was })
	for _, kind := range []string{"good", "deaf"} {
		s := as(t, kind)
		p, err := s.acquire(t.Context())
		if err != nil || len(p.pids) != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		again, err := s.acquire(t.Context())
		if err != nil || again.addr != p.addr {
			t.Errorf("%+v, %v: it runs already", again, err)
		}
		if kind == "deaf" {
			endPatience = 100 * time.Millisecond
		}
		s.release()
		if c, err := net.Dial("tcp", p.addr); err == nil {
			_ = c.Close()
			t.Errorf("%s still serves", kind)
		}
		if left, _ := os.ReadDir(s.place.dir); len(left) > 0 {
			t.Errorf("%s has left %v", kind, left)
		}
	}
	if _, err := as(t, "broken").acquire(t.Context()); err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("%v: what it said is missing", err)
	}
}

// A script that starts a broker and returns says what it has started, and stops it.
func TestKafkaByScript(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no shell")
	}
	dir := t.TempDir()
	script := dir + "/peer.sh"
	text := "#!/bin/sh\ncase $1 in\nstart) echo starting; echo 123 456 ;;\nstop) touch " + dir + "/stopped ;;\nesac\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KAFKA_PEER", script)
	st, err := findStarter("kafka", "kafka")
	if err != nil {
		t.Fatal(err)
	}
	s := &source{name: "kafka", starter: st, place: place{dir: dir}}
	p, err := s.acquire(t.Context())
	if err != nil || !slices.Equal(p.pids, []string{"123", "456"}) {
		t.Errorf("%+v, %v", p, err)
	}
	s.release()
	if _, err := os.Stat(dir + "/stopped"); err != nil {
		t.Error(err)
	}
}

// What is missing is said with how to get it, of all peers at once, before anything runs.
func TestMissingPeers(t *testing.T) {
	t.Setenv("MOSQUITTO", "/nowhere/mosquitto")
	t.Setenv("FLASHMQ", "/nowhere/flashmq")
	s := settings{protocol: "mqtt", binary: "/nowhere/sluice"}
	for _, name := range []string{"ours", "mosquitto", "flashmq", "kafka", "nobody", "x=/nowhere/x {port}"} {
		s.sources = append(s.sources, &source{name: name, starter: starter{name: name}})
	}
	err := s.prepare(t.TempDir())
	if err == nil {
		t.Fatal("all were found")
	}
	for _, want := range []string{"make build", "MOSQUITTO=", "FLASHMQ=", "PROTOCOL=kafka", `no peer "nobody"`, "/nowhere/x"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %s in\n%v", want, err)
		}
	}
}

func TestSplit(t *testing.T) {
	for list, want := range map[string]int{"a": 1, "a,b": 2, "a b": 2, "a;x=/bin/x --list 1,2 {port}": 2} {
		if got := split(list); len(got) != want {
			t.Errorf("%q: %q", list, got)
		}
	}
}
