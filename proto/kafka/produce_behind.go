package kafka

import (
	"errors"
	"math"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// A client has several batches under way. When one of them fails for the moment, as its leader went, those behind it are refused, too; and once the client has heard of
// all, it sends them again from the first on. Where this node can take batches again before it has read the last of those, it would call that one out of order: there is a
// gap before it. It is true, and Kafka says so; but a client of librdkafka begins a new epoch then, in all partitions at once, and what it was told in doubt about, and is
// stored, it sends as new. So a batch behind a gap that this connection was told of is answered like the one that left the gap. It is also if there is no gap, as the log had
// the one that failed, and nobody else can have led since: the partition knows five batches, and the client may send as many new ones beside the one that it sends again.

// appender is what a connection that produces has.
type appender struct {
	*broker.Appender
	gaps map[*broker.Partition]failedBatch
}

// failedBatch is the first of a producer's batches that could not be stored for the moment.
type failedBatch struct {
	producer int64
	epoch    int16
	first    int32 // its first sequence
	code     wire.ErrorCode
	told     int   // to so many batches behind it
	leader   int32 // the epoch of the partition's leader then
	own      bool  // which was this node
}

// failed notes what a batch was answered with, if it is to be sent again.
func (c *conn) failed(part *broker.Partition, producer int64, epoch int16, first int32, code wire.ErrorCode) {
	switch code {
	case wire.NotLeaderOrFollower, wire.NotEnoughReplicas, wire.KafkaStorageError, wire.RequestTimedOut: // the last for want of room
	default:
		return
	}
	if producer == record.NoProducer {
		return
	}
	if f, ok := c.appender.gaps[part]; ok && f.producer == producer && f.epoch == epoch && beyond(first, f.first) {
		return
	}
	if c.appender.gaps == nil {
		c.appender.gaps = make(map[*broker.Partition]failedBatch)
	}
	pl := c.l.h.view().of(part)
	c.appender.gaps[part] = failedBatch{producer: producer, epoch: epoch, first: first, code: code, leader: pl.Epoch, own: pl.Leader == c.l.h.nodeID}
}

// refused is failed for a batch of which nothing was looked at yet.
func (c *conn) refused(part *broker.Partition, records []byte, code wire.ErrorCode) {
	if b, _, err := record.ParseBatch(records); err == nil {
		c.failed(part, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), code)
	}
}

// behind says whether a batch comes behind one that has failed, and what it is answered with for that alone. None: it may be in order, as the client may have sent that one
// again to another leader.
func (c *conn) behind(pl *Placement, part *broker.Partition, b record.Batch) (behind bool, code wire.ErrorCode) {
	f, ok := c.appender.gaps[part]
	if !ok || f.producer != b.ProducerID() || f.epoch != b.ProducerEpoch() || !beyond(b.BaseSequence(), f.first) {
		return false, wire.None
	}
	if pl.Epoch == f.leader || f.own && pl.Epoch == f.leader+1 {
		code = c.tell(part, f)
	}
	return true, code
}

// tell is the answer to a batch behind one that has failed. None: more were told than can have been under way, so the client does not send that one again.
func (c *conn) tell(part *broker.Partition, f failedBatch) wire.ErrorCode {
	if f.told++; f.told > pipelined {
		delete(c.appender.gaps, part)
		return wire.None
	}
	c.appender.gaps[part] = f
	return f.code
}

// appendFault is what a batch is answered with that the core has refused, or has taken: then there is no gap any more.
func (c *conn) appendFault(part *broker.Partition, b record.Batch, behind bool, err error) wire.ErrorCode {
	code := codeOf(err)
	switch {
	case len(c.appender.gaps) == 0 && err == nil:
	case errors.Is(err, broker.ErrOutOfOrderSequence) && behind:
		if f, ok := c.appender.gaps[part]; ok {
			if told := c.tell(part, f); told != wire.None {
				return told
			}
		}
	case err == nil:
		if f, ok := c.appender.gaps[part]; ok && f.producer == b.ProducerID() && (behind || f.epoch != b.ProducerEpoch() || f.first == b.BaseSequence()) {
			delete(c.appender.gaps, part)
		}
	default:
		c.failed(part, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), code)
	}
	return code
}

// beyond says whether a sequence comes behind another one. They wrap around at 2^31.
func beyond(a, b int32) bool {
	d := (int64(a) - int64(b)) & math.MaxInt32
	return d > 0 && d < 1<<30
}
