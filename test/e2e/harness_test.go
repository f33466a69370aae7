package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// patience is how long a test waits for what must come, and how long it is sure by that something has ended.
const patience = 10 * time.Second

// memoryLog is a broker.Log without a disk: it commits at once, on a goroutine of its own, and can be read back.
type memoryLog struct {
	b      *broker.Broker
	wake   chan struct{}
	stop   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	groups [][]byte
	fail   chan error // takes what ends the log
}

func (m *memoryLog) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *memoryLog) run() {
	defer m.done.Done()
	for {
		select {
		case <-m.wake:
		case err := <-m.fail:
			m.b.Failed(err, true)
			<-m.stop
			return
		case <-m.stop:
			return
		}
		for more := true; more; {
			var g []byte
			if g, more = m.b.Gather(nil, 1<<20); len(g) > 0 {
				m.mu.Lock()
				m.groups = append(m.groups, g)
				m.mu.Unlock()
			}
			m.b.Committed(broker.Place{})
		}
	}
}

func (m *memoryLog) Read(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	m.mu.Lock()
	groups := m.groups
	m.mu.Unlock()
	for _, g := range groups {
		for len(g) > 0 {
			f, n, err := record.DecodeFrame(g)
			if err != nil {
				return err
			}
			g = g[n:]
			if f.Kind != record.KindRecords || f.Partition != p {
				continue
			}
			batch, _, err := record.ParseBatch(record.FrameBatch(f.Payload))
			if err != nil {
				return err
			}
			if batch.LastOffset() >= from && !fn(batch) {
				return nil
			}
		}
	}
	return nil
}

func (m *memoryLog) SetLogStart(record.PartitionID, record.Offset) {}
func (m *memoryLog) DropPartition(record.PartitionID)              {}

// node is a server in this process.
type node struct {
	engine  *engine.Engine
	broker  *broker.Broker
	handler *mqtt.Handler
	log     *memoryLog
	stops   []func()
	tcp, ws string // URLs
}

// nodeOptions are what a test may want otherwise.
type nodeOptions struct {
	transport string // empty: the default
	settings  func(s *mqtt.Settings)
	limits    broker.Limits
	authn     broker.Authenticator
	authz     broker.Authorizer
	logger    *slog.Logger
}

func startNode(o nodeOptions) (*node, error) {
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	n := &node{}
	var err error
	if n.engine, err = engine.New(engine.Options{Loops: 2, Logger: o.logger}); err != nil {
		return nil, err
	}
	loops := n.engine.Loops()
	n.broker = broker.New(broker.Options{Shards: 8, Loops: len(loops), Limits: o.limits, Logger: o.logger})
	for i, el := range loops {
		l := n.broker.Local(i)
		wake := engine.TaskFunc(func(*engine.Loop) { l.Drain() })
		l.SetWake(func() { el.Post(wake) })
		el.OnTurnEnd(l.EndTurn)
		n.stops = append(n.stops, el.Every(50*time.Millisecond, l.Tick))
	}
	n.log = &memoryLog{b: n.broker, wake: make(chan struct{}, 1), stop: make(chan struct{}), fail: make(chan error)}
	n.broker.UseLog(n.log)
	n.broker.Recovered()
	n.log.done.Add(1)
	go n.log.run()
	s := mqtt.DefaultSettings()
	if o.settings != nil {
		o.settings(&s)
	}
	n.handler = mqtt.NewHandler(mqtt.Options{Broker: n.broker, Loops: loops, Authenticator: o.authn, Authorizer: o.authz,
		Settings: &s, Logger: o.logger})
	n.engine.Start()
	for _, ws := range []bool{false, true} {
		addr, err := n.engine.Listen(engine.ListenerOptions{Name: "test", Network: "tcp", Address: "127.0.0.1:0", Handler: n.handler,
			Transport: o.transport, WebSocket: ws})
		if err != nil {
			n.close()
			return nil, err
		}
		if ws {
			n.ws = "ws://" + addr.String() + "/mqtt"
		} else {
			n.tcp = "mqtt://" + addr.String()
		}
	}
	return n, nil
}

func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, stop := range n.stops {
		stop()
	}
	_ = n.engine.Close(ctx)
	n.handler.Close()
	n.broker.Close()
	close(n.log.stop)
	n.log.done.Wait()
}

// start is a node of the test's own.
func start(t *testing.T, o nodeOptions) *node {
	t.Helper()
	n, err := startNode(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

// shared are the nodes that tests without wishes of their own use, one for each transport of this system.
var shared = map[string]*node{}

func transports() []string {
	if runtime.GOOS == "linux" {
		return []string{"epoll", "netpoll"}
	}
	return []string{"netpoll"}
}

func TestMain(m *testing.M) {
	for _, tr := range transports() {
		n, err := startNode(nodeOptions{transport: tr, settings: func(s *mqtt.Settings) { s.TopicAliasMax = 8; s.ResponseInfo = "reply/" }})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		shared[tr] = n
	}
	code := m.Run()
	for _, n := range shared {
		n.close()
	}
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"),
			goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*manager).Run")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// world is a node, a protocol version and a corner of the topic tree, for one run of one test.
type world struct {
	*testing.T
	n       *node
	version byte
	prefix  string
}

var corner atomic.Int64

// in runs f on n for each of the versions, in parallel.
func in(t *testing.T, n *node, versions []byte, f func(w *world)) {
	t.Helper()
	for _, v := range versions {
		t.Run(map[byte]string{wire.V31: "3.1", wire.V311: "3.1.1", wire.V5: "5.0"}[v], func(t *testing.T) {
			t.Parallel()
			f(&world{T: t, n: n, version: v, prefix: fmt.Sprintf("t%d", corner.Add(1))})
		})
	}
}

var (
	both  = []byte{wire.V311, wire.V5}
	all   = []byte{wire.V31, wire.V311, wire.V5}
	only3 = []byte{wire.V311}
	only5 = []byte{wire.V5}
)

// each runs f on the shared node of each transport, for each of the versions.
func each(t *testing.T, versions []byte, f func(w *world)) {
	t.Helper()
	t.Parallel()
	for _, tr := range transports() {
		t.Run(tr, func(t *testing.T) { in(t, shared[tr], versions, f) })
	}
}

// client is a connection of a test.
type client struct {
	*mqttclient.Client
	w   *world
	ack *wire.Connack
}

// name makes a client identifier or topic of this run.
func (w *world) name(s string) string { return w.prefix + "/" + s }

// id makes a client identifier of this run: letters and digits.
func (w *world) id(s string) string { return w.prefix + s }

// with changes a CONNECT.
type with func(k *wire.Connect)

// kept asks for a session that outlives the connection.
func kept(k *wire.Connect) {
	k.CleanStart = false
	if k.Version == wire.V5 {
		k.SessionExpiry = 3600
	}
}

// dial opens a connection without a CONNECT.
func (w *world) dial() *client {
	w.Helper()
	c, err := mqttclient.Dial(w.Context(), mqttclient.Options{URL: w.n.tcp, Connect: wire.Connect{Version: w.version}})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return &client{Client: c, w: w}
}

// try connects and gives what the server answered.
func (w *world) try(id string, opts ...with) (*client, error) {
	w.Helper()
	c := w.dial()
	k := wire.Connect{Version: w.version, ClientID: []byte(id), CleanStart: true}
	for _, o := range opts {
		o(&k)
	}
	var err error
	c.ack, err = c.Connect(&k)
	return c, err
}

// connect connects.
func (w *world) connect(id string, opts ...with) *client {
	w.Helper()
	c, err := w.try(w.id(id), opts...)
	if err != nil {
		w.Fatalf("connect %s: %v", id, err)
	}
	return c
}

// sub subscribes to filters below the run's corner; a shared one keeps its prefix in front.
func (c *client) sub(qos byte, filters ...string) {
	c.w.Helper()
	for _, f := range filters {
		c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(c.w.name(f)), QoS: qos}}})
	}
}

func (c *client) subWith(s *wire.SubscribeOut) []wire.ReasonCode {
	c.w.Helper()
	codes, err := c.SubscribeWith(s)
	if err != nil {
		c.w.Fatalf("subscribe: %v", err)
	}
	return codes
}

// pub publishes below the run's corner and waits for the acknowledgement.
func (c *client) pub(topic, payload string, qos byte, opts ...func(p *wire.PublishOut)) {
	c.w.Helper()
	p := wire.PublishOut{Topic: []byte(c.w.name(topic)), Payload: []byte(payload), QoS: qos}
	for _, o := range opts {
		o(&p)
	}
	if _, err := c.Publish(&p); err != nil {
		c.w.Fatalf("publish %s: %v", topic, err)
	}
}

func retain(p *wire.PublishOut) { p.Retain = true }

// send writes packets that a test has put together.
func (c *client) send(b []byte) {
	c.w.Helper()
	if err := c.SendRaw(b); err != nil {
		c.w.Fatal(err)
	}
}

// recv gives the next message and acknowledges it.
func (c *client) recv() wire.Publish {
	c.w.Helper()
	m, err := c.Receive(patience)
	if err != nil {
		c.w.Fatalf("receive: %v", err)
	}
	return m
}

// expect receives these payloads, in this order.
func (c *client) expect(payloads ...string) (got []wire.Publish) {
	c.w.Helper()
	for i, want := range payloads {
		m := c.recv()
		if string(m.Payload) != want {
			c.w.Fatalf("message %d is %q, want %q", i, m.Payload, want)
		}
		got = append(got, m)
	}
	return got
}

// message gives the next packet, which must be a PUBLISH, and acknowledges nothing.
func (c *client) message() wire.Publish {
	c.w.Helper()
	m, err := c.next(wire.PUBLISH).Publish()
	if err != nil {
		c.w.Fatal(err)
	}
	return m
}

// next gives the next packet, which must be of type t.
func (c *client) next(t wire.PacketType) *mqttclient.Packet {
	c.w.Helper()
	p, err := c.Expect(t)
	if err != nil {
		c.w.Fatal(err)
	}
	return &p
}

// ackOf gives the next packet, which must be of type t and answer id.
func (c *client) ackOf(t wire.PacketType, id uint16) wire.Ack {
	c.w.Helper()
	a, err := c.next(t).Ack()
	if err != nil || a.PacketID != id {
		c.w.Fatalf("%v of %d: %+v %v", t, id, a, err)
	}
	return a
}

// quiet makes sure that nothing was on its way: a message of another client, sent now, comes next. The client must be subscribed to topic.
func (c *client) quiet(topic string) {
	c.w.Helper()
	p := c.w.connect(fmt.Sprintf("quiet%d", corner.Add(1)))
	p.pub(topic, "nothing before me", 1)
	if m := c.recv(); string(m.Payload) != "nothing before me" {
		c.w.Fatalf("%s %q came, and nothing should", m.Topic, m.Payload)
	}
	p.bye()
}

// bye disconnects in order.
func (c *client) bye() {
	c.w.Helper()
	if err := c.Disconnect(); err != nil {
		c.w.Fatal(err)
	}
}

// ended waits until the server has closed, and gives the reason of its DISCONNECT: Success if it sent none.
func (c *client) ended() wire.ReasonCode {
	c.w.Helper()
	packets, err := c.WaitClosed(patience)
	if err != nil {
		c.w.Fatalf("still open: %v", err)
	}
	for _, p := range packets {
		if p.Type == wire.DISCONNECT {
			d, err := p.Disconnect()
			if err != nil {
				c.w.Fatal(err)
			}
			return d.Reason
		}
	}
	return wire.Success
}

// endedBy is ended with the reason that version 5 gives.
func (c *client) endedBy(want wire.ReasonCode) {
	c.w.Helper()
	if c.w.version != wire.V5 {
		want = wire.Success
	}
	if got := c.ended(); got != want {
		c.w.Fatalf("DISCONNECT says %v, want %v", got, want)
	}
}

// user makes a block of user properties of names and values.
func user(pairs ...string) (block []byte) {
	for p := range slices.Chunk(pairs, 2) {
		block = wire.AppendUserProperty(block, []byte(p[0]), []byte(p[1]))
	}
	return block
}

// pairs reads user properties back.
func pairs(u wire.UserProperties) string {
	var s []string
	for r := u.Read(); ; {
		name, value, ok := r.Next()
		if !ok {
			return strings.Join(s, " ")
		}
		s = append(s, string(name)+"="+string(value))
	}
}
