package broker

import (
	"errors"

	"github.com/sluicemq/sluice/journal/record"
)

// Errors of streams; proto/kafka gives them Kafka's codes of the same names.
var (
	ErrOffsetOutOfRange     = errors.New("broker: offset out of range")
	ErrOutOfOrderSequence   = errors.New("broker: sequence out of order")
	ErrInvalidProducerEpoch = errors.New("broker: the producer's epoch is fenced")
	ErrInvalidTxnState      = errors.New("broker: no transaction is open on the partition")
	ErrTxnNotAnnounced      = errors.New("broker: the partition is not part of the transaction")
	ErrInvalidTimestamp     = errors.New("broker: timestamp outside of the topic's bounds")
	ErrInternalTopic        = errors.New("broker: the topic is the broker's own")
)

// AppendSink is who hears what became of batches. Both methods run on the Appender's loop.
type AppendSink interface {
	// Appended ends an Append that was pending.
	Appended(t Token, r AppendResult)
	// Resume tells that an Append that answered ErrBusy may be tried again.
	Resume()
}

// AppendResult is what became of a batch. Without Err it is committed, and readers see it.
type AppendResult struct {
	Err        error
	Base       record.Offset // of the first record
	LogStart   record.Offset
	AppendTime int64 // Unix milliseconds; -1: the records keep their producer's
}

// Appender is a connection that appends batches. It belongs to the loop that made it.
type Appender struct {
	local   *Local
	sink    AppendSink // nil: closed
	starved bool
}

// NewAppender makes the handle of a connection on this loop.
func (l *Local) NewAppender(sink AppendSink) *Appender { return &Appender{local: l, sink: sink} }

// Close lets go: what is under way is still committed, nobody hears of it.
func (a *Appender) Close() { a.sink = nil }

// AppendOptions say how a batch is appended.
type AppendOptions struct {
	Transactional bool // the request names a transaction
	Silent        bool // nobody waits for the end
}

// appendBytesMax bounds the batches in one shard's pending list; a full list answers ErrBusy. One batch above it is taken alone.
const appendBytesMax = 4 << 20

// pendingBatch is one batch in a pending list.
type pendingBatch struct {
	part       *Partition
	app        *Appender   // nil: nobody waits
	done       func(error) // who waits for a marker
	tok        Token
	at, n      int // in raw; n 0: a duplicate of one that is on its way, and answered behind it
	base, last record.Offset
	appendTime int64
}

// Append hands over one whole batch of magic 2, whose lengths and checksum the caller has verified. It is a view: what is stored is a copy,
// with its own base offset and epoch. nil: Appended follows, unless o.Silent. ErrBusy: nothing was taken, come again after Resume. Other
// errors refuse the batch.
func (l *Local) Append(a *Appender, p *Partition, batch []byte, o AppendOptions, t Token) error {
	if err := l.b.writable(); err != nil {
		return err
	}
	b := record.Batch(batch)
	cfg := &p.topic.Spec().Config
	now := l.b.nowMilli()
	if err := admissible(p.topic, cfg, b, now); err != nil {
		return err
	}
	s := p.shard
	s.mu.Lock()
	if p.topic.Dropped() {
		s.mu.Unlock()
		return ErrUnknownTopic
	}
	pb := pendingBatch{part: p, app: a, tok: t, appendTime: -1}
	if o.Silent {
		pb.app = nil
	}
	if b.ProducerID() != record.NoProducer {
		dup, err := p.checkProducerLocked(b, o.Transactional)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		if dup != nil {
			return l.appendDuplicate(s, &pb, dup)
		}
	}
	if !s.batchFitsLocked(len(batch)) {
		if !a.starved {
			a.starved = true
			s.mu.appenders = append(s.mu.appenders, a)
		}
		s.mu.Unlock()
		return ErrBusy
	}
	f := s.pendingLocked()
	pb.at, pb.n = len(f.raw), len(batch)
	f.raw = append(f.raw, batch...)
	own := record.Batch(f.raw[pb.at:])
	pb.base = p.mu.next
	own.SetBaseOffset(pb.base)
	own.SetLeaderEpoch(0)
	if cfg.LogAppendTime {
		pb.appendTime = now
		own.SetMaxTimestamp(now)
	}
	pb.last = own.LastOffset()
	p.mu.next = pb.last + 1
	if b.ProducerID() != record.NoProducer {
		p.noteProducerLocked(b, pb.base, now)
	}
	l.addBatch(s, f, &pb)
	return nil
}

// admissible is what can be said of a batch without the partition's state.
func admissible(t *Topic, cfg *TopicConfig, b record.Batch, now int64) error {
	if t.Spec().Internal {
		return ErrInternalTopic
	}
	if !cfg.LogAppendTime {
		ts := b.MaxTimestamp()
		if cfg.TimestampAfterMaxMillis > 0 && ts-now > cfg.TimestampAfterMaxMillis ||
			cfg.TimestampBeforeMaxMillis > 0 && now-b.BaseTimestamp() > cfg.TimestampBeforeMaxMillis && b.BaseTimestamp() >= 0 {
			return ErrInvalidTimestamp
		}
	}
	return nil
}

// addBatch ends an append: s.mu is held, and let go of.
func (l *Local) addBatch(s *shard, f *pending, pb *pendingBatch) {
	f.batches = append(f.batches, *pb)
	f.size += pb.n + record.FrameHeaderSize + 8
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
}

// appendDuplicate answers a batch that was appended before: with its offsets, at once or behind the one that is on its way. s.mu is held,
// and let go of.
func (l *Local) appendDuplicate(s *shard, pb *pendingBatch, dup *producerBatch) error {
	pb.base, pb.last = dup.base, dup.base
	if dup.base >= pb.part.mu.highWatermark {
		l.addBatch(s, s.pendingLocked(), pb)
		return nil
	}
	s.mu.Unlock()
	if pb.app != nil {
		l.appended(pb.app, pb.tok, AppendResult{Base: dup.base, AppendTime: -1, LogStart: l.b.logStart(pb.part)})
	}
	return nil
}

func (b *Broker) logStart(p *Partition) record.Offset {
	start, _ := b.log.Bounds(p.id)
	return start
}

// batchFitsLocked says whether the pending list has room for a batch of n bytes.
func (s *shard) batchFitsLocked(n int) bool {
	f := s.mu.fill
	return f == nil || len(f.raw) == 0 || len(f.raw)+n <= appendBytesMax
}

// pendingLocked gives the pending list that collects.
func (s *shard) pendingLocked() *pending {
	f := s.mu.fill
	if f == nil {
		if n := len(s.mu.free); n > 0 {
			f, s.mu.free = s.mu.free[n-1], s.mu.free[:n-1]
		} else {
			f = new(pending)
		}
		s.mu.fill = f
	}
	return f
}

// appendBatchFrames appends the frames of p's batches, the first of them with this index.
func (s *shard) appendBatchFrames(dst []byte, p *pending, index uint64) (_ []byte, next uint64) {
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.n == 0 {
			continue
		}
		f := record.Frame{Kind: record.KindRecords, Shard: s.id, Index: index, Partition: pb.part.id, Tenant: record.TenantID(pb.part.topic.Spec().Tenant)}
		var at int
		dst, at = record.BeginFrame(dst, &f)
		dst = record.BeginRecordsPayload(dst, nil)
		dst = append(dst, p.raw[pb.at:pb.at+pb.n]...)
		dst = record.FinishFrame(dst, at)
		index++
	}
	return dst, index
}

// applyBatches makes what was committed visible. The home loop calls it, under applying.
func (s *shard) applyBatches(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.n > 0 {
			pb.part.applyBatchLocked(record.Batch(p.raw[pb.at : pb.at+pb.n]))
		}
	}
}

// applyBatchLocked is the part that recovery shares.
func (p *Partition) applyBatchLocked(b record.Batch) {
	end := b.NextOffset()
	p.mu.next, p.mu.highWatermark = max(p.mu.next, end), max(p.mu.highWatermark, end)
	if b.ProducerID() != record.NoProducer {
		p.applyProducerLocked(b)
		p.applyTxnLocked(b)
	}
}

// deliverBatches answers the appenders and wakes the readers that wait, once all of a commit is visible.
func (l *Local) deliverBatches(s *shard, p *pending) {
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.done != nil {
			pb.done(nil)
		}
		if pb.app != nil {
			l.appended(pb.app, pb.tok, AppendResult{Base: pb.base, AppendTime: pb.appendTime, LogStart: l.b.logStart(pb.part)})
		}
	}
	l.wakeWatchers(s, p)
}

// failBatches takes back what could not be written. The tables never saw it; the offsets stay unused.
func (l *Local) failBatches(s *shard, p *pending, err error) {
	s.mu.Lock()
	for i := range p.batches {
		p.batches[i].part.forgetPendingLocked()
	}
	s.mu.Unlock()
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.done != nil {
			pb.done(err)
		}
		if pb.app != nil {
			l.appended(pb.app, pb.tok, AppendResult{Err: err, Base: -1, AppendTime: -1, LogStart: -1})
		}
	}
}

// appended tells an appender, on whatever loop it lives.
func (l *Local) appended(a *Appender, t Token, r AppendResult) {
	l.acks[a.local.id] = append(l.acks[a.local.id], post{kind: postAppended, app: a, res: Result{Token: t}, appended: r})
	if a.local == l {
		l.kick()
	}
}
