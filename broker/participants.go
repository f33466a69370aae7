package broker

import (
	"errors"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
)

// A transaction's coordinator is on the node that leads the home shards; partitions of stream shards may be led elsewhere. Their leaders are asked to let the
// producer's batches in (AnnounceTxn) and to write the end (EndTxn). Requests may be lost, come late or twice, and either leader may change in between. What must not
// happen: that a request of a transaction ends or lets in a later one of the same producer and epoch, which classic clients keep; or that a partition takes a batch
// of a transaction that is over, whose end nobody would write: the last stable offset would stand still for ever.
//
// The coordinator. A partition is in the transaction's row, which is committed, before it is announced, and it is announced only while the transaction is ongoing. A
// decision is committed before the first end is asked for, the end is asked for on each partition of the row until it has answered that it is committed, and the next transaction
// begins behind that. So there is nothing to be waited for of announcements that are not answered: whatever comes of them, the end comes behind.
//
// The serial. Each transaction has a number that is larger than those of all before it: the epoch of the home shards, then a count of this leader's. A coordinator that
// takes a transaction over gives it another one, and so does one that is refused as stale while its transaction is not over; no transaction gets one that another has had. The leader of a
// partition keeps in memory, for each producer, the largest serial that it has seen and whether that one has ended: it refuses what is below, and an announcement of what has ended.
// What it forgets of those that have ended raises a floor, below which it refuses whom it does not know; who is refused though it is not over comes again with
// a new serial.
//
// The partition's leader changes. The new one knows of no serials; a request bears the epoch of the leader it was sent to, and is refused by any other. So of what is under
// way at a change nothing is ever taken, and what was sent in an epoch meets a leader whose memory goes back to the begin of that epoch. Say a request of T is taken that was sent in epoch E though T is over and T+1
// is open. Then T+1 was not announced in E, or its serial would be known; so it was announced to an earlier leader, and before E was known to its coordinator. But T's request was sent
// before T+1 began, by a coordinator that knew of E: where both are the same node that cannot be, for what it knows of leaders does not go back. Likewise an announcement of T in E that is taken behind T's end: that end was not written in E,
// or its serial would be known, so it was asked for of an earlier leader, after the announcement was sent to a later one. The new leader need not know what it is not told: a batch that is not
// announced to it is refused until the coordinator has been asked (JoinTxn), and an end that is asked for is that of the transaction that is open.
//
// The coordinator changes. The new one asks for the end of what was decided, again and on all partitions, and has all serials above the old one's. That one may be behind its
// time, and send what it had in mind: the markers bear the home shards' epoch, so that the partition's tables know it, and a request of a lower one is refused, as it is by a node that follows the new leader of the home
// shards. What is left is a new coordinator that still takes an older leader of the partition for the one, while that one still takes itself for it: the lease of that one
// was over before the next one was elected, and the coordinator's view is of the catalog that says so.
//
// A topic that is made again has another id and other partitions: what was meant for the old ones finds nothing.

// ErrStaleTxn says that a request is of a transaction that is over, or of a coordinator that is none any more.
var ErrStaleTxn = errors.New("broker: the request is of a transaction that is over")

// Participants reaches the nodes that lead partitions of stream shards, on behalf of the coordinators of this one. Each call is one request, sent once: it
// looks up who leads the partition's shard, and in which epoch, before it returns, in what never goes back to an older leader, and the node that gets it calls
// TxnAnnounced or TxnEnded with that epoch. done runs once, on any goroutine, within some seconds. An error leaves open whether the request arrives, or will yet; of all errors
// ErrStaleTxn and ErrInvalidProducerEpoch alone have to come through as what they are.
type Participants interface {
	// AnnounceTxn lets the producer's batches into a partition, until the transaction ends there.
	AnnounceTxn(p *Partition, who ProducerIdentity, serial uint64, done func(error))
	// EndTxn ends the producer's transaction on a partition.
	EndTxn(p *Partition, who ProducerIdentity, serial uint64, commit bool, done func(error))
}

// SetParticipants says how partitions are reached that other nodes lead. Before the loops run.
func (b *Broker) SetParticipants(p Participants) { b.participants = p }

// serialCountBits are a serial's lower bits, which count; above are those of the home shards' epoch.
const serialCountBits = 40

// coordinatorOf is the epoch of the home shards in which a serial was given.
func coordinatorOf(serial uint64) int32 { return int32(serial >> serialCountBits) }

// nextSerial is larger than all serials before it, of this leader of the home shards and of those before.
func (t *txn) nextSerial() uint64 {
	epoch, _ := t.s.leadsIn()
	return uint64(epoch)<<serialCountBits | t.l.b.txnSerials.Add(1)&(1<<serialCountBits-1)
}

// leadsIn says in which epoch the shard takes commands here; that of a node alone is 0.
func (s *shard) leadsIn() (record.Epoch, bool) {
	if s.rep == nil {
		return 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rep.epoch, s.rep.open
}

// ofStreams says that the shard has partitions alone, and may be led by another node than the home shards.
func (s *shard) ofStreams() bool { return s.set > 0 }

// joined is what the leader of a partition of a stream shard knows of the transactions there. It begins with its epoch. Guarded by the shard's lock.
type joined struct {
	txns  map[int64]joinedTxn // the last one of each producer
	ended int                 // so many of them have
	floor uint64              // who is not there has to be above it
}

type joinedTxn struct {
	serial uint64
	ended  bool
}

// endedTxnsKept is how many producers a partition remembers whose transactions have ended.
const endedTxnsKept = 1 << 12

// note keeps the producer's last transaction.
func (j *joined) note(producer int64, now joinedTxn) {
	if j.txns[producer].ended {
		j.ended--
	}
	if now.ended {
		j.ended++
	}
	j.txns[producer] = now
	if j.ended <= endedTxnsKept {
		return
	}
	serials := make([]uint64, 0, j.ended)
	for _, t := range j.txns {
		if t.ended {
			serials = append(serials, t.serial)
		}
	}
	slices.Sort(serials)
	j.floor = max(j.floor, serials[len(serials)/2])
	for id, t := range j.txns {
		if t.ended && t.serial <= j.floor {
			delete(j.txns, id)
			j.ended--
		}
	}
}

// joinedLocked makes it if need be.
func (p *Partition) joinedLocked() *joined {
	s := p.shard
	j := s.mu.joined[p]
	if j == nil {
		j = &joined{txns: make(map[int64]joinedTxn)}
		if s.mu.joined == nil {
			s.mu.joined = make(map[*Partition]*joined)
		}
		s.mu.joined[p] = j
	}
	return j
}

// txnStep is a request of a transaction's coordinator to the leader of a partition.
type txnStep struct {
	p      *Partition
	lead   record.Epoch
	who    ProducerIdentity
	serial uint64
}

// sound says what is wrong with a step whatever the state of the partition.
func (st *txnStep) sound(b *Broker) error {
	if !st.p.shard.ofStreams() || st.p.shard.rep == nil || st.who.ID < 0 || st.who.Epoch < 0 || st.serial == 0 {
		return ErrInvalidRequest
	}
	if home, _ := b.homes[0].leadsIn(); coordinatorOf(st.serial) < int32(home) {
		return ErrStaleTxn // this node knows a later leader of the home shards
	}
	return nil
}

// knownLocked is what this leader knows of the producer's last transaction, or why the step does not count.
func (st *txnStep) knownLocked() (joinedTxn, error) {
	p, s := st.p, st.p.shard
	if !s.rep.open || s.rep.epoch != st.lead {
		return joinedTxn{}, ErrNotLeader
	}
	var known joinedTxn
	if j := s.mu.joined[p]; j != nil {
		var ok bool
		if known, ok = j.txns[st.who.ID]; !ok && st.serial <= j.floor {
			return joinedTxn{}, ErrStaleTxn
		}
	}
	if st.serial < known.serial {
		return joinedTxn{}, ErrStaleTxn
	}
	if r := p.mu.producers.find(st.who.ID); r != nil {
		switch {
		case coordinatorOf(st.serial) < r.state.coordinator:
			return joinedTxn{}, ErrStaleTxn
		case st.who.Epoch < r.state.epoch:
			return joinedTxn{}, ErrInvalidProducerEpoch
		}
	}
	return known, nil
}

// TxnAnnounced is Participants.AnnounceTxn where it arrives. lead is the epoch of the shard's leader that was asked. Errors: ErrNotLeader if this node does not lead
// in that one, ErrStaleTxn, ErrInvalidProducerEpoch, ErrUnknownTopic, ErrInvalidRequest. Any goroutine.
func (b *Broker) TxnAnnounced(p *Partition, lead record.Epoch, who ProducerIdentity, serial uint64) error {
	step := txnStep{p, lead, who, serial}
	if err := step.sound(b); err != nil {
		return err
	}
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.mu.gone || p.topic.Dropped() {
		return ErrUnknownTopic
	}
	known, err := step.knownLocked()
	if err != nil {
		return err
	}
	if known.serial == serial && known.ended {
		return ErrStaleTxn
	}
	p.joinedLocked().note(who.ID, joinedTxn{serial: serial})
	p.announceTxnLocked(who.ID, who.Epoch)
	return nil
}

// TxnEnded is Participants.EndTxn where it arrives. done runs once, on some loop or at once, when the end is committed or with what refuses it: the errors of
// TxnAnnounced, or ErrConcurrentTransactions if it is on its way already. A topic that is gone has nothing to end. Any goroutine.
func (b *Broker) TxnEnded(p *Partition, lead record.Epoch, who ProducerIdentity, serial uint64, commit bool, done func(error)) {
	step := txnStep{p, lead, who, serial}
	err := step.sound(b)
	if err == nil {
		err = b.streamable()
	}
	if err != nil {
		done(err)
		return
	}
	now := b.nowMilli()
	pb := markerOn(p, markerBatchOf(who.ID, who.Epoch, commit, now, coordinatorOf(serial)), now, done)
	s := p.shard
	s.mu.Lock()
	if p.mu.gone || p.topic.Dropped() {
		s.mu.Unlock()
		done(nil)
		return
	}
	if settled, err := step.endLocked(); settled || err != nil {
		s.mu.Unlock()
		done(err)
		return
	}
	s.placeMarker(&pb)
}

// endLocked notes that the producer's transaction ends here. settled: it has already, and the log has it.
func (st *txnStep) endLocked() (settled bool, err error) {
	known, err := st.knownLocked()
	if err != nil {
		return false, err
	}
	if known.serial == st.serial && known.ended {
		r := st.p.mu.producers.find(st.who.ID)
		switch {
		case r == nil:
			return true, nil
		case r.ahead != nil && r.ahead.pending > 0:
			return false, ErrConcurrentTransactions
		case r.state.txn == noOffset:
			return true, nil
		}
		return false, nil // the log has not taken it
	}
	st.p.joinedLocked().note(st.who.ID, joinedTxn{st.serial, true})
	return false, nil
}

// announceTo lets the producer's batches into a partition of a stream shard, wherever it is led. done runs on any goroutine, perhaps at once.
func (b *Broker) announceTo(p *Partition, who ProducerIdentity, serial uint64, done func(error)) {
	lead, leads := p.shard.leadsIn()
	switch {
	case leads:
		done(b.TxnAnnounced(p, lead, who, serial))
	case b.participants == nil:
		done(ErrNotLeader)
	default:
		b.participants.AnnounceTxn(p, who, serial, done)
	}
}

// endAt is the same for its end.
func (b *Broker) endAt(p *Partition, who ProducerIdentity, serial uint64, commit bool, done func(error)) {
	lead, leads := p.shard.leadsIn()
	switch {
	case leads:
		b.TxnEnded(p, lead, who, serial, commit, done)
	case b.participants == nil:
		done(ErrNotLeader)
	default:
		b.participants.EndTxn(p, who, serial, commit, done)
	}
}
