package bench_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
)

// severalKafka is a run against a fake broker of three nodes.
func severalKafka(scenario, url string) bench.KafkaConfig {
	k := smallKafka(scenario, url)
	k.Partitions, k.PIDs, k.Drain, k.Messages, k.Rate = 6, nil, 5*time.Second, 4000, 10_000
	return k
}

// What a node led another one leads in the midst of a run, its connections are cut, and for a while it takes none: all is there once and in order,
// by each scenario that has load, with and without a timetable.
func TestRunSurvivesChangesOfLeaders(t *testing.T) {
	for _, scenario := range []string{"produce", "e2e", "partitions"} {
		for name, change := range map[string]func(b *brokertest.Kafka){
			"moved":  func(b *brokertest.Kafka) { b.Move(1, 2); b.Move(3, 1); b.Move(2, 3) },
			"nobody": func(b *brokertest.Kafka) { b.Move(2, 0); time.AfterFunc(50*time.Millisecond, func() { b.Move(0, 3) }) },
			"away": func(b *brokertest.Kafka) {
				b.Away(2, true)
				time.AfterFunc(30*time.Millisecond, func() { b.Move(2, 1) })
			},
			"back": func(b *brokertest.Kafka) {
				b.Away(3, true)
				time.AfterFunc(40*time.Millisecond, func() { b.Away(3, false) })
			},
		} {
			for _, rate := range []float64{0, 10_000} {
				t.Run(scenario+"/"+name, func(t *testing.T) {
					t.Parallel()
					b := brokertest.StartKafka(t, brokertest.KafkaFaults{Nodes: 3})
					k := severalKafka(scenario, b.URL())
					k.Rate = rate
					b.After(30, func() { change(b) })
					res := mustRunKafka(t, k)
					c, x := &res.Counts, res.Kafka
					if !res.OK || c.Sent != 4000 || c.Acked != 4000 || c.Lost+c.Duplicates+c.Reordered+c.Unacknowledged > 0 || !x.Verified || c.Received != 4000 {
						t.Errorf("%q, %+v, notes %v", res.Violations, c, res.Notes)
					}
					if x.Passing+x.Cut == 0 || len(x.Nodes) != 3 || x.Pauses == nil || x.Pauses.Partitions != 12 {
						t.Errorf("%d passing, %d cut, nodes %+v, pauses %+v", x.Passing, x.Cut, x.Nodes, x.Pauses)
					}
					var acked uint64
					for _, n := range x.Nodes {
						acked += n.Acked
					}
					if acked != c.Acked {
						t.Errorf("%d acknowledged by the nodes, %d in all", acked, c.Acked)
					}
				})
			}
		}
	}
}

// A partition that nobody leads for a while is without an acknowledgement for as long, and that is a fault where no more than less is allowed.
func TestPauseIsMeasured(t *testing.T) {
	b := brokertest.StartKafka(t, brokertest.KafkaFaults{Nodes: 3})
	k := severalKafka("produce", b.URL())
	k.Rate, k.PauseMax = 8000, 200*time.Millisecond
	b.After(100, func() {
		b.Move(2, 0)
		time.AfterFunc(300*time.Millisecond, func() { b.Move(0, 1) })
	})
	res := mustRunKafka(t, k)
	p := res.Kafka.Pauses
	if p == nil || p.Longest < 250 || p.Worst[0].Partition%3 != 1 || p.Worst[0].Millis != p.Longest || p.Worst[0].Second <= 0.25 {
		t.Fatalf("%+v", p)
	}
	if res.OK || len(res.Violations) != 1 || !strings.HasPrefix(res.Violations[0], "PAUSED: ") || res.Counts.Lost+res.Counts.Duplicates > 0 {
		t.Errorf("%q, %+v", res.Violations, res.Counts)
	}
	var table bytes.Buffer
	if err := res.WriteTable(&table); err != nil || !strings.Contains(table.String(), "longest pause") || !strings.Contains(table.String(), "node 3") {
		t.Errorf("%v\n%s", err, table.String())
	}
	k.PauseMax = 0
	if res := mustRunKafka(t, k); !res.OK || res.Kafka.Moves > 0 {
		t.Errorf("%q, %d moves", res.Violations, res.Kafka.Moves)
	}
}

// What is stored and not answered is sent again: with an idempotent producer it is there once, without one twice, which is counted, and no fault.
func TestUnansweredIsSentAgain(t *testing.T) {
	for _, plain := range []bool{false, true} {
		b := brokertest.StartKafka(t, brokertest.KafkaFaults{Nodes: 3, CutEvery: 50})
		k := severalKafka("produce", b.URL())
		k.Plain = plain
		res := mustRunKafka(t, k)
		c, x := &res.Counts, res.Kafka
		if !res.OK || c.Acked != 4000 || c.Lost > 0 || x.Resent == 0 || x.Cut == 0 {
			t.Errorf("plain %v: %q, %+v, %d sent again, %d cut", plain, res.Violations, c, x.Resent, x.Cut)
		}
		if plain != (c.Duplicates > 0) || plain != (x.MaybeTwice > 0) || c.Duplicates > x.MaybeTwice {
			t.Errorf("plain %v: %d twice, %d may be", plain, c.Duplicates, x.MaybeTwice)
		}
	}
}

// A run begins at any of the addresses it is given.
func TestSeveralAddresses(t *testing.T) {
	b := brokertest.StartKafka(t, brokertest.KafkaFaults{Nodes: 3})
	k := severalKafka("e2e", "kafka://127.0.0.1:1,"+strings.TrimPrefix(b.URL(), "kafka://"))
	if res := mustRunKafka(t, k); !res.OK || res.Counts.Received != 4000 {
		t.Errorf("%q, %+v", res.Violations, res.Counts)
	}
	for _, url := range []string{"kafka://a:1,kafkas://b:1", "kafka://a:1,mqtt://b:1"} {
		k.URL = url
		if err := k.Check(); err == nil {
			t.Errorf("%s: taken", url)
		}
	}
}
