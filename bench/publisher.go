package bench

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// cell ties a publisher to those who receive from it: with Pipeline or Inflight, what they got lets it send on. The fields
// behind pub may be used from any loop.
type cell struct {
	pub    *publisher
	fanout uint64 // deliveries of each message
	got    atomic.Uint64
	poked  atomic.Bool
}

// credit tells the publisher that n new deliveries have come. l is the receiver's loop.
func (x *cell) credit(l *loop, n uint64) {
	x.got.Add(n)
	p := x.pub
	if p == nil || p.window == 0 {
		return
	}
	if p.c.l == l {
		l.wantPump(p)
	} else if !x.poked.Swap(true) {
		p.c.l.post(func(l *loop) {
			x.poked.Store(false)
			l.wantPump(p)
		})
	}
}

// refusalsMax bounds how many refused messages are kept apart from lost ones.
const refusalsMax = 1 << 20

// publisher sends the messages of one connection. It belongs to its loop.
type publisher struct {
	c      *conn
	cell   *cell
	id     uint32
	place  uint64 // among the loop's publishers
	seq    uint64 // of the next message
	owed   uint64 // how many have become due
	limit  uint64 // how many to send; 0: until the run says stop
	window uint64 // how many may be unanswered; 0: sends by timetable
	qos    byte
	retain bool
	queued bool
	held   bool                                           // the connection was full
	topic  func(seq uint64, dst []byte) []byte            // nil: always the template's
	clear  func(seq uint64, id uint16, dst []byte) []byte // not nil: gives whole packets, which are no messages of the run

	template []byte // the whole packet, of which identifier and payload change
	idAt     int
	payload  int // where the payload begins
	topicBuf []byte

	ids      []uint16 // free packet identifiers
	idsMade  int
	idsMax   int
	seqs     []uint64 // by packet identifier: number+1 of the message, 0 if free
	times    []int64  // likewise: when it was meant to be sent
	began    int64    // when the first message was meant to be sent
	acked    uint64
	refused  uint64
	refusals []uint64 // their numbers: the broker owes nothing of them
	excused  uint64   // deliveries that the stall rule gave up waiting for
	lastMove int64
	lastGot  uint64
}

// prepare encodes the template. filler stands behind the payload's fields.
func (p *publisher) prepare(topic string, filler []byte) {
	out := wire.PublishOut{QoS: p.qos, Retain: p.retain, PacketID: 1, Topic: []byte(topic), Payload: filler}
	p.template = wire.AppendPublish(nil, p.c.version, &out)
	p.payload = len(p.template) - len(filler)
	p.idAt = p.payload - 2
	if p.c.version == wire.V5 {
		p.idAt--
	}
	if p.idsMax == 0 {
		p.idsMax = 65535
	}
}

// room is how many messages may be sent now.
func (p *publisher) room() uint64 {
	if p.window == 0 {
		return p.owed - p.seq
	}
	if p.cell.fanout == 0 && p.qos == 0 {
		return math.MaxUint64 // nothing comes back: what the broker reads is the pace
	}
	answered := (p.cell.got.Load() + p.excused) / max(p.cell.fanout, 1)
	if p.cell.fanout == 0 {
		answered = p.seq
	}
	if p.qos > 0 {
		answered = min(answered, p.acked)
	}
	open := p.seq - min(answered, p.seq)
	if open >= p.window {
		return 0
	}
	return p.window - open
}

// pump sends what may be sent.
func (p *publisher) pump() {
	c := p.c
	l := c.l
	if c.phase != phaseReady || !l.sched.running || l.now < l.sched.start {
		return
	}
	stop := l.run.stopAt.Load()
	late := p.owed > p.seq+1 // held up before: the delay is not the generator's
	p.held = false
	for n := p.room(); n > 0; n-- {
		if c.blocked() {
			p.held = true
			return
		}
		if p.limit > 0 && p.seq >= p.limit || p.window > 0 && l.now >= stop {
			return
		}
		id := uint16(0)
		if p.qos > 0 {
			var ok bool
			if id, ok = p.takeID(); !ok {
				return
			}
		}
		intended := l.now
		if p.window == 0 {
			intended = l.sched.due(p.place + p.seq*uint64(len(l.sched.pubs)))
			if intended >= stop {
				return
			}
			l.stats.send(l.now-intended, late, l.run.measured(intended))
		}
		p.send(id, intended)
	}
}

func (p *publisher) send(id uint16, intended int64) {
	c := p.c
	if id != 0 {
		p.seqs[id], p.times[id] = p.seq+1, intended
	}
	if p.seq == 0 {
		p.began = intended
	}
	out := c.buffer()
	if p.clear != nil {
		c.write(p.clear(p.seq, id, out))
		p.seq++
		return
	}
	from := len(out)
	if p.topic == nil {
		out = append(out, p.template...)
		if id != 0 {
			binary.BigEndian.PutUint16(out[from+p.idAt:], id)
		}
	} else {
		p.topicBuf = p.topic(p.seq, p.topicBuf[:0])
		m := wire.PublishOut{QoS: p.qos, Retain: p.retain, PacketID: id, Topic: p.topicBuf, Payload: p.template[p.payload:]}
		out = wire.AppendPublish(out, c.version, &m)
	}
	s := stamp{run: c.l.run.nonce, publisher: p.id, seq: p.seq, intended: intended}
	s.put(out[len(out)-(len(p.template)-p.payload):])
	c.write(out)
	p.seq++
	st := &c.l.stats
	st.tally.in[p.qos&3]++
	if p.retain {
		st.tally.retained++
	}
	st.sent++
	if c.l.run.measured(c.l.now) {
		st.sentMeasured++
	}
}

func (p *publisher) takeID() (uint16, bool) {
	if n := len(p.ids); n > 0 {
		id := p.ids[n-1]
		p.ids = p.ids[:n-1]
		return id, true
	}
	if p.idsMade >= p.idsMax {
		return 0, false
	}
	p.idsMade++
	for len(p.seqs) <= p.idsMade {
		p.seqs, p.times = append(p.seqs, 0), append(p.times, 0)
	}
	return uint16(p.idsMade), true
}

// ack takes a PUBACK, PUBREC or PUBCOMP.
func (p *publisher) ack(h *wire.Header) error {
	a, err := wire.DecodeAck(h.Type, h.Body, p.c.version)
	if err != nil {
		return err
	}
	if int(a.PacketID) >= len(p.seqs) || p.seqs[a.PacketID] == 0 {
		return fmt.Errorf("the broker sent %v for packet %d, which is not in flight", h.Type, a.PacketID)
	}
	if (h.Type == wire.PUBACK) != (p.qos == 1) {
		return errUnexpected
	}
	p.c.l.stats.tally.acksOut++
	if a.Reason.Failed() {
		p.refused++
		if len(p.refusals) < refusalsMax {
			p.refusals = append(p.refusals, p.seqs[a.PacketID]-1)
		}
		p.c.l.stats.fault(faultRefused, p.c.l.now)
		p.c.l.run.note(fmt.Sprintf("the broker refuses messages: %v", a.Reason), p.c.l.now)
	} else if h.Type == wire.PUBREC {
		p.c.l.stats.tally.acksIn++
		p.c.write(wire.AppendShortAck(p.c.buffer(), wire.PUBREL, a.PacketID))
		return nil
	}
	p.seqs[a.PacketID] = 0
	p.ids = append(p.ids, a.PacketID)
	p.acked++
	p.c.l.stats.acked++
	if p.clear != nil {
		p.c.l.stats.cleared++
	} else {
		at := p.times[a.PacketID]
		p.c.l.stats.ack(p.c.l.now-at, p.c.l.run.measured(at))
	}
	p.c.l.wantPump(p)
	return nil
}

// unanswered are the numbers of the messages that the broker has not acknowledged.
func (p *publisher) unanswered() map[uint64]bool {
	open := map[uint64]bool{}
	for _, n := range p.seqs {
		if n > 0 {
			open[n-1] = true
		}
	}
	return open
}

// unstall lets the publisher send on when what it waits for has not come for Config.Stall: what was lost must not stop the
// run.
func (p *publisher) unstall() {
	l := p.c.l
	if p.window == 0 || !l.sched.running {
		return
	}
	got := p.cell.got.Load() + p.acked
	if got != p.lastGot || p.room() > 0 {
		p.lastGot, p.lastMove = got, l.now
		return
	}
	if l.now-p.lastMove < int64(l.run.cfg.Stall) || l.now >= l.run.stopAt.Load() {
		return
	}
	l.stats.stalls++
	p.lastMove = l.now
	if behind := p.seq * p.cell.fanout; behind > p.cell.got.Load()+p.excused {
		p.excused = behind - p.cell.got.Load()
	}
	l.run.note(fmt.Sprintf("nothing has come back for %v", l.run.cfg.Stall), l.now)
	l.wantPump(p)
}

// markUnanswered notes when they were meant to be sent.
func (p *publisher) markUnanswered(m *mark) {
	for id, n := range p.seqs {
		if n > 0 {
			m.add(p.times[id], 1)
		}
	}
}
