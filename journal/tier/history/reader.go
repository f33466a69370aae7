package history

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/cache"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// ErrLost means that an object of the manifest is not in the store. The error names it, and wraps tier.ErrNotFound.
var ErrLost = errors.New("history: an object is lost")

// ErrClosed means that the reader is closed.
var ErrClosed = cache.ErrClosed

// ReaderOptions bound a Reader. The zero value is production.
type ReaderOptions struct {
	CacheBytes int64         // of blocks; 0: 64 MiB
	TailBytes  int64         // of objects' tails, and as much of what sequential readers hold; 0: 8 MiB
	LoadBytes  int64         // being read, above which nothing is read ahead; 0: 16 MiB
	Loads      int           // requests for blocks at a time; 0: 16
	Readers    int           // sequential readers that are remembered; 0: 256
	Tries      int           // of a request whose error is temporary; 0: 5
	Wait       time.Duration // before the second try, then twice as long each time, to 2 s; 0: 100 ms
}

func (o *ReaderOptions) defaults() {
	set := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&o.CacheBytes, 64<<20)
	set(&o.TailBytes, 8<<20)
	set((*int64)(&o.Wait), int64(100*time.Millisecond))
	if o.Readers <= 0 {
		o.Readers = 256
	}
	if o.Tries <= 0 {
		o.Tries = 5
	}
}

// Reader gives the stored batches of partitions out of objects. It asks the manifest where they are, and keeps blocks and tails of objects within the bounds of
// its options; what a caller holds is not counted in them, but told by Held. All methods may be called concurrently; they wait for the store, so that none may be called
// on a loop. Errors of the store that are temporary are tried again for a few seconds, then told. What is given is what was written, or an error: each
// block has its checksum, each tail too, and both must be what the manifest says.
type Reader struct {
	m     *Manifest
	store tier.Store
	o     ReaderOptions
	cache *cache.Cache
	tails *tails
	try   patience
	most  int64 // bytes to ask for by one request

	ctx    context.Context
	stop   context.CancelFunc
	ahead  sync.WaitGroup
	slots  chan struct{} // of what is read ahead in the next run
	closed atomic.Bool

	retries, held, lost, corrupt atomic.Int64

	mu struct {
		sync.Mutex
		scans scans
	}
}

// ReaderStats are counters and gauges of a Reader.
type ReaderStats struct {
	Cache                *cache.Stats // of blocks
	TailHits, TailMisses int64
	TailBytes            int64 // kept
	Retries              int64 // requests that were tried again
	Held                 int64 // bytes of batches that callers hold
	Lost, Corrupt        int64 // reads that ended so
}

// NewReader makes a reader of what m says lies in s. The store stays the caller's.
func NewReader(m *Manifest, s tier.Store, o ReaderOptions) *Reader {
	o.defaults()
	r := &Reader{m: m, store: s, o: o, slots: make(chan struct{}, tailLoads), most: min(togetherMax, o.CacheBytes/4)}
	r.try = patience{tries: o.Tries, wait: o.Wait, count: &r.retries}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.tails = newTails(s, o.TailBytes, r.try)
	r.cache = cache.New(r.load, cache.Options{Bytes: o.CacheBytes, LoadBytes: o.LoadBytes, Loads: o.Loads})
	r.mu.scans.init(o.Readers, o.TailBytes)
	return r
}

// Close ends the reads that wait for the store, with ErrClosed. What callers hold stays valid.
func (r *Reader) Close() {
	r.mu.Lock()
	r.closed.Store(true)
	r.mu.Unlock()
	r.stop()
	r.tails.close()
	r.cache.Close()
	r.ahead.Wait()
}

// Stats tells what the reader has done.
func (r *Reader) Stats() ReaderStats {
	return ReaderStats{
		Cache: &r.cache.Stats, TailHits: r.tails.hits.Load(), TailMisses: r.tails.misses.Load(), TailBytes: r.tails.bytes.Load(),
		Retries: r.retries.Load(), Held: r.held.Load(), Lost: r.lost.Load(), Corrupt: r.corrupt.Load(),
	}
}

// Forget drops what is kept of an object: it has been removed.
func (r *Reader) Forget(o *Object) {
	blocks := r.tails.forget(o.ID)
	for i := range o.Runs {
		blocks += o.Runs[i].Blocks
	}
	r.cache.Forget(o.ID.Name(), blocks)
}

// load is the cache's: it reads n blocks of an object, all of one run, by one request, and goes on behind what it has when that fails.
func (r *Reader) load(ctx context.Context, name string, first, n int, got func(block int, b *alloc.Block) error) error {
	id, ok := object.ParseName(name)
	if !ok {
		return fmt.Errorf("history: no name of an object: %q", name)
	}
	var size int64
	if o, ok := r.m.tailOf(id); ok {
		size = o
	}
	t, err := r.tails.get(ctx, id, size)
	if err != nil {
		return fmt.Errorf("tail of object %s: %w", name, err)
	}
	if first < 0 || first+n > t.blocks() {
		return &object.CorruptError{Object: name, At: t.Size, Reason: fmt.Sprintf("it has %d blocks, and should have %d", t.blocks(), first+n)}
	}
	i := t.run(first)
	base := t.first[i]
	at, end := first-base, first-base+n
	a := attempts{patience: r.try}
	var into *alloc.Block
	memory := func(size int) []byte {
		into = alloc.NewBlock(size)
		return into.Bytes()
	}
	for {
		err := object.ReadBlocksInto(ctx, r.store, name, &t.Runs[i], at, end-at, memory, func(k int, _ []byte) error {
			a.progress()
			at = k + 1
			b := into
			into = nil
			err := got(base+k, b)
			// A store whose bytes are in memory never waits, and would keep a loop from its processor until the scheduler takes it away, after 10 ms.
			runtime.Gosched()
			return err
		})
		if into != nil {
			into.Release()
			into = nil
		}
		if err == nil {
			return nil
		}
		if at == end || !a.again(ctx, err) {
			return fmt.Errorf("block %d of object %s: %w", base+at, name, err)
		}
	}
}

// views holds batches that callers look at: the blocks that they lie in.
type views struct {
	refs   atomic.Int64
	blocks []*alloc.Block
	bytes  int64
	sum    *atomic.Int64
}

// Retain adds a holder.
func (v *views) Retain() { v.refs.Add(1) }

// Release takes one away.
func (v *views) Release() {
	if v.refs.Add(-1) == 0 {
		v.sum.Add(-v.bytes)
		for _, b := range v.blocks {
			b.Release()
		}
	}
}

// ReadBatches appends to dst views of whole stored batches of p, in order, from the one that has offset from on, or the first one behind it: at most maxBytes but at
// least one, none that begins at or behind end. There is none if the manifest has nothing from from to end. Each batch is a slice of its own, and nobody may change it; held keeps
// them until it is released (nil: there are none). It gives what it has where a run of offsets in one object ends, so that a caller need not wait for the next object's.
//
// What retention removes while it is read is passed over. Errors name partition, offset, object and block: ErrLost, object.ErrCorrupt, the store's, the
// context's. What was read before an error is given without it: the next read has it.
func (r *Reader) ReadBatches(ctx context.Context, p record.PartitionID, from, end record.Offset, maxBytes int, dst [][]byte) ([][]byte, alloc.Ref, error) {
	s := r.take(p, from)
	q := query{from: from, end: end, left: maxBytes, dst: dst, had: len(dst)}
	err := r.read(ctx, s, &q)
	bytes := int64(0)
	for _, b := range q.dst[q.had:] {
		bytes += int64(len(b))
	}
	if bytes == 0 {
		if err != nil {
			err = fmt.Errorf("read partition %d at offset %d: %w", p, from, err)
		}
		return q.dst, nil, err
	}
	s.next = q.from
	r.put(s)
	r.held.Add(bytes)
	v := &views{blocks: q.blocks, bytes: bytes, sum: &r.held}
	v.refs.Store(1)
	return q.dst, v, nil
}

// changesMax bounds how often a read begins anew since what it read has been removed: each time the log start has moved, or an object was replaced.
const changesMax = 16

func (r *Reader) read(ctx context.Context, s *scan, q *query) error {
	var err error
	for range changesMax {
		where, ok := r.m.find(s.partition, q.from)
		if !ok || where.First >= q.end || q.from >= q.end {
			return nil
		}
		if err = r.open(ctx, s, where, q.from); err == nil {
			err = r.scan(ctx, s, q)
		}
		if err == nil || len(q.dst) > q.had {
			return err
		}
		if ended := ctx.Err(); ended != nil {
			return ended // what failed was not looked into
		}
		if !errors.Is(err, tier.ErrNotFound) {
			return r.judge(err)
		}
		if !r.removed(s.partition, q.from, &where) {
			return r.judge(err)
		}
		s.clear()
	}
	return err
}

// removed tells whether an object that was not found has left the manifest too since we asked where an offset is.
func (r *Reader) removed(p record.PartitionID, from record.Offset, where *place) bool {
	again, ok := r.m.find(p, from)
	return !ok || again.id != where.id
}

// judge counts an error of a read, and says what it means.
func (r *Reader) judge(err error) error {
	switch {
	case errors.Is(err, tier.ErrNotFound):
		r.lost.Add(1)
		return fmt.Errorf("%w: %w", ErrLost, err)
	case errors.Is(err, object.ErrCorrupt):
		r.corrupt.Add(1)
	}
	return err
}

// tail gives the tail of the object that a run lies in, once it is what the manifest says.
func (r *Reader) tail(ctx context.Context, where *place) (*tail, error) {
	for again := false; ; again = true {
		t, err := r.tails.get(ctx, where.id, where.tail)
		if err != nil {
			return nil, fmt.Errorf("tail of object %s: %w", where.id.Name(), err)
		}
		if err = where.check(t.Summary); err == nil || again {
			return t, err
		}
		r.tails.forget(where.id) // once more from the store
	}
}

// check compares a tail with what the manifest says of a run.
func (w *place) check(s *object.Summary) error {
	if s.Size != w.size || s.Tail != w.tail {
		return w.differs(s, fmt.Sprintf("%d bytes with a tail of %d, and the manifest says %d and %d", s.Size, s.Tail, w.size, w.tail))
	}
	if w.Index >= len(s.Runs) {
		return w.differs(s, fmt.Sprintf("%d runs, and the manifest knows number %d", len(s.Runs), w.Index))
	}
	t := &s.Runs[w.Index]
	if t.First != w.First || t.Last != w.Last || t.Bytes != w.Bytes || t.MaxTime != w.MaxTime || len(t.Blocks) != w.Blocks {
		return w.differs(s, fmt.Sprintf("other offsets, bytes or times in run %d than the manifest", w.Index))
	}
	return nil
}

func (w *place) differs(s *object.Summary, what string) error {
	return &object.CorruptError{Object: w.id.Name(), At: s.Size - s.Tail, Reason: "its tail has " + what}
}

// tailOf gives the size of an object's tail.
func (m *Manifest) tailOf(id object.ID) (int64, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e := m.mu.objects[id]; e != nil {
		return e.tail, true
	}
	return 0, false
}
