package bench

import (
	"fmt"
	"math"
	"time"
)

func or(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

// finishLoad closes a load scenario: goodbye to all, and the sessions of the run removed.
func (r *run) finishLoad(err error) error {
	if ferr := r.forget(); err == nil {
		err = ferr
	}
	return err
}

// runPairs: publisher n to subscriber n, both on one loop.
func runPairs(r *run) error {
	subs, pubs := r.newPairs("p")
	return r.connectAndLoad(subs, pubs, func(sent uint64) uint64 { return sent })
}

// newPairs makes publishers with a subscriber each, on topics of a kind.
func (r *run) newPairs(kind string) (subs, pubs []*conn) {
	for i := range or(r.cfg.Publishers, 64) {
		pc, sc := r.newConn("p", i), r.newConn("s", i)
		r.newPublisher(pc, r.topic(kind, i), 1)
		r.newSubscriber(sc, i, 1)
		sc.filters = []string{r.topic(kind, i)}
		pubs, subs = append(pubs, pc), append(subs, sc)
	}
	return subs, pubs
}

// connectAndLoad connects subscribers before publishers and runs the load.
func (r *run) connectAndLoad(subs, pubs []*conn, expected func(uint64) uint64) error {
	if err := r.connectBoth(subs, pubs); err != nil {
		return err
	}
	return r.finishLoad(r.load(expected))
}

func (r *run) connectBoth(subs, pubs []*conn) error {
	for _, cs := range [][]*conn{subs, pubs} {
		if r.cfg.Durable {
			for _, c := range cs {
				c.makeDurable()
			}
		}
		if err := r.connect(cs); err != nil {
			return err
		}
	}
	r.progress("%d connections are ready", len(subs)+len(pubs))
	return nil
}

// runPublish: publishers alone. At QoS 0 nothing comes back, and the pace is what the broker reads.
func runPublish(r *run) error {
	var pubs []*conn
	for i := range or(r.cfg.Publishers, 64) {
		c := r.newConn("p", i)
		r.newPublisher(c, r.topic("n", i), 0)
		pubs = append(pubs, c)
	}
	return r.connectAndLoad(nil, pubs, func(uint64) uint64 { return 0 })
}

// runFanout: each of few publishers (one by default) to all subscribers.
func runFanout(r *run) error {
	pubs, subs := or(r.cfg.Publishers, 1), or(r.cfg.Subscribers, 1000)
	var pcs, scs []*conn
	for i := range pubs {
		c := r.newConn("p", i)
		r.newPublisher(c, r.topic("f", i), subs)
		pcs = append(pcs, c)
	}
	for i := range subs {
		c := r.newConn("s", i)
		r.newSubscriber(c, 0, pubs)
		for p := range pubs {
			c.filters = append(c.filters, r.topic("f", p))
		}
		scs = append(scs, c)
	}
	return r.connectAndLoad(scs, pcs, func(sent uint64) uint64 { return sent * uint64(subs) })
}

// runFanin: all publishers to one subscriber (or few, each of which gets all).
func runFanin(r *run) error {
	pubs, subs := or(r.cfg.Publishers, 1000), or(r.cfg.Subscribers, 1)
	var pcs, scs []*conn
	for i := range pubs {
		c := r.newConn("p", i)
		r.newPublisher(c, r.topic("i", i), subs)
		pcs = append(pcs, c)
	}
	for i := range subs {
		c := r.newConn("s", i)
		r.newSubscriber(c, 0, pubs)
		c.filters = []string{fmt.Sprintf("sb/%08x/i/+", r.nonce)}
		scs = append(scs, c)
	}
	return r.connectAndLoad(scs, pcs, func(sent uint64) uint64 { return sent * uint64(subs) })
}

// runShared: publishers to one share group.
func runShared(r *run) error {
	pubs, subs := or(r.cfg.Publishers, 64), or(r.cfg.Subscribers, 8)
	var pcs, scs []*conn
	for i := range pubs {
		c := r.newConn("p", i)
		r.newPublisher(c, r.topic("h", i), 1)
		pcs = append(pcs, c)
	}
	g := r.newGroup()
	for i := range subs {
		c := r.newConn("s", i)
		c.l = r.loops[0]
		r.newSubscriber(c, 0, pubs).group = g
		c.filters = []string{fmt.Sprintf("$share/sb%08x/sb/%08x/h/+", r.nonce, r.nonce)}
		scs = append(scs, c)
	}
	err := r.connectAndLoad(scs, pcs, func(sent uint64) uint64 { return sent })
	b := Balance{Least: math.MaxUint64}
	for _, l := range r.loops {
		l.call(func(l *loop) {
			for _, s := range r.subs {
				if s.c.l == l {
					b.Least, b.Most = min(b.Least, s.got), max(b.Most, s.got)
				}
			}
		})
	}
	r.result.Balance = &b
	return err
}

// newGroup makes a group that receives of all publishers made so far.
func (r *run) newGroup() *group {
	g := &group{tracks: make([]track, len(r.pubs))}
	for i := range g.tracks {
		g.tracks[i].cell = r.pubs[i].cell
	}
	r.groups = append(r.groups, g)
	return g
}

// wildcardFilter is filter n of the wildcards scenario, and wildcardTopic a topic that it alone matches. Seven in ten have
// a level wildcard in the middle, three end in one for all levels.
func (r *run) wildcardFilter(n int) string {
	if n%10 < 7 {
		return fmt.Sprintf("sb/%08x/w/%d/+/v%d", r.nonce, n/100, n%100)
	}
	return fmt.Sprintf("sb/%08x/w/%d/x/v%d/#", r.nonce, n/100, n%100)
}

func (r *run) wildcardTopic(dst []byte, n int, seq uint64) []byte {
	if n%10 < 7 {
		return fmt.Appendf(dst, "sb/%08x/w/%d/d%d/v%d", r.nonce, n/100, seq%64, n%100)
	}
	return fmt.Appendf(dst, "sb/%08x/w/%d/x/v%d/t/%d", r.nonce, n/100, n%100, seq%64)
}

// runWildcards: many filters, each on one of few connections; then publishers to topics that one filter matches each.
func runWildcards(r *run) error {
	conns, pubs, filters := or(r.cfg.Subscribers, 100), or(r.cfg.Publishers, 16), r.cfg.Filters
	var pcs, scs []*conn
	for i := range pubs {
		c := r.newConn("p", i)
		p := r.newPublisher(c, "sb", 1)
		topics := make([][]byte, 1024) // made before, so that the generator does not spend its time on them
		for k := range topics {
			topics[k] = r.wildcardTopic(nil, r.rng.IntN(filters), uint64(k))
		}
		p.topic = func(seq uint64, dst []byte) []byte { return append(dst, topics[seq%uint64(len(topics))]...) }
		pcs = append(pcs, c)
	}
	g := r.newGroup()
	wanted := make([][]string, conns)
	for n := range filters {
		wanted[n%conns] = append(wanted[n%conns], r.wildcardFilter(n))
	}
	for i := range conns {
		c := r.newConn("s", i)
		c.l = r.loops[0]
		r.newSubscriber(c, 0, pubs).group = g
		scs = append(scs, c)
	}
	if err := r.connect(append(scs, pcs...)); err != nil {
		return err
	}
	if err := r.subscribeStep(scs, wanted, filters); err != nil {
		return err
	}
	return r.finishLoad(r.load(func(sent uint64) uint64 { return sent }))
}

// subscribeStep subscribes connections that are ready, and measures it.
func (r *run) subscribeStep(cs []*conn, wanted [][]string, filters int) error {
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := r.clock()
	want := r.count(countReady) + uint64(len(cs))
	for i, c := range cs {
		if len(wanted[i]) == 0 {
			want--
			continue
		}
		c.l.post(func(*loop) {
			c.filters = wanted[i]
			c.subscribe()
		})
	}
	progress := func() uint64 { return r.count(countReady) }
	if err := r.await(r.cfg.ConnectTimeout, progress, func() bool {
		return r.count(countReady) >= want || r.count(countFailed) > 0
	}); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if r.count(countFailed) > 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Errorf("subscribe: %w", r.mu.connFailure)
	}
	after, err := r.sample()
	if err != nil {
		return err
	}
	r.result.step("subscribe", uint64(filters), before, after, time.Duration(r.clock()-start))
	return nil
}
