package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/offload"
)

// controlTier is the tier as the control plane knows it; nil without a store.
func controlTier(t *tiering) control.Tier {
	if t == nil {
		return nil
	}
	return tierControl{t}
}

type tierControl struct{ t *tiering }

// Status makes it a control.Tier.
func (c tierControl) Status(out *api.TierStatus) {
	t := c.t
	m, s := t.manifest.Stats(), t.status()
	out.Store = t.store.name
	out.Objects, out.Partitions, out.Bytes, out.StoredBytes = int64(m.Objects), int64(m.Partitions), m.LiveBytes, m.Bytes
	out.DeadObjects, out.DeadBytes = int64(m.Dead+s.Doomed), m.DeadBytes
	out.Epoch, out.Phase, out.Object, out.ObjectSize, out.ObjectSent = int64(s.Epoch), string(s.Phase), s.Object, s.Size, s.Sent
	if out.Phase == "" {
		out.Phase = string(offload.Idle)
	}
	out.WaitingBytes, out.WaitingPartitions, out.WaitingSinceMs = s.WaitingBytes, int64(s.WaitingPartitions), unixMillis(s.WaitingSince)
	out.LastUploadMs, out.FailingSinceMs, out.ScannedMs = unixMillis(s.LastUpload), unixMillis(s.FailedSince), unixMillis(s.ScannedAt)
	out.Orphans, out.Missing, out.BadPartitions = int64(s.Orphans), int64(s.Missing), int64(s.Bad)
	if s.Err != nil {
		out.Error, out.NextTryMs = s.Err.Error(), unixMillis(s.NextTurn)
		if !s.NextTry.IsZero() {
			out.NextTryMs = unixMillis(s.NextTry)
		}
	}
}

func unixMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Partition makes it a control.Tier.
func (c tierControl) Partition(p *broker.Partition) *api.TierPartition {
	l, id := c.t.log, p.ID()
	return &api.TierPartition{Partition: p.Index(), LogStart: int64(p.LogStart()), LocalStart: int64(l.LocalStart(id)), TieredEnd: int64(l.TieredEnd(id)),
		HighWatermark: int64(p.HighWatermark()), TieredBytes: c.t.manifest.Size(id), LocalBytes: l.LocalSize(id)}
}

// Do makes it a control.Tier.
func (c tierControl) Do(ctx context.Context, job control.TierJob, tell func(*api.TierProgress)) (*api.TierResult, error) {
	select {
	case c.t.job <- struct{}{}:
	default:
		return nil, control.ErrTierBusy
	}
	defer func() { <-c.t.job }()
	if _, err := c.t.offloader(); err != nil {
		return nil, err
	}
	w := &teller{tell: tell}
	switch r := job.(type) {
	case *api.VerifyTierRequest:
		return c.t.verify(ctx, r, w)
	case *api.RebuildTierRequest:
		return c.t.rebuild(ctx, r.ValidateOnly, w)
	case *api.PrefetchTierRequest:
		return c.t.prefetch(ctx, r, w)
	case *api.OffloadTierRequest:
		return c.t.offload(ctx, r.All, w)
	case *api.AdoptTierRequest:
		return c.t.adopt(ctx, r, w)
	}
	return nil, fmt.Errorf("no work is named %T", job)
}

// tellEvery is how often progress is told.
const tellEvery = 200 * time.Millisecond

// teller tells how far something is, not too often, and from one goroutine at a time.
type teller struct {
	mu   sync.Mutex
	last time.Time
	tell func(*api.TierProgress)
}

func (w *teller) say(phase, unit string, done, total int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.last) >= tellEvery {
		w.last = now
		w.tell(&api.TierProgress{Phase: phase, Unit: unit, Done: done, Total: total})
	}
}

// note tells at once.
func (w *teller) note(phase, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell(&api.TierProgress{Phase: phase, Notes: []string{fmt.Sprintf(format, args...)}})
}

// partitionsOf are the ids of a topic's partitions.
func (t *tiering) partitionsOf(name string) map[record.PartitionID]bool {
	ids := make(map[record.PartitionID]bool)
	if topic := t.b.Topic(tierTenant, name); topic != nil {
		for _, p := range topic.Partitions() {
			ids[p.ID()] = true
		}
	}
	return ids
}

// verifyAtOnce is how many objects are read at a time: a read of all history must not starve readers.
const verifyAtOnce = 2

// verify reads objects whole.
func (t *tiering) verify(ctx context.Context, r *api.VerifyTierRequest, w *teller) (*api.TierResult, error) {
	of := t.partitionsOf(r.Topic)
	var ids []object.ID
	total := int64(0)
	for o := range t.manifest.All() {
		if r.Topic == "" || hasRunOf(o, of) {
			ids = append(ids, o.ID)
			total += o.Size
		}
	}
	v := verifying{t: t, w: w, total: total}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := make(chan object.ID)
	var wg sync.WaitGroup
	for range verifyAtOnce {
		wg.Go(func() {
			for id := range next {
				if err := v.one(ctx, id); err != nil {
					v.fail(err)
					cancel()
				}
			}
		})
	}
	for i := 0; i < len(ids) && ctx.Err() == nil; i++ {
		select {
		case next <- ids[i]:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	if v.err != nil {
		return nil, v.err
	}
	return &v.result, ctx.Err()
}

func hasRunOf(o *history.Object, of map[record.PartitionID]bool) bool {
	for i := range o.Runs {
		if of[o.Runs[i].Partition] {
			return true
		}
	}
	return false
}

// verifying is a verification under way.
type verifying struct {
	t     *tiering
	w     *teller
	total int64

	mu     sync.Mutex
	read   int64
	result api.TierResult
	err    error
}

func (v *verifying) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		v.err = err
	}
}

// one verifies one object. Its error says that the store cannot be asked, not that the object is wrong.
func (v *verifying) one(ctx context.Context, id object.ID) error {
	o, ok := v.t.manifest.Object(id)
	if !ok {
		return nil // removed since
	}
	last := int64(0)
	err := v.t.reader.Verify(ctx, o, func(bytes int64) {
		v.mu.Lock()
		v.read += bytes - last
		read := v.read
		v.mu.Unlock()
		last = bytes
		v.w.say("verify", "bytes", read, v.total)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	wrong := err != nil
	if wrong {
		if _, ok := v.t.manifest.Object(id); !ok {
			return nil
		}
		if !errors.Is(err, history.ErrLost) && !errors.Is(err, object.ErrCorrupt) {
			if _, store := tier.KindOf(err); store {
				return fmt.Errorf("verify %s: %w", id.Name(), err)
			}
		}
		v.w.note("verify", "%v", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.result.Objects++
	v.result.Bytes += o.Size
	if wrong {
		v.result.Wrong++
	}
	return nil
}

// prefetch reads a topic's history into the cache.
func (t *tiering) prefetch(ctx context.Context, r *api.PrefetchTierRequest, w *teller) (*api.TierResult, error) {
	out := &api.TierResult{}
	topic := t.b.Topic(tierTenant, r.Topic)
	if topic == nil {
		return nil, broker.ErrUnknownTopic
	}
	for _, p := range topic.Partitions() {
		start, end, ok := t.manifest.Bounds(p.ID())
		if !ok || r.Partition >= 0 && p.Index() != r.Partition {
			continue
		}
		from, to := max(start, record.Offset(r.From)), end
		if r.To > 0 {
			to = min(to, record.Offset(r.To))
		}
		read := int64(0)
		err := t.reader.Prefetch(ctx, p.ID(), from, to, func(done, total int64) {
			read = done
			w.say(fmt.Sprintf("prefetch partition %d", p.Index()), "bytes", done, total)
		})
		out.Bytes += read
		if errors.Is(err, history.ErrCacheFull) {
			w.note("prefetch", "partition %d: %v; tier.cache makes it larger", p.Index(), err)
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out.Partitions++
	}
	return out, nil
}

// offload makes a turn, or brings out all that is decided.
func (t *tiering) offload(ctx context.Context, all bool, w *teller) (*api.TierResult, error) {
	o, err := t.offloader()
	if err != nil {
		return nil, err
	}
	objects, bytes := t.stats.Objects.Load(), t.stats.Bytes.Load()
	done := make(chan error, 1)
	go func() {
		if all {
			done <- o.Flush(ctx)
			return
		}
		done <- t.turn(ctx)
	}()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return &api.TierResult{Objects: t.stats.Objects.Load() - objects, Bytes: t.stats.Bytes.Load() - bytes}, err
		case <-tick.C:
			s := o.Status()
			w.say(string(s.Phase), "bytes", t.stats.Bytes.Load()-bytes, max(t.stats.Bytes.Load()-bytes+s.WaitingBytes, 0))
		}
	}
}

// turn waits until one that is under way has ended, and makes another.
func (t *tiering) turn(ctx context.Context) error {
	out, err := t.offloader()
	if err != nil {
		return err
	}
	for {
		err := out.Turn(ctx)
		if !errors.Is(err, offload.ErrBusy) {
			return err
		}
		select {
		case <-time.After(tellEvery / 4):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// adopt takes over an epoch of a node that is gone, or names those that there are.
func (t *tiering) adopt(ctx context.Context, r *api.AdoptTierRequest, w *teller) (out *api.TierResult, err error) {
	out = &api.TierResult{}
	o, err := t.offloader()
	if err != nil {
		return nil, err
	}
	tell := func(g *offload.Foreign) {
		last := "none"
		if !g.Last.IsZero() {
			last = g.Last.UTC().Format(time.RFC3339)
		}
		w.note("adopt", "epoch %d: %d objects, %d bytes, the last of %s; no row of this node tells of %d, %d bytes", g.Epoch, g.Objects, g.Bytes, last, g.Unknown, g.UnknownBytes)
		out.Objects += int64(g.Unknown)
		out.Bytes += g.UnknownBytes
	}
	err = o.Alone(ctx, func(ctx context.Context, _ offload.Mint) error {
		if r.Epoch == 0 {
			list, err := o.Foreigns(ctx)
			for i := range list {
				tell(&list[i])
			}
			return err
		}
		g, err := o.Adopt(ctx, record.Epoch(r.Epoch), r.Force, r.ValidateOnly)
		if g.Epoch != 0 {
			tell(&g)
		}
		return err
	})
	if errors.Is(err, offload.ErrOwnEpoch) || errors.Is(err, offload.ErrNoEpoch) || errors.Is(err, offload.ErrLiveEpoch) {
		err = fmt.Errorf("%w: %w", control.ErrTierRefused, err)
	}
	return out, err
}
