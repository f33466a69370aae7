package mqtt

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// busyWorld is a world that counts so many topics.
func busyWorld(t testing.TB, topics int) *world {
	t.Helper()
	s := DefaultSettings()
	s.BusyTopics = topics
	return newWorld(t, Options{Settings: &s})
}

// The busiest topics are shown, with what came and what went, and their numbers only grow.
func TestBusy(t *testing.T) {
	w := busyWorld(t, 2)
	pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
	sub.subscribe(0, "hot/#")
	want := func(what, want string) {
		t.Helper()
		w.l.tick()
		var list []string
		for _, b := range w.h.Busy() {
			list = append(list, fmt.Sprintf("%s %d/%d %d/%d", b.Topic, b.MessagesIn, b.BytesIn, b.MessagesOut, b.BytesOut))
		}
		if got := strings.Join(list, "; "); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	want("nothing came", "")
	long := strings.Repeat("x", busyTopicMax+1)
	for i := range 30 {
		pub.publish("hot/1", "four", 0, 0)
		pub.publish(fmt.Sprint("rare/", i), "", 0, 0)
		pub.publish(long, "", 0, 0)
		if i%2 == 0 {
			pub.publish("warm", "x", 0, 0)
		}
	}
	want("of 32 topics", "hot/1 30/120 30/120; warm 15/15 0/0")
	want("nothing came since", "hot/1 30/120 30/120; warm 15/15 0/0")
	for range 100 {
		pub.publish("hot/2", "x", 0, 0)
	}
	pub.publish("hot/1", "four", 0, 0)
	want("another one is hot", "hot/2 100/100 100/100; hot/1 31/124 31/124")
	w.h.Set(DefaultSettings())
	want("off", "")
	if w.l.busy != nil {
		t.Error("it is off, and the loop still counts")
	}
}

// BenchmarkWatched is the way of a message to one receiver, and back, with what can be switched on.
func BenchmarkWatched(b *testing.B) {
	for name, world := range map[string]func() *world{
		"off": func() *world { return newWorld(b, Options{}) }, "slow_subscribers": func() *world { return slowWorld(b, 10) },
		"topic_metrics": func() *world { return busyWorld(b, 20) },
	} {
		b.Run(name, func(b *testing.B) {
			pass := watchedPass(world())
			b.ReportAllocs()
			for b.Loop() {
				pass()
			}
		})
	}
}

// watchedPass is a message to one receiver, of one of eight topics, and its acknowledgement.
func watchedPass(w *world) func() {
	pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
	sub.subscribe(1, "a/#")
	pub.k.keep, sub.k.keep = false, false
	var in [8][]byte
	for i := range in {
		in[i] = wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: fmt.Append(nil, "a/", i), Payload: make([]byte, 64), QoS: 1, PacketID: 1})
	}
	ack, n := make([]byte, 0, 8), 0
	return func() {
		n++
		pub.c.onData(in[n%len(in)])
		sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, sub.c.out.nextID))
	}
}

// What is switched on costs no allocation a message.
func TestWatchedAllocates(t *testing.T) {
	for name, w := range map[string]*world{"slow subscribers": slowWorld(t, 10), "topic metrics": busyWorld(t, 20)} {
		pass := watchedPass(w)
		for range 100 {
			pass()
		}
		if n := testing.AllocsPerRun(100, pass); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
