package broker

import (
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/sluicemq/sluice/journal/record"
)

// Compactor is the journal as compaction sees it. A StreamLog that is one compacts topics whose cleanup.policy says so.
type Compactor interface {
	// Dirt tells what compaction of p would find. It does not wait for the disk.
	Dirt(p record.PartitionID) Dirt
	// Compact makes one pass over a partition. It takes its time.
	Compact(r CompactRequest) (CompactResult, error)
	// Rotate has the log go on in its next segment soon, and the checkpoint behind it, so that compaction can look at what is there.
	Rotate()
}

// Dirt is what compaction has to do in a partition.
type Dirt struct {
	Clean, Dirty, Waiting int64 // bytes that it has written, that it has not, and that it cannot look at yet
	Since                 int64 // time of the first that it has not written, in Unix milliseconds; MaxInt64: there is none
}

// CompactRequest asks for one pass of compaction.
type CompactRequest struct {
	Partition        record.PartitionID
	End              record.Offset // nothing at or behind it is looked at
	Young            int64         // the pass ends at the first batch with a record of that time or a later one; Unix milliseconds
	Now, KeepDeletes int64         // deletions stay from now on for so many milliseconds after they were first met; below 0: for good
	Aborted          []AbortedRange
}

// AbortedRange is an aborted transaction of a partition: its producer's records from First to the marker at Last.
type AbortedRange struct {
	Producer    int64
	First, Last record.Offset
}

// CompactResult is what a pass did.
type CompactResult struct {
	Until         record.Offset // everything below it is compacted
	Read, Written int64         // bytes
	// Ended are the markers of aborted transactions of which nothing is left.
	Ended []record.Offset
}

// compactor runs passes, one at a time, on a goroutine that is there while there is something to do.
type compactor struct {
	b  *Broker
	mu struct {
		sync.Mutex
		queue   []*Partition
		running bool
		shut    bool
	}
	done sync.WaitGroup
}

// submit queues a partition, once.
func (c *compactor) submit(p *Partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.shut || p.compacting {
		return
	}
	p.compacting = true
	c.mu.queue = append(c.mu.queue, p)
	if !c.mu.running {
		c.mu.running = true
		c.done.Add(1)
		go c.run()
	}
}

func (c *compactor) run() {
	defer c.done.Done()
	for {
		c.mu.Lock()
		if len(c.mu.queue) == 0 || c.mu.shut {
			c.mu.queue, c.mu.running = nil, false
			c.mu.Unlock()
			return
		}
		p := c.mu.queue[0]
		c.mu.queue = slices.Delete(c.mu.queue, 0, 1)
		c.mu.Unlock()
		if err := c.b.compact(p); err != nil && !errors.Is(err, ErrClosed) {
			c.b.logger.Error("a partition cannot be compacted", "topic", p.topic.Name(), "partition", p.index, "err", err)
		}
		c.mu.Lock()
		p.compacting = false
		c.mu.Unlock()
	}
}

func (c *compactor) close() {
	c.mu.Lock()
	c.mu.shut = true
	c.mu.Unlock()
	c.done.Wait()
}

// busy says whether a pass waits or runs.
func (c *compactor) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.running
}

// considerCompaction looks whether a partition is to be compacted now, as Kafka's cleaner does: when enough of it is dirty, or for too long.
func (l *Local) considerCompaction(p *Partition, now int64) {
	c, ok := l.b.streams.(Compactor)
	cfg := &p.topic.Spec().Config
	if !ok || !cfg.Compact || p.topic.Dropped() || l.b.tier.used && cfg.Tier == TierImmediate {
		return // what goes to a store at once is compacted there
	}
	d := c.Dirt(p.id)
	age := int64(0)
	if d.Since != math.MaxInt64 {
		age = now - d.Since
	}
	late := cfg.MaxCompactionLagMillis > 0 && age > cfg.MaxCompactionLagMillis
	if d.Dirty > 0 && age >= cfg.MinCompactionLagMillis && (late || float64(d.Dirty) >= cfg.MinCleanableDirtyRatio*float64(d.Clean+d.Dirty)) {
		l.b.compaction.submit(p)
	}
	// What lies in the segment that is written to waits for its end. A topic's own segments would have ended by now.
	old := late || cfg.SegmentMillis > 0 && age > cfg.SegmentMillis
	if d.Waiting > 0 && (d.Dirty == 0 && old || cfg.SegmentBytes > 0 && d.Waiting >= cfg.SegmentBytes) {
		c.Rotate()
	}
}

// compact makes one pass over a partition.
func (b *Broker) compact(p *Partition) error {
	c, ok := b.streams.(Compactor)
	cfg := &p.topic.Spec().Config
	if !ok || !cfg.Compact || p.topic.Dropped() {
		return nil
	}
	now := b.nowMilli()
	r := CompactRequest{Partition: p.id, Now: now, KeepDeletes: cfg.DeleteRetentionMillis, Young: math.MaxInt64}
	if cfg.MinCompactionLagMillis > 0 {
		r.Young = now - cfg.MinCompactionLagMillis + 1
	}
	if b.tier.used && (cfg.Tier != TierNone || b.TieredEnd(p) > 0) {
		r.KeepDeletes = -1 // older records of the key may lie in the store, or be on their way
	}
	s := p.shard
	s.mu.Lock()
	r.End = p.LastStable()
	for _, a := range p.mu.aborted {
		r.Aborted = append(r.Aborted, AbortedRange{a.producer, a.first, a.last})
	}
	s.mu.Unlock()
	res, err := c.Compact(r)
	b.stats.Compactions.Add(1)
	b.stats.CompactedBytes.Add(res.Read - res.Written)
	if len(res.Ended) > 0 {
		s.mu.Lock()
		p.forgetAbortedLocked(res.Ended)
		s.mu.Unlock()
	}
	return err
}

// forgetAbortedLocked forgets aborted transactions by their markers, which no reader meets any more.
func (p *Partition) forgetAbortedLocked(markers []record.Offset) {
	list, saved := p.mu.aborted[:0], 0
	for i, a := range p.mu.aborted {
		if _, ended := slices.BinarySearch(markers, a.last); ended {
			if i < p.mu.abortedSaved {
				p.shard.mu.rows.goneKeys = append(p.shard.mu.rows.goneKeys, abortedKey(p.id, a.last))
			}
			continue
		}
		if i < p.mu.abortedSaved {
			saved++
		}
		list = append(list, a)
	}
	p.mu.aborted, p.mu.abortedSaved = list, saved
}

// ForgetAborted forgets the aborted transactions of a partition that end below an offset: of their records nothing is left, here or in a store.
func (b *Broker) ForgetAborted(p *Partition, below record.Offset) {
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	var markers []record.Offset
	for _, a := range p.mu.aborted {
		if a.last >= below {
			break // they are in the order of their ends
		}
		markers = append(markers, a.last)
	}
	if len(markers) > 0 {
		p.forgetAbortedLocked(markers)
	}
}
