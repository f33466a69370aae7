package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Options are what a Server takes beside its configuration.
type Options struct {
	Logger  *slog.Logger // nil: slog.Default
	Version string
	Level   *slog.LevelVar // changed by a reload of log.level; may be nil
	// Cluster makes the catalog's group of a node of a cluster. nil: the program knows no clusters.
	Cluster func(ClusterOptions) (ClusterGroup, error)
}

// Ready is what the node tells when every listener accepts.
type Ready struct {
	Node      int               `json:"node"`
	StartupMS int64             `json:"startup_ms"`
	Listeners map[string]string `json:"listeners"`
}

// Server is one node. New, Start, then Reload any number of times, Drain, Close.
type Server struct {
	o       Options
	cfg     atomic.Pointer[config.Config]
	log     *slog.Logger
	node    *node
	gate    *auth.Provider
	bans    *auth.Bans
	certs   *certificates
	proxies proxies
	named   namedDoors
	catalog *catalogStore
	http    *httpServer
	control *control.Server

	bridges    *bridges
	principals atomic.Pointer[control.Principals]
	metrics    *prometheus.Registry
	capacity   *capacity // nil without a model
	tlsKeeper  *tlsKeeper
	askers     *askers
	tracing    *tracing
	flushes    prometheus.Histogram
	ready      atomic.Bool
	again      chan struct{}
}

// New checks what can be checked before anything is opened.
func New(cfg config.Config, o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Server{o: o, log: o.Logger, metrics: prometheus.NewRegistry(), catalog: newCatalogStore(), bans: auth.NewBans(nil), again: make(chan struct{}, 1)}
	s.cfg.Store(&cfg)
	s.proxies.take(&cfg)
	s.tlsKeeper, s.askers, s.tracing = newTLSKeeper(s), newAskers(s), &tracing{s: s}
	s.bans.SetFlapping(flappingOptions(&cfg))
	err := errors.Join(checkBridges(cfg.Bridges), checkEvents(&cfg), s.tracing.check(&cfg))
	if err != nil {
		return nil, err
	}
	if s.certs, err = loadCertificates(&cfg); err != nil {
		return nil, err
	}
	if s.gate, err = auth.New(s.authOptions(&cfg, s.certs)); err != nil {
		return nil, err
	}
	return s, nil
}

// Start recovers the state, opens every listener, and returns when all of them accept. On error nothing is left open.
func (s *Server) Start(ctx context.Context) (Ready, error) {
	began := time.Now()
	cfg := s.cfg.Load()
	ready := Ready{Node: cfg.Node.ID, Listeners: make(map[string]string)}
	if err := fixShards(cfg); err != nil {
		return ready, err
	}
	if err := installSeed(cfg); err != nil {
		return ready, fmt.Errorf("take the copy of another node's data: %w", err)
	}
	if err := checkCluster(cfg, &s.o); err != nil {
		return ready, err
	}
	s.flushes = newFlushHistogram()
	var err error
	o := s.nodeOptions(cfg)
	if o.cluster = s.clusterMaker(cfg); o.cluster == nil {
		if o.kafka.cluster, err = clusterID(cfg); err != nil {
			return ready, err
		}
	}
	if s.node, err = newNode(ctx, o); err != nil {
		return ready, err
	}
	if s.node.cluster != nil {
		if err = keepClusterID(cfg, s.node.cluster.Cluster()); err != nil {
			return ready, errors.Join(err, s.Close())
		}
		ready.Listeners["cluster"] = s.node.cluster.Address()
	}
	if s.capacity, err = startCapacity(s.node, cfg.Capacity.Model); err != nil {
		return ready, errors.Join(err, s.Close())
	}
	s.registerMetrics()
	s.node.member.awaitLeader(ctx)
	if err = s.node.member.sameRoles(); err != nil {
		return ready, errors.Join(err, s.Close())
	}
	if s.node.binder, err = newBinder(ctx, s.node, cfg.Bindings, func() int { return s.cfg.Load().Kafka.Partitions }); err != nil {
		return ready, errors.Join(err, s.Close())
	}
	s.node.events = startEvents(s.node, s.node.happens, cfg)
	if err = s.openDoors(cfg, ready.Listeners); err != nil {
		return ready, errors.Join(err, s.Close())
	}
	if s.node.cluster != nil {
		at := s.node.cluster.Address()
		s.node.cluster.Advertise(kafkaEndpoints(&cfg.Listeners.Kafka, ready.Listeners, at), mqttDoors(&cfg.Listeners.MQTT, ready.Listeners, at))
	}
	if err = errors.Join(s.tracing.configure(cfg), s.startBridges(cfg.Bridges), s.startControl(cfg.Listeners.GRPC)); err != nil {
		return ready, errors.Join(err, s.Close())
	}
	for i, addr := range s.control.Addresses() {
		ready.Listeners[listenerName("grpc", i)] = addr.String()
	}
	if s.http, err = startHTTP(s, cfg.Listeners.HTTP); err != nil {
		return ready, errors.Join(err, s.Close())
	}
	for name, addr := range s.http.addresses() {
		ready.Listeners[name] = addr
	}
	s.node.memory = watchMemory(s.node.mqtt, s.log, func() int64 { return memoryLimit(s.cfg.Load()) })
	s.node.sys = startSys(s.node, s.o.Version, cfg.MQTT.SysInterval)
	s.tlsKeeper.start()
	s.askers.start()
	s.ready.Store(true)
	ready.StartupMS = time.Since(began).Milliseconds()
	return ready, nil
}

// openDoors opens the listeners of the protocols, and says at which addresses.
func (s *Server) openDoors(cfg *config.Config, at map[string]string) error {
	for _, d := range doors(cfg) {
		addr, err := s.node.listen(d)
		if err != nil {
			return err
		}
		name := d.name
		for i := 2; at[name] != ""; i++ {
			name = d.name + "." + strconv.Itoa(i)
		}
		at[name] = addr.String()
	}
	if errs := s.configureNamed(cfg.Listeners.MQTT.Named); errs != nil {
		return errors.Join(errs...)
	}
	s.named.tell(at)
	return nil
}

// doors lists the listeners of the protocols in the order of their names. Those with TLS open once a certificate is set.
func doors(cfg *config.Config) (list []door) {
	if !cfg.TakesClients() {
		return nil
	}
	l := &cfg.Listeners.MQTT
	add := func(name, network string, addrs config.Addrs, tls, ws bool) {
		if tls && !cfg.TLSSet() {
			return
		}
		for _, a := range addrs {
			list = append(list, door{name: name, network: network, address: a, tls: tls, ws: ws, kafka: strings.HasPrefix(name, "kafka.")})
		}
	}
	add("mqtt.tcp", "tcp", l.TCP, false, false)
	add("mqtt.tls", "tcp", l.TLS, true, false)
	add("mqtt.ws", "tcp", l.WS, false, true)
	add("mqtt.wss", "tcp", l.WSS, true, true)
	add("mqtt.unix", "unix", l.Unix, false, false)
	add("kafka.tcp", "tcp", cfg.Listeners.Kafka.TCP, false, false)
	add("kafka.tls", "tcp", cfg.Listeners.Kafka.TLS, true, false)
	return list
}

// fixShards stores the number of shards at the first start and refuses another later: the hash of a session's or topic's name
// decides where its rows are.
func fixShards(cfg *config.Config) error {
	if cfg.Journal.Durability == "memory" {
		return nil
	}
	if err := os.MkdirAll(cfg.Node.Data, 0o750); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if id, err := os.ReadFile(filepath.Join(cfg.Node.Data, restoringFile)); err == nil {
		return fmt.Errorf("the restore of backup %s into %s was cut or has failed: run sluice restore again, it begins anew", strings.TrimSpace(string(id)), cfg.Node.Data)
	}
	path := filepath.Join(cfg.Node.Data, "SHARDS")
	have, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return writeFileSynced(path, strconv.Itoa(cfg.Cluster.Shards)+"\n")
	}
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(have)))
	if err != nil {
		return fmt.Errorf("%s says %q, not a number of shards", path, have)
	}
	if n != cfg.Cluster.Shards {
		return fmt.Errorf("cluster.shards is %d, but the data in %s was made with %d: set it back, or start with another node.data",
			cfg.Cluster.Shards, cfg.Node.Data, n)
	}
	return nil
}

func writeFileSynced(path, text string) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (s *Server) nodeOptions(cfg *config.Config) nodeOptions {
	l := &cfg.Listeners.MQTT
	return nodeOptions{
		clusterConfig: clusterConfigOf(cfg), again: s.startAgain,
		logger: s.log, loops: cfg.Engine.Loops, maxConns: func() int { return s.cfg.Load().Limits.Connections }, shards: cfg.Cluster.Shards, limits: brokerLimits(cfg), strategy: shareStrategy(cfg),
		settings: mqttSettings(cfg), authn: insiders{s.gate}, authz: s.gate, bans: s.bans, catalog: s.catalog,
		storage: storageOptions{
			dir: filepath.Join(cfg.Node.Data, "journal"), durability: cfg.Journal.Durability,
			flushInterval: cfg.Journal.FlushInterval, segmentBytes: int64(cfg.Journal.SegmentSize), maxBytes: int64(cfg.Journal.MaxBytes),
			tailBytes: int64(cfg.Journal.TailSize), groupBytes: int(cfg.Journal.GroupSize),
			checkpointInterval: cfg.Journal.CheckpointInterval, checkpointBytes: int64(cfg.Journal.CheckpointSize),
			flushed: func(d time.Duration) { s.flushes.Observe(d.Seconds()) },
		},
		tier:  tierOptionsOf(cfg),
		marks: cfg.MQTT.TraceProperty,
		door: doorOptions{transport: l.Transport, acceptRate: func() int { return s.cfg.Load().Listeners.MQTT.AcceptRate },
			handshakeTimeout: l.HandshakeTimeout, connectTimeout: l.ConnectTimeout, tls: s.certs.mqttConfig(), wss: s.certs.webConfig(),
			maxConns: func() int { return s.cfg.Load().Listeners.MQTT.Connections }, proxied: l.ProxyProtocol, proxies: s.proxies.mqtt.trusts},
		kafka: kafkaOptions{node: int32(cfg.Node.ID), settings: kafkaSettings(cfg), door: doorOptions{transport: cfg.Listeners.Kafka.Transport,
			acceptRate: func() int { return s.cfg.Load().Listeners.Kafka.AcceptRate }, handshakeTimeout: l.HandshakeTimeout, tls: s.certs.config(),
			maxConns: func() int { return s.cfg.Load().Listeners.Kafka.Connections }, proxied: cfg.Listeners.Kafka.ProxyProtocol, proxies: s.proxies.kafka.trusts}},
	}
}

func shareStrategy(cfg *config.Config) topics.Strategy {
	s, _ := topics.ParseStrategy(cfg.MQTT.SharedStrategy) // one of the names that the configuration lets through
	return s
}

func kafkaSettings(cfg *config.Config) kafka.Settings {
	k := &cfg.Kafka
	return kafka.Settings{AutoCreateTopics: k.AutoCreateTopics, Partitions: int32(k.Partitions), RequestBytes: int(k.RequestSize),
		FetchBytes: int(k.FetchSize), IdleTimeout: k.IdleTimeout,
		Mechanisms: k.SASLMechanisms, NearestReplica: k.ReplicaSelector == "rack", SessionLifetime: k.SessionLifetime, Advertised: cfg.Listeners.Kafka.Advertised,
		AdvertisedTLS: cfg.Listeners.Kafka.AdvertisedTLS}
}

// none turns the configuration's "0 is no limit" into the core's.
func none(v int64) int64 {
	if v == 0 {
		return -1
	}
	return v
}

func brokerLimits(cfg *config.Config) broker.Limits {
	l := &cfg.Limits
	lim := broker.Limits{SessionMessages: none(int64(l.SessionMessages)), SessionBytes: none(int64(l.SessionBytes)),
		SessionAge: l.SessionAge, Sessions: none(int64(l.Sessions)), Subscriptions: l.Subscriptions,
		RetainedCount: none(int64(l.RetainedMessages)), RetainedBytes: -1, FilterLevels: l.TopicLevels,
		WillRate: none(int64(cfg.MQTT.WillRate)),
		Delayed:  none(int64(l.DelayedMessages)), DelayedPerClient: none(int64(l.DelayedClientMessages)), DelayedBytes: none(int64(l.DelayedBytes)),
		Stream: broker.StreamLimits{ProducerExpiry: cfg.Kafka.ProducerExpiry, RetentionInterval: cfg.Kafka.CheckInterval}}
	if lim.Subscriptions == 0 {
		lim.Subscriptions = math.MaxInt32
	}
	return lim
}

func mqttSettings(cfg *config.Config) mqtt.Settings {
	l, m := &cfg.Limits, &cfg.MQTT
	s := mqtt.DefaultSettings()
	s.MaxPacket = uint32(l.PacketSize)
	s.ReceiveMax = uint16(m.ReceiveMaximum)
	s.InflightMax = uint16(l.Inflight)
	s.TopicAliasMax, s.TopicAliasMaxOut = uint16(m.TopicAliasMaximum), uint16(m.TopicAliasOut)
	s.KeepAliveMax = uint16(m.KeepAliveMax / time.Second)
	s.FirstPacketTimeout = cfg.Listeners.MQTT.ConnectTimeout
	s.QueueBytes = int(l.QueueBytes)
	if m.SessionExpiryMax > 0 && m.SessionExpiryMax != broker.NeverExpires {
		s.SessionExpiryMax = m.SessionExpiryMax
	}
	s.SessionExpiryV3 = math.MaxUint32
	if m.SessionExpiryV3 >= 0 && m.SessionExpiryV3 < math.MaxUint32*time.Second {
		s.SessionExpiryV3 = uint32(m.SessionExpiryV3 / time.Second)
	}
	s.OnFullDrop = l.OnFull == "drop"
	s.ClientIDMax = int(l.ClientIDBytes)
	s.Topics = wire.TopicLimits{Levels: l.TopicLevels, Bytes: int(l.TopicBytes)}
	s.MaxQoS = uint8(m.MaxQoS)
	s.Retain, s.Wildcards, s.Shared, s.SubscriptionIDs = m.Retain, m.Wildcard, m.Shared, m.SubscriptionIDs
	s.Exclusive, s.Rewrite, s.Insiders = m.ExclusiveSubscription, m.Rewrite.Rules(), bridgeListener
	if s.Delayed = 0; m.Delayed {
		s.Delayed = m.DelayedMax
	}
	for _, r := range m.UserProperties {
		rule := mqtt.PropertyRule{Filter: []byte(r.Topic), Remove: r.Remove}
		for _, p := range r.Set {
			rule.Set = append(rule.Set, mqtt.PropertyTemplate{Name: []byte(p.Name), Value: p.Template()})
		}
		s.Properties = append(s.Properties, rule)
	}
	for _, n := range cfg.Listeners.MQTT.Named {
		if n.Mountpoint == "" {
			continue
		}
		if s.Mounts == nil {
			s.Mounts = make(map[string]string)
		}
		s.Mounts["mqtt."+n.Name] = n.Mountpoint
	}
	for _, a := range m.AutoSubscribe {
		s.AutoSubscribe = append(s.AutoSubscribe, mqtt.AutoSubscription{Filter: a.Topic, QoS: uint8(a.QoS), NoLocal: a.NoLocal,
			RetainAsPublished: a.RetainAsPublished, RetainHandling: uint8(a.RetainHandling)})
	}
	s.SlowThreshold, s.SlowWindow, s.SlowTop = m.SlowSubscribers.Threshold, m.SlowSubscribers.Window, m.SlowSubscribers.Top
	s.BusyTopics = m.TopicMetrics
	s.ValidatePayload, s.ResponseInfo, s.ServerReference = m.ValidatePayloadFormat, m.ResponseInformation, m.ServerReference
	return s
}

// Reload takes over what can change at run time. It answers a line for each change, those included that need a restart; on
// error nothing has changed.
func (s *Server) Reload(next config.Config) (report []string, err error) {
	old := s.cfg.Load()
	certs, err := loadCertificates(&next)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkBridges(next.Bridges), checkEvents(&next), s.tracing.check(&next)); err != nil {
		return nil, err
	}
	if err := s.checkAudit(&next); err != nil {
		return nil, err
	}
	if err := s.node.binder.configure(context.Background(), next.Bindings); err != nil {
		return nil, err
	}
	if err := s.gate.Reload(s.authOptions(&next, certs)); err != nil {
		return nil, errors.Join(err, s.node.binder.configure(context.Background(), old.Bindings))
	}
	if s.node.cluster != nil {
		if err := s.node.cluster.Reload(); err != nil {
			return nil, errors.Join(err, s.gate.Reload(s.authOptions(old, s.certs)), s.node.binder.configure(context.Background(), old.Bindings))
		}
	}
	s.certs.take(certs)
	merged := *old
	for _, c := range config.Diff(old, &next) {
		line := fmt.Sprintf("%s: %s, was %s", c.Key, c.New, c.Old)
		if !c.Live {
			line += " (needs a restart: unchanged)"
		}
		report = append(report, line)
	}
	config.TakeLive(&merged, &next)
	s.cfg.Store(&merged)
	s.principals.Store(controlPrincipals(&merged))
	s.proxies.take(&merged)
	s.bans.SetFlapping(flappingOptions(&merged))
	s.node.broker.SetLimits(brokerLimits(&merged))
	s.node.member.reload(&merged)
	s.node.broker.SetShareStrategy(shareStrategy(&merged))
	s.node.broker.Tracer().Standing(merged.MQTT.TraceProperty)
	s.node.sys.every(merged.MQTT.SysInterval)
	s.node.events.configure(&merged)
	if err := s.tracing.configure(&merged); err != nil {
		report = append(report, err.Error())
	}
	s.node.mqtt.Set(mqttSettings(&merged))
	s.node.mqtt.Recheck()
	s.node.kafka.Set(kafkaSettings(&merged))
	s.node.kafka.Recheck()
	report = append(report, s.reloadNamed(merged.Listeners.MQTT.Named)...)
	if err := s.bridges.configure(merged.Bridges); err != nil {
		report = append(report, "bridges: "+err.Error())
	}
	if s.o.Level != nil {
		_ = s.o.Level.UnmarshalText([]byte(merged.Log.Level))
	}
	s.control.Reloaded(report, merged.Control.Audit, merged.Control.AuditRequired)
	return append(report, "certificates, users and rules read again; connections that they no longer allow are closed"), nil
}

// Again gives a value when the node is to be closed and another Server started in its place, since it has got another node's data for its own.
func (s *Server) Again() <-chan struct{} { return s.again }

func (s *Server) startAgain() {
	select {
	case s.again <- struct{}{}:
	default: // it is asked for
	}
}

// Drain stops accepting, tells clients and waits for them. Readiness is false from its first moment.
func (s *Server) Drain(ctx context.Context) error {
	s.ready.Store(false)
	s.control.Drain()
	s.bridges.close()
	s.named.close()
	return s.node.drain(ctx)
}

// Bounds of what Close waits for connections: of HTTP's, and of all others.
const (
	httpCloseTimeout = time.Second
	closeTimeout     = 5 * time.Second
)

// within calls do with a context that ends after d.
func within(d time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return do(ctx)
}

// Close ends the node and flushes the log. Each part has a time of its own: whoever delays one takes nothing from the next.
func (s *Server) Close() error {
	s.ready.Store(false)
	var err error
	if s.control != nil {
		s.control.Drain() // what is long would have HTTP wait
	}
	if s.http != nil {
		err = within(httpCloseTimeout, s.http.close)
	}
	if s.control != nil {
		_ = within(closeTimeout, func(ctx context.Context) error {
			s.control.Close(ctx)
			return nil
		})
	}
	s.bridges.close()
	s.tlsKeeper.close()
	s.askers.close()
	s.capacity.close()
	s.capacity = nil
	if s.node != nil {
		err = errors.Join(err, within(closeTimeout, s.node.close))
	}
	s.tracing.close()
	s.gate.Close()
	return err
}
