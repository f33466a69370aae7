package kafka

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// slowStore is a log whose partition lies in a store that takes its time.
type slowStore struct {
	gate chan struct{}
	err  error
	data []byte
}

func (s *slowStore) Wake()                                                     {}
func (s *slowStore) SetLogStart(record.PartitionID, record.Offset)             {}
func (s *slowStore) DropPartition(record.PartitionID)                          {}
func (s *slowStore) LocalStart(record.PartitionID) record.Offset               { return 10 }
func (s *slowStore) TieredEnd(record.PartitionID) record.Offset                { return 10 }
func (s *slowStore) LocalSize(record.PartitionID) int64                        { return 0 }
func (s *slowStore) Size(record.PartitionID) int64                             { return 1000 }
func (s *slowStore) Partitions() []record.PartitionID                          { return nil }
func (s *slowStore) Bounds(record.PartitionID) (_, _ record.Offset)            { return 0, 10 }
func (s *slowStore) Excess(record.PartitionID, int64, int64) (o record.Offset) { return o }

func (s *slowStore) Read(record.PartitionID, record.Offset, func(record.Batch) bool) error {
	<-s.gate
	return s.err
}

func (s *slowStore) Seek(record.PartitionID, int64, bool) (record.Offset, int64, bool) {
	<-s.gate
	return 0, 0, true
}

func (s *slowStore) ReadBatches(r broker.ReadRequest, dst [][]byte) ([][]byte, alloc.Ref, bool, error) {
	if r.Tail || r.Local {
		return dst, nil, false, nil
	}
	if <-s.gate; s.err != nil {
		return dst, nil, false, s.err
	}
	return append(dst, s.data), nil, true, nil
}

// storeBench is a connection of a node whose topic "t" lies in a store.
type storeBench struct {
	*testing.T
	s     *slowStore
	b     *broker.Broker
	c     *conn
	clock *clock.Manual
	open  func() // has the store answer
}

func newStoreBench(t *testing.T) *storeBench {
	t.Helper()
	var bb record.BatchBuilder
	bb.Begin(nil, 1000)
	bb.Append(&record.Input{Value: []byte("v"), Timestamp: 1000})
	sb := &storeBench{T: t, clock: clock.NewManual(time.Unix(1e9, 0)), s: &slowStore{gate: make(chan struct{}), data: bb.Finish(&record.BatchOptions{})}}
	sb.b = broker.New(broker.Options{Shards: 1, Loops: 1, Clock: sb.clock})
	t.Cleanup(sb.b.Close)
	sb.open = sync.OnceFunc(func() { close(sb.s.gate) })
	t.Cleanup(sb.open) // first
	sb.b.UseLog(sb.s)
	sb.b.SetTopic(&broker.TopicSpec{Name: "t", ID: broker.TopicID{1}, Partitions: []broker.PartitionSpec{{ID: 100}}})
	sb.b.Recovered()
	h := &Handler{alone: aloneView(0), broker: sb.b, quotas: &broker.Quotas{}}
	h.Set(DefaultSettings())
	sb.c = &conn{link: &pausing{}, id: &broker.Identity{}, l: newLoopState(h, new(engine.Loop), sb.b.Local(0))}
	return sb
}

// fetch begins a fetch that waits so long for one byte.
func (sb *storeBench) fetch(wait time.Duration) *request {
	sb.Helper()
	m := kmsg.NewPtrFetchRequest()
	m.Version, m.MaxWaitMillis, m.MinBytes, m.MaxBytes = 12, int32(wait.Milliseconds()), 1, 1<<20
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes = 1 << 20
	m.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	r := &request{c: sb.c, call: wire.Call{Key: wire.Fetch, Version: 12}}
	if took, err := fetch(r, &wire.Request{Call: r.call, Body: m.AppendTo(nil)}); !took || err != nil {
		sb.Fatal(took, err)
	}
	sb.turn()
	return r
}

func (sb *storeBench) turn() {
	sb.b.Local(0).Drain()
	sb.b.Local(0).EndTurn()
}

// pass lets time pass.
func (sb *storeBench) pass(d time.Duration) {
	sb.clock.Advance(d)
	sb.turn()
}

func (sb *storeBench) untilDone(r *request) {
	sb.Helper()
	testx.Eventually(sb, 30*time.Second, func() bool { sb.turn(); return r.done }, "the answer")
}

// A fetch that waits for a store is answered with nothing when its client's time is over, at least half a second, and what comes later is nobody's.
func TestFetchStoreSlow(t *testing.T) {
	sb := newStoreBench(t)
	short, long, gone := sb.fetch(0), sb.fetch(5*time.Second), sb.fetch(5*time.Second)
	gone.abandon()
	sb.pass(coldWait - time.Millisecond)
	if short.done || long.done {
		t.Fatal("it is answered at once")
	}
	sb.pass(2 * time.Millisecond)
	if !short.done || long.done {
		t.Errorf("answered: %v, %v", short.done, long.done)
	}
	sb.pass(5 * time.Second)
	if !long.done {
		t.Fatal("the client hangs")
	}
	for _, r := range []*request{short, long} {
		if res := r.fetch.parts[0].result(); res.Code != wire.None || res.HighWatermark != 10 || r.fetch.bytes() != 0 {
			t.Errorf("code %d, high watermark %d, %d bytes", res.Code, res.HighWatermark, r.fetch.bytes())
		}
	}
	in := sb.fetch(time.Minute)
	sb.open()
	sb.untilDone(in)
	if in.fetch.bytes() != len(sb.s.data) || gone.done || long.fetch.bytes() != 0 {
		t.Errorf("%d bytes came; %d to who had left", in.fetch.bytes(), long.fetch.bytes())
	}
}

// What a store does not give now is an error that clients retry without a word; what it never will is one that they tell of.
func TestFetchStoreFails(t *testing.T) {
	for _, c := range []struct {
		err  error
		code wire.ErrorCode
	}{{broker.ErrTier, wire.KafkaStorageError}, {errors.New("wrong bytes"), wire.UnknownServerError}} {
		sb := newStoreBench(t)
		sb.s.err = c.err
		sb.open()
		r := sb.fetch(time.Minute)
		sb.untilDone(r)
		if res := r.fetch.parts[0].result(); res.Code != c.code {
			t.Errorf("%v: code %d", c.err, res.Code)
		}
	}
}

// A search by time that waits for a store is answered when its time is over.
func TestListOffsetsStoreSlow(t *testing.T) {
	sb := newStoreBench(t)
	for _, wait := range []time.Duration{searchWait, 3 * time.Second} {
		m := kmsg.NewPtrListOffsetsRequest()
		m.Version = 11
		if m.TimeoutMillis = 0; wait != searchWait {
			m.TimeoutMillis = int32(wait.Milliseconds())
		}
		resp := m.ResponseKind().(*kmsg.ListOffsetsResponse)
		resp.Topics = []kmsg.ListOffsetsResponseTopic{{Partitions: make([]kmsg.ListOffsetsResponseTopicPartition, 2)}}
		p := sb.b.Topic(0, "t").Partition(0)
		r := &request{c: sb.c, call: wire.Call{Key: wire.ListOffsets, Version: 11}}
		searchOffsets(r, m, resp, []offsetAsk{{part: p, at: broker.EarliestLocalOffset, place: [2]int{0, 0}}, {part: p, at: 5, place: [2]int{0, 1}}})
		got := resp.Topics[0].Partitions
		sb.pass(wait - time.Millisecond)
		if got[1].ErrorCode != 0 {
			t.Fatal("it is answered before its time is over")
		}
		sb.pass(2 * time.Millisecond)
		if got[0].ErrorCode != 0 || got[0].Offset != 10 || got[1].ErrorCode != int16(wire.RequestTimedOut) {
			t.Errorf("%+v", got)
		}
	}
}
