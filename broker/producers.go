package broker

import (
	"math"

	"github.com/sluicemq/sluice/journal/record"
)

// producerWindow is how many of a producer's last batches a partition knows: as many as an idempotent producer has under way (KIP-98).
const producerWindow = 5

// noOffset stands for no offset, as in Kafka.
const noOffset record.Offset = -1

// producerState is what a partition knows of one producer. It changes by take alone: when a batch is given its place, when it is committed,
// and at recovery.
type producerState struct {
	epoch       int16 // -1: nothing is known
	n           uint8
	coordinator int32         // epoch of the coordinator that wrote its last marker; -1: none
	txn         record.Offset // where its open transaction begins
	at          int64         // Unix milliseconds of its last batch or marker
	batches     [producerWindow]producerBatch
}

// producerBatch is one of the last batches of a producer's epoch. They are kept oldest first.
type producerBatch struct {
	base        record.Offset
	first, last int32 // sequences
	appendTime  int64
}

var unknownProducer = producerState{epoch: -1, coordinator: -1, txn: noOffset}

// addSequence moves a sequence on; they wrap around at 2^31.
func addSequence(s, n int32) int32 {
	return int32((int64(s) + int64(n)) % (math.MaxInt32 + 1))
}

// take moves the state on by one batch.
func (st *producerState) take(in *batchInfo, appendTime int64) {
	if in.kind == batchControl {
		return
	}
	if st.epoch != in.epoch {
		st.epoch, st.n = in.epoch, 0
	}
	st.at = in.at
	if in.marker() {
		st.coordinator, st.txn = in.coordinator, noOffset
		return
	}
	if st.n == producerWindow {
		copy(st.batches[:], st.batches[1:])
		st.n--
	}
	st.batches[st.n] = producerBatch{base: in.base, first: in.first, last: in.lastSeq, appendTime: appendTime}
	st.n++
	if in.kind == batchTransactional && st.txn == noOffset {
		st.txn = in.base
	}
}

// check looks at a batch that comes next: dup is where it was appended before, if it is one of the last ones. announced is the epoch of the
// transaction that the coordinator has let in, -1 for none.
func (st *producerState) check(in *batchInfo, announced int16) (dup *producerBatch, err error) {
	if in.epoch < st.epoch {
		return nil, ErrInvalidProducerEpoch
	}
	if in.epoch == st.epoch {
		for i := range st.n {
			if b := &st.batches[i]; b.first == in.first && b.last == in.lastSeq {
				return b, nil
			}
		}
	}
	if in.kind == batchTransactional {
		switch {
		case announced > in.epoch:
			return nil, ErrInvalidProducerEpoch
		case announced < in.epoch:
			return nil, ErrTxnNotAnnounced
		}
	} else if st.txn != noOffset {
		return nil, ErrInvalidTxnState
	}
	return nil, st.checkSequence(in)
}

func (st *producerState) checkSequence(in *batchInfo) error {
	switch {
	case st.epoch < 0:
		return nil // nothing is known, perhaps because it has expired: any sequence will do
	case in.epoch != st.epoch, st.n == 0:
		if in.first != 0 {
			return ErrOutOfOrderSequence
		}
		return nil
	case addSequence(st.batches[st.n-1].last, 1) != in.first:
		return ErrOutOfOrderSequence
	}
	return nil
}

// producer is a row of a partition's table: what is committed, and, while batches are on their way into the log, what will be.
type producer struct {
	id        int64
	state     producerState
	ahead     *aheadState
	announced int16 // the epoch of the transaction that the coordinator has let in; -1: none. It says so again after a restart
	dirty     bool  // changed since the last checkpoint
}

// aheadState is a producer's state as it will be once its batches that are on their way are committed.
type aheadState struct {
	state   producerState
	pending int32 // so many
	again   bool  // the first that failed has been found
}

// indexedFrom is the number of producers from which on a partition finds them by a map.
const indexedFrom = 16

// producerTable holds the producers of one partition. Its zero value is empty. Guarded by the shard's lock.
type producerTable struct {
	rows  []producer
	index map[int64]int32 // nil while there are few
}

func (t *producerTable) find(id int64) *producer {
	if t.index != nil {
		if i, ok := t.index[id]; ok {
			return &t.rows[i]
		}
		return nil
	}
	for i := range t.rows {
		if t.rows[i].id == id {
			return &t.rows[i]
		}
	}
	return nil
}

// add makes a row. The caller has looked for it. It moves other rows.
func (t *producerTable) add(id int64) *producer {
	t.rows = append(t.rows, producer{id: id, state: unknownProducer, announced: -1})
	n := len(t.rows)
	switch {
	case t.index != nil:
		t.index[id] = int32(n - 1)
	case n > indexedFrom:
		t.index = make(map[int64]int32, 2*n)
		for i := range t.rows {
			t.index[t.rows[i].id] = int32(i)
		}
	}
	return &t.rows[n-1]
}

// remove takes out the row at i: the last one takes its place.
func (t *producerTable) remove(i int) {
	n := len(t.rows) - 1
	if t.index != nil {
		delete(t.index, t.rows[i].id)
		if i < n {
			t.index[t.rows[n].id] = int32(i)
		}
	}
	t.rows[i] = t.rows[n]
	t.rows[n] = producer{}
	t.rows = t.rows[:n]
	if n == 0 {
		*t = producerTable{}
	}
}

// checkProducerLocked looks at a producer's batch that comes next.
func (p *Partition) checkProducerLocked(in *batchInfo, later bool) (dup *producerBatch, err error) {
	st, announced := &unknownProducer, int16(-1)
	if r := p.mu.producers.find(in.producer); r != nil {
		if st, announced = &r.state, r.announced; r.ahead != nil {
			st = &r.ahead.state
		}
	}
	if dup, err = st.check(in, announced); err == nil && later && st.epoch < 0 {
		err = ErrOutOfOrderSequence
	}
	return dup, err
}

// expectProducerLocked moves on what is known by a batch that has been given its place. false: there are too many producers; a marker is
// never refused for that.
func (p *Partition) expectProducerLocked(in *batchInfo, appendTime int64) (ok bool) {
	r := p.mu.producers.find(in.producer)
	if r == nil {
		if !in.marker() && !p.shard.home.b.mayAddProducer(len(p.mu.producers.rows)) {
			return false
		}
		r = p.addProducerLocked(in.producer)
	}
	if r.ahead == nil {
		r.ahead = p.shard.aheadLocked()
		r.ahead.state, r.ahead.pending = r.state, 0
	}
	r.ahead.pending++
	r.ahead.state.take(in, appendTime)
	if in.marker() {
		r.announced = -1
	}
	return true
}

func (p *Partition) addProducerLocked(id int64) *producer {
	p.shard.home.b.stats.Producers.Add(1)
	return p.mu.producers.add(id)
}

// applyProducerLocked takes in a committed batch; live says that it was expected.
func (p *Partition) applyProducerLocked(in *batchInfo, appendTime int64, live bool) {
	r := p.mu.producers.find(in.producer)
	if r == nil {
		r = p.addProducerLocked(in.producer)
	}
	first := r.state.txn
	r.state.take(in, appendTime)
	p.applyTxnLocked(in, first, r.state.txn)
	r.dirty = true
	p.touchLocked()
	if live && r.ahead != nil {
		if r.ahead.pending--; r.ahead.pending == 0 {
			p.shard.dropAheadLocked(r)
		}
	}
}

// unexpectProducersLocked takes back what was expected of the batches of failed lists, and of nothing else: those of a group that is
// committed and not yet applied are looked at again.
func (s *shard) unexpectProducersLocked(failed []pendingBatch) {
	for i := range failed {
		if r := failed[i].producerLocked(); r != nil {
			r.ahead.pending--
			r.ahead.again = false
		}
	}
	for i := range failed {
		pb := &failed[i]
		r := pb.producerLocked()
		switch {
		case r == nil:
		case r.ahead.pending > 0:
			s.expectAgainLocked(pb.part, r)
		case r.state.epoch >= 0:
			s.dropAheadLocked(r)
		case !r.ahead.again:
			r.ahead.state.beginAgain(&pb.info)
			r.ahead.again = true
		}
	}
}

// producerLocked is the row of the producer of a batch that was expected.
func (pb *pendingBatch) producerLocked() *producer {
	if pb.duplicate || pb.info.producer == record.NoProducer {
		return nil
	}
	if r := pb.part.mu.producers.find(pb.info.producer); r != nil && r.ahead != nil {
		return r
	}
	return nil // its topic is gone
}

// beginAgain is what is known of a producer whose first batches failed: it has to begin with the first of them. It may have sent more before
// it hears of that, and any sequence will do for a producer that is not known.
func (st *producerState) beginAgain(first *batchInfo) {
	*st = unknownProducer
	st.epoch, st.at, st.n = first.epoch, first.at, 1
	st.batches[0] = producerBatch{base: noOffset, first: record.NoProducer, last: first.first - 1}
	if first.first == 0 {
		st.batches[0].last = math.MaxInt32
	}
}

// expectAgainLocked works out anew what will be of a producer that has batches in lists that were gathered.
func (s *shard) expectAgainLocked(p *Partition, r *producer) {
	r.ahead.state = r.state
	for _, list := range s.mu.flying {
		for i := range list.batches {
			if pb := &list.batches[i]; pb.part == p && pb.info.producer == r.id && !pb.duplicate && !pb.failed {
				r.ahead.state.take(&pb.info, pb.appendTime)
			}
		}
	}
}

// aheadsKept is how many a shard keeps for reuse.
const aheadsKept = 256

func (s *shard) aheadLocked() *aheadState {
	if n := len(s.mu.aheads); n > 0 {
		a := s.mu.aheads[n-1]
		s.mu.aheads = s.mu.aheads[:n-1]
		return a
	}
	return new(aheadState)
}

func (s *shard) dropAheadLocked(r *producer) {
	if len(s.mu.aheads) < aheadsKept {
		s.mu.aheads = append(s.mu.aheads, r.ahead)
	}
	r.ahead = nil
}

// mayAddProducer says whether another producer fits in a partition that has so many.
func (b *Broker) mayAddProducer(n int) bool {
	lim := &b.limits.Load().Stream
	return n < lim.PartitionProducers && b.stats.Producers.Load() < int64(lim.Producers)
}
