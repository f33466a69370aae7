// Package cache keeps blocks of objects that were read from a tier: bounded in bytes, shared by all readers, each block loaded once however
// many ask for it at a time. It owns the blocks it keeps and the loads that are under way; it knows no format and no store, but calls the load
// function that it is given. Its neighbours: package object loads blocks, who fetches reads them, by Cache.Get or through a Stream, which reads ahead.
//
// Blocks have a count of their holders, of which the cache is one: what it evicts is used anew once no reader looks at it. Memory that is made for each costs more
// than to fill it.
//
// A block that is asked for once passes through a probation of its own, so that one long scan does not evict what is asked for again and again.
package cache

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/invariant"
)

// ErrBusy means that as many loads are under way as may be. It is only answered to read-ahead; Get waits.
var ErrBusy = errors.New("cache: too many loads under way")

// errLeft is a load's error when the last one who waited for it has left.
var errLeft = errors.New("cache: nobody waits any more")

// ErrClosed means that the cache is closed.
var ErrClosed = errors.New("cache: closed")

// Key names a block.
type Key struct {
	Object string
	Block  int // in the object's order, or whatever numbers its blocks
}

// Load reads the n blocks of an object from the first on, by one request, and calls got for each in order, with its own count of b, which nobody changes from then
// on. It may end early with an error: blocks that were given count.
type Load func(ctx context.Context, object string, first, n int, got func(block int, b *alloc.Block) error) error

// Options bound the cache.
type Options struct {
	Bytes     int64 // of blocks that are kept; 0: 64 MiB
	LoadBytes int64 // being loaded, above which nothing is read ahead; 0: 16 MiB. One load is always let in
	Loads     int   // at a time; 0: 16
}

// Stats are counters. All may be read at any time.
type Stats struct {
	Hits      atomic.Int64 // blocks that were there
	Joined    atomic.Int64 // blocks that somebody else was loading
	Misses    atomic.Int64 // blocks that had to be loaded
	Ahead     atomic.Int64 // blocks loaded before anybody asked
	AheadUsed atomic.Int64 // of those, asked for since
	Loads     atomic.Int64 // requests
	LoadBytes atomic.Int64
	Errors    atomic.Int64 // loads that failed
	Canceled  atomic.Int64 // loads that nobody waited for any more
	Evicted   atomic.Int64 // blocks
	Bytes     atomic.Int64 // kept now
}

// protectedShare is the part of the bytes that blocks asked for more than once may take: 4/5.
const protectedShare = 5

// Cache is the cache. All methods may be called concurrently.
type Cache struct {
	Stats

	load     Load
	o        Options
	slots    chan struct{}
	ctx      context.Context
	stop     context.CancelFunc
	loadings sync.WaitGroup

	mu struct {
		sync.Mutex
		blocks    map[Key]*entry
		probation *list.List // of *entry, the newest in front
		protected *list.List
		bytes     int64 // kept, in both
		safe      int64 // of those in protected
		flying    int64 // announced bytes of the loads under way
		closed    bool
	}
}

// entry is a block, kept or on its way. Guarded by Cache.mu, but for b and err once ready is closed.
type entry struct {
	key     Key
	b       *alloc.Block // held by the cache while it keeps it, and by each who waited for it
	err     error
	ready   chan struct{}
	load    *loading // nil once it is there
	waiters int      // Gets that wait for it: each gets a count when it is there
	at      *list.Element
	safe    bool // in protected
	ahead   bool // loaded before anybody asked, and not asked for since
}

// loading is one request.
type loading struct {
	waiters int // Gets that want a block of it
	ahead   bool
	cancel  context.CancelFunc
	bytes   int64
	entries []*entry
}

// New makes a cache that loads by load.
func New(load Load, o Options) *Cache {
	if o.Bytes <= 0 {
		o.Bytes = 64 << 20
	}
	if o.LoadBytes <= 0 {
		o.LoadBytes = 16 << 20
	}
	if o.Loads <= 0 {
		o.Loads = 16
	}
	c := &Cache{load: load, o: o, slots: make(chan struct{}, o.Loads)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.mu.blocks = make(map[Key]*entry)
	c.mu.probation, c.mu.protected = list.New(), list.New()
	return c
}

// Close ends the loads under way, waits for them, and lets go of what is kept. Readers that wait get ErrClosed; what they hold stays.
func (c *Cache) Close() {
	c.mu.Lock()
	c.mu.closed = true
	c.mu.Unlock()
	c.stop()
	c.loadings.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kept := range []*list.List{c.mu.probation, c.mu.protected} {
		for kept.Len() > 0 {
			c.dropLocked(kept.Back().Value.(*entry))
		}
	}
	c.Bytes.Store(0)
}

// Get gives a block, for the caller to release: from memory, by waiting for a load that is under way, or by loading it. bytes is its size, as an index knows it.
// Nobody may change what it gives; it stays valid when it has been evicted. A context that ends ends the wait; the load goes on if others wait for it.
func (c *Cache) Get(ctx context.Context, k Key, bytes int64) (*alloc.Block, error) {
	for {
		e, l, err := c.find(ctx, k, bytes)
		if err != nil {
			return nil, err
		}
		if l == nil {
			return e.b, nil
		}
		b, err := c.wait(ctx, e, l)
		// The one who had it loaded may have left, and the load with him, in the instant before we came: once more.
		if err == nil || ctx.Err() != nil || !errors.Is(err, errLeft) {
			return b, err
		}
	}
}

// find gives the entry, and the load that it waits for, with a count of the block for the caller: at once where there is no load, else when it comes. A missing one is loaded: a slot for that is waited for.
func (c *Cache) find(ctx context.Context, k Key, bytes int64) (*entry, *loading, error) {
	if e, l, err := c.peek(k, false); e != nil || err != nil {
		return e, l, err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-c.ctx.Done():
		return nil, nil, ErrClosed
	}
	// Somebody may have come first.
	if e, l, err := c.peek(k, true); e != nil || err != nil {
		<-c.slots
		return e, l, err
	}
	return c.begin(k, 1, bytes, false)
}

// peek looks for a block, counts the hit, and joins its load.
func (c *Cache) peek(k Key, again bool) (*entry, *loading, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, nil, ErrClosed
	}
	e := c.mu.blocks[k]
	if e == nil {
		if !again {
			c.Misses.Add(1)
		}
		return nil, nil, nil
	}
	if e.ahead {
		e.ahead = false
		c.AheadUsed.Add(1)
	} else if e.load == nil {
		c.promoteLocked(e)
	}
	if e.load != nil {
		c.Joined.Add(1)
	} else {
		c.Hits.Add(1)
	}
	return e, e.joinLocked(), nil
}

// joinLocked gives a count of the block: now, or when the load comes to it that it gives.
func (e *entry) joinLocked() *loading {
	if e.load == nil {
		e.b.Retain()
		return nil
	}
	e.load.waiters++
	e.waiters++
	return e.load
}

// begin starts the load of n blocks. The caller has taken a slot.
func (c *Cache) begin(k Key, n int, bytes int64, ahead bool) (*entry, *loading, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		<-c.slots
		return nil, nil, ErrClosed
	}
	first := c.mu.blocks[k]
	if first != nil && !ahead {
		<-c.slots
		return first, first.joinLocked(), nil
	}
	lctx, cancel := context.WithCancel(c.ctx)
	l := &loading{ahead: ahead, cancel: cancel, bytes: bytes}
	for i := range n {
		key := Key{k.Object, k.Block + i}
		if c.mu.blocks[key] != nil {
			break // what follows is there, or on its way
		}
		e := &entry{key: key, ready: make(chan struct{}), load: l, ahead: ahead}
		c.mu.blocks[key] = e
		l.entries = append(l.entries, e)
	}
	if len(l.entries) == 0 {
		cancel()
		<-c.slots
		return nil, nil, nil
	}
	if !ahead {
		l.waiters, l.entries[0].waiters = 1, 1
	}
	c.mu.flying += l.bytes
	c.Loads.Add(1)
	c.loadings.Add(1)
	go c.run(lctx, l)
	return l.entries[0], l, nil
}

// run is the goroutine of a load; Close waits for it.
func (c *Cache) run(ctx context.Context, l *loading) {
	defer c.loadings.Done()
	next := 0
	first := l.entries[0].key
	err := c.load(ctx, first.Object, first.Block, len(l.entries), func(block int, b *alloc.Block) error {
		if next >= len(l.entries) || block != l.entries[next].key.Block {
			b.Release()
			return errors.New("cache: a block that was not asked for")
		}
		c.arrived(l.entries[next], b)
		next++
		return nil
	})
	if err == nil && next < len(l.entries) {
		err = errors.New("cache: fewer blocks than were asked for")
	}
	c.mu.Lock()
	switch {
	case err == nil:
	case ctx.Err() != nil && c.ctx.Err() == nil:
		c.Canceled.Add(1)
		err = errLeft
	case ctx.Err() != nil:
		err = ErrClosed
	default:
		c.Errors.Add(1)
	}
	for _, e := range l.entries[next:] {
		e.err = err
		if c.mu.blocks[e.key] == e {
			delete(c.mu.blocks, e.key)
		}
		close(e.ready)
	}
	c.mu.flying -= l.bytes
	c.mu.Unlock()
	l.cancel()
	<-c.slots
}

// arrived keeps a block that was loaded.
func (c *Cache) arrived(e *entry, b *alloc.Block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.b = b
	if e.waiters > 0 {
		b.RetainN(e.waiters)
	}
	c.LoadBytes.Add(int64(b.Len()))
	if e.load.ahead {
		c.Ahead.Add(1)
	}
	e.load = nil
	close(e.ready)
	if c.mu.blocks[e.key] != e {
		b.Release() // forgotten meanwhile
		return
	}
	e.at = c.mu.probation.PushFront(e)
	c.mu.bytes += int64(b.Len())
	c.evictLocked()
}

func (c *Cache) promoteLocked(e *entry) {
	if e.at == nil {
		return
	}
	if e.safe {
		c.mu.protected.MoveToFront(e.at)
		return
	}
	c.mu.probation.Remove(e.at)
	e.at, e.safe = c.mu.protected.PushFront(e), true
	c.mu.safe += int64(e.b.Len())
	for c.mu.safe > c.o.Bytes*(protectedShare-1)/protectedShare {
		old := c.mu.protected.Back().Value.(*entry)
		c.mu.protected.Remove(old.at)
		old.at, old.safe = c.mu.probation.PushFront(old), false
		c.mu.safe -= int64(old.b.Len())
	}
}

func (c *Cache) evictLocked() {
	for c.mu.bytes > c.o.Bytes {
		from := c.mu.probation
		if from.Len() == 0 {
			from = c.mu.protected
		}
		c.dropLocked(from.Back().Value.(*entry))
		c.Evicted.Add(1)
	}
	c.Bytes.Store(c.mu.bytes)
}

func (c *Cache) dropLocked(e *entry) {
	if e.safe {
		c.mu.protected.Remove(e.at)
		c.mu.safe -= int64(e.b.Len())
	} else {
		c.mu.probation.Remove(e.at)
	}
	e.at = nil
	c.mu.bytes -= int64(e.b.Len())
	invariant.Check(c.mu.bytes >= 0 && c.mu.safe >= 0, "bytes of a cache")
	delete(c.mu.blocks, e.key)
	e.b.Release() // who has waited for it, and has not come to look yet, has counts of its own
}

// wait waits for a block of a load that it has joined.
func (c *Cache) wait(ctx context.Context, e *entry, l *loading) (*alloc.Block, error) {
	var err error
	select {
	case <-e.ready:
		err = e.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l.waiters--
	if e.waiters--; e.b != nil && err != nil {
		e.b.Release() // it came in the instant that the wait ended
	}
	if l.waiters == 0 && !l.ahead && e.load == l && err != nil {
		// Nobody waits: the load ends, and whoever comes from now on begins another.
		l.cancel()
		for _, x := range l.entries {
			if x.load == l && c.mu.blocks[x.key] == x {
				delete(c.mu.blocks, x.key)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return e.b, nil
}

// Prefetch begins to load those of n blocks that are missing, from the first missing one to the next that is there, by one request, and does not wait.
// bytes is their size. next is the first block that it has not come to. ErrBusy: too much is under way; nothing was begun.
func (c *Cache) Prefetch(object string, first, n int, bytes int64) (next int, err error) {
	c.mu.Lock()
	for n > 0 && c.mu.blocks[Key{object, first}] != nil {
		first, n = first+1, n-1
	}
	// Half of the cache at most is read ahead: what was read first must not be evicted before it is asked for.
	full := c.mu.flying > 0 && c.mu.flying+bytes > min(c.o.LoadBytes, c.o.Bytes/2)
	c.mu.Unlock()
	if n == 0 {
		return first, nil
	}
	if full {
		return first, ErrBusy
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return first, ErrBusy
	}
	_, l, err := c.begin(Key{object, first}, n, bytes, true)
	if l != nil {
		first += len(l.entries)
	}
	return first, err
}

// ready tells whether a block is kept.
func (c *Cache) ready(k Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.mu.blocks[k]
	return e != nil && e.load == nil
}

// Loading is how many requests are under way.
func (c *Cache) Loading() int { return len(c.slots) }

// Forget drops the blocks of an object that has n of them: it has been deleted. Loads under way end as they do, and are not kept.
func (c *Cache) Forget(object string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		k := Key{object, i}
		e := c.mu.blocks[k]
		switch {
		case e == nil:
		case e.at != nil:
			c.dropLocked(e)
		default:
			delete(c.mu.blocks, k)
		}
	}
	c.Bytes.Store(c.mu.bytes)
}
