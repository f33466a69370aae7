package offload

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// epochPrefix is what the names of objects begin with that say that an epoch is taken. They are never removed: two nodes with one epoch would
// take each other's objects for orphans.
const epochPrefix = "epochs/"

// sequenceBits: so many bits' worth of objects a node may make in a millisecond.
const sequenceBits = 16

func epochName(e record.Epoch) string { return fmt.Sprintf("%s%08x", epochPrefix, uint32(e)) }

func parseEpoch(name string) (record.Epoch, bool) {
	s, ok := strings.CutPrefix(name, epochPrefix)
	if !ok || len(s) != 8 {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 16, 31)
	return record.Epoch(v), err == nil
}

// name sees to it that the turn has an epoch and a sequence to name objects with.
func (f *Offloader) name(ctx context.Context) error {
	if f.epoch != 0 {
		return nil
	}
	for _, e := range f.o.Manifest.Epochs() {
		if e.Store == f.o.StoreName && !e.Adopted && !f.o.Shared {
			f.epoch = max(f.epoch, e.Epoch)
		}
	}
	if f.epoch == 0 {
		e, err := f.mint(ctx)
		if err != nil {
			return err
		}
		f.epoch = e
	}
	// No name is given twice, not even that of an object that is gone: a request to remove it may be under way, here or in the store. So it goes on
	// above all that the manifest has, and above what any earlier life can have come to, by the clock. Should that have been put back, orphans may lie
	// above: they are found when a Put is refused.
	f.seq = max(f.seq, uint64(f.clk.Now().UnixMilli())<<sequenceBits)
	for o := range f.o.Manifest.All() {
		if o.ID.Epoch == f.epoch {
			f.seq = max(f.seq, o.ID.Sequence+1)
		}
	}
	f.tell(func(s *Status) { s.Epoch = f.epoch })
	return nil
}

// Mint gives the node an epoch that no node has had in the store, and keeps it. Turn does so by itself where the node has none; a node that has been
// rebuilt or restored, and may have one that others have too, asks for it.
type Mint func(ctx context.Context) (record.Epoch, error)

// Alone runs fn while no turn is under way, so that nothing is removed from the store meanwhile: a rebuild that takes up an object which a search
// has just found to be nobody's would have its row without it. It waits for the turn that is under way; the context that fn gets ends with Close
// too. mint is good within fn.
func (f *Offloader) Alone(ctx context.Context, fn func(ctx context.Context, mint Mint) error) error {
	ctx, leave, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	select {
	case <-f.one:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	f.endPass() // what it knows of the manifest may not be so any more
	f.phase(Alone)
	defer func() {
		f.phase(Idle)
		f.one <- struct{}{}
	}()
	return fn(ctx, func(ctx context.Context) (record.Epoch, error) {
		e, err := f.mint(ctx)
		if err == nil && !f.o.Shared { // a lead has one already, or mints one when it needs it
			f.epoch = 0 // name finds it, and where to go on
		}
		return e, err
	})
}

// mint finds the greatest epoch in the store, claims one above it there, and has it kept. A crash before the last step costs a number.
func (f *Offloader) mint(ctx context.Context) (record.Epoch, error) {
	e := record.Epoch(0)
	for _, own := range f.o.Manifest.Epochs() {
		e = max(e, own.Epoch)
	}
	err := f.list(ctx, "", "", func(i *tier.Info) error {
		if id, ok := object.ParseName(i.Name); ok {
			e = max(e, id.Epoch)
		} else if n, ok := parseEpoch(i.Name); ok {
			e = max(e, n)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("offload: look for epochs: %w", err)
	}
	f.step("epoch-listed")
	for claimed := false; !claimed; {
		if e == math.MaxInt32 {
			return 0, errors.New("offload: no epoch is left")
		}
		e++
		if claimed, err = f.claim(ctx, e); err != nil {
			return 0, fmt.Errorf("offload: claim epoch %d: %w", e, err)
		}
	}
	f.step("epoch-claimed")
	row := history.Epoch{Epoch: e, Created: f.clk.Now().UnixMilli(), Store: f.o.StoreName}
	if err := f.change(ctx, 0, []Change{{Key: row.Key(), Value: row.Encode(nil)}}); err != nil {
		return 0, fmt.Errorf("offload: keep epoch %d: %w", e, err)
	}
	f.step("epoch-committed")
	f.log.Info("minted an epoch for objects of this node", "epoch", e, "store", f.o.StoreName)
	return e, nil
}

// claim puts an object that says that an epoch is taken. false: it was.
func (f *Offloader) claim(ctx context.Context, e record.Epoch) (mine bool, err error) {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails
	text := []byte(hex.EncodeToString(secret[:]) + "\n")
	name := epochName(e)
	err = f.again(ctx, func(ctx context.Context) error {
		// A try before may have stored it, and have answered that it has not.
		b, err := f.small(ctx, name)
		if err == nil {
			mine = bytes.Equal(b, text)
			return nil
		}
		if !errors.Is(err, tier.ErrNotFound) {
			return err
		}
		put := func(o tier.PutOptions) error {
			f.stats.Puts.Add(1)
			return f.o.Store.Put(ctx, name, bytes.NewReader(text), int64(len(text)), o)
		}
		err = put(tier.PutOptions{IfAbsent: true})
		if errors.Is(err, tier.ErrUnsupported) && !f.o.Shared {
			err = put(tier.PutOptions{})
		}
		if err != nil && !errors.Is(err, tier.ErrExists) {
			return err
		}
		// Whoever reads his own has it. (Where the store can refuse nothing, two that come within the same moment may both do so.)
		if b, err = f.small(ctx, name); err == nil {
			mine = bytes.Equal(b, text)
		}
		return err
	})
	return mine, err
}

// small reads an object of a few bytes.
func (f *Offloader) small(ctx context.Context, name string) ([]byte, error) {
	body, _, err := f.o.Store.Get(ctx, name, tier.Range{Len: kib})
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(body)
	return b, errors.Join(err, body.Close())
}

// list calls got for each object of the store with a prefix and behind a name, in the order of names. Memory: one page.
func (f *Offloader) list(ctx context.Context, prefix, after string, got func(*tier.Info) error) error {
	for more := true; more; {
		var page []tier.Info
		err := f.again(ctx, func(ctx context.Context) (err error) {
			f.stats.Lists.Add(1)
			page, more, err = f.o.Store.List(ctx, prefix, after, 0)
			return err
		})
		if err != nil {
			return err
		}
		for i := range page {
			if err := got(&page[i]); err != nil {
				return err
			}
			after = page[i].Name
		}
		if len(page) == 0 {
			return nil
		}
	}
	return nil
}

// skipTaken goes on behind the last object of a shard that has our epoch.
func (f *Offloader) skipTaken(ctx context.Context, id object.ID) error {
	f.stats.Taken.Add(1)
	return f.list(ctx, object.ShardPrefix(id.Tenant, id.Shard), id.Name(), func(i *tier.Info) error {
		if other, ok := object.ParseName(i.Name); ok && other.Epoch == f.epoch {
			f.seq = max(f.seq, other.Sequence+1)
		}
		return nil
	})
}
