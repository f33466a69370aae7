package broker

import (
	"errors"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// What a binding has taken still reaches MQTT's subscribers when it goes: what waits for the log, what waits for its relay, what waits for a
// transaction, and nothing that is written later.
func TestUnbind(t *testing.T) {
	for commits := range 5 { // before the binding goes
		bb := newBoundBench(t, "k/#")
		s := bb.connect(1, kept("s"))
		s.subscribe(1, "k/#")
		live := bb.connect(0, live("l"))
		live.subscribe(1, "k/#")
		kafka := bb.appender(0)
		p := bb.topicOfKey("k/1")
		bb.connect(0, kept("p")).publish("k/1", "by MQTT", 1, 5)
		if err := kafka.append(p, records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte("by Kafka")}), 1); err != nil {
			t.Fatal(err)
		}
		for range commits {
			bb.turn()
		}
		if err := bb.b.Bind(nil); err != nil {
			t.Fatal(err)
		}
		if err := kafka.append(p, records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte("not bound")}), 2); err != nil {
			t.Fatal(err)
		}
		bb.pump()
		bb.connect(0, kept("q")).publish("k/1", "direct", 1, 5)
		bb.pump()
		want := []string{"by MQTT", "by Kafka", "direct"}
		if got := live.payloads(); !slices.Equal(got, want) {
			t.Errorf("%d commits: the live one got %q", commits, got)
		}
		if got := s.payloads(); !slices.Equal(got, want) {
			t.Errorf("%d commits: the session got %q", commits, got)
		}
		if p.open.Load() != nil || p.relayed.Load() != notRelayed || bb.b.unbinding.Load() != 0 {
			t.Errorf("%d commits: the partition is still relayed: to %d, until %d; %d are", commits, p.relayed.Load(), p.until.Load(), bb.b.unbinding.Load())
		}
		bb.settled()
	}
}

func (bb *boundBench) topicOfKey(key string) *Partition {
	return bb.b.Topic(0, "t").partitionOf([]byte(key))
}

// A transaction that is open when the binding goes is decided behind that.
func TestUnbindTransaction(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	s := bb.connect(1, kept("s"))
	s.subscribe(1, "k/#")
	p := bb.topicOfKey("k/1")
	p.announceTxn(7, 0)
	bb.produce(p, records(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: 7}},
		record.Input{Key: []byte("k/1"), Value: []byte("decided later")}), AppendOptions{Transactional: true})
	bb.connect(0, kept("p")).publish("k/1", "behind it", 1, 5)
	bb.pump()
	if err := bb.b.Bind(nil); err != nil {
		t.Fatal(err)
	}
	bb.pump()
	if got := s.payloads(); len(got) != 0 || bb.b.unbinding.Load() != 1 {
		t.Errorf("got %q before the transaction is decided; %d partitions go on", got, bb.b.unbinding.Load())
	}
	bb.marker(t, p, 7, 0, true)
	bb.tick()
	if got := s.payloads(); !slices.Equal(got, []string{"decided later", "behind it"}) {
		t.Errorf("got %q", got)
	}
	if p.open.Load() != nil || bb.b.unbinding.Load() != 0 {
		t.Errorf("%d partitions go on", bb.b.unbinding.Load())
	}
}

// What MQTT clients have published by a binding that was gone before the crash comes after it; the rest of the stream does not.
func TestUnbindCrash(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	s := bb.connect(0, kept("s"))
	s.subscribe(1, "k/#")
	bb.connect(1, kept("p")).publish("k/1", "by MQTT", 1, 5)
	bb.log.commit()
	bb = &boundBench{bb.crashed()}
	if err := bb.b.Bind(nil); err != nil {
		t.Fatal(err)
	}
	bb.pump()
	bb.produce(bb.topicOfKey("k/1"), records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte("not bound")}), AppendOptions{})
	s = bb.connect(0, kept("s"))
	bb.pump()
	if got := s.payloads(); !slices.Equal(got, []string{"by MQTT"}) {
		t.Errorf("got %q", got)
	}
	bb.settled()
}

// What waits for an absent session has the topic that it had when it came, whatever has become of its binding.
func TestUnbindQueued(t *testing.T) {
	bb := &boundBench{newGroupBench(t)}
	bd, err := ParseBinding("k/+", "t", "", "cmd/${key}/in")
	if err == nil {
		err = bb.b.Bind([]*Binding{bd})
	}
	if err != nil {
		t.Fatal(err)
	}
	s := bb.connect(0, kept("s"))
	s.subscribe(1, "#")
	s.disconnect()
	for _, key := range []string{"7", "8"} {
		bb.produce(bb.topicOfKey(key), records(record.BatchOptions{}, record.Input{Key: []byte(key), Value: []byte("v")}), AppendOptions{})
	}
	bb.bind()
	bb = &boundBench{bb.crashed()}
	s = bb.connect(0, kept("s"))
	bb.pump()
	var got []string
	for _, g := range s.got {
		got = append(got, g.topic)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"cmd/7/in", "cmd/8/in"}) {
		t.Errorf("got %q", got)
	}
}

// A publish that has found a binding which goes before it is taken is not bound; a replay that is under way ends where the stream does.
func TestUnbindUnderway(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	p := bb.connect(0, live("p"))
	p.publish("k/1", "bound", 1, 1)
	bb.pump()
	r := bb.connect(0, live("r"))
	room := &roomClient{testClient: r}
	r.c.sub = room
	errs := make([]error, 1)
	if _, err := r.l.Subscribe(r.c, []SubscribeRequest{{Filter: []byte("k/#"), QoS: 1, From: ReplayFrom{Kind: ReplayEarliest}}}, errs, 1); err != nil || errs[0] != nil {
		t.Fatal(err, errs[0])
	}
	bb.pump()
	mt := p.l.route(0, []byte("k/1"))
	bb.bind()
	m := Message{Topic: []byte("k/1"), Payload: []byte("late"), QoS: 1, Timestamp: 1}
	if _, err := p.l.publishBound(p.c, &m, mt.bound, false, 2); !errors.Is(err, errUnbound) {
		t.Errorf("a binding that is gone takes a message: %v", err)
	}
	p.publish("k/1", "direct", 1, 3)
	bb.pump()
	room.room = 10
	r.l.Ready(r.c)
	bb.pump()
	if got := r.payloads(); !slices.Contains(got, "bound") || !slices.Contains(got, "direct") || len(got) != 2 {
		t.Errorf("got %q", got)
	}
}
