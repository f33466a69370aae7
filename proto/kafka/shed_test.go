package kafka

import (
	"math"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
)

// Behind a batch that was not stored nothing of its producer is taken before it, on that connection and that partition; others are, and what was sent before it.
func TestShedBatches(t *testing.T) {
	batch := func(id int64, epoch int16, first int32) record.Batch {
		var b record.BatchBuilder
		b.Begin(nil, 1)
		b.Append(&record.Input{Value: []byte("v"), Timestamp: 1})
		o := record.BatchOptions{}
		if id >= 0 {
			o.Producer = record.Producer{Known: true, ID: id, Epoch: epoch, Sequence: first}
		}
		return b.Finish(&o)
	}
	c, p, q := new(conn), new(broker.Partition), new(broker.Partition)
	if c.shed(p, batch(-1, 0, 0)); c.left != nil {
		t.Error("one without a producer is noted")
	}
	last := int32(math.MaxInt32)
	c.shed(p, batch(7, 1, last))
	c.shed(p, batch(7, 1, 3)) // behind it
	for _, k := range []struct {
		p     *broker.Partition
		id    int64
		epoch int16
		first int32
		skips bool
	}{{p, 7, 1, last, false}, {p, 7, 1, last - 1, false}, {p, 7, 1, 0, true}, {p, 7, 1, 3, true}, {p, 7, 2, 3, false}, {p, 8, 1, 3, false}, {q, 7, 1, 3, false}} {
		if got := c.skips(k.p, batch(k.id, k.epoch, k.first)); got != k.skips {
			t.Errorf("%d.%d from %d: skips %v", k.id, k.epoch, k.first, got)
		}
	}
	if c.unshed(p, batch(7, 1, 3)); len(c.left) != 1 {
		t.Error("another one has been taken")
	}
	if c.unshed(p, batch(7, 1, last)); c.left != nil || c.skips(p, batch(7, 1, 3)) {
		t.Error("it has been taken, and is noted yet")
	}
	for i := range shedMost + 1 {
		c.shed(p, batch(int64(i), 1, 0))
	}
	if len(c.left) != shedMost {
		t.Errorf("%d are noted", len(c.left))
	}
}
