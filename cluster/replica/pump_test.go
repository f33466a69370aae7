package replica

import (
	"testing"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// A watermark that has moved goes with frames. If a group has none for the follower, it is not queued with nothing behind it, but waits for the bell.
func TestWatermarkWithoutFrames(t *testing.T) {
	leader := newNode(t, 1, options{})
	other, streams := newRaw(t, 2)
	connect(t, leader, other)
	leader.lead(1)
	leader.opens()
	s := &served{r: leader.r, epoch: 1, moved: newMarks(testShards), hist: make([]history, testShards), next: make([]uint64, testShards), told: make([]uint64, testShards)}
	ch, err := leader.mesh.Open(2, link.KindReplication, appendHead(nil, 0, 1), newEnd())
	if err != nil {
		t.Fatal(err)
	}
	s.ch = ch
	to := testx.Receive(t, streams, soon)
	group := record.AppendFrame(nil, &record.Frame{Kind: record.KindCommand, Shard: 1, Epoch: 1, Index: 1})
	s.moved.mark(0)
	s.next[1] = 2
	if err := s.send(t.Context(), group); err != nil || s.told[0] != 0 {
		t.Errorf("with no frames: %d is told, %v", s.told[0], err)
	}
	if err := s.watermarks(s.ch.Send); err != nil || s.told[0] != 1 {
		t.Errorf("with the bell: %d is told, %v", s.told[0], err)
	}
	if got := testx.Receive(t, to.got, soon); got[0] != msgWatermarks {
		t.Errorf("the follower gets %x", got)
	}
	s.moved.mark(1)
	s.next[1] = 1
	if err := s.send(t.Context(), group); err != nil || s.told[1] != 1 {
		t.Errorf("with frames: %d is told, %v", s.told[1], err)
	}
	for _, want := range []byte{msgWatermarks, msgFrames} {
		if got := testx.Receive(t, to.got, soon); got[0] != want {
			t.Errorf("the follower gets %x, not a message %d", got, want)
		}
	}
	ch.Close()
}

// What a node has acknowledged by one stream does not count for the next one: its disk may be a new one. Nor does what the stream before says yet.
func TestAcknowledgedByAnotherStream(t *testing.T) {
	leader := newNode(t, 1, options{})
	other, _ := newRaw(t, 2)
	connect(t, leader, other)
	leader.lead(1)
	leader.opens()
	one := []uint64{1, 1, 1, 1}
	first, _ := other.begin(1, 1, one...)
	acks := []byte{msgAcks}
	for i := range testShards {
		acks = appendPair(acks, record.ShardID(i), 1)
	}
	first.send(t, acks)
	testx.Eventually(t, soon, func() bool { return leader.b.HasAcked(2, one) }, "it has acknowledged")
	old := (*leader.r.serving.Load())[0]
	second, _ := other.begin(1, 1, one...)
	if leader.b.HasAcked(2, one) {
		t.Error("what the stream before has acknowledged counts")
	}
	if err := old.acks(acks[1:]); err != nil {
		t.Error(err)
	}
	if leader.b.HasAcked(2, one) {
		t.Error("what the stream before still says counts")
	}
	second.send(t, acks)
	testx.Eventually(t, soon, func() bool { return leader.b.HasAcked(2, one) }, "it has acknowledged again")
}
