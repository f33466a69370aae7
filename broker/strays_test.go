package broker

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// strayWorld is a log in which two sessions have QoS 2 messages open, and one of them ends.
type strayWorld struct {
	t            *testing.T
	from         *testBroker
	topics       record.ShardID // where the messages are
	ended, stays uint64         // sessions
}

func newStrayWorld(t *testing.T) *strayWorld {
	t.Helper()
	w := &strayWorld{t: t, from: newTestBroker(t, 1, nil)}
	reader := w.from.connect(0, ConnectRequest{ClientID: "reader", Expiry: time.Hour})
	reader.subscribe(1, "#")
	topic := w.from.named("t", func(s *shard) bool { return s.id == 0 })
	publish := func(prefix string) *testClient {
		id := w.from.named(prefix, func(s *shard) bool { return s.id != 0 })
		c := w.from.connect(0, ConnectRequest{ClientID: id, Expiry: time.Hour})
		c.publish(topic, "x", 2, 5)
		w.from.pump()
		return c
	}
	stays := publish("stays")
	w.stays = stays.c.sess.d.id
	ended := publish("ended")
	w.ended = ended.c.sess.d.id
	if ids := w.open(w.from); len(ids) != 2 {
		t.Fatalf("sessions %v have messages open", ids)
	}
	ended.l.Disconnect(ended.c, DisconnectRequest{HasExpiry: true})
	w.from.pump()
	if ids := w.open(w.from); len(ids) != 1 || ids[0] != w.stays {
		t.Fatalf("sessions %v have messages open when one has ended", ids)
	}
	return w
}

// open are the sessions of which a broker knows identifiers.
func (w *strayWorld) open(tb *testBroker) (ids []uint64) {
	for _, s := range tb.b.homes {
		for id := range s.mu.received {
			ids = append(ids, id)
		}
	}
	return ids
}

// follower has been given all, and has applied the other shards than that of the topic.
func (w *strayWorld) follower() *testBroker {
	w.t.Helper()
	tb := &testBroker{t: w.t, clock: clock.NewManual(clockStart)}
	tb.b = New(Options{Shards: modelShards, Loops: 1, Clock: tb.clock, Replicated: true})
	tb.log = &memLog{b: tb.b}
	tb.b.UseLog(tb.log)
	tb.b.Recovered()
	w.t.Cleanup(tb.b.Close)
	for i := range tb.b.homes {
		tb.b.FollowLeader(record.ShardID(i), 1, nil, 1<<40, func(_ uint64, err error) {
			if err != nil {
				w.t.Error(err)
			}
		})
	}
	tb.pump()
	w.from.log.frames(func(f record.Frame) {
		if f.Kind == record.KindRecords || f.Kind == record.KindCommand {
			if err := tb.b.Follow(f.Shard, 1, record.AppendFrame(nil, &f)); err != nil {
				w.t.Error(err)
			}
		}
	})
	tb.pump()
	for i := range tb.b.homes {
		if i != int(w.topics) {
			w.apply(tb, record.ShardID(i))
		}
	}
	return tb
}

func (w *strayWorld) apply(tb *testBroker, s record.ShardID) {
	w.t.Helper()
	if err := tb.b.Watermark(s, 1, tb.b.Replica(s).Last); err != nil {
		w.t.Error(err)
	}
	tb.pump()
	if st := tb.b.Replica(s); st.Applied != st.Last {
		w.t.Errorf("shard %d: %+v", s, st)
	}
}

// A session that has ended leaves nothing behind at a follower that hears of its last messages after that.
func TestNoStraysAtFollower(t *testing.T) {
	w := newStrayWorld(t)
	tb := w.follower()
	w.apply(tb, w.topics)
	if ids := w.open(tb); len(ids) != 1 || ids[0] != w.stays {
		t.Errorf("sessions %v have messages open, %d has ended", ids, w.ended)
	}
	for _, s := range tb.b.homes {
		if len(s.rep.ended) > 0 {
			t.Errorf("shard %d remembers %v for good", s.id, s.rep.ended)
		}
	}
}

// What a restart between the shards' checkpoints has left of one goes when the node leads, and nothing of sessions that are there.
func TestNoStraysAtLeader(t *testing.T) {
	w := newStrayWorld(t)
	tb := w.follower()
	for _, s := range tb.b.homes {
		s.rep.ended = nil
	}
	w.apply(tb, w.topics)
	if ids := w.open(tb); len(ids) != 2 {
		t.Fatalf("sessions %v have messages open before it leads", ids)
	}
	for i := range tb.b.homes {
		tb.b.Lead(record.ShardID(i), 2, nil, 1, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	tb.pump()
	if !tb.b.Leading() {
		t.Fatal("it does not lead")
	}
	if ids := w.open(tb); len(ids) != 1 || ids[0] != w.stays {
		t.Errorf("sessions %v have messages open, %d has ended", ids, w.ended)
	}
}
