package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// memLog is a Log in memory that commits when the test says so, fails when told, and survives a "crash" of its broker: it
// keeps the frames of committed groups.
type memLog struct {
	mu     sync.Mutex
	b      *Broker
	awake  bool
	groups [][]byte
	start  map[record.PartitionID]record.Offset
	fail   error // the next groups are not written
	cold   bool  // nothing lies in memory
	// What lies below far is in the store alone; store runs at each read of that, and may fail it or take its time.
	far   map[record.PartitionID]record.Offset
	store func() error

	cuts     bool   // what a KindTruncate takes back is not read
	between  func() // runs once between a Gather and what becomes of it
	gathered []byte // by that
}

func (m *memLog) Wake() { m.awake = true }

func (m *memLog) commit() bool {
	any := false
	for m.awake {
		m.awake = false
		buf, more := m.b.Gather(nil, 1<<20)
		m.awake = m.awake || more
		if fn := m.between; fn != nil && len(buf) > 0 {
			m.between, m.gathered = nil, buf
			fn()
		}
		if m.fail != nil {
			m.b.Failed(m.fail, false)
			any = true
			continue
		}
		if len(buf) > 0 {
			m.mu.Lock()
			m.groups = append(m.groups, buf)
			m.mu.Unlock()
		}
		if len(buf) > 0 {
			m.b.Committed(Place{Segment: 1, Offset: int64(len(m.groups))})
		}
		any = true
	}
	return any
}

func (m *memLog) frames(fn func(f record.Frame)) {
	m.mu.Lock()
	groups := m.groups
	m.mu.Unlock()
	for _, g := range groups {
		for len(g) > 0 {
			f, n, err := record.DecodeFrame(g)
			if err != nil {
				panic(err)
			}
			fn(f)
			g = g[n:]
		}
	}
}

// standing is frames without those that a KindTruncate has taken back.
func (m *memLog) standing(fn func(f record.Frame)) {
	var list []record.Frame
	m.frames(func(f record.Frame) {
		if f.Kind == record.KindTruncate {
			list = slices.DeleteFunc(list, func(o record.Frame) bool {
				return o.Shard == f.Shard && o.Kind <= record.KindCommand && o.Index > f.Index
			})
		}
		list = append(list, f)
	})
	for _, f := range list {
		fn(f)
	}
}

func (m *memLog) Read(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	if from < m.far[p] && m.store != nil {
		if err := m.store(); err != nil {
			return err
		}
	}
	return m.walk(p, from, fn)
}

func (m *memLog) walk(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	goOn := true
	each := m.frames
	if m.cuts {
		each = m.standing
	}
	each(func(f record.Frame) {
		if f.Kind != record.KindRecords || f.Partition != p || !goOn {
			return
		}
		batch, _, err := record.ParseBatch(record.FrameBatch(f.Payload))
		if err != nil {
			panic(err)
		}
		m.mu.Lock()
		dead := batch.LastOffset() < m.start[p]
		m.mu.Unlock()
		if batch.LastOffset() >= from && !dead {
			goOn = fn(batch)
		}
	})
	return nil
}

func (m *memLog) SetLogStart(p record.PartitionID, o record.Offset) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.start == nil {
		m.start = map[record.PartitionID]record.Offset{}
	}
	m.start[p] = o
}

func (m *memLog) ReadBatches(r ReadRequest, dst [][]byte) ([][]byte, alloc.Ref, bool, error) {
	if r.Tail && m.cold || (r.Tail || r.Local) && r.From < m.far[r.Partition] {
		return dst, nil, false, nil
	}
	if start, _ := m.Bounds(r.Partition); r.From < start {
		return dst, nil, true, ErrOffsetOutOfRange
	}
	got := 0
	err := m.Read(r.Partition, r.From, func(b record.Batch) bool {
		if got > 0 && got+len(b) > r.MaxBytes || b.BaseOffset() >= r.End {
			return false
		}
		got += len(b)
		dst = append(dst, b)
		return true
	})
	return dst, nil, true, err
}

func (m *memLog) LocalStart(p record.PartitionID) record.Offset {
	start, _ := m.Bounds(p)
	return max(start, m.far[p])
}

func (m *memLog) TieredEnd(p record.PartitionID) record.Offset { return m.far[p] }

func (m *memLog) LocalSize(p record.PartitionID) int64 { return m.Size(p) }

func (m *memLog) Partitions() (ids []record.PartitionID) {
	m.frames(func(f record.Frame) {
		if f.Kind == record.KindRecords && !slices.Contains(ids, f.Partition) {
			ids = append(ids, f.Partition)
		}
	})
	return ids
}

func (m *memLog) Bounds(p record.PartitionID) (start, end record.Offset) {
	m.mu.Lock()
	start = m.start[p]
	m.mu.Unlock()
	_ = m.walk(p, 0, func(b record.Batch) bool {
		end = b.NextOffset()
		return true
	})
	return start, max(start, end)
}

func (m *memLog) Seek(p record.PartitionID, at int64, latest bool) (from record.Offset, time int64, found bool) {
	time = -1
	_ = m.walk(p, 0, func(b record.Batch) bool {
		ts := b.MaxTimestamp()
		if b.Attributes()&record.Control != 0 || latest && ts <= time || !latest && ts < at {
			return true
		}
		from, time, found = b.BaseOffset(), ts, true
		return latest
	})
	return from, time, found
}

func (m *memLog) Size(p record.PartitionID) (bytes int64) {
	_ = m.walk(p, 0, func(b record.Batch) bool {
		bytes += int64(len(b))
		return true
	})
	return bytes
}

func (m *memLog) Excess(p record.PartitionID, before, bytes int64) record.Offset {
	all := int64(0)
	_ = m.walk(p, 0, func(b record.Batch) bool {
		all += int64(len(b))
		return true
	})
	start, _ := m.Bounds(p)
	_ = m.walk(p, 0, func(b record.Batch) bool {
		if b.MaxTimestamp() >= before && all <= bytes {
			return false
		}
		all -= int64(len(b))
		start = b.NextOffset()
		return true
	})
	return start
}

func (m *memLog) DropPartition(p record.PartitionID) { m.SetLogStart(p, 1<<62) }

// bench is a broker whose loops run on the test's goroutine.
type testBroker struct {
	lost   int // times that Options.Lost was called
	t      testing.TB
	b      *Broker
	log    *memLog
	clock  *clock.Manual
	faults faults

	entryChanged func([]CatalogEntry) // may be nil
	tier         *memManifest         // the same
}

// faults counts the errors that a broker logs.
type faults struct{ atomic.Int64 }

func (f *faults) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (f *faults) Handle(context.Context, slog.Record) error    { f.Add(1); return nil }
func (f *faults) WithAttrs([]slog.Attr) slog.Handler           { return f }
func (f *faults) WithGroup(string) slog.Handler                { return f }

// open makes the broker and its log.
func (tb *testBroker) open(loops int) {
	tb.b = New(Options{Shards: modelShards, Loops: loops, Clock: tb.clock, Logger: slog.New(&tb.faults), EntryChanged: tb.entryChanged})
	tb.log = &memLog{b: tb.b}
	tb.b.UseLog(tb.log)
	if tb.tier != nil {
		tb.b.UseTier(tb.tier)
	}
}

func newTestBroker(t testing.TB, loops int, old *testBroker) *testBroker {
	t.Helper()
	tb := openTestBroker(t, loops, old)
	t.Cleanup(tb.b.Close)
	return tb
}

// openTestBroker leaves it to the caller to close the broker.
func openTestBroker(t testing.TB, loops int, old *testBroker) *testBroker {
	t.Helper()
	tb := &testBroker{t: t}
	tb.clock = clock.NewManual(clockStart)
	if old != nil {
		tb.clock = old.clock
	}
	tb.open(loops)
	if old != nil {
		tb.log.groups = old.log.groups
		old.b.Topics(0, func(t *Topic) bool {
			tb.b.SetTopic(t.Spec())
			return true
		})
		old.log.frames(func(f record.Frame) {
			if err := tb.b.Replay(f, Place{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	tb.b.Recovered()
	return tb
}

// pump runs loops, commits and fetches until nothing happens any more.
func (tb *testBroker) pump() {
	for idle := 0; idle < 3; {
		idle++
		for i := range tb.b.Loops() {
			l := tb.b.Local(i)
			if l.awake.Load() {
				idle = 0
			}
			l.Drain()
			l.EndTurn()
		}
		if tb.log.commit() {
			idle = 0
		}
		if tb.b.fetcher.busy() {
			idle = 0
		}
	}
}

// crash throws the broker away and starts another on what was committed.
func (tb *testBroker) crash(loops int) *testBroker { return newTestBroker(tb.t, loops, tb) }

// restart starts another broker on what was flushed of checkpoints, and the log from where the last of them says. The old broker's end,
// and the new one's, are the caller's.
func (tb *testBroker) restart(loops int, points *memCheckpoints) (*testBroker, error) {
	return tb.restartWith(loops, points)
}

// restartWith is restart with topics that the catalog knows.
func (tb *testBroker) restartWith(loops int, points *memCheckpoints, topics ...*TopicSpec) (*testBroker, error) {
	next := &testBroker{t: tb.t, clock: tb.clock, entryChanged: tb.entryChanged, tier: tb.tier}
	next.open(loops)
	next.log.groups, next.log.start = tb.log.groups, tb.log.start
	points.written = maps.Clone(points.flushed)
	for _, spec := range topics {
		next.b.SetTopic(spec)
	}
	if err := next.b.Load(points); err != nil {
		return nil, err
	}
	for i, g := range next.log.groups[points.replay:] {
		end := Place{Segment: 1, Offset: int64(points.replay + i + 1)}
		for len(g) > 0 {
			f, n, err := record.DecodeFrame(g)
			if err == nil {
				err = next.b.Replay(f, end)
			}
			if err != nil {
				return nil, err
			}
			g = g[n:]
		}
	}
	next.b.Recovered()
	return next, nil
}

func (tb *testBroker) tick() {
	for i := range tb.b.Loops() {
		tb.b.Local(i).Tick()
	}
	tb.pump()
}

// got is one delivery that a testClient took.
type got struct {
	topic, payload string
	qos            QoS
	id             uint16
	dup, retain    bool
	ids            string
}

// testClient is a Subscriber that remembers.
type testClient struct {
	tb        *testBroker
	l         *Local
	c         *Client
	got       []got
	refs      []uint16 // packet identifiers to be acknowledged
	room      int      // deliveries it takes; negative: any number
	connected *ConnectResult
	completed map[Token]error
	controls  []Control
	kicked    error
	next      uint16
}

func (c *testClient) Deliver(m *Message, d *Delivery) (uint16, bool) {
	if c.room == 0 {
		return 0, false
	}
	c.room--
	id := d.PacketID
	if id == 0 && d.QoS > 0 {
		c.next++
		id = c.next
	}
	c.got = append(c.got, got{string(m.Topic), string(m.Payload), d.QoS, id, d.Dup, d.Retain, fmt.Sprint(d.SubscriptionIDs)})
	if !d.Ref.Zero() {
		c.refs = append(c.refs, id)
	}
	return id, true
}
func (c *testClient) Completed(r Result)        { c.completed[r.Token] = r.Err }
func (c *testClient) Connected(r ConnectResult) { c.connected = &r }
func (c *testClient) Kicked(why error) {
	c.kicked = why
	c.l.Disconnect(c.c, DisconnectRequest{PublishWill: true})
}
func (c *testClient) Control(e Control) { c.controls = append(c.controls, e) }

func (tb *testBroker) client(loop int) *testClient {
	c := &testClient{tb: tb, l: tb.b.Local(loop), room: -1, completed: map[Token]error{}}
	c.c = c.l.NewClient(c)
	return c
}

func (tb *testBroker) connect(loop int, req ConnectRequest) *testClient {
	tb.t.Helper()
	c := tb.client(loop)
	c.l.Connect(c.c, &req)
	tb.pump()
	if c.connected == nil || c.connected.Err != nil {
		tb.t.Fatalf("connect %s: %+v", req.ClientID, c.connected)
	}
	return c
}

func (c *testClient) subscribe(qos QoS, filters ...string) {
	c.tb.t.Helper()
	var reqs []SubscribeRequest
	for _, f := range filters {
		reqs = append(reqs, SubscribeRequest{Filter: []byte(f), QoS: qos})
	}
	errs := make([]error, len(reqs))
	if _, err := c.l.Subscribe(c.c, reqs, errs, 9999); err != nil {
		c.tb.t.Fatal(err)
	}
	for _, err := range errs {
		if err != nil {
			c.tb.t.Fatal(err)
		}
	}
	c.tb.pump()
}

func (c *testClient) share(group string, qos QoS, filter string) {
	c.tb.t.Helper()
	errs := make([]error, 1)
	if _, err := c.l.Subscribe(c.c, []SubscribeRequest{{Filter: []byte(filter), Group: []byte(group), QoS: qos}}, errs, 9999); err != nil || errs[0] != nil {
		c.tb.t.Fatal(err, errs)
	}
	c.tb.pump()
}

func (c *testClient) publish(topic, payload string, qos QoS, tok Token) Outcome {
	c.tb.t.Helper()
	m := Message{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, Timestamp: c.tb.clock.Now().UnixMilli()}
	out, err := c.l.Publish(c.c, &m, qos == 2, tok)
	if err != nil {
		c.tb.t.Fatal(err)
	}
	return out
}

func (c *testClient) ackAll() {
	for _, id := range c.refs {
		c.l.Acked(c.c, id)
	}
	c.refs = nil
	c.tb.pump()
}

func (c *testClient) payloads() (list []string) {
	for _, g := range c.got {
		list = append(list, g.payload)
	}
	return list
}

func (c *testClient) disconnect() {
	c.l.Disconnect(c.c, DisconnectRequest{})
	c.tb.pump()
}
