package bench

import (
	"errors"
	"math"
	"time"
)

// startDelay lets every loop learn of the start before it comes.
const startDelay = 20 * time.Millisecond

// load drives the publishers, which are connected: warm-up, the measured part, and the drain until all that was sent has
// come. expected is how many deliveries n messages make.
func (r *run) load(expected func(sent uint64) uint64) error {
	r.assign()
	r.expect.Store(&expected)
	cfg := &r.cfg
	start, err := r.begin()
	if err != nil {
		return err
	}
	from := start + int64(cfg.Warmup)
	until := from + int64(cfg.Duration)
	if cfg.Messages > 0 {
		until = math.MaxInt64
	}
	r.stopAt.Store(until)
	r.measureFrom.Store(from)
	r.measureUntil.Store(until)
	for i, l := range r.loops {
		at, interval := r.timetable(start, i)
		l.post(func(l *loop) { l.begin(at, interval) })
	}
	defer r.endLoad()
	if err = r.sleep(from); err != nil {
		return err
	}
	before, err := r.sample()
	if err != nil {
		return err
	}
	r.progress("measuring")
	if cfg.Messages == 0 {
		err = r.measure(until)
	} else {
		err = r.finish()
		r.measureUntil.Store(r.clock())
	}
	after, serr := r.sample()
	if err == nil {
		err = serr
	}
	r.result.setUsage(before, after, max(time.Duration(r.measureUntil.Load()-from), 0))
	if err != nil {
		return err
	}
	err = r.await(cfg.Drain, func() uint64 { return r.count(countFresh) + r.count(countAcked) }, func() bool {
		sent := r.count(countSent)
		return r.count(countFresh) >= expected(sent) && (cfg.QoS == 0 || r.count(countAcked) >= sent)
	})
	if err != nil && !errors.Is(err, errIdle) {
		return err
	}
	return r.finished() // what is missing is counted by verify
}

// timetable says when loop i begins, and what lies between two of its messages, ns; 0: nothing but what comes back.
func (r *run) timetable(start int64, i int) (at int64, interval float64) {
	if r.cfg.Rate > 0 {
		interval = 1e9 / r.cfg.Rate * float64(len(r.pubs)) / float64(max(len(r.loops[i].sched.pubs), 1))
	}
	return start + int64(interval*float64(i)/float64(len(r.loops))), interval
}

// assign gives each loop its publishers, in an order that the seed decides.
func (r *run) assign() {
	lists := map[*loop][]*publisher{}
	for _, i := range r.rng.Perm(len(r.pubs)) {
		p := r.pubs[i]
		lists[p.c.l] = append(lists[p.c.l], p)
	}
	for _, l := range r.loops {
		l.call(func(l *loop) { l.sched.pubs = lists[l] })
	}
}

// measure waits for the end of the measured part with a line of progress each second.
func (r *run) measure(until int64) error {
	last, lastSent := r.count(countFresh), r.count(countSent)
	for {
		next := min(r.clock()+int64(time.Second), until)
		if err := r.sleep(next); err != nil {
			r.stopAt.Store(r.clock())
			r.measureUntil.Store(r.clock())
			return err
		}
		now, sent := r.count(countFresh), r.count(countSent)
		r.progress("%d sent, %d in the last second; %d received, %d", sent, sent-lastSent, now, now-last)
		last, lastSent = now, sent
		if next == until || r.over.Load() {
			return nil
		}
	}
}

// finish waits until all messages of a counted run are sent and, above QoS 0, acknowledged.
func (r *run) finish() error {
	want := r.cfg.Messages * uint64(len(r.pubs))
	of := countSent
	if r.cfg.QoS > 0 {
		of = countAcked
	}
	progress := func() uint64 { return r.count(countSent) + r.count(countAcked) }
	err := r.await(r.cfg.Drain+r.cfg.Stall, progress, func() bool { return r.count(of) >= want })
	if errors.Is(err, errIdle) {
		return nil
	}
	return err
}

// endLoad stops the publishers.
func (r *run) endLoad() {
	r.stopAt.Store(min(r.stopAt.Load(), r.clock()))
	for _, l := range r.loops {
		l.call(func(l *loop) { l.sched.running = false })
	}
}

// verify adds up what the loops counted and what the receivers still miss. The loops have stopped.
func (r *run) verify() {
	total := &r.result.total
	if total.connects == nil {
		total.init()
	}
	for _, l := range r.loops {
		total.merge(&l.stats)
	}
	c := &r.result.Counts
	unanswered := make([]map[uint64]bool, len(r.pubs))
	for i, p := range r.pubs {
		unanswered[i] = p.unanswered()
		c.Unacknowledged += uint64(len(unanswered[i]))
		for _, n := range p.refusals {
			unanswered[i][n] = true
		}
		c.Refused += p.refused
		p.markUnanswered(&total.marks[faultUnanswered])
	}
	judge := func(first uint32, tracks []track) {
		for i := range tracks {
			p := int(first) + i
			if p >= len(r.pubs) {
				return
			}
			lost, excused := tracks[i].lost(r.pubs[p].seq, unanswered[p])
			c.Lost += lost
			c.Undecided += excused
			if lost > 0 {
				tracks[i].when(r.pubs[p].seq, unanswered[p], r.pubs[p].began, r.lostAt)
			}
		}
	}
	for _, s := range r.subs {
		if s.group == nil {
			judge(s.first, s.tracks)
		}
	}
	for _, g := range r.groups {
		judge(0, g.tracks)
	}
}
