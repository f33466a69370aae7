package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

func (g filler) code() ErrorCode { return ErrorCode(g.IntN(len(errorNames)+1) - 1) }
func (g filler) uuid() (u UUID)  { copy(u[:], g.bytes(16)); return u }
func (g filler) coin() bool      { return g.IntN(2) == 0 }
func (g filler) i64() int64      { return int64(g.Uint64()) >> g.IntN(64) }
func (g filler) i32() int32      { return int32(g.Uint32()) >> g.IntN(32) }
func (g filler) leader() Leader  { return Leader{g.coin(), g.i32() & 1 << 20, g.i32()} }
func (g filler) end() EpochEnd   { return EpochEnd{g.coin(), g.i32() & 1 << 20, g.i64()} } // all of -1 is as good as nothing

func (g filler) nodes() (list []Node) {
	for range g.IntN(4) {
		list = append(list, Node{g.i32(), g.text(300), g.i32(), g.text(300)})
	}
	return list
}

// body takes the frame off a response and checks it.
func body(t testing.TB, b []byte, c Call) []byte {
	t.Helper()
	head := 8
	if c.Key.Flexible(c.Version) {
		head = 9
	}
	if int(binary.BigEndian.Uint32(b)) != len(b)-4 || int32(binary.BigEndian.Uint32(b[4:])) != c.CorrelationID || (head == 9 && b[8] != 0) {
		t.Fatalf("%v: frame of %d bytes: %x", c, len(b), b[:head])
	}
	return b[head:]
}

// whole checks that kmsg writes what it has read as the same bytes: nothing was skipped, and nothing lies behind.
func whole(t testing.TB, r kmsg.Response, b []byte) {
	t.Helper()
	if err := r.ReadFrom(b); err != nil {
		t.Fatalf("version %d: %x: %v", r.GetVersion(), b, err)
	}
	if again := r.AppendTo(nil); !bytes.Equal(again, b) {
		t.Fatalf("version %d: wrote\n%x, kmsg\n%x", r.GetVersion(), b, again)
	}
}

type produceTopic struct {
	name       []byte
	id         UUID
	partitions []ProduceResult
}

func (g filler) produceTopics() (list []produceTopic) {
	for range g.IntN(4) {
		top := produceTopic{name: g.bytes(300), id: g.uuid()}
		for range g.IntN(4) {
			p := ProduceResult{Index: g.i32(), Code: g.code(), BaseOffset: g.i64(), LogAppendTime: g.i64(), LogStartOffset: g.i64(),
				Message: g.text(300), Leader: g.leader()}
			for range g.IntN(3) {
				p.RecordErrors = append(p.RecordErrors, RecordError{g.i32(), g.text(300)})
			}
			top.partitions = append(top.partitions, p)
		}
		list = append(list, top)
	}
	return list
}

func buildProduce(dst []byte, c Call, topics []produceTopic, throttle int32, nodes []Node) []byte {
	var b ProduceResponseBuilder
	b.Begin(dst, c, len(topics))
	for i := range topics {
		b.Topic(topics[i].name, topics[i].id, len(topics[i].partitions))
		for j := range topics[i].partitions {
			b.Partition(&topics[i].partitions[j])
		}
	}
	return b.Finish(throttle, nodes)
}

// sayProduceTopics writes down what a version has room for.
func sayProduceTopics(version int16, topics []produceTopic, throttle int32, nodes []Node) string {
	var s strings.Builder
	for _, t := range topics {
		if version >= produceTopicID {
			t.name = nil
		} else {
			t.id = UUID{}
		}
		fmt.Fprintf(&s, "%s %v\n", t.name, t.id)
		for _, p := range t.partitions {
			if version < produceLogStart {
				p.LogStartOffset = -1
			}
			if version < produceErrors {
				p.RecordErrors, p.Message = nil, ""
			}
			if version < produceLeader || !p.Leader.Known {
				p.Leader = Leader{false, -1, -1}
			}
			fmt.Fprintf(&s, " %d %d %d %d %d %v %q %d/%d\n", p.Index, int16(p.Code), p.BaseOffset, p.LogAppendTime, p.LogStartOffset,
				p.RecordErrors, p.Message, p.Leader.ID, p.Leader.Epoch)
		}
	}
	if version < produceLeader {
		nodes = nil
	}
	fmt.Fprintf(&s, "%d %v", throttle, nodes)
	return s.String()
}

func sayKmsgProduceTopics(r *kmsg.ProduceResponse) string {
	var s strings.Builder
	for _, t := range r.Topics {
		fmt.Fprintf(&s, "%s %v\n", t.Topic, UUID(t.TopicID))
		for _, p := range t.Partitions {
			var errs []RecordError
			for _, e := range p.ErrorRecords {
				errs = append(errs, RecordError{e.RelativeOffset, deref(e.ErrorMessage)})
			}
			fmt.Fprintf(&s, " %d %d %d %d %d %v %q %d/%d\n", p.Partition, p.ErrorCode, p.BaseOffset, p.LogAppendTime, p.LogStartOffset,
				errs, deref(p.ErrorMessage), p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch)
		}
	}
	var nodes []Node
	for _, b := range r.Brokers {
		nodes = append(nodes, Node{b.NodeID, b.Host, b.Port, deref(b.Rack)})
	}
	fmt.Fprintf(&s, "%d %v", r.ThrottleMillis, nodes)
	return s.String()
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func TestProduceResponses(t *testing.T) {
	for v := apis[Produce].min; v <= apis[Produce].max; v++ {
		for seed := range uint64(300) {
			g := newFiller(seed)
			c := Call{Produce, v, g.i32()}
			topics, throttle, nodes := g.produceTopics(), g.i32(), g.nodes()
			b := buildProduce([]byte("before"), c, topics, throttle, nodes)
			r := kmsg.NewPtrProduceResponse()
			r.Version = v
			whole(t, r, body(t, b[6:], c))
			got, want := sayKmsgProduceTopics(r), sayProduceTopics(v, topics, throttle, nodes)
			if got != want || string(b[:6]) != "before" {
				t.Fatalf("version %d, seed %d: kmsg reads\n%s, want\n%s", v, seed, got, want)
			}
		}
	}
}

func TestProduceResponseVectors(t *testing.T) {
	ok := []produceTopic{{name: []byte("t"), partitions: []ProduceResult{{Index: 3, BaseOffset: 7, LogAppendTime: -1}}}}
	moved := []produceTopic{{id: UUID{15: 1}, partitions: []ProduceResult{{Index: 3, Code: NotLeaderOrFollower, BaseOffset: -1,
		LogAppendTime: -1, LogStartOffset: -1, Leader: Leader{true, 2, 5}}}}}
	for _, c := range []struct {
		version int16
		topics  []produceTopic
		nodes   []Node
		want    string
	}{
		{3, ok, nil, "00000029 00000009 00000001 0001 74 00000001 00000003 0000 0000000000000007 FFFFFFFFFFFFFFFF 00000000"},
		{9, ok, nil, "00000030 00000009 00 02 02 74 02 00000003 0000 0000000000000007 FFFFFFFFFFFFFFFF 0000000000000000 01 00 00 00 00000000 00"},
		{13, moved, []Node{{2, "h", 9092, ""}}, "00000058 00000009 00 02 00000000000000000000000000000001 02 00000003 0006 FFFFFFFFFFFFFFFF" +
			"FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFF 01 00 01 00 09 00000002 00000005 00 00 00000000 01 00 0D 02 00000002 0268 00002384 00 00"},
	} {
		got := buildProduce(nil, Call{Produce, c.version, 9}, c.topics, 0, c.nodes)
		if want := unhex(t, c.want); !bytes.Equal(got, want) {
			t.Errorf("version %d:\n%x, want\n%x", c.version, got, want)
		}
	}
}

type fetchTopic struct {
	name       []byte
	id         UUID
	partitions []FetchResult
	records    [][]byte
}

func (g filler) fetchTopics() (list []fetchTopic) {
	for range g.IntN(4) {
		top := fetchTopic{name: g.bytes(300), id: g.uuid()}
		for range g.IntN(4) {
			p := FetchResult{Index: g.i32(), Code: g.code(), HighWatermark: g.i64(), LastStableOffset: g.i64(), LogStartOffset: g.i64(),
				PreferredReplica: g.i32(), Diverging: g.end(), Leader: g.leader(),
				Snapshot: g.end()}
			if g.coin() {
				p.Aborted = []AbortedTransaction{}
				for range g.IntN(3) {
					p.Aborted = append(p.Aborted, AbortedTransaction{g.i64(), g.i64()})
				}
			}
			top.partitions = append(top.partitions, p)
			top.records = append(top.records, g.bytes(40_000))
		}
		list = append(list, top)
	}
	return list
}

// buildFetch builds a response whose records lie outside where g says so, and puts it together as writev would.
func buildFetch(t testing.TB, dst []byte, c Call, h *FetchHead, topics []fetchTopic, nodes []Node, outside func() bool) []byte {
	t.Helper()
	var b FetchResponseBuilder
	var at []int
	var parts [][]byte
	before := len(dst)
	b.Begin(dst, c, h, len(topics))
	for i := range topics {
		top := &topics[i]
		b.Topic(top.name, top.id, len(top.partitions))
		for j := range top.partitions {
			if outside() {
				at = append(at, b.Partition(&top.partitions[j], len(top.records[j])))
				parts = append(parts, top.records[j])
			} else {
				b.PartitionInline(&top.partitions[j], top.records[j])
			}
		}
	}
	size := b.Size()
	dst = b.Finish(nodes)
	var out []byte
	from := 0
	for i := range at {
		out = append(append(out, dst[from:at[i]]...), parts[i]...)
		from = at[i]
	}
	out = append(out, dst[from:]...)
	if len(out)-before < size || (len(nodes) == 0 && len(out)-before > size+1) {
		t.Fatalf("size %d, and in the end %d", size, len(out)-before)
	}
	return out
}

func sayFetchTopics(version int16, h *FetchHead, topics []fetchTopic, nodes []Node) string {
	var s strings.Builder
	head := *h
	if version < fetchSession {
		head.Code, head.SessionID = 0, 0
	}
	fmt.Fprintf(&s, "%d %d %d\n", head.ThrottleMS, int16(head.Code), head.SessionID)
	for _, t := range topics {
		if version >= fetchTopicID {
			t.name = nil
		} else {
			t.id = UUID{}
		}
		fmt.Fprintf(&s, "%s %v\n", t.name, t.id)
		for i, p := range t.partitions {
			if version < fetchLogStart {
				p.LogStartOffset = -1
			}
			if version < fetchRack {
				p.PreferredReplica = -1
			}
			if version < fetchEpoch || !p.Diverging.Known {
				p.Diverging = EpochEnd{false, -1, -1}
			}
			if version < fetchEpoch || !p.Snapshot.Known {
				p.Snapshot = EpochEnd{false, -1, -1}
			}
			if version < fetchEpoch || !p.Leader.Known {
				p.Leader = Leader{false, -1, -1}
			}
			fmt.Fprintf(&s, " %d %d %d %d %d %v %v %d %d/%d %d/%d %d/%d %x\n", p.Index, int16(p.Code), p.HighWatermark, p.LastStableOffset,
				p.LogStartOffset, p.Aborted == nil, p.Aborted, p.PreferredReplica, p.Diverging.Epoch, p.Diverging.EndOffset,
				p.Leader.ID, p.Leader.Epoch, p.Snapshot.Epoch, p.Snapshot.EndOffset, t.records[i])
		}
	}
	if version < fetchNodes {
		nodes = nil
	}
	fmt.Fprintf(&s, "%v", nodes)
	return s.String()
}

func sayKmsgFetchTopics(r *kmsg.FetchResponse) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d %d %d\n", r.ThrottleMillis, r.ErrorCode, r.SessionID)
	for _, t := range r.Topics {
		fmt.Fprintf(&s, "%s %v\n", t.Topic, UUID(t.TopicID))
		for _, p := range t.Partitions {
			var aborted []AbortedTransaction
			for _, a := range p.AbortedTransactions {
				aborted = append(aborted, AbortedTransaction{a.ProducerID, a.FirstOffset})
			}
			fmt.Fprintf(&s, " %d %d %d %d %d %v %v %d %d/%d %d/%d %d/%d %x\n", p.Partition, p.ErrorCode, p.HighWatermark, p.LastStableOffset,
				p.LogStartOffset, p.AbortedTransactions == nil, aborted, p.PreferredReadReplica, p.DivergingEpoch.Epoch,
				p.DivergingEpoch.EndOffset, p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch, p.SnapshotID.Epoch, p.SnapshotID.EndOffset,
				p.RecordBatches)
		}
	}
	var nodes []Node
	for _, b := range r.Brokers {
		nodes = append(nodes, Node{b.NodeID, b.Host, b.Port, deref(b.Rack)})
	}
	fmt.Fprintf(&s, "%v", nodes)
	return s.String()
}

func TestFetchResponses(t *testing.T) {
	for v := apis[Fetch].min; v <= apis[Fetch].max; v++ {
		for seed := range uint64(300) {
			g := newFiller(seed)
			c := Call{Fetch, v, g.i32()}
			head := FetchHead{g.i32(), g.code(), g.i32()}
			topics, nodes := g.fetchTopics(), g.nodes()
			b := buildFetch(t, []byte("before"), c, &head, topics, nodes, g.coin)
			r := kmsg.NewPtrFetchResponse()
			r.Version = v
			whole(t, r, body(t, b[6:], c))
			got, want := sayKmsgFetchTopics(r), sayFetchTopics(v, &head, topics, nodes)
			if got != want || string(b[:6]) != "before" {
				t.Fatalf("version %d, seed %d: kmsg reads\n%s, want\n%s", v, seed, got, want)
			}
		}
	}
}

func TestFetchResponseVectors(t *testing.T) {
	one := func(p FetchResult, records string) []fetchTopic {
		return []fetchTopic{{name: []byte("t"), id: UUID{15: 1}, partitions: []FetchResult{p}, records: [][]byte{[]byte(records)}}}
	}
	for _, c := range []struct {
		version int16
		topics  []fetchTopic
		want    string
	}{
		{4, one(FetchResult{Index: 3, HighWatermark: 9, LastStableOffset: 8}, "RR"), "00000033 00000009 00000000 00000001 0001 74 00000001" +
			"00000003 0000 0000000000000009 0000000000000008 FFFFFFFF 00000002 5252"},
		{12, one(FetchResult{Index: 3, HighWatermark: 9, LastStableOffset: 8, Aborted: []AbortedTransaction{{1, 2}}, PreferredReplica: -1,
			Diverging: EpochEnd{true, 4, 5}}, "R"), "0000005B 00000009 00 00000000 0000 00000000 02 02 74 02" +
			"00000003 0000 0000000000000009 0000000000000008 0000000000000000 02 0000000000000001 0000000000000002 00 FFFFFFFF 02 52" +
			"01 00 0D 00000004 0000000000000005 00 00 00"},
		{17, one(FetchResult{Index: 3, Aborted: []AbortedTransaction{}, Leader: Leader{true, 1, 2}, Snapshot: EpochEnd{true, 4, 5}}, ""),
			"00000062 00000009 00 00000000 0000 00000000 02 00000000000000000000000000000001 02" +
				"00000003 0000 0000000000000000 0000000000000000 0000000000000000 01 00000000 01" +
				"02 01 09 00000001 00000002 00 02 0D 0000000000000005 00000004 00 00 00"},
	} {
		for _, outside := range []bool{true, false} {
			got := buildFetch(t, nil, Call{Fetch, c.version, 9}, &FetchHead{}, c.topics, nil, func() bool { return outside })
			if want := unhex(t, c.want); !bytes.Equal(got, want) {
				t.Errorf("version %d:\n%x, want\n%x", c.version, got, want)
			}
		}
	}
}

// TestLongStrings: what has no room is cut, and never lies about its length.
func TestLongStrings(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for _, v := range []int16{8, 13} {
		topics := []produceTopic{{partitions: []ProduceResult{{Message: long, RecordErrors: []RecordError{{1, long}}}}}}
		c := Call{Produce, v, 1}
		r := kmsg.NewPtrProduceResponse()
		r.Version = v
		whole(t, r, body(t, buildProduce(nil, c, topics, 0, []Node{{Host: long, Rack: long}}), c))
		want := stringMax
		if v >= 9 {
			want = len(long)
		}
		if p := r.Topics[0].Partitions[0]; len(*p.ErrorMessage) != want || len(*p.ErrorRecords[0].ErrorMessage) != want {
			t.Errorf("version %d: %d and %d bytes", v, len(*p.ErrorMessage), len(*p.ErrorRecords[0].ErrorMessage))
		}
	}
}

// dataTrips are the ways through Produce and Fetch that must not allocate, by version.
func dataTrips(t testing.TB, k APIKey, v int16) (body []byte, trip func()) {
	t.Helper()
	m := message(t, k, v)
	records := make([]byte, 1000)
	switch m := m.(type) {
	case *kmsg.ProduceRequest:
		m.Topics = []kmsg.ProduceRequestTopic{{Topic: "topic", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: records}, {Records: records}}}}
	case *kmsg.FetchRequest:
		m.Topics = []kmsg.FetchRequestTopic{{Topic: "topic", Partitions: make([]kmsg.FetchRequestTopicPartition, 2)}}
		m.ForgottenTopics = []kmsg.FetchRequestForgottenTopic{{Topic: "gone", Partitions: []int32{1, 2}}}
	}
	body = m.AppendTo(nil)
	buf := make([]byte, 0, 4096)
	nodes := []Node{{1, "host", 9092, "rack"}}
	errs := []RecordError{{1, "bad"}}
	aborted := []AbortedTransaction{{1, 2}}
	c := Call{k, v, 1}
	if k == Produce {
		return body, func() { buf = produceTrip(body, buf[:0], c, nodes, errs) }
	}
	return body, func() { buf = fetchTrip(body, buf[:0], c, nodes, aborted) }
}

func produceTrip(body, buf []byte, c Call, nodes []Node, errs []RecordError) []byte {
	q, err := DecodeProduceRequest(body, c.Version)
	if err != nil {
		panic(err)
	}
	var b ProduceResponseBuilder
	b.Begin(buf, c, q.Topics)
	for p := q.Data(); p.Next(); {
		if p.First {
			b.Topic(p.Topic, p.TopicID, p.Count)
		}
		b.Partition(&ProduceResult{Index: p.Index, BaseOffset: int64(len(p.Records)), RecordErrors: errs, Leader: Leader{true, 1, 2}})
	}
	return b.Finish(0, nodes)
}

func fetchTrip(body, buf []byte, c Call, nodes []Node, aborted []AbortedTransaction) []byte {
	q, err := DecodeFetchRequest(body, c.Version)
	if err != nil {
		panic(err)
	}
	var b FetchResponseBuilder
	b.Begin(buf, c, &FetchHead{SessionID: 5}, q.Topics)
	for p := q.Data(); p.Next(); {
		if p.First {
			b.Topic(p.Topic, p.TopicID, p.Count)
		}
		b.Partition(&FetchResult{Index: p.Index, HighWatermark: p.FetchOffset, Aborted: aborted, Leader: Leader{true, 1, 2}}, 1000)
	}
	for p := q.Forgotten(); p.Next(); {
		if p.Index == 77 {
			panic("no such partition")
		}
	}
	return b.Finish(nodes)
}

func TestDataAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	for _, k := range []APIKey{Produce, Fetch} {
		r, _ := k.Versions()
		for v := r.Min; v <= r.Max; v++ {
			body, trip := dataTrips(t, k, v)
			if n := testing.AllocsPerRun(100, trip); n != 0 {
				t.Errorf("%v version %d: %v allocations", k, v, n)
			}
			cut := body[:len(body)-1]
			if n := testing.AllocsPerRun(100, func() {
				if k == Produce {
					_, _ = DecodeProduceRequest(cut, v)
				} else {
					_, _ = DecodeFetchRequest(cut, v)
				}
			}); n != 0 {
				t.Errorf("%v version %d, refused: %v allocations", k, v, n)
			}
		}
	}
}

func fuzzResponse(f *testing.F, k APIKey, check func(t *testing.T, g filler, c Call)) {
	f.Helper()
	r, _ := k.Versions()
	for v := r.Min; v <= r.Max; v++ {
		f.Add(uint64(v), v)
	}
	f.Fuzz(func(t *testing.T, seed uint64, version int16) {
		if r.Has(version) {
			check(t, filler{rand.New(rand.NewPCG(seed, 1))}, Call{k, version, 3})
		}
	})
}

func FuzzProduceResponse(f *testing.F) {
	fuzzResponse(f, Produce, func(t *testing.T, g filler, c Call) {
		topics, throttle, nodes := g.produceTopics(), g.i32(), g.nodes()
		r := kmsg.NewPtrProduceResponse()
		r.Version = c.Version
		whole(t, r, body(t, buildProduce(nil, c, topics, throttle, nodes), c))
		if got, want := sayKmsgProduceTopics(r), sayProduceTopics(c.Version, topics, throttle, nodes); got != want {
			t.Fatalf("kmsg reads\n%s, want\n%s", got, want)
		}
	})
}

func FuzzFetchResponse(f *testing.F) {
	fuzzResponse(f, Fetch, func(t *testing.T, g filler, c Call) {
		head := FetchHead{g.i32(), g.code(), g.i32()}
		topics, nodes := g.fetchTopics(), g.nodes()
		r := kmsg.NewPtrFetchResponse()
		r.Version = c.Version
		whole(t, r, body(t, buildFetch(t, nil, c, &head, topics, nodes, g.coin), c))
		if got, want := sayKmsgFetchTopics(r), sayFetchTopics(c.Version, &head, topics, nodes); got != want {
			t.Fatalf("kmsg reads\n%s, want\n%s", got, want)
		}
	})
}

func benchData(b *testing.B, k APIKey, v int16) {
	b.Helper()
	_, trip := dataTrips(b, k, v)
	b.ReportAllocs()
	for b.Loop() {
		trip()
	}
}

func BenchmarkProduce13(b *testing.B) { benchData(b, Produce, 13) }
func BenchmarkFetch18(b *testing.B)   { benchData(b, Fetch, 18) }
