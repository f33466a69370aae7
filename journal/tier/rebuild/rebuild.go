// Package rebuild finds out what a store holds, from the store alone: which topics, partitions and offsets, and in which objects. It owns that
// search; it changes nothing, neither in the store nor in a node. Its neighbours: object says what tails of objects are, history what a manifest keeps
// of them; who restores a node gives topics and partitions their places in it and has the manifest told.
package rebuild

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Options bound a search. The zero value is production.
type Options struct {
	Tenant   record.TenantID
	Parallel int                     // tails that are read at once; 0: 16
	Tries    int                     // of a request whose error is temporary; 0: 8
	Wait     time.Duration           // before the second try, then twice as long each time; 0: 100 ms
	Progress func(done, total int64) // objects; called from one goroutine at a time; nil: nobody is told
}

// Found is what a store holds of a tenant.
type Found struct {
	// Topics are in the order of their names. Where a name had several topics after each other, the one that was written to last counts; an earlier one
	// that it goes on from, offset by offset, is a part of it: so does a topic that a rebuild has given another id.
	Topics []*Topic
	// Parts are all partitions of Topics. A run of Objects has the number of its partition in Parts in place of the partition's id.
	Parts   []*Partition
	Objects []*history.Object // with runs of Topics
	Older   []*Topic          // topics whose name another one has taken since; they are in no object above
	Damaged []error           // objects whose tails cannot be read for good
	Listed  int               // objects of the tenant
}

// Topic is one that has records in the store.
type Topic struct {
	ID   [16]byte
	Name string
	// Parts are the partitions that the store has something of, by their index; it may have been one of many.
	Parts []*Partition
	Bytes int64 // of batches
	// Compacted: some of it is of the time when the topic was compacted, so that offsets may be missing.
	Compacted bool
	Written   int64 // when the last object of it was put, in milliseconds of Unix time

	byIndex map[int32]*Partition
}

// Partitions is how many the topic has had at least.
func (t *Topic) Partitions() int {
	if len(t.Parts) == 0 {
		return 0
	}
	return int(t.Parts[len(t.Parts)-1].Index) + 1
}

// Partition is what the store holds of one.
type Partition struct {
	Topic      *Topic
	Index      int32
	Start, End record.Offset // of the first record, and behind the last
	Bytes      int64
	Aborted    []object.Aborted // by their ends
	Gaps       []Gap            // offsets between Start and End that no object has, and should; none of a compacted topic

	numbers []record.PartitionID // in scan.parts: of what it is made of
	runs    []span
}

// Gap is from From to before To.
type Gap struct{ From, To record.Offset }

type span struct{ first, last record.Offset }

type runKey struct {
	id    object.ID
	index int
}

// Scan lists the store and reads the tail of every object of a tenant. Memory: some 80 bytes for each run of a partition. An error that is
// temporary is tried again, then told: it has not seen the store.
func Scan(ctx context.Context, s tier.Store, o Options) (*Found, error) {
	if o.Parallel <= 0 {
		o.Parallel = 16
	}
	if o.Tries <= 0 {
		o.Tries = 8
	}
	if o.Wait <= 0 {
		o.Wait = 100 * time.Millisecond
	}
	c := &scan{s: s, o: o, topics: make(map[[16]byte]*Topic), aborted: make(map[runKey][]object.Aborted)}
	ids, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	c.found.Listed = len(ids)
	if err := c.readAll(ctx, ids); err != nil {
		return nil, err
	}
	return c.finish(), nil
}

type scan struct {
	s tier.Store
	o Options

	mu      sync.Mutex // guards what follows while tails are read
	topics  map[[16]byte]*Topic
	aborted map[runKey][]object.Aborted // of runs that have some
	parts   []*Partition
	found   Found
	done    int
	failed  error
}

// listed is an object, and when it was put: tails do not say.
type listed struct {
	id  object.ID
	put int64
}

// waitMost bounds the wait between two tries.
const waitMost = 15 * time.Second

// again tries what may succeed later.
func (c *scan) again(ctx context.Context, fn func() error) error {
	b := pace.Backoff{First: c.o.Wait, Most: waitMost}
	return b.Retry(ctx, clock.Real{}, c.o.Tries, tier.Temporary, fn)
}

// tenantPrefix is how much of a shard's prefix is the tenant's.
const tenantPrefix = 9

// list gives the objects of the tenant.
func (c *scan) list(ctx context.Context) (ids []listed, err error) {
	prefix := object.ShardPrefix(c.o.Tenant, 0)[:tenantPrefix]
	for after, more := "", true; more; {
		var page []tier.Info
		err := c.again(ctx, func() (err error) {
			page, more, err = c.s.List(ctx, prefix, after, 0)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list the store: %w", err)
		}
		for i := range page {
			after = page[i].Name
			if id, ok := object.ParseName(page[i].Name); ok {
				ids = append(ids, listed{id, page[i].ModTime.UnixMilli()})
			}
		}
		if len(page) == 0 {
			break
		}
		if c.o.Progress != nil {
			c.o.Progress(0, int64(len(ids)))
		}
	}
	return ids, nil
}

// readAll reads all tails.
func (c *scan) readAll(ctx context.Context, ids []listed) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	next := make(chan listed)
	var wg sync.WaitGroup
	for range min(c.o.Parallel, len(ids)) {
		wg.Go(func() {
			for l := range next {
				if err := c.read(ctx, l, len(ids)); err != nil {
					c.mu.Lock()
					c.failed = cmp.Or(c.failed, err)
					c.mu.Unlock()
					stop()
				}
			}
		})
	}
	for _, id := range ids {
		select {
		case next <- id:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
	if c.failed == nil {
		return ctx.Err()
	}
	return c.failed
}

// read reads one, and keeps what it says.
func (c *scan) read(ctx context.Context, l listed, total int) error {
	var sum *object.Summary
	err := c.again(ctx, func() (err error) {
		sum, err = object.Open(ctx, c.s, l.id, 0)
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
	switch _, kind := tier.KindOf(err); {
	case err == nil:
		c.take(sum, l.put)
	case errors.Is(err, tier.ErrNotFound): // it was removed meanwhile
	case errors.Is(err, object.ErrCorrupt):
		c.found.Damaged = append(c.found.Damaged, err)
	case !kind:
		c.found.Damaged = append(c.found.Damaged, fmt.Errorf("object %s: %w", l.id.Name(), err))
	default:
		return fmt.Errorf("read the tail of %s: %w", l.id.Name(), err)
	}
	if c.o.Progress != nil {
		c.o.Progress(int64(c.done), int64(total))
	}
	return nil
}

// take notes what an object has.
func (c *scan) take(sum *object.Summary, put int64) {
	for i := range sum.Runs {
		if list := sum.Runs[i].Aborted; len(list) > 0 {
			c.aborted[runKey{sum.ID, i}] = list
		}
	}
	c.found.Objects = append(c.found.Objects, history.NewObject(sum, "", func(r *object.Run) (record.PartitionID, bool) {
		t := c.topics[r.ID]
		if t == nil {
			t = &Topic{ID: r.ID, Name: r.Name, byIndex: make(map[int32]*Partition)}
			c.topics[r.ID] = t
		}
		if put >= t.Written { // a topic's name may change
			t.Written, t.Name = put, r.Name
		}
		p := t.byIndex[r.Index]
		if p == nil {
			p = &Partition{Topic: t, Index: r.Index, Start: math.MaxInt64}
			t.byIndex[r.Index] = p
			p.numbers = []record.PartitionID{record.PartitionID(len(c.parts))}
			c.parts = append(c.parts, p)
		}
		return p.numbers[0], true
	}))
}

// weigh leaves out the runs that passes of compaction have replaced, and adds up the others.
func (c *scan) weigh() {
	slices.SortFunc(c.found.Objects, func(a, b *history.Object) int {
		switch {
		case a.ID.After(b.ID):
			return -1
		case b.ID.After(a.ID):
			return 1
		}
		return 0
	})
	replaced := make(map[record.PartitionID][]span) // by newer objects
	for _, o := range c.found.Objects {
		kept := o.Runs[:0]
		for _, r := range o.Runs {
			if !within(replaced[r.Partition], span{r.First, r.Last}) {
				kept = append(kept, r)
				c.parts[r.Partition].add(&r, c.aborted[runKey{o.ID, r.Index}])
			}
		}
		o.Runs = kept
		for _, r := range kept {
			if s := (span{r.First, r.Last}); r.Flags.Has(object.Replaces) {
				if r.Flags.Has(object.Begins) {
					s.first = 0
				}
				replaced[r.Partition] = union(replaced[r.Partition], s)
			}
		}
	}
}

// add counts a run.
func (p *Partition) add(r *history.Run, aborted []object.Aborted) {
	p.Start, p.End = min(p.Start, r.First), max(p.End, r.Last+1)
	p.runs = append(p.runs, span{r.First, r.Last})
	p.Aborted = append(p.Aborted, aborted...)
	p.Bytes += r.Bytes
	p.Topic.Bytes += r.Bytes
	p.Topic.Compacted = p.Topic.Compacted || r.Flags.Has(object.Sparse)
}

// within tells whether one of a list of spans has all of s.
func within(list []span, s span) bool {
	return slices.ContainsFunc(list, func(l span) bool { return l.first <= s.first && s.last <= l.last })
}

// union adds a span to a list in order, in which none touches another.
func union(list []span, s span) []span {
	list = append(list, s)
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	out := list[:1]
	for _, n := range list[1:] {
		if l := &out[len(out)-1]; n.first <= l.last+1 {
			l.last = max(l.last, n.last)
		} else {
			out = append(out, n)
		}
	}
	return out
}

// finish picks one topic for each name, and puts all in order.
func (c *scan) finish() *Found {
	c.weigh()
	f := &c.found
	all := make([]*Topic, 0, len(c.topics))
	for _, t := range c.topics {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *Topic) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Written, a.Written), slices.Compare(a.ID[:], b.ID[:]))
	})
	for _, t := range all {
		if n := len(f.Topics); n > 0 && f.Topics[n-1].Name == t.Name {
			if !f.Topics[n-1].continues(t) {
				f.Older = append(f.Older, t)
			}
			continue
		}
		f.Topics = append(f.Topics, t)
	}
	for _, t := range f.Topics {
		t.Parts = slices.SortedFunc(maps.Values(t.byIndex), func(a, b *Partition) int { return cmp.Compare(a.Index, b.Index) })
		for _, p := range t.Parts {
			p.finish()
			f.Parts = append(f.Parts, p)
		}
	}
	// Numbers are those of Parts now.
	numbers := make([]record.PartitionID, len(c.parts))
	for i := range numbers {
		numbers[i] = none
	}
	for i, p := range f.Parts {
		for _, n := range p.numbers {
			numbers[n] = record.PartitionID(i)
		}
	}
	for _, o := range f.Objects {
		kept := o.Runs[:0]
		for _, r := range o.Runs {
			if r.Partition = numbers[r.Partition]; r.Partition != none {
				kept = append(kept, r)
			}
		}
		o.Runs = kept
	}
	f.Objects = slices.DeleteFunc(f.Objects, func(o *history.Object) bool { return len(o.Runs) == 0 })
	slices.SortFunc(f.Objects, func(a, b *history.Object) int { return cmp.Compare(a.ID.Name(), b.ID.Name()) })
	return f
}

// continues takes over what an older topic of the name has, if each of its partitions ends where this one's begins, or before.
func (t *Topic) continues(old *Topic) bool {
	common := false
	for i, p := range t.byIndex {
		was := old.byIndex[i]
		if was != nil && p.Start < was.End {
			return false
		}
		common = common || was != nil
	}
	if !common {
		return false
	}
	t.Bytes += old.Bytes
	for i, p := range old.byIndex {
		q := t.byIndex[i]
		if q == nil {
			p.Topic, t.byIndex[i] = t, p
			continue
		}
		q.Start, q.Bytes = p.Start, q.Bytes+p.Bytes
		q.runs, q.numbers, q.Aborted = append(q.runs, p.runs...), append(q.numbers, p.numbers...), append(q.Aborted, p.Aborted...)
	}
	return true
}

// none is the number of a partition that does not count.
const none = ^record.PartitionID(0)

// finish puts the partition's transactions in order, each once, and finds gaps.
func (p *Partition) finish() {
	slices.SortFunc(p.Aborted, func(a, b object.Aborted) int {
		return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(a.ProducerID, b.ProducerID), cmp.Compare(a.First, b.First))
	})
	p.Aborted = slices.CompactFunc(p.Aborted, func(a, b object.Aborted) bool { return a.Last == b.Last }) // a marker ends one
	slices.SortFunc(p.runs, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	next := p.Start
	for _, r := range p.runs {
		if r.first > next && !p.Topic.Compacted {
			p.Gaps = append(p.Gaps, Gap{next, r.first})
		}
		next = max(next, r.last+1)
	}
	p.runs = nil
}
