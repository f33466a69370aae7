package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// onShard gives a client id whose session lies in a shard.
func onShard(tb *testBroker, want int) string {
	for i := 0; ; i++ {
		if id := fmt.Sprint("c", i); int(tb.b.shardOf(0, []byte(id)).id) == want {
			return id
		}
	}
}

// The last reader of a filter leaves, and the next one gives it a new number. A checkpoint has the new reader's shard as it is after that
// and the old one's as it was before. What the replay takes away must leave the new number where publishers look for it.
func TestFilterNumberAcrossCheckpoints(t *testing.T) {
	for _, newer := range []int{0, modelShards - 1} { // rows are loaded in order of the shards
		tb, points := newTestBroker(t, 1, nil), &memCheckpoints{}
		a := tb.connect(0, kept(onShard(tb, modelShards-1-newer)))
		a.subscribe(1, "t")
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		if _, err := a.l.Unsubscribe(a.c, []SubscribeRequest{{Filter: []byte("t")}}, make([]error, 1), 1); err != nil {
			t.Fatal(err)
		}
		tb.pump()
		id := onShard(tb, newer)
		b := tb.connect(0, kept(id))
		b.subscribe(1, "t")
		b.disconnect()
		before := points.flushed
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		points.flushed[a.c.sess.shard.id] = before[a.c.sess.shard.id]
		points.replay = 0
		tb, err := tb.restart(1, points)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tb.b.Close)
		tb.connect(0, live("p")).publish("t", "1", 1, 1)
		tb.pump()
		check(t, fmt.Sprint("shard ", newer, " is newer"), tb.connect(0, kept(id)).payloads(), []string{"1"})
	}
}

// A subscription counts from behind what waited for the log when it was asked for. If that was not written, a restart must not give its
// places to records that the subscription is owed.
func TestSubscribedBehindWhatFailed(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, a := tb.connect(0, live("p")), tb.connect(0, kept("a"))
	a.subscribe(1, "t")
	p.publish("t", "1", 1, 1)
	tb.pump()
	p.publish("t", "2", 1, 2)
	p.publish("t", "3", 1, 3)
	tb.log.fail = errors.New("disk full")
	tb.pump()
	tb.log.fail = nil
	b := tb.connect(0, kept("b"))
	b.subscribe(1, "t")
	b.disconnect()
	tb = tb.crash(1)
	p = tb.connect(0, live("p"))
	p.publish("t", "4", 1, 1)
	p.publish("t", "5", 1, 2)
	tb.pump()
	check(t, "owed", tb.connect(0, kept("b")).payloads(), []string{"4", "5"})
}

// A member of a shared group disconnects with a QoS 2 message out. It becomes the member's own, and finished for the group, in one step: a
// checkpoint in between and a kill must leave it with one of the two.
func TestSharedMessageChangesHands(t *testing.T) {
	for _, committed := range []bool{false, true} {
		tb, points := newTestBroker(t, 2, nil), &memCheckpoints{}
		p, s := tb.connect(0, live("p")), tb.connect(1, kept("s"))
		s.share("g", 2, "t")
		for i := range 2 { // of the first one the log knows that it is finished: the group has a row
			p.publish("t", fmt.Sprint(i), 1, Token(i))
			tb.pump()
			s.ackAll()
			tb.tick()
		}
		p.publish("t", "2", 2, 2)
		tb.pump()
		s.l.Disconnect(s.c, DisconnectRequest{})
		if committed {
			tb.pump()
		}
		for range 2 { // loops go round, and the log stands still
			for _, l := range tb.b.locals {
				l.Drain()
				l.EndTurn()
				l.Tick()
			}
		}
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		tb, err := tb.restart(1, points)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tb.b.Close)
		got := tb.connect(0, kept("s")).payloads() // from the group again, perhaps: a kill may do that
		check(t, fmt.Sprint("committed ", committed), slices.Contains(got, "2"), true)
	}
}
