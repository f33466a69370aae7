package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// followed is a node that leads all home shards, and one that follows and gets of them what the test brings it. The topic is in shard 0, one and two are clients of other
// shards.
type followed struct {
	t                *testing.T
	leader, follower *testBroker
	topic, one, two  string
}

func newFollowed(t *testing.T) *followed {
	t.Helper()
	w := &followed{t: t}
	for _, tb := range []**testBroker{&w.leader, &w.follower} {
		n := &testBroker{t: t, clock: clock.NewManual(clockStart)}
		n.b = New(Options{Shards: modelShards, Loops: 1, Clock: n.clock, Replicated: true})
		n.log = &memLog{b: n.b}
		n.b.UseLog(n.log)
		n.b.Recovered()
		t.Cleanup(n.b.Close)
		*tb = n
	}
	w.lead(w.leader, 1, w.shards()...)
	for _, s := range w.shards() {
		w.follower.b.FollowLeader(s, 1, nil, 1<<40, w.fine2)
	}
	w.follower.pump()
	in := func(id record.ShardID) func(s *shard) bool { return func(s *shard) bool { return s.id == id } }
	w.topic, w.one, w.two = w.leader.named("t", in(0)), w.leader.named("one", in(1)), w.leader.named("two", in(2))
	return w
}

func (w *followed) fine(err error) {
	if err != nil {
		w.t.Error(err)
	}
}

func (w *followed) fine2(_ uint64, err error) { w.fine(err) }

func (w *followed) shards() (all []record.ShardID) {
	for i := range modelShards {
		all = append(all, record.ShardID(i))
	}
	return all
}

func (w *followed) lead(tb *testBroker, epoch record.Epoch, shards ...record.ShardID) {
	w.t.Helper()
	for _, s := range shards {
		tb.b.Lead(s, epoch, nil, 1, w.fine)
	}
	tb.pump()
	for _, s := range shards {
		if st := tb.b.Replica(s); !st.Open {
			w.t.Fatalf("shard %d: %+v", s, st)
		}
	}
}

// bring gives the follower's log what the leader's has, of shard 0 up to a frame.
func (w *followed) bring(most uint64) {
	w.t.Helper()
	w.leader.log.frames(func(f record.Frame) {
		if f.Kind <= record.KindCommand && (f.Shard != 0 || f.Index <= most) {
			w.fine(w.follower.b.Follow(f.Shard, 1, record.AppendFrame(nil, &f)))
		}
	})
	w.follower.pump()
}

// apply tells the follower that what it has of shards is committed, of one after the other.
func (w *followed) apply(shards ...record.ShardID) {
	w.t.Helper()
	for _, s := range shards {
		w.fine(w.follower.b.Watermark(s, 1, w.follower.b.Replica(s).Last))
		w.follower.pump()
	}
}

func (w *followed) kept(tb *testBroker, id string) *testClient {
	w.t.Helper()
	return tb.connect(0, ConnectRequest{ClientID: id, Expiry: time.Hour})
}

func (w *followed) publish(tb *testBroker, payloads ...string) {
	w.t.Helper()
	c := tb.connect(0, ConnectRequest{ClientID: "publisher"})
	for i, p := range payloads {
		c.publish(w.topic, p, 1, Token(i))
		tb.pump()
	}
}

// gets is what a kept session is owed at the follower, which leads now.
func (w *followed) gets(id string, want ...string) {
	w.t.Helper()
	c := w.kept(w.follower, id)
	if got := c.payloads(); !slices.Equal(got, want) {
		w.t.Errorf("%s gets %q, not %q", id, got, want)
	}
}

// A session subscribes behind messages that the next leader does not have. What takes their place is the session's.
func TestSubscribedBehindWhatIsLost(t *testing.T) {
	w := newFollowed(t)
	one := w.kept(w.leader, w.one)
	one.subscribe(1, w.topic)
	w.publish(w.leader, "a", "b")
	last := w.leader.b.Replica(0).Last
	w.publish(w.leader, "lost", "lost", "lost")
	two := w.kept(w.leader, w.two)
	two.subscribe(1, w.topic)
	two.disconnect()
	w.bring(last)
	w.apply(w.shards()...)
	w.lead(w.follower, 2, w.shards()...)
	w.publish(w.follower, "after")
	w.gets(w.two, "after")
	w.gets(w.one, "a", "b", "after")
}

// At a follower a filter loses its last reader before it gets the next one, as each shard is applied by itself: what that one is owed stays.
func TestReadersChangeAtFollower(t *testing.T) {
	w := newFollowed(t)
	one, two := w.kept(w.leader, w.one), w.kept(w.leader, w.two)
	one.subscribe(1, w.topic)
	two.subscribe(1, w.topic)
	two.disconnect()
	w.publish(w.leader, "owed")
	if _, err := one.l.Unsubscribe(one.c, []SubscribeRequest{{Filter: []byte(w.topic)}}, make([]error, 1), 1); err != nil {
		t.Fatal(err)
	}
	w.leader.pump()
	w.bring(1 << 40)
	w.apply(w.shards()...)
	w.lead(w.follower, 2, w.shards()...)
	w.gets(w.two, "owed")
}

// A shard leads before the shard of the session that reads its queue does.
func TestLeadsBeforeReaderIsUp(t *testing.T) {
	w := newFollowed(t)
	two := w.kept(w.leader, w.two)
	two.subscribe(1, w.topic)
	two.disconnect()
	w.publish(w.leader, "owed")
	w.bring(1 << 40)
	w.lead(w.follower, 2, 0)
	w.follower.tick()
	w.lead(w.follower, 2, w.shards()[1:]...)
	w.gets(w.two, "owed")
}

// A follower lets go of what everybody has read, in its log and in the queues, as the leader does.
func TestFollowerTrims(t *testing.T) {
	w := newFollowed(t)
	one := w.kept(w.leader, w.one)
	one.subscribe(1, w.topic)
	gone := w.kept(w.leader, w.two)
	gone.subscribe(1, w.topic+"/#") // nobody reads this one in the end
	for i := range 3 * blockRefs / 64 {
		var list []string
		for k := range 64 {
			list = append(list, fmt.Sprint(i, k))
		}
		w.publish(w.leader, list...)
		one.ackAll()
		gone.ackAll()
	}
	gone.l.Disconnect(gone.c, DisconnectRequest{HasExpiry: true})
	for range 4 {
		w.leader.clock.Advance(neededEvery)
		w.leader.tick()
	}
	w.bring(1 << 40)
	w.apply(w.shards()...)
	for range 2 {
		w.follower.tick()
	}
	part := unboundPartition(0)
	start := w.leader.log.start[part]
	if got := w.follower.log.start[part]; got != start || start < 2*blockRefs {
		t.Errorf("the follower's log holds what is from %d on, the leader's from %d", got, start)
	}
	refs := func(tb *testBroker) (n int64) {
		for _, q := range tb.b.homes[0].mu.queues {
			n += q.count
		}
		return n
	}
	if a, b := refs(w.leader), refs(w.follower); b > a+blockRefs || len(w.follower.b.homes[0].mu.queues) != 1 {
		t.Errorf("the follower has %d references in %d queues, the leader %d", b, len(w.follower.b.homes[0].mu.queues), a)
	}
	w.lead(w.follower, 2, w.shards()...)
	w.publish(w.follower, "after")
	w.gets(w.one, "after")
}

// What a shared group has queued is handed out by the next leader, and what is finished is not handed out again: also by a node that leads for the second time.
func TestSharedGroupOverLeaders(t *testing.T) {
	w := newFollowed(t)
	one := w.kept(w.leader, w.one)
	one.share("g", 1, w.topic)
	w.publish(w.leader, "done")
	one.ackAll()
	w.leader.tick()
	w.publish(w.leader, "open")
	one.disconnect()
	w.publish(w.leader, "queued")
	w.bring(1 << 40)
	w.apply(w.shards()...)
	w.lead(w.follower, 2, w.shards()...)
	next := w.kept(w.follower, w.one)
	w.publish(w.follower, "after")
	if got, want := next.payloads(), []string{"open", "queued", "after"}; !slices.Equal(got, want) {
		t.Errorf("the next leader hands out %q, not %q", got, want)
	}

	for _, s := range w.shards() {
		w.leader.b.Resign(s, func() {})
		w.leader.pump()
	}
	w.lead(w.leader, 3, w.shards()...)
	again := w.kept(w.leader, w.one)
	w.publish(w.leader, "again")
	if got, want := again.payloads(), []string{"open", "queued", "again"}; !slices.Equal(got, want) {
		t.Errorf("who leads again hands out %q, not %q", got, want)
	}
	again.ackAll()
	w.leader.tick()
	again.disconnect()
	w.publish(w.leader, "last")
	if got := w.kept(w.leader, w.one).payloads(); !slices.Equal(got, []string{"last"}) {
		t.Errorf("then it hands out %q", got)
	}
}

// Sessions that come and go leave nothing behind at a follower, neither their timers nor their filters' queues.
func TestSessionsComeAndGoAtFollower(t *testing.T) {
	w := newFollowed(t)
	stays := w.kept(w.leader, w.one)
	w.publish(w.leader, "x")
	for i := range 20 {
		c := w.kept(w.leader, fmt.Sprint("c", i))
		c.subscribe(1, w.topic)
		w.publish(w.leader, "x")
		c.ackAll()
		c.disconnect()
		c = w.kept(w.leader, fmt.Sprint("c", i))
		c.l.Disconnect(c.c, DisconnectRequest{HasExpiry: true})
		w.leader.pump()
		w.leader.clock.Advance(neededEvery)
		w.leader.tick()
	}
	stays.disconnect()
	stays = w.kept(w.leader, w.one)
	w.bring(1 << 40)
	w.apply(w.shards()...)
	w.follower.clock.Advance(3 * time.Hour)
	for range 3 {
		w.follower.tick()
	}
	timers, queues, grown := 0, 0, 0
	for _, s := range w.follower.b.homes {
		timers, queues, grown = timers+len(s.mu.timers), queues+len(s.mu.queues), grown+len(s.mu.grown)
	}
	if timers > 1 || queues > 1 || grown > 1 {
		t.Errorf("%d timers, %d queues and %d that have grown are left", timers, queues, grown)
	}
	stays.disconnect()
	w.bring(1 << 40)
	w.apply(w.shards()...)
	if s := w.follower.b.homes[1]; len(s.mu.timers) == 0 {
		t.Error("a session that is away has no timer")
	}
}

// Retained messages that have expired go at a follower, too, but not before its clock has passed their end by far.
func TestRetainedExpireAtFollower(t *testing.T) {
	w := newFollowed(t)
	c := w.leader.connect(0, ConnectRequest{ClientID: "publisher"})
	m := Message{Topic: []byte(w.topic), Payload: []byte("x"), QoS: 1, Retain: true, Deadline: w.leader.clock.Now().Add(time.Minute).UnixMilli()}
	if _, err := c.l.Publish(c.c, &m, false, 1); err != nil {
		t.Fatal(err)
	}
	w.leader.pump()
	w.bring(1 << 40)
	w.apply(w.shards()...)
	for _, step := range []struct {
		after time.Duration
		gone  bool
	}{{time.Hour, false}, {expiredFollowed, true}} {
		w.follower.clock.Advance(step.after)
		w.follower.tick()
		if gone := w.follower.b.retained.empty(); gone != step.gone {
			t.Errorf("%v later it is gone: %v", step.after, gone)
		}
	}
}
