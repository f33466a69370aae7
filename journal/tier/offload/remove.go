package offload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

const (
	// doomedMax bounds the objects that wait to be removed. Others keep their rows meanwhile.
	doomedMax = 4096
	// rowsMax is how many rows of a shard go with one command.
	rowsMax = 256
	// scanPages is how many pages of names a turn looks at: uploads must not wait for a store's whole list.
	scanPages = 20
	// scanRetry is when a search that failed is begun anew.
	scanRetry = 5 * time.Minute
	// missingTold is how many objects that the store has lost a search names in the log.
	missingTold = 10
)

// doomed is an object without a row.
type doomed struct {
	name  string
	size  int64
	at    time.Duration
	known func() bool // by all nodes; nil: by all
}

// leads tells whether what was found may be removed: nobody has taken over, who would go by another manifest.
func (f *Offloader) leads() bool { return f.o.Leads == nil || f.o.Leads() }

// everywhere gives what tells whether all nodes know of what has gone from the manifest by now.
func (f *Offloader) everywhere() (known func() bool) {
	if f.o.Everywhere == nil {
		return nil
	}
	return f.o.Everywhere()
}

func (d *doomed) may() bool { return d.known == nil || d.known() }

func (f *Offloader) scanEvery() time.Duration { return max(f.o.OrphanGrace/orphanScans, time.Minute) }

// remove has rows and objects go that nobody needs, and looks for orphans.
func (f *Offloader) remove(ctx context.Context) error {
	if err := f.guard(ctx); err != nil {
		return err
	}
	if err := f.forget(ctx); err != nil {
		return err
	}
	if err := f.deleteDoomed(ctx); err != nil {
		return err
	}
	if f.clk.Mono() < f.scanAt {
		return nil
	}
	return f.scan(ctx)
}

// forget removes the rows of objects whose runs are all below their log starts, or of partitions that are gone.
func (f *Offloader) forget(ctx context.Context) error {
	m := f.o.Manifest
	if !f.known {
		// What was dropped before a restart the manifest cannot know.
		for _, p := range m.Partitions() {
			if !f.o.Catalog.Exists(p) && f.leads() { // who follows may have rows of what it has not made yet
				m.DropPartition(p)
			}
		}
		f.known = true
	}
	room := doomedMax - len(f.doomed)
	if room <= 0 || m.Stats().Dead == 0 {
		return nil
	}
	own := f.ownEpochs()
	type shardRows struct {
		rows []Change
		objs []doomed
	}
	by := make(map[record.ShardID]*shardRows)
	for _, o := range m.Dead() {
		s := by[o.Shard]
		if s == nil {
			s = new(shardRows)
			by[o.Shard] = s
		}
		if len(s.rows) >= rowsMax || room == 0 {
			f.more = true
			continue
		}
		s.rows = append(s.rows, Change{Key: o.Key()})
		if !own[o.ID.Epoch] {
			// The node that wrote it may live, and need it: this one has come out of a backup of that, or has been rebuilt from the store.
			f.stats.Left.Add(1)
			continue
		}
		if slices.ContainsFunc(o.Runs, func(r history.Run) bool { return r.Flags.Has(object.Sparse) }) {
			continue // a search removes it: not before what is older
		}
		room--
		s.objs = append(s.objs, doomed{name: o.ID.Name(), size: o.Size})
	}
	for shard, s := range by {
		if len(s.rows) == 0 {
			continue
		}
		f.step("forgetting")
		if err := f.change(ctx, shard, s.rows); err != nil {
			return fmt.Errorf("offload: remove rows of dead objects: %w", err)
		}
		f.step("forgotten")
		f.doom(s.objs)
	}
	return nil
}

// doom has objects without a row be removed later.
func (f *Offloader) doom(list []doomed) {
	at, known := f.clk.Mono()+f.o.DeleteDelay, f.everywhere()
	for _, d := range list {
		d.at, d.known = at, known
		f.doomed = append(f.doomed, d)
	}
}

// deleteDoomed removes the objects whose time has come. What cannot be removed stays in the list; after a restart it is an orphan. What has a row again
// stays in the store: a rebuild has brought a deleted topic back meanwhile.
func (f *Offloader) deleteDoomed(ctx context.Context) error {
	now := f.clk.Mono()
	if !slices.ContainsFunc(f.doomed, func(d doomed) bool { return d.at <= now && d.may() }) {
		return nil
	}
	holds, failed := f.holds(ctx) // after their rows are gone: who needs them by a row has said so before it was
	kept := f.doomed[:0]
	for i, d := range f.doomed {
		if id, ok := object.ParseName(d.name); ok && f.o.Manifest.Has(id) {
			continue
		}
		if now < d.at || failed != nil || ctx.Err() != nil || !d.may() {
			kept = append(kept, d)
			continue
		}
		if id, ok := object.ParseName(d.name); !ok || holds.has(id) {
			continue // a search removes it once it is held no more
		}
		if !f.leads() {
			kept = append(kept, f.doomed[i])
			continue
		}
		f.step("deleting")
		if err := f.once(ctx, func(ctx context.Context) error { return f.o.Store.Delete(ctx, d.name) }); err != nil {
			failed = fmt.Errorf("offload: %w", err)
			kept = append(kept, f.doomed[i])
			continue
		}
		f.step("deleted")
		f.stats.Deleted.Add(1)
		f.stats.DeletedBytes.Add(d.size)
	}
	clear(f.doomed[len(kept):])
	f.doomed = kept
	return failed
}

// search is a walk over all names in the store, beside the manifest's.
type search struct {
	after   string
	ids     []object.ID // of the manifest when the search began, in order; those that the walk has not come to
	own     map[record.Epoch]bool
	holds   held
	orphans int
	missing int
	held    int // orphans that stay
	foreign int // of other nodes' epochs, and no row tells of them

	last     lasting
	outlives int         // orphans that stay for the sake of older objects
	known    func() bool // to all nodes: that the manifest had none but ids; nil: to all
	waits    int         // orphans that stay until it is
}

// may tells whether orphans may be removed: the manifest was whole when the search began, and still is the one that counts, for all nodes.
func (f *Offloader) may(s *search) bool { return (s.known == nil || s.known()) && f.leads() }

// ownEpochs are those of the objects that nobody but this node has written. What is not in one of them is never removed from the store.
func (f *Offloader) ownEpochs() map[record.Epoch]bool {
	own := make(map[record.Epoch]bool)
	for _, e := range f.o.Manifest.Epochs() {
		if e.Store == f.o.StoreName {
			own[e.Epoch] = true
		}
	}
	return own
}

// scan goes on with the search for orphans, for some pages.
func (f *Offloader) scan(ctx context.Context) error {
	if f.search == nil {
		f.known = false // and for partitions that are gone
		s := &search{own: f.ownEpochs(), known: f.everywhere()}
		for o := range f.o.Manifest.All() {
			s.ids = append(s.ids, o.ID)
		}
		f.search = s
	}
	s := f.search
	pages := 0
	var err error
	if s.holds, err = f.holds(ctx); err != nil { // in each turn: a search takes some
		return err
	}
	err = f.list(ctx, "", s.after, func(i *tier.Info) error {
		if pages++; pages > scanPages*tier.MaxPage {
			return errEnough
		}
		s.after = i.Name
		id, ok := object.ParseName(i.Name)
		if !ok {
			return nil
		}
		had, err := f.lost(ctx, s, &id)
		if err != nil {
			return err
		}
		return f.orphan(ctx, s, id, i, had)
	})
	switch {
	case errors.Is(err, errEnough):
		f.more = true
		return nil
	case err == nil:
		if _, err = f.lost(ctx, s, nil); err == nil {
			err = f.outlived(ctx, s)
		}
	}
	f.search = nil
	if err != nil {
		f.scanAt = f.clk.Mono() + scanRetry
		return fmt.Errorf("offload: look for orphans: %w", err)
	}
	f.scanAt = f.clk.Mono() + f.scanEvery()
	f.scanned(s)
	if s.held > 0 {
		f.log.Info("objects that nobody needs but backups, or nodes that came out of them, stay in the store", "objects", s.held)
	}
	if s.waits > 0 {
		f.log.Info("objects that nobody needs stay in the store until all nodes know so", "objects", s.waits)
	}
	if err := f.releaseForeign(ctx); err != nil {
		return err
	}
	return f.sweep(ctx)
}

var errEnough = errors.New("offload: enough for this turn")

// orphan removes an object that has no row, if it is ours and old enough. had: it had one when the search began, which other nodes may have still.
func (f *Offloader) orphan(ctx context.Context, s *search, id object.ID, i *tier.Info, had bool) error {
	if f.o.Manifest.Whole(id) {
		return nil
	}
	s.last.parts = append(s.last.parts, id)
	if !s.own[id.Epoch] && !f.o.Manifest.Has(id) {
		s.foreign++
	}
	if had && s.known != nil || !s.own[id.Epoch] || f.o.Manifest.Has(id) || f.underWay(i.Name) || f.clk.Now().Sub(i.ModTime) < f.o.OrphanGrace {
		return nil
	}
	// The store's clock may be wrong, or missing: the object has our own in it.
	var made time.Time
	err := f.again(ctx, func(ctx context.Context) (err error) {
		made, err = f.made(ctx, i.Name)
		return err
	})
	switch {
	case errors.Is(err, tier.ErrNotFound):
		return nil
	case errors.Is(err, object.ErrCorrupt):
		made = i.ModTime
	case err != nil:
		return err
	}
	if made.IsZero() || f.clk.Now().Sub(made) < f.o.OrphanGrace {
		return nil
	}
	if s.holds.has(id) {
		s.held++
		return nil
	}
	switch sum, err := f.tail(ctx, id); {
	case err != nil:
		return err
	case sum != nil && slices.ContainsFunc(sum.Runs, sparse):
		s.last.late = append(s.last.late, lateObject{id: id, size: i.Size, put: i.ModTime})
		return nil
	}
	if !f.may(s) {
		s.waits++
		return nil
	}
	s.orphans++
	return f.deleteOrphan(ctx, i.Name, i.Size, i.ModTime)
}

// deleteOrphan removes an object that has no row.
func (f *Offloader) deleteOrphan(ctx context.Context, name string, size int64, put time.Time) (err error) {
	f.step("orphan")
	if err = f.again(ctx, func(ctx context.Context) error { return f.o.Store.Delete(ctx, name) }); err != nil {
		return err
	}
	f.step("orphan-deleted")
	f.stats.Orphans.Add(1)
	f.log.Info("removed an object that no row of the manifest tells of", "object", name, "bytes", size, "put", put)
	return nil
}

// made tells when an object was laid out, by this node's clock.
func (f *Offloader) made(ctx context.Context, name string) (time.Time, error) {
	b, err := f.small(ctx, name)
	if err != nil {
		return time.Time{}, err
	}
	_, created, _, err := object.ParseHeader(name, b)
	return time.UnixMilli(created), err
}

// underWay tells whether an object without a row is not an orphan yet: its commit is in doubt, or it is to be removed later.
func (f *Offloader) underWay(name string) bool {
	if f.pending != nil && f.pending.name == name {
		return true
	}
	for i := range f.doomed {
		if f.doomed[i].name == name {
			return true
		}
	}
	return false
}

// lost looks at the objects of the manifest that come before one that the store has listed; nil: at all that are left. Names are listed in the
// order of ids, so they are not there. had: the listed one is the manifest's.
func (f *Offloader) lost(ctx context.Context, s *search, listed *object.ID) (had bool, err error) {
	for len(s.ids) > 0 && (listed == nil || compare(s.ids[0], *listed) <= 0) {
		id := s.ids[0]
		if listed != nil && id == *listed {
			s.ids = s.ids[1:]
			return true, nil
		}
		if f.o.Manifest.Has(id) {
			err := f.again(ctx, func(ctx context.Context) error { _, err := f.o.Store.Stat(ctx, id.Name()); return err })
			switch {
			case errors.Is(err, tier.ErrNotFound):
				if s.missing++; s.missing <= missingTold {
					f.log.Error("the store has lost an object", "object", id.Name())
				}
			case err != nil:
				return false, err
			}
		}
		s.ids = s.ids[1:]
	}
	return false, nil
}

func compare(a, b object.ID) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Sequence, b.Sequence))
}

// sweep has the store remove what Puts that failed have left in it.
func (f *Offloader) sweep(ctx context.Context) error {
	sw, ok := f.o.Store.(tier.Sweeper)
	if !ok {
		return nil
	}
	n, err := sw.Sweep(ctx, sweepAge)
	f.stats.Swept.Add(int64(n))
	if err != nil {
		return fmt.Errorf("offload: %w", err)
	}
	f.step("swept")
	return nil
}
