package history

import (
	"container/list"
	"context"
	"errors"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/cache"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// What a tail takes in memory, in bytes: of the object, of each run and of each block or aborted transaction.
const (
	tailCost  = 256
	runCost   = 200
	blockCost = 48
)

// tailLoads bounds the tails that are read at a time. Each takes what it has, and about twice that when it is parsed.
const tailLoads = 4

// errLeft is the end of a load that nobody waits for any more.
var errLeft = errors.New("history: nobody waits any more")

// tail is an object's, parsed. Nobody changes it.
type tail struct {
	*object.Summary
	first []int // number of each run's first block in the object
	bytes int64
}

func newTail(s *object.Summary) *tail {
	t := &tail{Summary: s, first: make([]int, len(s.Runs)), bytes: tailCost}
	n := 0
	for i := range s.Runs {
		r := &s.Runs[i]
		t.first[i] = n
		n += len(r.Blocks)
		t.bytes += runCost + int64(len(r.Name)) + blockCost*int64(len(r.Blocks)+len(r.Aborted))
	}
	return t
}

// run gives the number of the run that a block of the object belongs to.
func (t *tail) run(block int) int {
	return sort.Search(len(t.first), func(i int) bool { return t.first[i] > block }) - 1
}

// blocks is the number of the object's blocks.
func (t *tail) blocks() int {
	last := len(t.first) - 1
	return t.first[last] + len(t.Runs[last].Blocks)
}

// tails keeps objects' tails, the ones used last within a bound of bytes; each is read once however many ask for it at a time.
type tails struct {
	store tier.Store
	max   int64
	try   patience
	ctx   context.Context
	stop  context.CancelFunc
	slots chan struct{}
	loads sync.WaitGroup

	hits, misses, bytes atomic.Int64

	mu struct {
		sync.Mutex
		kept    map[object.ID]*list.Element // of *tail
		used    *list.List                  // the newest in front
		bytes   int64
		flights map[object.ID]*flight
		closed  bool
	}
}

// flight is a tail that is being read. tail and err may be read once ready is closed.
type flight struct {
	ready   chan struct{}
	tail    *tail
	err     error
	waiters int // guarded by tails.mu
	cancel  context.CancelFunc
}

func newTails(s tier.Store, bytes int64, try patience) *tails {
	t := &tails{store: s, max: bytes, try: try, slots: make(chan struct{}, tailLoads)}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.mu.kept, t.mu.used, t.mu.flights = make(map[object.ID]*list.Element), list.New(), make(map[object.ID]*flight)
	return t
}

func (t *tails) close() {
	t.mu.Lock()
	t.mu.closed = true
	t.mu.Unlock()
	t.stop()
	t.loads.Wait()
}

// get gives a tail of size bytes, as the manifest knows; 0: it does not.
func (t *tails) get(ctx context.Context, id object.ID, size int64) (*tail, error) {
	for {
		got, f, err := t.find(id, size)
		if f == nil {
			return got, err
		}
		got, err = t.wait(ctx, id, f)
		// The one who had it read may have left in the instant before we came: once more.
		if err == nil || ctx.Err() != nil || !errors.Is(err, errLeft) {
			return got, err
		}
	}
}

// find gives the tail, or the flight that brings it.
func (t *tails) find(id object.ID, size int64) (*tail, *flight, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return nil, nil, cache.ErrClosed
	}
	if e := t.mu.kept[id]; e != nil {
		t.mu.used.MoveToFront(e)
		t.hits.Add(1)
		return e.Value.(*tail), nil, nil
	}
	f := t.mu.flights[id]
	if f == nil {
		t.misses.Add(1)
		ctx, cancel := context.WithCancel(t.ctx)
		f = &flight{ready: make(chan struct{}), cancel: cancel}
		t.mu.flights[id] = f
		t.loads.Add(1)
		go t.fly(ctx, id, size, f)
	}
	f.waiters++
	return nil, f, nil
}

// fly is the goroutine of a flight; close waits for it.
func (t *tails) fly(ctx context.Context, id object.ID, size int64, f *flight) {
	defer t.loads.Done()
	sum, err := t.open(ctx, id, size)
	t.mu.Lock()
	defer t.mu.Unlock()
	left := ctx.Err() != nil
	f.cancel()
	if t.mu.flights[id] == f {
		delete(t.mu.flights, id)
	}
	switch {
	case err == nil:
		f.tail = newTail(sum)
		t.keepLocked(id, f.tail)
	case t.ctx.Err() != nil:
		f.err = cache.ErrClosed
	case left:
		f.err = errLeft
	default:
		f.err = err
	}
	close(f.ready)
}

func (t *tails) open(ctx context.Context, id object.ID, size int64) (*object.Summary, error) {
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-t.slots }()
	return openTail(ctx, t.store, id, size, t.try)
}

func openTail(ctx context.Context, s tier.Store, id object.ID, size int64, try patience) (*object.Summary, error) {
	a := attempts{patience: try}
	for {
		sum, err := object.Open(ctx, s, id, size)
		if err == nil || !a.again(ctx, err) {
			return sum, err
		}
	}
}

func (t *tails) keepLocked(id object.ID, got *tail) {
	if t.mu.kept[id] != nil {
		return
	}
	t.mu.kept[id] = t.mu.used.PushFront(got)
	t.mu.bytes += got.bytes
	for t.mu.bytes > t.max && t.mu.used.Len() > 1 {
		t.dropLocked(t.mu.used.Back())
	}
	t.bytes.Store(t.mu.bytes)
}

func (t *tails) dropLocked(e *list.Element) {
	old := t.mu.used.Remove(e).(*tail)
	delete(t.mu.kept, old.ID)
	t.mu.bytes -= old.bytes
	t.bytes.Store(t.mu.bytes)
}

// forget drops a tail, and tells how many blocks its object has; 0: it was not kept.
func (t *tails) forget(id object.ID) (blocks int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.mu.kept[id]; e != nil {
		blocks = e.Value.(*tail).blocks()
		t.dropLocked(e)
	}
	return blocks
}

func (t *tails) wait(ctx context.Context, id object.ID, f *flight) (*tail, error) {
	var got *tail
	var err error
	select {
	case <-f.ready:
		got, err = f.tail, f.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.waiters--
	if f.waiters == 0 && t.mu.flights[id] == f {
		// Nobody waits: it ends, and whoever comes from now on begins another.
		f.cancel()
		delete(t.mu.flights, id)
	}
	return got, err
}
