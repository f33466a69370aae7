package broker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/journal/record"
)

// streamModel drives partitions as Kafka's clients do, against what they may count on: what was acknowledged is there for good, at the place
// that was told; an idempotent producer's batches are there once and in order; of a transaction all or nothing is seen.
type streamModel struct {
	t      *rapid.T
	tb     *testBroker
	points *memCheckpoints
	acked  map[record.PartitionID]map[record.Offset]string
	start  map[record.PartitionID]record.Offset // at least
	tried  map[record.PartitionID]record.Offset // deletions that nobody answered may have come so far
	high   map[record.PartitionID]record.Offset
	plain  int
	list   []*modelProducer
	txns   []*modelTxn
}

// modelProducer is an idempotent producer of one partition, with up to five batches under way.
type modelProducer struct {
	m     *streamModel
	id    int64
	part  int
	next  int // batch to be made
	seq   int32
	queue []*modelBatch
	ap    *Appender
	stuck bool // waits for all that is under way before it sends again
	busy  bool
}

type modelBatch struct {
	n       int
	sent    bool
	done    bool
	records int
	seq     int32
	base    record.Offset
}

func (m *streamModel) partition(i int) *Partition { return m.tb.b.Topic(0, "t").Partition(int32(i)) }

func (p *modelProducer) batch(b *modelBatch) record.Batch {
	var values []string
	for i := range b.records {
		values = append(values, fmt.Sprintf("p%d-%d-%d", p.id, b.n, i))
	}
	return fromProducer(p.id, 0, b.seq, values...)
}

// Appended is told out of order only where batches were.
func (p *modelProducer) Appended(t Token, r AppendResult) {
	for _, b := range p.queue {
		if b.n != int(t) {
			continue
		}
		if r.Err != nil {
			b.sent, p.stuck = false, true
			return
		}
		if b.done && b.base != r.Base {
			p.m.t.Fatalf("producer %d: batch %d at %d and at %d", p.id, b.n, b.base, r.Base)
		}
		b.done, b.sent, b.base = true, false, r.Base
		for i := range b.records {
			p.m.ack(p.part, r.Base+record.Offset(i), fmt.Sprintf("p%d-%d-%d", p.id, b.n, i))
		}
	}
	for len(p.queue) > 0 && p.queue[0].done && !p.queue[0].sent {
		p.queue = p.queue[1:]
	}
}

func (p *modelProducer) Resume() { p.busy = false }

func (m *streamModel) ack(part int, o record.Offset, value string) {
	id := m.partition(part).ID()
	if old, ok := m.acked[id][o]; ok && old != value {
		m.t.Fatalf("partition %d: %q and %q at %d", id, old, value, o)
	}
	m.acked[id][o] = value
}

func (p *modelProducer) send() {
	if p.stuck {
		if slices.ContainsFunc(p.queue, func(b *modelBatch) bool { return b.sent }) {
			return
		}
		p.stuck = false
	}
	for _, b := range p.queue {
		if b.sent || b.done || p.busy {
			continue
		}
		err := p.ap.local.Append(p.ap, p.m.partition(p.part), p.batch(b), AppendOptions{}, Token(b.n))
		switch {
		case errors.Is(err, ErrBusy):
			p.busy = true
		case errors.Is(err, ErrOutOfOrderSequence) && slices.ContainsFunc(p.queue, func(o *modelBatch) bool { return o.n < b.n && o.sent }):
			p.stuck = true // one before it has failed, and this one was sent before that was known
			return
		case err != nil:
			p.m.t.Fatalf("producer %d: batch %d, sequence %d: %v", p.id, b.n, b.seq, err)
		default:
			b.sent = true
		}
	}
}

func (m *streamModel) doProduce(t *rapid.T) {
	m.t = t
	p := rapid.SampledFrom(m.list).Draw(t, "producer")
	if len(p.queue) < producerWindow && !p.stuck {
		b := &modelBatch{n: p.next, records: rapid.IntRange(1, 3).Draw(t, "records"), seq: p.seq}
		p.next++
		p.seq += int32(b.records)
		p.queue = append(p.queue, b)
	}
	p.send()
}

// doRepeat sends a batch again whose answer did not come yet.
func (m *streamModel) doRepeat(t *rapid.T) {
	m.t = t
	p := rapid.SampledFrom(m.list).Draw(t, "producer")
	for _, b := range p.queue {
		if b.sent && !p.stuck {
			if err := p.ap.local.Append(p.ap, m.partition(p.part), p.batch(b), AppendOptions{}, Token(b.n)); err != nil && !errors.Is(err, ErrBusy) {
				t.Fatalf("producer %d: batch %d again: %v", p.id, b.n, err)
			}
		}
	}
}

// plainSink counts nothing but what was acknowledged.
type plainSink struct {
	m     *streamModel
	part  int
	value string
}

func (s plainSink) Appended(_ Token, r AppendResult) {
	if r.Err == nil {
		s.m.ack(s.part, r.Base, s.value)
	}
}
func (plainSink) Resume() {}

func (m *streamModel) doPlain(t *rapid.T) {
	m.t = t
	part := rapid.IntRange(0, 2).Draw(t, "partition")
	m.plain++
	s := plainSink{m, part, fmt.Sprintf("x%d", m.plain)}
	a := m.tb.b.Local(rapid.IntRange(0, m.tb.b.Loops()-1).Draw(t, "loop")).NewAppender(s)
	if err := a.local.Append(a, m.partition(part), batchOf(record.BatchOptions{}, s.value), AppendOptions{}, 1); err != nil && !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
}

// modelTxn is a transactional producer of one partition, which does one thing at a time.
type modelTxn struct {
	m      *streamModel
	id     int64
	part   int
	epoch  int16
	seq    int32
	ap     *Appender
	wait   bool
	ending bool
	commit bool
	values []string          // of the open transaction
	fate   map[string]string // of values: open, commit, abort
	n      int
}

func (x *modelTxn) Resume() {}
func (x *modelTxn) Appended(t Token, r AppendResult) {
	if x.wait = false; r.Err != nil {
		return
	}
	if t == 2 { // the marker
		for _, v := range x.values {
			x.fate[v] = map[bool]string{true: "commit", false: "abort"}[x.commit]
		}
		x.values, x.ending = nil, false
		x.epoch++
		x.seq = 0
		return
	}
	x.m.ack(x.part, r.Base, x.values[len(x.values)-1])
	x.seq++
}

func (x *modelTxn) step(t *rapid.T) {
	if x.wait {
		return
	}
	p := x.m.partition(x.part)
	if !x.ending && len(x.values) > 0 && rapid.IntRange(0, 2).Draw(t, "end") == 0 {
		x.ending, x.commit = true, rapid.Bool().Draw(t, "commit")
	}
	if x.ending {
		x.m.tb.b.appendMarker(p, x.id, x.epoch+1, x.commit, func(err error) { x.Appended(2, AppendResult{Err: err}) })
		x.wait = true
		return
	}
	if last := len(x.values) - 1; last < 0 || x.seq == int32(len(x.values)) {
		x.n++
		v := fmt.Sprintf("t%d-%d", x.id, x.n)
		x.values = append(x.values, v)
		x.fate[v] = "open"
	}
	p.announceTxn(x.id, x.epoch)
	b := batchOf(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: x.id, Epoch: x.epoch, Sequence: x.seq}},
		x.values[len(x.values)-1])
	err := x.ap.local.Append(x.ap, p, b, AppendOptions{Transactional: true}, 1)
	if err != nil && !errors.Is(err, ErrBusy) {
		t.Fatalf("transaction of %d: %v", x.id, err)
	}
	x.wait = err == nil
}

func (m *streamModel) doTxn(t *rapid.T) {
	m.t = t
	rapid.SampledFrom(m.txns).Draw(t, "txn").step(t)
}

func (m *streamModel) doDelete(t *rapid.T) {
	m.t = t
	p := m.partition(rapid.IntRange(0, 2).Draw(t, "partition"))
	to := record.Offset(rapid.IntRange(0, int(p.HighWatermark())).Draw(t, "to"))
	m.tried[p.ID()] = max(m.tried[p.ID()], to)
	m.tb.b.Local(0).DeleteRecords(p, to, func(start record.Offset, err error) {
		if err == nil {
			if start < to {
				m.t.Fatalf("deleted to %d, and it begins at %d", to, start)
			}
			m.start[p.ID()] = max(m.start[p.ID()], start)
		}
	})
}

// see reads a partition and compares.
func (m *streamModel) see(part int, committed bool) map[record.Offset]string {
	p := m.partition(part)
	var f StreamFetch
	from := p.LogStart()
	if hw := p.HighWatermark(); hw < m.high[p.ID()] || from < m.start[p.ID()] || from > m.tried[p.ID()] {
		m.t.Fatalf("partition %d: from %d (at least %d, at most %d) to %d (at least %d)", p.ID(), from, m.start[p.ID()], m.tried[p.ID()], hw, m.high[p.ID()])
	}
	m.high[p.ID()] = p.HighWatermark()
	seen := map[record.Offset]string{}
	for {
		if m.tb.b.Local(0).FetchTail(p, from, 300, committed, &f) && m.tb.b.streamFetch(p, from, 300, committed, &f, readStore) {
			m.t.Fatal("the store does not give what lies there")
		}
		if f.Err != nil {
			m.t.Fatal(f.Err)
		}
		if f.Bytes == 0 {
			return seen
		}
		for _, raw := range f.Batches {
			b := record.Batch(raw)
			out := b.Attributes()&record.Control != 0
			for _, a := range f.Aborted {
				out = out || b.Attributes()&record.Transactional != 0 && a.ProducerID == b.ProducerID() && b.BaseOffset() >= a.First && m.before(b, a)
			}
			for it := b.Records(); it.Next(); {
				if r := it.Record(); r.Offset >= p.LogStart() && !out {
					seen[r.Offset] = string(r.Value)
				}
			}
			from = b.NextOffset()
		}
	}
}

// before says whether a batch lies before the marker of an aborted transaction: with a bumped epoch each transaction has its own.
func (m *streamModel) before(b record.Batch, a AbortedTxn) bool {
	p := m.partition(0)
	for i := range 3 {
		if q := m.partition(i); q.mu.producers.find(a.ProducerID) != nil {
			p = q
		}
	}
	for _, t := range p.mu.aborted {
		if t.producer == a.ProducerID && t.first == a.First {
			return b.BaseOffset() < t.last
		}
	}
	return true
}

func (m *streamModel) check() {
	for part := range 3 {
		p := m.partition(part)
		seen := m.see(part, false)
		for o, v := range m.acked[p.ID()] {
			if o >= p.LogStart() && seen[o] != v {
				m.t.Fatalf("partition %d: %q at %d, acknowledged was %q", p.ID(), seen[o], o, v)
			}
		}
		last := map[string]int{}
		for _, o := range slices.Sorted(maps.Keys(seen)) {
			v := seen[o]
			name, rest, ok := strings.Cut(v, "-")
			if v[0] != 'p' || !ok {
				continue
			}
			var n, i int
			_, _ = fmt.Sscanf(rest, "%d-%d", &n, &i)
			if k := n*10 + i + 1; k <= last[name] {
				m.t.Fatalf("partition %d: %s comes again, or late", p.ID(), v)
			} else {
				last[name] = k
			}
		}
		stable := m.see(part, true)
		for _, x := range m.txns {
			if x.part != part {
				continue
			}
			for o, v := range seen {
				_, is := x.fate[v]
				_, there := stable[o]
				if is && x.fate[v] != "commit" && there && (!x.ending || !x.commit) {
					m.t.Fatalf("partition %d: %q is seen, its fate is %s", p.ID(), v, x.fate[v])
				}
				if is && x.fate[v] == "commit" && !there && o < p.LastStable() {
					m.t.Fatalf("partition %d: %q is not seen, its fate is %s", p.ID(), v, x.fate[v])
				}
			}
		}
	}
}

// doMove has what is decided of a partition, or some of it, lie in a store.
func (m *streamModel) doMove(t *rapid.T) {
	m.t = t
	p := m.partition(rapid.IntRange(0, 2).Draw(t, "partition"))
	if m.tb.log.far == nil {
		m.tb.log.far = map[record.PartitionID]record.Offset{}
	}
	to := record.Offset(rapid.IntRange(0, int(p.LastStable())).Draw(t, "to"))
	m.tb.log.far[p.id] = max(m.tb.log.far[p.id], to)
}

// restoreSome has a partition be one that was restored, with an end of its own.
func (m *streamModel) restoreSome(t *rapid.T) {
	if !rapid.Bool().Draw(t, "restored") {
		return
	}
	p, err := m.partition(2), errors.New("not answered")
	m.tb.b.RestorePartition(p, 5, 50, []AbortedRange{{99, 7, 9}}, func(e error) { err = e })
	m.tb.pump()
	if err != nil {
		t.Fatal(err)
	}
	m.start[p.id], m.tried[p.id], m.high[p.id] = 5, 5, 50
}

func (m *streamModel) doLoop(t *rapid.T) {
	m.t = t
	l := m.tb.b.Local(rapid.IntRange(0, m.tb.b.Loops()-1).Draw(t, "loop"))
	l.Drain()
	l.EndTurn()
}

func (m *streamModel) doCommit(t *rapid.T) {
	m.t = t
	m.tb.log.commit()
}

func (m *streamModel) doFail(t *rapid.T) {
	m.t = t
	m.tb.log.fail = errors.New("disk full")
	m.tb.log.commit()
	m.tb.log.fail = nil
}

// doMeanwhile commits a group, or fails to, and producers go on while it is written.
func (m *streamModel) doMeanwhile(t *rapid.T) {
	m.t = t
	m.tb.log.between = func() {
		for range rapid.IntRange(1, 4).Draw(t, "more") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				m.doTxn(t)
			case 1:
				m.doPlain(t)
			default:
				m.doProduce(t)
			}
		}
	}
	if rapid.Bool().Draw(t, "fails") {
		m.tb.log.fail = errors.New("disk full")
	}
	m.tb.log.commit()
	m.tb.log.fail, m.tb.log.between = nil, nil
}

func (m *streamModel) doCheckpoint(t *rapid.T) {
	m.t = t
	refused := false
	m.points.step = func() error {
		for rapid.IntRange(0, 1).Draw(t, "meanwhile") == 1 {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				refused = true
				return errors.New("refused")
			case 1:
				m.points.flushEarly()
			case 2, 3, 4:
				m.doCommit(t)
			default:
				m.doLoop(t)
			}
		}
		return nil
	}
	if err := m.tb.b.Checkpoint(m.points); err != nil && !refused {
		t.Fatal(err)
	}
	m.points.step = nil
}

func (m *streamModel) doTick(t *rapid.T) {
	m.t = t
	m.tb.clock.Advance(time.Second)
	m.tb.b.Local(rapid.IntRange(0, m.tb.b.Loops()-1).Draw(t, "loop")).Tick()
}

func (m *streamModel) doCrash(t *rapid.T) {
	m.t = t
	old := m.tb
	old.b.Close()
	spec := old.b.Topic(0, "t").Spec()
	var err error
	if m.tb, err = old.restartWith(rapid.IntRange(1, 3).Draw(t, "loops"), m.points, spec); err != nil {
		t.Fatal(err)
	}
	m.tb.log.far = old.log.far
	m.attach()
	m.check()
}

// attach gives producers new connections: what was under way is sent again, from the first that was not answered on.
func (m *streamModel) attach() {
	for _, p := range m.list {
		p.ap = m.tb.b.Local(int(p.id) % m.tb.b.Loops()).NewAppender(p)
		p.stuck, p.busy = false, false
		for _, b := range p.queue {
			b.sent = false
		}
	}
	for _, x := range m.txns {
		x.ap = m.tb.b.Local(int(x.id) % m.tb.b.Loops()).NewAppender(x)
		x.wait = false
	}
}

func (m *streamModel) settle(t *rapid.T) {
	m.t = t
	for range 20 {
		for _, p := range m.list {
			p.send()
		}
		m.tb.pump()
	}
	for _, p := range m.list {
		if len(p.queue) > 0 {
			t.Fatalf("producer %d has %d batches left", p.id, len(p.queue))
		}
		if s := m.tb.b.homes[0]; len(s.mu.flying) != 0 || m.tb.b.appending.Load() != 0 {
			t.Fatalf("%d lists are on their way, with %d bytes", len(s.mu.flying), m.tb.b.appending.Load())
		}
		if r := m.partition(p.part).mu.producers.find(p.id); r != nil && r.ahead != nil {
			t.Fatalf("producer %d has %d batches on their way", p.id, r.ahead.pending)
		}
	}
	m.check()
}

func TestStreamModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &streamModel{t: rt, points: &memCheckpoints{}, acked: map[record.PartitionID]map[record.Offset]string{}, start: map[record.PartitionID]record.Offset{},
			tried: map[record.PartitionID]record.Offset{}, high: map[record.PartitionID]record.Offset{}}
		m.tb = openTestBroker(t, rapid.IntRange(1, 3).Draw(rt, "loops"), nil)
		m.tb.b.SetTopic(topicSpec("t", 1, 100, 104, 105)) // two of one shard, one of another
		for part := range 3 {
			m.acked[m.partition(part).ID()] = map[record.Offset]string{}
		}
		for i := range 4 {
			m.list = append(m.list, &modelProducer{m: m, id: int64(i + 1), part: i % 3})
		}
		for i := range 2 {
			m.txns = append(m.txns, &modelTxn{m: m, id: int64(i + 10), part: i, fate: map[string]string{}})
		}
		defer func() { m.tb.b.Close() }()
		m.attach()
		m.restoreSome(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"produce": m.doProduce, "produce2": m.doProduce, "produce3": m.doProduce, "repeat": m.doRepeat, "plain": m.doPlain, "txn": m.doTxn, "txn2": m.doTxn,
			"delete": m.doDelete, "loop": m.doLoop, "loop2": m.doLoop, "loop3": m.doLoop, "commit": m.doCommit, "commit2": m.doCommit, "fail": m.doFail,
			"meanwhile": m.doMeanwhile, "meanwhile2": m.doMeanwhile,
			"checkpoint": m.doCheckpoint, "tick": m.doTick, "crash": m.doCrash, "move": m.doMove,
			"": func(t *rapid.T) { m.t = t; m.check() },
		})
		m.settle(rt)
	})
}
