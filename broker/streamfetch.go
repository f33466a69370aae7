package broker

import (
	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
)

// StreamFetch is what a read of a partition has found. Its zero value is ready; reuse it to allocate nothing.
type StreamFetch struct {
	Err error // ErrUnknownTopic, ErrOffsetOutOfRange, or what the disk said
	// HighWatermark is behind the last record that readers see, LastStable behind the last one whose transaction is decided, LogStart the
	// first that is there.
	HighWatermark, LastStable, LogStart record.Offset
	// Batches are whole stored batches, the first of which may begin below the offset asked for. They are views of the log's memory, which
	// stays as it is while Ref is held; Release lets go.
	Batches [][]byte
	Ref     alloc.Ref
	Bytes   int
	Aborted []AbortedTxn // among them, for a reader of committed records
}

// AbortedTxn is a transaction whose records such a reader leaves out.
type AbortedTxn struct {
	ProducerID int64
	First      record.Offset
}

// Release lets go of the batches. Offsets and Err stay.
func (f *StreamFetch) Release() {
	if f.Ref != nil {
		f.Ref.Release()
		f.Ref = nil
	}
	clear(f.Batches)
	f.Batches, f.Bytes, f.Aborted = f.Batches[:0], 0, f.Aborted[:0]
}

// FetchTail reads from memory, up to maxBytes but at least one batch; 0 reads none. cold: what is asked for lies on the disk, FetchCold
// gets it. It never blocks. f is released first.
func (l *Local) FetchTail(p *Partition, from record.Offset, maxBytes int, committed bool, f *StreamFetch) (cold bool) {
	return l.b.streamFetch(p, from, maxBytes, committed, f, true)
}

// FetchCold is FetchTail for what lies on the disk: it reads in the bounded pool, and done runs on this loop. f belongs to the pool until then.
func (l *Local) FetchCold(p *Partition, from record.Offset, maxBytes int, committed bool, f *StreamFetch, done func()) {
	l.b.fetcher.submit(fetchJob{run: func() {
		l.b.streamFetch(p, from, maxBytes, committed, f, false)
		l.Run(done)
	}})
}

func (b *Broker) streamFetch(p *Partition, from record.Offset, maxBytes int, committed bool, f *StreamFetch, tail bool) (cold bool) {
	f.Release()
	f.Err = nil
	s := p.shard
	s.mu.Lock()
	hw, lso := p.mu.highWatermark, p.lastStableLocked()
	s.mu.Unlock()
	f.LogStart = b.logStart(p)
	f.HighWatermark, f.LastStable = hw, lso
	switch {
	case p.topic.Dropped():
		f.Err = ErrUnknownTopic
		return false
	case from < f.LogStart || from > hw:
		f.Err = ErrOffsetOutOfRange
		return false
	}
	end := hw
	if committed {
		end = lso
	}
	if from >= end || maxBytes <= 0 {
		return false
	}
	var ok bool
	f.Batches, f.Ref, ok, f.Err = b.log.ReadBatches(p.id, from, maxBytes, tail, f.Batches)
	if f.Err != nil || !ok {
		return f.Err == nil
	}
	f.cut(end)
	if committed {
		p.abortedBetween(from, f)
	}
	return false
}

// cut leaves out what lies behind the end that readers may see.
func (f *StreamFetch) cut(end record.Offset) {
	n := len(f.Batches)
	for n > 0 && record.Batch(f.Batches[n-1]).BaseOffset() >= end {
		n--
	}
	clear(f.Batches[n:])
	f.Batches = f.Batches[:n]
	for _, b := range f.Batches {
		f.Bytes += len(b)
	}
	if n == 0 && f.Ref != nil {
		f.Ref.Release()
		f.Ref = nil
	}
}

// FoundOffset answers OffsetAt. Offset -1: there is none.
type FoundOffset struct {
	Offset    record.Offset
	Timestamp int64
}

// What OffsetAt takes in place of a time, Kafka's numbers.
const (
	LatestOffset        = -1
	EarliestOffset      = -2
	MaxTimestampOffset  = -3
	EarliestLocalOffset = -4
	LatestTieredOffset  = -5
)

// OffsetAt finds an end of a partition, or the first record with this time or a later one, in Unix milliseconds. done runs once, on this
// loop or, for the ends, at once.
func (l *Local) OffsetAt(p *Partition, at int64, committed bool, done func(FoundOffset, error)) {
	s := p.shard
	s.mu.Lock()
	hw, end := p.mu.highWatermark, p.mu.highWatermark
	if committed {
		end = p.lastStableLocked()
	}
	s.mu.Unlock()
	switch {
	case at == LatestOffset:
		done(FoundOffset{end, -1}, nil)
	case at == EarliestOffset || at == EarliestLocalOffset:
		done(FoundOffset{l.b.logStart(p), -1}, nil)
	case at == LatestTieredOffset:
		done(FoundOffset{-1, -1}, nil)
	case at < MaxTimestampOffset:
		done(FoundOffset{-1, -1}, ErrInvalidRequest)
	default:
		l.b.fetcher.submit(fetchJob{run: func() {
			found, err := l.b.searchTime(p, at, hw)
			l.Run(func() { done(found, err) })
		}})
	}
}

// searchTime walks the partition's batches for a time, or for the latest one.
func (b *Broker) searchTime(p *Partition, at int64, end record.Offset) (found FoundOffset, err error) {
	found = FoundOffset{-1, -1}
	if start := b.logStart(p); start >= end {
		return found, nil
	}
	err = b.log.Read(p.id, b.logStart(p), func(batch record.Batch) bool {
		if batch.BaseOffset() >= end {
			return false
		}
		if batch.Attributes()&record.Control != 0 {
			return true
		}
		switch ts := batch.MaxTimestamp(); {
		case at == MaxTimestampOffset:
			if ts > found.Timestamp {
				found = timeIn(batch, ts)
			}
		case ts >= at:
			found = timeIn(batch, at)
			return false
		}
		return true
	})
	return found, err
}

// timeIn finds the first record of a batch with this time or a later one. In a compressed one it is the batch's first: readers skip what
// comes before.
func timeIn(b record.Batch, at int64) FoundOffset {
	if b.Attributes()&record.LogAppendTime == 0 && !b.Attributes().Compressed() {
		for it := b.Records(); it.Next(); {
			if r := it.Record(); r.Timestamp >= at {
				return FoundOffset{r.Offset, r.Timestamp}
			}
		}
	}
	return FoundOffset{b.BaseOffset(), b.MaxTimestamp()}
}
