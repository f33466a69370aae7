package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// delay gives the broker a message to publish later, and says what that is answered.
func (c *testClient) delay(topic, payload string, qos QoS, after time.Duration, tok Token) error {
	c.tb.t.Helper()
	now := c.tb.clock.Now().UnixMilli()
	m := Message{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, Timestamp: now}
	delete(c.completed, tok)
	if _, err := c.l.Delay(c.c, &m, now+after.Milliseconds(), qos == 2, tok); err != nil {
		return err
	}
	c.tb.pump()
	err, done := c.completed[tok]
	if done != (qos > 0) {
		c.tb.t.Fatalf("QoS %d completed: %v", qos, done)
	}
	return err
}

func (c *testClient) cancelDelayed(topic string) {
	c.tb.t.Helper()
	if _, err := c.l.CancelDelayed(c.c, &Message{Topic: []byte(topic), QoS: 1}, false, 4242); err != nil {
		c.tb.t.Fatal(err)
	}
	c.tb.pump()
	if err, done := c.completed[4242]; !done || err != nil {
		c.tb.t.Fatal(done, err)
	}
}

func (tb *testBroker) pass(d time.Duration) {
	tb.clock.Advance(d)
	tb.tick()
}

// takeAll acknowledges until nothing more comes.
func (c *testClient) takeAll() {
	for len(c.refs) > 0 {
		c.ackAll()
	}
}

func wantDelayed(t *testing.T, tb *testBroker, want int64) {
	t.Helper()
	n, bytes := tb.b.DelayedMessages()
	if n != want || (bytes > 0) != (want > 0) {
		t.Errorf("%d messages wait, %d bytes; want %d", n, bytes, want)
	}
}

// TestDelayed: a message comes when its time has come, not before and once, to live and kept sessions, in order, whatever its QoS.
func TestDelayed(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, a, b := tb.connect(0, live("p")), tb.connect(1, live("a")), tb.connect(0, kept("b"))
	a.subscribe(2, "t/+")
	b.subscribe(2, "t/+")
	for qos := range QoS(3) {
		for i, s := range []time.Duration{20, 10, 10} {
			if err := p.delay("t/1", fmt.Sprint(qos, i), qos, s*time.Second, 7); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantDelayed(t, tb, 9)
	tb.pass(9 * time.Second)
	check(t, "before", len(a.got)+len(b.got), 0)
	p.disconnect()
	tb.pass(1 * time.Second)
	first := []string{"0 1", "0 2", "1 1", "1 2", "2 1", "2 2"}
	check(t, "the first of a", a.payloads(), first)
	check(t, "the first of b", b.payloads()[2:], first[2:]) // QoS 0 did not wait for the log
	tb.pass(10 * time.Second)
	check(t, "all of a", a.payloads(), append(first, "0 0", "1 0", "2 0"))
	check(t, "all of b", len(b.got), 9)
	tb.pass(time.Hour)
	check(t, "no more", len(a.got), 9)
	wantDelayed(t, tb, 0)
	check(t, "clients that have some", len(tb.b.delayed.owners), 0)
}

// TestDelayedAcrossCrash: what was answered is there after a crash, with and without a checkpoint, comes when it was to come, or at once if that
// is past; what has come does not come again.
func TestDelayedAcrossCrash(t *testing.T) {
	tb, points := newTestBroker(t, 1, nil), &memCheckpoints{}
	p, b := tb.connect(0, kept("p")), tb.connect(0, kept("b"))
	b.subscribe(1, "#")
	for i := range 20 {
		if err := p.delay(fmt.Sprint("t/", i), fmt.Sprint(i), 1, time.Duration(10+i%2*90)*time.Second, 7); err != nil {
			t.Fatal(err)
		}
	}
	tb = tb.crash(1)
	wantDelayed(t, tb, 20)
	tb.pass(50 * time.Second)
	b = tb.connect(0, kept("b"))
	b.takeAll()
	check(t, "the first half", len(b.got), 10)
	tb.tick()
	if err := tb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	p = tb.connect(0, kept("p"))
	p.cancelDelayed("t/1")
	next, err := tb.restart(1, points)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.b.Close)
	wantDelayed(t, next, 9)
	next.pass(time.Hour)
	b = next.connect(0, kept("b"))
	b.takeAll()
	check(t, "the second half", len(b.got), 9)
	next.tick()
	next = next.crash(1)
	wantDelayed(t, next, 0)
	next.pass(time.Hour)
	check(t, "nothing twice", len(next.connect(0, kept("b")).got), 0)
}

// TestDelayedCancel: a client takes back its own messages to a topic, and nobody else's, nor those to other topics.
func TestDelayedCancel(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, q, a := tb.connect(0, live("p")), tb.connect(1, live("q")), tb.connect(1, live("a"))
	a.subscribe(1, "#")
	for _, topic := range []string{"t", "t", "u", "t"} {
		for name, c := range map[string]*testClient{"p": p, "q": q} {
			if err := c.delay(topic, name+topic, 1, time.Minute, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.disconnect()
	p = tb.connect(1, live("p"))
	p.cancelDelayed("t")
	p.cancelDelayed("never")
	wantDelayed(t, tb, 5)
	if err := p.delay("t", "after", 1, time.Second, 1); err != nil {
		t.Fatal(err)
	}
	tb.pass(time.Minute)
	counts := map[string]int{}
	for _, s := range a.payloads() {
		counts[s]++
	}
	check(t, "who came", fmt.Sprint(counts), "map[after:1 pu:1 qt:3 qu:1]")
	q.cancelDelayed("t")
	wantDelayed(t, tb, 0)
}

// TestDelayedLimits: in all, of one client, and of bytes; what was refused or was not written holds no place.
func TestDelayedLimits(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	tb.b.SetLimits(Limits{Delayed: 5, DelayedPerClient: 3, DelayedBytes: 1000})
	p, q := tb.connect(0, live("p")), tb.connect(0, live("q"))
	if err := p.delay("t", string(make([]byte, 1000)), 1, time.Minute, 1); !errors.Is(err, ErrQuota) {
		t.Fatalf("bytes: %v", err)
	}
	tb.log.fail = errors.New("broken")
	if err := p.delay("t", "", 1, time.Minute, 1); err == nil {
		t.Fatal("it was not written")
	}
	tb.log.fail = nil
	for i := range 4 {
		if err := p.delay("t", "", 1, time.Minute, 1); (err == nil) != (i < 3) || err != nil && !errors.Is(err, ErrQuota) {
			t.Fatalf("%d of one client: %v", i, err)
		}
		if err := q.delay("t", "", 1, time.Minute, 1); (err == nil) != (i < 2) || err != nil && !errors.Is(err, ErrQuota) {
			t.Fatalf("%d in all: %v", i, err)
		}
	}
	tb.pass(time.Minute)
	if err := p.delay("t", "", 1, time.Minute, 1); err != nil {
		t.Fatalf("when there is room again: %v", err)
	}
}

// TestDelayedNotYet: while an older node might read the log, nothing is written that it does not know; what was written before is published all the same.
func TestDelayedNotYet(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p := tb.connect(0, live("p"))
	if err := p.delay("t", "before", 1, time.Minute, 1); err != nil {
		t.Fatal(err)
	}
	tb.b.SetDelayable(false)
	if err := p.delay("t", "", 1, time.Minute, 1); !errors.Is(err, ErrNotYet) {
		t.Errorf("delayed: %v", err)
	}
	if _, err := p.l.CancelDelayed(p.c, &Message{Topic: []byte("t"), QoS: 1}, false, 2); !errors.Is(err, ErrNotYet) {
		t.Errorf("cancelled: %v", err)
	}
	wantDelayed(t, tb, 1)
	tb.pass(time.Minute)
	wantDelayed(t, tb, 0)
	tb.b.SetDelayable(true)
	if err := p.delay("t", "", 1, time.Minute, 1); err != nil {
		t.Errorf("when all know it: %v", err)
	}
}

// TestDelayedMany: more are due at once than a pending list holds, and the log fails in between: all come, each once.
func TestDelayedMany(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, b := tb.connect(0, live("p")), tb.connect(0, kept("b"))
	b.subscribe(1, "t")
	const n = 500
	for i := range n {
		if err := p.delay("t", fmt.Sprint(i, string(make([]byte, 4000))), 1, time.Minute, 1); err != nil {
			t.Fatal(err)
		}
	}
	failed := false
	tb.log.between = func() { tb.log.fail, failed = errors.New("broken"), true }
	tb.pass(time.Minute)
	if tb.log.fail = nil; !failed {
		t.Fatal("nothing was written")
	}
	seen := map[string]int{}
	tb.pass(2 * time.Second)
	b.takeAll()
	for _, s := range b.payloads() {
		seen[s]++
	}
	check(t, "different ones", len(seen), n)
	check(t, "all", len(b.got), n)
	wantDelayed(t, tb, 0)
}

// TestDelayedTwice: the identifier of a QoS 2 message is remembered with it, so that it is not taken twice after a crash.
func TestDelayedTwice(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	if err := tb.connect(0, kept("p")).delay("t", "x", 2, time.Minute, 77); err != nil {
		t.Fatal(err)
	}
	tb = tb.crash(1)
	p := tb.connect(0, kept("p"))
	check(t, "received", fmt.Sprint(p.connected.Received), "[77]")
	if out, err := p.l.Release(p.c, 77, 1); out != Pending || err != nil {
		t.Fatal(out, err)
	}
	tb.pump()
	tb = tb.crash(1)
	check(t, "released", len(tb.connect(0, kept("p")).connected.Received), 0)
	wantDelayed(t, tb, 1)
}

// TestDelayedLeader: who leads next goes on with what is pending, and forgets what the one before has published.
func TestDelayedLeader(t *testing.T) {
	tr := newTrio(t)
	l := tr.leader
	p := l.client(0)
	p.c.state, p.c.sess = clientConnected, &Session{id: "p"}
	topic := ""
	for i := 0; topic == ""; i++ {
		if s := fmt.Sprint("t", i); l.b.shardOf(0, []byte(s)).id == trioShard {
			topic = s
		}
	}
	for i, after := range []time.Duration{10, 100} {
		m := Message{Topic: []byte(topic), Payload: []byte{'x'}, QoS: 1}
		if _, err := p.l.Delay(p.c, &m, clockStart.UnixMilli()+(after*time.Second).Milliseconds(), false, Token(i)); err != nil {
			t.Fatal(err)
		}
	}
	l.pump()
	check(t, "answered before the follower has them", len(p.completed), 0)
	tr.carry(1)
	check(t, "answered", len(p.completed), 2)
	tr.follower.clock.Advance(20 * time.Second)
	tr.follower.tick()
	wantDelayed(t, tr.follower, 2)
	l.clock.Advance(20 * time.Second)
	l.tick()
	tr.carry(1)
	wantDelayed(t, l, 1)
	wantDelayed(t, tr.follower, 1)
	tr.lead(tr.follower, 2)
	tr.follower.clock.Advance(100 * time.Second)
	tr.follower.tick()
	wantDelayed(t, tr.follower, 0)
}

// TestDelayedRefused: a message whose publishing is refused for good is given up and counted; one that the log does not take, or a full disk, comes when it does.
func TestDelayedRefused(t *testing.T) {
	bb := newBoundBench(t, "bound/+")
	topic := bb.b.Topic(0, "t")
	spec := *topic.Spec()
	spec.Config.MaxMessageBytes = 200
	bb.b.SetTopic(&spec)
	tb := bb.testBroker
	tb.b.SetLimits(Limits{RetainedCount: 1})
	p, b := tb.connect(0, live("p")), tb.connect(0, kept("b"))
	b.subscribe(1, "#")
	at := tb.clock.Now().UnixMilli()
	delay := func(topic string, retain bool, payload string) {
		t.Helper()
		m := Message{Topic: []byte(topic), Payload: []byte(payload), QoS: 1, Retain: retain, Timestamp: at}
		if _, err := p.l.Delay(p.c, &m, at+10_000, false, 1); err != nil {
			t.Fatal(err)
		}
		tb.pump()
	}
	if m := (Message{Topic: []byte("r/1"), Payload: []byte("retained"), QoS: 1, Retain: true}); true {
		if _, err := p.l.Publish(p.c, &m, false, 2); err != nil {
			t.Fatal(err)
		}
	}
	delay("r/2", true, "one too many")
	delay("bound/1", false, string(make([]byte, 300)))
	delay("bound/2", false, "fits")
	m := Message{Topic: []byte("short"), Payload: []byte("x"), QoS: 1, Deadline: at + 15_000}
	if _, err := p.l.Delay(p.c, &m, at+10_000, false, 1); err != nil {
		t.Fatal(err)
	}
	tb.pump()
	dropped := func(want ...int64) {
		t.Helper()
		for r := range DelayedReasons {
			check(t, r.String(), tb.b.stats.DelayedDropped[r].Load(), want[r])
		}
	}
	tb.b.reserved.Store(true) // a disk that is full
	tb.pass(20 * time.Second)
	if wantDelayed(t, tb, 2); len(b.got) != 1 {
		t.Errorf("%v while the disk is full", b.payloads())
	}
	dropped(1, 1, 0)
	tb.b.reserved.Store(false)
	tb.log.fail = errors.New("broken")
	tb.pass(time.Second)
	tb.log.fail = nil
	tb.pass(2 * time.Second)
	b.takeAll()
	got := b.payloads()
	slices.Sort(got)
	check(t, "published", got, []string{"fits", "retained"})
	wantDelayed(t, tb, 0)
	dropped(1, 2, 0)
	tb.pass(time.Minute)
	check(t, "no more", len(b.got), 2)
}

func TestDelayedPasses(t *testing.T) {
	for _, err := range []error{ErrUnavailable, ErrNotLeader, ErrClosed, fmt.Errorf("x: %w", errReserved), ErrRestoring} {
		if !passes(err) {
			t.Errorf("%v is for good", err)
		}
	}
	for _, err := range []error{nil, ErrQuota, ErrFilter, ErrMessageTooLarge, ErrNotAuthorized, ErrNoStreams, ErrInvalidRecord, errors.New("whatever")} {
		if passes(err) {
			t.Errorf("%v passes", err)
		}
	}
}
