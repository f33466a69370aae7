package broker

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// memStore is a store that fails, or takes its time.
type memStore struct {
	failing atomic.Bool
	gate    chan struct{} // nil: it answers at once
	asked   atomic.Int64
	err     error
}

func (s *memStore) read() error {
	s.asked.Add(1)
	if s.gate != nil {
		<-s.gate
	}
	if s.failing.Load() {
		return fmt.Errorf("%w: gone for an hour", ErrTier)
	}
	return s.err
}

// far moves what lies below an offset of a partition to a store.
func (tb *testBroker) far(s *memStore, p *Partition, below record.Offset) {
	tb.log.far = map[record.PartitionID]record.Offset{p.id: below}
	tb.log.store = s.read
}

// filled gives partition 0 ten batches of two records each.
func (gb *groupBench) filled() *Partition {
	p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	for i := range 10 {
		_ = a.append(p, batchOf(record.BatchOptions{}, fmt.Sprint("a", i), fmt.Sprint("b", i)), Token(i))
		gb.pump()
	}
	return p
}

// untilDone runs the loops until something is so, however long the store takes.
func (tb *testBroker) untilDone(what string, done func() bool) {
	tb.t.Helper()
	testx.Eventually(tb.t, 30*time.Second, func() bool {
		for i := range tb.b.Loops() {
			tb.b.Local(i).Drain()
			tb.b.Local(i).EndTurn()
		}
		tb.log.commit()
		return done()
	}, what)
}

// coldly reads from an offset; done says that it came.
func (gb *groupBench) coldly(p *Partition, from record.Offset) (f *StreamFetch, done *bool) {
	f, done = new(StreamFetch), new(bool)
	l := gb.b.Local(0)
	if !l.FetchTail(p, from, 1000, false, f) {
		gb.t.Fatal("it lies in memory")
	}
	l.FetchCold(p, from, 1000, false, f, func() { *done = true })
	return f, done
}

// A store that does not answer delays nobody who reads from the disk; those who wait for it may leave, and its reads are bounded.
func TestStoreSlow(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.filled()
	gb.log.cold = true
	s := &memStore{gate: make(chan struct{})}
	gb.far(s, p, 10)
	var list []*StreamFetch
	var done []*bool
	for range 2 * storeWorkers {
		f, d := gb.coldly(p, 4)
		list, done = append(list, f), append(done, d)
	}
	gb.untilDone("the store's readers are all at work", func() bool { return s.asked.Load() == storeWorkers })
	near, came := gb.coldly(p, 12)
	gb.untilDone("what lies on the disk comes", func() bool { return *came })
	if near.Err != nil || len(near.Batches) != 4 {
		t.Errorf("%v, %d batches", near.Err, len(near.Batches))
	}
	searched := error(nil)
	gb.b.Local(0).OffsetAt(p, 0, false, func(_ FoundOffset, err error) { searched = errors.Join(errors.New("it came"), err) })
	last := len(list) - 1
	l := gb.b.Local(0)
	if !l.Leave(list[last]) || !l.Leave(list[0]) || searched != nil {
		t.Error("they do not wait for the store: ", searched)
	}
	close(s.gate)
	gb.untilDone("the others come", func() bool { return *done[last-1] && *done[0] && searched != nil })
	gb.pump()
	for i, f := range list[:last] {
		if !*done[i] || f.Err != nil || len(f.Batches) == 0 || record.Batch(f.Batches[0]).BaseOffset() != 4 {
			t.Fatalf("read %d: %v, %d batches", i, f.Err, len(f.Batches))
		}
	}
	if *done[last] || s.asked.Load() != 2*storeWorkers {
		t.Errorf("%d reads; the one that was left came: %v", s.asked.Load(), *done[last])
	}
	gb.b.storePool.waiting = storeWaitingMax
	_, came = gb.coldly(p, 4)
	f, refused := gb.coldly(p, 4)
	gb.untilDone("they are refused", func() bool { return *came && *refused })
	if !errors.Is(f.Err, ErrTier) {
		t.Errorf("too many wait: %v", f.Err)
	}
	gb.b.storePool.waiting = 0
}

// One that reads from the disk, and whose record moves to the store meanwhile, goes there.
func TestStoreMeanwhile(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.filled()
	gb.log.cold = true
	f, done := new(StreamFetch), false
	l := gb.b.Local(0)
	l.FetchTail(p, 4, 100, false, f)
	block := make(chan struct{})
	for range fetchWorkers {
		gb.b.OffLoop(func() { <-block })
	}
	l.FetchCold(p, 4, 100, false, f, func() { done = true })
	s := &memStore{}
	gb.far(s, p, 10) // before a worker comes to it
	if l.Leave(new(StreamFetch)) {
		t.Error("a read that is none waits for the store")
	}
	close(block)
	gb.pump()
	if !done || f.Err != nil || len(f.Batches) == 0 || s.asked.Load() != 1 {
		t.Errorf("%v, %d batches, the store was asked %d times", f.Err, len(f.Batches), s.asked.Load())
	}
	s.err = errors.New("wrong bytes")
	f, came := gb.coldly(p, 4)
	gb.pump()
	if !*came || !errors.Is(f.Err, s.err) || errors.Is(f.Err, ErrTier) {
		t.Error(f.Err)
	}
}

// The ends of a partition of which some lies in a store, and its records by time across both.
func TestStoreOffsets(t *testing.T) {
	gb := newGroupBench(t)
	gb.configured(func(s *TopicSpec) { s.Config.Tier = TierImmediate })
	p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	for i := range int64(10) {
		var b record.BatchBuilder
		b.Begin(nil, 1000*i)
		b.Append(&record.Input{Value: []byte("v"), Timestamp: 1000 * i})
		_ = a.append(p, b.Finish(&record.BatchOptions{}), Token(i))
		gb.pump()
	}
	ask := func(at int64) (found FoundOffset, err error) {
		err = errors.New("not answered")
		gb.b.Local(0).OffsetAt(p, at, false, func(f FoundOffset, e error) { found, err = f, e })
		gb.pump()
		return found, err
	}
	expect := func(what string, want map[int64]record.Offset) {
		t.Helper()
		for at, offset := range want {
			if f, err := ask(at); err != nil || f.Offset != offset {
				t.Errorf("%s: at %d: %+v, %v; expected %d", what, at, f, err, offset)
			}
		}
	}
	expect("all here", map[int64]record.Offset{-1: 10, -2: 0, -3: 9, -4: 0, -5: -1, -6: 0, 2500: 3})
	s := &memStore{}
	gb.far(s, p, 6)
	expect("some in the store", map[int64]record.Offset{-1: 10, -2: 0, -3: 9, -4: 6, -5: 5, -6: 6, 0: 0, 2500: 3, 7500: 8, 9001: -1})
	s.failing.Store(true)
	if _, err := ask(2500); !errors.Is(err, ErrTier) {
		t.Errorf("the store does not answer: %v", err)
	}
	gb.b.Local(0).DeleteRecords(p, 8, func(record.Offset, error) {})
	gb.pump()
	expect("the store has nothing any more", map[int64]record.Offset{-1: 10, -2: 8, -4: 8, -5: -1, -6: 8, 0: 8, 8500: 9})
	gb.configured(func(*TopicSpec) {})
	gb.far(s, p, 10)
	expect("nothing more goes to the store", map[int64]record.Offset{-4: 10, -5: 9, -6: -1})
}

// recovers has a store that fails answer again, and time pass until its readers try.
func (bb *boundBench) recovers(s *memStore) {
	s.failing.Store(false)
	for range 40 {
		bb.clock.Advance(time.Second)
		bb.tick()
	}
}

// A replay, by offset or by time, waits for a store that does not answer, and gives everything then, in its order and once. The session stays.
func TestReplayStoreFails(t *testing.T) {
	for _, from := range []ReplayFrom{{Kind: ReplayEarliest}, {Kind: ReplayTime, Milli: 1}} {
		bb := newBoundBench(t, "k/#")
		for _, v := range numbers("v", 0, 40) {
			bb.put(v, 10<<10)
		}
		s := &memStore{}
		s.failing.Store(true)
		bb.far(s, bb.partition(0), 30)
		c := &roomClient{testClient: bb.connect(1, kept("s")), room: 100}
		c.c.sub = c
		errs := make([]error, 1)
		if _, err := c.l.Subscribe(c.c, []SubscribeRequest{{Filter: []byte("k/#"), QoS: 1, From: from}}, errs, 1); err != nil || errs[0] != nil {
			t.Fatal(err, errs)
		}
		bb.pump()
		for range 5 {
			bb.clock.Advance(time.Second)
			bb.tick()
		}
		if asked := s.asked.Load(); len(c.payloads()) != 0 || asked < 2 || asked > 4 {
			t.Errorf("%+v: %d came, the store was asked %d times", from, len(c.payloads()), asked)
		}
		bb.put("v40", 0)
		bb.recovers(s)
		if got := c.payloads(); !slices.Equal(got, numbers("v", 0, 41)) {
			t.Errorf("%+v: %q", from, got)
		}
		if bb.b.stats.TierFailed.Load() == 0 || c.c.state != clientConnected {
			t.Errorf("%+v: %d failures, state %d", from, bb.b.stats.TierFailed.Load(), c.c.state)
		}
	}
}

// A session that is behind, and whose messages are links to records of a store that does not answer, gets what lies before them at once, and all when it
// does answer.
func TestSessionStoreFails(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	bb.b.SetTopic(topicSpec("t", 1, 100, 101, 104)) // the last one has the first one's shard, and queues
	c := bb.connect(1, kept("s"))
	c.subscribe(1, "k/#")
	c.disconnect()
	bb.pump()
	bb.put("v0", 0)
	for i := range int32(20) {
		bb.produce(bb.partition(i%2*2), records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte(fmt.Sprint("v", i+1))}), AppendOptions{})
	}
	s := &memStore{}
	s.failing.Store(true)
	bb.far(s, bb.partition(2), 100)
	c = bb.connect(1, kept("s"))
	bb.pump()
	check(t, "before the store's first", c.payloads(), numbers("v", 0, 2))
	if s.asked.Load() == 0 {
		t.Error("the store was not asked")
	}
	for range 3 {
		c.ackAll()
		bb.clock.Advance(time.Second)
		bb.tick()
	}
	for range 10 {
		s.failing.Store(false)
		c.ackAll()
		bb.clock.Advance(time.Second)
		bb.tick()
	}
	check(t, "all of it", c.payloads(), numbers("v", 0, 21))
	if n := bb.b.stats.QueueDropped[DropLost].Load() + bb.b.stats.QueueDropped[DropRetention].Load(); n != 0 {
		t.Errorf("%d were dropped", n)
	}
}

// A relay that is behind waits for its store, longer each time, and goes on.
func TestRelayStoreFails(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	c := bb.connect(1, live("s"))
	c.subscribe(0, "k/#")
	p := bb.partition(0)
	s := &memStore{}
	s.failing.Store(true)
	bb.far(s, p, 1000)
	for _, v := range numbers("v", 0, 5) {
		bb.put(v, 0)
	}
	for range 20 {
		bb.clock.Advance(time.Second)
		bb.tick()
	}
	if asked := s.asked.Load(); len(c.payloads()) != 0 || asked < 3 || asked > 7 {
		t.Errorf("%d came, the store was asked %d times", len(c.payloads()), asked)
	}
	bb.recovers(s)
	check(t, "relayed", c.payloads(), numbers("v", 0, 5))
	check(t, "errors logged", bb.faults.Load(), int64(0))
}
