package broker

import (
	"github.com/sluicemq/sluice/journal/record"
)

// Leading says whether this node takes commands for all home shards. One that is alone does. It takes no lock. Any goroutine.
func (b *Broker) Leading() bool {
	return !b.opts.Replicated || b.openShards.Load() == int32(len(b.homes))
}

// EpochEnd finds where the records end that the partition has of a leader's epoch, or of earlier ones: where those of the next epoch begin, or the
// partition ends. of is the last epoch up to this one that it has records of; epoch itself if it has none so early. done runs once, on this loop, or
// at once with what refuses it: ErrBusy.
func (l *Local) EpochEnd(p *Partition, epoch record.Epoch, done func(of record.Epoch, end record.Offset, err error)) {
	l.b.read(p, func() {
		of, end, err := l.b.epochEnd(p, epoch)
		l.Run(func() { done(of, end, err) })
	}, func(err error) { done(0, -1, err) })
}

// epochEnd halves what readers see: epochs never fall with the offsets. The batch at an offset may begin behind it, where records were compacted away.
func (b *Broker) epochEnd(p *Partition, epoch record.Epoch) (of record.Epoch, end record.Offset, err error) {
	low, high := p.LogStart(), p.HighWatermark() // what lies below low is not of a later epoch, what lies from high on is none that is looked for
	of, end = epoch, high
	for low < high {
		middle := low + (high-low)/2
		below, above := low, high
		high = middle // unless an earlier epoch's batch is found there
		err := b.log.Read(p.id, max(middle, p.LogStart()), func(batch record.Batch) bool {
			switch first := batch.BaseOffset(); {
			case first >= above:
			case batch.LeaderEpoch() <= epoch:
				of, low = batch.LeaderEpoch(), batch.NextOffset()
			default:
				end = max(first, below)
				high = max(min(middle, first), below)
			}
			return false
		})
		if err != nil {
			return 0, -1, err
		}
		if low > middle {
			high = above
		}
	}
	return of, end, nil
}
