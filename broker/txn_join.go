package broker

import "errors"

// JoinTxn has the coordinator let a producer's batches into partitions that have refused them with ErrTxnNotAnnounced: their leader is new, or the partitions
// are. With verify they have to be part of the transaction already, else they become it, as by AddToTxn. done runs on the coordinator's loop when the partitions take the
// batches. Errors: those of AddToTxn; ErrTxnNotAnnounced if verify finds one that is none of the transaction's; ErrInvalidProducerEpoch; ErrNotLeader, which is the
// coordinator's or a partition's: come again. Any goroutine.
func (b *Broker) JoinTxn(tenant uint32, id string, who ProducerIdentity, parts []TopicPartition, verify bool, done func(error)) {
	b.onTxn(tenant, id, func(l *Local, s *shard) {
		if !s.leads() {
			done(ErrNotLeader)
			return
		}
		t, err := l.checkTxn(txnKey{tenant, id}, who)
		if err != nil {
			done(err)
			return
		}
		t.whenIdle(func() {
			if verify {
				t.verify(who, parts, joinResult(done))
				return
			}
			t.add(who, parts, "", joinResult(done))
		})
	})
}

// joinResult is done as who joins is told: what is none of its errors may be over soon.
func joinResult(done func(error)) announced {
	return func(refused, err error) {
		switch {
		case refused != nil:
			err = refused
		case err == nil, errors.Is(err, ErrInvalidProducerEpoch):
		default:
			err = ErrNotLeader
		}
		done(err)
	}
}

// addResult is done as who adds partitions is told. That one of them could not be reached is found by who produces to it, and mended by JoinTxn.
func addResult(done func(error)) announced { return func(refused, _ error) { done(refused) } }

// announced is told that partitions have become part of a transaction, or what refuses that; and whether they take the producer's batches.
type announced func(refused, err error)

// verify lets the producer's batches into partitions that are part of its transaction.
func (t *txn) verify(who ProducerIdentity, parts []TopicPartition, done announced) {
	if t.stale() {
		done(ErrNotLeader, nil)
		return
	}
	if _, err := t.l.checkTxn(t.key, who); err != nil {
		done(err, nil)
		return
	}
	for _, tp := range parts {
		if !t.takes(tp) {
			done(ErrTxnNotAnnounced, nil)
			return
		}
	}
	t.announce(parts, done)
}

// takes says whether a partition may be told of the transaction: its end will come there.
func (t *txn) takes(tp TopicPartition) bool {
	_, ok := t.partitions[tp]
	return ok && t.state == TxnOngoing && !t.ending && !t.stale()
}

// announcing is an announcement on its way to partitions that may be led elsewhere. It belongs to the coordinator's loop.
type announcing struct {
	t    *txn
	who  ProducerIdentity
	left int
	err  error
	done announced
}

// announce lets the producer's batches into partitions. done runs on the transactional id's loop; at once, where all are of home shards.
func (t *txn) announce(parts []TopicPartition, done announced) {
	var away []TopicPartition
	for _, tp := range parts {
		switch p := t.partition(tp); {
		case p == nil:
		case p.shard.ofStreams():
			away = append(away, tp)
		default:
			p.announceTxn(t.producer, t.epoch)
		}
	}
	if len(away) == 0 {
		done(nil, nil)
		return
	}
	a := &announcing{t: t, who: ProducerIdentity{t.producer, t.epoch}, left: len(away), done: done}
	for _, tp := range away {
		a.ask(tp, true)
	}
}

// ask tells one of them, again with a new serial if the one that it has is refused though the transaction is not over.
func (a *announcing) ask(tp TopicPartition, again bool) {
	t := a.t
	p := t.partition(tp)
	if p == nil || !t.takes(tp) || t.producer != a.who.ID || t.epoch != a.who.Epoch {
		a.answered(ErrNotLeader)
		return
	}
	serial := t.serial
	t.l.b.announceTo(p, a.who, serial, func(err error) {
		t.l.Run(func() {
			if !again || !errors.Is(err, ErrStaleTxn) {
				a.answered(err)
				return
			}
			if t.serial == serial && t.takes(tp) {
				t.serial = t.nextSerial()
			}
			a.ask(tp, false)
		})
	})
}

func (a *announcing) answered(err error) {
	if a.err == nil {
		a.err = err
	}
	if a.left--; a.left == 0 {
		a.done(nil, a.err)
	}
}

// partition finds a partition, nil if it is gone.
func (t *txn) partition(tp TopicPartition) *Partition {
	if topic := t.l.b.TopicByID(t.key.tenant, tp.Topic); topic != nil {
		return topic.Partition(tp.Partition)
	}
	return nil
}
