package history

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// SeekTime answers an offset at or above the log start before which p has no batch in the tier whose maximum timestamp is at or above at, in milliseconds of Unix time, and in whose
// block there is one: a reader who looks for it begins there. Control batches do not count. found false: the tier has none. It waits for the store: for one tail as a rule. Errors
// are as those of ReadBatches.
func (r *Reader) SeekTime(ctx context.Context, p record.PartitionID, at int64) (from record.Offset, found bool, err error) {
	from = r.m.LogStart(p)
	for range changesMax {
		where, ok := r.m.findTime(p, from, at)
		if !ok {
			return 0, false, nil
		}
		var t *tail
		if t, err = r.tail(ctx, &where); err != nil {
			again, ok := r.m.findTime(p, from, at)
			if ctx.Err() == nil && errors.Is(err, tier.ErrNotFound) && (!ok || again.id != where.id) {
				continue // it has been removed since
			}
			break
		}
		from = max(from, r.m.LogStart(p))
		run := &t.Runs[where.Index]
		for i := run.BlockAt(from); i < len(run.Blocks); i++ {
			if b := &run.Blocks[i]; b.MaxTime >= at && b.MaxTime != object.NoTime {
				return max(b.First, from), true, nil
			}
		}
		from = run.Last + 1 // what made it fit lies below the log start
	}
	return 0, false, fmt.Errorf("look for time %d in partition %d: %w", at, p, r.judge(err))
}

// ErrCacheFull means that more was to be read ahead than the cache may hold: the first part of it is there.
var ErrCacheFull = errors.New("history: the cache holds no more")

// Prefetch brings what lies in the tier of p from one offset to another into the cache, in order, and waits for it: at most three quarters of what the cache may hold, then ErrCacheFull,
// with the numbers. progress (nil: none) is told after each block how many bytes of how many are there. What retention removes meanwhile is passed over; other errors are as those of
// ReadBatches.
func (r *Reader) Prefetch(ctx context.Context, p record.PartitionID, from, to record.Offset, progress func(done, total int64)) error {
	f := prefetch{p: p, from: from, to: to, total: r.m.SizeBelow(p, to) - r.m.SizeBelow(p, from), progress: progress}
	for changes := 0; f.from < to; {
		where, ok := r.m.find(p, f.from)
		if !ok || where.First >= to {
			return nil
		}
		err := r.prefetchRun(ctx, &f, &where)
		switch {
		case err == nil:
		case errors.Is(err, ErrCacheFull):
			return err
		case ctx.Err() == nil && errors.Is(err, tier.ErrNotFound) && changes < changesMax && r.removed(p, f.from, &where):
			changes++
		default:
			return fmt.Errorf("read ahead partition %d at offset %d: %w", p, f.from, r.judge(err))
		}
	}
	return nil
}

type prefetch struct {
	p           record.PartitionID
	from, to    record.Offset
	done, total int64
	progress    func(done, total int64)
}

func (r *Reader) prefetchRun(ctx context.Context, f *prefetch, where *place) error {
	t, err := r.tail(ctx, where)
	if err != nil {
		return err
	}
	run, base := &t.Runs[where.Index], t.first[where.Index]
	stream := r.cache.Stream(where.id.Name(), sizes(run.Blocks, base))
	for i := run.BlockAt(f.from); i < len(run.Blocks) && run.Blocks[i].First < f.to; i++ {
		b := &run.Blocks[i]
		if f.done+int64(b.Bytes) > r.o.CacheBytes/4*3 {
			return fmt.Errorf("%w: %d of %d bytes of partition %d are there, to offset %d", ErrCacheFull, f.done, f.total, f.p, b.First)
		}
		blk, err := stream.Read(ctx, base+i)
		if err != nil {
			return err
		}
		blk.Release()
		f.from, f.done = b.Last+1, f.done+int64(b.Bytes)
		if f.progress != nil {
			f.progress(f.done, max(f.total, f.done))
		}
	}
	f.from = run.Last + 1
	return nil
}
