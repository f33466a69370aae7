package scenarios_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/scenarios"
	"github.com/sluicemq/sluice/internal/testx"
)

// wrongs are what a broker may do; each is done from the 25th message on, to one in ten, or for good.
var wrongs = map[string]struct {
	mqtt  brokertest.Faults
	kafka brokertest.KafkaFaults
}{
	"drops":    {brokertest.Faults{From: from, DropEvery: 10}, brokertest.KafkaFaults{From: from, DropEvery: 10}},
	"doubles":  {brokertest.Faults{From: from, DoubleEvery: 10}, brokertest.KafkaFaults{From: from, DoubleEvery: 10}},
	"reorders": {brokertest.Faults{From: from, ReorderEvery: 10}, brokertest.KafkaFaults{From: from, ReorderEvery: 10}},
	"corrupts": {brokertest.Faults{From: from, CorruptEvery: 10}, brokertest.KafkaFaults{From: from, CorruptEvery: 10}},
	"stalls":   {brokertest.Faults{From: from, StallAfter: from}, brokertest.KafkaFaults{StallAfter: from}},
	"dies":     {brokertest.Faults{DieAfter: from}, brokertest.KafkaFaults{DieAfter: from}},
}

const from = 25

// found is what a run must say of a wrong: a violation that begins with one of the words, with its second; or an error of the run.
type found struct {
	words   string // with a bar between them
	err     string
	counted bool   // duplicates at QoS 1, which the broker may make: in the counts alone
	nothing string // why there is nothing to be found
}

// mustSay says it of each load. A load that is missing here fails the test.
func mustSay(l *scenarios.Part, qos1 bool, wrong string) found {
	switch l.Kind {
	case "idle", "storm": // nothing but connections: the same is done to the answers to CONNECT
		switch wrong {
		case "reorders":
			return found{nothing: "a connection gets one packet: it has no order"}
		case "drops", "stalls":
			return found{err: "cannot connect"}
		}
		return found{words: "DISCONNECTED|NOT CONNECTED|DIED"}
	case "groups": // members read nothing: the same is done to what they are given
		switch wrong {
		case "reorders":
			return found{nothing: "an assignment has no order"}
		case "drops":
			return found{err: "not every partition has its member"}
		case "stalls", "dies":
			return found{err: "group|connection|timeout|EOF|reset"}
		}
		return found{words: map[string]string{"doubles": "DOUBLE", "corrupts": "STRAY"}[wrong]}
	case "retained":
		if wrong == "reorders" {
			return found{nothing: "retained messages have no order among themselves"}
		}
	case "transactions", "produce", "consume", "e2e", "partitions":
		switch wrong {
		case "stalls":
			return found{words: "UNANSWERED|LOST|STALLED"}
		case "reorders": // a record that is held back when nothing comes behind it any more is one that never came
			return found{words: "REORDERED|LOST"}
		}
	case "bound":
		switch wrong {
		case "stalls":
			return found{words: "LOST|STALLED"}
		case "dies":
			return found{words: "DIED|DISCONNECTED|LOST"}
		}
	case "pairs", "fanout", "fanin", "shared", "wildcards", "queue", "reconnect":
	default:
		return found{words: "a load that nobody has said anything of"}
	}
	if wrong == "doubles" && qos1 {
		return found{counted: true}
	}
	return found{words: map[string]string{"drops": "LOST", "doubles": "DUPLICATES", "reorders": "REORDERED", "corrupts": "CORRUPT",
		"stalls": "LOST|STALLED", "dies": "DI|NOT CONNECTED"}[wrong]}
}

// TestEveryFaultIsFoundInEveryScenario runs each standard file against a broker that does each wrong. What is found has its second: not
// before the broker began (a loss is of the second in which it was to be sent), and not after the run.
func TestEveryFaultIsFoundInEveryScenario(t *testing.T) {
	cert := testx.TempCert(t)
	names := scenarios.Standard()
	if len(names) < 35 {
		t.Fatalf("%d standard scenarios", len(names))
	}
	slots := make(chan struct{}, 8) // runs wait more than they work
	var all sync.WaitGroup
	for _, name := range names {
		for wrong := range wrongs {
			all.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				var err error
				// What does not come is waited for, and few messages may give a fault nothing to be seen by, as a held one needs another of its publisher
				// to the same session behind it: a busy machine gets more of both.
				for _, size := range []runSize{{"1s", "150ms"}, {"5s", "1s"}, {"20s", "4s"}} {
					if err = findFault(t, cert, name, wrong, size); err == nil {
						return
					}
				}
				t.Errorf("%s, a broker that %s: %v", name, wrong, err)
			})
		}
	}
	all.Wait()
}

// runSize is how long a run waits for answers, and how long it sends by a timetable.
type runSize struct{ timeout, duration string }

func findFault(t *testing.T, cert *testx.Cert, name, wrong string, size runSize) error {
	t.Helper()
	file := shrunk(t, name, "drain=100ms", "timeout="+size.timeout, "batch-bytes=1", "linger=0s")
	for _, p := range file.Parts {
		if err := p.Set("duration", size.duration); err != nil && !strings.Contains(err.Error(), "unknown key") {
			return err
		}
	}
	if load := file.Parts[0]; load.Protocol == scenarios.Kafka && load.Rate() == 0 && load.Kind != "groups" {
		if err := load.Set("records", "150"); err != nil {
			return err
		}
	}
	load := file.Parts[len(file.Parts)-1] // of the mixed fleet: a stream; its other loads have files of their own
	text := string(file.Text)
	want := mustSay(load, load.Protocol == scenarios.MQTT && load.Kind != "retained" && strings.Contains(text, "qos: 1"), wrong)
	if want.nothing != "" {
		return nil
	}
	f := wrongs[wrong]
	switch load.Kind {
	case "idle", "storm":
		f.mqtt.Connects = true
	case "groups":
		f.kafka = brokertest.KafkaFaults{DropEvery: f.kafka.DropEvery / 2, DoubleEvery: f.kafka.DoubleEvery / 2, CorruptEvery: f.kafka.CorruptEvery / 2,
			StallAfter: f.kafka.StallAfter / 5, DieAfter: f.kafka.DieAfter / 5}
	case "bound":
		f.mqtt = brokertest.Faults{}
	}
	if file.Protocol == scenarios.Mixed {
		f.mqtt = brokertest.Faults{}
	}
	kafka := brokertest.StartKafka(t, f.kafka)
	b := brokertest.Start(t, standardOptions(file, cert, f.mqtt, kafka))
	defer kafka.Close()
	defer b.Close()
	to := &scenarios.Target{URLs: map[string]string{"mqtt": b.URL(), "kafka": kafka.URL()}, TLS: cert.ClientConfig(false)}
	start := time.Now()
	res, err := file.Run(t.Context(), to)
	t.Logf("%s, a broker that %s: %.1f s", name, wrong, time.Since(start).Seconds())
	if res == nil {
		res = &bench.Result{}
	}
	if want.err != "" && err != nil && containsAny(err.Error(), want.err) {
		return nil
	}
	if want.counted && err == nil && len(res.Violations) == 0 && res.Counts.Duplicates > 0 {
		return nil
	}
	first := b.FirstWrong()
	if first.IsZero() {
		first = kafka.FirstWrong()
	}
	for _, x := range res.Faults {
		if want.words == "" || !containsAny(x.Kind, want.words) {
			continue
		}
		if x.Last < x.First || x.Last == 0 || x.Last > time.Since(start).Seconds() {
			return fmt.Errorf("%+v in a run of %v", x, time.Since(start))
		}
		if began := first.Sub(start).Seconds(); !first.IsZero() && x.Kind != "LOST" && x.First < began-0.25 {
			return fmt.Errorf("%+v, and the broker began at %.3f s", x, began)
		}
		return nil
	}
	return fmt.Errorf("want %+v; found %q, counts %+v, error %w", want, res.Violations, res.Counts, err)
}

func containsAny(text, words string) bool {
	for word := range strings.SplitSeq(words, "|") {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
