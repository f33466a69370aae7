package broker

import (
	"fmt"
	"reflect"
	"runtime"
	"testing"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// sink takes deliveries and acknowledges those that want it, without remembering.
type sink struct {
	l     *Local
	c     *Client
	acks  []uint16
	taken int
	next  uint16
	up    bool
}

func (s *sink) Deliver(_ *Message, d *Delivery) (uint16, bool) {
	s.taken++
	id := d.PacketID
	if d.QoS > 0 && id == 0 {
		s.next = s.next%20000 + 1
		id = s.next
	}
	if !d.Ref.Zero() {
		s.acks = append(s.acks, id)
	}
	return id, true
}
func (s *sink) Completed(Result)          {}
func (s *sink) Connected(r ConnectResult) { s.up = r.Err == nil }
func (s *sink) Kicked(error)              {}
func (s *sink) Control(Control)           {}

func (s *sink) acknowledge() {
	for _, id := range s.acks {
		s.l.Acked(s.c, id)
	}
	s.acks = s.acks[:0]
}

func (tb *testBroker) sink(loop int, req ConnectRequest, qos QoS, filters ...string) *sink {
	tb.t.Helper()
	s := &sink{l: tb.b.Local(loop)}
	s.c = s.l.NewClient(s)
	s.l.Connect(s.c, &req)
	tb.pump()
	if !s.up {
		tb.t.Fatal("not connected")
	}
	for _, f := range filters {
		if _, err := s.l.Subscribe(s.c, []SubscribeRequest{{Filter: []byte(f), QoS: qos}}, make([]error, 1), 1); err != nil {
			tb.t.Fatal(err)
		}
	}
	tb.pump()
	return s
}

// nullLog is a memLog that keeps nothing and reuses its buffer: what is measured is the core.
type nullLog struct {
	*memLog
	buf []byte
}

func (n *nullLog) commit() {
	for n.awake {
		n.awake = false
		var more bool
		n.buf, more = n.b.Gather(n.buf[:0], 1<<20)
		n.awake = more
		if len(n.buf) > 0 {
			n.b.Committed(Place{Segment: 1, Offset: 1})
		}
	}
}

// ReadBatches gives what the last group holds: all that a reader that keeps up asks for.
func (n *nullLog) ReadBatches(r ReadRequest, dst [][]byte) ([][]byte, alloc.Ref, bool, error) {
	for g := n.buf; len(g) > 0; {
		f, size, err := record.DecodeFrame(g)
		if err != nil {
			return dst, nil, false, err
		}
		g = g[size:]
		if f.Kind != record.KindRecords || f.Partition != r.Partition {
			continue
		}
		if b := record.Batch(record.FrameBatch(f.Payload)); b.NextOffset() > r.From && b.BaseOffset() < r.End {
			dst = append(dst, b)
		}
	}
	return dst, nil, true, nil
}

// bind has the path's topic be a record of a stream.
func (p *path) bind() {
	p.tb.t.Helper()
	p.tb.b.SetTopic(&TopicSpec{ID: TopicID{1}, Name: "temps", Partitions: []PartitionSpec{{ID: 1000, Shard: 1}}})
	bd, err := ParseBinding("sensors/#", "temps", "", "")
	if err == nil {
		err = p.tb.b.Bind([]*Binding{bd})
	}
	if err != nil {
		p.tb.t.Fatal(err)
	}
}

// path is a publisher and a subscriber at one QoS; turn moves batch messages from end to end.
type path struct {
	tb   *testBroker
	log  *nullLog
	p, s *sink
	m    Message
	in   Message
	n    Token
}

func newPath(t testing.TB, qos QoS, kept, shared bool) *path {
	t.Helper()
	p := &path{tb: newTestBroker(t, 2, nil)}
	p.log = &nullLog{memLog: p.tb.log}
	req := live("s")
	if kept {
		req = ConnectRequest{ClientID: "s", Expiry: NeverExpires}
	}
	if shared {
		p.s = p.tb.sink(1, req, qos)
		group := []SubscribeRequest{{Filter: []byte("sensors/+/temperature"), Group: []byte("g"), QoS: qos}}
		if _, err := p.s.l.Subscribe(p.s.c, group, make([]error, 1), 1); err != nil {
			t.Fatal(err)
		}
		p.tb.pump()
	} else {
		p.s = p.tb.sink(1, req, qos, "sensors/+/temperature")
	}
	p.p = p.tb.sink(0, live("p"), 0)
	p.m = Message{Topic: []byte("sensors/17/temperature"), Payload: make([]byte, 64), QoS: qos, Timestamp: clockStart.UnixMilli()}
	p.tb.b.UseLog(p.log)
	return p
}

func (p *path) turn(batch int) {
	for range batch {
		p.n++
		p.in = p.m
		if _, err := p.p.l.Publish(p.p.c, &p.in, p.m.QoS == 2, p.n); err != nil {
			p.tb.t.Fatal(err)
		}
	}
	for range 3 {
		for i := range p.tb.b.Loops() {
			l := p.tb.b.Local(i)
			l.Drain()
			l.EndTurn()
		}
		p.log.commit()
	}
	p.s.acknowledge()
}

func TestAllocations(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	const batch = 64
	for _, tc := range []struct {
		name string
		qos  QoS
		kept bool
		most float64 // per message
		bind bool
	}{
		{"qos0", 0, false, 0, false},
		{"qos1", 1, false, 0, false},
		{"qos1 journaled", 1, true, 0, false},
		{"qos2 shared", 2, true, 0.3, false}, // what a batch of promises takes
		{"qos0 bound", 0, false, 0, true},
		{"qos1 bound", 1, false, 0, true},
		{"qos1 bound, kept", 1, true, 0.2, true}, // what a chunk takes
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPath(t, tc.qos, tc.kept, tc.qos == 2)
			if tc.bind {
				p.bind()
			}
			for range 50 {
				p.turn(batch)
			}
			taken := p.s.taken
			n := testing.AllocsPerRun(100, func() { p.turn(batch) })
			if p.s.taken-taken < 100*batch {
				t.Fatalf("%d delivered", p.s.taken-taken)
			}
			if n > tc.most*batch {
				t.Errorf("%.2f allocations a message", n/batch)
			}
			t.Logf("%.3f allocations a message", n/batch)
		})
	}
}

func BenchmarkPath(b *testing.B) {
	for _, tc := range []struct {
		name  string
		qos   QoS
		kept  bool
		group bool
		bind  bool
	}{{"qos0", 0, false, false, false}, {"qos1", 1, false, false, false}, {"qos1 journaled", 1, true, false, false}, {"qos2 journaled", 2, true, false, false},
		{"qos2 shared", 2, true, true, false}, {"qos0 bound", 0, false, false, true}, {"qos1 bound", 1, false, false, true}} {
		b.Run(tc.name, func(b *testing.B) {
			p := newPath(b, tc.qos, tc.kept, tc.group)
			if tc.bind {
				p.bind()
			}
			b.ReportAllocs()
			for i := 0; i < b.N; i += 64 {
				p.turn(64)
				if tc.qos == 2 || i%4096 == 0 {
					p.tb.b.Local(0).Tick()
					p.tb.b.Local(1).Tick()
				}
			}
			b.StopTimer()
			for range 10 { // what is still on its way
				p.turn(0)
			}
			if want := (b.N + 63) / 64 * 64; p.s.taken < want {
				b.Fatalf("%d of %d delivered", p.s.taken, want)
			}
		})
	}
}

// BenchmarkAbsent measures what an absent session and a message in its queue cost in memory, beside the log.
func BenchmarkAbsent(b *testing.B) {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for range b.N {
		tb := newTestBroker(b, 1, nil)
		log := &nullLog{memLog: tb.log}
		tb.b.UseLog(log)
		const sessions = 20_000
		before := heap()
		l := tb.b.Local(0)
		for i := range sessions {
			s := &sink{l: l}
			s.c = l.NewClient(s)
			l.Connect(s.c, &ConnectRequest{ClientID: fmt.Sprintf("device-%08d", i), Expiry: NeverExpires, ReceiveMax: 20})
			log.commit()
			l.Drain()
			if _, err := l.Subscribe(s.c, []SubscribeRequest{{Filter: fmt.Appendf(nil, "devices/%08d/commands", i), QoS: 1}}, make([]error, 1), 1); err != nil {
				b.Fatal(err)
			}
			log.commit()
			l.Drain()
			l.Disconnect(s.c, DisconnectRequest{})
			log.commit()
			l.Drain()
			l.Drain()
		}
		for _, s := range tb.b.homes {
			s.mu.rows = dirtyRows{}
		}
		after := heap()
		b.ReportMetric((after-before)/sessions, "B/session")
		p := tb.sink(0, live("p"), 0)
		const messages = 200_000
		before = heap()
		for i := range messages {
			m := Message{Topic: []byte("devices/00000007/commands"), Payload: make([]byte, 64), QoS: 1, Timestamp: clockStart.UnixMilli()}
			if _, err := l.Publish(p.c, &m, false, Token(i)); err != nil {
				b.Fatal(err)
			}
			if i%256 == 0 {
				log.commit()
				l.Drain()
				l.EndTurn()
			}
		}
		b.ReportMetric((heap()-before)/messages, "B/message")
		runtime.KeepAlive(tb)
	}
}

// TestIdleSizes: an idle client is a Client and a Session, each no more than the collector's class for it.
func TestIdleSizes(t *testing.T) {
	if c, s := reflect.TypeFor[Client]().Size(), reflect.TypeFor[Session]().Size(); c > 80 || s > 80 {
		t.Errorf("a Client has %d bytes, a Session %d", c, s)
	}
}

// BenchmarkRetained measures a subscription that brings retained messages at QoS 1, to a live session and to one for which they are kept.
func BenchmarkRetained(b *testing.B) {
	for _, tc := range []struct {
		name string
		req  ConnectRequest
	}{{"live", live("s")}, {"kept", ConnectRequest{ClientID: "s", Expiry: NeverExpires}}} {
		b.Run(tc.name, func(b *testing.B) {
			tb := newTestBroker(b, 1, nil)
			log := &nullLog{memLog: tb.log}
			tb.b.UseLog(log)
			const topics = 10_000
			for i := range topics {
				tb.b.retained.put(0, &Message{Topic: fmt.Appendf(nil, "r/%05d", i), Payload: make([]byte, 64), QoS: 1, Retain: true}, tb.b)
			}
			s := tb.sink(0, tc.req, 1)
			l := s.l
			b.ReportAllocs()
			for n := 0; n < b.N; n += topics {
				want := s.taken + topics
				if _, err := l.Subscribe(s.c, []SubscribeRequest{{Filter: []byte("r/+"), QoS: 1}}, make([]error, 1), 1); err != nil {
					b.Fatal(err)
				}
				for s.taken < want {
					l.Drain()
					l.EndTurn()
					log.commit()
					s.acknowledge()
				}
			}
		})
	}
}
