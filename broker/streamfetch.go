package broker

import (
	"errors"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
)

// StreamFetch is what a read of a partition has found. Its zero value is ready; reuse it to allocate nothing.
type StreamFetch struct {
	// Copy asks for batches that the loop may look into: those of a mapped file are for system calls alone, which an encrypted connection
	// does not make with them. Set it before the read.
	Copy bool
	// Follows asks for what this node has as an in-sync follower in that epoch, 0: as the leader alone. A follower reads what it has applied, which is
	// committed, and not from a store. Set it before the read.
	Follows record.Epoch
	Ahead   bool // of a follower: the offset lies beyond what it knows to be committed. It may be there at the leader; WatchRead tells when it is here

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

	seen  int64 // bytes of the partition when it was read, or a little before
	store storeRead
}

// readFrom is how far a read goes.
type readFrom uint8

const (
	readTail  readFrom = iota // memory
	readLocal                 // and the disk
	readStore                 // and the store
)

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
	return l.b.streamFetch(p, from, maxBytes, committed, f, readTail)
}

// FetchCold is FetchTail for what lies on the disk, or in a store: it reads in the bounded pool for the one or the other, and done runs on this
// loop. f belongs to the pool until then. What a store does not give now is ErrTier.
func (l *Local) FetchCold(p *Partition, from record.Offset, maxBytes int, committed bool, f *StreamFetch, done func()) {
	b := l.b
	if f.Follows != 0 {
		l.followCold(p, from, maxBytes, committed, f, done)
		return
	}
	f.store = storeRead{run: func() {
		if b.streamFetch(p, from, maxBytes, committed, f, readStore) {
			f.Err = ErrTier
		}
		l.Run(done)
	}}
	toStore := func() {
		if ok, err := b.storePool.submit(&f.store); !ok {
			f.Err = err
			l.Run(done)
		}
	}
	if from < b.streams.LocalStart(p.id) {
		f.Release()
		toStore()
		return
	}
	b.fetcher.submit(fetchJob{run: func() {
		if b.streamFetch(p, from, maxBytes, committed, f, readLocal) {
			toStore()
			return
		}
		l.Run(done)
	}})
}

// followCold is FetchCold at a follower: what its disk has not is ErrTier.
func (l *Local) followCold(p *Partition, from record.Offset, maxBytes int, committed bool, f *StreamFetch, done func()) {
	f.store = storeRead{}
	l.b.fetcher.submit(fetchJob{run: func() {
		if l.b.streamFetch(p, from, maxBytes, committed, f, readLocal) {
			f.Err = ErrTier
		}
		l.Run(done)
	}})
}

// Leave says that the reader waits no longer for a FetchCold. True: it waits for the store, or the store for its end; done runs later or never,
// and f must not be used until it does. False: it reads from the disk, and done runs soon.
func (l *Local) Leave(f *StreamFetch) bool { return l.b.storePool.leave(&f.store) }

func (b *Broker) streamFetch(p *Partition, from record.Offset, maxBytes int, committed bool, f *StreamFetch, where readFrom) (cold bool) {
	f.Release()
	f.Err, f.Ahead = nil, false
	f.seen = p.bytes.Load()
	// The last stable offset is read first: the high watermark that is read behind it is not below it.
	f.LastStable, f.HighWatermark, f.LogStart = p.LastStable(), p.HighWatermark(), p.LogStart()
	switch {
	case p.topic.Dropped():
		f.Err = ErrUnknownTopic
		return false
	case p.topic.held.Load():
		f.Err = ErrRestoring
		return false
	case !p.shard.serves(f.Follows):
		f.Err = ErrNotLeader
		return false
	case from > f.HighWatermark && f.Follows != 0:
		f.Ahead = true
		return false
	case from < f.LogStart || from > f.HighWatermark:
		f.Err = ErrOffsetOutOfRange
		return false
	}
	r := ReadRequest{Partition: p.id, From: from, End: f.HighWatermark, MaxBytes: maxBytes, Tail: where == readTail, Local: where != readStore, Copy: f.Copy}
	if committed {
		r.End = f.LastStable
	}
	if from >= r.End || maxBytes <= 0 {
		return false
	}
	var ok bool
	f.Batches, f.Ref, ok, f.Err = b.streams.ReadBatches(r, f.Batches)
	switch {
	case errors.Is(f.Err, ErrOffsetOutOfRange) && from < p.LogStart():
		f.LogStart = p.LogStart() // it has moved meanwhile
		return false
	case f.Err != nil && p.topic.Dropped(): // meanwhile too
		f.Err = ErrUnknownTopic
		return false
	case errors.Is(f.Err, ErrOffsetOutOfRange) && p.restoredBehind(from):
		f.Err = ErrRestoring // a crash came between its bounds and the manifest's rows
		return false
	case f.Err != nil || !ok:
		return f.Err == nil
	}
	for _, batch := range f.Batches {
		f.Bytes += len(batch)
	}
	if committed && len(f.Batches) > 0 {
		f.Aborted = p.abortedBetween(f.Aborted, from, record.Batch(f.Batches[len(f.Batches)-1]).NextOffset())
	}
	return false
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
	EarliestToTier      = -6 // the first that is to go to a store yet
)

// OffsetAt finds an end of a partition, or the first record with this time or a later one, in Unix milliseconds, also where that lies in a store.
// done runs once, on this loop or, for the ends and for what is refused, at once.
func (l *Local) OffsetAt(p *Partition, at int64, committed bool, done func(FoundOffset, error)) {
	end := p.HighWatermark()
	if committed {
		end = p.LastStable()
	}
	switch {
	case p.topic.held.Load():
		done(FoundOffset{-1, -1}, ErrRestoring)
	case at == LatestOffset:
		done(FoundOffset{end, -1}, nil)
	case at == EarliestOffset:
		done(FoundOffset{p.LogStart(), -1}, nil)
	case at == EarliestLocalOffset:
		done(FoundOffset{l.b.LocalStart(p), -1}, nil)
	case at == LatestTieredOffset:
		done(FoundOffset{l.b.TieredEnd(p) - 1, -1}, nil)
	case at == EarliestToTier && p.topic.Spec().Config.Tier == TierNone:
		done(FoundOffset{-1, -1}, nil)
	case at == EarliestToTier:
		done(FoundOffset{max(l.b.TieredEnd(p), p.LogStart()), -1}, nil)
	case at < MaxTimestampOffset:
		done(FoundOffset{-1, -1}, ErrInvalidRequest)
	default:
		l.b.read(p, func() {
			found, err := l.b.searchTime(p, at, end)
			l.Run(func() { done(found, err) })
		}, func(err error) { done(FoundOffset{-1, -1}, err) })
	}
}

// LocalStart is the first offset of a partition whose record lies here and not in a store alone, or its end.
func (b *Broker) LocalStart(p *Partition) record.Offset {
	return min(max(b.streams.LocalStart(p.id), p.LogStart()), p.HighWatermark())
}

// TieredEnd is behind the last offset of a partition that lies in a store, 0 if there is none.
func (b *Broker) TieredEnd(p *Partition) record.Offset {
	if end := b.streams.TieredEnd(p.id); end > p.LogStart() {
		return end
	}
	return 0
}

// searchTime looks for the first record with a time at or behind at, or with the latest one. The log knows about where.
func (b *Broker) searchTime(p *Partition, at int64, end record.Offset) (found FoundOffset, err error) {
	latest := at == MaxTimestampOffset
	from, time, ok := b.streams.Seek(p.id, at, latest)
	if !ok {
		return FoundOffset{-1, -1}, nil
	}
	if latest {
		at = time
	}
	found, err = b.searchFrom(p, from, at, end)
	if latest && found.Offset < 0 && err == nil {
		// The latest record is one that readers do not see yet: the latest of those that they do.
		return b.latestBefore(p, end)
	}
	return found, err
}

func (b *Broker) searchFrom(p *Partition, from record.Offset, at int64, end record.Offset) (found FoundOffset, err error) {
	found = FoundOffset{-1, -1}
	start := p.LogStart()
	err = b.log.Read(p.id, max(from, start), func(batch record.Batch) bool {
		if batch.BaseOffset() >= end {
			return false
		}
		if batch.Attributes()&record.Control == 0 && batch.MaxTimestamp() >= at {
			found = timeIn(batch, at, start)
		}
		return found.Offset < 0
	})
	return found, err
}

func (b *Broker) latestBefore(p *Partition, end record.Offset) (found FoundOffset, err error) {
	found = FoundOffset{-1, -1}
	start := p.LogStart()
	err = b.log.Read(p.id, start, func(batch record.Batch) bool {
		if batch.BaseOffset() >= end {
			return false
		}
		if ts := batch.MaxTimestamp(); batch.Attributes()&record.Control == 0 && ts > found.Timestamp {
			found = timeIn(batch, ts, start)
		}
		return true
	})
	return found, err
}

// timeIn finds the first record of a batch, from an offset on, with this time or a later one.
func timeIn(b record.Batch, at int64, from record.Offset) FoundOffset {
	if b.Attributes().Compressed() {
		opened, err := openBatch(nil, b)
		if err != nil {
			return FoundOffset{max(b.BaseOffset(), from), b.MaxTimestamp()} // readers skip what comes before
		}
		b = opened
	}
	for it := b.Records(); it.Next(); {
		if r := it.Record(); r.Timestamp >= at && r.Offset >= from {
			return FoundOffset{r.Offset, r.Timestamp}
		}
	}
	return FoundOffset{-1, -1}
}
