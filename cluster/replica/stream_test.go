package replica

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// One of those in sync is slow, so the leader goes as far ahead of the high watermark as it ever does. The other one has to take all of that: the word that the
// high watermark has moved comes behind it.
func TestWatermarkBehindFrames(t *testing.T) {
	leader, quick := newNode(t, 1, options{log: large}), newNode(t, 2, options{log: large})
	connect(t, leader, quick)
	leader.lead(1)
	leader.opens()
	quick.r.Follow(1, 1)
	same(t, leader, quick)
	ack := func() { // as node 3 would, which is not there
		for i := range testShards {
			if err := leader.b.Acked(record.ShardID(i), 1, 3, leader.b.Replica(record.ShardID(i)).Durable); err != nil {
				t.Error(err)
			}
		}
	}
	ack()
	for i := range testShards {
		testx.Eventually(t, soon, func() bool { return leader.b.SetInSync(record.ShardID(i), 1, []uint64{2, 3}, 2) == nil }, "both are in sync")
	}
	const (
		ahead = 8 << 20 // the leader takes a list more when it is so far ahead
		size  = 100 << 10
		whole = ahead/size + 1
	)
	for range whole + 2 {
		leader.append(0, batch("x", size))
	}
	testx.Eventually(t, soon, func() bool { return leader.b.Replica(0).Durable > whole }, "the leader is ahead")
	testx.Eventually(t, soon, func() bool { return quick.b.Replica(0).Durable > whole }, "the quick one has that too")
	if st := leader.b.Replica(0); st.HighWatermark != 1 {
		t.Errorf("it is committed: %+v", st)
	}
	testx.Eventually(t, soon, func() bool {
		ack()
		st := leader.b.Replica(0)
		return st.HighWatermark == st.Last && st.Last == 1+whole+2
	}, "all is committed")
	same(t, leader, quick)
}

func large(o *journal.Options) { o.SegmentBytes, o.GroupBytesMax = 64<<20, 1<<20 }

// A follower has what nobody else has, as it led before: it takes that back, and has then what the leader has.
func TestAheadTruncates(t *testing.T) {
	one, two := newNode(t, 1, options{}), newNode(t, 2, options{})
	connect(t, one, two)
	one.lead(1)
	one.opens()
	two.r.Follow(1, 1)
	for i := range testShards {
		one.append(i, batch("both", 100))
	}
	same(t, one, two)
	for i := range testShards { // what it has it may not have acknowledged yet
		testx.Eventually(t, soon, func() bool { return one.b.SetInSync(record.ShardID(i), 1, []uint64{2}, 2) == nil }, "it is in sync")
	}
	two.r.Rest()
	testx.Eventually(t, soon, func() bool { return len(one.r.Followers()) == 0 }, "nothing is sent to it any more")
	acked, err := one.sink.count()
	if acked != testShards || err != nil {
		t.Fatalf("%d are acknowledged, %v", acked, err)
	}
	for range 3 {
		one.append(0, batch("one alone", 100))
	}
	testx.Eventually(t, soon, func() bool { st := one.b.Replica(0); return st.Durable == st.Last && st.Last > two.b.Replica(0).Last }, "the log of the leader has more")
	one.resign()
	testx.Eventually(t, soon, func() bool {
		n, err := one.sink.count()
		return n == testShards+3 && errors.Is(err, broker.ErrNotLeader)
	}, "nobody is told that it is there")
	two.lead(2)
	two.opens()
	two.append(0, batch("the next leader", 100))
	one.r.Follow(2, 2)
	same(t, two, one)
	for i := range testShards {
		a, _ := one.b.ReplicaHistory(record.ShardID(i))
		b, _ := two.b.ReplicaHistory(record.ShardID(i))
		if len(a) != len(b) || a[len(a)-1] != b[len(b)-1] {
			t.Errorf("shard %d: histories %v and %v", i, a, b)
		}
	}
	if got := append(one.told(), two.told()...); len(got) > 0 {
		t.Errorf("somebody needs a copy: %v", got)
	}
}

// Connections that are cut at any moment lose nothing and bring nothing twice.
func TestCuts(t *testing.T) {
	one, two := newNode(t, 1, options{}), newNode(t, 2, options{})
	connect(t, one, two)
	one.lead(1)
	one.opens()
	two.r.Follow(1, 1)
	for i := range 10 {
		for k := range 3 * testShards {
			one.append(k%testShards, batch("x", 10<<10))
		}
		if i%2 == 0 {
			one.mesh.Disconnect(2, "the test cuts it")
		} else {
			two.mesh.Disconnect(1, "the test cuts it")
		}
	}
	same(t, one, two)
}

// Who opens a stream in another version or epoch, or at a node that does not lead, is refused by name.
func TestStreamRefused(t *testing.T) {
	leader := newNode(t, 1, options{})
	other, _ := newRaw(t, 2)
	connect(t, leader, other)
	leader.lead(3)
	leader.opens()
	for _, head := range [][]byte{nil, {headVersion, 3}, {headVersion + 1, 3, 0, 0, 0}, appendHead(nil, 0, 2), appendHead(nil, 0, 4)} {
		if err := testx.Receive(t, other.open(1, head).closed, soon); err == nil {
			t.Errorf("a stream with the head %x is not refused", head)
		}
	}
	leader.resign()
	if err := testx.Receive(t, other.open(1, appendHead(nil, 0, 3)).closed, soon); err == nil {
		t.Error("a node that does not lead serves")
	}
	if list := leader.r.Followers(); len(list) > 0 {
		t.Errorf("it has followers: %+v", list)
	}
}

// What a follower may not say ends its stream alone; the next one is served.
func TestFollowerSaysNonsense(t *testing.T) {
	leader := newNode(t, 1, options{})
	other, _ := newRaw(t, 2)
	connect(t, leader, other)
	leader.lead(1)
	leader.opens()
	for _, said := range [][]byte{{0}, {99}, {msgHistory}, {msgFrames, 1}, {msgGone}, {msgFrom}, {msgFrom, 1, 1, 1}, {msgFrom, 1, 1, 1, 1, 1}, {msgFrom, 1, 1, 1, 0x80},
		{msgAcks, testShards, 1}, {msgAcks, 1}, {msgAcks, 0x80}} {
		e := other.open(1, appendHead(nil, 0, 1))
		testx.Receive(t, e.got, soon)
		e.send(t, said)
		if err := testx.Receive(t, e.closed, soon); err == nil {
			t.Errorf("%x does not end the stream", said)
		}
	}
	e, _ := other.begin(1, 1, 1, 1, 1, 1)
	first := testx.Receive(t, e.got, soon)
	if first[0] != msgWatermarks && first[0] != msgFrames {
		t.Errorf("an honest one gets %x", first)
	}
	again, _ := other.begin(1, 1, 1, 1, 1, 1)
	if err := testx.Receive(t, e.closed, soon); err == nil {
		t.Error("two streams of one node")
	}
	again.send(t, []byte{msgFrom, 1, 1, 1, 1})
	e, _ = other.begin(1, 1, 1, 1, 1, 1)
	if err := testx.Receive(t, again.closed, soon); err == nil {
		t.Error("it may ask twice")
	}
	leader.r.Lead(2)
	if err := testx.Receive(t, e.closed, soon); err == nil {
		t.Error("the stream outlives its epoch")
	}
	gone, _ := other.begin(1, 2, 0, 0, 0, 0)
	_ = testx.Receive(t, gone.closed, soon)
	told := false
	for len(gone.got) > 0 {
		told = (<-gone.got)[0] == msgGone
	}
	if !told {
		t.Error("who asks for what the log does not have is not told")
	}
}

// A follower may have more that waits for the high watermark than it takes, of an earlier leader. It says that there is no room for what comes, and gets it all the
// same, as soon as it is told that what it has is committed: that is said behind what it has no room for.
func TestWatermarkBehindFramesOfAnotherLead(t *testing.T) {
	leader, quick := newNode(t, 1, options{log: large}), newNode(t, 2, options{log: large})
	connect(t, leader, quick)
	leader.lead(1, 2, 3)
	quick.r.Follow(1, 1)
	ack := func(epoch record.Epoch) { // as node 3 would, which is not there
		for i := range testShards {
			if err := leader.b.Acked(record.ShardID(i), epoch, 3, leader.b.Replica(record.ShardID(i)).Durable); err != nil {
				t.Error(err)
			}
		}
	}
	testx.Eventually(t, soon, func() bool { return leader.b.Replica(0).Durable == 1 }, "it begins")
	ack(1)
	leader.opens()
	const size, large = 100 << 10, 20 << 20
	for range (8 << 20) / size {
		leader.append(0, batch("x", size))
	}
	leader.append(0, batch("x", large))
	last := uint64((8<<20)/size + 2)
	testx.Eventually(t, soon, func() bool { return quick.b.Replica(0).Durable == last }, "the follower has all, and nothing is committed")
	leader.resign()
	leader.lead(2, 2, 3)
	quick.r.Follow(1, 2)
	testx.Eventually(t, soon, func() bool { f := quick.r.fetched.Load(); return f.epoch == 2 && f.busy.Load() }, "the follower has no room")
	ack(2)
	leader.opens()
	same(t, leader, quick)
}
