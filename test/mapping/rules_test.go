package mapping

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// The longest filter takes a message; key and deliver do what they say.
func TestRules(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "a/#", topic: wide}, {filter: a/+/c, topic: narrow}, {filter: a/b/c, topic: exact},
		{filter: lvl/+/x, topic: levels, key: "level:2", deliver: "cmd/${key}/in"}, {filter: "own/#", topic: owned, key: client, deliver: off}]`)
	sub := n.mqtt(wire.V5, "sub", false)
	sub.sub(1, "#", "")
	pub := n.mqtt(wire.V5, "pub", false)
	var sent []message
	for i, topic := range []string{"a/b/c", "a/z/c", "a/z/c/d", "a", "lvl/dev7/x", "own/1", "own/2", "free"} {
		pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte{'0' + byte(i)}, QoS: 1})
		sent = append(sent, message{topic, string(rune('0' + i)), ""})
	}
	same(t, "subscriber", sub.take(len(sent)), sent)
	for topic, want := range map[string][]message{"exact": sent[0:1], "narrow": sent[1:2], "wide": sent[2:4], "levels": sent[4:5], "owned": sent[5:7]} {
		got := n.consume(topic, "", len(want))
		same(t, topic, messagesOf(got), want)
		for _, r := range got {
			if want := map[string]string{"levels": "dev7", "owned": "pub"}[topic]; want != "" && string(r.Key) != want {
				t.Errorf("%s: key %s, want %s", topic, r.Key, want)
			}
		}
	}

	k := n.kafka()
	n.produce(k, &kgo.Record{Topic: "levels", Key: []byte("dev7"), Value: []byte("go")}, &kgo.Record{Topic: "levels", Key: []byte("bad#key"), Value: []byte("x")},
		&kgo.Record{Topic: "owned", Key: []byte("own/3"), Value: []byte("x")}, &kgo.Record{Topic: "wide", Key: []byte("b/outside"), Value: []byte("x")},
		&kgo.Record{Topic: "wide", Value: []byte("no key")}, &kgo.Record{Topic: "wide", Key: []byte("a/in"), Value: []byte("y")})
	same(t, "from Kafka", sub.take(2), []message{{"cmd/dev7/in", "go", ""}, {"a/in", "y", ""}})
}

// What a Kafka transaction has written reaches MQTT subscribers when it is committed, and never if it is aborted.
func TestTransactions(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "tx/#", topic: tx}]`)
	live, absent := n.mqtt(wire.V5, "live", false), n.mqtt(wire.V5, "absent", true)
	live.sub(1, "tx/#", "")
	absent.sub(1, "tx/#", "")
	if err := absent.Disconnect(); err != nil {
		t.Fatal(err)
	}
	k := n.kafka(kgo.TransactionalID("t"), kgo.ProducerBatchCompression(kgo.GzipCompression()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pub := n.mqtt(wire.V5, "pub", false)
	var want []message
	seen := 0
	for i := range 6 {
		if err := k.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(i)
		n.produce(k, &kgo.Record{Topic: "tx", Key: []byte("tx/a"), Value: []byte(text)}, &kgo.Record{Topic: "tx", Key: []byte("tx/b"), Value: []byte(text)})
		// What comes behind an open transaction waits for it, as it does for a Kafka reader of committed records.
		pub.pub(wire.PublishOut{Topic: []byte("tx/m"), Payload: []byte(text), QoS: 1})
		if p, err := live.Receive(50 * time.Millisecond); err == nil {
			t.Fatalf("%s %s before the transaction is decided", p.Topic, p.Payload)
		}
		if err := k.EndTransaction(ctx, kgo.TransactionEndTry(i%2 == 0)); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			want = append(want, message{"tx/a", text, ""}, message{"tx/b", text, ""})
		}
		want = append(want, message{"tx/m", text, ""})
		same(t, "live", live.take(len(want)-seen), want[seen:])
		seen = len(want)
		if i == 3 {
			n.crash()
			live = n.mqtt(wire.V5, "live", false)
			live.sub(1, "tx/#", "")
			pub = n.mqtt(wire.V5, "pub", false)
			k = n.kafka(kgo.TransactionalID("t"))
		}
	}
	same(t, "absent", n.mqtt(wire.V5, "absent", true).take(len(want)), want)
	replay := n.mqtt(wire.V5, "replay", false)
	replay.sub(1, "tx/#", "earliest")
	same(t, "replay", replay.take(len(want)), want)
}

// Retained messages of a bound topic are a compacted view of its stream: MQTT's, those that a Kafka client marks, and a null value clears.
func TestRetained(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "r/#", topic: r}]`)
	pub := n.mqtt(wire.V5, "pub", false)
	for _, topic := range []string{"r/1", "r/2", "r/3"} {
		pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte("old"), QoS: 1, Retain: true})
	}
	pub.pub(wire.PublishOut{Topic: []byte("r/1"), Payload: []byte("new"), QoS: 1, Retain: true})
	pub.pub(wire.PublishOut{Topic: []byte("r/2"), QoS: 1, Retain: true})
	pub.pub(wire.PublishOut{Topic: []byte("r/9"), Payload: []byte("not retained"), QoS: 1})
	retained := []kgo.RecordHeader{{Key: "mqtt.retain", Value: []byte("1")}}
	n.produce(n.kafka(), &kgo.Record{Topic: "r", Key: []byte("r/3"), Value: nil}, &kgo.Record{Topic: "r", Key: []byte("r/4"), Value: []byte("k"), Headers: retained})
	want := []message{{"r/1", "new", ""}, {"r/4", "k", ""}}
	look := func(what string) {
		t.Helper()
		marker := n.mqtt(wire.V5, "marker", false)
		marker.sub(1, "r/mark", "")
		n.mqtt(wire.V5, "pub", false).pub(wire.PublishOut{Topic: []byte("r/mark"), QoS: 1}) // behind all that is relayed
		marker.take(1)
		sub := n.mqtt(wire.V5, "sub", false)
		sub.sub(1, "r/#", "")
		same(t, what, sub.take(len(want)), want)
	}
	look("retained")
	n.crash()
	look("retained after a crash")
	records := n.consume("r", "", 8)
	if last := records[4]; last.Value != nil || string(last.Key) != "r/2" {
		t.Errorf("an empty retained message is stored as %s=%q, want a null value", last.Key, last.Value)
	}
}

// No-local holds for what goes through a stream, live and kept.
func TestNoLocal(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "nl/#", topic: nl}]`)
	for _, kept := range []bool{false, true} {
		c := n.mqtt(wire.V5, fmt.Sprint("self", kept), kept)
		codes, err := c.SubscribeWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("nl/#"), QoS: 1, NoLocal: true}}})
		if err != nil || codes[0].Failed() {
			t.Fatal(codes, err)
		}
		c.pub(wire.PublishOut{Topic: []byte("nl/x"), Payload: []byte("mine"), QoS: 1})
		other := n.mqtt(wire.V5, "other", false)
		other.pub(wire.PublishOut{Topic: []byte("nl/x"), Payload: []byte("theirs"), QoS: 1})
		same(t, "no-local", c.take(1), []message{{"nl/x", "theirs", ""}})
		if !kept {
			_ = c.Close()
			continue
		}
		// What a session publishes and does not take in before it goes.
		c.pub(wire.PublishOut{Topic: []byte("nl/x"), Payload: []byte("mine"), QoS: 1})
		_ = c.Close()
		other.pub(wire.PublishOut{Topic: []byte("nl/x"), Payload: []byte("late"), QoS: 1})
		n.crash()
		// It had acknowledged theirs, which the crash may have been ahead of: then that comes once more.
		got := n.mqtt(wire.V5, "selftrue", true).takeUntil(message{"nl/x", "late", ""})
		for _, m := range got {
			if m.payload == "mine" {
				t.Errorf("no-local of a kept session: it got its own message: %v", got)
			}
		}
	}
}

// A bound stream cannot be deleted, nor get partitions, which would break the order of its topics.
func TestBoundTopicStays(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "b/#", topic: b}]`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	adm := n.admin()
	if _, err := adm.DeleteTopic(ctx, "b"); !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("delete: %v", err)
	}
	res, err := adm.CreatePartitions(ctx, 2, "b")
	if err == nil {
		err = res["b"].Err
	}
	if !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("more partitions: %v", err)
	}
}

// A subscription starts where it says: by offset, by time, with what comes; and not where there is no stream.
func TestReplayFrom(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "p/#", topic: p}]`)
	pub := n.mqtt(wire.V5, "pub", false)
	var sent []message
	put := func(i int) {
		topic, payload := fmt.Sprintf("p/%d", i%3), fmt.Sprint(i)
		pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: 1})
		sent = append(sent, message{topic, payload, ""})
	}
	for i := range 300 {
		put(i)
	}
	records := n.consume("p", "", 300)
	at := records[200].Timestamp
	first := 0
	for records[first].Timestamp.Before(at) {
		first++
	}
	n.crash() // the past is read from the disk then
	pub = n.mqtt(wire.V5, "pub", false)
	readers := map[string]int{"earliest": 0, "123": 123, at.Format(time.RFC3339Nano): first, "latest": 300, "300": 300, "9999999": 300}
	clients := map[string]*client{}
	for from := range readers {
		clients[from] = n.mqtt(wire.V5, "r"+from, false)
		clients[from].sub(1, "p/#", from)
	}
	for i := 300; i < 320; i++ {
		put(i)
	}
	for from, first := range readers {
		same(t, "from "+from, clients[from].take(320-first), sent[first:])
	}
	c := n.mqtt(wire.V5, "bad", false)
	for filter, from := range map[string]string{"p/#": "yesterday", "q/#": "earliest", "$share/g/p/#": "earliest", "p/1": "-1"} {
		if code := c.trySub(1, filter, from); code != wire.ImplementationSpecific {
			t.Errorf("%s from %s: %v", filter, from, code)
		}
	}
}

// A replay that begins while messages come hands over without a gap or a copy.
func TestReplayUnderLoad(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "u/#", topic: u, partitions: 2}]`)
	pub := n.mqtt(wire.V5, "pub", false)
	const total, topics = 3000, 5
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range total {
			p := wire.PublishOut{Topic: fmt.Appendf(nil, "u/%d", i%topics), Payload: fmt.Append(nil, i), QoS: 1}
			if code, err := pub.Publish(&p); err != nil || code.Failed() {
				t.Errorf("publish %d: %v %v", i, code, err)
				return
			}
		}
	}()
	var want []message
	for i := range total {
		want = append(want, message{fmt.Sprintf("u/%d", i%topics), fmt.Sprint(i), ""})
	}
	const readers = 8
	var clients [readers]*client
	var got [readers][]message
	for r := range readers {
		clients[r] = n.mqtt(wire.V5, fmt.Sprint("reader", r), r%2 == 1)
		clients[r].sub(1, "u/#", "earliest")
		got[r] = clients[r].takeSome(50)
	}
	<-done
	for r, c := range clients {
		same(t, fmt.Sprint("reader ", r), append(got[r], c.take(total-50)...), want)
	}
}
