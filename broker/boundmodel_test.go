package broker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/journal/record"
)

// boundModel is the part of the model that knows of a stream: the topics below "a" are bound to it, now and then not, and now and then what
// Kafka's clients append does not reach MQTT. A nil one binds nothing.
//
// What was acknowledged while a binding took it is in the stream, once; nobody sees what is aborted, or not decided; whoever gets messages
// of a topic from the stream gets them in the order of the stream, live, after absence, or from the past; whoever starts in the past gets
// all from there on.
type boundModel struct {
	m       *model
	on      bool // MQTT's messages go into the stream
	deliver bool // Kafka's records reach MQTT
	txns    []*boundTxn
	reader  *boundReader
	readers int
}

func (b *boundModel) begin(m *model) {
	if b == nil {
		return
	}
	b.m = m
	m.tb.b.SetTopic(b.topics()[0])
	b.bind(true, true)
	for i := range 2 {
		b.txns = append(b.txns, &boundTxn{b: b, id: int64(i + 10), topic: modelTopics[i]})
	}
	b.attach()
}

// topics are those that the catalog knows.
func (b *boundModel) topics() []*TopicSpec {
	if b == nil {
		return nil
	}
	return []*TopicSpec{topicSpec("t", 1, 100, 104, 105)} // two of one shard, one of another
}

func (b *boundModel) topic() *Topic { return b.m.tb.b.Topic(0, "t") }

// binds says whether a topic may be bound.
func (b *boundModel) binds(topic string) bool { return b != nil && topic[0] == 'a' }

func (b *boundModel) bind(on, deliver bool) {
	var list []*Binding
	if on {
		how := map[bool]string{true: "key", false: "off"}[deliver]
		bd, err := ParseBinding("a/#", "t", "", how)
		if err != nil {
			b.m.t.Fatal(err)
		}
		list = append(list, bd)
	}
	if err := b.m.tb.b.Bind(list); err != nil {
		b.m.t.Fatal(err)
	}
	b.on, b.deliver = on, on && deliver
}

// doBind changes the bindings. What is on its way then comes all the same, but not in order with what comes after it; of Kafka's records
// nobody may rely on.
func (b *boundModel) doBind(t *rapid.T) {
	b.m.t = t
	b.m.op++
	b.m.tb.clock.Advance(2 * time.Millisecond) // what is retained on both ways is told apart by its time
	on := rapid.IntRange(0, 3).Draw(t, "bound") > 0
	b.bind(on, rapid.Bool().Draw(t, "deliver"))
	for _, msg := range b.m.messages {
		if msg.loose = true; msg.publisher[0] == '!' {
			b.freed(msg)
		}
	}
}

// freed takes back what a message entitles to.
func (b *boundModel) freed(msg *modelMessage) {
	msg.free = true
	for _, s := range b.m.sessions {
		delete(s.must, msg.n)
	}
	for _, owed := range b.m.shared {
		delete(owed, msg.n)
	}
}

func (b *boundModel) crashed() {
	if b == nil {
		return
	}
	b.reader = nil
	b.bind(b.on, b.deliver)
	b.attach()
}

func (b *boundModel) attach() {
	for _, x := range b.txns {
		x.ap = b.m.tb.b.Local(int(x.id) % b.m.tb.b.Loops()).NewAppender(x)
		x.wait = false
	}
}

// sends notes that a message of an MQTT client is given to the broker, once more or the first time.
func (b *boundModel) sends(msg *modelMessage) {
	if b.binds(msg.topic) {
		msg.stored = b.on
	}
}

// arrivedFirst checks the order of a session's first deliveries.
func (b *boundModel) arrivedFirst(c *modelClient, msg *modelMessage, got *Message, d *Delivery) {
	if b == nil || got.part == nil {
		return
	}
	key := fmt.Sprint(msg.topic, d.QoS)
	if got.offset < c.s.streamed[key] {
		b.m.t.Fatalf("%s got %d, at %d of its stream, after %d", c.id, msg.n, got.offset, c.s.streamed[key]-1)
	}
	c.s.streamed[key] = got.offset + 1
}

// arrivedLive is the same of a connection without a kept session, to which nothing comes twice either.
func (b *boundModel) arrivedLive(c *modelClient, msg *modelMessage, got *Message, d *Delivery) {
	if b == nil || got.part == nil || d.Retain {
		return
	}
	if c.streamed == nil {
		c.streamed = map[string]record.Offset{}
	}
	if got.offset < c.streamed[msg.topic] {
		b.m.t.Fatalf("%s got %d, at %d of its stream, after %d", c.id, msg.n, got.offset, c.streamed[msg.topic]-1)
	}
	c.streamed[msg.topic] = got.offset + 1
}

// appended makes a message of a Kafka client.
func (b *boundModel) appended(t *rapid.T, who, topic string, retain bool) (*modelMessage, record.Input) {
	m := b.m
	msg := &modelMessage{n: len(m.messages), publisher: "!" + who, topic: topic, qos: QoS(rapid.IntRange(0, 2).Draw(t, "qos")), retain: retain,
		stored: true, free: !b.deliver, app: map[string]int{}, once: map[string]bool{}}
	m.messages = append(m.messages, msg)
	in := record.Input{Key: []byte(topic), Value: fmt.Append(nil, msg.n), Headers: []record.Header{{Key: []byte("mqtt.qos"), Value: fmt.Append(nil, msg.qos)}}}
	return msg, in
}

// boundSink hears of a plain batch.
type boundSink struct {
	m    *model
	list []*modelMessage
	due  []func()
}

func (s *boundSink) Resume() {}
func (s *boundSink) Appended(_ Token, r AppendResult) {
	for i, msg := range s.list {
		if r.Err != nil {
			msg.failed = true
			continue
		}
		s.m.acked(msg)
		if msg.qos > 0 {
			s.due[i]()
		}
	}
}

// doAppend appends a plain batch, compressed or not.
func (b *boundModel) doAppend(t *rapid.T) {
	b.m.t = t
	b.m.op++
	topic := rapid.SampledFrom(modelTopics[:3]).Draw(t, "topic")
	s := &boundSink{m: b.m}
	var list []record.Input
	for range rapid.IntRange(1, 3).Draw(t, "records") {
		msg, in := b.appended(t, "plain", topic, false)
		s.list, s.due, list = append(s.list, msg), append(s.due, b.m.entitled(msg)), append(list, in)
	}
	o := record.BatchOptions{}
	a := b.m.tb.b.Local(rapid.IntRange(0, b.m.tb.b.Loops()-1).Draw(t, "loop")).NewAppender(s)
	raw := records(o, list...)
	if rapid.Bool().Draw(t, "compressed") {
		raw = zstd(raw)
	}
	err := a.local.Append(a, b.topic().partitionOf([]byte(topic)), raw, AppendOptions{}, 1)
	if err != nil && !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	for _, msg := range s.list {
		msg.failed = err != nil
	}
}

// boundTxn is a transactional producer of one key, which does one thing at a time.
type boundTxn struct {
	b      *boundModel
	id     int64
	topic  string
	epoch  int16
	ap     *Appender
	wait   bool
	ending bool
	commit bool
	list   []*modelMessage // of the open transaction
	inputs []record.Input
	took   int // of list, that were acknowledged
	due    []func()
}

func (x *boundTxn) Resume() {}
func (x *boundTxn) Appended(t Token, r AppendResult) {
	if x.wait = false; r.Err != nil {
		return
	}
	if t == 1 {
		x.took++
		return
	}
	for i, msg := range x.list { // the marker is there
		if x.commit {
			x.b.m.acked(msg)
			if msg.qos > 0 {
				x.due[i]()
			}
		}
	}
	x.list, x.inputs, x.took, x.due, x.ending = nil, nil, 0, nil, false
	x.epoch++
}

func (x *boundTxn) step(t *rapid.T) {
	if x.wait {
		return
	}
	p := x.b.topic().partitionOf([]byte(x.topic))
	if !x.ending && x.took > 0 && x.took == len(x.list) && rapid.IntRange(0, 2).Draw(t, "end") == 0 {
		x.ending, x.commit = true, rapid.Bool().Draw(t, "commit")
		for _, msg := range x.list {
			if msg.hidden, msg.failed = false, !x.commit; x.commit {
				x.due = append(x.due, x.b.m.entitled(msg))
			}
		}
	}
	if x.ending {
		x.wait = true
		x.b.m.tb.b.appendMarker(p, x.id, x.epoch+1, x.commit, func(err error) { x.Appended(2, AppendResult{Err: err}) })
		return
	}
	if x.took == len(x.list) {
		msg, in := x.b.appended(t, "txn", x.topic, false)
		msg.hidden = true
		x.list, x.inputs = append(x.list, msg), append(x.inputs, in)
	}
	p.announceTxn(x.id, x.epoch)
	raw := records(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: x.id, Epoch: x.epoch,
		Sequence: int32(x.took)}}, x.inputs[x.took])
	err := x.ap.local.Append(x.ap, p, raw, AppendOptions{Transactional: true}, 1)
	if err != nil && !errors.Is(err, ErrBusy) {
		t.Fatalf("transaction of %d: %v", x.id, err)
	}
	x.wait = err == nil
}

func (b *boundModel) doTxn(t *rapid.T) {
	b.m.t = t
	b.m.op++
	rapid.SampledFrom(b.txns).Draw(t, "txn").step(t)
}

// boundReader subscribes to one filter at a time, from some place of the past.
type boundReader struct {
	*testClient
	b      *boundModel
	filter string
	from   map[record.PartitionID]record.Offset // where it starts
	at     map[string]record.Offset             // behind what it has got of each topic
	got    map[int]bool
}

func (r *boundReader) Room() bool { return r.room != 0 }

func (r *boundReader) Deliver(m *Message, d *Delivery) (uint16, bool) {
	var n int
	if _, err := fmt.Sscan(string(m.Payload), &n); err != nil {
		r.b.m.t.Fatalf("payload %q", m.Payload)
	}
	msg := r.b.m.messages[n]
	r.room--
	switch {
	case msg.failed || msg.hidden || msg.topic != string(m.Topic):
		r.b.m.t.Fatalf("the reader got %d on %s, published on %s, failed %v, hidden %v", n, m.Topic, msg.topic, msg.failed, msg.hidden)
	case m.part == nil: // retained, or not bound
	case m.offset < r.at[msg.topic]:
		r.b.m.t.Fatalf("the reader got %d, at %d of its stream, after %d", n, m.offset, r.at[msg.topic]-1)
	default:
		r.at[msg.topic] = m.offset + 1
		r.got[n] = true
	}
	return 1, true
}

// doReplay has the reader subscribe, leave, or come anew.
func (b *boundModel) doReplay(t *rapid.T) {
	m := b.m
	m.t = t
	m.op++
	r := b.reader
	if r != nil && rapid.IntRange(0, 3).Draw(t, "leaves") == 0 {
		r.l.Disconnect(r.c, DisconnectRequest{})
		r = nil
	}
	if r == nil {
		b.readers++
		r = &boundReader{testClient: m.tb.client(rapid.IntRange(0, m.tb.b.Loops()-1).Draw(t, "loop")), b: b}
		r.c = r.l.NewClient(r)
		r.l.Connect(r.c, &ConnectRequest{ClientID: fmt.Sprint("r", b.readers), CleanStart: true})
		m.tb.pump()
		b.reader = r
	}
	if r.filter != "" {
		if _, err := r.l.Unsubscribe(r.c, []SubscribeRequest{{Filter: []byte(r.filter)}}, make([]error, 1), 1); err != nil {
			t.Fatal(err)
		}
		r.filter = ""
		m.tb.pump() // bundles that are on their way are of the old subscription
	}
	if !b.on {
		return
	}
	from := ReplayFrom{Kind: rapid.SampledFrom([]ReplayKind{ReplayEarliest, ReplayEarliest, ReplayOffset, ReplayLatest}).Draw(t, "from"),
		Offset: int64(rapid.IntRange(0, 20).Draw(t, "offset"))}
	r.room = rapid.SampledFrom([]int{-1, 0, 2}).Draw(t, "room")
	b.subscribe(r, rapid.SampledFrom([]string{"a/#", "a/+", "a/b", "#"}).Draw(t, "filter"), from)
}

func (b *boundModel) subscribe(r *boundReader, filter string, from ReplayFrom) {
	r.filter, r.from, r.at, r.got = filter, map[record.PartitionID]record.Offset{}, map[string]record.Offset{}, map[int]bool{}
	for _, p := range b.topic().Partitions() {
		switch from.Kind {
		case ReplayOffset:
			r.from[p.id] = min(record.Offset(from.Offset), p.LastStable())
		case ReplayLatest:
			r.from[p.id] = p.LastStable()
		default:
		}
	}
	errs := make([]error, 1)
	req := []SubscribeRequest{{Filter: []byte(filter), QoS: 2, From: from, RetainHandling: 2}}
	if _, err := r.l.Subscribe(r.c, req, errs, 1); err != nil || errs[0] != nil {
		b.m.t.Fatal(err, errs[0])
	}
}

// doRoom lets the reader take more.
func (b *boundModel) doRoom(t *rapid.T) {
	b.m.t = t
	if r := b.reader; r != nil && r.room >= 0 {
		r.room += rapid.IntRange(1, 5).Draw(t, "room")
		r.l.Ready(r.c)
	}
}

// content reads the stream as a reader of committed records does: the numbers of each topic in order.
func (b *boundModel) content() map[string][]int {
	all := map[string][]int{}
	for _, p := range b.topic().Partitions() {
		var f StreamFetch
		var w streamWalk
		for from := p.LogStart(); from < p.LastStable(); {
			if b.m.tb.b.Local(0).FetchTail(p, from, 1<<20, true, &f); f.Err != nil || len(f.Batches) == 0 {
				b.m.t.Fatalf("partition %d at %d: %v, %d batches", p.id, from, f.Err, len(f.Batches))
			}
			aborted := f.Aborted
			for _, raw := range f.Batches {
				batch := record.Batch(raw)
				aborted = w.decide(batch, aborted)
				from = batch.NextOffset()
				if batch.Attributes()&record.Control != 0 || w.aborted(batch) {
					continue
				}
				if batch.Attributes().Compressed() {
					plain, err := openBatch(nil, batch)
					if err != nil {
						b.m.t.Fatal(err)
					}
					batch = plain
				}
				for it := batch.Records(); it.Next(); {
					r := it.Record()
					var n int
					if _, err := fmt.Sscan(string(r.Value), &n); err != nil {
						b.m.t.Fatalf("value %q", r.Value)
					}
					b.m.messages[n].offset = r.Offset
					all[string(r.Key)] = append(all[string(r.Key)], n)
				}
			}
		}
	}
	return all
}

// settle ends what is open, and compares.
func (b *boundModel) settle(t *rapid.T) {
	b.m.t = t
	if !b.on {
		b.bind(true, false)
	}
	for range 10 {
		for _, x := range b.txns {
			if x.took == len(x.list) && len(x.list) > 0 || x.ending {
				x.finish()
			} else if len(x.list) > 0 {
				x.step(t)
			}
		}
		b.m.tb.pump()
	}
	b.m.settle(t)
	all := b.content()
	for topic, list := range all {
		for i, n := range list {
			msg := b.m.messages[n]
			if msg.topic != topic || msg.failed || msg.hidden || !msg.stored || slices.Index(list, n) != i {
				t.Errorf("the stream has %d of %s at %d: %+v", n, topic, i, msg)
			}
		}
	}
	for _, msg := range b.m.messages {
		if msg.acked > 0 && msg.stored && !slices.Contains(all[msg.topic], msg.n) {
			t.Errorf("the stream lacks %d, which was acknowledged: %+v", msg.n, msg)
		}
	}
	b.settleReader(all)
	last := &boundReader{testClient: b.m.tb.client(0), b: b}
	last.c = last.l.NewClient(last)
	last.room = -1
	last.l.Connect(last.c, &ConnectRequest{ClientID: "last", CleanStart: true})
	b.m.tb.pump()
	b.subscribe(last, "a/#", ReplayFrom{Kind: ReplayEarliest})
	b.reader = last
	b.settleReader(all)
}

// finish asks for the marker of a transaction at the end of a run.
func (x *boundTxn) finish() {
	if x.wait {
		return
	}
	if !x.ending {
		x.ending, x.commit = true, true
		for _, msg := range x.list {
			msg.hidden = false
			x.due = append(x.due, x.b.m.entitled(msg))
		}
	}
	x.wait = true
	p := x.b.topic().partitionOf([]byte(x.topic))
	x.b.m.tb.b.appendMarker(p, x.id, x.epoch+1, x.commit, func(err error) { x.Appended(2, AppendResult{Err: err}) })
}

// settleReader checks that the reader has all from where it has started.
func (b *boundModel) settleReader(all map[string][]int) {
	r := b.reader
	if r == nil || r.filter == "" {
		return
	}
	r.room = -1
	r.l.Ready(r.c)
	b.m.tb.pump()
	for _, topic := range slices.Sorted(maps.Keys(all)) {
		if !topics.FilterMatches([]byte(r.filter), []byte(topic)) {
			continue
		}
		from := r.from[b.topic().partitionOf([]byte(topic)).id]
		for _, n := range all[topic] {
			if msg := b.m.messages[n]; msg.offset >= from && !msg.free && !r.got[n] {
				b.m.t.Errorf("the reader of %s from %d lacks %d of %s, at %d: %+v", r.filter, from, n, topic, msg.offset, msg)
			}
		}
	}
}

func TestModelBound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := &boundModel{}
		m := newModel(t, rt, b)
		defer func() { m.tb.b.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"connect": m.doConnect, "disconnect": m.doDisconnect, "subscribe": m.doSubscribe, "unsubscribe": m.doUnsubscribe,
			"publish": m.doPublish, "publish2": m.doPublish, "publish3": m.doPublish, "acknowledge": m.doAcknowledge,
			"acknowledge2": m.doAcknowledge, "loop": m.doLoop, "loop2": m.doLoop, "loop3": m.doLoop, "commit": m.doCommit,
			"commit2": m.doCommit, "fail": m.doFail, "pump": m.doPump, "tick": m.doTick, "checkpoint": m.doCheckpoint, "crash": m.doCrash,
			"append": b.doAppend, "append2": b.doAppend, "txn": b.doTxn, "txn2": b.doTxn, "bind": b.doBind, "replay": b.doReplay, "room": b.doRoom,
		})
		b.settle(rt)
	})
}
