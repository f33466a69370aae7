package broker

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// boundBench is a bench whose topic "t" is a stream that MQTT topics are bound to.
type boundBench struct{ *groupBench }

// newBoundBench ties filter to "t".
func newBoundBench(t *testing.T, filter string) *boundBench {
	t.Helper()
	bb := &boundBench{newGroupBench(t)}
	bb.bind(filter)
	return bb
}

func (bb *boundBench) bind(filters ...string) {
	bb.t.Helper()
	var list []*Binding
	for _, f := range filters {
		bd, err := ParseBinding(f, "t", "", "")
		if err != nil {
			bb.t.Fatal(err)
		}
		list = append(list, bd)
	}
	if err := bb.b.Bind(list); err != nil {
		bb.t.Fatal(err)
	}
	bb.pump()
}

func (bb *boundBench) partition(i int32) *Partition { return bb.b.Topic(0, "t").Partition(i) }

// records makes a batch as Kafka's producers do.
func records(o record.BatchOptions, list ...record.Input) record.Batch {
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	for i := range list {
		list[i].OffsetDelta, list[i].Timestamp = int32(i), 1000
		b.Append(&list[i])
	}
	return slices.Clone(b.Finish(&o))
}

func (bb *boundBench) produce(p *Partition, b record.Batch, o AppendOptions) {
	bb.t.Helper()
	a := bb.appender(0)
	if err := a.a.local.Append(a.a, p, b, o, 1); err != nil {
		bb.t.Fatal(err)
	}
	bb.pump()
	if err := a.results[1].Err; err != nil {
		bb.t.Fatal(err)
	}
}

// settled fails the test where something of the accumulations is left over.
func (bb *boundBench) settled() {
	bb.t.Helper()
	bb.pump()
	if n := bb.b.appending.Load(); n != 0 {
		bb.t.Errorf("%d bytes count as on their way", n)
	}
	for _, s := range bb.b.homes {
		s.mu.Lock()
		if f := s.mu.fill; f != nil && (f.batchBytes != 0 || len(f.batches) != 0 || len(f.building) != 0) || s.mu.flyingBatches != 0 || len(s.mu.flying) != 0 || s.mu.unapplied != 0 {
			bb.t.Errorf("shard %d: fill %+v, %d on their way in %d, %d lists not applied", s.id, f, s.mu.flyingBatches, len(s.mu.flying), s.mu.unapplied)
		}
		s.mu.Unlock()
	}
	bb.b.Topics(0, func(t *Topic) bool {
		for _, p := range t.Partitions() {
			if p.mu.building != 0 || p.mu.next != p.HighWatermark() {
				bb.t.Errorf("partition %d: builds %d, next %d, high watermark %d", p.id, p.mu.building, p.mu.next, p.HighWatermark())
			}
			if r := p.relay; r != nil && (r.opened.plain != nil || r.busy || r.looped || r.chunk != nil || r.refs != 0 || len(r.kept) != 0) {
				bb.t.Errorf("partition %d: its relay is left at %+v", p.id, r)
			}
			if p.open.Load() != nil && p.relayed.Load() < int64(p.LastStable()) {
				bb.t.Errorf("partition %d: relayed to %d of %d", p.id, p.relayed.Load(), p.LastStable())
			}
		}
		return true
	})
}

// Aborted transactions that lie within one another reach no subscriber, whichever ends first.
func TestBoundAborted(t *testing.T) {
	for _, cold := range []bool{false, true} {
		bb := newBoundBench(t, "k/#")
		bb.log.cold = cold
		s := bb.connect(1, kept("s"))
		s.subscribe(1, "k/#")
		p := bb.partition(0)
		a := bb.appender(0)
		send := func(producer int64, seq int32, value string) {
			b := records(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: producer, Sequence: seq}},
				record.Input{Key: []byte("k/1"), Value: []byte(value)})
			if err := a.a.local.Append(a.a, p, b, AppendOptions{Transactional: true}, 1); err != nil {
				t.Fatal(err)
			}
			bb.pump()
		}
		for id := range int64(3) {
			p.announceTxn(7+id, 0)
		}
		send(7, 0, "aborted 1")
		send(8, 0, "aborted 2")
		send(9, 0, "committed")
		bb.marker(t, p, 8, 0, false)
		send(7, 1, "aborted 3")
		bb.marker(t, p, 9, 0, true)
		bb.marker(t, p, 7, 0, false)
		bb.pump()
		if got := s.payloads(); !slices.Equal(got, []string{"committed"}) {
			t.Errorf("cold %v: got %q", cold, got)
		}
		bb.settled()
	}
}

// What Kafka's clients put into headers and MQTT cannot carry is left out; what is delivered is well formed.
func TestBoundHeaders(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 1<<16)
	h := func(k string, v []byte) record.Header { return record.Header{Key: []byte(k), Value: v} }
	bb := newBoundBench(t, "k/#")
	s := bb.connect(1, live("s"))
	props := &propsClient{testClient: s}
	s.c.sub = props
	s.subscribe(1, "k/#")
	bb.produce(bb.partition(0), records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte("v"), Headers: []record.Header{
		h("good", []byte("1")), h("long", long), h(string(long), nil), h("binary", []byte{0xff}), h("zero", []byte{0}), h("\xff", nil), h("null", nil),
		h("mqtt.content_type", []byte("a")), h("mqtt.content_type", []byte("b")), h("mqtt.content_type", []byte{0xff}), h("mqtt.format", []byte{7}), h("mqtt.format", []byte{1}),
		h("mqtt.format", []byte{0}), h("mqtt.response_topic", []byte("a/+")), h("mqtt.response_topic", nil), h("mqtt.response_topic", []byte("r")),
		h("mqtt.correlation", long), h("mqtt.correlation", []byte{0xff}), h("mqtt.correlation", []byte{1}), h("mqtt.publisher", []byte("12345678")),
		h("mqtt.topic", []byte("x")), h("mqtt.qos", []byte("9")), h("mqtt.deadline", []byte("short")), h("mqtt.user.mqtt.x", []byte("2"))}}), AppendOptions{})
	if want := []string{`26 good=1`, `26 null=`, `3 "a"`, `1 1`, `8 "r"`, `9 "\xff"`, `26 mqtt.x=2`}; !slices.Equal(props.list, want) {
		t.Errorf("properties are %q, want %q", props.list, want)
	}
	bb.settled()
}

// propsClient reads the properties of what it gets.
type propsClient struct {
	*testClient
	list []string
}

func (c *propsClient) Deliver(m *Message, d *Delivery) (uint16, bool) {
	for b := m.Props; len(b) > 0; {
		id := b[0]
		if id == propFormat {
			c.list = append(c.list, fmt.Sprintf("%d %d", id, b[1]))
			b = b[2:]
			continue
		}
		s, rest, ok := takeString(b[1:])
		if ok && id == propUser {
			var v []byte
			v, rest, ok = takeString(rest)
			ok = ok && utf8.Valid(s) && utf8.Valid(v)
			c.list = append(c.list, fmt.Sprintf("%x %s=%s", id, s, v))
		} else {
			c.list = append(c.list, fmt.Sprintf("%x %q", id, s))
		}
		if !ok {
			c.list = append(c.list, "malformed")
			break
		}
		b = rest
	}
	return c.testClient.Deliver(m, d)
}

// bomb is a batch that is small and comes to much when it is opened.
func bomb(n, size int, headers ...record.Header) record.Batch {
	list := make([]record.Input, n)
	for i := range list {
		list[i] = record.Input{Key: []byte("k/1"), Value: bytes.Repeat([]byte("x"), size), Headers: headers}
	}
	return zstd(records(record.BatchOptions{}, list...))
}

func zstd(b record.Batch) record.Batch {
	return compress.AppendBatch(nil, compress.Settings{Codec: record.Zstd}, b)
}

// What waits for the log stays small, however much a compressed batch comes to, and all of it comes.
func TestBoundChunks(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	s := bb.connect(1, ConnectRequest{ClientID: "s", Expiry: NeverExpires, ReceiveMax: 65535})
	s.subscribe(1, "k/#")
	most := 0
	a := bb.appender(0)
	p := bb.partition(0)
	if err := a.append(p, bomb(200, 64<<10), 1); err != nil {
		t.Fatal(err)
	}
	for len(s.got) < 200 {
		for i := range bb.b.Loops() {
			bb.b.Local(i).Drain()
			bb.b.Local(i).EndTurn()
			if r := p.relay; r != nil && r.chunk != nil {
				most = max(most, len(r.chunk.buf))
			}
		}
		bb.log.commit()
	}
	if most > 4<<20 {
		t.Errorf("a chunk has come to %d bytes", most)
	}
	s.ackAll()
	bb.settled()
}

// A relay that was under way when the binding was taken away has come nowhere: a later binding begins with what comes from then on.
func TestBindAgain(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	s := bb.connect(0, kept("s"))
	s.subscribe(1, "k/#")
	p := bb.partition(0)
	put := func(value string) {
		bb.produce(p, records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte(value)}), AppendOptions{})
	}
	put("bound")
	bb.bind()
	p.shard.home.relayCame(p, p.LastStable()) // of a turn that had looked before
	put("not bound")
	p.shard.home.relayPartition(p)
	bb.pump()
	bb.bind("k/#")
	put("again")
	if got := s.payloads(); !slices.Equal(got, []string{"bound", "again"}) {
		t.Errorf("got %q", got)
	}
	bb.settled()
}

// The same over a crash without a checkpoint: what was written while nothing bound the stream does not come when it is bound again.
func TestBindAgainAfterCrash(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	s := bb.connect(0, kept("s"))
	s.subscribe(1, "k/#")
	put := func(value string) {
		bb.produce(bb.partition(0), records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte(value)}), AppendOptions{})
	}
	put("bound")
	s.ackAll()
	bb.tick()
	bb.bind()
	put("not bound")
	put("not bound either")
	bb = &boundBench{bb.crashed()}
	put("before the bindings of the node")
	bb.bind("k/#")
	put("again")
	s = bb.connect(0, kept("s"))
	bb.pump()
	if got := s.payloads(); !slices.Equal(got, []string{"again"}) {
		t.Errorf("got %q", got)
	}
	bb.settled()
}

// The identifiers of QoS 2 publishes go into the log with their records, even if the binding goes between the two.
func TestUnboundWhilePending(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	p := bb.connect(0, kept("p"))
	p.publish("k/1", "v", 2, 5)
	if err := bb.b.Bind(nil); err != nil {
		t.Fatal(err)
	}
	bb.pump()
	if err, done := p.completed[5]; !done || err != nil {
		t.Fatalf("answered %v, %v", done, err)
	}
	bb = &boundBench{bb.crashed()}
	c := bb.connect(0, kept("p"))
	if !slices.Contains(c.connected.Received, 5) {
		t.Errorf("after the crash the identifiers %v are known", c.connected.Received)
	}
}

// A session that is behind goes on where the first link's record is gone and what follows it in the shard fills a fetch.
func TestFollowCut(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	all := ConnectRequest{ClientID: "s", Expiry: NeverExpires, ReceiveMax: 100}
	s := bb.connect(0, all)
	s.subscribe(1, "#")
	s.disconnect()
	p := bb.partition(0)
	put := func(value string) {
		bb.produce(p, records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte(value)}), AppendOptions{})
	}
	put("gone")
	put("there")
	direct := ""
	for i := 0; direct == "" || bb.b.shardOf(0, []byte(direct)) != p.shard; i++ {
		direct = fmt.Sprint("direct/", i)
	}
	large := strings.Repeat("x", fetchBytesMax)
	bb.connect(0, live("p")).publish(direct, large, 1, 1)
	bb.pump()
	bb.log.SetLogStart(p.ID(), 1)
	p.logStart.Store(1)
	s = bb.connect(0, all)
	for range 50 {
		bb.turn()
	}
	if got := s.payloads(); !slices.Equal(got, []string{"there", large}) {
		t.Errorf("got %d messages", len(got))
	}
	s.ackAll()
	bb.settled()
}

// turn is one turn of each loop, and a commit.
func (bb *boundBench) turn() {
	for i := range bb.b.Loops() {
		bb.b.Local(i).Drain()
		bb.b.Local(i).EndTurn()
	}
	for bb.b.fetcher.busy() {
		runtime.Gosched()
	}
	bb.log.commit()
}

// A replay has few reads of a connection under way at a time, however many partitions lie behind its filter, gives all of them, and leaves
// nothing behind when its connection ends in the middle.
func TestReplayReads(t *testing.T) {
	bb := &boundBench{newGroupBench(t)}
	spec := &TopicSpec{Name: "t", ID: TopicID{1}}
	for i := range 64 {
		spec.Partitions = append(spec.Partitions, PartitionSpec{ID: record.PartitionID(100 + i), Shard: record.ShardID(i % 4)})
	}
	bb.b.SetTopic(spec)
	bb.bind("k/#")
	for i := range int32(64) {
		bb.produce(bb.partition(i), records(record.BatchOptions{}, record.Input{Key: fmt.Appendf(nil, "k/%d", i), Value: []byte("v")}), AppendOptions{})
	}
	bb.produce(bb.partition(0), bomb(20, 1<<10), AppendOptions{})
	bb.log.cold = true
	s := bb.connect(0, live("s"))
	room := &roomClient{testClient: s}
	s.c.sub = room
	errs := make([]error, 1)
	if _, err := s.l.Subscribe(s.c, []SubscribeRequest{{Filter: []byte("k/#"), QoS: 1, From: ReplayFrom{Kind: ReplayEarliest}}}, errs, 1); err != nil || errs[0] != nil {
		t.Fatal(err, errs)
	}
	under := func() (n int) {
		for _, rep := range s.c.more.replays {
			for _, rp := range rep.parts {
				if rp.reading || len(rp.fetch.Batches) > 0 {
					n++
				}
			}
		}
		return n
	}
	for len(s.got) < 84 {
		bb.turn()
		if n := under(); n > replayReads {
			t.Fatalf("%d reads are under way", n)
		}
		room.room = 1
		s.l.Ready(s.c)
	}
	if n := bb.b.openedHeld.Load(); n != 0 {
		t.Errorf("%d bytes of opened batches are held", n)
	}
	s.got = nil
	if _, err := s.l.Subscribe(s.c, []SubscribeRequest{{Filter: []byte("k/#"), QoS: 1, From: ReplayFrom{Kind: ReplayEarliest}}}, errs, 2); err != nil || errs[0] != nil {
		t.Fatal(err, errs)
	}
	room.room = 5 // in the middle of the compressed batch
	for range 10 {
		bb.turn()
		s.l.Ready(s.c)
	}
	if bb.b.openedHeld.Load() == 0 {
		t.Errorf("the batch in the middle is not held")
	}
	s.disconnect()
	if n := bb.b.openedHeld.Load(); n != 0 {
		t.Errorf("%d bytes of opened batches are held after the end", n)
	}
	bb.settled()
}

// roomClient says when it has no room.
type roomClient struct {
	*testClient
	room int
}

func (c *roomClient) Room() bool { return c.room > 0 }
func (c *roomClient) Deliver(m *Message, d *Delivery) (uint16, bool) {
	c.room--
	return c.testClient.Deliver(m, d)
}

// What the log does not take is answered once with the error, at each step of the way; nothing is left over, and what comes after it is whole.
func TestBoundFails(t *testing.T) {
	for commits := range 4 { // of the log before it fails: the batch, the retained copy, the links
		bb := newBoundBench(t, "k/#")
		s := bb.connect(1, kept("s"))
		s.subscribe(1, "k/#")
		p := bb.connect(0, kept("p"))
		var toks []Token
		for i := range 20 {
			m := Message{Topic: fmt.Appendf(nil, "k/%d", i%3), Payload: fmt.Append(nil, i), QoS: QoS(1 + i%2), Retain: i%4 == 0, Timestamp: 1}
			if _, err := p.l.Publish(p.c, &m, m.QoS == 2, Token(i+1)); err != nil {
				t.Fatal(err)
			}
			toks = append(toks, Token(i+1))
		}
		for range commits {
			bb.turn()
		}
		bb.log.fail = errors.New("disk is full")
		for range 3 {
			bb.turn()
		}
		bb.log.fail = nil
		bb.pump()
		bb.tick()
		bb.tick()
		good := 0
		for _, tok := range toks {
			err, done := p.completed[tok]
			if !done {
				t.Errorf("%d commits: %d is not answered", commits, tok)
			} else if err == nil {
				good++
			}
		}
		for range 5 {
			s.ackAll()
			bb.tick()
		}
		if len(s.got) != good || p.c.waiting != 0 {
			t.Errorf("%d commits: %d of %d came, %d wait", commits, len(s.got), good, p.c.waiting)
		}
		bb.settled()
	}
}
