package broker

import (
	"errors"
	"sync/atomic"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// Errors of streams; proto/kafka gives them Kafka's codes of the same names.
var (
	ErrOffsetOutOfRange     = errors.New("broker: offset out of range")
	ErrOutOfOrderSequence   = errors.New("broker: sequence out of order")
	ErrInvalidProducerEpoch = errors.New("broker: the producer's epoch is fenced")
	ErrInvalidTxnState      = errors.New("broker: not in the state of the producer's transaction")
	ErrInvalidTimestamp     = errors.New("broker: timestamp outside of the topic's bounds")
	ErrInternalTopic        = errors.New("broker: the topic is the broker's own")
	ErrMessageTooLarge      = errors.New("broker: batch larger than the topic takes")
	ErrInvalidRecord        = errors.New("broker: a record without a key, in a topic that is compacted")
	ErrCorruptBatch         = errors.New("broker: batch cannot be decompressed")
	// ErrTxnNotAnnounced says that the coordinator has not let the producer's transaction in: have it add the partition, then come again.
	ErrTxnNotAnnounced = errors.New("broker: the partition is not part of the transaction")
	// ErrNoStreams says that the log keeps nothing (durability "memory").
	ErrNoStreams = errors.New("broker: durability memory keeps no streams")
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
	// Failed is the batch of an idempotent producer that Err is about: the request that had it may have been answered before.
	Failed *FailedBatch
}

// FailedBatch names a batch that was on its way.
type FailedBatch struct {
	Partition *Partition
	Producer  int64
	Epoch     int16
	First     int32 // its first sequence
}

// Appender is a connection that appends batches. It belongs to the loop that made it.
type Appender struct {
	local   *Local
	sink    AppendSink // nil: closed
	starved bool
	failing atomic.Int32 // batches that have failed, and of which sink is yet to hear
}

// NewAppender makes the handle of a connection on this loop.
func (l *Local) NewAppender(sink AppendSink) *Appender { return &Appender{local: l, sink: sink} }

// Close lets go: what is under way is still committed, nobody hears of it.
func (a *Appender) Close() { a.sink = nil }

// AppendOptions say how a batch is appended.
type AppendOptions struct {
	Transactional bool // the request names a transaction
	Silent        bool // nobody waits for the end
	Internal      bool // a topic of the broker's own may be written to
	Leader        bool // the end is told once the leader's log has it (acks=1), and not when all in-sync replicas do
	// Later says that the producer has sent batches before this one that may not be stored: of a producer that the partition does not know, it is out of order.
	Later bool
	// Held holds the batch: it is retained until the batch is in the log's buffer, and nothing is copied before. nil: it is a view that dies
	// with the call.
	Held alloc.Ref
}

const (
	// appendBytesMax bounds the batches in one shard's pending list, appendBytesNode those of all; a full list answers ErrBusy. One batch above
	// it is taken alone.
	appendBytesMax  = 4 << 20
	appendBytesNode = 64 << 20
	// flyingMax bounds the batches of a shard that are gathered and not yet applied.
	flyingMax = 1 << 16
	// rawBytesMax is how much of a list's batches lie in one buffer of its own; more of them have each a block.
	rawBytesMax = 128 << 10
	rawBatchMax = 16 << 10
)

// pendingBatch is one batch in a pending list.
type pendingBatch struct {
	part       *Partition
	app        *Appender   // nil: nobody waits
	done       func(error) // who waits for a marker
	tok        Token
	data       []byte    // until it is gathered
	held       alloc.Ref // holds data; nil: the list does
	info       batchInfo
	appendTime int64         // -1: not set by the broker
	early      bool          // who waits hears of it when it is in the leader's log
	duplicate  bool          // of one that is before it: it is answered with that one's place
	acc        *accumulation // of what came record by record: data is made of it when it is gathered
	failed     bool
}

// streamable says why no stream takes writes now, if so.
func (b *Broker) streamable() error {
	if b.opts.Volatile {
		return ErrNoStreams
	}
	return b.writable()
}

// Append hands over one whole batch of magic 2, whose lengths and checksum the caller has verified. It is a view, or held: what is stored is
// a copy, with its own base offset and epoch. nil: Appended follows, unless o.Silent. ErrBusy: nothing was taken, come again after Resume.
// Other errors refuse the batch.
func (l *Local) Append(a *Appender, p *Partition, batch []byte, o AppendOptions, t Token) error {
	if err := l.b.streamable(); err != nil {
		return err
	}
	if err := l.b.room(); err != nil {
		return err
	}
	b := record.Batch(batch)
	spec := p.topic.Spec()
	now := l.nowMilli()
	if err := admissible(spec, b, now, &o); err != nil {
		return err
	}
	b, err := l.conform(&spec.Config, b, &o)
	if err != nil {
		return err
	}
	pb := pendingBatch{part: p, app: a, tok: t, appendTime: -1, info: infoOf(b, 0, now)}
	if pb.early = o.Leader; o.Silent {
		pb.app = nil
	}
	if spec.Config.LogAppendTime {
		pb.appendTime = now
	}
	s := p.shard
	s.mu.Lock()
	if err := p.takesLocked(); err != nil {
		s.mu.Unlock()
		return err
	}
	idempotent := pb.info.producer != record.NoProducer
	if idempotent {
		if l.owesLocked(a) {
			s.mu.Unlock()
			return ErrBusy
		}
		dup, err := p.checkProducerLocked(&pb.info, o.Later)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		if dup != nil {
			// It is answered behind what is on its way, of which it may be a duplicate.
			pb.duplicate, pb.info.base, pb.appendTime = true, dup.base, dup.appendTime
			l.addBatch(s, s.pendingLocked(), &pb)
			return nil
		}
	}
	if !l.b.batchFitsLocked(s, len(b)) {
		l.starveLocked(s, a)
		s.mu.Unlock()
		return ErrBusy
	}
	s.placeLocked(&pb)
	if idempotent && !p.expectProducerLocked(&pb.info, pb.appendTime) {
		p.mu.next = pb.info.base
		s.mu.Unlock()
		return ErrQuota
	}
	f := s.pendingLocked()
	if pb.data = b; o.Held == nil || len(b) <= rawBatchMax {
		pb.data, pb.held = f.keepLarge(b)
	} else {
		pb.held = o.Held
		o.Held.Retain()
	}
	l.addBatch(s, f, &pb)
	return nil
}

// takesLocked says why the partition takes no batch here and now, if so.
func (p *Partition) takesLocked() error {
	switch {
	case p.topic.Dropped():
		return ErrUnknownTopic
	case !p.shard.leadsLocked():
		return ErrNotLeader
	case p.topic.held.Load():
		return ErrRestoring
	}
	return nil
}

// admissible is what can be said of a batch without the partition's state.
func admissible(spec *TopicSpec, b record.Batch, now int64, o *AppendOptions) error {
	cfg := &spec.Config
	switch {
	case spec.Internal && !o.Internal:
		return ErrInternalTopic
	case cfg.MaxMessageBytes > 0 && len(b) > int(cfg.MaxMessageBytes):
		return ErrMessageTooLarge
	case ownBatch(b):
		return ErrInvalidRecord
	case b.Attributes()&record.Control != 0, b.Attributes()&record.Transactional != 0 != o.Transactional:
		return ErrInvalidTxnState
	}
	if !cfg.LogAppendTime {
		if max := cfg.TimestampAfterMaxMillis; max > 0 && b.MaxTimestamp()-now > max {
			return ErrInvalidTimestamp
		}
		if max := cfg.TimestampBeforeMaxMillis; max > 0 && b.BaseTimestamp() >= 0 && now-b.BaseTimestamp() > max {
			return ErrInvalidTimestamp
		}
	}
	return nil
}

const (
	// A client's compressed batch may come to openedLeast, or openedTimes what it takes, but no more than openedMost, where it is opened: some
	// codecs make gigabytes of a megabyte, and each loop opens one at a time.
	openedLeast = 32 << 20
	openedTimes = 8
	openedMost  = 128 << 20
	// scratchMax is how much of that memory a loop keeps.
	scratchMax = 4 << 20
)

// openBatch appends to dst the batch b with its records opened. The broker's own are as large as they are. It is one function of what is
// stored, so that a reader opens what another one has.
func openBatch(dst []byte, b record.Batch) ([]byte, error) {
	limit := record.MaxBatchSize
	if !ownBatch(b) {
		limit = min(max(openedLeast, openedTimes*len(b)), openedMost)
	}
	out, err := compress.OpenBatch(dst, b, min(limit, scratchMax))
	if limit <= scratchMax || !errors.Is(err, compress.ErrTooLarge) {
		return out, err
	}
	// Room for all at once: growing to it would leave twice as much behind.
	return compress.OpenBatch(append(make([]byte, 0, len(dst)+min(limit, openedMost)+256<<10), dst...), b, limit)
}

// conform makes of a batch what its topic stores: with a key in each record where it is compacted, compressed as it says.
func (l *Local) conform(cfg *TopicConfig, b record.Batch, o *AppendOptions) (record.Batch, error) {
	codec := b.Attributes().Codec()
	again := cfg.Recompress && codec != cfg.Compress.Codec
	if !cfg.Compact && !again {
		return b, nil
	}
	opened := b
	if codec != record.Uncompressed {
		if cap(l.plain) > scratchMax {
			l.plain = nil
		}
		out, err := openBatch(l.plain[:0], b)
		if errors.Is(err, compress.ErrTooLarge) {
			return nil, ErrMessageTooLarge
		}
		if err != nil {
			return nil, ErrCorruptBatch
		}
		l.plain, opened = out, out
	}
	if cfg.Compact && !keyed(opened) {
		return nil, ErrInvalidRecord
	}
	if !again {
		return b, nil
	}
	o.Held = nil
	if cfg.Compress.Codec == record.Uncompressed {
		b = opened
	} else {
		if cap(l.packed) > scratchMax {
			l.packed = nil
		}
		l.packed = compress.AppendBatch(l.packed[:0], cfg.Compress, opened)
		b = l.packed
	}
	if cfg.MaxMessageBytes > 0 && len(b) > int(cfg.MaxMessageBytes) {
		return nil, ErrMessageTooLarge
	}
	return b, nil
}

// keyed says whether every record of an opened batch has a key.
func keyed(b record.Batch) bool {
	for it := b.Records(); it.Next(); {
		if it.Record().Key == nil {
			return false
		}
	}
	return true
}

// placeLocked gives a batch its offsets.
func (s *shard) placeLocked(pb *pendingBatch) {
	in := &pb.info
	n := in.last - in.base
	if pb.part.mu.building > 0 {
		pb.part.endBatchLocked(s.mu.fill)
	}
	in.base = pb.part.mu.next
	in.last = in.base + n
	pb.part.mu.next = in.last + 1
}

// keep copies a batch into the list's own buffer.
func (f *pending) keep(b []byte) []byte {
	at := len(f.raw)
	f.raw = append(f.raw, b...)
	return f.raw[at:len(f.raw):len(f.raw)]
}

// keepLarge is keep, or a block for a batch that is large.
func (f *pending) keepLarge(b []byte) ([]byte, alloc.Ref) {
	if len(b) <= rawBatchMax && len(f.raw)+len(b) <= rawBytesMax {
		return f.keep(b), nil
	}
	block := alloc.CopyBlock(b)
	return block.Bytes(), block
}

// batchCost is what a batch takes in the log beside its bytes, and more than that.
const batchCost = record.FrameHeaderSize + 16

// addBatch ends an append: s.mu is held, and let go of.
func (l *Local) addBatch(s *shard, f *pending, pb *pendingBatch) {
	f.batches = append(f.batches, *pb)
	f.early = f.early || pb.early
	if n := len(pb.data); n > 0 {
		f.batchBytes += n + batchCost
		f.size += n + batchCost
		l.b.appending.Add(int64(n + batchCost))
	}
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
}

// batchFitsLocked says whether there is room for a batch of n bytes.
func (b *Broker) batchFitsLocked(s *shard, n int) bool {
	f := s.mu.fill
	if f == nil || f.batchBytes == 0 {
		return s.mu.flyingBatches < flyingMax
	}
	return f.batchBytes+n+batchCost <= appendBytesMax && len(f.batches)+s.mu.flyingBatches < flyingMax && b.appending.Load()+int64(n) <= appendBytesNode
}

// starveLocked has a told when the shard's list has been gathered, or applied.
func (l *Local) starveLocked(s *shard, a *Appender) {
	if !a.starved {
		a.starved = true
		s.mu.appenders = append(s.mu.appenders, a)
	}
}

// owesLocked says whether a is yet to hear of batches that have failed, and has it come again behind that: a leader may have become none and one again meanwhile, and its next batch
// was sent before anybody knew that there would be a gap before it.
func (l *Local) owesLocked(a *Appender) bool {
	if a.failing.Load() == 0 {
		return false
	}
	if !a.starved {
		a.starved = true
		l.post(post{kind: postResumeAppender, app: a})
	}
	return true
}

// resumeAppendersLocked tells those for whom there was no room.
func (s *shard) resumeAppendersLocked() {
	for i, a := range s.mu.appenders {
		a.local.post(post{kind: postResumeAppender, app: a})
		s.mu.appenders[i] = nil
	}
	s.mu.appenders = s.mu.appenders[:0]
}
