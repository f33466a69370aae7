package offload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/sluicemq/sluice/journal/compact"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Cleaning says how a partition of a compacted topic is compacted in the store. The zero value is that of a topic that is not.
type Cleaning struct {
	Compact    bool
	DirtyShare float64 // of bytes that no pass has seen, from which on a pass is made
	// MinLagMillis is how old a record must be for a pass to look at it; MaxLagMillis, if above 0, how old the newest record of a run may become before a
	// pass is made however little is dirty.
	MinLagMillis, MaxLagMillis int64
	// KeepDeletesMillis is how long a deletion stays after a pass has met it.
	KeepDeletesMillis int64
}

const (
	// passRuns is how many runs a step looks at, at most.
	passRuns = 1024
	// passRowBytes bounds the rows of replaced objects that one command changes, about.
	passRowBytes = 1 << 20
	// readBytes bounds one request of a pass.
	readBytes = 4 * mib
)

// pass is a pass of compaction over what lies in the store of a partition, under way from turn to turn. First it notes the keys of what no pass has seen, then it goes through all
// from the first run on and writes anew what changes, an object at a time. After each object, manifest and store have all that readers need: what goes is
// older than something else that is there. A crash costs the keys, and a new pass.
//
// It looks at the store alone, not at what the log has newer: what is in the store is at any time all that was written up to some offset, but for
// what was overwritten up to there; so a node that has lost its disk gets a state that there was.
type pass struct {
	f     *Offloader
	p     Partition
	first record.Offset // of the first run
	seen  record.Offset // an earlier pass has seen all below
	until record.Offset // it goes so far; until all is noted, behind the last run
	noted record.Offset // all below is noted, from seen on
	ready bool          // all is noted
	next  record.Offset // all below is done
	keys  *compact.Pass
	out   spooled
	stay  map[runKey]struct{} // runs that are not to be replaced: those that it has made, or has left as they are

	tail   *object.Summary // read last
	tailID object.ID
}

type runKey struct {
	id    object.ID
	index int
}

// dirty tells whether a pass over a partition is due, and how much of it is dirty.
func (f *Offloader) dirty(p *Partition) (share float64, due bool) {
	if _, bad := f.unclean[p.Partition]; bad || !p.Compact {
		return 0, false
	}
	d, ok := f.o.Manifest.Dirt(p.Partition)
	if !ok || d.DirtyBytes == 0 || f.o.Log.LocalStart(p.Partition) < d.Clean && d.Clean > max(d.First, p.LogStart) {
		return 0, false // or the log has a copy of what a pass has seen, which is about to go
	}
	if max(f.o.Log.LocalStart(p.Partition), p.LogStart) < max(d.First, p.LogStart) {
		return 0, false // it has records that come before those in the store: what is deleted there may be needed here
	}
	age := int64(math.MaxInt64)
	if d.DirtyMaxTime != object.NoTime {
		age = f.clk.Now().UnixMilli() - d.DirtyMaxTime
	}
	share = float64(d.DirtyBytes) / float64(d.DirtyBytes+d.CleanBytes)
	late := p.MaxLagMillis > 0 && age > p.MaxLagMillis && d.DirtyMaxTime != object.NoTime
	return share, age >= p.MinLagMillis && (late || share >= p.DirtyShare)
}

// pick notes what a plan meets: the pass's partition as it is now, or the one that needs a pass most.
func (p *plan) pick(part *Partition) {
	if run := p.f.pass; run != nil {
		if run.p.Partition == part.Partition && part.Compact {
			run.p, p.goesOn = *part, true
		}
		return
	}
	if share, due := p.f.dirty(part); due && share >= p.share {
		next := *part
		p.dirtiest, p.share = &next, share
	}
}

// compact goes on with the pass that is under way, by about an object's bytes, or begins the one that is needed most. A pass that fails is given up: the
// next one does what is left.
func (f *Offloader) compact(ctx context.Context, p *plan) error {
	if f.pass != nil && !p.goesOn {
		f.endPass() // its partition is gone, or is compacted no more
	}
	if f.pass == nil {
		if p.dirtiest == nil {
			return nil
		}
		if err := f.beginPass(p.dirtiest); err != nil || f.pass == nil {
			return err
		}
	}
	f.phase(Compacting)
	c := f.pass
	done, err := c.step(ctx)
	switch {
	case err == nil && done:
		f.endPass()
		f.stats.Passes.Add(1)
		f.more = true
		f.step("cleaned")
	case err == nil:
		f.more = true
	default:
		f.endPass()
		if ctx.Err() != nil || tier.Temporary(err) {
			return err
		}
		f.unclean[c.p.Partition] = f.clk.Mono() + badFor
		f.log.Error("cannot compact what lies in the store of a partition", "topic", c.p.Name, "partition", c.p.Index, "err", err)
		f.note(err)
	}
	return nil
}

func (f *Offloader) beginPass(p *Partition) error {
	d, ok := f.o.Manifest.Dirt(p.Partition)
	if !ok {
		return nil
	}
	c := &pass{f: f, p: *p, first: d.First, seen: d.Clean, until: d.End, noted: d.Clean, next: d.First, stay: make(map[runKey]struct{})}
	// Of transactions that have ended below, no aborted record is left anywhere. They are forgotten before their markers go: a reader who knew of one, and
	// did not meet its marker, would leave out what the producer has written since.
	if d.Clean > d.First {
		f.o.Catalog.Forget(p.Partition, d.Clean)
	}
	o := compact.Options{Base: d.Clean, KeyBytes: f.o.KeyBytes, Now: f.clk.Now().UnixMilli(), KeepDeletes: p.KeepDeletesMillis}
	for _, a := range f.o.Catalog.Aborted(p.Partition, d.First, d.End-1) {
		o.Aborted = append(o.Aborted, compact.Aborted{Producer: a.ProducerID, First: a.First, Last: a.Last})
	}
	c.keys = compact.NewPass(&o)
	c.out.s = &memorySpool{}
	if f.o.Spool != nil {
		s, err := f.o.Spool()
		if err != nil {
			return fmt.Errorf("offload: %w", err)
		}
		c.out.s = s
	}
	f.pass = c
	return nil
}

// endPass lets go of what a pass holds.
func (f *Offloader) endPass() {
	if f.pass == nil {
		return
	}
	if err := f.pass.out.s.Close(); err != nil {
		f.note(err)
	}
	f.pass = nil
}

// step does about an object's bytes of work.
func (c *pass) step(ctx context.Context) (done bool, err error) {
	if !c.ready {
		if err := c.note(ctx); err != nil || !c.ready {
			return false, err
		}
		c.f.step("noted")
		if c.until <= c.seen {
			// What there is to see is too young, or one batch has more keys than fit.
			c.f.unclean[c.p.Partition] = c.f.clk.Mono() + badFor
			return true, nil
		}
		return false, nil
	}
	return c.rewrite(ctx)
}

// errMoved ends a pass below which the manifest has changed.
var errMoved = errors.New("offload: what lies in the store has changed below a pass")

// note reads keys, of about an object's bytes.
func (c *pass) note(ctx context.Context) error {
	young := int64(math.MaxInt64)
	if c.p.MinLagMillis > 0 {
		young = c.f.clk.Now().UnixMilli() - c.p.MinLagMillis + 1
	}
	bytes := int64(0)
	for _, r := range c.f.o.Manifest.Runs(c.p.Partition, c.noted, passRuns) {
		if r.First >= c.until {
			break
		}
		if bytes > 0 && bytes+r.Bytes > c.f.o.ObjectBytes {
			return nil
		}
		bytes += r.Bytes
		more := true
		err := c.batches(ctx, &r, c.noted, func(b record.Batch) (bool, error) {
			if b.NextOffset() > c.until || b.MaxTimestamp() >= young && b.Attributes()&record.Control == 0 || !c.keys.Note(b) {
				more = false
				return false, nil
			}
			c.noted = b.NextOffset()
			return true, nil
		})
		if err != nil {
			return err
		}
		if !more {
			c.until = c.noted
			break
		}
		c.noted = r.Last + 1
	}
	if c.noted < c.until && bytes > 0 {
		return nil // there are more runs
	}
	c.until, c.ready = c.noted, true
	return nil
}

// batches calls fn with each batch of a run that ends at or behind an offset, in order, until it answers false. Requests that fail for a moment are made
// again, from the block on that was not there.
func (c *pass) batches(ctx context.Context, r *history.Placed, from record.Offset, fn func(b record.Batch) (bool, error)) error {
	f := c.f
	if c.tail == nil || c.tailID != r.ID {
		c.tail = nil
		err := f.again(ctx, func(ctx context.Context) (err error) {
			c.tail, err = object.Open(ctx, f.o.Store, r.ID, r.Tail)
			return err
		})
		if err != nil {
			return fmt.Errorf("tail of object %s: %w", r.ID.Name(), err)
		}
		c.tailID = r.ID
	}
	if err := r.Check(c.tail); err != nil {
		return err
	}
	run, more := &c.tail.Runs[r.Index], true
	for i := run.BlockAt(from); i < len(run.Blocks) && more; {
		n, bytes := 1, int64(run.Blocks[i].Bytes)
		for i+n < len(run.Blocks) && bytes < int64(f.limit.Step(readBytes)) {
			bytes += int64(run.Blocks[i+n].Bytes)
			n++
		}
		if d := f.limit.Take(int(bytes)); d > 0 {
			if err := f.sleep(ctx, d); err != nil {
				return context.Cause(ctx)
			}
		}
		end := i + n
		err := f.again(ctx, func(ctx context.Context) error {
			if i == end || !more {
				return nil // what failed was the end of the request
			}
			return object.ReadBlocks(ctx, f.o.Store, r.ID.Name(), run, i, end-i, func(k int, b []byte) (err error) {
				i = k + 1
				more, err = cut(r.ID.Name(), &run.Blocks[k], b, from, fn)
				if err == nil && !more {
					return io.EOF
				}
				return err
			})
		})
		if err != nil && more {
			return fmt.Errorf("block %d of run %d of object %s: %w", i, r.Index, r.ID.Name(), err)
		}
		f.stats.CompactRead.Add(bytes)
	}
	return nil
}

// cut calls fn with the batches of a block that end at or behind an offset.
func cut(name string, block *object.Block, b []byte, from record.Offset, fn func(b record.Batch) (bool, error)) (more bool, err error) {
	at, last := block.Pos, block.First-1
	for len(b) > 0 {
		batch, n, err := record.ParseBatch(b)
		if err != nil || batch.BaseOffset() <= last || batch.LastOffset() > block.Last {
			return true, &object.CorruptError{Object: name, At: at, Reason: "no batch that can be there"}
		}
		b, at, last = b[n:], at+int64(n), batch.LastOffset()
		if last < from {
			continue
		}
		if more, err := fn(batch); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

// pins has something stand for offsets that a pass leaves nothing of, at the beginning or the end of what it writes: a batch without records.
func (s *spooled) pins(from, to record.Offset) error {
	for from <= to {
		last := min(to, from+math.MaxInt32)
		b := record.AppendEmpty(nil, &record.BatchOptions{BaseOffset: from, LastDelta: int32(last - from)}, 0)
		if err := s.add(b); err != nil {
			return err
		}
		from = last + 1
	}
	return nil
}

// Recovered has the log and the catalog let go, after a restart, of what passes had made them let go of before: the log may have old copies again. It comes
// before anybody reads.
func Recovered(m *history.Manifest, l Log, c Catalog) {
	c.Partitions(func(p Partition) bool {
		d, ok := m.Dirt(p.Partition)
		if !ok || d.Clean <= d.First {
			return true
		}
		if local := max(l.LocalStart(p.Partition), p.LogStart); local < d.Clean && max(d.First, p.LogStart) <= local {
			l.SetLocalStart(p.Partition, d.Clean)
		}
		c.Forget(p.Partition, d.Clean)
		return true
	})
}
