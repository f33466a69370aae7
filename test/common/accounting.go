package common

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// neverExpires is the session expiry that MQTT 5 gives that meaning.
const neverExpires = ^uint32(0)

// Exchange is the part of an MQTT session that the client keeps over its connections.
type Exchange struct {
	ID    string
	C     *mqttclient.Client
	known bool // the server has a session
}

// Connect opens a connection for the session. It is an error if the server knew it before and does not any more.
func (x *Exchange) Connect(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, ack, err := mqttclient.Connect(ctx, mqttclient.Options{URL: url, Connect: wire.Connect{
		ClientID: []byte(x.ID), SessionExpiry: neverExpires, ReceiveMaximum: 50}})
	if err != nil {
		return fmt.Errorf("connect %s: %w", x.ID, err)
	}
	if !ack.SessionPresent && x.known {
		return fmt.Errorf("%s: its session is gone", x.ID)
	}
	x.known, x.C = true, c
	return nil
}

// Sender publishes numbered messages, as `ID/number`, and remembers which were acknowledged.
type Sender struct {
	Exchange
	QoS    byte
	Topic  string
	Retain bool
	// MayRefuse lets the broker refuse messages, which then count as never sent. Without it a refusal is an error.
	MayRefuse bool
	Acked     []int // in order; read it when Run has ended
	Refused   []int

	next int
	last uint16
	open []sending // in order
}

type sending struct {
	n        int
	id       uint16
	released bool
}

func (s *Sender) packet(o sending, dup bool) []byte {
	if o.released {
		return wire.AppendShortAck(nil, wire.PUBREL, o.id)
	}
	return wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Dup: dup, QoS: s.QoS, Retain: s.Retain, PacketID: o.id,
		Topic: []byte(s.Topic), Payload: fmt.Appendf(nil, "%s/%d", s.ID, o.n)})
}

// Run publishes over one connection until it breaks. stop makes it publish nothing new and end when all is answered.
func (s *Sender) Run(stop <-chan struct{}) error {
	defer s.C.Close()
	for _, o := range s.open {
		if err := s.C.SendRaw(s.packet(o, true)); err != nil {
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
			if s.C.SendRaw(s.packet(o, false)) != nil {
				return nil
			}
		}
		if stopping && len(s.open) == 0 {
			return nil
		}
		p, err := s.C.ReadPacket(5 * time.Second)
		if err != nil {
			return nil
		}
		if err := s.answer(p); err != nil {
			return err
		}
	}
}

func (s *Sender) answer(p mqttclient.Packet) error {
	ack, err := p.Ack()
	if err != nil {
		return nil // a DISCONNECT, say
	}
	refused := ack.Reason.Failed() && ack.Reason != wire.PacketIdentifierNotFound
	if refused && !s.MayRefuse {
		return fmt.Errorf("%s: %v %v", s.ID, p.Type, ack.Reason)
	}
	for i := range s.open {
		o := &s.open[i]
		if o.id != ack.PacketID {
			continue
		}
		switch {
		case refused && !o.released:
			s.Refused = append(s.Refused, o.n)
		case p.Type == wire.PUBREC:
			o.released = true
			s.Acked = append(s.Acked, o.n)
			_ = s.C.SendRaw(wire.AppendShortAck(nil, wire.PUBREL, o.id))
			return nil
		case p.Type == wire.PUBACK:
			s.Acked = append(s.Acked, o.n)
		}
		s.open = append(s.open[:i], s.open[i+1:]...)
		return nil
	}
	return nil
}

// Receiver takes messages and counts how often each came.
type Receiver struct {
	Exchange
	QoS byte
	// MayEnd lets the broker end a connection with a reason. Without it that is an error.
	MayEnd bool

	holds      map[uint16]bool // QoS 2 identifiers received and not released
	subscribed bool
	running    sync.WaitGroup
	mu         struct {
		sync.Mutex
		seen     map[string]int
		order    map[string]int // highest number by sender
		disorder []string
		refused  []string // DISCONNECTs from the broker
		client   *mqttclient.Client
		ended    bool
	}
}

// End ends the receiver's connection, and each that it still makes.
func (r *Receiver) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.ended = true
	if r.mu.client != nil {
		_ = r.mu.client.Close()
	}
}

// using remembers the connection for End.
func (r *Receiver) using(c *mqttclient.Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.client = c
	if r.mu.ended {
		_ = c.Close()
	}
}

// NewReceiver makes one that has not connected yet.
func NewReceiver(id string, qos byte) *Receiver {
	r := &Receiver{Exchange: Exchange{ID: id}, QoS: qos, holds: map[uint16]bool{}}
	r.mu.seen, r.mu.order = map[string]int{}, map[string]int{}
	return r
}

// Anew is a receiver of the same session that has taken nothing yet: what it gets is counted apart.
func (r *Receiver) Anew() *Receiver {
	a := NewReceiver(r.ID, r.QoS)
	a.known, a.subscribed = r.known, r.subscribed
	return a
}

// Attach connects, subscribes to filter the first time, and takes messages until the connection ends. The connection before must have
// ended: Attach waits for it.
func (r *Receiver) Attach(url, filter string) error {
	r.running.Wait()
	if err := r.Connect(url); err != nil {
		return err
	}
	r.using(r.C)
	if !r.subscribed {
		if _, err := r.C.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: r.QoS}); err != nil {
			_ = r.C.Close()
			return fmt.Errorf("subscribe %s: %w", r.ID, err)
		}
		r.subscribed = true
	}
	r.running.Go(r.run)
	return nil
}

// Wait waits until the connection has ended.
func (r *Receiver) Wait() { r.running.Wait() }

func (r *Receiver) run() {
	defer r.C.Close()
	for {
		p, err := r.C.ReadPacket(20 * time.Second)
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
			r.mu.refused = append(r.mu.refused, fmt.Sprintf("%v: %s", d.Reason, d.ReasonString))
			r.mu.Unlock()
		case wire.PUBREL:
			delete(r.holds, p.ID())
			_ = r.C.SendRaw(wire.AppendShortAck(nil, wire.PUBCOMP, p.ID()))
		default: // nothing to do
		}
	}
}

func (r *Receiver) take(m *wire.Publish) {
	if m.QoS == 2 {
		if !r.holds[m.PacketID] {
			r.holds[m.PacketID] = true
			r.count(string(m.Payload))
		}
		_ = r.C.SendRaw(wire.AppendShortAck(nil, wire.PUBREC, m.PacketID))
		return
	}
	r.count(string(m.Payload))
	if m.QoS == 1 {
		_ = r.C.SendRaw(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
	}
}

func (r *Receiver) count(payload string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.seen[payload]++
	if r.mu.seen[payload] > 1 {
		return
	}
	at := strings.LastIndexByte(payload, '/')
	var n int
	if _, err := fmt.Sscan(payload[at+1:], &n); err != nil {
		return
	}
	if last, ok := r.mu.order[payload[:at]]; ok && n < last {
		r.mu.disorder = append(r.mu.disorder, fmt.Sprintf("%s after %d", payload, last))
	}
	r.mu.order[payload[:at]] = n
}

// Count is how often message n of the sender came.
func (r *Receiver) Count(sender string, n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.seen[fmt.Sprintf("%s/%d", sender, n)]
}

// Seen is the number of different messages that came.
func (r *Receiver) Seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.seen)
}

// Load connects the senders and lets them run. wait waits for their end, and fails the test for what went wrong.
func Load(t testing.TB, url string, senders []*Sender, stop <-chan struct{}) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for _, s := range senders {
		if err := s.Connect(url); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := s.Run(stop); err != nil {
				t.Error(err)
			}
		})
	}
	return wg.Wait
}

// AwaitAll waits until each receiver has the last message that each sender had acknowledged, or nothing new has come for as long as patience:
// Verify tells what is missing.
func AwaitAll(senders []*Sender, receivers []*Receiver, patience time.Duration) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, r := range receivers {
		seen, since := r.Seen(), time.Now()
		for _, s := range senders {
			for len(s.Acked) > 0 && r.Count(s.ID, s.Acked[len(s.Acked)-1]) == 0 {
				if n := r.Seen(); n > seen {
					seen, since = n, time.Now()
				}
				if time.Since(since) > patience {
					return false
				}
				<-tick.C
			}
		}
	}
	return true
}

// CountAll is how often message n of the sender came to the members of a group.
func CountAll(members []*Receiver, sender string, n int) (sum int) {
	for _, r := range members {
		sum += r.Count(sender, n)
	}
	return sum
}

// AwaitGroup waits until the members of a shared group, together, have all that was acknowledged, or nothing new has come for as long as
// patience: VerifyGroup tells what is missing.
func AwaitGroup(senders []*Sender, members []*Receiver, patience time.Duration) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	seen := func() (sum int) {
		for _, r := range members {
			sum += r.Seen()
		}
		return sum
	}
	last, since := seen(), time.Now()
	for _, s := range senders {
		for _, n := range s.Acked {
			for CountAll(members, s.ID, n) == 0 {
				if now := seen(); now > last {
					last, since = now, time.Now()
				}
				if time.Since(since) > patience {
					return false
				}
				<-tick.C
			}
		}
	}
	return true
}

// VerifyGroup counts: nothing acknowledged is missing to the group, and nothing at QoS 2 came twice, to whichever members.
func VerifyGroup(t testing.TB, senders []*Sender, members []*Receiver) {
	t.Helper()
	lost, doubled, total := 0, 0, 0
	for _, s := range senders {
		for _, n := range s.Acked {
			total++
			switch k := CountAll(members, s.ID, n); {
			case k == 0:
				lost++
			case k > 1 && s.QoS == 2:
				doubled++
			}
		}
	}
	t.Logf("the group: %d acknowledged, %d lost, %d doubled at QoS 2", total, lost, doubled)
	if lost > 0 || doubled > 0 || total == 0 {
		t.Errorf("the group: %d lost, %d doubled of %d", lost, doubled, total)
	}
	for _, r := range members {
		if r.Seen() == 0 {
			t.Errorf("%s got nothing", r.ID)
		}
	}
}

// VerifyRetained checks that the retained message of a topic is one that its sender s published, and not older than the last one
// acknowledged. What was refused last may have been kept or not.
func VerifyRetained(t testing.TB, url string, s *Sender) {
	t.Helper()
	x := Exchange{ID: "look-" + s.ID}
	if err := x.Connect(url); err != nil {
		t.Fatal(err)
	}
	defer x.C.Close()
	if _, err := x.C.Subscribe(wire.FilterRequest{Filter: []byte(s.Topic), QoS: 0}); err != nil {
		t.Fatal(err)
	}
	m, err := x.C.Receive(5 * time.Second)
	if err != nil {
		t.Fatalf("retained message: %v", err)
	}
	last := s.Acked[len(s.Acked)-1]
	var n int
	_, err = fmt.Sscanf(string(m.Payload), s.ID+"/%d", &n)
	if err != nil || n < last || n > last && len(s.Refused) == 0 || !m.Retain {
		t.Errorf("retained message is %s, want %s/%d", m.Payload, s.ID, last)
	}
}

// Verify counts: nothing acknowledged is missing, nothing at QoS 2 came twice, each sender's messages came in order.
func Verify(t testing.TB, senders []*Sender, receivers []*Receiver) {
	t.Helper()
	for _, r := range receivers {
		var lost []string
		doubled, total := 0, 0
		for _, s := range senders {
			for _, n := range s.Acked {
				total++
				k := r.Count(s.ID, n)
				if k == 0 {
					lost = append(lost, fmt.Sprintf("%s/%d", s.ID, n))
				}
				if k > 1 && s.QoS == 2 && r.QoS == 2 {
					doubled++
				}
			}
		}
		r.mu.Lock()
		disorder, refused := r.mu.disorder, r.mu.refused
		r.mu.Unlock()
		t.Logf("%s: %d acknowledged, %d lost, %d doubled at QoS 2", r.ID, total, len(lost), doubled)
		if len(lost) > 0 || doubled > 0 || total == 0 {
			t.Errorf("%s: %d lost, %d doubled of %d: %v", r.ID, len(lost), doubled, total, lost[:min(5, len(lost))])
		}
		if len(refused) > 0 && !r.MayEnd {
			t.Errorf("%s: the broker ended its connection: %v", r.ID, refused)
		}
		if len(disorder) > 0 {
			t.Errorf("%s: out of order: %v", r.ID, disorder[:min(5, len(disorder))])
		}
	}
}
