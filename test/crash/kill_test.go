// Package crash kills the real broker at random times under load, starts it again on its data, and counts: nothing that was
// acknowledged may be lost, nothing at QoS 2 may come twice, sessions and retained messages must be whole.
package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

var (
	rounds = flag.Int("kills", 6, "how often the broker is killed; the long form has some hundreds")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the times at which it is killed")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	common.Clean()
	os.Exit(code)
}

// neverExpires is the session expiry that MQTT 5 gives that meaning.
const neverExpires = ^uint32(0)

// exchange is the part of an MQTT session that the client keeps over its connections.
type exchange struct {
	url   string
	id    string
	fresh bool // no session on the server yet
	c     *mqttclient.Client
}

func (x *exchange) connect() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, ack, err := mqttclient.Connect(ctx, mqttclient.Options{URL: x.url, Connect: wire.Connect{
		ClientID: []byte(x.id), SessionExpiry: neverExpires, ReceiveMaximum: 50}})
	if err != nil {
		return err
	}
	if !ack.SessionPresent && !x.fresh {
		return fmt.Errorf("%s: its session is gone", x.id)
	}
	x.fresh, x.c = false, c
	return nil
}

// sender publishes numbered messages and remembers which were acknowledged.
type sender struct {
	exchange
	qos    byte
	topic  string
	retain bool
	next   int
	last   uint16
	open   []sending // in order
	acked  []int
}

type sending struct {
	n        int
	id       uint16
	released bool
}

func (s *sender) packet(o sending, dup bool) []byte {
	if o.released {
		return wire.AppendShortAck(nil, wire.PUBREL, o.id)
	}
	return wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Dup: dup, QoS: s.qos, Retain: s.retain, PacketID: o.id,
		Topic: []byte(s.topic), Payload: fmt.Appendf(nil, "%s/%d", s.id, o.n)})
}

// run publishes over one connection until it breaks. stop makes it publish nothing new and end when all is answered.
func (s *sender) run(stop <-chan struct{}) error {
	defer s.c.Close()
	for _, o := range s.open {
		if err := s.c.SendRaw(s.packet(o, true)); err != nil {
			return nil
		}
	}
	for {
		stopping := false
		select {
		case <-stop:
			stopping = true
		default:
		}
		for !stopping && len(s.open) < 20 {
			s.last++
			if s.last == 0 {
				s.last = 1
			}
			o := sending{n: s.next, id: s.last}
			s.next++
			s.open = append(s.open, o)
			if s.c.SendRaw(s.packet(o, false)) != nil {
				return nil
			}
		}
		if stopping && len(s.open) == 0 {
			return nil
		}
		p, err := s.c.ReadPacket(5 * time.Second)
		if err != nil {
			return nil
		}
		if err := s.answer(p); err != nil {
			return err
		}
	}
}

func (s *sender) answer(p mqttclient.Packet) error {
	ack, err := p.Ack()
	if err != nil {
		return nil // a DISCONNECT, say
	}
	if ack.Reason.Failed() && ack.Reason != wire.PacketIdentifierNotFound {
		return fmt.Errorf("%s: %v %v", s.id, p.Type, ack.Reason)
	}
	for i := range s.open {
		o := &s.open[i]
		if o.id != ack.PacketID {
			continue
		}
		switch p.Type {
		case wire.PUBREC:
			o.released = true
			s.acked = append(s.acked, o.n)
			_ = s.c.SendRaw(wire.AppendShortAck(nil, wire.PUBREL, o.id))
			return nil
		case wire.PUBACK:
			s.acked = append(s.acked, o.n)
		}
		s.open = append(s.open[:i], s.open[i+1:]...)
		return nil
	}
	return nil
}

// receiver takes messages and counts how often each came.
type receiver struct {
	exchange
	qos      byte
	holds    map[uint16]bool // QoS 2 identifiers received and not released
	mu       sync.Mutex
	seen     map[string]int
	order    map[string]int // highest number by sender
	disorder []string
	refused  []string // DISCONNECTs from the broker
	running  sync.WaitGroup
}

func (r *receiver) run() {
	defer r.c.Close()
	for {
		p, err := r.c.ReadPacket(20 * time.Second)
		if err != nil {
			return
		}
		switch p.Type {
		case wire.PUBLISH:
			m, err := p.Publish()
			if err != nil {
				return
			}
			r.take(&m)
		case wire.DISCONNECT:
			d, _ := p.Disconnect()
			r.mu.Lock()
			r.refused = append(r.refused, fmt.Sprintf("%v: %s", d.Reason, d.ReasonString))
			r.mu.Unlock()
		case wire.PUBREL:
			delete(r.holds, p.ID())
			_ = r.c.SendRaw(wire.AppendShortAck(nil, wire.PUBCOMP, p.ID()))
		}
	}
}

func (r *receiver) take(m *wire.Publish) {
	if m.QoS == 2 {
		if !r.holds[m.PacketID] {
			r.holds[m.PacketID] = true
			r.count(string(m.Payload))
		}
		_ = r.c.SendRaw(wire.AppendShortAck(nil, wire.PUBREC, m.PacketID))
		return
	}
	r.count(string(m.Payload))
	if m.QoS == 1 {
		_ = r.c.SendRaw(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
	}
}

func (r *receiver) count(payload string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[payload]++
	if r.seen[payload] > 1 {
		return
	}
	at := strings.LastIndexByte(payload, '/')
	var n int
	if _, err := fmt.Sscan(payload[at+1:], &n); err != nil {
		return
	}
	if last, ok := r.order[payload[:at]]; ok && n < last {
		r.disorder = append(r.disorder, fmt.Sprintf("%s after %d", payload, last))
	}
	r.order[payload[:at]] = n
}

func (r *receiver) has(payload string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[payload]
}

func newReceiver(id string, qos byte) *receiver {
	return &receiver{exchange: exchange{id: id, fresh: true}, qos: qos, holds: map[uint16]bool{}, seen: map[string]int{}, order: map[string]int{}}
}

func TestKill(t *testing.T) {
	t.Logf("-kills %d -seed %d", *rounds, *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))
	dir := t.TempDir()
	senders := []*sender{
		{exchange: exchange{id: "p1", fresh: true}, qos: 1, topic: "k/1"},
		{exchange: exchange{id: "p2", fresh: true}, qos: 2, topic: "k/2"},
		{exchange: exchange{id: "pr", fresh: true}, qos: 1, topic: "k/r", retain: true},
	}
	receivers := []*receiver{newReceiver("s1", 1), newReceiver("s2", 2)}
	absent := newReceiver("s3", 2) // subscribes once, and comes back at the end
	for round := 0; round <= *rounds; round++ {
		b := common.Start(t, dir, "journal.checkpoint_interval=200ms", "journal.segment_size=4MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB")
		last := round == *rounds
		for _, r := range append(receivers[:2:2], absent) {
			if r == absent && round > 0 {
				continue
			}
			attach(t, b, r)
		}
		if round == 0 {
			absent.c.Close()
		}
		stop := make(chan struct{})
		wait := load(t, b, senders, stop)
		if last {
			close(stop)
			wait()
			finish(t, b, senders, append(receivers, absent))
			b.Kill()
			break
		}
		<-time.After(time.Duration(50+rng.IntN(400)) * time.Millisecond) // the time of the kill is what the test draws
		b.Kill()
		close(stop)
		wait()
	}
	verify(t, senders, append(receivers, absent))
}

// attach connects a receiver, subscribes it the first time, and lets it run.
func attach(t *testing.T, b *common.Broker, r *receiver) {
	t.Helper()
	r.running.Wait()
	r.url = b.URL()
	first := r.fresh
	if err := r.connect(); err != nil {
		t.Fatal(err)
	}
	if first {
		if _, err := r.c.Subscribe(wire.FilterRequest{Filter: []byte("k/#"), QoS: r.qos}); err != nil {
			t.Fatal(err)
		}
	}
	if r.id != "s3" || !first {
		r.running.Go(r.run)
	}
}

func load(t *testing.T, b *common.Broker, senders []*sender, stop <-chan struct{}) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range senders {
		s.url = b.URL()
		if err := s.connect(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := s.run(stop); err != nil {
				t.Error(err)
			}
		})
	}
	return wg.Wait
}

// finish waits until the receivers have all that was acknowledged, and looks at the retained message.
func finish(t *testing.T, b *common.Broker, senders []*sender, receivers []*receiver) {
	t.Helper()
	attach(t, b, receivers[2])
	deadline := time.Now().Add(30 * time.Second)
	for _, r := range receivers {
		for _, s := range senders {
			for len(s.acked) > 0 && r.has(fmt.Sprintf("%s/%d", s.id, s.acked[len(s.acked)-1])) == 0 && time.Now().Before(deadline) {
				<-time.After(10 * time.Millisecond)
			}
		}
	}
	if t.Failed() || time.Now().After(deadline) {
		t.Logf("the broker says:\n%s", b.Log())
	}
	x := exchange{id: "look", fresh: true, url: b.URL()}
	if err := x.connect(); err != nil {
		t.Fatal(err)
	}
	defer x.c.Close()
	if _, err := x.c.Subscribe(wire.FilterRequest{Filter: []byte("k/r"), QoS: 0}); err != nil {
		t.Fatal(err)
	}
	m, err := x.c.Receive(5 * time.Second)
	if err != nil {
		t.Fatalf("retained message: %v", err)
	}
	want := fmt.Sprintf("pr/%d", senders[2].acked[len(senders[2].acked)-1])
	if string(m.Payload) != want || !m.Retain {
		t.Errorf("retained message is %s, want %s", m.Payload, want)
	}
}

func verify(t *testing.T, senders []*sender, receivers []*receiver) {
	t.Helper()
	for _, r := range receivers {
		lost, doubled, total := 0, 0, 0
		for _, s := range senders {
			for _, n := range s.acked {
				total++
				k := r.has(fmt.Sprintf("%s/%d", s.id, n))
				if k == 0 {
					lost++
				}
				if k > 1 && s.qos == 2 && r.qos == 2 {
					doubled++
				}
			}
		}
		t.Logf("%s: %d acknowledged, %d lost, %d doubled at QoS 2", r.id, total, lost, doubled)
		if lost > 0 || doubled > 0 || total == 0 {
			t.Errorf("%s: %d lost, %d doubled of %d", r.id, lost, doubled, total)
		}
		if len(r.refused) > 0 {
			t.Errorf("%s: the broker ended its connection: %v", r.id, r.refused)
		}
		if len(r.disorder) > 0 {
			t.Errorf("%s: out of order: %v", r.id, r.disorder[:min(5, len(r.disorder))])
		}
	}
}
