package scenarios

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/internal/strictyaml"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// The protocols of a load.
const (
	MQTT  = "mqtt"
	Kafka = "kafka"
	Mixed = "mixed" // of a file: its parts have their own
)

// Load is one load with its settings. It is made by NewLoad and changed by Set.
type Load struct {
	Protocol  string // MQTT or Kafka
	Kind      string // one of bench.Scenarios or bench.KafkaScenarios
	Transport string // tcp, tls, ws, wss; "": as the address says

	mqtt     bench.Config
	kafka    bench.KafkaConfig
	settings []Setting
	given    map[string]bool

	version, qos, pairs, pipeline, inflight int
	acks                                    string
	readBack                                bool
}

// Target is where a run goes and what it goes with.
type Target struct {
	URLs     map[string]string // by the name of a part, or mqtt, or kafka; none: the default of the load's transport on this machine
	TLS      *tls.Config
	Username string
	Password string
	PIDs     []int  // the servers' processes, if they run on this machine
	Metrics  string // where the server shows its metrics; "": nowhere
	Tool     string
	Progress func(line string)
}

// NewLoad gives a load with the settings that its kind has by default.
func NewLoad(protocol, kind string) (*Load, error) {
	l := &Load{Protocol: protocol, Kind: kind, given: map[string]bool{}}
	var kinds []string
	switch protocol {
	case MQTT:
		kinds = bench.Scenarios()
		l.mqtt.Scenario = kind
		l.settings = l.mqttSettings()
	case Kafka:
		kinds = bench.KafkaScenarios()
		l.kafka.Scenario = kind
		l.settings = l.kafkaSettings()
	default:
		return nil, fmt.Errorf("protocol %q is none of mqtt, kafka", protocol)
	}
	if !slices.Contains(kinds, kind) {
		hint := ""
		if near := strictyaml.Nearest(kind, kinds); near != "" {
			hint = "; the nearest is " + near
		}
		return nil, fmt.Errorf("%s has no load %q: want one of %s%s", protocol, kind, strings.Join(kinds, ", "), hint)
	}
	return l, nil
}

// Settings gives all settings of the load, with their present values.
func (l *Load) Settings() []Setting { return l.settings }

// Set gives a setting a value. It refuses what is none, and what is out of bounds.
func (l *Load) Set(name, value string) error {
	s := find(l.settings, name)
	if s == nil {
		return unknownKey(name, names(l.settings), fmt.Sprintf("sluice bench %s %s --help lists all", l.Protocol, l.Kind))
	}
	l.given[name] = true
	return s.set(value)
}

func unknownKey(name string, known []string, help string) error {
	if near := strictyaml.Nearest(name, known); near != "" {
		return fmt.Errorf("unknown key; the nearest known one is %s", near)
	}
	return fmt.Errorf("unknown key; %s", help)
}

// Rate is how many messages a second the load sends by a timetable, 0 where it has none.
func (l *Load) Rate() float64 {
	if l.Protocol == Kafka {
		return l.kafka.Rate
	}
	return l.mqtt.Rate
}

// HasTimetable tells whether the load can send by one and says how long that took: what a ladder needs.
func (l *Load) HasTimetable() bool {
	timed := []string{"pairs", "fanout", "fanin", "shared", "wildcards", "reconnect"}
	if l.Protocol == Kafka {
		timed = []string{"produce", "e2e", "transactions", "bound"}
	}
	return slices.Contains(timed, l.Kind)
}

// scheme and port of each transport.
var schemes = map[string]map[string]string{
	MQTT:  {"": "mqtt", "tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"},
	Kafka: {"": "kafka", "tcp": "kafka", "tls": "kafkas"},
}

// url is where the load goes.
func (l *Load) url(t *Target, part string) (string, error) {
	for _, key := range []string{part, l.Protocol} {
		if u := t.URLs[key]; u != "" && key != "" {
			return u, l.fits(u)
		}
	}
	return schemes[l.Protocol][l.Transport] + "://127.0.0.1", nil
}

// fits refuses an address of another transport than the file's.
func (l *Load) fits(url string) error {
	if l.Transport == "" {
		return nil
	}
	scheme := "mqtt"
	if l.Protocol == Kafka {
		scheme = "kafka"
	}
	if before, _, ok := strings.Cut(url, "://"); ok {
		scheme = before
	}
	if want := schemes[l.Protocol][l.Transport]; scheme != want && (want != "mqtt" || scheme != "unix") {
		return &bench.MisuseError{Detail: fmt.Sprintf("%s is not an address of transport %s, which the scenario is for: want %s://", url, l.Transport, want)}
	}
	return nil
}

// noWarmup tells whether the measured part begins at once.
func (l *Load) noWarmup(warmup time.Duration, messages uint64) bool {
	return warmup == 0 || messages > 0 && !l.given["warmup"]
}

// Check refuses settings that do not go together.
func (l *Load) Check() error {
	if l.Protocol == Kafka {
		k, err := l.KafkaConfig(&Target{}, "")
		if err != nil {
			return err
		}
		if l.Kind == "bound" && k.Topic == "" {
			return errors.New("bound needs topic: the one that the node binds to the prefix")
		}
		return k.Check()
	}
	cfg, err := l.Config(&Target{}, "")
	if err != nil {
		return err
	}
	return cfg.Check()
}

// Config gives the configuration of a load on an MQTT broker. part is the name of the load's part of a mixed file, or "".
func (l *Load) Config(t *Target, part string) (bench.Config, error) {
	cfg := l.mqtt
	var err error
	if cfg.URL, err = l.url(t, part); err != nil {
		return cfg, err
	}
	if cfg.Scenario == "queue" || cfg.Scenario == "reconnect" {
		if !l.given["qos"] {
			l.qos = 1
		}
	}
	bad := func(detail string) error { return &bench.MisuseError{Detail: detail} }
	switch {
	case l.version != 4 && l.version != 5:
		return cfg, bad(fmt.Sprintf("mqtt-version %d is neither 4 nor 5", l.version))
	case l.pipeline > 0 && l.qos > 0:
		return cfg, bad("pipeline is for QoS 0; above it, inflight")
	case l.inflight > 0 && l.qos == 0:
		return cfg, bad("inflight is for QoS 1 and 2; at QoS 0, pipeline")
	case cfg.Rate > 0 && l.pipeline+l.inflight > 0:
		return cfg, bad("rate is a timetable: pipeline and inflight do not go with it")
	}
	if l.pairs > 0 {
		cfg.Publishers = l.pairs
	}
	if l.noWarmup(cfg.Warmup, cfg.Messages) {
		cfg.Warmup = -1
	}
	cfg.Version, cfg.QoS, cfg.Inflight = byte(l.version), byte(l.qos), l.pipeline+l.inflight
	t.fill(&cfg)
	return cfg, nil
}

// KafkaConfig gives the configuration of a load on a Kafka broker. part is the name of the load's part of a mixed file, or "".
func (l *Load) KafkaConfig(t *Target, part string) (bench.KafkaConfig, error) {
	k := l.kafka
	k.TopicSettings = slices.Clone(k.TopicSettings)
	var err error
	if k.URL, err = l.url(t, part); err != nil {
		return k, err
	}
	if u := t.URLs[MQTT]; u != "" {
		if _, err := mqttclient.ParseTarget(u); err != nil {
			return k, &bench.MisuseError{Detail: err.Error()}
		}
		k.MQTT = u
	}
	if l.noWarmup(k.Warmup, k.Messages) {
		k.Warmup = -1
	}
	k.SkipReadBack = !l.readBack
	t.fill(&k.Config)
	return k, nil
}

func (t *Target) fill(cfg *bench.Config) {
	cfg.TLS, cfg.Username, cfg.Password, cfg.PIDs, cfg.Tool, cfg.Progress = t.TLS, t.Username, t.Password, t.PIDs, t.Tool, t.Progress
	cfg.Metrics = t.Metrics
}
