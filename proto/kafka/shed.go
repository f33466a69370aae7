package kafka

import (
	"math"
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
)

// shedBatch is a batch of an idempotent producer that was answered REQUEST_TIMED_OUT and not stored, as there was no room. Its producer sends it again; but what it has
// sent behind it before it heard of that comes first, and a partition that knows nothing of the producer takes any sequence. What else was sent so goes with the
// connection.
type shedBatch struct {
	part  *broker.Partition
	id    int64
	epoch int16
	first int32 // its sequence
}

// shedMost bounds those that a connection has. Beyond them a partition's own word on sequences counts alone.
const shedMost = 1 << 10

// shed notes that a batch was not stored.
func (c *conn) shed(p *broker.Partition, b record.Batch) {
	if b.ProducerID() == record.NoProducer || len(c.left) >= shedMost || c.shedAt(p, b) >= 0 {
		return
	}
	c.left = append(c.left, shedBatch{p, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()})
}

// shedAt is where the producer's batch that was not stored is noted; -1: there is none.
func (c *conn) shedAt(p *broker.Partition, b record.Batch) int {
	return slices.IndexFunc(c.left, func(s shedBatch) bool { return s.part == p && s.id == b.ProducerID() && s.epoch == b.ProducerEpoch() })
}

// skips says whether a batch comes behind one that was not stored.
func (c *conn) skips(p *broker.Partition, b record.Batch) bool {
	i := c.shedAt(p, b)
	if i < 0 {
		return false
	}
	behind := (b.BaseSequence() - c.left[i].first) & math.MaxInt32 // sequences wrap around at 2^31
	return behind > 0 && behind < 1<<30
}

// unshed forgets what was noted of a batch that is taken now.
func (c *conn) unshed(p *broker.Partition, b record.Batch) {
	if i := c.shedAt(p, b); i >= 0 && c.left[i].first == b.BaseSequence() {
		if c.left = slices.Delete(c.left, i, i+1); len(c.left) == 0 {
			c.left = nil
		}
	}
}
