package broker

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// StreamLimits bound what streams keep beside their records. A zero means the default beside it.
type StreamLimits struct {
	ProducerExpiry     time.Duration // how long a producer that is silent is known: 24 h
	PartitionProducers int           // of one partition: 100,000
	Producers          int           // of the node, counted once for each partition: 2,000,000
	RetentionInterval  time.Duration // how often a partition's retention is looked at: 30 s
}

func (s StreamLimits) withDefaults() StreamLimits {
	orDuration(&s.ProducerExpiry, 24*time.Hour)
	orDuration(&s.RetentionInterval, 30*time.Second)
	if s.PartitionProducers == 0 {
		s.PartitionProducers = 100_000
	}
	if s.Producers == 0 {
		s.Producers = 2_000_000
	}
	return s
}

// DeleteRecords moves the log start of a partition to before, or to the high watermark for -1. done is called once, on this loop, when it is in
// the log.
func (l *Local) DeleteRecords(p *Partition, before record.Offset, done func(logStart record.Offset, err error)) {
	if before == -1 {
		before = p.HighWatermark()
	}
	switch {
	case p.topic.Dropped():
		done(-1, ErrUnknownTopic)
		return
	case before < 0 || before > p.HighWatermark():
		done(-1, ErrOffsetOutOfRange)
		return
	case before <= p.LogStart():
		done(p.LogStart(), nil)
		return
	}
	err := l.b.command(p.shard, logStartCommand(p.id, before), entry{
		done:   func() { l.Run(func() { done(p.LogStart(), nil) }) },
		failed: func(err error) { l.Run(func() { done(-1, err) }) },
	})
	if err != nil {
		done(-1, err)
	}
}

func logStartCommand(p record.PartitionID, start record.Offset) []byte {
	cmd := binary.AppendUvarint(nil, cmdLogStart)
	cmd = binary.AppendUvarint(cmd, uint64(p))
	return binary.AppendUvarint(cmd, uint64(start))
}

// applyLogStart lets go of the records before an offset.
func (s *shard) applyLogStart(b *Broker, id record.PartitionID, start record.Offset) {
	if s.set == 0 && id == unboundPartition(s.id) {
		s.applyNeeded(b, uint64(start))
		return
	}
	p := b.partition(id)
	if p == nil {
		return
	}
	s.mu.Lock()
	if !b.recovering { // until then the high watermark is not known
		start = min(start, p.HighWatermark())
	}
	if start <= p.LogStart() {
		s.mu.Unlock()
		return
	}
	p.logStart.Store(int64(start))
	p.trimAbortedLocked(start)
	p.mu.moved = true
	p.touchLocked()
	s.mu.Unlock()
	b.log.SetLogStart(id, start)
}

// sweepStreams looks at a part of the shard's partitions each second: records and producers whose time is over, which the leader alone says, and
// what each replica compacts of its own log.
func (l *Local) sweepStreams(s *shard, lim *StreamLimits, now int64, leads bool) {
	s.mu.Lock()
	n := len(s.mu.streams)
	if n == 0 {
		s.mu.Unlock()
		return
	}
	turn := max(n*int(time.Second)/int(max(lim.RetentionInterval, time.Second)), 1)
	l.sweeping = l.sweeping[:0]
	for range min(turn, n) {
		if s.mu.swept >= n {
			s.mu.swept = 0
		}
		l.sweeping = append(l.sweeping, s.mu.streams[s.mu.swept])
		s.mu.swept++
	}
	s.mu.Unlock()
	for i, p := range l.sweeping {
		if leads {
			l.retain(p, now)
			l.expireProducers(p, lim, now)
		}
		l.considerCompaction(p, now)
		l.sweeping[i] = nil
	}
}

// retain moves the log start over what the topic's configuration does not keep. Not written, it is found again the next time.
func (l *Local) retain(p *Partition, now int64) {
	cfg := &p.topic.Spec().Config
	if !cfg.Delete || cfg.RetentionMillis < 0 && cfg.RetentionBytes < 0 {
		return
	}
	before, bytes := int64(-1<<63), int64(1<<63-1)
	if cfg.RetentionMillis >= 0 {
		before = now - cfg.RetentionMillis
	}
	if cfg.RetentionBytes >= 0 {
		bytes = cfg.RetentionBytes
	}
	start := min(l.b.streams.Excess(p.id, before, bytes), p.HighWatermark())
	if start > p.LogStart() {
		_ = l.b.command(p.shard, logStartCommand(p.id, start), entry{done: func() {}, failed: func(error) {}})
	}
}

// expireProducers forgets producers that have been silent for long, and the most silent ones where there are too many.
func (l *Local) expireProducers(p *Partition, lim *StreamLimits, now int64) {
	before := now - lim.ProducerExpiry.Milliseconds()
	s := p.shard
	s.mu.Lock()
	p.forgetFailedLocked(before)
	rows := p.mu.producers.rows
	oldest := int64(1<<63 - 1)
	for i := range rows {
		if rows[i].state.epoch >= 0 && rows[i].state.txn == noOffset {
			oldest = min(oldest, rows[i].state.at)
		}
	}
	if most := l.b.producersAllowed(lim); len(rows) > most {
		before = max(before, p.silentSinceLocked(len(rows)-most+most/8))
	}
	s.mu.Unlock()
	if oldest >= before {
		return
	}
	cmd := binary.AppendUvarint(nil, cmdProducersGone)
	cmd = binary.AppendUvarint(cmd, uint64(p.id))
	_ = l.b.command(s, binary.AppendUvarint(cmd, uint64(before)), entry{done: func() {}, failed: func(error) {}})
}

// forgetFailedLocked forgets producers of whom nothing was ever committed.
func (p *Partition) forgetFailedLocked(before int64) {
	for i := 0; i < len(p.mu.producers.rows); {
		r := &p.mu.producers.rows[i]
		if r.state.epoch >= 0 || r.announced >= 0 || r.ahead != nil && (r.ahead.pending > 0 || r.ahead.state.at >= before) {
			i++
			continue
		}
		p.shard.home.b.stats.Producers.Add(-1)
		p.mu.producers.remove(i)
	}
}

// producersAllowed is how many producers a partition may keep: less once the node has many.
func (b *Broker) producersAllowed(lim *StreamLimits) int {
	most := lim.PartitionProducers - lim.PartitionProducers/8
	if b.stats.Producers.Load() > int64(lim.Producers-lim.Producers/8) {
		return min(most, max(lim.Producers/16/max(int(b.stats.Partitions.Load()), 1), 1))
	}
	return most
}

// silentSinceLocked is a time before which at least n producers were heard last, as far as they are not in a transaction.
func (p *Partition) silentSinceLocked(n int) int64 {
	var at []int64
	for i := range p.mu.producers.rows {
		if st := &p.mu.producers.rows[i].state; st.epoch >= 0 && st.txn == noOffset {
			at = append(at, st.at)
		}
	}
	if len(at) == 0 {
		return 0
	}
	slices.SortFunc(at, cmp.Compare)
	return at[min(n, len(at))-1] + 1
}

// applyProducersGone forgets the producers of a partition that were heard last before a time and have no transaction open.
func (s *shard) applyProducersGone(b *Broker, id record.PartitionID, before int64) {
	p := b.partition(id)
	if p == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(p.mu.producers.rows); {
		r := &p.mu.producers.rows[i]
		if r.state.epoch < 0 || r.state.at >= before || r.state.txn != noOffset {
			i++
			continue
		}
		s.mu.rows.goneKeys = append(s.mu.rows.goneKeys, producerKey(p.id, r.id))
		if r.ahead != nil || r.announced >= 0 { // more of it is on its way
			r.state, r.dirty = unknownProducer, false
			i++
			continue
		}
		b.stats.Producers.Add(-1)
		p.mu.producers.remove(i)
	}
}
