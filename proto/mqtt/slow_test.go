package mqtt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// slowWorld is a world that says who was late.
func slowWorld(t testing.TB, top int) *world {
	t.Helper()
	s := DefaultSettings()
	s.SlowThreshold, s.SlowWindow, s.SlowTop = time.Second, time.Minute, top
	return newWorld(t, Options{Settings: &s})
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	w.loop.mono += int64(d)
	w.loop.unix += d.Milliseconds()
	w.l.tick()
}

func (w *world) slow() string {
	var list []string
	for _, s := range w.h.Slow() {
		list = append(list, fmt.Sprintf("%s %s/%s x%d %s", s.ClientID, s.Longest, s.Last, s.Late, s.Topic))
	}
	return strings.Join(list, "; ")
}

func (w *world) wantSlow(what, want string) {
	w.t.Helper()
	w.l.tick()
	if got := w.slow(); got != want {
		w.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// puback acknowledges a message.
func (p *peer) puback(id uint16) { p.send(wire.AppendShortAck(nil, wire.PUBACK, id)) }

// A message counts from its publish to its acknowledgement; the slowest come first, and leave when they were not late for as long as the window is.
func TestSlow(t *testing.T) {
	w := slowWorld(t, 2)
	pub := w.connect(wire.V5, "pub")
	for i, wait := range []time.Duration{500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 1500 * time.Millisecond} {
		id := fmt.Sprint("s", i)
		s := w.connect(wire.V5, id)
		s.subscribe(1, id)
		for n := range 2 { // the first message is looked at, and what comes while it is is not
			pub.publish(id, "x", 1, uint16(n+1))
		}
		w.pass(wait)
		s.puback(1)
		w.pass(time.Second)
		s.puback(2)
	}
	w.wantSlow("two of four", "s2 3s/3s x1 s2; s1 2s/2s x1 s1")
	if n := w.l.n.Late; n != 3 {
		t.Errorf("%d late", n)
	}
	w.pass(55 * time.Second)
	w.wantSlow("one is quiet", "s2 3s/3s x1 s2")
	w.pass(10 * time.Second)
	w.wantSlow("both are", "")
}

// A client that acknowledges nothing is late as soon as it has no room, and is counted once.
func TestSlowWithoutAcknowledgement(t *testing.T) {
	w := slowWorld(t, 10)
	pub := w.connect(wire.V5, "pub")
	s := w.connect(wire.V5, "mute", func(k *wire.Connect) { k.ReceiveMaximum, k.SessionExpiry = 1, 100 })
	s.subscribe(1, "a")
	pub.publish("a", "1", 1, 1) // one alone: the next one would be late as soon as it is read and sent
	w.pass(900 * time.Millisecond)
	w.wantSlow("not late yet", "")
	for range 3 {
		w.pass(time.Second)
	}
	w.wantSlow("it waits", "mute 3.9s/3.9s x1 a")
	s.puback(s.lastID())
	w.wantSlow("it has come", "mute 3.9s/3.9s x1 a")
}

// lastID is the identifier of the last message that was sent.
func (p *peer) lastID() (id uint16) {
	p.w.t.Helper()
	for _, h := range p.packets() {
		if h.Type == wire.PUBLISH {
			m, err := wire.DecodePublish(h.Flags, h.Body, p.version)
			if err != nil {
				p.w.t.Fatal(err)
			}
			id = m.PacketID
		}
	}
	return id
}

// What was there before the client came is not late: retained messages, and what has waited for it.
func TestNotSlow(t *testing.T) {
	w := slowWorld(t, 10)
	pub := w.connect(wire.V5, "pub")
	away := w.connect(wire.V5, "away", func(k *wire.Connect) { k.SessionExpiry = 100 })
	away.subscribe(1, "a")
	away.send(wire.AppendDisconnect(nil, wire.V5, &wire.Disconnect{}))
	pub.publish("a", "waits", 1, 1)
	pub.send(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("r"), Payload: []byte("x"), QoS: 1, PacketID: 2, Retain: true}))
	w.pass(time.Minute)
	away = w.connect(wire.V5, "away", func(k *wire.Connect) { k.SessionExpiry, k.CleanStart = 100, false })
	w.turn()
	away.puback(1)
	s := w.connect(wire.V5, "s")
	s.subscribe(1, "r")
	s.puback(s.lastID())
	w.wantSlow("both came later", "")
	if w.l.n.Late != 0 {
		t.Errorf("%d late", w.l.n.Late)
	}
	set := DefaultSettings()
	w.h.Set(set)
	w.l.tick()
	if w.l.late != nil {
		t.Error("it is off, and the loop still looks")
	}
}
