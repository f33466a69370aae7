package broker

import (
	"errors"
	"math"
	"time"
)

// Errors of the transaction coordinator; proto/kafka gives them Kafka's codes of the same names.
var (
	ErrProducerFenced            = errors.New("broker: a newer producer has taken the transactional id")
	ErrInvalidProducerIDMapping  = errors.New("broker: the producer id is not the transactional id's")
	ErrConcurrentTransactions    = errors.New("broker: the transaction before is being ended")
	ErrInvalidTransactionTimeout = errors.New("broker: transaction timeout outside of the limits")
	ErrTxnIDNotFound             = errors.New("broker: no such transactional id")
)

// TxnState is where a transactional id stands (Kafka's TransactionMetadata).
type TxnState uint8

// The states. Their numbers are on disk.
const (
	TxnEmpty TxnState = iota
	TxnOngoing
	TxnPrepareCommit
	TxnPrepareAbort
	TxnCompleteCommit
	TxnCompleteAbort
)

// String is the state as Kafka's tools show it.
func (s TxnState) String() string {
	return [...]string{"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"}[s]
}

// txnKey names a transactional id. Like a group it belongs to the home loop of its shard.
type txnKey struct {
	tenant uint32
	id     string
}

// txn is one transactional id and the transaction that its producer has open.
type txn struct {
	key        txnKey
	s          *shard
	l          *Local
	state      TxnState
	producer   int64
	epoch      int16
	last       int16 // the epoch before, for requests that are sent again; -1: none
	timeout    time.Duration
	started    int64         // Unix milliseconds, for who asks
	until      time.Duration // by the clock's Mono: when it is aborted
	updated    int64
	partitions map[TopicPartition]struct{}
	groups     map[string]struct{}
	expiry     LoopTimer
	ending     bool    // markers are being written
	serial     uint64  // of the transaction, where partitions of it may be led elsewhere
	closing    *txnEnd // nil: no markers are on their way
	busy       bool    // a change is on its way into the log
	waiting    []func(error)
}

// TxnLimits bound transactions. A zero means the default beside it.
type TxnLimits struct {
	TimeoutMax time.Duration // 15 min
	Expiration time.Duration // of a transactional id that is not used: 7 days
}

func (t TxnLimits) withDefaults() TxnLimits {
	orDuration(&t.TimeoutMax, 15*time.Minute)
	orDuration(&t.Expiration, 7*24*time.Hour)
	return t
}

// ProducerIdentity is a producer's id and epoch.
type ProducerIdentity struct {
	ID    int64
	Epoch int16
}

// onTxn runs fn on the loop that the transactional id belongs to.
func (b *Broker) onTxn(tenant uint32, id string, fn func(l *Local, s *shard)) {
	b.onGroup(tenant, id, fn)
}

// InitProducer gives a producer its id and epoch (InitProducerId). For a transactional id it fences the producer before, and ends the
// transaction that that one has left open: ErrConcurrentTransactions, come again. have is what the client believes, ID -1 if it has none.
func (b *Broker) InitProducer(tenant uint32, id string, timeout time.Duration, have ProducerIdentity, done func(ProducerIdentity, error)) {
	if id == "" {
		b.takeProducerID(func(pid int64, err error) { done(ProducerIdentity{pid, 0}, err) })
		return
	}
	if timeout <= 0 || timeout > b.limits.Load().Txn.TimeoutMax {
		done(ProducerIdentity{-1, -1}, ErrInvalidTransactionTimeout)
		return
	}
	b.onTxn(tenant, id, func(l *Local, s *shard) {
		t := l.txns[txnKey{tenant, id}]
		if t == nil {
			l.newTxn(s, txnKey{tenant, id}, timeout, done)
			return
		}
		t.init(timeout, have, done)
	})
}

// newTxn makes a transactional id.
func (l *Local) newTxn(s *shard, key txnKey, timeout time.Duration, done func(ProducerIdentity, error)) {
	l.b.takeProducerID(func(pid int64, err error) {
		l.Run(func() {
			if err != nil {
				done(ProducerIdentity{-1, -1}, err)
				return
			}
			if t := l.txns[key]; t != nil { // another one was faster
				t.init(timeout, ProducerIdentity{-1, -1}, done)
				return
			}
			t := &txn{key: key, s: s, l: l, producer: pid, last: -1, timeout: timeout}
			if l.txns == nil {
				l.txns = make(map[txnKey]*txn)
			}
			l.txns[key] = t
			t.save(func(err error) {
				if err != nil && !t.stale() {
					delete(l.txns, key)
				}
				done(ProducerIdentity{t.producer, t.epoch}, err)
			})
		})
	})
}

// init begins anew for a producer that takes the transactional id over.
func (t *txn) init(timeout time.Duration, have ProducerIdentity, done func(ProducerIdentity, error)) {
	refuse := func(err error) { done(ProducerIdentity{-1, -1}, err) }
	if have.ID >= 0 && (have.ID != t.producer || have.Epoch != t.epoch && have.Epoch != t.last) {
		refuse(ErrProducerFenced)
		return
	}
	if t.busy || t.ending {
		refuse(ErrConcurrentTransactions)
		return
	}
	switch t.state {
	case TxnOngoing:
		t.fence()
		t.end(false, func(error) {}) // the client comes again until it has ended
		refuse(ErrConcurrentTransactions)
		return
	case TxnPrepareCommit, TxnPrepareAbort:
		refuse(ErrConcurrentTransactions)
		return
	case TxnEmpty, TxnCompleteCommit, TxnCompleteAbort:
	}
	if have.ID >= 0 && have.Epoch == t.last && have.Epoch != t.epoch {
		done(ProducerIdentity{t.producer, t.epoch}, nil) // asked again
		return
	}
	renew := func(pid int64) {
		if pid >= 0 {
			t.producer, t.epoch, t.last = pid, 0, -1
		} else {
			t.last, t.epoch = t.epoch, t.epoch+1
		}
		t.state, t.timeout = TxnEmpty, timeout
		t.save(func(err error) { done(ProducerIdentity{t.producer, t.epoch}, err) })
	}
	if t.epoch < math.MaxInt16-1 {
		renew(-1)
		return
	}
	t.busy = true
	t.l.b.takeProducerID(func(pid int64, err error) {
		t.l.Run(func() {
			t.busy = false
			if err == nil && t.stale() {
				err = ErrNotLeader
			}
			if err != nil {
				refuse(err)
				return
			}
			renew(pid)
		})
	})
}

// stale says that this is not the transactional id any more, but what it was when the node led before. What comes of it then, from the log or by a timer, is
// nobody's: another node has gone on with the transaction, or this one has since, from the tables.
func (t *txn) stale() bool { return t.l.txns[t.key] != t }

// fence makes the producer's epoch one that it does not know.
func (t *txn) fence() {
	if t.epoch < math.MaxInt16 {
		t.epoch++
	}
	t.last = -1
}

// check says whether a request is the transactional id's producer's.
func (l *Local) checkTxn(key txnKey, who ProducerIdentity) (*txn, error) {
	t := l.txns[key]
	switch {
	case t == nil || t.producer != who.ID:
		return nil, ErrInvalidProducerIDMapping
	case t.epoch != who.Epoch:
		return t, ErrProducerFenced
	case t.ending || t.state == TxnPrepareCommit || t.state == TxnPrepareAbort:
		return t, ErrConcurrentTransactions
	}
	return t, nil
}

// AddToTxn makes partitions, and a group, part of the producer's transaction; it begins with the first. done runs when that is in the log
// and the partitions take the producer's batches.
func (b *Broker) AddToTxn(tenant uint32, id string, who ProducerIdentity, parts []TopicPartition, group string, done func(error)) {
	b.onTxn(tenant, id, func(l *Local, _ *shard) {
		t, err := l.checkTxn(txnKey{tenant, id}, who)
		if err != nil {
			done(err)
			return
		}
		t.whenIdle(func() { t.add(who, parts, group, addResult(done)) })
	})
}

// whenIdle runs fn when no change of t is on its way into the log.
func (t *txn) whenIdle(fn func()) {
	if !t.busy {
		fn()
		return
	}
	t.waiting = append(t.waiting, func(error) { fn() })
}

// add makes partitions, and a group, part of the transaction, and tells them.
func (t *txn) add(who ProducerIdentity, parts []TopicPartition, group string, done announced) {
	if t.stale() {
		done(ErrNotLeader, nil)
		return
	}
	if _, err := t.l.checkTxn(t.key, who); err != nil {
		done(err, nil)
		return
	}
	undo := t.begin()
	var fresh []TopicPartition
	for _, tp := range parts {
		if _, ok := t.partitions[tp]; !ok {
			t.partitions[tp] = struct{}{}
			fresh = append(fresh, tp)
		}
	}
	_, has := t.groups[group]
	if has = has || group == ""; !has {
		t.groups[group] = struct{}{}
	}
	if undo == nil && len(fresh) == 0 && has {
		t.announce(parts, done)
		return
	}
	t.save(func(err error) {
		if err == nil {
			t.announce(parts, done)
			return
		}
		// Who comes again must not find it there: the next coordinator would not know of it, and not end it.
		for _, tp := range fresh {
			delete(t.partitions, tp)
		}
		if !has {
			delete(t.groups, group)
		}
		if undo != nil {
			undo()
		}
		done(err, nil)
	})
}

// begin begins a transaction, if none is open. undo takes it back; nil: it was open.
func (t *txn) begin() (undo func()) {
	if t.state == TxnOngoing {
		return nil
	}
	state, started, partitions, groups := t.state, t.started, t.partitions, t.groups
	t.state, t.started, t.serial = TxnOngoing, t.l.b.nowMilli(), t.nextSerial()
	t.partitions, t.groups = make(map[TopicPartition]struct{}), make(map[string]struct{})
	t.run()
	return func() {
		t.state, t.started, t.partitions, t.groups = state, started, partitions, groups
		t.l.timers.stop(&t.expiry)
	}
}

// run gives the transaction its time, which is anew behind a restart and at another node: their wall clocks may be hours apart.
func (t *txn) run() {
	t.until = t.l.b.clock.Mono() + t.timeout
	t.arm()
}

// arm has the transaction aborted when its time is over.
func (t *txn) arm() {
	if t.stale() {
		return
	}
	t.l.timers.set(&t.expiry, t.until-t.l.b.clock.Mono(), func() {
		if t.state != TxnOngoing || t.ending {
			return
		}
		t.whenIdle(func() {
			if t.state == TxnOngoing && !t.ending && !t.stale() {
				t.fence()
				t.end(false, func(error) {})
			}
		})
	})
}

// EndTxn commits or aborts the producer's transaction. done runs when that is decided for good and every partition and group has it, or a second or two have passed
// since: then they get it later, and the producer's next transaction is refused with ErrConcurrentTransactions until they have it. With bump the producer goes on
// under the next epoch (KIP-890), which done tells.
func (b *Broker) EndTxn(tenant uint32, id string, who ProducerIdentity, commit, bump bool, done func(ProducerIdentity, error)) {
	b.onTxn(tenant, id, func(l *Local, _ *shard) {
		if t := l.txns[txnKey{tenant, id}]; t != nil && bump && t.endedUnder(who, commit) {
			if t.ending || t.state == TxnPrepareCommit || t.state == TxnPrepareAbort {
				done(ProducerIdentity{-1, -1}, ErrConcurrentTransactions) // the answer was lost, and the end is not there: come again
				return
			}
			done(ProducerIdentity{t.producer, t.epoch}, nil)
			return
		}
		t, err := l.checkTxn(txnKey{tenant, id}, who)
		if err != nil {
			done(ProducerIdentity{-1, -1}, err)
			return
		}
		t.whenIdle(func() { t.endAsked(who, commit, bump, done) })
	})
}

// endedUnder says whether the producer has ended its transaction so, and asks again, with the epoch that it had then.
func (t *txn) endedUnder(who ProducerIdentity, commit bool) bool {
	if t.producer != who.ID || t.last != who.Epoch || t.epoch != who.Epoch+1 {
		return false
	}
	if commit {
		return t.state == TxnPrepareCommit || t.state == TxnCompleteCommit
	}
	return t.state == TxnPrepareAbort || t.state == TxnCompleteAbort
}

func (t *txn) endAsked(who ProducerIdentity, commit, bump bool, done func(ProducerIdentity, error)) {
	if t.stale() {
		done(ProducerIdentity{-1, -1}, ErrNotLeader)
		return
	}
	if _, err := t.l.checkTxn(t.key, who); err != nil {
		done(ProducerIdentity{-1, -1}, err)
		return
	}
	now := func(err error) { done(ProducerIdentity{t.producer, t.epoch}, err) }
	switch {
	case t.state == TxnOngoing, t.state == TxnEmpty && bump && !commit:
	case !bump && (commit && t.state == TxnCompleteCommit || !commit && t.state == TxnCompleteAbort):
		// Asked again. But it may be the end of another transaction, which a later coordinator has begun, while this one takes itself for the one: it has the log say
		// that it is.
		if t.s.rep == nil {
			now(nil)
		} else {
			t.save(now)
		}
		return
	case bump && !commit && (t.state == TxnCompleteCommit || t.state == TxnCompleteAbort):
		t.partitions, t.groups = nil, nil // an empty one
	default:
		now(ErrInvalidTxnState)
		return
	}
	epoch, last := t.epoch, t.last
	if bump && t.epoch < math.MaxInt16-1 {
		t.last, t.epoch = t.epoch, t.epoch+1
	}
	t.end(commit, func(err error) {
		if err != nil { // nothing was decided: the producer asks again as it is
			t.epoch, t.last = epoch, last
		}
		now(err)
	})
}
