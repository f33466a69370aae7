package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// Durability says when a group counts as committed.
type Durability uint8

const (
	// Sync counts what is on stable storage.
	Sync Durability = iota
	// Async counts what is in the system's memory; it is on stable storage within FlushInterval. It survives the process, not the power.
	Async
)

// String names the mode as the configuration does.
func (d Durability) String() string {
	if d == Async {
		return "async"
	}
	return "sync"
}

// What Options' zero values mean.
const (
	DefaultFlushInterval = 5 * time.Millisecond
	DefaultSegmentBytes  = 256 << 20
	DefaultTailBytes     = 32 << 20
	DefaultGroupBytesMax = 1 << 20
	DefaultRewriteRate   = 32 << 20

	firstSegmentBytes = 8 << 20
	segmentBytesMin   = 64 << 10
	segmentBytesMax   = 3 << 30 // positions in an index have 32 bits
)

// Options of a Log. Only Dir must be set; the zero value of the others is production.
type Options struct {
	Dir           string
	FS            vfs.FS      // nil: vfs.OS
	Clock         clock.Clock // nil: clock.Real
	Durability    Durability
	FlushInterval time.Duration // async mode; 0: 5 ms
	SegmentBytes  int64         // 0: 256 MiB; the first segment has at most 8 MiB
	TailBytes     int64         // groups kept in memory for readers; 0: 32 MiB
	GroupBytesMax int           // most bytes of frames asked for at once; 0: 1 MiB
	// LogBytesMax is how large the log may grow because of what lives in its oldest segments: above it they are rewritten,
	// however much of them lives. 0: 16 segments.
	LogBytesMax int64
	// MaxBytes bounds the files of log and partition segments: where the next segment would have them be more, the last quarter of this one
	// takes urgent frames alone, and others are refused with ErrLimit. Urgent ones go on beyond if they must, and rewriting needs room for what it
	// writes before it lets go of what it has read. LogBytesMax is at most half of it. 0: no bound.
	MaxBytes    int64
	RewriteRate int64        // bytes a second that rewriting may take; 0: 32 MiB/s, negative: no bound
	Logger      *slog.Logger // nil: silent
	Events      Events
	// Elsewhere tells which records of a partition are kept outside of this log as well: all from start to before end. ok false: none. It is asked
	// at the end of Replay, under the log's lock: it must not block, nor ask the log. nil: there are none.
	Elsewhere func(p record.PartitionID) (start, end record.Offset, ok bool)
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.FlushInterval, DefaultFlushInterval)
	setDefault(&o.SegmentBytes, DefaultSegmentBytes)
	setDefault(&o.TailBytes, DefaultTailBytes)
	setDefault(&o.GroupBytesMax, DefaultGroupBytesMax)
	setDefault(&o.RewriteRate, DefaultRewriteRate)
	o.SegmentBytes = alignUp(min(max(o.SegmentBytes, segmentBytesMin), segmentBytesMax))
	o.GroupBytesMax = min(o.GroupBytesMax, int(o.SegmentBytes/2))
	setDefault(&o.LogBytesMax, 16*o.SegmentBytes)
	if o.MaxBytes > 0 {
		o.LogBytesMax = min(o.LogBytesMax, o.MaxBytes/2)
	}
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Position is a place in the log. The zero Position is before everything.
type Position struct {
	Segment uint64
	Offset  int64
}

// Before tells whether p lies before q.
func (p Position) Before(q Position) bool {
	return p.Segment < q.Segment || p.Segment == q.Segment && p.Offset < q.Offset
}

// String is segment:byte.
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Segment, p.Offset) }

var (
	// ErrFull means that the disk is full: what waited was not written; the log goes on when there is space.
	ErrFull = errors.New("journal: disk is full")
	// ErrLimit means that the log has Options.MaxBytes: what waited was not written; the log goes on when something of it is let go of. It is
	// an ErrFull.
	ErrLimit error = limitError{}
	// ErrIO means that the disk failed: nothing is written any more until the log is opened anew.
	ErrIO = errors.New("journal: input/output error")
	// ErrClosed means that the log is being closed, or is.
	ErrClosed = errors.New("journal: closed")
	// ErrLocked means that another process has the directory.
	ErrLocked = errors.New("journal: directory is in use by another process")
	// ErrPermission means that the directory may not be read and written by this user.
	ErrPermission = errors.New("journal: no permission for the directory")
	// ErrOffsetOutOfRange means that a partition has no such offset: below its log start, or above its log end.
	ErrOffsetOutOfRange = errors.New("journal: offset out of range")
	// ErrNotReplayed means that Start was called before Replay had succeeded.
	ErrNotReplayed = errors.New("journal: not replayed yet")
)

// FormatError means that the directory was written by a newer program, or is none of ours.
type FormatError struct {
	Path  string
	Found string // what the file says
	Known int    // the highest format that this program reads
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("journal: %s says %q, this program reads format %d: start the program that wrote it", e.Path, e.Found, e.Known)
}

// CorruptError means that the disk holds something else than what was written. Nothing is cut or repaired: what to do is the
// operator's choice.
type CorruptError struct {
	Path   string
	Offset int64
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal: %s is corrupt at byte %d: %s", e.Path, e.Offset, e.Reason)
}

// Events are optional callbacks. They run on the log's goroutines and must not block.
type Events struct {
	// Flushed tells how long a flush took: in sync mode each group's write.
	Flushed func(d time.Duration)
	// Space tells that the disk has no room for another segment, or has it again. Publishers are best refused meanwhile; see
	// UrgentSource.
	Space func(low bool)
}

// Source is where the committer gets frames from. All three methods run on the committer's goroutine.
type Source interface {
	// Gather appends whole frames to dst, at most max bytes in total, and tells whether more wait. A frame, or an atomic run of
	// frames, that is larger than max by itself may be appended alone. dst is the aligned staging buffer: as long as it is
	// not outgrown no other copy is made.
	Gather(dst []byte, max int) (out []byte, more bool)
	// Committed tells that g is as durable as the mode says. It must not block. g is the callee's until it returns; Retain keeps it.
	Committed(g *Group)
	// Failed tells that the group gathered last, and all that waits, cannot be written. err wraps ErrFull, ErrIO or ErrClosed.
	// After ErrFull, Gather is called again once there is space; after the others never again. While the log is full or failed,
	// each Wake is answered by one Failed, or by what UrgentSource has for it.
	Failed(err error)
}

// UrgentSource is a Source that can tell apart what must be logged on a full disk to make room: deletes, positions,
// acknowledgements. With it, the last quarter of the last segment is set aside for them.
type UrgentSource interface {
	Source
	// GatherUrgent is Gather for such frames only.
	GatherUrgent(dst []byte, max int) (out []byte, more bool)
	// Refuse tells that what the last GatherUrgent, which gave nothing, has left waiting is not written. What has come since is not meant: it is asked
	// for next. err is as for Failed.
	Refuse(err error)
}

// AheadSource is a Source that can tell what may be shown to scanners before it is written (Scanner.Ahead).
type AheadSource interface {
	Source
	// Ahead says whether anything of the group that was gathered last may be. It calls hold with the shards of which nothing may: scanners that look for these
	// have the group when it is written.
	Ahead(hold func(record.ShardID)) bool
}

// Log is one write-ahead log with its index, partition segments and checkpoint store. All methods are safe for concurrent use,
// but Replay comes before Start, and Close is the last.
type Log struct {
	o     Options
	fs    vfs.FS
	clk   clock.Clock
	log   *slog.Logger
	lock  io.Closer
	ckpt  *Checkpointer
	stats Stats
	tail  tail
	reads chan struct{} // tickets of the bounded read pool

	aheads atomic.Int32 // scanners that take what is not written yet

	touched atomic.Int64 // bytes of mapped files that were read, about, since they were let go of last

	mu struct {
		sync.RWMutex
		segments   []*segment // by number; the last one is active, or the last to be sealed
		parts      map[*segment]struct{}
		partitions map[record.PartitionID]*partition
		dirty      map[record.PartitionID]struct{} // log start or end moved since the last checkpoint
		shards     []shardMark
		replay     Position // where a restart would begin
		holds      map[string]Position
		cuts       []cut
		scanners   []*Scanner
		ahead      *Group // is being written, and is shown already
		walBytes   int64
		refs       int    // of all partitions
		nextPart   uint64 // number of the next partition segment
	}

	com      committer
	keep     keeper
	clean    cleaner
	replayed bool
	started  bool
	closing  atomic.Bool
	closed   sync.Once
	closeErr error
	stop     chan struct{}
	wg       sync.WaitGroup
	backups  sync.WaitGroup // those that are not closed; grows under mu, while not closing
}

// Open locks the directory, checks its format, and opens segments and checkpoint store; Replay comes next. Errors: ErrLocked,
// ErrPermission, *FormatError, *CorruptError, or what the disk said.
func Open(o Options) (*Log, error) {
	o.setDefaults()
	l := &Log{o: o, fs: o.FS, clk: o.Clock, log: o.Logger, stop: make(chan struct{}), reads: make(chan struct{}, readPoolSize)}
	l.mu.parts = make(map[*segment]struct{})
	l.mu.partitions = make(map[record.PartitionID]*partition)
	l.mu.dirty = make(map[record.PartitionID]struct{})
	l.mu.holds = make(map[string]Position)
	l.tail.init(o.TailBytes, o.GroupBytesMax)
	l.com.init(l)
	l.keep.init(l)
	l.clean.init(l)
	if err := l.open(); err != nil {
		return nil, errors.Join(named(err), l.closeFiles())
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.fs.MkdirAll(l.o.Dir); err != nil {
		return fmt.Errorf("open journal in %s: %w", l.o.Dir, err)
	}
	lock, err := l.fs.Lock(l.o.Dir + "/LOCK")
	if err != nil {
		return fmt.Errorf("open journal in %s: %w", l.o.Dir, err)
	}
	l.lock = lock
	if err := l.checkFormat(); err != nil {
		return err
	}
	// The checkpoint store takes some milliseconds of disk to open; the segments are looked at meanwhile.
	opened := make(chan error, 1)
	l.ckpt = newCheckpointer(l)
	go func() { opened <- l.ckpt.open() }()
	err = l.openSegments()
	if err := errors.Join(err, <-opened); err != nil {
		return err
	}
	return l.openIndexes()
}

// named gives an error of the file system the name that callers know.
func named(err error) error {
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("%w: %w", ErrLocked, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrPermission, err)
	case vfs.IsFull(err) && !errors.Is(err, ErrFull):
		return fmt.Errorf("%w: %w", ErrFull, err)
	default:
		return err
	}
}

const formatKnown = 1

const formatText = "sluice journal\nformat 1\n"

func (l *Log) checkFormat() error {
	path := l.o.Dir + "/FORMAT"
	b, err := vfs.ReadFile(l.fs, path)
	switch {
	case err == nil && string(b) == formatText:
		return nil
	case err == nil:
		return &FormatError{Path: path, Found: string(b[:min(len(b), 64)]), Known: formatKnown}
	case !vfs.IsNotExist(err):
		return err
	}
	folders := []string{"wal", "partitions", "checkpoint"}
	for _, dir := range folders {
		if names, err := l.fs.List(l.o.Dir + "/" + dir); err == nil && len(names) > 0 {
			return &CorruptError{Path: path, Reason: "it is missing, but there is a log"}
		}
	}
	for _, dir := range folders {
		if err := l.fs.MkdirAll(l.o.Dir + "/" + dir); err != nil {
			return err
		}
	}
	if err := vfs.WriteFile(l.fs, path, []byte(formatText)); err != nil {
		return err
	}
	return l.fs.SyncDir(l.o.Dir)
}

// Start begins to gather from src. Replay must have succeeded.
func (l *Log) Start(src Source) error {
	if !l.replayed {
		return ErrNotReplayed
	}
	l.started = true
	l.com.src = src
	l.com.urgent, _ = src.(UrgentSource)
	l.com.ahead, _ = src.(AheadSource)
	l.com.hold = l.com.held.add
	l.wg.Go(l.com.run)
	l.wg.Go(l.keep.run)
	l.wg.Go(l.clean.run)
	if l.o.Durability == Async {
		l.wg.Go(l.com.flushLoop)
	}
	return nil
}

// Wake tells the committer that frames wait. Any goroutine may call it; it never blocks, and costs an atomic load when the
// committer knows already.
func (l *Log) Wake() { l.com.wake() }

// Stats are the log's counters, live.
func (l *Log) Stats() *Stats { return &l.stats }

// Checkpointer is the log's checkpoint store. It is closed with the log.
func (l *Log) Checkpointer() *Checkpointer { return l.ckpt }

// Err is why the log writes no more, and nil while it does. A full disk is no such reason.
func (l *Log) Err() error {
	if p := l.com.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// LowSpace tells whether the disk has no room for another segment.
func (l *Log) LowSpace() bool { return l.keep.low.Load() }

// Mode tells how groups reach the disk, for logs and doctors.
func (l *Log) Mode() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.o.Durability == Async {
		return "write, fdatasync each " + l.o.FlushInterval.String()
	}
	if n := len(l.mu.segments); n > 0 && l.mu.segments[n-1].file != nil {
		return l.mu.segments[n-1].file.Direct().String()
	}
	return "no segment yet"
}

// Close writes what is gathered already, marks a clean end, and closes all files. Sources hear ErrClosed for what waits. Fetched
// results must have been released. Each call answers with the same error.
func (l *Log) Close() error {
	l.closed.Do(func() {
		l.closing.Store(true)
		close(l.stop)
		l.com.signal()
		l.wg.Wait()
		l.mu.Lock()   // no backup
		l.mu.Unlock() //nolint:staticcheck // begins from here on
		l.backups.Wait()
		l.clean.one.Lock() // a compaction ends
		defer l.clean.one.Unlock()
		var err error
		if l.started && l.Err() == nil {
			err = l.com.finish()
		}
		l.closeErr = errors.Join(err, l.closeFiles())
	})
	return l.closeErr
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.ckpt != nil {
		errs = append(errs, l.ckpt.close())
	}
	l.mu.Lock()
	for _, s := range l.mu.segments {
		errs = append(errs, s.close())
	}
	for s := range l.mu.parts {
		errs = append(errs, s.close())
	}
	l.mu.segments, l.mu.parts = nil, nil
	l.mu.Unlock()
	errs = append(errs, l.keep.closeDying())
	l.tail.clear()
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}
