package bench

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// makeTopics makes the run's topics.
func (r *kafkaRun) makeTopics() error {
	for i := range r.k.Topics {
		t := &ktopic{name: fmt.Sprintf("%s-%d", r.clientID, i)}
		for j := range r.k.Partitions {
			p := &kpart{topic: t, index: int32(j), number: len(r.parts), end: -1}
			t.parts = append(t.parts, p)
			r.parts = append(r.parts, p)
		}
		r.topics = append(r.topics, t)
	}
	if err := r.createTopics(); err != nil {
		return err
	}
	for _, t := range r.topics {
		r.byID[t.id] = t
	}
	// A partition may have a leader that does not know of it yet: the offsets are asked of the leader itself.
	if err := r.endOffsets(); err != nil {
		return err
	}
	for _, p := range r.parts {
		p.end = -1
	}
	return nil
}

// removeTopics is for the end of a scenario that has come to err.
func (r *kafkaRun) removeTopics(err error) error {
	r.disconnect()
	if r.cfg.Keep || r.ctx.Err() != nil || r.death.Load() != nil {
		return err
	}
	if derr := r.deleteTopics(); err == nil {
		err = derr
	}
	return err
}

// makeProducers connects the producers, each with a share of the partitions. From then on changes of leaders are followed.
func (r *kafkaRun) makeProducers() error {
	for i := range r.k.Publishers {
		l := r.loops[i%len(r.loops)]
		p := &kproducer{r: r, l: l, name: fmt.Sprintf("%s-p%d", r.clientID, i), filler: r.filler, state: producerState{id: -1, epoch: -1}, closed: true}
		id := ""
		if r.k.Commit > 0 {
			id = p.name
			p.txn = &ktxn{p: p, id: id}
			r.txnIDs = append(r.txnIDs, id)
		}
		if r.k.idempotent() {
			var err error
			if p.state, err = r.initProducer(id); err != nil {
				return err
			}
		}
		r.producers = append(r.producers, p)
	}
	for i := range max(len(r.producers), len(r.parts)) {
		p := r.producers[i%len(r.producers)]
		l := &lane{id: uint32(i), part: r.parts[i%len(r.parts)], producer: p}
		if r.k.Keys > 0 {
			l.key, l.keys = make([]byte, 16), uint64(r.k.Keys)
		}
		l.part.lanes = append(l.part.lanes, l)
		p.lanes = append(p.lanes, l)
		r.lanes = append(r.lanes, l)
	}
	if err := r.linkProducers(); err != nil {
		return err
	}
	for _, p := range r.producers {
		p.l.call(func(l *loop) { l.roles = append(l.roles, p) })
	}
	r.unfollow = r.nodes.follow()
	r.progress("%d producers are ready, %d partitions", len(r.producers), len(r.parts))
	return nil
}

// linkProducers connects each producer with the nodes that lead partitions of its lanes, and with the coordinator of its transactions.
func (r *kafkaRun) linkProducers() error {
	if r.several() {
		if err := r.retry(r.allLed); err != nil {
			return err
		}
	}
	var cs []*conn
	t := r.nodes.table.Load()
	for _, p := range r.producers {
		p.order.lanes = p.lanes
		links := map[int32]*klink{}
		link := func(node int32) *klink {
			if links[node] == nil {
				links[node] = p.newLink(node)
				cs = append(cs, links[node].c)
			}
			return links[node]
		}
		for _, l := range p.lanes {
			p.attach(l, link(t.leaders[l.part.number].node))
		}
		if p.txn != nil {
			p.txn.link = p.links[0]
			if node, ok := t.coordinators[p.txn.id]; ok {
				p.txn.link = link(node)
			}
		}
	}
	return r.connect(cs)
}

// makeConsumers connects the consumers, each with a share of the partitions.
func (r *kafkaRun) makeConsumers() error {
	for i := range min(r.k.Subscribers, len(r.parts)) {
		r.consumers = append(r.consumers, &kconsumer{r: r, l: r.loops[i%len(r.loops)], name: fmt.Sprintf("%s-c%d", r.clientID, i)})
	}
	for i, p := range r.parts {
		s := r.consumers[i%len(r.consumers)]
		s.parts = append(s.parts, p)
	}
	if r.following.Load() { // they find their way by themselves, now or when somebody leads
		if err := raiseFileLimit(int(r.dialCount.Load()) + len(r.consumers)*len(r.nodes.table.Load().nodes) + 64); err != nil {
			return err
		}
		for _, s := range r.consumers {
			s.l.call(func(l *loop) {
				s.stuck = append(s.stuck, s.parts...)
				l.roles = append(l.roles, s)
			})
		}
		r.nodes.mark()
		return nil
	}
	var cs []*conn
	t := r.nodes.table.Load()
	for _, s := range r.consumers {
		s.l.call(func(*loop) {
			for _, p := range s.parts {
				node := t.leaders[p.number].node
				f := s.fetcherOf(node)
				if f == nil {
					f = s.newFetcher(node)
					cs = append(cs, f.c)
				}
				f.attach(p)
			}
		})
	}
	if err := r.connect(cs); err != nil {
		return err
	}
	for _, s := range r.consumers {
		s.l.call(func(l *loop) { l.roles = append(l.roles, s) })
	}
	return nil
}

// beginReading starts the consumers. again: at the end of a partition, from its beginning.
func (r *kafkaRun) beginReading(again bool) {
	for _, s := range r.consumers {
		s.l.call(func(*loop) { s.again = again; s.begin() })
	}
}

// stopReading ends it; what is under way still comes.
func (r *kafkaRun) stopReading() {
	for _, s := range r.consumers {
		s.l.call(func(*loop) { s.running = false })
	}
}

// produce drives the producers until the run's stop, or their limit, and waits until all is answered. measured: the figures
// are of this.
func (r *kafkaRun) produce(measured bool) error {
	cfg := &r.cfg
	start := r.clock() + int64(startDelay)
	if measured {
		var err error
		if start, err = r.begin(); err != nil {
			return err
		}
	}
	from, until := start, int64(math.MaxInt64)
	if measured {
		from += int64(cfg.Warmup)
		if cfg.Messages == 0 {
			until = from + int64(cfg.Duration)
		}
		r.measureFrom.Store(from)
		r.measureUntil.Store(until)
	}
	r.stopAt.Store(until)
	r.beginProducing(start)
	if err := r.sleep(from); err != nil {
		return err
	}
	before, err := r.sample()
	if err != nil {
		return err
	}
	progress := func() uint64 { return r.count(countAcked) + r.count(countFresh) }
	closed := func() bool { return r.producing.Load() == 0 }
	if until != math.MaxInt64 {
		err = r.measure(until)
	} else {
		err = r.await(cfg.Drain+cfg.ConnectTimeout, progress, closed)
		if measured {
			r.measureUntil.Store(r.clock())
		}
	}
	after, serr := r.sample()
	if err == nil {
		err = serr
	}
	d := time.Duration(min(r.clock(), r.measureUntil.Load()) - from)
	if measured {
		r.result.setUsage(before, after, d)
	} else {
		r.result.step("store", r.count(countAcked), before, after, d)
	}
	if err == nil {
		err = r.await(cfg.Drain+cfg.ConnectTimeout, progress, closed)
	}
	if errors.Is(err, errIdle) {
		return nil // what is missing is counted
	}
	return err
}

// beginProducing starts the producers' timetables, or their limits.
func (r *kafkaRun) beginProducing(start int64) {
	n := len(r.producers)
	r.producing.Store(int64(n))
	for i, p := range r.producers {
		p.l.call(func(*loop) {
			p.start, p.interval, p.made = start, 0, 0
			if r.cfg.Rate > 0 {
				p.interval = 1e9 / r.cfg.Rate * float64(n)
				p.start += int64(p.interval * float64(i) / float64(n))
			}
			p.limit = r.cfg.Messages / uint64(n)
			if uint64(i) < r.cfg.Messages%uint64(n) {
				p.limit++
			}
			p.running, p.closed = true, false
			if r.cfg.Messages > 0 && p.limit == 0 {
				p.closed = true
				r.producing.Add(-1)
			}
		})
	}
}

// expected is how many records readers are to see.
func (r *kafkaRun) expected() uint64 { return r.count(countSent) - r.abortedRecords.Load() }

// findEnds learns where the partitions end. What nobody acknowledges may still be under way: it is waited for.
func (r *kafkaRun) findEnds() error {
	stored := func() (n uint64) {
		for _, p := range r.parts {
			n += uint64(max(p.end, 0))
		}
		return n
	}
	var err error
	awaited := r.await(r.cfg.Drain, stored, func() bool {
		err = r.endOffsets()
		return err != nil || r.k.Acks != 0 || stored() >= r.count(countSent)
	})
	if err == nil && !errors.Is(awaited, errIdle) {
		err = awaited
	}
	return err
}

// readBack reads all that was stored and waits until it has come.
func (r *kafkaRun) readBack() error {
	if r.k.SkipReadBack || r.ctx.Err() != nil || r.death.Load() != nil {
		return nil
	}
	if err := r.findEnds(); err != nil {
		return err
	}
	if err := r.makeConsumers(); err != nil {
		return err
	}
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := r.clock()
	r.beginReading(false)
	err = r.await(r.cfg.Drain, func() uint64 { return r.count(countFresh) }, r.read)
	if errors.Is(err, errIdle) {
		err = nil
	}
	after, serr := r.sample()
	r.result.step("read back", r.count(countFresh), before, after, time.Duration(r.clock()-start))
	r.verified = true
	return errors.Join(err, serr)
}

// read tells whether every consumer has come to the end of its partitions.
func (r *kafkaRun) read() bool {
	over := true
	for _, s := range r.consumers {
		s.l.call(func(*loop) { over = over && s.left == 0 && !s.waits() })
	}
	return over
}

// runProduce: producers alone; the records are read afterwards.
func runProduce(r *kafkaRun) error {
	if err := r.makeTopics(); err != nil {
		return err
	}
	err := r.makeProducers()
	if err == nil {
		err = r.produce(true)
	}
	if err == nil {
		err = r.finished()
	}
	if err == nil {
		err = r.readBack()
	}
	return r.removeTopics(err)
}

// runConsume: records are stored, then read.
func runConsume(r *kafkaRun) error {
	if err := r.makeTopics(); err != nil {
		return err
	}
	return r.removeTopics(r.storeAndRead())
}

func (r *kafkaRun) storeAndRead() error {
	if err := r.makeProducers(); err != nil {
		return err
	}
	if err := r.produce(false); err != nil {
		return err
	}
	if r.death.Load() != nil {
		return nil
	}
	if err := r.findEnds(); err != nil {
		return err
	}
	if err := r.makeConsumers(); err != nil {
		return err
	}
	r.verified = true
	from := r.clock() + int64(max(r.cfg.Warmup, startDelay))
	until := from + int64(r.cfg.Duration)
	r.measureFrom.Store(from)
	r.measureUntil.Store(until)
	always := func(uint64) uint64 { return math.MaxUint64 }
	r.expect.Store(&always)
	r.stopAt.Store(until)
	r.beginReading(true)
	defer r.stopReading()
	if err := r.sleep(from); err != nil {
		return err
	}
	before, err := r.sample()
	if err != nil {
		return err
	}
	err = r.measure(until)
	after, serr := r.sample()
	r.result.setUsage(before, after, time.Duration(r.clock()-from))
	r.stopReading()
	if err == nil {
		err = r.awaitEnough()
	}
	return errors.Join(err, serr)
}

// awaitEnough waits until each partition has been read to its end at least once, so that all of it was verified.
func (r *kafkaRun) awaitEnough() error {
	if r.passed.Load() >= int64(len(r.parts)) {
		return nil
	}
	r.beginReading(false)
	err := r.await(r.cfg.Drain, func() uint64 { return r.count(countFresh) }, r.read)
	if errors.Is(err, errIdle) {
		return nil
	}
	return err
}

// follow: producers, and consumers that read what comes.
func (r *kafkaRun) follow() error {
	if err := r.makeTopics(); err != nil {
		return err
	}
	err := r.makeProducers()
	if err == nil {
		err = r.makeConsumers()
	}
	if err == nil {
		r.latencies, r.verified = true, true
		expect := func(uint64) uint64 { return r.expected() }
		r.expect.Store(&expect)
		r.beginReading(false)
		err = r.produce(true)
	}
	if err == nil {
		err = r.await(r.cfg.Drain, func() uint64 { return r.count(countFresh) }, func() bool { return r.count(countFresh) >= r.expected() })
		if errors.Is(err, errIdle) {
			err = nil
		}
	}
	if err == nil {
		err = r.finished()
	}
	r.stopReading()
	return r.removeTopics(err)
}

func runEndToEnd(r *kafkaRun) error { return r.follow() }

func runTransactions(r *kafkaRun) error { return r.follow() }

// runPartitions: what it takes to make many partitions, and to produce over all of them.
func runPartitions(r *kafkaRun) error {
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := r.clock()
	if err := r.makeTopics(); err != nil {
		return err
	}
	after, err := r.sample()
	if err != nil {
		return err
	}
	r.result.step("create", uint64(len(r.parts)), before, after, time.Duration(r.clock()-start))
	if err = r.makeProducers(); err == nil {
		err = r.produce(true)
	}
	if err == nil {
		err = r.readBack()
	}
	return r.removeTopics(err)
}
