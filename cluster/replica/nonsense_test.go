package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// says is a leader in the test's hands: what it remembers of its epochs is that this one began with the first frame.
type says struct {
	t       *testing.T
	streams chan *end
	epoch   record.Epoch
}

// next is the next stream that the follower goes on with, and what it asks for of shard 0.
func (l *says) next() (*end, uint64) {
	l.t.Helper()
	for {
		e := testx.Receive(l.t, l.streams, soon)
		if e.epoch != l.epoch {
			continue // of before
		}
		msg := []byte{msgHistory}
		for range testShards {
			msg = appendHistory(msg, &history{epochs: []broker.EpochStart{{Epoch: l.epoch, First: 1}}})
		}
		_ = e.ch.Send(msg) // a stream that has ended is passed over
		select {
		case b := <-e.got:
			from, err := decodeFrom(b[1:], testShards)
			if b[0] != msgFrom || err != nil {
				l.t.Fatalf("the follower begins with %x: %v", b, err)
			}
			return e, from[0]
		case <-e.closed: //nolint:errcheck // the next one counts
		}
	}
}

func command(shard record.ShardID, epoch record.Epoch, index uint64) []byte {
	return record.AppendFrame(nil, &record.Frame{Kind: record.KindCommand, Shard: shard, Epoch: epoch, Index: index})
}

func framesOf(list ...[]byte) []byte { return append([]byte{msgFrames}, bytes.Join(list, nil)...) }

// acked waits until the follower has acknowledged shard 0 up to index.
func (e *end) acked(t *testing.T, index uint64) {
	t.Helper()
	set := setOf(0)
	for reached := false; !reached; {
		b := testx.Receive(t, e.got, soon)
		if b[0] != msgAcks {
			t.Fatalf("the follower says %x", b)
		}
		if err := eachPair(b[1:], &set, func(s int, at uint64) { reached = reached || s == 0 && at == index }); err != nil {
			t.Fatal(err)
		}
	}
}

// What a leader may not say ends the stream, and nothing of it is in the follower's log; the follower opens another one, and goes on behind what it has.
// What comes twice is passed over.
func TestLeaderSaysNonsense(t *testing.T) {
	const epoch = 5
	raw, streams := newRaw(t, 1)
	n := newNode(t, 2, options{})
	connect(t, raw, n)
	l := &says{t: t, streams: streams, epoch: epoch}
	n.r.Follow(1, epoch)
	e, from := l.next()
	if from != 1 {
		t.Fatalf("an empty log goes on with %d", from)
	}
	e.send(t, framesOf(command(0, epoch, 1), command(0, epoch, 2), command(0, epoch, 1)))
	e.send(t, framesOf(command(0, epoch, 2), command(0, epoch, 3)))
	e.acked(t, 3)
	flipped := command(0, epoch, 4)
	flipped[len(flipped)-1] ^= 1
	watermark := record.AppendFrame(nil, &record.Frame{Kind: record.KindWatermark, Flags: record.FlagSkippable, Epoch: epoch, Index: 4})
	for name, said := range map[string][]byte{
		"an unknown type":      {77},
		"a second history":     {msgHistory},
		"a follower's word":    {msgAcks, 0, 1},
		"a gap":                framesOf(command(0, epoch, 5)),
		"the wrong order":      framesOf(command(0, epoch, 5), command(0, epoch, 4)),
		"a later epoch":        framesOf(command(0, epoch+1, 4)),
		"an earlier epoch":     framesOf(command(0, epoch-1, 4)),
		"a shard too many":     framesOf(command(testShards, epoch, 1)),
		"half a frame":         framesOf(command(0, epoch, 4)[:7]),
		"garbage":              framesOf([]byte("garbage that is no frame, and long enough to be one of them")),
		"another checksum":     framesOf(flipped),
		"a mark of the log":    framesOf(watermark),
		"a mark of a shard":    {msgWatermarks, testShards, 1},
		"half of a pair":       {msgWatermarks, 0},
		"a number without end": {msgWatermarks, 0x80},
	} {
		e.send(t, said)
		_ = testx.Receive(t, e.closed, soon)
		if e, from = l.next(); from != 4 {
			t.Errorf("%s: the follower goes on with %d", name, from)
		}
	}
	e.send(t, framesOf(command(0, epoch, 4)))
	e.acked(t, 4)
	e.ch.Abort("and again")
	if e, from = l.next(); from != 5 { // by itself
		t.Errorf("the follower goes on with %d", from)
	}
	e.send(t, append([]byte{msgWatermarks}, binary.AppendUvarint([]byte{0}, 4)...))
	testx.Eventually(t, soon, func() bool { return n.b.Replica(0).Applied == 4 }, "what all have is applied")
	if got := n.told(); len(got) > 0 {
		t.Errorf("it needs a copy: %v", got)
	}

	// A leader whose log does not reach back, and one that has never had what is applied here: once each, and the follower asks no more.
	e.send(t, []byte{msgGone})
	testx.Eventually(t, soon, func() bool { return len(n.told()) == 1 }, "it needs a copy")
	l.epoch = 8
	n.r.Follow(1, 8)
	e = testx.Receive(t, streams, soon)
	if e.epoch != 8 {
		t.Errorf("it goes on in epoch %d after it was told that it cannot", e.epoch)
	}
	msg := []byte{msgHistory}
	for range testShards {
		msg = appendHistory(msg, &history{epochs: []broker.EpochStart{{Epoch: 8, First: 1}}, end: 1})
	}
	e.send(t, msg)
	testx.Eventually(t, soon, func() bool { return len(n.told()) == 2 }, "it needs a copy of the next one")
	if got := n.told(); !errors.Is(got[0], journal.ErrGone) || !errors.Is(got[1], broker.ErrDiverged) || n.leader != 1 {
		t.Errorf("because of %v, of node %d", got, n.leader)
	}
}

// The first message has to be a whole history.
func TestHistoryFirst(t *testing.T) {
	raw, streams := newRaw(t, 1)
	n := newNode(t, 2, options{})
	connect(t, raw, n)
	n.r.Follow(1, 2)
	for _, said := range [][]byte{{msgHistory}, {msgHistory, 0, 0, 0, 0, 0, 0, 0}, {msgWatermarks, 0, 1}, framesOf(command(0, 2, 1)), {msgGone}} {
		e := testx.Receive(t, streams, soon)
		e.send(t, said)
		_ = testx.Receive(t, e.closed, soon)
		if len(e.got) > 0 {
			t.Errorf("after %x it says %x", said, <-e.got)
		}
	}
	if st := n.b.Replica(0); st.Last != 0 || len(n.told()) > 0 {
		t.Errorf("%+v, %v", st, n.told())
	}
}

// tables is a Core that takes frames as a follower's does, and keeps none.
type tables struct {
	Core
	set  Set
	next [3]uint64
	room int
}

// own has the fuzzing fail for what is not of the set.
func (c *tables) own(shard record.ShardID) {
	if _, ok := c.set.slot(uint64(shard)); !ok {
		panic("a shard of another set")
	}
}

func (c *tables) Follow(shard record.ShardID, _ record.Epoch, frames []byte) error {
	c.own(shard)
	for len(frames) > 0 {
		f, n, err := record.DecodeFrame(frames)
		switch {
		case err != nil || f.Shard != shard || int(shard) >= len(c.next):
			return record.ErrFrame
		case f.Index < c.next[shard]: // it has it
			frames = frames[n:]
			continue
		case c.room == 0:
			c.room = 3
			return broker.ErrBusy
		case f.Index != c.next[shard]:
			return broker.ErrGap
		}
		c.room--
		c.next[shard]++
		frames = frames[n:]
	}
	return nil
}

func (c *tables) Watermark(shard record.ShardID, _ record.Epoch, _ uint64) error {
	c.own(shard)
	return nil
}

// Whatever a peer sends, it is worked on to its end or refused, and never half of a frame is handed on. Where there is no room it goes on where it was.
func FuzzWork(f *testing.F) {
	f.Add(framesOf(command(1, 1, 0), command(1, 1, 1), command(2, 1, 0), command(1, 1, 2), command(2, 1, 1)))
	f.Add(framesOf(command(1, 1, 0), command(1, 1, 2)))
	f.Add(framesOf(command(1, 1, 0), command(0, 1, 0)))
	f.Add(appendPair([]byte{msgWatermarks}, 0, 7))
	f.Add(append([]byte{msgWatermarks}, appendPair(nil, 1, 7)...))
	f.Add([]byte{msgGone})
	set := Set{Number: 3, First: 1, Shards: 2}
	f.Fuzz(func(t *testing.T, b []byte) {
		fe := &fetcher{r: &Replicas{o: Options{Core: &tables{set: set, room: 2}}, set: set}}
		done := 0
		for tries := 0; ; tries++ {
			n, err := fe.work(b, done)
			if n > len(b) || err == nil && n != len(b) && (len(b) != 1 || n != 1) {
				t.Fatalf("%d bytes of %d are done: %v", n, len(b), err)
			}
			if !errors.Is(err, broker.ErrBusy) {
				return
			}
			if tries > 2*len(b) {
				t.Fatal("it does not come to an end")
			}
			done = n
		}
	})
}

// A leader has sent as much as the channel takes, and cannot say that what the follower has is committed: it has no room for more before that. The follower comes with
// another stream.
func TestStuckFollowerComesAnew(t *testing.T) {
	n := newNode(t, 2, options{log: large})
	other, streams := newRaw(t, 1)
	connect(t, other, n)
	n.r.Follow(1, 1)
	leader := &says{t, streams, 1}
	e, from := leader.next()
	frame := func(index uint64) []byte {
		b := batch("x", 1<<20)
		b.SetBaseOffset(record.Offset(index - 1))
		return record.AppendFrame(nil, &record.Frame{Kind: record.KindRecords, Epoch: 1, Index: index, Partition: 100, Payload: append(record.BeginRecordsPayload(nil, nil), b...)})
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		for at := from; at < from+100 && e.ch.Send(framesOf(frame(at))) == nil; at++ {
			continue
		}
	})
	next, at := leader.next()
	sending.Wait()
	if at < 10 || at > 30 {
		t.Errorf("it asks for frame %d", at)
	}
	next.send(t, appendPair([]byte{msgWatermarks}, 0, at-1))
	next.send(t, framesOf(frame(at)))
	next.acked(t, at)
	if got := n.b.Replica(0); got.HighWatermark != at-1 || got.Last != at {
		t.Errorf("it stands at %+v", got)
	}
}
