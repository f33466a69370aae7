package history

import (
	"container/list"
	"context"
	"fmt"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/cache"
	"github.com/sluicemq/sluice/journal/tier/object"
)

const (
	// togetherMax bounds what one read asks the store for by one request, and a quarter of the cache does.
	togetherMax = 8 << 20
	// nextRunBytes is how far from the end of a run what comes behind it is read ahead.
	nextRunBytes = 16 << 20
	// waitless is how much a read gives, if it has it, before it waits for more.
	waitless = 1 << 20
	// depthMax is how many runs are read ahead at most, where they are small.
	depthMax = 8
)

// scan is a reader who reads a partition in a row: found again by the offset that he comes to next, so that what is read ahead is his. It is one call's at a
// time.
type scan struct {
	partition record.PartitionID
	next      record.Offset
	id        object.ID
	name      string
	run       object.Run // a copy, so that the others of its object are not held
	index     int        // of the run; -1: none is open
	base      int        // number of its first block in the object
	stream    *cache.Stream
	inRow     bool // he has come back where he was expected
	asked     bool // what comes behind the run is being read ahead
	depth     int  // runs to read ahead; it grows as he passes small ones
}

func (s *scan) clear() { s.index, s.stream, s.run = -1, nil, object.Run{} }

func (s *scan) cost() int64 { return tailCost + blockCost*int64(len(s.run.Blocks)+len(s.run.Aborted)) }

type scanKey struct {
	partition record.PartitionID
	next      record.Offset
}

// scans remembers those who read in a row, the newest ones. Guarded by Reader.mu.
type scans struct {
	byNext   map[scanKey]*list.Element // of *scan
	used     *list.List                // the newest in front
	bytes    int64
	max      int
	maxBytes int64
}

func (t *scans) init(most int, bytes int64) {
	t.byNext, t.used = make(map[scanKey]*list.Element), list.New()
	t.max, t.maxBytes = most, bytes
}

func (t *scans) drop(e *list.Element) *scan {
	s := t.used.Remove(e).(*scan)
	delete(t.byNext, scanKey{s.partition, s.next})
	t.bytes -= s.cost()
	return s
}

// take gives the reader who comes to an offset next, or a new one.
func (r *Reader) take(p record.PartitionID, from record.Offset) *scan {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.mu.scans.byNext[scanKey{p, from}]; e != nil {
		s := r.mu.scans.drop(e)
		s.inRow = true
		return s
	}
	return &scan{partition: p, index: -1}
}

// put remembers him.
func (r *Reader) put(s *scan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.mu.scans
	key := scanKey{s.partition, s.next}
	if e := t.byNext[key]; e != nil {
		t.drop(e)
	}
	t.byNext[key] = t.used.PushFront(s)
	t.bytes += s.cost()
	for t.used.Len() > t.max || t.bytes > t.maxBytes && t.used.Len() > 1 {
		t.drop(t.used.Back())
	}
}

// open has the scan read a run, from the block of an offset on.
func (r *Reader) open(ctx context.Context, s *scan, where place, from record.Offset) error {
	if s.index == where.Index && s.id == where.id && s.run.First == where.First {
		return nil
	}
	t, err := r.tail(ctx, &where)
	if err != nil {
		return err
	}
	goesOn := s.index >= 0
	if goesOn && s.run.Bytes < nextRunBytes {
		s.depth = min(2*s.depth, depthMax)
	} else {
		s.depth = 1
	}
	s.id, s.name, s.run, s.index, s.base, s.asked = where.id, where.id.Name(), t.Runs[where.Index], where.Index, t.first[where.Index], false
	if goesOn {
		s.stream.Continue(s.name, s.base+s.run.BlockAt(from), sizes(s.run.Blocks, s.base))
	} else {
		s.stream = r.cache.Stream(s.name, sizes(s.run.Blocks, s.base))
	}
	return nil
}

// sizes gives the bytes of a block, by its number in the object, of those that a run has from number base on.
func sizes(blocks []object.Block, base int) func(int) int64 {
	return func(block int) int64 {
		if i := block - base; i >= 0 && i < len(blocks) {
			return int64(blocks[i].Bytes)
		}
		return 0
	}
}

// query is one read: what is wanted, and what was found.
type query struct {
	from, end record.Offset
	left      int // bytes
	dst       [][]byte
	had       int            // of dst, before
	blocks    []*alloc.Block // that dst has views of, each with a count
	full      bool
}

// scan reads from the run that is open, to its end at most.
func (r *Reader) scan(ctx context.Context, s *scan, q *query) error {
	i := s.run.BlockAt(q.from)
	r.together(s, i, q)
	asked := q.left
	for ; i < len(s.run.Blocks) && !q.full && s.run.Blocks[i].First < q.end; i++ {
		if asked-q.left >= waitless && !s.stream.Ready(s.base+i) {
			return nil // he has it sooner so, and what comes next is on its way
		}
		b, err := s.stream.Read(ctx, s.base+i)
		if err != nil {
			return err
		}
		r.nextRun(s, i)
		some := len(q.dst)
		err = q.cut(s, i, b.Bytes())
		if len(q.dst) > some {
			q.blocks = append(q.blocks, b)
		} else {
			b.Release()
		}
		if err != nil {
			return err
		}
		if q.left <= 0 {
			return nil
		}
	}
	if len(q.dst) == q.had && !q.full && i == len(s.run.Blocks) {
		return &object.CorruptError{Object: s.name, At: s.run.Pos, Reason: fmt.Sprintf("no batch of run %d comes to offset %d", s.index, q.from)}
	}
	return nil
}

// together asks for all blocks that a read wants by one request, unless they are there.
func (r *Reader) together(s *scan, i int, q *query) {
	n, bytes := 0, int64(0)
	for i+n < len(s.run.Blocks) && bytes < int64(q.left) && bytes < r.most && s.run.Blocks[i+n].First < q.end {
		bytes += int64(s.run.Blocks[i+n].Bytes)
		n++
	}
	if n > 1 {
		_, _ = r.cache.Prefetch(s.name, s.base+i, n, bytes) // where it is busy, they are read one by one
	}
}

// cut takes the batches of a block that are wanted.
func (q *query) cut(s *scan, i int, b []byte) error {
	block := &s.run.Blocks[i]
	last := block.First - 1
	at := block.Pos
	for len(b) > 0 {
		batch, n, err := record.ParseBatch(b)
		if err != nil || batch.BaseOffset() <= last || batch.LastOffset() > block.Last {
			return fmt.Errorf("block %d of object %s: %w", s.base+i, s.name, &object.CorruptError{Object: s.name, At: at, Reason: "no batch that can be there"})
		}
		b, at, last = b[n:], at+int64(n), batch.LastOffset()
		switch {
		case last < q.from:
			continue
		case batch.BaseOffset() >= q.end || len(q.dst) > q.had && n > q.left:
			q.full = true
			return nil
		}
		q.dst = append(q.dst, batch)
		q.left -= n
		q.from = last + 1
	}
	return nil
}

// nextRun reads ahead what comes behind the run, once somebody who reads in a row is near its end.
func (r *Reader) nextRun(s *scan, i int) {
	window := s.stream.Window()
	left := s.run.Pos + s.run.Bytes - s.run.Blocks[i].Pos
	if s.asked || window == 0 && (!s.inRow || i+1 < len(s.run.Blocks)) || left > nextRunBytes {
		return
	}
	s.asked = true
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return
	}
	select {
	case r.slots <- struct{}{}:
	default:
		return // he waits for it then
	}
	r.ahead.Add(1)
	go r.begin(s.partition, s.run.Last+1, s.depth, max(window, 1))
}

// begin is the goroutine that reads the first blocks of the runs from an offset on, as many as a window has; Close waits for it.
func (r *Reader) begin(p record.PartitionID, from record.Offset, runs, window int) {
	defer r.ahead.Done()
	defer func() { <-r.slots }()
	bytes := int64(0)
	for ; runs > 0 && bytes < r.most; runs-- {
		where, ok := r.m.find(p, from)
		if !ok {
			return
		}
		t, err := r.tail(r.ctx, &where)
		if err != nil {
			return // he who comes to it hears of it
		}
		run := &t.Runs[where.Index]
		i := run.BlockAt(from)
		n, size := 0, int64(0)
		for i+n < len(run.Blocks) && n < window && bytes+size < r.most {
			size += int64(run.Blocks[i+n].Bytes)
			n++
		}
		if _, err := r.cache.Prefetch(where.id.Name(), t.first[where.Index]+i, n, size); err != nil {
			return
		}
		from, bytes = where.Last+1, bytes+size
	}
}
