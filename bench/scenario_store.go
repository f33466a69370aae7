package bench

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// drive does an action and measures it, until done says that it is over, as a step.
func (r *run) drive(name string, count uint64, progress func() uint64, done func() bool, action func()) error {
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := r.clock()
	action()
	err = r.await(r.cfg.Drain+r.cfg.Stall, progress, done)
	took := time.Duration(r.clock() - start)
	if err != nil && !errors.Is(err, errIdle) {
		return err
	}
	if errors.Is(err, errIdle) {
		took -= r.cfg.Drain + r.cfg.Stall
		r.note(name+" did not come to its end", r.clock())
	}
	after, serr := r.sample()
	if serr != nil {
		return serr
	}
	r.result.step(name, count, before, after, took)
	r.result.setUsage(before, after, took)
	return nil
}

// sendAll has the publishers send all they have: by the timetable, if there is a rate, else as fast as their window allows.
func (r *run) sendAll() {
	r.assign()
	start := r.clock()
	for i, l := range r.loops {
		at, interval := r.timetable(start, i)
		l.post(func(l *loop) { l.begin(at, interval) })
	}
}

// window is how many messages of a publisher that stores may be unanswered; 0: it has a timetable.
func (r *run) window() uint64 {
	if r.cfg.Rate > 0 {
		return 0
	}
	return uint64(r.cfg.Inflight)
}

// allSent ends the timetable: no loop has to wake up for it any more.
func (r *run) allSent() {
	for _, l := range r.loops {
		l.call(func(l *loop) { l.sched.interval, l.sched.opened = 0, true })
	}
}

// perPublisher spreads total messages over n publishers.
func perPublisher(total uint64, n int) uint64 { return (total + uint64(n) - 1) / uint64(n) }

// runQueue: durable sessions subscribe and leave; publishers send to them; they come back and get everything.
func runQueue(r *run) error {
	sessions := or(r.cfg.Subscribers, or(r.cfg.Publishers, 1))
	total := r.cfg.Messages
	if total == 0 {
		total = 100_000
	}
	each := perPublisher(total, sessions)
	total = each * uint64(sessions)
	r.cfg.Messages = total
	var subs, pubs []*conn
	for i := range sessions {
		pc, sc := r.newConn("p", i), r.newConn("s", i)
		p := r.newPublisher(pc, r.topic("q", i), 0) // nobody receives while it sends
		p.limit = each
		p.window = r.window()
		sc.makeDurable()
		r.newSubscriber(sc, i, 1)
		sc.filters = []string{r.topic("q", i)}
		pubs, subs = append(pubs, pc), append(subs, sc)
	}
	r.cfg.Durable = true
	if err := r.connect(subs); err != nil {
		return err
	}
	r.disconnect()
	if err := r.connect(pubs); err != nil {
		return err
	}
	acked := func() uint64 { return r.count(countAcked) }
	if err := r.drive("queue", total, acked, func() bool { return acked() >= total }, r.sendAll); err != nil {
		return err
	}
	r.allSent()
	r.progress("%d messages are queued", total)
	back := make([]*conn, sessions)
	for i, s := range r.subs {
		back[i] = r.newConn("s", i)
		back[i].makeDurable()
		back[i].sub, back[i].subQoS = s, r.cfg.QoS
		s.c = back[i]
	}
	fresh := func() uint64 { return r.count(countFresh) }
	var cerr error
	err := r.drive("drain", total, fresh, func() bool { return cerr != nil || fresh() >= total }, func() { cerr = r.connect(back) })
	if err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if r.cfg.Keep {
		r.disconnect()
		return nil
	}
	return r.forget()
}

// runRetained: many retained messages are stored, then fetched by subscribers to all of them, then cleared.
func runRetained(r *run) error {
	total := r.cfg.Messages
	if total == 0 {
		total = 10_000
	}
	pubs, subs := or(r.cfg.Publishers, 8), or(r.cfg.Subscribers, 1)
	each := perPublisher(total, pubs)
	total = each * uint64(pubs)
	r.cfg.Messages = total
	var pcs, scs []*conn
	for i := range pubs {
		c := r.newConn("p", i)
		p := r.newPublisher(c, "sb", 0)
		p.retain, p.limit, p.window = true, each, r.window()
		p.topic = func(seq uint64, dst []byte) []byte {
			return fmt.Appendf(dst, "sb/%08x/r/%d/%d", r.nonce, i, seq)
		}
		pcs = append(pcs, c)
	}
	if err := r.connect(pcs); err != nil {
		return err
	}
	// At QoS 0 nothing is answered: a PING behind the last message tells that the broker has read all.
	done, progress := r.allTaken(pcs, each)
	if err := r.drive("store", total, progress, done, r.sendAll); err != nil {
		return err
	}
	r.allSent()
	for i := range subs {
		c := r.newConn("s", i)
		s := r.newSubscriber(c, 0, pubs)
		s.unordered = true
		for p := range s.tracks {
			s.tracks[p].cell = nil
		}
		scs = append(scs, c)
	}
	if err := r.connect(scs); err != nil {
		return err
	}
	fresh := func() uint64 { return r.count(countFresh) }
	want := total * uint64(subs)
	err := r.drive("fetch", want, fresh, func() bool { return fresh() >= want }, func() {
		for _, c := range scs {
			c.l.post(func(*loop) {
				c.filters = []string{fmt.Sprintf("sb/%08x/r/#", r.nonce)}
				c.subscribe()
			})
		}
	})
	r.disconnect() // so that nobody receives the clearing
	if err == nil && !r.cfg.Keep {
		err = r.clearRetained(pubs, each)
	}
	r.disconnect()
	return err
}

// allTaken gives what tells that the broker has taken all messages of cs.
func (r *run) allTaken(cs []*conn, each uint64) (done func() bool, progress func() uint64) {
	want := each * uint64(len(cs))
	if r.cfg.QoS > 0 {
		return func() bool { return r.count(countAcked) >= want }, func() uint64 { return r.count(countAcked) }
	}
	pinged := false
	done = func() bool {
		if r.count(countSent) < want {
			return false
		}
		if !pinged {
			pinged = true
			for _, c := range cs {
				c.l.post(func(*loop) { c.ping() })
			}
		}
		return r.count(countPongs) >= uint64(len(cs))
	}
	return done, func() uint64 { return r.count(countSent) + r.count(countPongs) }
}

// clearRetained publishes an empty retained message to each topic, at QoS 1 by one client, so that it is known when the
// broker is through.
func (r *run) clearRetained(pubs int, each uint64) error {
	c := r.newConn("x", 0)
	p := &publisher{c: c, qos: 1, idsMax: 65535, window: uint64(r.cfg.Inflight), limit: each * uint64(pubs)}
	p.cell = &cell{pub: p}
	c.pub = p
	p.clear = func(seq uint64, id uint16, dst []byte) []byte {
		topic := fmt.Sprintf("sb/%08x/r/%d/%d", r.nonce, seq/each, seq%each)
		return wire.AppendPublish(dst, c.version, &wire.PublishOut{QoS: 1, Retain: true, PacketID: id, Topic: []byte(topic)})
	}
	if err := r.connect([]*conn{c}); err != nil {
		return err
	}
	before := r.count(countAcked)
	c.l.post(func(l *loop) {
		l.sched.pubs = append(l.sched.pubs, p)
		l.sched.running = true
		l.wantPump(p)
	})
	acked := func() uint64 { return r.count(countAcked) - before }
	err := r.await(r.cfg.Drain, acked, func() bool { return acked() >= p.limit })
	if errors.Is(err, errIdle) {
		r.note("the retained messages of the run could not all be cleared", r.clock())
		return nil
	}
	return err
}
