package broker

import (
	"sync/atomic"

	"github.com/sluicemq/sluice/journal/record"
)

// Partition is one ordered log of a topic. It belongs to a shard, whose lock guards mu and whose home loop applies what was
// committed. An idle one costs this struct and nothing else.
type Partition struct {
	id    record.PartitionID
	topic *Topic
	shard *shard
	index int32

	compacting bool // guarded by the compactor's lock

	// What readers see. It moves under the shard's lock; any goroutine reads it without.
	highWatermark, lastStable, logStart atomic.Int64
	bytes                               atomic.Int64 // of the batches that were applied in this run

	// open are the bindings by which MQTT subscribers get the partition's records, nil if they do not. relayed is up to where they did: -1 where
	// that is not known. until is where that ends, of a partition that nothing binds any more; stillBound if that is not so. relay is the home loop's.
	// What lies before loose was written before a binding went, or before the start: what has been published directly since may be younger. open and until, and relayed where it
	// moves back, change under the shard's lock.
	open                  atomic.Pointer[[]*Binding]
	relayed, until, loose atomic.Int64
	relay                 *relay

	mu struct {
		next         record.Offset // of the next record that is appended
		watchers     watchList
		producers    producerTable
		open         []openTxn     // by where they begin
		aborted      []abortedTxn  // by where they end
		abortedSaved int           // of them the checkpoint has so many
		moved        bool          // the log start has, since the last checkpoint
		gone         bool          // its topic was dropped
		listed       bool          // in the shard's list of those that changed since the last checkpoint
		relayedSaved bool          // the checkpoint has a row of it
		restored     record.Offset // what lies below was restored from a store: the log need not have it
		building     int32         // the place, from 1 on, of the batch that is open in the shard's list
	}
}

// ID is the number under which the journal keeps the partition.
func (p *Partition) ID() record.PartitionID { return p.id }

// Index is the partition's number in its topic.
func (p *Partition) Index() int32 { return p.index }

// Shard is the shard that the partition belongs to.
func (p *Partition) Shard() record.ShardID { return p.shard.id }

// Topic is the topic that it belongs to.
func (p *Partition) Topic() *Topic { return p.topic }

// HighWatermark is behind the last record that readers see.
func (p *Partition) HighWatermark() record.Offset { return record.Offset(p.highWatermark.Load()) }

// LastStable is behind the last record whose transaction is decided.
func (p *Partition) LastStable() record.Offset { return record.Offset(p.lastStable.Load()) }

// LogStart is the first offset that readers may ask for.
func (p *Partition) LogStart() record.Offset { return record.Offset(p.logStart.Load()) }

// PartitionBytes is how many bytes of a partition's records are stored, headers of the log included.
func (b *Broker) PartitionBytes(p *Partition) int64 { return b.streams.Size(p.id) }

// PartitionLocalBytes is PartitionBytes without what lies in a store alone.
func (b *Broker) PartitionLocalBytes(p *Partition) int64 { return b.streams.LocalSize(p.id) }

func (b *Broker) newPartition(t *Topic, index int32, ps PartitionSpec) *Partition {
	s := b.shards[ps.Shard]
	p := &Partition{id: ps.ID, topic: t, index: index, shard: s}
	p.relayed.Store(notRelayed)
	p.until.Store(stillBound)
	s.mu.Lock()
	s.mu.streams = append(s.mu.streams, p)
	s.mu.Unlock()
	b.stats.Partitions.Add(1)
	if b.recovering || b.opts.Replicated {
		b.claimRows(p)
		b.claimEnd(p)
	}
	return p
}

// revivePartitions has every partition begin and end where the log does, and forgets what the log or the checkpoint has of others. Before
// the loops run.
func (b *Broker) revivePartitions() {
	b.topicTable.partitions.Range(func(_, v any) bool {
		p := v.(*Partition)
		start, end := b.boundsOf(p.id)
		known := p.LogStart()
		if known > start || known > 0 && b.tier.used { // a manifest is to know all of them: an object that is on its way may come later
			b.log.SetLogStart(p.id, known)
		}
		s := p.shard
		s.mu.Lock()
		p.mu.next = max(p.mu.next, end, p.mu.restored, known) // the log forgets where a partition ended of which it has nothing
		p.highWatermark.Store(int64(p.mu.next))
		p.logStart.Store(min(max(p.logStart.Load(), int64(start)), int64(p.mu.next)))
		p.lastStable.Store(int64(p.stableLocked()))
		s.mu.Unlock()
		return true
	})
	if b.opts.Replicated {
		b.keepUnknown()
		return
	}
	b.dropStrayRows()
	for _, id := range b.streams.Partitions() {
		if id > record.PartitionID(len(b.homes)) && b.partition(id) == nil {
			b.log.DropPartition(id) // its topic went just before the last run ended
		}
	}
}

// partitionEnds is where a partition began and ended when the log was opened.
type partitionEnds struct{ start, end record.Offset }

// boundsOf are the log's, without what waits for the high watermark.
func (b *Broker) boundsOf(id record.PartitionID) (start, end record.Offset) {
	start, end = b.streams.Bounds(id)
	if !b.opts.Replicated {
		return start, end
	}
	for _, s := range b.shards {
		end = s.rep.endOf(id, end)
	}
	return start, end
}

// keepUnknown remembers of partitions that shard 0 has yet to make where they end, and keeps their rows, for its frames may come later than theirs.
func (b *Broker) keepUnknown() {
	next := b.homes[0].mu.nextPartition
	for _, id := range b.streams.Partitions() {
		if id <= record.PartitionID(len(b.homes)) || b.partition(id) != nil {
			continue
		}
		if id < next {
			b.log.DropPartition(id)
			continue
		}
		start, end := b.boundsOf(id)
		b.met(id)
		if b.unknown == nil {
			b.unknown = make(map[record.PartitionID]partitionEnds)
		}
		b.unknown[id] = partitionEnds{start, end}
	}
}

// claimEnd gives a new partition its end, if it was there when the log was opened.
func (b *Broker) claimEnd(p *Partition) {
	e, ok := b.unknown[p.id]
	if !ok {
		return
	}
	delete(b.unknown, p.id)
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	p.mu.next = max(p.mu.next, e.end, p.LogStart())
	p.highWatermark.Store(int64(p.mu.next))
	p.logStart.Store(min(max(p.logStart.Load(), int64(e.start)), int64(p.mu.next)))
	p.lastStable.Store(int64(p.stableLocked()))
}

// dropPartition tells the journal that nobody needs the partition's records any more, and those who wait for more that there is none.
func (b *Broker) dropPartition(p *Partition) {
	if b.log != nil && !b.recovering {
		b.log.DropPartition(p.id)
	}
	s := p.shard
	var told []post
	var whom []*Local
	s.mu.Lock()
	for i, other := range s.mu.streams {
		if other == p {
			n := len(s.mu.streams) - 1
			s.mu.streams[i] = s.mu.streams[n]
			s.mu.streams[n] = nil
			s.mu.streams = s.mu.streams[:n]
			break
		}
	}
	b.stats.Partitions.Add(-1)
	p.forgetRowsLocked()
	p.wokenLocked(true, func(to *Local, what post) { whom, told = append(whom, to), append(told, what) })
	s.mu.Unlock()
	for i, l := range whom {
		l.post(told[i])
	}
}
