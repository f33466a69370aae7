package bench_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/server"
)

// smallKafka is a run of each scenario that takes a fraction of a second.
func smallKafka(scenario, url string) bench.KafkaConfig {
	k := bench.KafkaConfig{Topics: 2, Partitions: 3, Keys: 2, BatchBytes: 400, Acks: -1, FetchWait: 20 * time.Millisecond,
		Commit: 20 * time.Millisecond, AbortEvery: 2, Heartbeat: 5 * time.Millisecond}
	k.Scenario, k.URL, k.Payload, k.Publishers, k.Subscribers, k.Messages = scenario, url, 64, 2, 2, 2000
	k.Drain, k.ConnectTimeout, k.PIDs, k.Seed, k.Duration = 300*time.Millisecond, 5*time.Second, []int{os.Getpid()}, 7, 50*time.Millisecond
	k.LateMax = time.Hour // a busy machine is no fault
	switch scenario {
	case "e2e", "transactions":
		k.Rate = 20_000
	case "groups":
		k.Partitions = 12
	}
	return k
}

func mustRunKafka(t *testing.T, k bench.KafkaConfig) *bench.Result {
	t.Helper()
	res, err := bench.RunKafka(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// node starts a real node and gives the address of its Kafka listener.
func node(t *testing.T, set ...string) string {
	t.Helper()
	at := listeners(t, set...)
	if addr := at["kafka.tls"]; addr != "" {
		return "kafkas://" + addr
	}
	return "kafka://" + at["kafka.tcp"]
}

// listeners starts a real node and gives its addresses.
func listeners(t *testing.T, set ...string) map[string]string {
	t.Helper()
	loaded, err := config.Load(config.LoadOptions{Set: append(append(testx.Listeners("kafka.tcp"), "node.data="+t.TempDir()), set...)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(loaded.Config, server.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return ready.Listeners
}

func TestEveryKafkaScenarioPassesOnANode(t *testing.T) {
	url := node(t)
	for _, scenario := range bench.KafkaScenarios() {
		if scenario == "bound" {
			continue // needs a binding
		}
		for _, threads := range []int{1, 2} {
			k := smallKafka(scenario, url)
			k.Threads, k.Drain = threads, 5*time.Second
			res := mustRunKafka(t, k)
			// What is due when a machine comes back from a standstill is one transaction: there may be none to be aborted.
			for again := 0; scenario == "transactions" && res.OK && (res.Kafka.Committed == 0 || res.Kafka.Aborted == 0) && again < 10; again++ {
				res = mustRunKafka(t, k)
			}
			if !res.OK || len(res.Violations) > 0 || len(res.Notes) > 0 {
				t.Errorf("%s: %q, %v", scenario, res.Violations, res.Notes)
			}
			c, x := &res.Counts, res.Kafka
			if scenario == "groups" {
				if x.Assigned == nil || x.Assigned.Count != 4 {
					t.Errorf("groups: assigned %+v", x.Assigned)
				}
				continue
			}
			if c.Sent != 2000 || c.Acked != 2000 || !x.Verified {
				t.Errorf("%s: %+v, verified %v", scenario, c, x.Verified)
			}
			switch scenario {
			case "transactions":
				if x.Commits == nil || x.Committed == 0 || x.Aborted == 0 || c.Received >= 2000 || c.Received == 0 {
					t.Errorf("transactions: %+v, %+v", x, c)
				}
			case "consume":
				if x.Passes < 6 || c.Received < 2000 || x.CPUPerMB < 0 {
					t.Errorf("consume: %+v, %+v", x, c)
				}
			default:
				if c.Received != 2000 {
					t.Errorf("%s: %d received", scenario, c.Received)
				}
			}
			if scenario == "e2e" && (res.Latency == nil || res.Latency.Count == 0 || x.Acknowledged == nil) {
				t.Errorf("e2e: latency %+v, acknowledged %+v", res.Latency, x.Acknowledged)
			}
		}
	}
}

func TestKafkaSettingsPassOnANode(t *testing.T) {
	url := node(t)
	for name, change := range map[string]func(*bench.KafkaConfig){
		"acks 0":           func(k *bench.KafkaConfig) { k.Acks = 0 },
		"acks 1":           func(k *bench.KafkaConfig) { k.Acks = 1 },
		"plain":            func(k *bench.KafkaConfig) { k.Plain, k.Inflight = true, 20 },
		"gzip":             func(k *bench.KafkaConfig) { k.Compression = "gzip" },
		"snappy":           func(k *bench.KafkaConfig) { k.Compression = "snappy" },
		"lz4":              func(k *bench.KafkaConfig) { k.Compression = "lz4" },
		"zstd":             func(k *bench.KafkaConfig) { k.Compression = "zstd" },
		"a record a batch": func(k *bench.KafkaConfig) { k.BatchBytes = 1 },
		"linger":           func(k *bench.KafkaConfig) { k.Rate, k.Linger = 50_000, 2*time.Millisecond },
		"no keys":          func(k *bench.KafkaConfig) { k.Keys = 0 },
		"many producers":   func(k *bench.KafkaConfig) { k.Publishers = 11 },
		"small fetches":    func(k *bench.KafkaConfig) { k.FetchMax, k.FetchPartitionMax = 2000, 500 },
		"topic's setting":  func(k *bench.KafkaConfig) { k.TopicSettings = [][2]string{{"retention.ms", "1000000"}} },
	} {
		for _, scenario := range []string{"produce", "e2e"} {
			k := smallKafka(scenario, url)
			k.Drain = 5 * time.Second
			change(&k)
			res := mustRunKafka(t, k)
			if !res.OK || res.Counts.Received != 2000 || len(res.Notes) > 0 {
				t.Errorf("%s, %s: %q, %+v, %v", scenario, name, res.Violations, res.Counts, res.Notes)
			}
		}
	}
}

// TestKafkaFaultsAreFound lets a broker do each kind of wrong in each scenario that reads records.
func TestKafkaFaultsAreFound(t *testing.T) {
	scenarios := []string{"produce", "consume", "e2e", "transactions", "partitions"}
	for name, f := range map[string]struct {
		faults brokertest.KafkaFaults
		word   string
		in     []string
	}{
		"drops":       {brokertest.KafkaFaults{DropEvery: 50}, "LOST", scenarios},
		"doubles":     {brokertest.KafkaFaults{DoubleEvery: 50}, "DUPLICATES", scenarios},
		"reorders":    {brokertest.KafkaFaults{ReorderEvery: 50}, "REORDERED", []string{"produce", "consume", "e2e", "partitions"}},
		"corrupts":    {brokertest.KafkaFaults{CorruptEvery: 50}, "CORRUPT", scenarios},
		"tears":       {brokertest.KafkaFaults{TearEvery: 50}, "CORRUPT", scenarios},
		"strays":      {brokertest.KafkaFaults{StrayEvery: 50}, "STRAY", scenarios},
		"refuses":     {brokertest.KafkaFaults{RefuseEvery: 50}, "REFUSED", scenarios},
		"stalls":      {brokertest.KafkaFaults{StallAfter: 50}, "UNANSWERED", scenarios},
		"cuts":        {brokertest.KafkaFaults{CloseAfter: 50}, "DISCONNECTED", scenarios},
		"dies":        {brokertest.KafkaFaults{DieAfter: 50}, "DI", scenarios},
		"shows":       {brokertest.KafkaFaults{ShowAborted: true}, "ABORTED", []string{"transactions"}},
		"shares all":  {brokertest.KafkaFaults{ShareAll: true}, "DOUBLE", []string{"groups"}},
		"is sound":    {brokertest.KafkaFaults{}, "", append([]string{"groups"}, scenarios...)},
		"never ready": {brokertest.KafkaFaults{RefuseEvery: 1}, "error", []string{"groups"}},
	} {
		for _, scenario := range f.in {
			t.Run(name+"/"+scenario, func(t *testing.T) {
				t.Parallel()
				b := brokertest.StartKafka(t, f.faults)
				k := smallKafka(scenario, b.URL())
				k.Drain = 100 * time.Millisecond
				if f.word == "UNANSWERED" || f.word == "DISCONNECTED" || f.word == "DI" {
					k.ConnectTimeout = 200 * time.Millisecond
				}
				if f.word == "" {
					k.Drain = 5 * time.Second
				}
				res, err := bench.RunKafka(t.Context(), k)
				for again := 0; f.faults.ShowAborted && err == nil && res.Kafka.Aborted == 0 && again < 10; again++ { // there was none to be shown: see above
					res, err = bench.RunKafka(t.Context(), k)
				}
				if f.word == "error" {
					if err == nil || !strings.Contains(err.Error(), "TOPIC_AUTHORIZATION_FAILED") {
						t.Errorf("%v", err)
					}
					return
				}
				if err != nil && f.word == "DI" && res != nil && len(res.Violations) > 0 {
					return // the control connection met it first
				}
				if err != nil {
					t.Fatal(err)
				}
				if f.word == "" {
					if !res.OK {
						t.Errorf("found %q; counts %+v, notes %v", res.Violations, res.Counts, res.Notes)
					}
				} else if res.OK || !strings.Contains(strings.Join(res.Violations, "\n"), f.word) {
					t.Errorf("found %q, not %s; counts %+v, notes %v", res.Violations, f.word, res.Counts, res.Notes)
				}
				if n := b.Topics(); n != 0 && f.word != "UNANSWERED" && f.word != "DI" {
					t.Errorf("%d topics are left behind", n)
				}
			})
		}
	}
}

func TestKafkaLossMayBeAllowed(t *testing.T) {
	b := brokertest.StartKafka(t, brokertest.KafkaFaults{})
	k := smallKafka("produce", b.URL())
	k.Acks, k.AllowLoss = 1, true
	if res := mustRunKafka(t, k); !res.OK {
		t.Errorf("%q", res.Violations)
	}
	lossy := brokertest.StartKafka(t, brokertest.KafkaFaults{DropEvery: 10})
	k.URL = lossy.URL()
	if res := mustRunKafka(t, k); res.OK || res.Counts.Lost == 0 {
		t.Errorf("what was acknowledged may not be lost: %q", res.Violations)
	}
}

// bob is a line of a password file; his password is "secret".
const bob = "bob:$argon2id$v=19$m=19456,t=2,p=1$3UHAVnQxKRIQRwbgH/ibGA$sJLkMTY02qI6mA8AnP9cidgoGALirAX78yBkVOVG2c8"

func TestKafkaOverTLSWithLogin(t *testing.T) {
	cert := testx.TempCert(t)
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte(bob+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := node(t, "listeners.kafka.tcp=off", "listeners.kafka.tls=127.0.0.1:0", "tls.cert="+cert.ServerCertFile,
		"tls.key="+cert.ServerKeyFile, "auth.password_file="+users)
	k := smallKafka("e2e", url)
	k.TLS, k.Drain = cert.ClientConfig(false), 5*time.Second
	k.Username, k.Password = "bob", "secret"
	if res := mustRunKafka(t, k); !res.OK || res.Counts.Received != 2000 {
		t.Errorf("%q, %+v", res.Violations, res.Counts)
	}
	k.Password = "wrong"
	if _, err := bench.RunKafka(t.Context(), k); err == nil || !strings.Contains(err.Error(), "SASL_AUTHENTICATION_FAILED") {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestKafkaMisuse(t *testing.T) {
	for word, change := range map[string]func(*bench.KafkaConfig){
		"scenario":    func(k *bench.KafkaConfig) { k.Scenario = "nonsense" },
		"address":     func(k *bench.KafkaConfig) { k.URL = "mqtt://x" },
		"value":       func(k *bench.KafkaConfig) { k.Payload = 10 },
		"negative":    func(k *bench.KafkaConfig) { k.Partitions = -1 },
		"rate":        func(k *bench.KafkaConfig) { k.Rate = 1e9 },
		"acks":        func(k *bench.KafkaConfig) { k.Acks = 2 },
		"compression": func(k *bench.KafkaConfig) { k.Compression = "zip" },
		"in flight":   func(k *bench.KafkaConfig) { k.Inflight = 6 },
		"partitions":  func(k *bench.KafkaConfig) { k.Partitions = 2_000_000 },
		"named":       func(k *bench.KafkaConfig) { k.Scenario = "bound" },
	} {
		k := bench.KafkaConfig{Acks: -1}
		k.Scenario, k.URL = "produce", "127.0.0.1:1"
		change(&k)
		var bad *bench.MisuseError
		if _, err := bench.RunKafka(t.Context(), k); !errors.As(err, &bad) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", word, err)
		}
	}
}

func TestKafkaOutput(t *testing.T) {
	b := brokertest.StartKafka(t, brokertest.KafkaFaults{DropEvery: 100})
	res := mustRunKafka(t, smallKafka("produce", b.URL()))
	var table bytes.Buffer
	if err := res.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(table.String(), "LOST: ") || !strings.Contains(table.String(), "batches of 400") {
		t.Errorf("table:\n%s", table.String())
	}
	out, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{`"lost":`, `"ack_us":`, `"batch_bytes":400`, `"ok":false`} {
		if !bytes.Contains(out, []byte(key)) {
			t.Errorf("%s is not in %s", key, out)
		}
	}
	if slices.ContainsFunc(res.Violations, func(s string) bool { return strings.HasPrefix(s, "REFUSED") }) {
		t.Errorf("%q", res.Violations)
	}
}

// TestShortTransactionsOverManyPartitions has nearly every request name partitions that are not part of its transaction yet, with
// others behind it: a node once appended what came behind first, and refused the rest as out of order.
func TestShortTransactionsOverManyPartitions(t *testing.T) {
	k := smallKafka("transactions", node(t))
	k.Partitions, k.Keys, k.BatchBytes, k.Commit, k.AbortEvery, k.Drain = 8, 4, 300, time.Millisecond, 0, 5*time.Second
	k.Messages, k.Rate = 20_000, 30_000
	// On a busy machine a run has few transactions, for what is due goes into one; but one of each publisher at least.
	for committed := uint64(0); committed < 10; {
		res := mustRunKafka(t, k)
		if !res.OK || res.Counts.Received != 20_000 || res.Kafka.Committed < 2 {
			t.Fatalf("%q, %+v, %d transactions, %v", res.Violations, res.Counts, res.Kafka.Committed, res.Notes)
		}
		committed += res.Kafka.Committed
	}
}

func TestBoundTopic(t *testing.T) {
	at := listeners(t, "listeners.mqtt.tcp=127.0.0.1:0", "bindings=[{filter: 'sb/#', topic: bound, partitions: 4}]")
	k := smallKafka("bound", "kafka://"+at["kafka.tcp"])
	k.MQTT, k.Topic, k.Publishers, k.Inflight, k.Messages, k.Drain = "mqtt://"+at["mqtt.tcp"], "bound", 4, 10, 500, 5*time.Second
	for range 2 {
		res := mustRunKafka(t, k)
		if !res.OK || res.Counts.Received != 2000 || res.Latency == nil || len(res.Notes) > 0 {
			t.Errorf("%q, %+v, %v", res.Violations, res.Counts, res.Notes)
		}
	}
	k.Prefix, k.Drain, k.Messages = "elsewhere", 200*time.Millisecond, 10
	if res := mustRunKafka(t, k); res.OK || res.Counts.Lost != 40 || !strings.HasPrefix(res.Violations[0], "LOST") {
		t.Errorf("what is not bound does not come: %q", res.Violations)
	}
}
