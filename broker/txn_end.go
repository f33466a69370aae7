package broker

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// end decides the transaction: the decision goes into the log, then a marker onto each partition and the offsets into each group, then the
// end of it. From the decision on nothing stops it: what fails, or a crash cuts off, is done again.
func (t *txn) end(commit bool, done func(error)) {
	t.state = TxnPrepareAbort
	if commit {
		t.state = TxnPrepareCommit
	}
	t.ending = true
	t.l.timers.stop(&t.expiry)
	t.save(func(err error) {
		if err != nil {
			// Nothing was decided: the producer, or the timeout, comes again.
			t.state, t.ending = TxnOngoing, false
			t.arm()
			done(err)
			return
		}
		t.writeMarkers(commit, done)
	})
}

// markerRetry is how long a coordinator waits before it writes again the markers that the log did not take. Who ends a transaction waits no longer than that for
// them: what is decided is in the log.
const markerRetry = time.Second

// txnEnd is the end of a transaction on its way to the partitions and groups that take part.
type txnEnd struct {
	t      *txn
	commit bool
	done   func(error)  // nil: it was called
	left   atomic.Int64 // of them

	mu struct {
		sync.Mutex
		parts  []TopicPartition // did not take it
		groups []string         // the same
		stale  bool             // one of them has refused the serial
	}
}

// writeMarkers ends the transaction wherever it has been. Who does not take that is asked again each markerRetry, whatever the others do. done is called when all have it,
// or some time before, as Kafka does it when the decision is in the log: until all have it the producer's next transaction is refused with ErrConcurrentTransactions.
func (t *txn) writeMarkers(commit bool, done func(error)) {
	e := &txnEnd{t: t, commit: commit, done: done}
	parts, groups := slices.Collect(maps.Keys(t.partitions)), slices.Collect(maps.Keys(t.groups))
	e.left.Store(int64(len(parts) + len(groups) + 1))
	t.closing = e
	t.l.SetTimer(&t.expiry, markerRetry, e.again)
	e.write(parts, groups)
	e.ended()
}

// tell says to who has asked for the end that it will be, or, if it has not been told so, err. On the transactional id's loop.
func (e *txnEnd) tell(err error) {
	if fn := e.done; fn != nil {
		e.done = nil
		fn(err)
	}
}

// write asks for the end. On the transactional id's loop.
func (e *txnEnd) write(parts []TopicPartition, groups []string) {
	t := e.t
	b, who := t.l.b, ProducerIdentity{t.producer, t.epoch}
	for _, tp := range parts {
		answered := func(err error) { e.answered(err, tp, "") }
		switch p := t.partition(tp); {
		case p == nil:
			e.ended() // it is gone
		case p.shard.ofStreams():
			b.endAt(p, who, t.serial, e.commit, func(err error) {
				if errors.Is(err, ErrInvalidProducerEpoch) {
					err = nil // a later producer has been there: nothing of this one is open
				}
				answered(err)
			})
		default:
			b.appendMarker(p, who.ID, who.Epoch, e.commit, answered)
		}
	}
	for _, g := range groups {
		b.endTxnOffsets(t.key.tenant, g, t.producer, e.commit, func(err error) { e.answered(err, TopicPartition{}, g) })
	}
}

// answered says what became of one, a group if it has a name. Any goroutine.
func (e *txnEnd) answered(err error, tp TopicPartition, group string) {
	if err == nil {
		e.ended()
		return
	}
	e.mu.Lock()
	first := len(e.mu.parts)+len(e.mu.groups) == 0
	if group != "" {
		e.mu.groups = append(e.mu.groups, group)
	} else {
		e.mu.parts = append(e.mu.parts, tp)
	}
	e.mu.stale = e.mu.stale || errors.Is(err, ErrStaleTxn)
	e.mu.Unlock()
	if t := e.t; first {
		t.l.Run(func() {
			if t.closing == e { // else whoever leads has the decision
				t.l.SetTimer(&t.expiry, markerRetry, e.again)
			}
		})
	}
}

// again asks those that did not take it, if there are such. It has taken long enough for who waits.
func (e *txnEnd) again() {
	e.tell(nil)
	e.mu.Lock()
	parts, groups, stale := e.mu.parts, e.mu.groups, e.mu.stale
	e.mu.parts, e.mu.groups, e.mu.stale = nil, nil, false
	e.mu.Unlock()
	if stale {
		e.t.serial = e.t.nextSerial()
	}
	e.write(parts, groups)
}

// ended counts one more. Any goroutine.
func (e *txnEnd) ended() {
	if e.left.Add(-1) > 0 {
		return
	}
	e.t.l.Run(func() {
		if e.t.closing == e {
			e.t.complete(e)
		}
	})
}

// complete is the end. It need not be waited for: a restart writes the markers again, which changes nothing.
func (t *txn) complete(e *txnEnd) {
	t.state = TxnCompleteAbort
	if e.commit {
		t.state = TxnCompleteCommit
	}
	t.l.timers.stop(&t.expiry)
	t.partitions, t.groups, t.ending, t.closing = nil, nil, false, nil
	t.save(func(error) {})
	e.tell(nil)
}

// endTxnOffsets makes the offsets that a transaction has committed to a group count, or drops them.
func (b *Broker) endTxnOffsets(tenant uint32, groupID string, producer int64, commit bool, done func(error)) {
	s := b.shardOf(tenant, []byte(groupID))
	cmd := appendGroupKey(binary.AppendUvarint(nil, cmdTxnOffsetsEnd), groupKey{tenant, groupID})
	cmd = binary.AppendUvarint(cmd, uint64(producer))
	cmd = binary.AppendUvarint(cmd, boolBit(commit))
	if err := b.command(s, cmd, entry{done: func() { done(nil) }, failed: done}); err != nil {
		done(err)
	}
}

// CommitTxnOffsets stores offsets that count when the producer's transaction commits (TxnOffsetCommit). The group has been added to the
// transaction. r.Generation and r.MemberID are checked if they are given.
func (b *Broker) CommitTxnOffsets(tenant uint32, id string, who ProducerIdentity, r *CommitRequest, done func(error)) {
	b.onTxn(tenant, id, func(l *Local, _ *shard) {
		t, err := l.checkTxn(txnKey{tenant, id}, who)
		if err == nil {
			if _, ok := t.groups[r.Group]; !ok || t.state != TxnOngoing {
				err = ErrTxnNotAnnounced
			}
		}
		if err != nil {
			done(err)
			return
		}
		b.onGroup(tenant, r.Group, func(l *Local, s *shard) {
			if err := l.commitTxnOffsets(s, groupKey{tenant, r.Group}, who.ID, r, done); err != nil {
				done(err)
			}
		})
	})
}

func (l *Local) commitTxnOffsets(s *shard, key groupKey, producer int64, r *CommitRequest, done func(error)) error {
	if r.Generation >= 0 || r.MemberID != "" || r.InstanceID != "" {
		if err := l.mayCommit(key, r); err != nil {
			return err
		}
	}
	if l.checkOffsets(key, r) == 0 {
		done(nil)
		return nil
	}
	if _, err := l.groupFor(s, key); err != nil {
		return err
	}
	cmd := appendGroupKey(binary.AppendUvarint(nil, cmdTxnOffsets), key)
	cmd = binary.AppendUvarint(cmd, uint64(producer))
	cmd = appendOffsets(cmd, r.Offsets)
	return l.b.command(s, cmd, entry{done: func() { done(nil) }, failed: done})
}

// txnGroupKey names the offsets that one producer's transaction has waiting in a group.
type txnGroupKey struct {
	group    groupKey
	producer int64
}

func (s *shard) applyTxnOffsets(d *decoder) {
	key := txnGroupKey{d.groupKey(), int64(d.uvarint())}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := d.count(); n > 0; n-- {
		tp, o := d.topicPartition(), d.committed()
		if !d.ok() {
			return
		}
		s.setTxnOffsetLocked(key, tp, o)
	}
}

func (s *shard) setTxnOffsetLocked(key txnGroupKey, tp TopicPartition, o CommittedOffset) {
	if s.mu.txnOffsets == nil {
		s.mu.txnOffsets = make(map[txnGroupKey]map[TopicPartition]CommittedOffset)
	}
	if s.mu.txnOffsets[key] == nil {
		s.mu.txnOffsets[key] = make(map[TopicPartition]CommittedOffset)
		s.groupRowLocked(key.group).undecided++
	}
	s.mu.txnOffsets[key][tp] = o
	mark(&s.mu.rows.txnGroups, key)
}

func (s *shard) applyTxnOffsetsEnd(d *decoder) {
	key := txnGroupKey{d.groupKey(), int64(d.uvarint())}
	commit := d.uvarint() == 1
	s.mu.Lock()
	defer s.mu.Unlock()
	offsets := s.mu.txnOffsets[key]
	if !d.ok() || offsets == nil {
		return
	}
	delete(s.mu.txnOffsets, key)
	s.groupRowLocked(key.group).undecided--
	mark(&s.mu.rows.txnGroups, key)
	if !commit {
		return
	}
	for tp, o := range offsets {
		s.setOffsetLocked(key.group, tp, o)
	}
}

// undecidedLocked says whether some transaction has an offset of the group waiting.
func (s *shard) undecidedLocked(key groupKey, tp TopicPartition) bool {
	if row := s.mu.groupRows[key]; row == nil || row.undecided == 0 {
		return false
	}
	for k, offsets := range s.mu.txnOffsets {
		if _, ok := offsets[tp]; ok && k.group == key {
			return true
		}
	}
	return false
}

// TxnDescription is a transactional id as administrators see it.
type TxnDescription struct {
	ID         string
	State      TxnState
	Producer   ProducerIdentity
	Timeout    time.Duration
	Started    int64 // Unix milliseconds; -1: none is open
	Partitions []TopicPartition
	Err        error
}

func (t *txn) describe() TxnDescription {
	d := TxnDescription{ID: t.key.id, State: t.state, Producer: ProducerIdentity{t.producer, t.epoch}, Timeout: t.timeout, Started: -1,
		Partitions: slices.SortedFunc(maps.Keys(t.partitions), compareTP)}
	if t.state == TxnOngoing {
		d.Started = t.started
	}
	return d
}

// DescribeTxn shows a transactional id.
func (b *Broker) DescribeTxn(tenant uint32, id string, done func(TxnDescription)) {
	b.onTxn(tenant, id, func(l *Local, _ *shard) {
		if t := l.txns[txnKey{tenant, id}]; t != nil {
			done(t.describe())
			return
		}
		done(TxnDescription{ID: id, Err: ErrTxnIDNotFound})
	})
}

// ListTxns shows all transactional ids of a tenant. done runs once, on some loop.
func (b *Broker) ListTxns(tenant uint32, done func([]TxnDescription)) {
	collect(b, func(l *Local) (list []TxnDescription) {
		for key, t := range l.txns {
			if key.tenant == tenant {
				list = append(list, t.describe())
			}
		}
		return list
	}, done)
}

// ProducerDescription is what a partition knows of a producer.
type ProducerDescription struct {
	ID            int64
	Epoch         int16
	LastSequence  int32
	LastTimestamp int64
	TxnStart      record.Offset // -1: none is open
}

// DescribeProducers shows who produces to a partition.
func (b *Broker) DescribeProducers(p *Partition) (list []ProducerDescription) {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	for i := range p.mu.producers.rows {
		r := &p.mu.producers.rows[i]
		st := &r.state
		if st.epoch < 0 {
			continue
		}
		d := ProducerDescription{ID: r.id, Epoch: st.epoch, LastSequence: -1, LastTimestamp: st.at, TxnStart: st.txn}
		if st.n > 0 {
			d.LastSequence = st.batches[st.n-1].last
		}
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b ProducerDescription) int { return int(a.ID - b.ID) })
	return list
}
