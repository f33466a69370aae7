// Package offload brings what is old out of the log into a store. It decides what is due by each topic's policy, lays runs of like partitions
// together into objects, uploads them, has them committed, and only then lets go of the local copies; it removes objects that nobody needs any more,
// and what crashes have left. It owns the epochs that name a node's objects, and all writing to a store. It knows no log and no catalog but by the interfaces
// Log and Catalog; it reads back, and opens, only what it compacts (passes over the store, pass.go): readers are package history's.
//
// One turn at a time, one object at a time: a store's own parallelism is within Put. Everything that is worth keeping over a restart is a row of the
// manifest or an object of the store; what lies in memory is found again by the next turn.
//
// The order that nothing is lost by: Put has answered, then the row is committed and applied, then local copies go. A crash leaves at most an
// object without a row, an orphan, which goes after a time of grace. When nobody needs an object: first its row goes, then, after a delay, the
// object.
//
// Locks: Offloader.one, a channel of one place, is held for a turn; Offloader.mu is a leaf, for Status.
package offload

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Policy says when records of a topic go to the store.
type Policy uint8

// The policies.
const (
	// None: never.
	None Policy = iota
	// Archive: when local retention takes them. They leave the log at once.
	Archive
	// Immediate: when they lie in a segment that does not change any more. They leave the log when local retention takes them.
	Immediate
)

// Partition is what a turn needs to know of a partition of a stream.
type Partition struct {
	object.Topic
	Tenant record.TenantID
	Shard  record.ShardID // whose rows tell of its objects
	Policy Policy
	// LocalMillis and LocalBytes are how long and how much stays in the log; below 0: without bound.
	LocalMillis, LocalBytes int64
	// RetentionMillis is how long records stay at all; below 0: for ever. Objects hold partitions whose retention is alike.
	RetentionMillis int64
	// LogStart is the first offset that may be asked for. What lies at or behind LastStable is not decided yet, and stays.
	LogStart, LastStable record.Offset
	Class                string // storage class, in the store's words
	Cleaning
}

// Change is a change of the manifest: the row Key gets Value; nil: it goes.
type Change struct{ Key, Value []byte }

// Catalog is what the broker knows. Its methods may be called from any goroutine.
type Catalog interface {
	// Partitions calls yield with each partition that has a policy or is compacted, until it answers false. yield calls Log and Manifest, whose locks it may
	// so take; it waits for nothing else.
	Partitions(yield func(Partition) bool)
	// Exists tells whether the node has the partition, whatever its policy. false makes its history go.
	Exists(p record.PartitionID) bool
	// Aborted are the aborted transactions of p that have records in the interval, both ends included.
	Aborted(p record.PartitionID, first, last record.Offset) []object.Aborted
	// Forget tells that of aborted transactions of p that end below an offset nothing is left anywhere but markers.
	Forget(p record.PartitionID, below record.Offset)
	// Change has rows of a shard changed, and calls done once, from any goroutine, when they are on stable storage and applied to the
	// manifest, or when they will not be. It keeps what it is given.
	Change(shard record.ShardID, changes []Change, done func(error))
}

// LetGo lets go of local copies that the manifest has and local retention takes, and does nothing else: it is for a node whose manifest another one writes.
// Not beside a turn.
func (f *Offloader) LetGo() {
	pressed := f.o.Pressed != nil && f.o.Pressed()
	f.o.Catalog.Partitions(func(p Partition) bool {
		f.o.Manifest.SetLogStart(p.Partition, p.LogStart)
		f.release(&p, pressed)
		return true
	})
}

// Own are the epochs whose objects this Offloader may remove.
func (f *Offloader) Own() map[record.Epoch]bool { return f.ownEpochs() }

// Pieces are neighbouring batches of a partition, and a hold of the segments that they lie in.
type Pieces interface {
	// Extents tell of them, in the order of offsets, in pieces of one batch or a few. The list is not changed by either side.
	Extents() []object.Extent
	// Open gives the bytes of the extents from number from to before number to, exactly as long as those say; or an error. The caller closes it.
	Open(from, to int) io.ReadCloser
	// Release lets go of the segments. It is called once, with all readers closed.
	Release()
}

// Log is what the journal does for a turn. Its methods may be called from any goroutine.
type Log interface {
	// Pieces lists what of p lies from the offset from on, below until, in segments that do not change any more: the oldest, at most maxBytes of
	// them but at least one extent, without a gap before them. Nothing: nil, or no extents.
	Pieces(p record.PartitionID, from, until record.Offset, maxBytes int64) (Pieces, error)
	// Ready tells about how many bytes Pieces would list without a bound, by the index alone, and the number of the oldest segment that they lie in:
	// of two, the one with the smaller number should go first. It is called for each partition in each turn.
	Ready(p record.PartitionID, from, until record.Offset) (bytes int64, oldest uint64)
	// LocalStart is the first offset that the log has; the end if it has none.
	LocalStart(p record.PartitionID) record.Offset
	// SetLocalStart tells that what lies below o may go: the manifest has it.
	SetLocalStart(p record.PartitionID, o record.Offset)
	// Excess is the offset below which everything that the log has is older than before, in Unix milliseconds, or more than bytes.
	Excess(p record.PartitionID, before, bytes int64) record.Offset
	// Sync has all that Catalog.Change has answered for be on stable storage. A log whose every commit is has nothing to do.
	Sync() error
	// Rotate has what was written so far come into segments that do not change any more, soon.
	Rotate()
}

// Options are what an Offloader is made with. Store, Log, Catalog and Manifest must be there.
type Options struct {
	Store     tier.Store
	StoreName string // which store it is, and whose: in words that differ for each, and for each copy of a node. An epoch is good for one
	Log       Log
	Catalog   Catalog
	Manifest  *history.Manifest

	Clock          clock.Clock // nil: the system's
	BytesPerSecond int64       // of uploads; 0: no bound
	// Memory bounds what is held of an object's layout while it is made, beside what the store's Put takes. 0: 16 MiB. An object whose layout
	// would take more is made smaller.
	Memory         int64
	ObjectBytes    int64         // 0: 64 MiB; an object is about as large where so much is due
	MinObjectBytes int64         // 0: 16 MiB; less is not uploaded before MaxLag
	MaxLag         time.Duration // 0: 10 minutes; what was due for so long is uploaded, however little it is
	Interval       time.Duration // 0: 5 seconds; between turns
	StallAfter     time.Duration // 0: 2 minutes; a Put that takes no byte for so long is given up
	OrphanGrace    time.Duration // 0: 24 hours; an object without a row is removed when it is so old
	DeleteDelay    time.Duration // 0: 10 minutes; between an object's row and the object
	// Shared says that several nodes write to the store, of which one at a time leads: an Offloader is of one lead, and mints an epoch of its own before it
	// names an object. So no two nodes that both believe to lead can have one name, and a row of an object is proposed in the lead of its epoch alone.
	// The epochs of all nodes whose StoreName is this one's are own ones. A store that cannot put if absent is refused.
	Shared bool
	// Leads tells whether this lead goes on, as far as the node knows. It is asked after what is to be removed was found, and before that is removed. nil: always.
	Leads func() bool
	// Everywhere is asked when rows have gone from the manifest, and gives what tells, later, whether all nodes that may lead know so. Before that none of their
	// objects is removed. nil: there is no other node.
	Everywhere func() (known func() bool)
	// Pressed tells that the log has hardly room left: everything that may go goes at once, whatever its policy, and what is in the store leaves the
	// log. nil: never.
	Pressed func() bool
	// Spool opens a place for what a pass of compaction leaves, at most an object's bytes; one at a time. nil: memory.
	Spool    func() (Spool, error)
	KeyBytes int          // for the keys of a pass; 0: 16 MiB
	Logger   *slog.Logger // nil: none
	Stats    *Stats       // nil: its own
	// Step, if set, is called at each named step of a turn (Steps), on the turn's goroutine.
	Step func(name string)
	_    struct{} // by name only
}

// Steps are the names that Options.Step hears.
var Steps = []string{
	"turn", "epoch-listed", "epoch-claimed", "epoch-committed", "planned", "laid-out", "put", "stored", "committing", "committed", "released",
	"forgetting", "forgotten", "deleting", "deleted", "orphan", "orphan-deleted", "swept", "done", "noted", "filtered", "others", "cleaned",
}

const (
	kib = 1 << 10
	mib = 1 << 20

	// scanFirst is when orphans are looked for first after a start; orphanScans how often within the time of grace.
	scanFirst   = 10 * time.Minute
	orphanScans = 4
	sweepAge    = 24 * time.Hour
	// turnTime bounds a turn that finds more and more to do: what is due changes meanwhile.
	turnTime = 10 * time.Minute
)

// What a call answers with when there is nothing to be done about it.
var (
	ErrBusy   = errors.New("offload: a turn is under way")
	ErrClosed = errors.New("offload: closed")
)

// Offloader brings objects out. Its methods may be called from any goroutine.
type Offloader struct {
	o     Options
	log   *slog.Logger
	clk   clock.Clock
	stats *Stats
	limit *pace.Limiter
	woken chan struct{}
	one   chan struct{} // has the turn's token while none is under way
	ctx   context.Context
	stop  context.CancelFunc
	calls sync.WaitGroup
	// sleep waits for d, or until ctx ends. Tests move their clock with it.
	sleep func(ctx context.Context, d time.Duration) error

	// What follows belongs to the turn.
	epoch   record.Epoch // 0: not known yet
	seq     uint64       // of the next object
	since   map[groupKey]time.Duration
	bad     map[record.PartitionID]time.Duration // partitions that could not be read, until when they are left alone
	unclean map[record.PartitionID]time.Duration // the same of compaction
	pass    *pass                                // of compaction, under way; nil: none is
	pending *commit                              // an object that is in the store, and not known to be in the manifest
	doomed  []doomed                             // objects without a row, to be removed
	scanAt  time.Duration                        // when orphans are looked for next
	search  *search                              // for them, under way; nil: none is
	guarded bool                                 // what other nodes have written, and this one needs, is held
	known   bool                                 // the manifest has been told of partitions that are gone
	cond    condition                            // what Put can do
	more    bool                                 // the turn ended before its work
	planned time.Duration                        // what planning has taken

	mu struct {
		sync.Mutex
		status Status
		closed bool
		named  object.ID // the last object that was given a name; Epoch 0: none was
	}
}

// New makes an Offloader. It starts nothing: Run does.
func New(o Options) *Offloader {
	set(&o.Memory, 16*mib)
	set(&o.ObjectBytes, 64*mib)
	set(&o.MinObjectBytes, 16*mib)
	o.MinObjectBytes = min(o.MinObjectBytes, o.ObjectBytes)
	set(&o.MaxLag, 10*time.Minute)
	set(&o.Interval, 5*time.Second)
	set(&o.StallAfter, 2*time.Minute)
	set(&o.OrphanGrace, 24*time.Hour)
	set(&o.DeleteDelay, 10*time.Minute)
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Stats == nil {
		o.Stats = new(Stats)
	}
	f := &Offloader{
		o: o, log: o.Logger, clk: o.Clock, stats: o.Stats, woken: make(chan struct{}, 1), one: make(chan struct{}, 1),
		since: make(map[groupKey]time.Duration), bad: make(map[record.PartitionID]time.Duration),
		unclean: make(map[record.PartitionID]time.Duration),
	}
	f.limit = pace.NewLimiter(o.Clock, func() int64 { return o.BytesPerSecond })
	f.sleep = func(ctx context.Context, d time.Duration) error { return pace.Sleep(ctx, f.clk, d) }
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.scanAt = f.clk.Mono() + min(scanFirst, f.scanEvery())
	f.one <- struct{}{}
	return f
}

func set[T int64 | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

func (f *Offloader) step(name string) {
	if f.o.Step != nil {
		f.o.Step(name)
	}
}

// enter gives a context that ends with ctx, and with Close, which waits until leave is called. ErrClosed.
func (f *Offloader) enter(ctx context.Context) (within context.Context, leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		return nil, nil, ErrClosed
	}
	f.calls.Add(1)
	within, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(f.ctx, func() { cancel(ErrClosed) })
	return within, func() {
		unhook()
		cancel(nil)
		f.calls.Done()
	}, nil
}

// Run makes turns until ctx or the Offloader ends. After a turn that failed it waits longer and longer.
func (f *Offloader) Run(ctx context.Context) {
	ctx, leave, err := f.enter(ctx)
	if err != nil {
		return
	}
	defer leave()
	var fails backoff
	for ctx.Err() == nil {
		more, planned, err := f.oneTurn(ctx)
		pause := max(f.o.Interval, planShare*planned)
		switch {
		case errors.Is(err, ErrBusy):
			// A command has asked for a turn: it does what there is to do.
		case err != nil:
			pause = fails.next(err)
		default:
			fails = backoff{}
			if more {
				continue
			}
		}
		f.next(pause)
		f.rest(ctx, pause, err == nil)
	}
}

// planShare is how many times longer than planning the rest after it is at least.
const planShare = 20

// rest waits for the next turn. A call of Wake ends it, where wake says so.
func (f *Offloader) rest(ctx context.Context, d time.Duration, wake bool) {
	over := make(chan struct{})
	t := f.clk.AfterFunc(d, func() { close(over) })
	defer t.Stop()
	woken := f.woken
	if !wake {
		woken = nil
	}
	select {
	case <-over:
	case <-woken:
	case <-ctx.Done():
	}
}

// Wake tells that there may be something to do: a segment does not change any more, or the log is full. It never blocks.
func (f *Offloader) Wake() {
	select {
	case f.woken <- struct{}{}:
	default: // it is told already
	}
}

// Close ends what is under way, and waits for it. The store, which is not closed, may be left with an orphan.
func (f *Offloader) Close() {
	f.mu.Lock()
	f.mu.closed = true
	f.mu.Unlock()
	f.stop()
	f.calls.Wait()
	f.endPass() // nobody else is there any more
}

// Turn does what is due, once, and returns when that is done or has failed. ErrBusy: another turn is under way.
func (f *Offloader) Turn(ctx context.Context) error {
	_, _, err := f.oneTurn(ctx)
	return err
}

// oneTurn is Turn, and tells whether the turn ended before its work, and what planning has taken.
func (f *Offloader) oneTurn(ctx context.Context) (more bool, planned time.Duration, err error) {
	ctx, leave, err := f.enter(ctx)
	if err != nil {
		return false, 0, err
	}
	defer leave()
	select {
	case <-f.one:
	default:
		return false, 0, ErrBusy
	}
	defer func() { f.one <- struct{}{} }()
	err = f.turn(ctx, false)
	return f.more, f.planned, err
}

// flushEvery is how long Flush waits between two turns.
const flushEvery = 250 * time.Millisecond

// Flush uploads all that is decided now of partitions with the policy Immediate, and what is due of others, however little it is: when it
// returns without an error, that is in the store and in the manifest. It has the log begin a new segment.
func (f *Offloader) Flush(ctx context.Context) error {
	ctx, leave, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	until := make(map[record.PartitionID]record.Offset)
	f.o.Catalog.Partitions(func(p Partition) bool {
		if p.Policy == Immediate && p.LastStable > p.LogStart {
			until[p.Partition] = p.LastStable
		}
		return true
	})
	f.o.Log.Rotate()
	for {
		select {
		case <-f.one:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := func() error {
			defer func() { f.one <- struct{}{} }()
			return f.turn(ctx, true)
		}()
		if err != nil {
			return err
		}
		if f.flushed(until); len(until) == 0 {
			return nil
		}
		if err := f.sleep(ctx, flushEvery); err != nil {
			return context.Cause(ctx)
		}
	}
}

// flushed takes out of until what is in the manifest, or need not be.
func (f *Offloader) flushed(until map[record.PartitionID]record.Offset) {
	there := make(map[record.PartitionID]struct{}, len(until))
	f.o.Catalog.Partitions(func(p Partition) bool {
		if o, ok := until[p.Partition]; ok && p.Policy == Immediate && f.tieredEnd(&p) < o {
			there[p.Partition] = struct{}{}
		}
		return true
	})
	for p := range until {
		if _, ok := there[p]; !ok {
			delete(until, p)
		}
	}
}

// turn does all of a turn. The caller has the token.
func (f *Offloader) turn(ctx context.Context, flush bool) (err error) {
	f.step("turn")
	f.more = false
	defer func() { f.end(ctx, err) }()
	// A commit in doubt comes first: planning must know how it went.
	f.phase(Committing)
	if err := f.settle(ctx); err != nil {
		return err
	}
	err = f.bringOut(ctx, flush)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// What goes makes room, so it goes even where something has failed.
	f.phase(Removing)
	return errors.Join(err, f.remove(ctx))
}

// bringOut plans and uploads.
func (f *Offloader) bringOut(ctx context.Context, flush bool) error {
	from := f.clk.Mono()
	f.phase(Planning)
	p := f.plan(flush)
	f.planned = f.clk.Mono() - from
	f.step("planned")
	for g := p.next(); g != nil; g = p.next() {
		if f.clk.Mono()-from > turnTime {
			f.more = true
			break
		}
		if err := f.name(ctx); err != nil {
			return err
		}
		if err := f.object(ctx, p, g); err != nil {
			return err
		}
	}
	if p.all || f.clk.Mono()-from > turnTime {
		return nil // there is something more urgent
	}
	return f.compact(ctx, p)
}
