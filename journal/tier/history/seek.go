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
// with the numbers. progress (nil: none) is told after each block how many bytes of how many are there. Other errors are as those of ReadBatches.
func (r *Reader) Prefetch(ctx context.Context, p record.PartitionID, from, to record.Offset, progress func(done, total int64)) error {
	total := r.m.SizeBelow(p, to) - r.m.SizeBelow(p, from)
	bound := r.o.CacheBytes / 4 * 3
	done := int64(0)
	for from < to {
		where, ok := r.m.find(p, from)
		if !ok || where.First >= to {
			return nil
		}
		t, err := r.tail(ctx, &where)
		if err != nil {
			return r.prefetchError(p, from, err)
		}
		run, base, name := &t.Runs[where.Index], t.first[where.Index], where.id.Name()
		stream := r.cache.Stream(name, sizes(run.Blocks, base))
		for i := run.BlockAt(from); i < len(run.Blocks) && run.Blocks[i].First < to; i++ {
			size := int64(run.Blocks[i].Bytes)
			if done+size > bound {
				return fmt.Errorf("%w: %d of %d bytes of partition %d are there, to offset %d", ErrCacheFull, done, total, p, run.Blocks[i].First)
			}
			if _, err := stream.Read(ctx, base+i); err != nil {
				return r.prefetchError(p, run.Blocks[i].First, err)
			}
			if done += size; progress != nil {
				progress(done, max(total, done))
			}
		}
		from = run.Last + 1
	}
	return nil
}

func (r *Reader) prefetchError(p record.PartitionID, o record.Offset, err error) error {
	return fmt.Errorf("read ahead partition %d at offset %d: %w", p, o, r.judge(err))
}
