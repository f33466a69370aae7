package offload

import (
	"context"
	"fmt"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// commit is an object that is in the store, on its way into the manifest.
type commit struct {
	name    string
	shard   record.ShardID
	rows    []Change
	parts   []Partition
	pressed bool
	gone    []doomed                    // objects that nobody needs then
	others  map[record.ShardID][]Change // rows of other shards, whose runs are replaced by what the commit brings
	result  chan error                  // nil: it has not been asked for
}

// commitTries is how often a turn asks for a commit.
const commitTries = 5

// commit has an object taken into the manifest, then lets go of local copies. While it is not known whether that has happened, the commit stays pending, and
// the next turn begins with it: what was uploaded once is not uploaded again.
func (f *Offloader) commit(ctx context.Context, g *group, l *layout, w *object.Writer) error {
	sum := w.Summary()
	obj := entry(&sum, g)
	c := &commit{name: w.Name(), shard: g.key.shard, rows: []Change{{Key: obj.Key(), Value: obj.Encode(nil)}}}
	c.pressed = f.o.Pressed != nil && f.o.Pressed()
	for i := range l.runs {
		c.parts = append(c.parts, l.runs[i].p)
	}
	f.pending = c
	return f.settle(ctx)
}

// settle sees a pending commit through.
func (f *Offloader) settle(ctx context.Context) error {
	c := f.pending
	if c == nil {
		return nil
	}
	for try := 0; ; try++ {
		if c.result == nil {
			f.step("committing")
			c.result = f.ask(c.shard, c.rows)
		}
		var err error
		select {
		case err = <-c.result:
		case <-ctx.Done():
			return context.Cause(ctx) // in doubt: the next turn hears of it
		}
		c.result = nil
		if err == nil {
			break
		}
		f.stats.CommitFailures.Add(1)
		err = fmt.Errorf("offload: commit %s: %w", c.name, err)
		if try+1 >= commitTries {
			return err
		}
		if f.pause(ctx, err, betweenTries.Wait(try+1)) != nil {
			return context.Cause(ctx)
		}
	}
	f.pending = nil
	f.step("committed")
	f.committed()
	for i := range c.parts {
		f.release(&c.parts[i], c.pressed)
	}
	f.step("released")
	if len(c.gone) > 0 {
		if err := f.o.Log.Sync(); err != nil {
			return fmt.Errorf("offload: rows of what %s replaces: %w", c.name, err) // their objects are orphans
		}
		f.doom(c.gone)
	}
	// Should that fail, they lie beside what replaces them, and the next pass finds them.
	for shard, rows := range c.others {
		if err := f.change(ctx, shard, rows); err != nil {
			return fmt.Errorf("offload: rows of what %s replaces: %w", c.name, err)
		}
		f.step("others")
	}
	return nil
}

// ask has rows changed. The channel gets the answer, and has room for it.
func (f *Offloader) ask(shard record.ShardID, rows []Change) chan error {
	result := make(chan error, 1)
	f.o.Catalog.Change(shard, rows, func(err error) { result <- err })
	return result
}

// change has rows changed and waits until a power cut cannot take that back: an object must not go before its row has gone for good.
func (f *Offloader) change(ctx context.Context, shard record.ShardID, rows []Change) error {
	select {
	case err := <-f.ask(shard, rows):
		if err != nil {
			return err
		}
		return f.o.Log.Sync()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
