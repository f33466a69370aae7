package broker

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/journal/record"
)

// Options are what a Broker needs. Log may be set later by UseLog, before Recover.
type Options struct {
	Shards int // 0: 64; fixed at first start
	Loops  int // how many Locals; 0: 1
	Clock  clock.Clock
	Logger *slog.Logger
	Limits Limits
	// ShareStrategy picks the member of a shared group that gets a message.
	ShareStrategy topics.Strategy
	// ResolveTopic makes a topic's configuration of what its user has set. nil: settings mean nothing.
	ResolveTopic func([]Setting) TopicConfig
	// EntryChanged is told of changes of the catalog as they are applied: at recovery, and then by shard 0's home loop, those of one command
	// together, in the order of the log. It must not block, and does not write to what it gets. nil: nobody wants to know.
	EntryChanged func(changes []CatalogEntry)
	// Volatile says that the log keeps nothing over a restart: sessions end with their connections.
	Volatile bool
	// Replicated says that shards have replicas on other nodes: each waits for Lead or FollowLeader. Else the node leads all of them by itself.
	Replicated bool
	// StreamSets is how many sets of SetShards shards lie behind the Shards: they hold partitions of spread topics alone, and each set may be led by
	// another node. They cost next to nothing until such topics are made.
	StreamSets int
	// ShardMoved is told that a replicated shard's ReplicaState has changed. Any goroutine calls it; it must not block, nor call the Broker. nil:
	// nobody wants to know.
	ShardMoved func(shard record.ShardID)
	// Flushed is told, behind what ShardMoved was told of its shards, that a group is in the log: once, however many shards it has frames of. The
	// committer calls it; it must not block. nil: nobody wants to know.
	Flushed func()
	// Lost is told that a group was not written: what was on its way into the log is gone, and what Follow has been given of it has to be given again, from where
	// FollowLeader says. The committer calls it; it must not block. nil: nobody wants to know.
	Lost func()
	// Events is told of sessions that end. nil: nobody wants to know.
	Events *events.Queue
}

// protocolLevels is how deep a topic of 65,535 bytes can be: what the tables take. Limits.FilterLevels bounds what comes from clients, and
// may be lower than what was stored before.
const protocolLevels = 1 << 16

// Limits bound what clients can make the core keep. A zero means the default beside it; negative, none.
type Limits struct {
	SessionMessages int64         // queued for one absent session: 1,000,000
	SessionBytes    int64         // the same in bytes: 1 GiB
	SessionAge      time.Duration // no bound
	Sessions        int64         // durable sessions: 1,000,000
	Subscriptions   int           // of one session: 100,000
	RetainedCount   int64         // 10,000,000
	RetainedBytes   int64         // 4 GiB
	FilterLevels    int           // 128
	WillRate        int64         // wills a second: 5,000
	// Messages that wait for their time, in all and of one client, and what they take.
	Delayed          int64         // 100,000
	DelayedPerClient int64         // 1,000
	DelayedBytes     int64         // 256 MiB
	SessionExpiry    time.Duration // the longest a session may outlive its connection: no bound
	Group            GroupLimits
	Txn              TxnLimits
	Stream           StreamLimits
}

func (l Limits) withDefaults() Limits {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		} else if *p < 0 {
			*p = 1<<63 - 1
		}
	}
	def(&l.SessionMessages, 1_000_000)
	def(&l.SessionBytes, 1<<30)
	def(&l.Sessions, 1_000_000)
	def(&l.RetainedCount, 10_000_000)
	def(&l.RetainedBytes, 4<<30)
	def(&l.WillRate, 5_000)
	def(&l.Delayed, 100_000)
	def(&l.DelayedPerClient, 1_000)
	def(&l.DelayedBytes, 256<<20)
	l.Group, l.Txn = l.Group.withDefaults(), l.Txn.withDefaults()
	l.Stream = l.Stream.withDefaults()
	if l.Subscriptions == 0 {
		l.Subscriptions = 100_000
	}
	if l.FilterLevels == 0 {
		l.FilterLevels = 128
	}
	return l
}

// Broker is the core. Make it with New, one Local for each loop.
type Broker struct {
	opts       Options
	limits     atomic.Pointer[Limits]
	strategy   atomic.Uint32 // topics.Strategy
	clock      clock.Clock
	logger     *slog.Logger
	log        Log
	streams    StreamLog
	locals     []*Local
	shards     []*shard // all of them
	homes      []*shard // of these, the ones of set 0: all but streams is theirs
	streamSets atomic.Int32
	// setReplicas is what SetSetReplicas has said.
	setReplicas atomic.Pointer[SetReplicas]
	metID       atomic.Uint64 // the highest id of a partition with records that shard 0 had not made when they were met
	index       *topics.Index
	exclusive   exclusiveTable
	retained    *retainedStore
	openShards  atomic.Int32 // of a node that is one of several: the home shards that take commands
	slots       slotTable
	latencies   Latencies
	topicTable  topicTable
	topicStore  topicStore
	entryStore  entryStore
	delayed     delayedStore
	noDelay     atomic.Bool // SetDelayable
	tier        tierStore
	appending   atomic.Int64 // bytes of streams in pending lists
	openedHeld  atomic.Int64 // of opened batches that wait for another turn
	bindings    atomic.Pointer[bindingSet]
	bound       atomic.Uint64                        // moves with the bindings
	unbinding   atomic.Int64                         // partitions that nothing binds any more and whose records are not all given yet
	extra       []byte                               // the committer's
	run         uint64                               // of 32 bits: another for each start of the node
	strays      map[record.PartitionID][]strayRow    // at recovery
	unknown     map[record.PartitionID]partitionEnds // of a node that is one of several, since the log was opened: shard 0 has yet to make them
	stats       Stats
	refused     error // shard 0's home loop's: why it stands still
	failure     atomic.Pointer[error]
	reserved    atomic.Bool           // the log is in what it has set aside for a full disk
	noRoom      atomic.Bool           // the log has failed for want of room, and has not asked for more since
	fullBy      atomic.Pointer[error] // why, if that is no full disk
	recovering  bool                  // until Recovered: queues wait for their readers, whatever the order of the shards' commands

	dirty struct {
		sync.Mutex
		shards []*shard
	}
	end struct {
		sync.Mutex
		place Place // of the last durable group
	}
	gatherList []*shard   // the committer's
	flight     []gathered // the committer's

	queued       queueTotals
	filters      filterTable
	lastSID      atomic.Uint64
	attached     atomic.Uint64 // moves when a durable session comes back: routes are looked up anew
	behindGroups atomic.Int64
	fetcher      *fetcher
	storePool    storePool
	tracer       *trace.Tracer
	tenants      TenantLimits
	compaction   compactor
	participants Participants // nil: no other node leads partitions
	txnSerials   atomic.Uint64

	producerIDs struct { // set aside and not given out yet
		sync.Mutex
		next, end int64
		floor     int64 // none below it is given
		waiting   []func(int64, error)
	}
}

// New makes a Broker; Recover and Start follow.
func New(o Options) *Broker {
	if o.Shards == 0 {
		o.Shards = 64
	}
	if o.Loops == 0 {
		o.Loops = 1
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ResolveTopic == nil {
		o.ResolveTopic = func([]Setting) TopicConfig { return TopicConfig{Delete: true, RetentionMillis: -1, RetentionBytes: -1} }
	}
	b := &Broker{opts: o, clock: o.Clock, logger: o.Logger, recovering: true, streams: noStreams{}}
	b.tier.manifest = new(idleTier)
	b.run = uint64(rand.Uint32())
	b.SetLimits(o.Limits)
	b.SetShareStrategy(o.ShareStrategy)
	b.index = topics.New(topics.Options{MaxLevels: protocolLevels})
	b.retained = newRetainedStore(protocolLevels)
	b.filters.init(b.index)
	for i := range o.Loops {
		b.locals = append(b.locals, newLocal(b, i, o.Loops))
	}
	b.traceLoops()
	for i := range o.Shards + SetShards*o.StreamSets {
		s := newShard(record.ShardID(i), b.locals[i%o.Loops])
		if i >= o.Shards {
			s.set = 1 + (i-o.Shards)/SetShards
		}
		if o.Replicated {
			s.rep = new(replica)
		}
		b.shards = append(b.shards, s)
	}
	b.homes = b.shards[:o.Shards:o.Shards]
	b.fetcher = newFetcher(b)
	b.compaction.b = b
	return b
}

// SetLimits replaces the limits; they hold from the next request on.
func (b *Broker) SetLimits(l Limits) {
	l = l.withDefaults()
	b.limits.Store(&l)
}

// SetShareStrategy replaces how the member of a shared group is picked, from the next message on.
func (b *Broker) SetShareStrategy(s topics.Strategy) { b.strategy.Store(uint32(s)) }

// UseLog tells the journal. Before Recover.
func (b *Broker) UseLog(l Log) {
	b.log = l
	if s, ok := l.(StreamLog); ok {
		b.streams = s
	}
}

// Local gives the core's part of loop i.
func (b *Broker) Local(i int) *Local { return b.locals[i] }

// Loops is how many Locals there are.
func (b *Broker) Loops() int { return len(b.locals) }

// Close stops what the core runs in the background. The loops and the log have ended before.
func (b *Broker) Close() {
	b.compaction.close()
	b.fetcher.close()
	b.storePool.close()
}

// shardOf gives the shard of a topic or a session. The hash is part of the data directory's format: FNV-1a, 64 bits.
func (b *Broker) shardOf(tenant uint32, name []byte) *shard {
	return b.homes[shardHash(tenant, name)%uint64(len(b.homes))]
}

func shardHash(tenant uint32, name []byte) uint64 {
	h := uint64(14695981039346656037) ^ uint64(tenant)
	for _, c := range name {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h ^ h>>32
}

// Stats are the core's counters. All are safe to read at any time.
type Stats struct {
	Sessions         atomic.Int64 // durable sessions
	Connected        atomic.Int64
	RetainedMessages atomic.Int64
	RetainedBytes    atomic.Int64
	Journaled        atomic.Int64 // records that the journal took
	QueueDropped     [DropReasons]atomic.Int64
	SessionsExpired  atomic.Int64
	WillsPublished   atomic.Int64
	WillsDropped     atomic.Int64 // refused for good, or too many waited
	WillsWaiting     atomic.Int64 // bytes that wills take which wait in memory: those of sessions that are not kept, or have another connection
	DelayedDropped   [DelayedReasons]atomic.Int64
	Groups           atomic.Int64 // of Kafka's protocol, and such as only have offsets
	Partitions       atomic.Int64 // of topics
	Producers        atomic.Int64 // that partitions know, each counted once for each of them
	Compactions      atomic.Int64 // passes over a partition
	CompactedBytes   atomic.Int64 // that they took away
	TierFailed       atomic.Int64 // reads that the store of old records did not answer
	Undeliverable    atomic.Int64 // records of bound streams whose key makes no MQTT topic by their bindings
	Unreadable       atomic.Int64 // records of bound streams that cannot be opened for MQTT subscribers
}

// DelayedReason says why a delayed message was not published when its time had come.
type DelayedReason uint8

// The reasons.
const (
	DelayedExpired DelayedReason = iota // its own expiry: the node was down for longer
	DelayedLimit                        // of retained messages, or of what the stream takes that its topic is bound to
	DelayedRefused                      // for another reason that does not pass by itself
	DelayedReasons
)

// String is the reason as metrics say it.
func (r DelayedReason) String() string { return [...]string{"expired", "limit", "refused"}[r] }

// DropReason says why a kept message never reached its session.
type DropReason uint8

// The reasons.
const (
	DropExpired DropReason = iota // its own expiry
	DropMessages
	DropBytes
	DropAge
	DropLost // gone from the log before it was sent
	DropNoMember
	DropRetention // of a bound stream, whose retention or compaction has taken it
	DropReasons
)

// String is the reason as metrics say it.
func (r DropReason) String() string {
	return [...]string{"expired", "session_messages", "session_bytes", "session_age", "log_trimmed", "no_member", "stream_retention"}[r]
}

// Stats gives the counters.
func (b *Broker) Stats() *Stats { return &b.stats }

// Subscriptions counts the subscriptions and the distinct filters under them.
func (b *Broker) Subscriptions() (filters, subscriptions int) { return b.index.Len() }

func (b *Broker) nowMilli() int64 { return b.clock.Now().UnixMilli() }

// slotTable maps subscriber slots, as the index knows them, to sessions and their connected clients. Slots live as long as their sessions.
type slotTable struct {
	mu     sync.Mutex
	free   []uint32
	next   uint32
	chunks [1 << 12]atomic.Pointer[[1 << 12]slot]
}

type slot struct {
	client atomic.Pointer[Client]
	sess   atomic.Pointer[Session]
}

// alloc gives sess its slot.
func (t *slotTable) alloc(sess *Session) {
	sess.slot = t.take()
	t.at(sess.slot).sess.Store(sess)
}

func (t *slotTable) take() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		s := t.free[n-1]
		t.free = t.free[:n-1]
		return s
	}
	t.next++
	c := &t.chunks[t.next>>12]
	if c.Load() == nil {
		c.Store(new([1 << 12]slot))
	}
	return t.next
}

func (t *slotTable) release(s uint32) {
	t.set(s, nil)
	t.at(s).sess.Store(nil)
	t.mu.Lock()
	t.free = append(t.free, s)
	t.mu.Unlock()
}

func (t *slotTable) at(s uint32) *slot { return &t.chunks[s>>12].Load()[s&(1<<12-1)] }

func (t *slotTable) set(s uint32, c *Client) { t.at(s).client.Store(c) }

func (t *slotTable) get(s uint32) *Client { return t.at(s).client.Load() }

// session gives the session of a slot, nil if it has ended.
func (t *slotTable) session(s uint32) *Session {
	c := t.chunks[s>>12].Load()
	if c == nil {
		return nil
	}
	return c[s&(1<<12-1)].sess.Load()
}
