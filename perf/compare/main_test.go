package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/bench"
)

func TestRowsOfThePerformanceTable(t *testing.T) {
	for name, want := range map[string]int{"mqtt": 13, "kafka": 10} {
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

func TestTable(t *testing.T) {
	peers := []peer{{name: "ours"}, {name: "theirs"}}
	var order []string
	fake := func(p peer, r row) (*bench.Result, error) {
		order = append(order, p.name)
		n := float64(len(order))
		res := &bench.Result{OK: true, Scenario: "pairs", Server: &bench.Server{CPUPerMessage: n}, Rates: bench.Rates{ReceivedPerSecond: 1000 * n}}
		switch {
		case len(order) == 6:
			res.OK, res.Violations = false, []string{"LOST: 1"}
		case len(order) == 5:
			return nil, errors.New("gone")
		}
		return res, nil
	}
	var out strings.Builder
	err := measure(&out, []row{{name: "row"}}, peers, 3, fake, io.Discard)
	if err == nil || strings.Join(order, " ") != "ours theirs ours theirs ours theirs" {
		t.Errorf("%v, order %v", err, order)
	}
	for _, line := range []string{
		"| scenario | figure | ours | theirs | ratio |",
		"| row | CPU µs/message | 2.00 (1.00 to 3.00) | 3.00 (2.00 to 4.00) | 1.50 |",
		"| row | received/s | 2000 (1000 to 3000) | 3000 (2000 to 4000) | 1.50 |",
		"- row, ours: no result: gone", "- row, theirs: LOST: 1",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}
