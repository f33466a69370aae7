package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/journal/record"
)

// pendingBytesMax bounds one shard's pending list; a full list answers ErrBusy. One message above it is taken alone.
const pendingBytesMax = 256 << 10

// pendingsKept is how many pending lists a shard keeps for reuse: one that fills, one that is written, one that is applied.
const pendingsKept = 3

// shard is a slice of the topics and sessions with one owner, one lock and one pending list. Its home Local applies what was
// committed, in index order.
type shard struct {
	id   record.ShardID
	home *Local
	rep  *replica // nil: the node is alone
	set  int      // 0: a home shard

	leading atomic.Bool // rep.open, for those who must not wait for the lock

	// applying is held while a commit changes the tables, and while a checkpoint collects them: rows and applied index agree. It
	// comes before mu, and before other shards' mu.
	applying sync.Mutex
	refs     references // scratch of apply

	mu struct {
		sync.Mutex
		index      uint64 // of the last frame gathered
		applied    uint64 // of the last frame applied
		place      Place  // the end of the group that held it
		nextSeq    uint64 // of the next record
		appliedSeq uint64 // every record below was applied
		logStart   uint64 // what the log was told that nobody needs
		needed     uint64 // of a replicated shard: what its leader has said is needed, from there on
		neededAt   time.Duration
		trimmed    uint64     // where it is followed: what is below has gone from the queues, or is going
		fill       *pending   // collects
		free       []*pending // recycled
		unapplied  int        // lists that were gathered and not yet applied or failed
		dirty      bool       // on the broker's list for the committer
		waiting    []*Client
		appenders  []*Appender // the same, of streams
		sessions   sessionTable
		byID       map[uint64]*Session    // durable sessions of this shard
		queues     map[uint64]*queue      // by durable filter number
		received   map[uint64][]uint16    // QoS 2 identifiers of durable publishers, by session number
		groups     map[uint64]*groupQueue // shared groups with something queued or out, by durable number
		handsOut   bool                   // of a replicated shard: see handsOutLocked
		promised   map[uint64][]promise   // what sessions are owed whose records lie here, by session number
		groupRows  map[groupKey]*groupRow // what is kept of Kafka's groups
		delayed    delayedRows
		wills      lateWills

		txnIDs      map[txnKey][]byte // transactional ids, encoded
		txnOffsets  map[txnGroupKey]map[TopicPartition]CommittedOffset
		producerIDs uint64 // those below were given out

		flying        []*pending             // lists with batches of streams that were gathered and not yet applied or failed
		flyingBatches int                    // in them
		aheads        []*aheadState          // recycled
		streams       []*Partition           // of this shard
		joined        map[*Partition]*joined // of a stream shard that is led here
		swept         int                    // of streams, those that the sweep has looked at

		nextPartition record.PartitionID // of shard 0: no partition has had this id or a later one
		rows          dirtyRows
		timers        timers   // of durable sessions
		willing       []uint64 // durable sessions whose will is due and waits for its turn, see due
		grown         []*queue // got references since limit looked at them
		trimList      []uint64 // queues that trim has yet to look at
	}
}

type sessionKey struct {
	tenant uint32
	id     string
}

// entryKind says what a pending entry is.
type entryKind uint8

const (
	entryRecord    entryKind = iota + 1 // journaled record
	entryTransient                      // routed in its turn, not journaled
	entryCommand                        // in the command frame; its waiter only wants to know
)

// entry is one thing in a pending list, in the order in which it came.
type entry struct {
	c      *Client // who waits, or nil
	tok    Token
	bundle *bundle // entryTransient: the message
	match  *match  // entryRecord, entryTransient: who gets it, as it was when it came
	trace  trace.Mark
	pub    uint32       // publisher's slot, for no-local
	tenant uint32       // entryTransient: c may be another tenant's by the time it is applied, if it is who publishes delayed messages
	epoch  record.Epoch // entryCommand: of the leader that may write it; 0: whoever leads
	kind   entryKind
	live   bool        // entryRecord: route it to live subscribers after the commit
	done   func()      // entryCommand: runs on the shard's home loop after apply, instead of a completion
	failed func(error) // entryCommand: the same when it could not be written
}

// pending is what a shard has gathered since the last group. It is filled under the shard's lock, then belongs to the
// committer, then to the home loop, and is recycled.
type pending struct {
	baseSeq  uint64
	builder  record.BatchBuilder
	batch    []byte // backing of builder
	extra    []byte // reference block, an item for each record
	cmds     []byte // commands, length-prefixed
	entries  []entry
	batches  []pendingBatch // of streams
	building []*Partition   // those with an open batch among them
	raw      []byte         // the bytes of the small ones
	records  int
	since    time.Duration // when the first of its messages came, by the clock's Mono; 0: it has none
	frames   int           // made of batches
	flown    int           // batches when it was gathered
	index    uint64        // of the last frame made of it
	took     uint64        // how many they are
	copied                 // of a replicated shard
	sealed   []byte        // the finished batch
	size     int
	// batchBytes is the part of size that batches have which were not gathered yet.
	batchBytes int
}

func (p *pending) reset() {
	clear(p.entries)
	clear(p.batches)
	if cap(p.kept) > 4*pendingBytesMax {
		p.kept = nil
	}
	*p = pending{copied: copied{kept: p.kept[:0]}, batch: p.batch[:0], extra: p.extra[:0], cmds: p.cmds[:0], entries: p.entries[:0], batches: p.batches[:0], building: p.building[:0],
		raw: p.raw[:0]}
	if cap(p.batch)+cap(p.extra)+cap(p.cmds) > 4*pendingBytesMax || cap(p.entries) > 1<<14 || cap(p.raw) > 2*rawBytesMax || cap(p.batches) > 1<<12 {
		*p = pending{}
	}
}

func newShard(id record.ShardID, home *Local) *shard {
	s := &shard{id: id, home: home}
	s.mu.nextSeq = 1
	return s
}

// fillLocked gives the pending list, if it has room for n bytes.
func (s *shard) fillLocked(n int) (*pending, bool) {
	p := s.pendingLocked()
	if p.size > 0 && p.size-p.batchBytes+n > pendingBytesMax {
		return nil, false
	}
	p.size += n + 32
	return p, true
}

// appendRecordLocked adds a record and its reference item. The caller has asked fillLocked for room.
func (s *shard) appendRecordLocked(p *pending, in *record.Input) (seq uint64) {
	if p.records == 0 {
		p.baseSeq = s.mu.nextSeq
		p.builder.Begin(p.batch[:0], in.Timestamp)
	}
	seq = s.mu.nextSeq
	s.mu.nextSeq++
	in.OffsetDelta = int32(seq - p.baseSeq)
	p.builder.Append(in)
	p.records++
	return seq
}

// command appends a command to the pending list of s; e says who wants to know. Commands are not refused for want of room:
// they are few and small, and each connection has a bounded number of them outstanding.
func (b *Broker) command(s *shard, cmd []byte, e entry) error {
	if err := b.writable(); err != nil {
		return err
	}
	s.mu.Lock()
	if !s.leadsLocked() || e.epoch != 0 && s.rep != nil && s.rep.epoch != e.epoch {
		s.mu.Unlock()
		return ErrNotLeader
	}
	first := s.commandLocked(cmd, e)
	s.mu.Unlock()
	if first {
		b.dirtyShard(s)
	}
	return nil
}

// commandLocked is command under the shard's lock. first: the caller has to call dirtyShard when it has let go of it.
func (s *shard) commandLocked(cmd []byte, e entry) (first bool) {
	p, ok := s.fillLocked(len(cmd))
	if !ok {
		p = s.mu.fill
		p.size += len(cmd) + 32
	}
	p.cmds = appendBytes(p.cmds, cmd)
	e.kind = entryCommand
	p.entries = append(p.entries, e)
	return s.markDirtyLocked()
}

// markDirtyLocked says whether the caller has to put s on the committer's list.
func (s *shard) markDirtyLocked() bool {
	first := !s.mu.dirty
	s.mu.dirty = true
	return first
}

// dirtyShard puts s on the list that Gather empties.
func (b *Broker) dirtyShard(s *shard) {
	b.dirty.Lock()
	b.dirty.shards = append(b.dirty.shards, s)
	wake := len(b.dirty.shards) == 1
	b.dirty.Unlock()
	if err := b.failure.Load(); err != nil { // nobody gathers any more: A appends, the log fails for good, A lists its shard
		b.failWaiting(*err)
		return
	}
	if wake {
		b.log.Wake()
	}
}

// recycle keeps a pending list for later use.
func (s *shard) recycle(p *pending) {
	flown := p.flown
	p.reset()
	s.mu.Lock()
	s.landedLocked(p, flown)
	s.mu.unapplied--
	if len(s.mu.free) < pendingsKept {
		s.mu.free = append(s.mu.free, p)
	}
	s.mu.Unlock()
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
