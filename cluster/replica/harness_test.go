package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

func TestMain(m *testing.M) {
	again = pace.Backoff{First: time.Millisecond, Most: 10 * time.Millisecond}
	stuckWait = 300 * time.Millisecond
	goleak.VerifyTestMain(m)
}

// soon bounds what a machine that others use too takes.
const soon = 30 * time.Second

// testShards are the shards of each set.
const testShards = 4

// setOf is one of the tests' sets.
func setOf(number int) Set {
	return Set{Number: number, First: record.ShardID(number * testShards), Shards: testShards}
}

// node is a mesh, a broker on a journal, and their streams.
type node struct {
	t    testing.TB
	id   link.NodeID
	mesh *link.Mesh
	addr string
	b    *broker.Broker
	log  *journal.Log
	sets *Sets
	r    *Replicas // of set 0
	app  *broker.Appender
	sink *sink

	mu     sync.Mutex
	behind []error
	of     []int // the sets of that
	leader link.NodeID
}

// options are what a node's parts are made with.
type options struct {
	fs  vfs.FS // nil: memory
	dir string
	log func(*journal.Options)

	pace *Pace
	more int // sets beside the first
}

// newMesh makes one end of a link.
func newMesh(t testing.TB, id link.NodeID) *link.Mesh {
	t.Helper()
	m, err := link.New(link.Options{ID: id, Cluster: [16]byte{1}, Token: []byte("the token of the test"), AllowPlaintext: true, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func newNode(t testing.TB, id link.NodeID, o options) *node {
	t.Helper()
	n := &node{t: t, id: id}
	jo := journal.Options{Dir: filepath.Join(o.dir, "log"), FS: o.fs, SegmentBytes: 4 << 20, TailBytes: 1 << 20, GroupBytesMax: 256 << 10, RewriteRate: -1}
	if jo.FS == nil {
		jo.FS = vfs.NewMem()
	}
	if o.log != nil {
		o.log(&jo)
	}
	var err error
	if n.log, err = journal.Open(jo); err != nil {
		t.Fatal(err)
	}
	shards := testShards * (1 + o.more)
	var streams atomic.Pointer[Sets]
	n.b = broker.New(broker.Options{Shards: shards, Loops: 1, Replicated: true, ShardMoved: func(s record.ShardID) {
		if r := streams.Load(); r != nil {
			r.Moved(s)
		}
	}, Flushed: func() {
		if r := streams.Load(); r != nil {
			r.Flushed()
		}
	}})
	src := &source{Log: n.log, b: n.b}
	n.b.UseLog(src)
	spec := &broker.TopicSpec{Name: "t", ID: broker.TopicID{1}, Config: broker.TopicConfig{RetentionMillis: -1, RetentionBytes: -1}}
	for i := range shards {
		spec.Partitions = append(spec.Partitions, broker.PartitionSpec{ID: record.PartitionID(100 + i), Shard: record.ShardID(i)})
	}
	n.b.SetTopic(spec)
	if err := n.log.Replay(func(record.Frame, journal.Position) error { return nil }); err != nil {
		t.Fatal(err)
	}
	n.b.Recovered()
	n.loop()
	if err := n.log.Start(src); err != nil {
		t.Fatal(err)
	}
	n.mesh = newMesh(t, id)
	var sets []Set
	for k := range 1 + o.more {
		sets = append(sets, setOf(k))
	}
	n.sets = New(Options{Pace: o.pace, Mesh: n.mesh, Core: n.b, Log: n.log, Behind: func(set int, leader link.NodeID, err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.leader, n.behind, n.of = leader, append(n.behind, err), append(n.of, set)
	}}, sets...)
	n.r = n.sets.Of(0)
	streams.Store(n.sets)
	n.addr = listen(t, n.mesh)
	t.Cleanup(func() {
		n.sets.Close()
		n.b.Close()
		if err := n.log.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// told is why the node has to be made anew from a copy.
func (n *node) told() []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.behind
}

func listen(t testing.TB, m *link.Mesh) string {
	t.Helper()
	a, err := m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// loop runs the broker's loop until the test ends.
func (n *node) loop() {
	l := n.b.Local(0)
	n.sink = &sink{room: make(chan struct{}, 1), more: newBell()}
	n.app = l.NewAppender(n.sink)
	woken, stop, ended := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	l.SetWake(func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	go func() {
		defer close(ended)
		for {
			select {
			case <-woken:
				l.Drain()
				l.EndTurn()
			case <-stop:
				return
			}
		}
	}()
	n.t.Cleanup(func() {
		close(stop)
		<-ended
	})
}

// on runs fn on the loop, and waits for it.
func (n *node) on(fn func(l *broker.Local)) {
	done := make(chan struct{})
	l := n.b.Local(0)
	l.Run(func() { fn(l); close(done) })
	<-done
}

// sink counts what was answered.
type sink struct {
	mu    sync.Mutex
	acked int
	err   error
	room  chan struct{}
	more  bell // another one was answered
}

// Appended makes it a broker.AppendSink.
func (s *sink) Appended(_ broker.Token, r broker.AppendResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked++
	s.err = errors.Join(s.err, r.Err)
	s.more.ring()
}

// Resume makes it a broker.AppendSink.
func (s *sink) Resume() {
	select {
	case s.room <- struct{}{}:
	default:
	}
}

func (s *sink) count() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked, s.err
}

// connect has two nodes know each other.
func connect(t testing.TB, a, b *node) {
	t.Helper()
	if err := errors.Join(a.mesh.SetPeers(map[link.NodeID]string{b.id: b.addr}), b.mesh.SetPeers(map[link.NodeID]string{a.id: a.addr})); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, soon, func() bool { return a.mesh.Reaches(b.id) && b.mesh.Reaches(a.id) }, "connected")
}

// lead has a node lead all shards of set 0 with others in sync.
func (n *node) lead(epoch record.Epoch, others ...uint64) {
	n.t.Helper()
	n.leadSet(0, epoch, others...)
}

// leadSet has a node lead a set.
func (n *node) leadSet(number int, epoch record.Epoch, others ...uint64) {
	n.t.Helper()
	set := setOf(number)
	for i := range set.Shards {
		n.b.Lead(set.shard(i), epoch, others, 1, func(err error) {
			if err != nil {
				n.t.Errorf("lead shard %d: %v", set.shard(i), err)
			}
		})
	}
	n.sets.Of(number).Lead(epoch)
}

// opens waits until all shards of set 0 take commands.
func (n *node) opens() {
	n.t.Helper()
	n.opensSet(0)
}

func (n *node) opensSet(number int) {
	n.t.Helper()
	set := setOf(number)
	testx.Eventually(n.t, soon, func() bool {
		for i := range set.Shards {
			if !n.b.Replica(set.shard(i)).Open {
				return false
			}
		}
		return true
	}, "node", n.id, "takes commands of set", number)
}

// resign lets go of all shards of set 0.
func (n *node) resign() { n.resignSet(0) }

func (n *node) resignSet(number int) {
	n.sets.Of(number).Rest()
	gone := make(chan struct{}, testShards)
	set := setOf(number)
	for i := range set.Shards {
		n.b.Resign(set.shard(i), func() { gone <- struct{}{} })
	}
	for range testShards {
		<-gone
	}
}

// batch is one of n bytes.
func batch(name string, n int) record.Batch {
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	value := make([]byte, max(n, len(name)))
	copy(value, name)
	b.Append(&record.Input{Key: []byte("k"), Value: value, Timestamp: 1000})
	return b.Finish(&record.BatchOptions{})
}

// append gives a shard's partition a batch, as soon as there is room, and does not wait for its answer.
func (n *node) append(shard int, b record.Batch) {
	n.t.Helper()
	for {
		var err error
		n.on(func(l *broker.Local) {
			err = l.Append(n.app, n.b.Topic(0, "t").Partition(int32(shard)), b, broker.AppendOptions{}, 1)
		})
		switch {
		case err == nil:
			return
		case !errors.Is(err, broker.ErrBusy):
			n.t.Fatalf("append at node %d: %v", n.id, err)
		}
		testx.Receive(n.t, n.sink.room, soon)
	}
}

// same waits until b's log has all that a's has of set 0, and a's high watermarks.
func same(t testing.TB, a, b *node) {
	t.Helper()
	sameSet(t, 0, a, b)
}

func sameSet(t testing.TB, number int, a, b *node) {
	t.Helper()
	set := setOf(number)
	testx.Eventually(t, soon, func() bool {
		for i := range set.Shards {
			x, y := a.b.Replica(set.shard(i)), b.b.Replica(set.shard(i))
			if x.Durable != x.Last || y.Durable != x.Durable || y.Applied != x.Applied || x.Applied != x.Last {
				return false
			}
		}
		return true
	}, "node", b.id, "has what node", a.id, "has of set", number)
}

// source stands between broker and journal.
type source struct {
	*journal.Log
	b *broker.Broker
}

func (s *source) Gather(dst []byte, most int) ([]byte, bool) { return s.b.Gather(dst, most) }
func (s *source) Committed(g *journal.Group)                 { s.b.Committed(broker.Place(g.End())) }
func (s *source) Failed(err error)                           { s.b.Failed(err, false) }

// Read makes it a broker.Log.
func (s *source) Read(record.PartitionID, record.Offset, func(record.Batch) bool) error {
	return fmt.Errorf("not in this test")
}

// end is one end of a stream in the test's hands.
type end struct {
	ch     *link.Channel
	set    int
	epoch  record.Epoch
	got    chan []byte
	closed chan error
}

// gotMost is more messages than a test has sent to it.
const gotMost = 1 << 14

func newEnd() *end { return &end{got: make(chan []byte, gotMost), closed: make(chan error, 1)} }

// Receive makes it a link.Receiver.
func (e *end) Receive(_ *link.Channel, m link.Message) {
	e.got <- bytes.Clone(m.Bytes())
	m.Release()
}

// Closed makes it a link.Receiver.
func (e *end) Closed(_ *link.Channel, err error) { e.closed <- err }

// raw is a node without a broker, whose streams are the test's.
func newRaw(t testing.TB, id link.NodeID) (n *node, streams chan *end) {
	t.Helper()
	n = &node{t: t, id: id, mesh: newMesh(t, id)}
	streams = make(chan *end, gotMost)
	n.mesh.Handle(link.KindReplication, func(ch *link.Channel, head []byte) (link.Receiver, error) {
		e := newEnd()
		e.ch = ch
		var err error
		if e.set, e.epoch, err = decodeHead(head); err != nil {
			return nil, err
		}
		streams <- e
		return e, nil
	})
	n.addr = listen(t, n.mesh)
	return n, streams
}

// open opens a stream to a leader.
func (n *node) open(to link.NodeID, head []byte) *end {
	n.t.Helper()
	e := newEnd()
	ch, err := n.mesh.Open(to, link.KindReplication, head, e)
	if err != nil {
		n.t.Fatal(err)
	}
	e.ch = ch
	return e
}

// begin opens a stream of set 0 in an epoch, and asks for all that comes behind from.
func (n *node) begin(to link.NodeID, epoch record.Epoch, from ...uint64) (*end, []history) {
	n.t.Helper()
	return n.beginSet(0, to, epoch, from...)
}

func (n *node) beginSet(number int, to link.NodeID, epoch record.Epoch, from ...uint64) (*end, []history) {
	n.t.Helper()
	e := n.open(to, appendHead(nil, number, epoch))
	b := testx.Receive(n.t, e.got, soon)
	list, err := decodeHistories(b[1:], testShards)
	if b[0] != msgHistory || err != nil {
		n.t.Fatalf("it begins with %x: %v", b, err)
	}
	msg := []byte{msgFrom}
	for _, at := range from {
		msg = binary.AppendUvarint(msg, at)
	}
	e.send(n.t, msg)
	return e, list
}

func (e *end) send(t testing.TB, msg []byte) {
	t.Helper()
	if err := e.ch.Send(msg); err != nil {
		t.Fatal(err)
	}
}
