package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/cluster/carry"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// nodeOptions are what a node is built of, once the configuration is read.
type nodeOptions struct {
	logger   *slog.Logger
	loops    int
	shards   int
	maxConns func() int
	limits   broker.Limits
	strategy topics.Strategy
	marks    bool // messages with a user property trace are traced
	settings mqtt.Settings
	authn    broker.Authenticator
	authz    authorizer
	bans     *auth.Bans // nil: nobody is banned
	storage  storageOptions
	tier     tierOptions
	catalog  *catalogStore                                                           // nil: one of its own
	cluster  func(own []meta.Entry, register func(*link.Mesh)) (ClusterGroup, error) // nil: the node is alone
	// clusterConfig is the configuration of a node whose shards are replicated; nil for one that is alone.
	clusterConfig *config.Config
	again         func()        // asks for the node to be started anew, with data that have been exchanged
	leader        carry.Leader  // who serves MQTT's clients; nil: who leads, as the node's own controller knows
	election      time.Duration // how long a client waits for somebody to lead; 0: carry's own
	door          doorOptions
	kafka         kafkaOptions
}

// authorizer answers what both protocols ask, by one set of rules.
type authorizer interface {
	SetACLs(list []broker.ACL)
	SetTenants(list []auth.Tenant)
	broker.Authorizer
	broker.ResourceAuthorizer
}

// kafkaOptions are what the Kafka listeners and their handler are built of.
type kafkaOptions struct {
	node     int32
	cluster  string
	settings kafka.Settings
	door     doorOptions
}

// doorOptions are common to all MQTT listeners.
type doorOptions struct {
	transport        string
	acceptRate       func() int
	maxConns         func() int
	handshakeTimeout time.Duration
	connectTimeout   time.Duration
	tls              *tls.Config
	wss              *tls.Config           // for WebSocket; nil: tls
	proxied          []string              // the listeners that proxies connect to, by the last part of their names
	proxies          func(netip.Addr) bool // whether an address is a trusted proxy's
}

// door is one listener to open.
type door struct {
	name, network, address string
	tls, ws, kafka         bool
	proxied                bool        // beside those of doorOptions.proxied
	certs                  *tls.Config // with tls: nil: those of doorOptions
	own                    *namedDoor  // nil: the bounds of all listeners of the protocol
}

// node is the running whole: loops, core, log, MQTT.
type node struct {
	o       nodeOptions
	engine  *engine.Engine
	broker  *broker.Broker
	catalog *catalogStore
	cluster ClusterGroup // nil: the node is alone
	member  *member      // likewise
	carry   *carry.Door  // brings MQTT clients to who leads; nil: they are all served here

	namedRules atomic.Pointer[map[string]carry.Named] // nil: no list was taken yet
	mqtt       *mqtt.Handler
	kafka      *kafka.Handler
	storage    storage
	tier       *tiering // nil: there is no store
	topics     *topicCatalog
	binder     *binder
	sys        *sysTree
	events     *eventPump
	happens    *events.Queue // that the loops add to, and events takes from
	users      *rechecker
	memory     *memoryWatch
	acls       *aclKeeper
	quotas     broker.Quotas
	limits     *quotaKeeper // gives them to quotas
	tenants    *follower    // gives them to the core
	tenantAuth *follower    // and to who says whose a client is
	bans       *banKeeper

	stopTicks []func()
	closing   sync.Once
	closeErr  error
}

// newNode builds the node, recovers its state and starts its loops. No listener is open yet. ctx ends the wait of one that others let into their cluster.
func newNode(ctx context.Context, o nodeOptions) (*node, error) {
	n := &node{o: o, happens: events.New()}
	var err error
	if n.engine, err = engine.New(engine.Options{Loops: o.loops, Logger: o.logger, MaxConns: o.maxConns}); err != nil {
		return nil, err
	}
	loops := n.engine.Loops()
	if n.catalog = o.catalog; n.catalog == nil {
		n.catalog = newCatalogStore()
	}
	changed := entriesChanged(n.catalog.Catalog)
	var own ownEntries
	if o.cluster != nil {
		changed = own.take
		n.member = newMember(n)
	}
	n.broker = broker.New(broker.Options{Events: n.happens, Replicated: n.member != nil, StreamSets: n.member.mostSets(), ShardMoved: n.member.shardMoved, Flushed: n.member.flushed, Lost: n.member.lost, EntryChanged: changed,
		Shards: o.shards, Loops: len(loops), Logger: o.logger, Limits: o.limits,
		ShareStrategy: o.strategy, Volatile: o.storage.volatile(), Clock: o.storage.clock, ResolveTopic: resolveTopic})
	n.catalog.group.b = n.broker
	for i, el := range loops {
		l := n.broker.Local(i)
		task := engine.TaskFunc(func(*engine.Loop) { l.Drain() })
		var wake engine.Task = task
		l.SetWake(func() { el.Post(wake) })
		el.OnTurnEnd(l.EndTurn)
		n.stopTicks = append(n.stopTicks, el.Every(time.Second, l.Tick))
	}
	n.broker.Tracer().Standing(o.marks) // once there is who wakes the loops
	n.tier = openTiering(&o.tier, n.broker, o.logger)
	o.storage.past = n.tier.past()
	n.topics = &topicCatalog{b: n.broker, entries: n.catalog.Catalog}
	if n.storage, err = openStorage(o.storage, n.broker, o.logger); err != nil {
		n.member.close()
		n.broker.Close()
		return nil, errors.Join(err, n.engine.Close(context.Background()), n.tier.close())
	}
	if err = errors.Join(checkTierRows(n.tier, n.broker), n.tier.checkPlace()); err == nil && o.cluster != nil {
		err = n.startCluster(ctx, &own)
	}
	if err = errors.Join(err, n.catalog.Recovered()); err != nil {
		n.member.close()
		err = errors.Join(err, n.closeCluster(), n.engine.Close(context.Background()))
		n.broker.Close()
		return nil, errors.Join(err, n.storage.close(), n.tier.close())
	}
	n.openHandlers(loops)
	n.tier.join(n.member, n.o.kafka.cluster, o.tier.forms)
	n.tier.recovered(n.storage)
	n.engine.Start()
	n.tier.start(o.tier, n.storage, o.storage.clock)
	n.member.start(n, &own)
	n.catalog.makeSalt(func(err error) {
		if err != nil {
			o.logger.Warn("the salts of SCRAM users who are not there change with the next start", "err", err)
		}
	})
	return n, nil
}

// openHandlers makes what serves the protocols, and has it follow the catalog.
func (n *node) openHandlers(loops []*engine.Loop) {
	o := &n.o
	n.limits = keepQuotas(n.catalog.Catalog, &n.quotas)
	n.tenants = keepTenants(n.catalog.Catalog, n.broker.Tenants())
	if o.bans == nil {
		o.bans = auth.NewBans(nil)
	}
	n.mqtt = mqtt.NewHandler(mqtt.Options{Elsewhere: n.elsewhere(), Broker: n.broker, Loops: loops, Authenticator: o.authn, Authorizer: o.authz, Quotas: &n.quotas,
		Flapping: flapping{o.bans, n.broker.Tenants()}, Settings: &o.settings, Logger: o.logger})
	n.serveCarried()
	n.acls = keepACLs(n.catalog.Catalog, func(list []broker.ACL) {
		if o.authz != nil {
			o.authz.SetACLs(list)
			n.mqtt.Recheck()
		}
	})
	n.topics.cluster = n.o.kafka.cluster
	n.kafka = kafka.NewHandler(kafka.Options{Cluster: n.member.kafkaCluster(), Leader: n.member.kafkaLeader(),
		Broker: n.broker, Loops: loops, Users: n.scramUsers(), Catalog: n.topics, Authn: quick(o.authn), Authz: o.authz, ACLs: n.acls, Quotas: &n.quotas, QuotaCatalog: n.limits, NodeID: o.kafka.node,
		LogDir:   logDir(&o.storage),
		Settings: &o.kafka.settings, Logger: o.logger})
	recheck := func() {
		n.mqtt.Recheck()
		n.kafka.Recheck()
	}
	n.tenantAuth = follow(n.catalog.Catalog, meta.TenantsChanged, func(s *meta.Snapshot) {
		if o.authz != nil {
			o.authz.SetTenants(authTenants(s))
			recheck()
		}
	})
	n.users = watchUsers(n.catalog.Catalog, recheck)
	n.bans = keepBans(n.catalog.Catalog, o.bans, recheck)
}

// scramUsers are the catalog's, but for those whom the password file has.
func (n *node) scramUsers() *scramUsers {
	u := &scramUsers{catalog: n.catalog.Catalog, inFile: func(string) bool { return false }}
	if f, ok := n.o.authn.(interface{ InFile(string) bool }); ok {
		u.inFile = f.InFile
	}
	return u
}

// listen opens one door and returns its address.
func (n *node) listen(d door) (net.Addr, error) {
	o := &n.o.door
	lo := n.mqttListener(d.name)
	lo.Admit = n.o.bans.Admit
	lo.Network, lo.Address, lo.WebSocket, lo.Handler = d.network, d.address, d.ws, n.mqttHandler()
	if d.kafka {
		// A Kafka client may be silent from the start: it is idle, and the handler's own deadline ends that.
		o = &n.o.kafka.door
		lo.Handler, lo.FirstPacketTimeout, lo.HighWater = n.kafka, -1, 1<<20
	}
	lo.Transport, lo.AcceptRate, lo.MaxConns, lo.HandshakeTimeout = o.transport, o.acceptRate, o.maxConns, o.handshakeTimeout
	if d.own != nil {
		lo.AcceptRate, lo.MaxConns = d.own.acceptRate, d.own.connections
	}
	if d.tls {
		lo.TLS = o.tls
		if d.ws && o.wss != nil {
			lo.TLS = o.wss
		}
		if d.certs != nil {
			lo.TLS = d.certs
		}
	}
	if _, kind, _ := strings.Cut(d.name, "."); d.proxied || slices.Contains(o.proxied, kind) {
		lo.Proxy = o.proxies
	}
	addr, err := n.engine.Listen(lo)
	if err != nil {
		return nil, fmt.Errorf("open %s on %s: %w", d.name, d.address, err)
	}
	return addr, nil
}

// drain stops accepting, says goodbye to every client, and waits until they are gone or ctx ends.
func (n *node) drain(ctx context.Context) error {
	n.member.drain(ctx)
	n.engine.CloseListeners()
	if n.carry != nil {
		n.carry.Shutdown()
	}
	n.mqtt.Shutdown(wire.ServerShuttingDown)
	n.kafka.Shutdown()
	return n.engine.Drain(ctx)
}

// close stops everything; what was acknowledged is on stable storage afterwards, in every durability mode but memory.
func (n *node) close(ctx context.Context) error {
	n.closing.Do(func() {
		for _, stop := range n.stopTicks {
			stop()
		}
		if n.binder != nil {
			n.binder.close()
		}
		n.member.close()
		groupErr := n.closeCluster()
		if n.memory != nil {
			n.memory.close()
		}
		if n.sys != nil {
			n.sys.close()
		}
		if n.events != nil {
			n.events.close()
		}
		n.users.close()
		err := n.engine.Close(ctx)
		n.tier.endWrites()
		n.mqtt.Close()
		n.kafka.Close()
		n.storage.endReads()
		n.broker.Close()
		n.acls.close()
		n.tenantAuth.close()
		n.limits.close()
		n.tenants.close()
		n.bans.close()
		n.closeErr = errors.Join(err, groupErr, n.storage.close(), n.tier.close())
	})
	return n.closeErr
}

// quick is the authenticator as Kafka's connections want it, nil if everybody comes in.
func quick(a broker.Authenticator) broker.QuickAuthenticator {
	q, _ := a.(broker.QuickAuthenticator)
	return q
}
