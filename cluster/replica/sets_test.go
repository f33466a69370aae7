package replica

import (
	"errors"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// led are two nodes that lead sets and follow each other in them.
type led struct {
	t        *testing.T
	one, two *node
	leads    []*node // by set
	follows  []*node
}

func newLed(t *testing.T) *led {
	t.Helper()
	one, two := newNode(t, 1, options{more: 2}), newNode(t, 2, options{more: 2})
	connect(t, one, two)
	w := &led{t: t, one: one, two: two, leads: []*node{one, two, one}, follows: []*node{two, one, two}}
	for k := range w.leads {
		w.lead(k, record.Epoch(3+k))
	}
	return w
}

func (w *led) lead(set int, epoch record.Epoch) {
	w.t.Helper()
	w.leads[set].leadSet(set, epoch)
	w.leads[set].opensSet(set)
	w.follows[set].sets.Of(set).Follow(w.leads[set].id, epoch)
}

// write has each set take some, and waits until it is everywhere.
func (w *led) write() {
	w.t.Helper()
	for i := range 3 * testShards {
		for k, n := range w.leads {
			n.append(k*testShards+i%testShards, batch("x", 2<<10))
		}
	}
	for k := range w.leads {
		sameSet(w.t, k, w.leads[k], w.follows[k])
	}
}

// served is the one stream that a set's leader serves.
func (w *led) served(set int) (s *served) {
	w.t.Helper()
	testx.Eventually(w.t, soon, func() bool {
		list := *w.leads[set].sets.Of(set).serving.Load()
		if len(list) == 1 {
			s = list[0]
		}
		return s != nil
	}, "somebody follows set", set)
	return s
}

// Each set has its leader, its epoch and its streams, over one connection. What ends one leaves the others as they are.
func TestSets(t *testing.T) {
	w := newLed(t)
	w.write()
	first, second, third := w.served(0), w.served(1), w.served(2)
	for k, n := range w.leads {
		testx.Eventually(t, soon, func() bool {
			list := n.sets.Of(k).Followers()
			return len(list) == 1 && list[0].Node == w.follows[k].id && list[0].CaughtUp > 0 && list[0].Lag == 0 && list[0].Progress.Done == list[0].Progress.Total
		}, "who follows set", k)
		if list := w.follows[k].sets.Of(k).Followers(); len(list) > 0 {
			t.Errorf("set %d: who follows is followed by %+v", k, list)
		}
	}
	same := func() {
		t.Helper()
		if w.served(0) != first || w.served(1) != second {
			t.Error("streams of other sets have ended")
		}
	}

	w.two.sets.Of(2).fetched.Load().stream.Load().fail(errors.New("the test breaks it"))
	testx.Eventually(t, soon, func() bool { return w.served(2) != third }, "another stream of set 2")
	w.write()
	same()

	w.one.resignSet(2)
	w.two.sets.Of(2).Rest()
	w.leads[2], w.follows[2] = w.two, w.one
	w.lead(2, 9)
	w.write()
	same()
	if got := w.served(2); got.epoch != 9 || got.ch.Peer() != 1 {
		t.Errorf("set 2 is led in epoch %d, and node %d follows", got.epoch, got.ch.Peer())
	}

	w.one.sets.Lost()
	w.two.sets.Lost()
	testx.Eventually(t, soon, func() bool { return w.served(0) != first && w.served(1) != second }, "what is lost is asked for again in all sets")
	w.write()
	if got := append(w.one.told(), w.two.told()...); len(got) > 0 {
		t.Errorf("somebody needs a copy: %v", got)
	}
}

// A stream of a set that there is not, or that is not led here in that epoch, is refused, and so is a head that names a set in another way than the one.
func TestSetRefused(t *testing.T) {
	leader := newNode(t, 1, options{more: 2})
	other, _ := newRaw(t, 2)
	connect(t, leader, other)
	leader.leadSet(1, 3)
	leader.opensSet(1)
	for name, head := range map[string][]byte{
		"another set's epoch":  appendHead(nil, 0, 3),
		"not led":              appendHead(nil, 2, 3),
		"not there":            appendHead(nil, 3, 3),
		"the highest":          appendHead(nil, 255, 3),
		"an epoch too early":   appendHead(nil, 1, 2),
		"an epoch too late":    appendHead(nil, 1, 4),
		"set 0 by version 2":   {setVersion, 3, 0, 0, 0, 0},
		"no set":               {setVersion, 3, 0, 0, 0},
		"two sets":             {setVersion, 3, 0, 0, 0, 1, 1},
		"half an epoch":        {setVersion, 3, 0},
		"a set by version 1":   {headVersion, 3, 0, 0, 0, 1},
		"a version to come":    {setVersion + 1, 3, 0, 0, 0, 1},
		"nothing but a number": {setVersion},
	} {
		if err := testx.Receive(t, other.open(1, head).closed, soon); err == nil {
			t.Errorf("%s: a stream with the head %x is not refused", name, head)
		}
	}
	e, _ := other.beginSet(1, 1, 3, 1, 1, 1, 1)
	if got := testx.Receive(t, e.got, soon); got[0] != msgWatermarks && got[0] != msgFrames {
		t.Errorf("an honest one gets %x", got)
	}
	again, _ := other.beginSet(1, 1, 3, 1, 1, 1, 1)
	if err := testx.Receive(t, e.closed, soon); err == nil {
		t.Error("two streams of one node in a set")
	}
	if err := again.ch.Send([]byte{msgAcks}); err != nil {
		t.Error(err)
	}
}

// The bytes of set 0 are those of before there were sets.
func TestHeads(t *testing.T) {
	for _, c := range []struct {
		set  int
		want string
	}{{0, "\x01\x04\x03\x02\x01"}, {1, "\x02\x04\x03\x02\x01\x01"}, {15, "\x02\x04\x03\x02\x01\x0f"}} {
		head := appendHead(nil, c.set, 0x01020304)
		if string(head) != c.want {
			t.Errorf("the head of set %d is %x, want %x", c.set, head, c.want)
		}
		if set, epoch, err := decodeHead(head); set != c.set || epoch != 0x01020304 || err != nil {
			t.Errorf("%x is read as set %d, epoch %d, %v", head, set, epoch, err)
		}
	}
	// Shards are named by their own numbers, whatever the set.
	set := setOf(2)
	if err := eachPair(appendPair(nil, set.shard(3), 7), &set, func(slot int, index uint64) {
		if slot != 3 || index != 7 {
			t.Errorf("slot %d, index %d", slot, index)
		}
	}); err != nil {
		t.Error(err)
	}
	for _, shard := range []uint64{0, 7, 12, 1 << 16, 1<<16 + 8, 1 << 63, 1<<64 - 1} {
		if i, ok := set.slot(shard); ok {
			t.Errorf("shard %d has slot %d in %+v", shard, i, set)
		}
	}
}

// emptyHistory is that of a leader which has just begun.
func emptyHistory(epoch record.Epoch) []byte {
	msg := []byte{msgHistory}
	for range testShards {
		msg = appendHistory(msg, &history{epochs: []broker.EpochStart{{Epoch: epoch, First: 1}}})
	}
	return msg
}

// streamsOf are a follower's streams of so many sets, each begun with an empty history.
func streamsOf(t *testing.T, streams chan *end, epoch record.Epoch, sets int) []*end {
	t.Helper()
	list := make([]*end, sets)
	for range sets {
		e := testx.Receive(t, streams, soon)
		if e.set >= sets || list[e.set] != nil || e.epoch != epoch {
			t.Fatalf("a stream of set %d in epoch %d", e.set, e.epoch)
		}
		list[e.set] = e
		e.send(t, emptyHistory(epoch))
		if b := testx.Receive(t, e.got, soon); b[0] != msgFrom {
			t.Fatalf("the follower begins with %x", b)
		}
	}
	return list
}

// A leader of one set says nothing of another set's shards, not even one that leads that as well, in the same epoch: it ends the stream, and nothing is taken over.
func TestShardsOfAnotherSet(t *testing.T) {
	const epoch = 5
	raw, streams := newRaw(t, 1)
	n := newNode(t, 2, options{more: 1})
	connect(t, raw, n)
	n.sets.Of(0).Follow(1, epoch)
	n.sets.Of(1).Follow(1, epoch)
	list := streamsOf(t, streams, epoch, 2)
	list[1].send(t, framesOf(command(testShards, epoch, 1)))
	testx.Eventually(t, soon, func() bool { return n.b.Replica(testShards).Durable == 1 }, "the set's own leader")
	for _, said := range [][]byte{
		framesOf(command(testShards, epoch, 2)),
		framesOf(command(0, epoch, 1), command(testShards, epoch, 2)),
		appendPair([]byte{msgWatermarks}, testShards, 1),
	} {
		list[0].send(t, said)
		_ = testx.Receive(t, list[0].closed, soon)
		list[0] = streamsOf(t, streams, epoch, 1)[0] // of set 0, or it is out of range
	}
	if st := n.b.Replica(testShards); st.Last != 1 || st.Applied != 0 {
		t.Errorf("of the other set it took over %+v", st)
	}

	leader := newNode(t, 3, options{more: 1})
	other, _ := newRaw(t, 4)
	connect(t, leader, other)
	for k := range 2 {
		leader.leadSet(k, epoch)
		leader.opensSet(k)
	}
	_, _ = other.beginSet(1, 3, epoch, 1, 1, 1, 1)
	e, _ := other.beginSet(0, 3, epoch, 1, 1, 1, 1)
	e.send(t, appendPair([]byte{msgAcks}, testShards, 1))
	if err := testx.Receive(t, e.closed, soon); err == nil {
		t.Error("who follows one set acknowledges for another")
	}
	if list := leader.sets.Of(1).Followers(); len(list) != 1 || list[0].Lag != testShards {
		t.Errorf("set 1 is followed by %+v", list)
	}
}

// A log that does not reach back so far for one set is told of that set, and the others go on. How much a follower lacks is counted in each set for itself.
func TestGoneInOneSet(t *testing.T) {
	const epoch = 5
	raw, streams := newRaw(t, 1)
	n := newNode(t, 2, options{more: 2})
	connect(t, raw, n)
	for k := range 3 {
		n.sets.Of(k).Follow(1, epoch)
	}
	list := streamsOf(t, streams, epoch, 3)
	list[2].send(t, []byte{msgGone})
	testx.Eventually(t, soon, func() bool { return len(n.told()) == 1 }, "it needs a copy")
	list[1].send(t, framesOf(command(testShards, epoch, 1)))
	list[0].send(t, framesOf(command(0, epoch, 1)))
	list[0].acked(t, 1)
	testx.Eventually(t, soon, func() bool { return n.b.Replica(testShards).Durable == 1 }, "set 1 goes on")
	if n.of[0] != 2 || !errors.Is(n.told()[0], journal.ErrGone) || len(n.told()) != 1 {
		t.Errorf("of sets %v: %v", n.of, n.told())
	}
	if n.sets.Of(2).fetched.Load().stream.Load() != nil || len(streams) > 0 {
		t.Error("it asks again")
	}

	leader := newNode(t, 3, options{more: 1})
	other, _ := newRaw(t, 4)
	connect(t, leader, other)
	for k := range 2 {
		leader.leadSet(k, epoch)
		leader.opensSet(k)
		_, _ = other.beginSet(k, 3, epoch, 1, 1, 1, 1)
	}
	leader.append(testShards, batch("x", 100))
	testx.Eventually(t, soon, func() bool {
		zero, one := leader.sets.Of(0).Followers(), leader.sets.Of(1).Followers()
		return len(zero) == 1 && zero[0].Lag == testShards && len(one) == 1 && one[0].Lag == testShards+1
	}, "each set's lag")
}

// What followers lack of all sets comes at one pace together; where too few are in sync in one set, there is none, until that set has no need of it or its
// leader is another one.
func TestPaceOfSets(t *testing.T) {
	clk := clock.NewManual(time.Unix(0, 0))
	p := NewPace(clk, 64<<10)
	leader, follower := newNode(t, 1, options{log: large, pace: p, more: 1}), newNode(t, 2, options{log: large, more: 1})
	connect(t, leader, follower)
	const size, records = 32 << 10, 10
	for k := range 2 {
		leader.leadSet(k, 1)
		leader.opensSet(k)
		for range records {
			leader.append(k*testShards, batch("x", size))
		}
		leader.sets.Of(k).Await(nil, false)
	}
	testx.Eventually(t, soon, func() bool { n, err := leader.sink.count(); return n == 2*records && err == nil }, "all is written")
	follower.sets.Of(0).Follow(1, 1)
	follower.sets.Of(1).Follow(1, 1)
	testx.Eventually(t, soon, func() bool { return clk.Pending() == 2 }, "both wait")
	began := clk.Mono()
	testx.Eventually(t, soon, func() bool {
		if clk.Pending() > 0 {
			clk.Advance(50 * time.Millisecond)
		}
		for _, shard := range []record.ShardID{0, testShards} {
			if follower.b.Replica(shard).Durable != leader.b.Replica(shard).Durable {
				return false
			}
		}
		return true
	}, "it has all")
	if took := clk.Mono() - began; took < 8*time.Second { // 640 KiB
		t.Errorf("it took %v", took)
	}

	zero, one := leader.sets.Of(0), leader.sets.Of(1)
	pace := func(want bool, what string) {
		t.Helper()
		if got := p.hurry.Load() == 0; got != want {
			t.Errorf("%s: a pace is %t", what, got)
		}
	}
	one.Await(nil, true)
	zero.Await(nil, false)
	pace(false, "set 1 is in a hurry")
	one.Await(nil, true)
	zero.Await(nil, true)
	one.Await(nil, false)
	pace(false, "set 0 is")
	zero.Await(nil, false)
	pace(true, "nobody is")
	one.Await(nil, true)
	one.Rest()
	pace(true, "who was leads no more")
}

// A set of which nothing moves says nothing and wakes nobody, however much does in another set: neither who leads it nor who follows.
func TestIdleSet(t *testing.T) {
	const epoch, groups = 5, 50
	raw, streams := newRaw(t, 1)
	n := newNode(t, 2, options{more: 1})
	connect(t, raw, n)
	n.sets.Of(0).Follow(1, epoch)
	n.sets.Of(1).Follow(1, epoch)
	list := streamsOf(t, streams, epoch, 2)
	idle := n.sets.Of(1).fetched.Load()
	testx.Eventually(t, soon, func() bool {
		a := idle.acks.Load()
		if a == nil {
			return false
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		return !a.mu.waits && len(idle.moved.bell) == 0
	}, "it has begun")
	for i := range uint64(groups) {
		list[0].send(t, framesOf(command(0, epoch, i+1)))
		list[0].acked(t, i+1)
		if len(idle.moved.bell)+len(idle.room)+len(list[1].got) > 0 {
			t.Fatalf("group %d of set 0 wakes who follows set 1", i)
		}
	}
	a := idle.acks.Load()
	a.mu.Lock() // nobody needs it where nothing has moved
	flushed := make(chan struct{})
	go func() { n.sets.Flushed(); close(flushed) }()
	testx.Receive(t, flushed, soon)
	a.mu.Unlock()

	leader := newNode(t, 3, options{more: 1})
	other, _ := newRaw(t, 4)
	connect(t, leader, other)
	ends := make([]*end, 2)
	for k := range ends {
		leader.leadSet(k, epoch)
		leader.opensSet(k)
		ends[k], _ = other.beginSet(k, 3, epoch, 1, 1, 1, 1)
	}
	s, set := (*leader.sets.Of(1).serving.Load())[0], setOf(1)
	testx.Eventually(t, soon, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range testShards {
			if st := leader.b.Replica(set.shard(i)); st.HighWatermark != st.Last || st.Applied != st.Last {
				return false
			}
		}
		return s.mu.log != nil && !s.late.Load() && len(s.moved.bell) == 0 && !s.moved.any()
	}, "it has begun")
	for len(ends[1].got) > 0 {
		<-ends[1].got
	}
	for i := range groups {
		leader.append(0, batch("x", 100))
		testx.Eventually(t, soon, func() bool { got, _ := leader.sink.count(); return got == i+1 }, "it is written")
	}
	testx.Eventually(t, soon, func() bool { at, _ := s.mu.log.Position(); return leader.log.SizeFrom(at) == 0 }, "nothing is left for who serves set 1")
	if len(ends[1].got) > testShards { // the last words of its begin
		t.Errorf("%d messages of a set that has none", len(ends[1].got))
	}
}
