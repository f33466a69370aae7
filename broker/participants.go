package broker

import (
	"errors"

	"github.com/sluicemq/sluice/journal/record"
)

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

// TxnAnnounced is Participants.AnnounceTxn where it arrives. lead is the epoch of the shard's leader that was asked. Errors: ErrNotLeader if this node does not lead
// in that one, ErrStaleTxn, ErrInvalidProducerEpoch, ErrUnknownTopic, ErrInvalidRequest. Any goroutine.
func (b *Broker) TxnAnnounced(p *Partition, lead record.Epoch, who ProducerIdentity, serial uint64) error {
	return ErrNotLeader
}

// TxnEnded is Participants.EndTxn where it arrives. done runs once, on some loop or at once, when the end is committed or with what refuses it: the errors of
// TxnAnnounced, or ErrConcurrentTransactions if it is on its way already. A topic that is gone has nothing to end. Any goroutine.
func (b *Broker) TxnEnded(p *Partition, lead record.Epoch, who ProducerIdentity, serial uint64, commit bool, done func(error)) {
	done(ErrNotLeader)
}

// JoinTxn has the coordinator let a producer's batches into partitions that have refused them with ErrTxnNotAnnounced: their leader is new, or the partitions
// are. With verify they have to be part of the transaction already, else they become it, as by AddToTxn. done runs on the coordinator's loop when the partitions take the
// batches. Errors: those of AddToTxn; ErrTxnNotAnnounced if verify finds one that is none of the transaction's; ErrNotLeader, which is the coordinator's
// or a partition's: come again. Any goroutine.
func (b *Broker) JoinTxn(tenant uint32, id string, who ProducerIdentity, parts []TopicPartition, verify bool, done func(error)) {
	b.onTxn(tenant, id, func(_ *Local, _ *shard) { done(ErrNotLeader) })
}
