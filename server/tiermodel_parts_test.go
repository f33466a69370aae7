package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
)

// tierTopic is a topic as its readers know it.
type tierTopic struct {
	name     string
	n        int
	compact  bool
	deletes  bool // beside that: DeleteRecords and retention
	settings map[string]string
	parts    []*tierPart
}

// tierPart is a partition: all records that were ever committed, where it begins and ends, and what may have been thrown away.
type tierPart struct {
	mt         *tierTopic
	recs       []tierRec // by offset
	start, end record.Offset
	asked      record.Offset // below it DeleteRecords was asked for
	floor      record.Offset // below it the store may have nothing any more: it began there when the disk was lost
	stored     record.Offset // when the disk was lost, behind what the store was known to have
	ms, bytes  int64         // the least that retention has ever been
	sent       []*tierBatch  // without an answer yet
	producer   *tierProducer
}

type tierRec struct {
	offset     record.Offset
	key, value string
	at         int64
	size       int // of the batch, at its first record
	txn        *tierTxn
}

type tierBatch struct {
	p      *tierPart
	recs   []tierRec
	txn    *tierTxn
	raw    record.Batch
	base   record.Offset // once it is acknowledged; -1
	again  bool          // it was sent and acknowledged before, at base
	failed bool
}

type tierProducer struct {
	id   int64
	seq  int32
	last *tierBatch
}

// tierTxn is a transaction. Each has an epoch of its own.
type tierTxn struct {
	slot  int
	who   broker.ProducerIdentity
	seqs  map[*tierPart]int32
	parts []*tierPart
	state txnState
	doubt bool // somebody has asked for an end, or more, and got no answer
}

type txnState string

const (
	txnOpen      txnState = "open"
	txnCommitted txnState = "committed"
	txnAborted   txnState = "aborted"
)

func newTierPart(mt *tierTopic) *tierPart {
	return &tierPart{mt: mt, ms: -1, bytes: -1}
}

type tierAck struct {
	tok broker.Token
	r   broker.AppendResult
}

type tierSink struct{ got chan tierAck }

// Appended hears of a batch.
func (s *tierSink) Appended(t broker.Token, r broker.AppendResult) { s.got <- tierAck{t, r} }

// Resume is not waited for.
func (s *tierSink) Resume() {}

// pick draws a partition.
func (w *tierWorld) pick() (*tierTopic, int, *tierPart) {
	mt := w.topics[w.rnd.IntN(len(w.topics))]
	i := w.rnd.IntN(len(mt.parts))
	return mt, i, mt.parts[i]
}

// produce appends some batches, plainly or by the partition's idempotent producer.
func (w *tierWorld) produce() {
	w.t.Helper()
	mt, i, p := w.pick()
	kind := "plain"
	if w.rnd.IntN(2) == 0 {
		kind = "idempotent"
		if p.producer == nil {
			id, ok := w.initProducer("", -1)
			if !ok {
				return
			}
			p.producer = &tierProducer{id: id.ID}
		}
	}
	var list []*tierBatch
	for range 1 + w.rnd.IntN(6) {
		b := w.batch(p, nil)
		if kind == "plain" {
			b.seal(record.Producer{}, 0)
		} else {
			b.seal(record.Producer{Known: true, ID: p.producer.id, Sequence: p.producer.seq}, 0)
			p.producer.seq += int32(len(b.recs))
			p.producer.last = b
		}
		list = append(list, b)
		if kind != "plain" && w.rnd.IntN(4) == 0 {
			again := *b
			again.again, again.base = true, -1
			list = append(list, &again)
		}
	}
	w.say("produce %s/%d: %d batches, %s, from %d", mt.name, i, len(list), kind, p.end)
	w.send(w.partition(mt, i), list)
}

// batch makes records that no other batch has.
func (w *tierWorld) batch(p *tierPart, x *tierTxn) *tierBatch {
	b := &tierBatch{p: p, txn: x, base: -1}
	at := w.clk.Now().UnixMilli()
	for range 1 + w.rnd.IntN(4) {
		w.serial++
		if p.mt.compact && len(b.recs) > 0 && w.rnd.IntN(4) == 0 {
			b.recs = append(b.recs, tierRec{key: fmt.Sprint("k", w.rnd.IntN(8)), at: at}) // a deletion
			continue
		}
		r := tierRec{key: fmt.Sprint("k", w.rnd.IntN(8)), value: fmt.Sprintf("%d:%s", w.serial, strings.Repeat("x", w.rnd.IntN(1500))), at: at, txn: x}
		b.recs = append(b.recs, r)
	}
	return b
}

// seal encodes it.
func (b *tierBatch) seal(who record.Producer, attr record.Attributes) {
	var bb record.BatchBuilder
	bb.Begin(nil, b.recs[0].at)
	for i := range b.recs {
		r := &b.recs[i]
		in := record.Input{OffsetDelta: int32(i), Timestamp: r.at, Key: []byte(r.key)}
		if r.value != "" {
			in.Value = []byte(r.value)
		}
		bb.Append(&in)
	}
	b.raw = bb.Finish(&record.BatchOptions{Producer: who, Attributes: attr})
	b.recs[0].size = len(b.raw)
}

// send appends batches and waits for their answers.
func (w *tierWorld) send(part *broker.Partition, list []*tierBatch) {
	w.t.Helper()
	p := list[0].p
	w.onLoop(func() {
		for _, b := range list {
			p.sent = append(p.sent, b)
			err := w.local.Append(w.app, part, b.raw, broker.AppendOptions{Transactional: b.txn != nil}, broker.Token(len(p.sent)-1))
			if err != nil {
				b.failed = true
				if !w.dying {
					w.t.Errorf("append: %v", err)
				}
			}
		}
	})
	w.lastSent = p
	left := 0
	for _, b := range list {
		if !b.failed {
			left++
		}
	}
	for limit, dead := time.Now().Add(patience), 0; left > 0 && dead < 20; {
		select {
		case a := <-w.sink.got:
			w.acked(p, a)
			left--
		case <-time.After(time.Millisecond):
			if w.power.off.Load() {
				dead++
			}
			if time.Now().After(limit) {
				w.t.Fatal("append: no answer")
			}
		}
	}
	if !w.dying {
		w.settleSent(p)
	}
}

// acked takes an answer.
func (w *tierWorld) acked(p *tierPart, a tierAck) {
	b := p.sent[a.tok]
	switch {
	case a.r.Err == nil:
		b.base = a.r.Base
	case !w.dying:
		w.t.Errorf("append: %v", a.r.Err)
	}
}

// takeAcks takes the answers that have come late.
func (w *tierWorld) takeAcks() {
	for {
		select {
		case a := <-w.sink.got:
			w.acked(w.lastSent, a)
		default:
			return
		}
	}
}

// settleSent keeps what was acknowledged; all of it was, or the node has died.
func (w *tierWorld) settleSent(p *tierPart) {
	w.t.Helper()
	for i, b := range p.sent {
		switch {
		case b.base < 0:
		case b.again:
			if first := p.sent[i-1]; first.base != b.base {
				w.t.Fatalf("a batch that was sent again is at %d, and was at %d", b.base, first.base)
			}
		default:
			p.keep(b, b.base)
		}
	}
	p.sent = nil
}

// keep takes a committed batch over.
func (p *tierPart) keep(b *tierBatch, base record.Offset) {
	for i := range b.recs {
		b.recs[i].offset = base + record.Offset(i)
	}
	p.recs = append(p.recs, b.recs...)
	p.end = base + record.Offset(len(b.recs))
}

// initProducer asks for a producer id; have is the one that a transactional id has, -1 if that is not known.
func (w *tierWorld) initProducer(txn string, have int64) (who broker.ProducerIdentity, ok bool) {
	w.t.Helper()
	for {
		err := w.ask("init producer", 100*time.Millisecond, func(done func(error)) {
			w.n.broker.InitProducer(0, txn, 15*time.Minute, broker.ProducerIdentity{ID: -1, Epoch: -1}, func(id broker.ProducerIdentity, err error) {
				who = id
				done(err)
			})
		})
		switch {
		case err == nil:
			if who.ID != have && w.given[who.ID] {
				w.t.Fatalf("producer id %d is given twice", who.ID)
			}
			w.given[who.ID] = true
			return who, true
		case w.dying:
			return who, false
		case errors.Is(err, broker.ErrConcurrentTransactions):
			w.clk.Advance(100 * time.Millisecond)
		default:
			w.t.Fatalf("init producer: %v", err)
		}
	}
}

// transact begins a transaction, goes on in one, or ends it.
func (w *tierWorld) transact() {
	w.t.Helper()
	slot := w.rnd.IntN(tierTxns)
	x := w.txns[slot]
	if x == nil {
		who, ok := w.initProducer(fmt.Sprint("t", slot), w.pids[slot])
		if !ok {
			return
		}
		w.pids[slot] = who.ID
		x = &tierTxn{slot: slot, who: who, seqs: map[*tierPart]int32{}, state: txnOpen}
		w.txns[slot] = x
		w.say("transaction %d begins: producer %d, epoch %d", slot, who.ID, who.Epoch)
	}
	if len(x.parts) > 0 && w.rnd.IntN(3) == 0 {
		w.endTxn(x, w.rnd.IntN(2) == 0)
		return
	}
	mt, i, p := w.pick()
	if mt.compact {
		return
	}
	part := w.partition(mt, i)
	if !slices.Contains(x.parts, p) {
		x.doubt = true
		ok := w.must("add to transaction", func(done func(error)) {
			w.n.broker.AddToTxn(0, fmt.Sprint("t", slot), x.who, []broker.TopicPartition{{Topic: part.Topic().ID(), Partition: int32(i)}}, "", done)
		})
		if !ok {
			return
		}
		x.doubt = false
		x.parts = append(x.parts, p)
	}
	var list []*tierBatch
	for range 1 + w.rnd.IntN(3) {
		b := w.batch(p, x)
		b.seal(record.Producer{Known: true, ID: x.who.ID, Epoch: x.who.Epoch, Sequence: x.seqs[p]}, record.Transactional)
		x.seqs[p] += int32(len(b.recs))
		list = append(list, b)
	}
	w.say("transaction %d: %d batches to %s/%d from %d", slot, len(list), mt.name, i, p.end)
	x.doubt = true
	w.send(part, list)
	x.doubt = slices.ContainsFunc(list, func(b *tierBatch) bool { return b.base < 0 })
}

func (w *tierWorld) endTxn(x *tierTxn, commit bool) {
	w.t.Helper()
	w.say("transaction %d ends, commit %v", x.slot, commit)
	x.doubt = true
	ok := w.must("end transaction", func(done func(error)) {
		w.n.broker.EndTxn(0, fmt.Sprint("t", x.slot), x.who, commit, false, func(_ broker.ProducerIdentity, err error) { done(err) })
	})
	if !ok {
		return
	}
	x.doubt, x.state = false, txnAborted
	if commit {
		x.state = txnCommitted
	}
	w.ended[x.who.ID] = x.state
	for _, p := range x.parts {
		p.end++ // the marker
	}
	w.txns[x.slot] = nil
}

// endTxns ends all that are open, before their time is over.
func (w *tierWorld) endTxns() {
	w.t.Helper()
	for _, x := range w.txns {
		switch {
		case x == nil || w.dying && x.doubt:
		case len(x.parts) == 0:
			w.txns[x.slot] = nil
		default:
			w.endTxn(x, w.rnd.IntN(2) == 0)
		}
	}
}

// deleteRecords moves a log start.
func (w *tierWorld) deleteRecords() {
	w.t.Helper()
	mt, i, p := w.pick()
	if mt.compact && !mt.deletes || p.end == 0 {
		return
	}
	before := p.start + record.Offset(w.rnd.Int64N(int64(p.end-p.start)/2+1))
	p.asked = max(p.asked, before)
	w.say("delete records of %s/%d below %d", mt.name, i, before)
	part := w.partition(mt, i)
	ok := w.must("delete records", func(done func(error)) {
		w.local.DeleteRecords(part, before, func(_ record.Offset, err error) { done(err) })
	})
	if ok && part.LogStart() < before {
		w.t.Fatalf("records of %s/%d are deleted below %d, and it begins at %d", mt.name, i, before, part.LogStart())
	}
}

// retention changes what a topic keeps, and has it looked at.
func (w *tierWorld) retention() {
	w.t.Helper()
	mt, _, _ := w.pick()
	if mt.compact && !mt.deletes {
		w.tick()
		return
	}
	ms, bytes := int64(-1), int64(-1)
	switch w.rnd.IntN(4) {
	case 0:
		ms = 10 * time.Minute.Milliseconds()
	case 1:
		bytes = 20_000
	}
	mt.settings["retention.ms"], mt.settings["retention.bytes"] = fmt.Sprint(ms), fmt.Sprint(bytes)
	delete(mt.settings, "local.retention.ms")
	if w.rnd.IntN(2) == 0 {
		mt.settings["local.retention.ms"] = "1"
	}
	w.say("%s: %v", mt.name, mt.settings)
	for _, p := range mt.parts {
		p.ms, p.bytes = least(p.ms, ms), least(p.bytes, bytes)
	}
	w.configure(mt)
	w.tick()
}

// least is the lesser of two bounds, of which -1 is none.
func least(a, b int64) int64 {
	switch {
	case a < 0:
		return b
	case b < 0:
		return a
	}
	return min(a, b)
}

// got is a batch that a reader got.
type got struct {
	record.Batch
	aborted bool
}

// read gives what a reader gets from an offset on, to the end; limited: of one fetch. A store that fails gives an error.
func (w *tierWorld) read(p *broker.Partition, from record.Offset, committed, one bool) (list []got, err error) {
	w.t.Helper()
	var f broker.StreamFetch
	defer func() { f.Release() }()
	for {
		maxBytes := 1 + w.rnd.IntN(40<<10)
		err := w.ask("fetch", 0, func(done func(error)) {
			if !w.local.FetchTail(p, from, maxBytes, committed, &f) {
				done(f.Err)
				return
			}
			w.local.FetchCold(p, from, maxBytes, committed, &f, func() { done(f.Err) })
		})
		if err != nil {
			return list, fmt.Errorf("fetch at %d: %w", from, err)
		}
		next := from
		open := map[int64]bool{} // producers whose records are to be left out, as a client knows them
		aborted := slices.Clone(f.Aborted)
		for _, raw := range f.Batches {
			for b := record.Batch(raw); len(b) > 0; {
				one, n, err := record.ParseBatch(b)
				if err != nil {
					return list, err
				}
				if err := one.Verify(); err != nil {
					return list, err
				}
				aborted = slices.DeleteFunc(aborted, func(a broker.AbortedTxn) bool {
					open[a.ProducerID] = open[a.ProducerID] || a.First <= one.LastOffset()
					return a.First <= one.LastOffset()
				})
				if one.Attributes()&record.Control != 0 && marker(one) == txnAborted {
					delete(open, one.ProducerID())
				}
				list = append(list, got{bytes.Clone(one), one.Attributes()&record.Transactional != 0 && open[one.ProducerID()]})
				next = one.NextOffset()
				b = b[n:]
			}
		}
		if len(f.Batches) == 0 {
			end := f.HighWatermark
			if committed {
				end = f.LastStable
			}
			if from < end {
				return list, fmt.Errorf("nothing at %d, and it ends at %d", from, end)
			}
			return list, nil
		}
		if from = next; one {
			return list, nil
		}
	}
}

// marker is what a control batch says.
func marker(b record.Batch) txnState {
	for it := b.Records(); it.Next(); {
		if k := it.Record().Key; len(k) >= 4 && binary.BigEndian.Uint16(k[2:]) == 1 {
			return txnCommitted
		}
	}
	return txnAborted
}

// recovered takes up what is there after a restart, where nobody was told.
func (w *tierWorld) recovered() {
	w.t.Helper()
	w.dying = false
	var over [tierTxns]bool
	for slot, x := range w.txns {
		if x != nil && !x.doubt && w.rnd.IntN(2) == 0 || x == nil && w.pids[slot] < 0 {
			continue // open, and goes on
		}
		over[slot] = true // the coordinator answers once all markers are there: those that it writes again, too
		who, _ := w.initProducer(fmt.Sprint("t", slot), w.pids[slot])
		w.pids[slot] = who.ID
	}
	for _, mt := range w.topics {
		for i, p := range mt.parts {
			w.resume(mt, i, p)
		}
	}
	for slot, x := range w.txns {
		if over[slot] || x != nil && x.state != txnOpen {
			w.txns[slot] = nil
		}
	}
	w.checkAll()
}

// resume compares what a partition has behind the end that is known with what was sent to it.
func (w *tierWorld) resume(mt *tierTopic, i int, p *tierPart) {
	w.t.Helper()
	part := w.partition(mt, i)
	found, err := w.read(part, max(p.end, part.LogStart()), false, false)
	if err != nil {
		w.t.Fatalf("%s/%d: %v", mt.name, i, err)
	}
	for _, b := range p.sent {
		if b.base >= 0 && !b.again {
			p.keep(b, b.base)
		}
	}
	for _, b := range found {
		if b.Attributes()&record.Control != 0 {
			w.decided(p, b)
			continue
		}
		it := b.Records()
		if !it.Next() {
			continue
		}
		first := string(it.Record().Value)
		n := slices.IndexFunc(p.sent, func(s *tierBatch) bool { return !s.again && s.recs[0].value == first })
		switch {
		case n < 0:
			w.t.Fatalf("%s/%d: at %d lies what was never sent: %.20q", mt.name, i, b.BaseOffset(), first)
		case p.sent[n].base < 0:
			p.keep(p.sent[n], b.BaseOffset())
		case p.sent[n].base != b.BaseOffset():
			w.t.Fatalf("%s/%d: what was acknowledged at %d lies at %d", mt.name, i, p.sent[n].base, b.BaseOffset())
		}
	}
	if slices.ContainsFunc(p.sent, func(b *tierBatch) bool { return b.base < 0 && b.txn == nil }) {
		p.producer = nil // its sequence is not known
	}
	slices.SortFunc(p.recs, func(a, b tierRec) int { return int(a.offset - b.offset) })
	p.sent, p.end = nil, part.HighWatermark()
}

// decided tells of a marker that nobody was told of.
func (w *tierWorld) decided(p *tierPart, b got) {
	w.t.Helper()
	for _, x := range w.txns {
		if x == nil || x.who.ID != b.ProducerID() {
			continue
		}
		if now := marker(b.Batch); x.state == txnOpen {
			x.state = now
		} else if x.state != now {
			w.t.Fatalf("transaction %d of producer %d is %s, and %s in another partition", x.slot, x.who.ID, x.state, now)
		}
		return
	}
	// The last transaction's markers may have been written again: a crash came before it was noted that they are there.
	if was, ok := w.ended[b.ProducerID()]; !ok || was != marker(b.Batch) {
		w.t.Fatalf("a marker at %d of producer %d, which has no transaction", b.BaseOffset(), b.ProducerID())
	}
}

// rebuilt takes up what came back from the store.
func (w *tierWorld) rebuilt() {
	w.t.Helper()
	for _, mt := range w.topics {
		topic := w.n.broker.Topic(0, mt.name)
		for i, p := range mt.parts {
			p.sent, p.producer = nil, nil
			live := p.start < p.stored
			if topic == nil || topic.Partition(int32(i)) == nil || topic.Partition(int32(i)).HighWatermark() == 0 {
				if live {
					w.t.Fatalf("%s/%d: the store had it from %d to %d, and it is not back", mt.name, i, p.start, p.stored)
				}
				*p = *newTierPart(mt)
				continue
			}
			part := topic.Partition(int32(i))
			end := part.HighWatermark()
			if live && (end < p.stored || part.LogStart() > p.start) {
				w.t.Fatalf("%s/%d: from %d to %d is back, and the store had it from %d to %d", mt.name, i, part.LogStart(), end, p.start, p.stored)
			}
			p.recs = slices.DeleteFunc(p.recs, func(r tierRec) bool { return r.offset >= end })
			p.floor, p.start, p.end, p.asked, p.ms, p.bytes = min(max(p.floor, p.start), end), part.LogStart(), end, 0, -1, -1
		}
		if !mt.compact || mt.deletes {
			mt.settings["retention.ms"], mt.settings["retention.bytes"] = "-1", "-1"
		}
	}
	w.judge()
	w.txns, w.pids = [tierTxns]*tierTxn{}, [tierTxns]int64{-1, -1, -1}
}

// judge finds out how transactions ended whose end was asked for when the disk was lost.
func (w *tierWorld) judge() {
	w.t.Helper()
	for _, mt := range w.topics {
		for i, p := range mt.parts {
			if !slices.ContainsFunc(p.recs, func(r tierRec) bool { return r.txn != nil && r.txn.state == txnOpen }) {
				continue
			}
			list, err := w.read(w.partition(mt, i), p.start, true, false)
			if err != nil {
				w.t.Fatalf("%s/%d: %v", mt.name, i, err)
			}
			seen := visible(list)
			for _, r := range p.recs {
				if r.txn == nil || r.txn.state != txnOpen || r.offset < p.start {
					continue
				}
				if !r.txn.doubt {
					w.t.Fatalf("%s/%d: offset %d of an open transaction is in the store", mt.name, i, r.offset)
				}
				r.txn.state = txnAborted
				if _, ok := seen[r.offset]; ok {
					r.txn.state = txnCommitted
				}
			}
		}
	}
}

// visible is what a client makes of batches.
func visible(list []got) map[record.Offset]tierRec {
	out := map[record.Offset]tierRec{}
	for _, b := range list {
		if b.aborted || b.Attributes()&record.Control != 0 {
			continue
		}
		for it := b.Records(); it.Next(); {
			r := it.Record()
			out[r.Offset] = tierRec{offset: r.Offset, key: string(r.Key), value: string(r.Value), at: r.Timestamp}
		}
	}
	return out
}
