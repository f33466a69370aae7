package offload

import (
	"cmp"
	"context"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// rewriting is a step of a pass: some neighbouring runs become one object, or stay.
type rewriting struct {
	c       *pass
	runs    []history.Placed
	from    record.Offset // what it stands for, to last
	last    record.Offset
	end     record.Offset // behind what was read
	changed bool
	rest    int           // number of the first extent that the pass has not come to; -1: there is none
	restAt  record.Offset // and its first offset
	written record.Offset // behind the last batch that was kept
}

// rewrite makes the next step, behind c.next.
func (c *pass) rewrite(ctx context.Context) (done bool, err error) {
	r := rewriting{c: c, from: c.next, rest: -1}
	r.runs = c.nextRuns()
	if len(r.runs) == 0 {
		return true, nil
	}
	r.last = r.runs[len(r.runs)-1].Last
	if err := r.filter(ctx); err != nil {
		return false, err
	}
	c.f.step("filtered")
	if r.stays() {
		err = r.leave(ctx)
	} else {
		err = r.replace(ctx)
	}
	c.next = r.last + 1
	return c.next >= c.until, err
}

// nextRuns are those of the next step: as many as one object and one command may have.
func (c *pass) nextRuns() (runs []history.Placed) {
	m := c.f.o.Manifest
	bytes, rows := int64(0), int64(0)
	for _, r := range m.Runs(c.p.Partition, c.next, passRuns) {
		o, ok := m.Object(r.ID)
		if !ok {
			break // it has gone since: the log start has moved
		}
		row := int64(len(o.Encode(nil)))
		if r.First >= c.until || len(runs) > 0 && (bytes+r.Bytes > c.f.o.ObjectBytes || rows+row > passRowBytes) {
			break
		}
		runs, bytes, rows = append(runs, r), bytes+r.Bytes, rows+row
	}
	return runs
}

// filter brings what stays of the runs into the spool.
func (r *rewriting) filter(ctx context.Context) error {
	c := r.c
	c.out.reset()
	if err := c.out.s.Truncate(0); err != nil {
		return err
	}
	r.written, r.end = r.from, r.from
	for i := range r.runs {
		run := &r.runs[i]
		err := c.batches(ctx, run, r.end, func(b record.Batch) (bool, error) {
			return true, r.batch(b, run.Last < c.seen)
		})
		if err != nil {
			return err
		}
	}
	if r.rest < 0 {
		if err := c.out.pins(r.written, r.last); err != nil {
			return err
		}
	}
	return c.out.flush()
}

// batch takes one in. seen: an earlier pass has seen all that lies before it.
func (r *rewriting) batch(b record.Batch, seen bool) error {
	c := r.c
	if b.BaseOffset() < r.end {
		return errMoved
	}
	r.end = b.NextOffset()
	if r.rest < 0 && b.NextOffset() > c.until {
		// From here on the pass has not noted what there is.
		if err := c.out.pins(r.written, c.until-1); err != nil {
			return err
		}
		r.rest, r.restAt = c.out.cut(), b.BaseOffset()
	}
	out := b
	switch {
	case r.rest >= 0:
	case b.Count() == 0 && b.Attributes()&record.Control == 0:
		return nil // an earlier pass has left it to stand for offsets
	case b.LastOffset() < c.p.LogStart:
		out = nil
	default:
		out = c.keys.Keep(b, seen)
	}
	if out == nil || &out[0] != &b[0] {
		r.changed = true
	}
	if out == nil {
		return nil
	}
	if len(c.out.extents) == 0 && out.BaseOffset() > r.from {
		if err := c.out.pins(r.from, out.BaseOffset()-1); err != nil {
			return err
		}
	}
	r.written = out.NextOffset()
	return c.out.add(out)
}

// stays tells whether the runs need not be written anew: the pass has changed nothing, and they are not too small.
func (r *rewriting) stays() bool {
	if r.changed || r.rest >= 0 || r.begins() {
		return false
	}
	bytes := int64(0)
	for i := range r.runs {
		bytes += r.runs[i].Bytes
	}
	return len(r.runs) == 1 || 2*bytes >= r.c.f.o.ObjectBytes
}

// begins tells whether the runs are the first ones, below which the partition had others once, and do not say that they take the place of those. They
// have to: objects with those may be there still, and deletions go that the pass finds behind them.
func (r *rewriting) begins() bool {
	return r.from == r.c.first && r.from > 0 && !r.runs[0].Flags.Has(object.Replaces|object.Begins)
}

// leave notes in the manifest that the pass has seen the runs.
func (r *rewriting) leave(ctx context.Context) error {
	c := r.c
	changes := make(map[record.ShardID][]Change)
	for i := range r.runs {
		run := &r.runs[i]
		c.stay[runKey{run.ID, run.Index}] = struct{}{}
		o, ok := c.f.o.Manifest.Object(run.ID)
		if !ok || run.Flags.Has(object.Clean) {
			continue
		}
		for k := range o.Runs {
			if o.Runs[k].Partition == c.p.Partition && o.Runs[k].Index == run.Index {
				o.Runs[k].Flags |= object.Clean
			}
		}
		changes[o.Shard] = append(changes[o.Shard], Change{Key: o.Key(), Value: o.Encode(nil)})
	}
	for shard, rows := range changes {
		c.f.pending = &commit{name: "rows", shard: shard, rows: rows, parts: []Partition{c.p}}
		if err := c.f.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// replace puts what is left of the runs as an object, and has it take their place.
func (r *rewriting) replace(ctx context.Context) error {
	c, f := r.c, r.c.f
	if err := f.name(ctx); err != nil {
		return err
	}
	g := &group{key: keyOf(&c.p)}
	l := &layout{runs: r.plans(), bytes: c.out.size}
	w, err := f.upload(ctx, g, l)
	if err != nil {
		return err
	}
	f.stats.CompactWritten.Add(c.out.size)
	f.step("stored")
	sum := w.Summary()
	obj := entry(&sum, g)
	rows := map[record.ShardID][]Change{c.p.Shard: {{Key: obj.Key(), Value: obj.Encode(nil)}}}
	cm := &commit{name: w.Name(), shard: c.p.Shard, parts: []Partition{c.p}}
	own := f.ownEpochs()
	for _, o := range f.o.Manifest.Within(c.p.Partition, c.first, r.last) {
		change, gone := c.without(o, r.last)
		if change.Key == nil {
			continue
		}
		rows[o.Shard] = append(rows[o.Shard], change)
		if gone && own[o.ID.Epoch] {
			cm.gone = append(cm.gone, doomed{name: o.ID.Name(), size: o.Size})
		} else if gone {
			f.stats.Left.Add(1)
		}
	}
	for i := range obj.Runs {
		c.stay[runKey{obj.ID, obj.Runs[i].Index}] = struct{}{}
	}
	cm.rows = rows[c.p.Shard]
	delete(rows, c.p.Shard)
	cm.others = rows
	f.pending = cm
	return f.settle(ctx)
}

// plans are the runs of the object: what the pass has seen, and what lies behind it in the last run.
func (r *rewriting) plans() []runPlan {
	c := r.c
	seen := len(c.out.extents)
	if r.rest >= 0 {
		seen = r.rest
	}
	flags := object.Sparse | object.Replaces
	if r.from == c.first {
		flags |= object.Begins
	}
	plans := []runPlan{{p: c.p, sources: []source{{pieces: &c.out, to: seen}}, until: r.last + 1, flags: flags | object.Clean}}
	if r.rest >= 0 {
		rest := runPlan{p: c.p, sources: []source{{pieces: &c.out, from: r.rest, to: len(c.out.extents)}}, until: r.last + 1, flags: object.Sparse | object.Replaces}
		rest.aborted = c.f.aborted(c.p.Partition, r.restAt, r.last)
		plans = append(plans, rest)
	}
	return plans
}

// aborted gives the aborted transactions of a run in the order of an object's.
func (f *Offloader) aborted(p record.PartitionID, first, last record.Offset) []object.Aborted {
	list := slices.Clone(f.o.Catalog.Aborted(p, first, last))
	slices.SortFunc(list, func(a, b object.Aborted) int {
		return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(a.First, b.First))
	})
	return list
}

// without is the change that takes the runs that are replaced out of an object's row. gone: it was the last. Without a key: there is none.
func (c *pass) without(o *history.Object, last record.Offset) (change Change, gone bool) {
	kept := make([]history.Run, 0, len(o.Runs))
	for _, run := range o.Runs {
		_, stays := c.stay[runKey{o.ID, run.Index}]
		if stays || run.Partition != c.p.Partition || run.First < c.first || run.Last > last {
			kept = append(kept, run)
		}
	}
	switch {
	case len(kept) == len(o.Runs):
		return Change{}, false
	case len(kept) == 0:
		return Change{Key: o.Key()}, true
	}
	key := o.Key()
	o.Runs = kept
	return Change{Key: key, Value: o.Encode(nil)}, false
}
