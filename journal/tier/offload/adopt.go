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

// What keeps an epoch from being adopted.
var (
	ErrOwnEpoch  = errors.New("offload: the epoch is this node's own")
	ErrNoEpoch   = errors.New("offload: the store has no such epoch")
	ErrLiveEpoch = errors.New("offload: the epoch's node was there a short time ago, and may live")
)

// Foreign is an epoch that this node has not minted, and what the store has of it.
type Foreign struct {
	Epoch   record.Epoch
	Objects int
	Bytes   int64
	Last    time.Time // when the last object was put, by the store's clock; zero: there is none
	// Unknown are the objects that no row of this node's manifest tells of. They are orphans once the epoch is adopted.
	Unknown      int
	UnknownBytes int64
}

// Foreigns lists the epochs of the store that are not this node's, in their order. It lists the whole store, and is for Alone.
func (f *Offloader) Foreigns(ctx context.Context) (list []Foreign, err error) {
	own := f.ownEpochs()
	at := make(map[record.Epoch]int)
	of := func(e record.Epoch) *Foreign {
		i, ok := at[e]
		if !ok {
			i = len(list)
			at[e] = i
			list = append(list, Foreign{Epoch: e})
		}
		return &list[i]
	}
	err = f.list(ctx, "", "", func(i *tier.Info) error {
		if e, ok := parseEpoch(i.Name); ok && !own[e] {
			of(e)
		}
		id, ok := object.ParseName(i.Name)
		if !ok || own[id.Epoch] {
			return nil
		}
		g := of(id.Epoch)
		g.Objects++
		g.Bytes += i.Size
		if i.ModTime.After(g.Last) {
			g.Last = i.ModTime
		}
		if !f.o.Manifest.Has(id) {
			g.Unknown++
			g.UnknownBytes += i.Size
		}
		return nil
	})
	sortForeigns(list)
	return list, err
}

// Adopt makes an epoch this node's own, whose node is gone for good: its objects are removed when nobody here needs them any more, and those that
// no row tells of are orphans. No new object gets the epoch. ErrOwnEpoch, ErrNoEpoch; ErrLiveEpoch unless sure: an object of it is younger than the
// time of grace. dry changes nothing. It lists the whole store, and is for Alone.
func (f *Offloader) Adopt(ctx context.Context, e record.Epoch, sure, dry bool) (g Foreign, err error) {
	if f.ownEpochs()[e] {
		return g, fmt.Errorf("%w: %d", ErrOwnEpoch, e)
	}
	list, err := f.Foreigns(ctx)
	if err != nil {
		return g, fmt.Errorf("offload: look for epochs: %w", err)
	}
	for i := range list {
		if list[i].Epoch == e {
			g = list[i]
		}
	}
	if g.Epoch != e || e == 0 {
		return g, fmt.Errorf("%w: %d", ErrNoEpoch, e)
	}
	if now := f.clk.Now(); !sure && now.Sub(g.Last) < f.o.OrphanGrace {
		return g, fmt.Errorf("%w: epoch %d, %v ago", ErrLiveEpoch, e, now.Sub(g.Last).Round(time.Second))
	}
	if dry {
		return g, nil
	}
	row := history.Epoch{Epoch: e, Created: f.clk.Now().UnixMilli(), Store: f.o.StoreName, Adopted: true}
	if err := f.change(ctx, 0, []Change{{Key: row.Key(), Value: row.Encode(nil)}}); err != nil {
		return g, fmt.Errorf("offload: keep epoch %d: %w", e, err)
	}
	f.search, f.scanAt = nil, 0 // it began without the epoch: the next turn begins another
	// The node's own hold, and that of the node that is gone, still have its objects: the next turn makes one of what is still others'.
	if err := f.releaseForeign(ctx); err != nil {
		f.log.Warn("what the epoch's objects are held by is left to the next search for orphans", "epoch", e, "err", err)
	}
	f.log.Warn("adopted an epoch of a node that is gone", "epoch", e, "objects", g.Objects, "unknown", g.Unknown)
	return g, nil
}

func sortForeigns(list []Foreign) {
	slices.SortFunc(list, func(a, b Foreign) int { return cmp.Compare(a.Epoch, b.Epoch) })
}
