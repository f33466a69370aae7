package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// KafkaConfig says what a run against a Kafka broker does. Zero values take the defaults named here; a scenario ignores what it
// has no use for. Of Config, Scenario, URL, TLS, Username, Password (SASL PLAIN), Rate, Warmup, Duration, Drain, ConnectTimeout,
// Spin, Keep, PIDs, Seed, Threads, Tool and Progress count as they do for MQTT; Publishers are producers and Subscribers
// consumers, each with a connection (1); Messages are records in all; Payload is the size of a value (1,024); Inflight is how
// many requests of a producer may be unanswered (5).
type KafkaConfig struct {
	Config
	Topics     int // 0: 1
	Partitions int // of each topic; 0: 1; groups: 12; partitions: 1,000
	Keys       int // distinct keys of each producer in each partition; 0: no keys, and one partition after the other fills a batch

	BatchBytes  int // 0: 16 KiB; a larger record is a batch of its own
	Linger      time.Duration
	Acks        int    // -1 (all), 0 or 1
	Compression string // none, gzip, snappy, lz4 or zstd; "": none
	Plain       bool   // no idempotent producers

	FetchWait         time.Duration // 0: 500 ms
	FetchMin          int           // bytes; 0: 1
	FetchMax          int           // 0: 50 MiB
	FetchPartitionMax int           // 0: 1 MiB
	SkipReadBack      bool          // produce, partitions: do not read what was stored

	Commit     time.Duration // transactions: from the first record to EndTxn; 0: 100 ms
	AbortEvery int           // transactions: which are aborted; 0: none

	Groups    int           // groups; 0: 4
	Members   int           // of each; 0: 3
	Heartbeat time.Duration // groups: at most between two heartbeats, if the broker wants them more seldom; 0: 50 ms

	Spread        bool        // the topics made have their leaders on several nodes: leader.spread=true
	TopicSettings [][2]string // name and value, of the topics made

	PauseMax time.Duration // a partition that is longer without an acknowledgement is a fault; 0: none is

	// bound: MQTT clients publish at QoS 1 below Prefix ("sb") to the broker at MQTT (mqtt://127.0.0.1:1883), whose configuration binds
	// Prefix/# to Topic. Publishers (64) are they, Inflight (20) and Rate theirs.
	MQTT, Prefix, Topic string
}

func (k *KafkaConfig) setDefaults() {
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	if k.Scenario == "bound" {
		def(&k.Payload, 64)
		def(&k.Inflight, 20)
		def(&k.Publishers, 64)
		k.Subscribers, k.QoS, k.Acks, k.Plain = 1, 1, -1, true
		if k.MQTT == "" {
			k.MQTT = "mqtt://127.0.0.1:1883"
		}
		if k.Prefix == "" {
			k.Prefix = "sb"
		}
	}
	def(&k.Payload, 1024)
	def(&k.Inflight, 5)
	def(&k.Publishers, 1)
	def(&k.Subscribers, 1)
	def(&k.Topics, 1)
	def(&k.BatchBytes, 16<<10)
	def(&k.FetchMin, 1)
	def(&k.FetchMax, 50<<20)
	def(&k.FetchPartitionMax, 1<<20)
	def(&k.Groups, 4)
	def(&k.Members, 3)
	if k.FetchWait == 0 {
		k.FetchWait = 500 * time.Millisecond
	}
	if k.Heartbeat == 0 {
		k.Heartbeat = 50 * time.Millisecond
	}
	if k.Compression == "" {
		k.Compression = "none"
	}
	switch k.Scenario {
	case "e2e":
		if k.Rate == 0 {
			k.Rate = 2000
		}
	case "transactions":
		if k.Rate == 0 {
			k.Rate = 20_000
		}
		if k.Commit == 0 {
			k.Commit = 100 * time.Millisecond
		}
	case "groups":
		def(&k.Partitions, 12)
	case "partitions":
		def(&k.Partitions, 1000)
		if k.Messages == 0 {
			k.Messages = 100 * uint64(k.Partitions) * uint64(k.Topics)
		}
	case "consume":
		k.Rate = 0
		if k.Messages == 0 {
			k.Messages = uint64(max(256<<20/k.Payload, 1))
		}
	}
	if k.Scenario != "transactions" {
		k.Commit, k.AbortEvery = 0, 0
	}
	def(&k.Partitions, 1)
	k.setSpread()
	k.Config.setDefaults()
}

// setSpread adds the setting that Spread stands for, once.
func (k *KafkaConfig) setSpread() {
	if spread := [2]string{"leader.spread", "true"}; k.Spread && !slices.Contains(k.TopicSettings, spread) {
		k.TopicSettings = append(slices.Clip(k.TopicSettings), spread)
	}
}

// Check refuses a configuration that cannot be run, as RunKafka does, with a MisuseError.
func (k *KafkaConfig) Check() error {
	full := *k
	full.setDefaults()
	return full.validate()
}

// validate refuses what cannot be run. It comes after setDefaults.
func (k *KafkaConfig) validate() error {
	if _, ok := kafkaScenarios[k.Scenario]; !ok {
		return misuse("scenario %q is none of %s", k.Scenario, strings.Join(KafkaScenarios(), ", "))
	}
	if _, err := parseKafkaList(k.URL); err != nil {
		return misuse("%v", err)
	}
	if _, err := codecOf(k.Compression); err != nil {
		return err
	}
	for _, n := range []int{k.Publishers, k.Subscribers, k.Topics, k.Partitions, k.Keys, k.BatchBytes, k.Inflight, k.FetchMin, k.FetchMax,
		k.FetchPartitionMax, k.AbortEvery, k.Groups, k.Members, k.Threads} {
		if n < 0 {
			return misuse("a number is negative")
		}
	}
	switch {
	case k.Payload < MinPayload:
		return misuse("a value of %d bytes cannot be verified: %d are needed", k.Payload, MinPayload)
	case k.Payload > 64<<20 || k.BatchBytes > 64<<20:
		return misuse("a record or batch is over 64 MiB")
	case k.Rate < 0 || k.Rate > RateMax:
		return misuse("a rate of %.0f records a second cannot be sent", k.Rate)
	case k.Topics*k.Partitions > 1_000_000:
		return misuse("%d partitions are over 1,000,000", k.Topics*k.Partitions)
	case k.Publishers > 10_000 || k.Subscribers > 10_000 || k.Groups*k.Members > 10_000:
		return misuse("more than 10,000 connections of a kind")
	case k.Acks < -1 || k.Acks > 1:
		return misuse("acks %d is none of -1, 0, 1", k.Acks)
	case k.Scenario == "transactions" && k.Acks != -1:
		return misuse("a transaction needs acks -1")
	case k.Scenario == "bound" && k.Topic == "":
		return misuse("the topic that the MQTT broker binds %s/# to is not named", k.Prefix)
	case k.Threads > 64:
		return misuse("%d threads are over 64", k.Threads)
	case k.Linger < 0 || k.PauseMax < 0 || k.Commit < 0 || k.Heartbeat < 0 || k.FetchWait < 0:
		return misuse("a duration is negative")
	case k.Inflight > 5 && k.idempotent():
		return misuse("%d requests in flight: an idempotent producer may have 5", k.Inflight)
	}
	return nil
}

// idempotent tells whether producers have ids.
func (k *KafkaConfig) idempotent() bool { return k.Commit > 0 || k.Acks == -1 && !k.Plain }

func codecOf(name string) (compress.Settings, error) {
	for i, c := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		if c == name {
			return compress.Settings{Codec: record.Codec(i)}, nil
		}
	}
	return compress.Settings{}, misuse("compression %q is none of none, gzip, snappy, lz4, zstd", name)
}

// bootstrapMax bounds how many addresses a run may begin at.
const bootstrapMax = 100

// parseKafkaList reads one address or several, divided by commas. What comes before :// in the first one counts for all.
func parseKafkaList(s string) ([]mqttclient.Target, error) {
	scheme := ""
	if i := strings.Index(s, "://"); i >= 0 {
		scheme = s[:i+3]
	}
	var list []mqttclient.Target
	for i, part := range strings.Split(s, ",") {
		if i > 0 && !strings.Contains(part, "://") {
			part = scheme + part
		}
		t, err := parseKafka(part)
		if err != nil {
			return nil, err
		}
		if list = append(list, t); t.TLS != list[0].TLS {
			return nil, fmt.Errorf("address %q: either all are with TLS or none is", part)
		}
	}
	if len(list) > bootstrapMax {
		return nil, fmt.Errorf("%d addresses are over %d", len(list), bootstrapMax)
	}
	return list, nil
}

// parseKafka reads kafka://host:port, kafkas:// (TLS), or host:port alone. The port is 9092 by default, 9093 with TLS.
func parseKafka(s string) (mqttclient.Target, error) {
	if !strings.Contains(s, "://") {
		s = "kafka://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return mqttclient.Target{}, fmt.Errorf("address %q: %w", s, err)
	}
	if u.Scheme != "kafka" && u.Scheme != "kafkas" || u.User != nil || u.Path != "" && u.Path != "/" {
		return mqttclient.Target{}, fmt.Errorf("address %q is not kafka://host:port or kafkas://host:port", u.Redacted())
	}
	t := mqttclient.Target{Network: "tcp", Host: u.Hostname(), TLS: u.Scheme == "kafkas"}
	port := u.Port()
	if t.Host == "" {
		t.Host = "127.0.0.1"
	}
	if port == "" {
		port = "9092"
		if t.TLS {
			port = "9093"
		}
	}
	t.Addr = net.JoinHostPort(t.Host, port)
	return t, nil
}

// kafkaScenario is one kind of load.
type kafkaScenario struct {
	name  string
	about string
	run   func(*kafkaRun) error
}

var kafkaScenarios map[string]kafkaScenario

func init() {
	kafkaScenarios = map[string]kafkaScenario{}
	for _, s := range []kafkaScenario{
		{"produce", "producers; what they stored is read and verified afterwards", runProduce},
		{"consume", "records are stored, then read again and again", runConsume},
		{"e2e", "producers by a timetable, and consumers that follow: latency from the intended time of sending", runEndToEnd},
		{"transactions", "producers that commit every so often, and consumers of what is committed", runTransactions},
		{"groups", "groups of the consumer protocol (KIP-848): time until every partition has its member", runGroups},
		{"bound", "MQTT publishers at QoS 1 to topics that the node binds to a stream, and a Kafka consumer of it", runBound},
		{"partitions", "many partitions: make them, then produce over all of them", runPartitions},
	} {
		kafkaScenarios[s.name] = s
	}
}

// KafkaScenarios names all scenarios for Kafka in order.
func KafkaScenarios() []string {
	var names []string
	for name := range kafkaScenarios {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// AboutKafkaScenario says in a line what a scenario does.
func AboutKafkaScenario(name string) string { return kafkaScenarios[name].about }

// kafkaRun is a run against a Kafka broker. Loops read k and the tables, which stand before they begin, and the atomics.
type kafkaRun struct {
	*run
	k        KafkaConfig
	codec    compress.Settings
	clientID string
	unixBase int64 // ms of Unix time at the run's base

	admin     *kafkaAdmin // to the first node that was found
	admins    map[int32]*kafkaAdmin
	nodes     *knodes
	unfollow  func()
	txnIDs    []string
	byNode    []map[int32]*nodeStats // of each loop
	topics    []*ktopic
	parts     []*kpart
	lanes     []*lane // by the publisher of their stamps
	producers []*kproducer
	consumers []*kconsumer
	byName    map[string]*ktopic
	byID      map[[16]byte]*ktopic
	latencies bool // of deliveries: not of what is read afterwards
	verified  bool // what was stored has been read

	commits []*hdrhistogram.Histogram // of each loop

	producing               atomic.Int64 // producers that have not closed
	refused, retries, shown atomic.Uint64
	cuts, passing           atomic.Uint64 // connections lost, and answers that say that somebody else leads
	resent, maybeTwice      atomic.Uint64 // records
	doubled, strange        mark          // partitions with two members of a group; partitions given to a member that there are not
	committed, aborted      atomic.Uint64 // transactions
	abortedRecords          atomic.Uint64
	passes                  atomic.Uint64 // readings of a partition from beginning to end
	passed                  atomic.Int64  // partitions read so
	passLost, passUndecided atomic.Uint64
}

// RunKafka does one run and judges the broker, as Run does.
func RunKafka(ctx context.Context, k KafkaConfig) (*Result, error) {
	return runKafkaAt(ctx, k, nil)
}

// runKafkaAt is RunKafka, of a part of a mixed run if there is a gate.
func runKafkaAt(ctx context.Context, k KafkaConfig, g *gate) (*Result, error) {
	k.setDefaults()
	if err := k.validate(); err != nil {
		return nil, err
	}
	if !supported {
		return nil, errors.New("the load generator runs on Linux only")
	}
	boot, err := parseKafkaList(k.URL)
	if err != nil {
		return nil, err
	}
	base, err := newRun(ctx, k.Config, boot[0], g)
	if err != nil {
		return nil, err
	}
	base.cfg.Version = 0 // of MQTT
	base.answered = k.Acks != 0
	r := &kafkaRun{run: base, k: k, byName: map[string]*ktopic{}, byID: map[[16]byte]*ktopic{}}
	r.clientID = fmt.Sprintf("sb-%08x", r.nonce)
	r.unixBase = r.base.UnixMilli()
	r.codec, _ = codecOf(k.Compression) // validated
	if r.codec.Codec != record.Uncompressed {
		for i := range r.filler[min(64, len(r.filler)):] { // of content that gives a codec something to do
			r.filler[64+i] = r.filler[i%64]
		}
	}
	for range r.loops {
		r.commits = append(r.commits, newHist())
		r.byNode = append(r.byNode, map[int32]*nodeStats{})
	}
	r.admins, r.unfollow = map[int32]*kafkaAdmin{}, func() {}
	r.nodes = &knodes{r: r, boot: boot, stale: make(chan struct{}, 1)}
	err = r.execute(func() error {
		if err := r.bootstrap(); err != nil {
			return err
		}
		defer func() {
			r.unfollow()
			r.closeAdmins()
			r.nodes.close()
			r.admin.close()
		}()
		return kafkaScenarios[k.Scenario].run(r)
	})
	r.verifyKafka()
	r.fillKafka()
	return r.end(err)
}

// bootstrap connects to the first of the addresses at which a node answers.
func (r *kafkaRun) bootstrap() error {
	var errs []error
	for i, at := range r.nodes.boot {
		a, err := dialAdmin(r, at, r.cfg.ConnectTimeout)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.admin, r.target, r.nodes.mu.next = a, at, i // nobody else asks yet
		r.endpoint, err = resolve(at)
		return err
	}
	return errors.Join(errs...)
}

// cut counts a connection that was lost, and is made again.
func (r *kafkaRun) cut(err error, at int64) {
	r.cuts.Add(1)
	r.note(err.Error(), at)
}

// unixMS is the clock's time as a record's timestamp.
func (r *kafkaRun) unixMS(now int64) int64 { return r.unixBase + now/1e6 }
