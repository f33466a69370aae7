package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/sluicemq/sluice/journal/record"
)

// The first byte of a key says whose it is.
const (
	keyLog   = 0x00
	keyShard = 0x01

	rowReplay    = 'r'
	rowPartition = 'p'
	rowCut       = 'c'
	rowApplied   = 0x00
	rowOfShard   = 0x01

	partDropped = 1
)

// What the store may use in memory: it is written in bursts and read at start.
const (
	checkpointCacheBytes    = 1 << 20
	checkpointMemTableBytes = 2 << 20
	checkpointOpenFiles     = 128
)

// ErrCheckpoint means that the checkpoint store has failed: nothing is written to it any more until the log is opened anew. The log
// itself goes on, and keeps all that a restart will need.
var ErrCheckpoint = errors.New("journal: checkpoint store has failed")

// Checkpointer holds rows of shards in one store without a log of its own. Rows are written behind, a shard's in one atomic batch; a
// crash falls back to what was flushed last and the log from there on. All methods are safe for concurrent use.
type Checkpointer struct {
	l        *Log
	fs       *storeFS
	failed   atomic.Pointer[error]
	flushErr chan error

	mu struct {
		sync.Mutex // held over whole checkpoints
		db         *pebble.DB
	}
}

func newCheckpointer(l *Log) *Checkpointer {
	c := &Checkpointer{l: l, flushErr: make(chan error, 1)}
	c.fs = &storeFS{fs: l.fs, failed: c.fail}
	return c
}

func (c *Checkpointer) open() error {
	cache := pebble.NewCache(checkpointCacheBytes)
	defer cache.Unref()
	o := &pebble.Options{
		FS:                 c.fs,
		Cache:              cache,
		DisableWAL:         true,
		FormatMajorVersion: pebble.FormatValueSeparation,
		MemTableSize:       checkpointMemTableBytes,
		MaxOpenFiles:       checkpointOpenFiles,
		Logger:             storeLogger{c},
		EventListener:      &pebble.EventListener{BackgroundError: c.backgroundError},
	}
	dir := c.l.o.Dir + "/checkpoint"
	db, err := pebble.Open(dir, o)
	if err != nil {
		if pebble.IsCorruptionError(err) {
			return &CorruptError{Path: dir, Reason: err.Error()}
		}
		return fmt.Errorf("open checkpoint store: %w", err)
	}
	c.mu.Lock()
	c.mu.db = db
	err = c.err()
	c.mu.Unlock()
	return err
}

// backgroundError is called on the store's goroutines: a flush has failed and will be tried again.
func (c *Checkpointer) backgroundError(err error) {
	select {
	case c.flushErr <- err:
	default: // one is enough to end a Flush
	}
}

// fail stops all writing to the store, as a power cut would: what is on the disk is then what the next open can read.
func (c *Checkpointer) fail(err error) {
	err = fmt.Errorf("%w: %w", ErrCheckpoint, err)
	if c.failed.CompareAndSwap(nil, &err) {
		c.fs.stopped.Store(true)
		c.l.log.Error("checkpoint store has failed; the log is kept until the next start", "err", err)
		c.backgroundError(err)
	}
}

func (c *Checkpointer) err() error {
	if p := c.failed.Load(); p != nil {
		return *p
	}
	if c.mu.db == nil {
		return ErrClosed
	}
	return nil
}

func (c *Checkpointer) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.db == nil {
		return nil
	}
	err := c.mu.db.Close()
	c.mu.db = nil
	if c.failed.Load() != nil {
		return nil // it was told when it failed
	}
	return err
}

// CheckpointWriter takes the rows of one shard. Keys and values are copied.
type CheckpointWriter struct {
	b      *pebble.Batch
	prefix [4]byte
	key    []byte
}

func (w *CheckpointWriter) full(key []byte) []byte {
	w.key = append(append(w.key[:0], w.prefix[:]...), key...)
	return w.key
}

// Set writes a row.
func (w *CheckpointWriter) Set(key, value []byte) error { return w.b.Set(w.full(key), value, nil) }

// Delete removes a row, if it is there.
func (w *CheckpointWriter) Delete(key []byte) error { return w.b.Delete(w.full(key), nil) }

// DeleteRange removes the rows from lo to hi, which is not one of them; a nil hi is the end.
func (w *CheckpointWriter) DeleteRange(lo, hi []byte) error {
	end := shardEnd(w.prefix)
	if hi != nil {
		end = append(w.prefix[:len(w.prefix):len(w.prefix)], hi...)
	}
	return w.b.DeleteRange(w.full(lo), end, nil)
}

func shardPrefix(shard record.ShardID) [4]byte {
	return [4]byte{keyShard, byte(shard >> 8), byte(shard), rowOfShard}
}

func shardEnd(prefix [4]byte) []byte { return []byte{prefix[0], prefix[1], prefix[2], rowOfShard + 1} }

// Write replaces rows of a shard in one atomic batch, and remembers that all its frames up to index applied, all before at, are in
// them. It is not durable before Flush.
func (c *Checkpointer) Write(shard record.ShardID, applied uint64, at Position, fn func(w *CheckpointWriter) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.err(); err != nil {
		return err
	}
	// The store may flush by itself at any time: rows must not stand for frames that a power cut could take.
	if err := c.l.com.flushWritten(); err != nil {
		return err
	}
	b := c.mu.db.NewBatch()
	w := CheckpointWriter{b: b, prefix: shardPrefix(shard)}
	if fn != nil {
		if err := fn(&w); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	var row [24]byte
	le := binary.LittleEndian
	le.PutUint64(row[:], applied)
	le.PutUint64(row[8:], at.Segment)
	le.PutUint64(row[16:], uint64(at.Offset))
	key := w.prefix
	key[3] = rowApplied
	if err := b.Set(key[:], row[:], nil); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := c.mu.db.Apply(b, pebble.NoSync); err != nil {
		return errors.Join(fmt.Errorf("write checkpoint of shard %d: %w", shard, err), b.Close())
	}
	c.l.mu.Lock()
	sh := c.l.shardLocked(shard)
	sh.saved, sh.at = true, at
	c.l.mu.Unlock()
	return b.Close()
}

// Load calls fn with each row of a shard, in order of the keys, and answers its applied index, 0 if it has none. Key and value are
// views, valid during the call. fn may be nil.
func (c *Checkpointer) Load(shard record.ShardID, fn func(key, value []byte) error) (applied uint64, err error) {
	prefix := shardPrefix(shard)
	prefix[3] = rowApplied
	row, err := c.get(prefix[:])
	if err != nil {
		return 0, err
	}
	if row != nil {
		applied = binary.LittleEndian.Uint64(row)
	}
	if fn == nil {
		return applied, nil
	}
	return applied, c.Scan(shard, nil, nil, fn)
}

// Get reads a row of a shard; nil if there is none.
func (c *Checkpointer) Get(shard record.ShardID, key []byte) ([]byte, error) {
	prefix := shardPrefix(shard)
	return c.get(append(prefix[:], key...))
}

func (c *Checkpointer) get(key []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.db == nil {
		return nil, ErrClosed
	}
	v, closer, err := c.mu.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	out := append([]byte{}, v...)
	return out, closer.Close()
}

// Scan calls fn with the rows of a shard from lo to hi, which is not one of them; a nil hi is the end.
func (c *Checkpointer) Scan(shard record.ShardID, lo, hi []byte, fn func(key, value []byte) error) error {
	prefix := shardPrefix(shard)
	end := shardEnd(prefix)
	if hi != nil {
		end = append(prefix[:len(prefix):len(prefix)], hi...)
	}
	return c.scan(append(prefix[:len(prefix):len(prefix)], lo...), end, func(key, value []byte) error { return fn(key[len(prefix):], value) })
}

func (c *Checkpointer) scan(lo, hi []byte, fn func(key, value []byte) error) (err error) {
	c.mu.Lock()
	db := c.mu.db
	if db == nil {
		c.mu.Unlock()
		return ErrClosed
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		err = fn(it.Key(), it.Value())
	}
	return errors.Join(err, it.Close())
}

// Flush makes durable what was written, moves the position from which a restart replays, and lets go of the log before it.
func (c *Checkpointer) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.err(); err != nil {
		return err
	}
	l := c.l
	b := c.mu.db.NewBatch()
	l.mu.Lock()
	replay := l.floorLocked()
	ids := make([]record.PartitionID, 0, len(l.mu.dirty))
	var err error
	for id := range l.mu.dirty {
		ids = append(ids, id)
		err = errors.Join(err, putPartition(b, l.mu.partitions[id]))
	}
	err = errors.Join(err, l.forgetDroppedLocked(b), l.putCutsLocked(b))
	// Log ends move with every group: those that the replay will not see again must be known.
	for id, p := range l.mu.partitions {
		if _, ok := l.mu.dirty[id]; !ok && p.end != p.savedEnd {
			ids = append(ids, id)
			err = errors.Join(err, putPartition(b, p))
		}
	}
	clear(l.mu.dirty)
	l.mu.Unlock()
	// After the look at the log, not before: a start or an end that is saved, and the power cut that takes the records under it, would have
	// the next run write its records below the start, where nobody looks for them.
	err = errors.Join(err, l.com.flushWritten())
	if err = errors.Join(err, b.Set([]byte{keyLog, rowReplay}, putPosition(replay), nil)); err == nil {
		err = c.mu.db.Apply(b, pebble.NoSync)
	}
	if err = errors.Join(err, b.Close()); err == nil {
		err = c.flushStore()
	}
	l.mu.Lock()
	if err != nil {
		for _, id := range ids {
			l.mu.dirty[id] = struct{}{}
		}
		for i := range l.mu.cuts {
			l.mu.cuts[i].saved = false
		}
		l.mu.Unlock()
		return fmt.Errorf("flush checkpoint: %w", named(err))
	}
	l.mu.replay = replay
	l.mu.Unlock()
	l.stats.Checkpoints.Add(1)
	l.keep.wake()
	return nil
}

// flushStore flushes the store. It retries a failed flush by itself for ever; this call ends with the first failure.
func (c *Checkpointer) flushStore() error {
	select {
	case <-c.flushErr: //nolint:errcheck // of an earlier flush
	default:
	}
	if err := c.err(); err != nil {
		return err
	}
	done, err := c.mu.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-done:
		return c.err()
	case err := <-c.flushErr:
		return err
	}
}

// floorLocked is the position from which a restart must replay, if all that was written to the store is there: the oldest one that
// a shard's rows stand for and behind which it has frames.
func (l *Log) floorLocked() Position {
	floor := Position{}
	if n := len(l.mu.segments); n > 0 {
		s := l.mu.segments[n-1]
		floor = Position{Segment: s.number(), Offset: s.end}
	}
	for i := range l.mu.shards {
		sh := &l.mu.shards[i]
		from := sh.at
		switch {
		case !sh.seen || sh.saved && sh.last.Before(sh.at):
			continue
		case !sh.saved:
			from = sh.first
		}
		if from.Before(floor) {
			floor = from
		}
	}
	if floor.Before(l.mu.replay) {
		return l.mu.replay
	}
	return floor
}

// forgetDroppedLocked removes dropped partitions of which no segment can hold a frame any more. Until then their rows say that those
// frames are dead. Ids are never given twice.
func (l *Log) forgetDroppedLocked(b *pebble.Batch) (err error) {
	if len(l.mu.segments) == 0 {
		return nil
	}
	oldest := l.mu.segments[0].number()
	for id, p := range l.mu.partitions {
		if _, dirty := l.mu.dirty[id]; p.dropped && !dirty && p.droppedIn < oldest {
			delete(l.mu.partitions, id)
			err = errors.Join(err, b.Delete(partitionKey(id), nil))
		}
	}
	return err
}

func partitionKey(id record.PartitionID) []byte {
	return binary.BigEndian.AppendUint64([]byte{keyLog, rowPartition}, uint64(id))
}

func (l *Log) shardLocked(id record.ShardID) *shardMark {
	for int(id) >= len(l.mu.shards) {
		l.mu.shards = append(l.mu.shards, shardMark{})
	}
	return &l.mu.shards[id]
}

func putPosition(p Position) []byte {
	b := binary.LittleEndian.AppendUint64(nil, p.Segment)
	return binary.LittleEndian.AppendUint64(b, uint64(p.Offset))
}

func getPosition(b []byte) Position {
	return Position{Segment: binary.LittleEndian.Uint64(b), Offset: int64(binary.LittleEndian.Uint64(b[8:]))}
}

func putPartition(b *pebble.Batch, p *partition) error {
	v := binary.LittleEndian.AppendUint64(nil, uint64(p.start))
	v = binary.LittleEndian.AppendUint64(v, uint64(p.end))
	flags := byte(0)
	if p.dropped {
		flags = partDropped
	}
	p.savedEnd = p.end
	return b.Set(partitionKey(p.id), append(v, flags), nil)
}

// loadLogRows reads the log's own rows: the replay position, and the partitions.
func (c *Checkpointer) loadLogRows() (replay Position, err error) {
	row, err := c.get([]byte{keyLog, rowReplay})
	if err != nil {
		return replay, err
	}
	if row != nil {
		if len(row) != 16 {
			return replay, &CorruptError{Path: c.l.o.Dir + "/checkpoint", Reason: "bad replay position"}
		}
		replay = getPosition(row)
	}
	l := c.l
	err = c.scan([]byte{keyLog, rowPartition}, []byte{keyLog, rowPartition + 1}, func(key, v []byte) error {
		if len(key) != 10 || len(v) != 17 {
			return &CorruptError{Path: l.o.Dir + "/checkpoint", Reason: "bad row of a partition"}
		}
		p := l.partitionLocked(record.PartitionID(binary.BigEndian.Uint64(key[2:])))
		p.start = record.Offset(binary.LittleEndian.Uint64(v))
		p.end = record.Offset(binary.LittleEndian.Uint64(v[8:]))
		p.dropped = v[16]&partDropped != 0
		p.savedEnd = p.end
		return nil
	})
	if err != nil {
		return replay, err
	}
	return replay, errors.Join(c.loadCuts(), c.loadShardRows())
}

// loadShardRows reads what each shard's rows stand for. It goes from shard to shard and reads no other row.
func (c *Checkpointer) loadShardRows() (err error) {
	it, err := c.mu.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyShard}, UpperBound: []byte{keyShard + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) < 4 || key[3] == rowApplied && len(it.Value()) != 24 {
			err = &CorruptError{Path: c.l.o.Dir + "/checkpoint", Reason: "bad row of a shard"}
			break
		}
		shard := binary.BigEndian.Uint16(key[1:])
		if key[3] == rowApplied {
			sh := c.l.shardLocked(record.ShardID(shard))
			sh.saved, sh.at = true, getPosition(it.Value()[8:])
		}
		if shard == 1<<16-1 {
			break
		}
		ok = it.SeekGE([]byte{keyShard, byte((shard + 1) >> 8), byte(shard + 1)})
	}
	return errors.Join(err, it.Error(), it.Close())
}
