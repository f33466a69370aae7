package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/offload"
)

// past is what lies in a store of the log's older records. A nil past is that of a node without one. The log's copies and the store's overlap
// as they like: a reader takes what the log has at his place, else what the store has. That needs no lock between the two, since what leaves the
// log is in the manifest before, and stays there as long as its records do.
type past struct {
	m    *history.Manifest
	r    coldReader
	ctx  context.Context
	stop context.CancelFunc
	// floors are offsets below which the log is not read, as the store has what passes have left; nil: there are none.
	floors atomic.Pointer[map[record.PartitionID]record.Offset]
}

// lies tells whether an offset lies below its partition's floor.
func (h *past) lies(p record.PartitionID, from record.Offset) bool {
	m := h.floors.Load()
	return m != nil && from < (*m)[p]
}

// coldReader is history.Reader as it is needed here.
type coldReader interface {
	ReadBatches(ctx context.Context, p record.PartitionID, from, end record.Offset, maxBytes int, dst [][]byte) ([][]byte, alloc.Ref, error)
	SeekTime(ctx context.Context, p record.PartitionID, at int64) (from record.Offset, found bool, err error)
}

// newPast puts manifest and reader behind the log. The reader is closed by whoever has opened it, after the log.
func newPast(m *history.Manifest, r coldReader) *past {
	h := &past{m: m, r: r}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

// endReads ends reads that wait for the store.
func (h *past) endReads() {
	if h != nil {
		h.stop()
	}
}

// elsewhere tells the journal which records need not lie in it.
func (h *past) elsewhere() func(record.PartitionID) (start, end record.Offset, ok bool) {
	if h == nil {
		return nil
	}
	return h.m.Bounds
}

// recovered tells the manifest what the journal knows of starts: it keeps none itself.
func (h *past) recovered(l *journal.Log) {
	if h == nil {
		return
	}
	for _, p := range l.Partitions() {
		h.m.SetLogStart(p, l.LogStart(p))
	}
}

// bounds are those of what is tiered of p; ok false: nothing is.
func (h *past) bounds(p record.PartitionID) (start, end record.Offset, ok bool) {
	if h == nil {
		return 0, 0, false
	}
	return h.m.Bounds(p)
}

// before tells whether the store has records at or behind from that lie before what the log gave: f, with its error.
func (h *past) before(p record.PartitionID, from record.Offset, f *journal.Fetched, err error) bool {
	switch {
	case h == nil, err == nil && len(f.Batches) > 0 && f.First <= from:
		return false
	case errors.Is(err, journal.ErrOffsetOutOfRange):
		if from < f.LogStart {
			return false
		}
	case err != nil:
		return false
	}
	start, end, ok := h.m.Bounds(p)
	return ok && from < end && (len(f.Batches) == 0 || start < f.First)
}

// alone tells whether the store has an offset that the log has let go of: the log need not be read to find that it begins behind it.
func (h *past) alone(l *journal.Log, p record.PartitionID, from record.Offset) bool {
	return h != nil && (from < l.LocalStart(p) || h.lies(p, from)) && from >= l.LogStart(p) && h.m.Covers(p, from)
}

// read is ReadBatches from the store.
func (h *past) read(p record.PartitionID, from, end record.Offset, maxBytes int, dst [][]byte) ([][]byte, alloc.Ref, error) {
	if end <= 0 {
		end = math.MaxInt64
	}
	dst, ref, err := h.r.ReadBatches(h.ctx, p, from, end, maxBytes, dst)
	if err == nil {
		return dst, ref, nil
	}
	if from < h.m.LogStart(p) {
		return dst, nil, broker.ErrOffsetOutOfRange // it was removed meanwhile
	}
	return dst, nil, tierError(err)
}

// tierError names what may pass as the core knows it. What is lost, or is not what was written, does not pass.
func tierError(err error) error {
	kind, known := tier.KindOf(err)
	passes := known && kind != tier.NotFound || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, history.ErrClosed)
	if !passes || errors.Is(err, history.ErrLost) || errors.Is(err, object.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", broker.ErrTier, err)
}

// readBytes is how much of a partition one fetch brings.
const readBytes = 1 << 20

// Read walks a partition's batches.
func (s *logStorage) Read(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	for {
		next, more, err := s.readSome(p, from, fn)
		if errors.Is(err, broker.ErrOffsetOutOfRange) {
			start, _ := s.Bounds(p)
			if from >= start {
				return nil
			}
			from = start
			continue
		}
		if err != nil || !more || next == from {
			return err
		}
		from = next
	}
}

// readSome walks a part of them.
func (s *logStorage) readSome(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) (next record.Offset, more bool, err error) {
	var f journal.Fetched
	defer f.Release()
	alone := s.past.alone(s.log, p, from)
	if !alone {
		err = s.log.Fetch(p, from, readBytes, &f)
	}
	if alone || s.past.before(p, from, &f, err) {
		f.Release()
		batches, ref, err := s.past.read(p, from, 0, readBytes, nil)
		if err != nil {
			return from, false, err
		}
		if ref != nil {
			defer ref.Release()
		}
		if len(batches) == 0 && s.past.m.LogStart(p) > from {
			return from, false, broker.ErrOffsetOutOfRange // what was there is gone
		}
		return walk(batches, from, fn)
	}
	if errors.Is(err, journal.ErrOffsetOutOfRange) {
		return from, false, broker.ErrOffsetOutOfRange
	}
	if err != nil {
		return from, false, err
	}
	err = vfs.Guard(func() (err error) { // large batches are views of mapped files
		next, more, err = walk(f.Batches, from, fn)
		return err
	})
	return next, more, err
}

func walk(batches [][]byte, from record.Offset, fn func(record.Batch) bool) (next record.Offset, more bool, err error) {
	next = from
	for _, raw := range batches {
		for len(raw) > 0 {
			b, n, err := record.ParseBatch(raw)
			if err != nil {
				return next, false, err
			}
			if !fn(b) {
				return next, false, nil
			}
			next = b.NextOffset()
			raw = raw[n:]
		}
	}
	return next, true, nil
}

// held is a fetch whose memory readers hold. It goes back to the pool with the last of them.
type held struct {
	journal.Fetched
	refs atomic.Int32
}

var heldPool = sync.Pool{New: func() any { return new(held) }}

// Retain adds a holder.
func (h *held) Retain() { h.refs.Add(1) }

// Release takes one away.
func (h *held) Release() {
	if h.refs.Add(-1) == 0 {
		h.Fetched.Release()
		heldPool.Put(h)
	}
}

// ReadBatches finds whole batches, in memory, on the disk or in the store.
func (s *logStorage) ReadBatches(r broker.ReadRequest, dst [][]byte) (_ [][]byte, _ alloc.Ref, ok bool, err error) {
	if s.past.alone(s.log, r.Partition, r.From) {
		if r.Tail || r.Local {
			return dst, nil, false, nil
		}
		batches, ref, err := s.past.read(r.Partition, r.From, r.End, r.MaxBytes, dst)
		return batches, ref, err == nil, err
	}
	h := heldPool.Get().(*held)
	h.refs.Store(1)
	q := journal.FetchRequest{Partition: r.Partition, From: r.From, End: r.End, MaxBytes: r.MaxBytes, Trust: true, Copy: r.Copy}
	if r.Tail {
		ok, err = s.log.ReadTail(&q, &h.Fetched)
	} else {
		err = s.log.Read(&q, &h.Fetched)
		ok = err == nil
	}
	if (ok || err != nil) && s.past.before(r.Partition, r.From, &h.Fetched, err) {
		h.Release()
		if r.Tail || r.Local {
			return dst, nil, false, nil
		}
		batches, ref, err := s.past.read(r.Partition, r.From, r.End, r.MaxBytes, dst)
		return batches, ref, err == nil, err
	}
	if errors.Is(err, journal.ErrOffsetOutOfRange) {
		err = broker.ErrOffsetOutOfRange
	}
	if !ok || len(h.Batches) == 0 {
		h.Release()
		return dst, nil, ok, err
	}
	return append(dst, h.Batches...), h, true, nil
}

// Partitions are those of which log or store have something.
func (s *logStorage) Partitions() []record.PartitionID {
	ids := s.log.Partitions()
	if s.past != nil {
		ids = append(ids, s.past.m.Partitions()...)
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	return ids
}

// Bounds are where a partition begins and ends. A partition that was brought back from the store begins and ends where that says, until the log
// has something of it.
func (s *logStorage) Bounds(p record.PartitionID) (start, end record.Offset) {
	first, behind, ok := s.past.bounds(p)
	start, end = s.log.LogStart(p), s.log.LogEnd(p)
	if !ok {
		return start, end
	}
	return max(start, min(first, s.LocalStart(p))), max(end, behind)
}

// LocalStart is the first offset that lies in the log, or the end.
func (s *logStorage) LocalStart(p record.PartitionID) record.Offset {
	local := s.log.LocalStart(p)
	if _, behind, ok := s.past.bounds(p); ok && behind > local && local == s.log.LogEnd(p) {
		return behind
	}
	return local
}

// TieredEnd is behind the last offset in the store, 0 if there is none.
func (s *logStorage) TieredEnd(p record.PartitionID) record.Offset {
	_, end, _ := s.past.bounds(p)
	return end
}

// Seek asks the log's time index, and the store's for what the log has not. The log is asked first: what leaves it meanwhile is in the store by
// then. The other way round a record can be missed: the store is not asked, local copies are let go of, the log does not know them.
func (s *logStorage) Seek(p record.PartitionID, at int64, latest bool) (from record.Offset, time int64, found bool) {
	if latest {
		at, found = s.log.MaxTime(p)
		if _, tiered := s.below(p); tiered {
			if t, ok := s.past.m.MaxTime(p); ok && (!found || t > at) {
				at, found = t, true
			}
		}
		if !found {
			return 0, 0, false
		}
	}
	from, found = s.log.SeekTime(p, at)
	start, tiered := s.below(p)
	if !tiered {
		return from, at, found
	}
	old, ok, err := s.past.r.SeekTime(s.past.ctx, p, at)
	if err != nil {
		return start, at, true // a reader who begins there meets the same error, and tells it
	}
	if ok && (!found || old < from || old < s.LocalStart(p)) {
		return old, at, true
	}
	return from, at, found
}

// below is the first offset in the store; tiered says that it lies below all that the log has.
func (s *logStorage) below(p record.PartitionID) (start record.Offset, tiered bool) {
	start, _, tiered = s.past.bounds(p)
	return start, tiered && start < s.LocalStart(p)
}

// Size is what the log and segments hold of a partition, and the store beside them.
func (s *logStorage) Size(p record.PartitionID) int64 {
	if s.past == nil {
		return s.log.Size(p)
	}
	return s.log.Size(p) + s.past.m.SizeBelow(p, s.LocalStart(p))
}

// LocalSize is what the log and segments hold of a partition.
func (s *logStorage) LocalSize(p record.PartitionID) int64 { return s.log.Size(p) }

// Excess passes on what retention takes: of the store first, and of the log once the store has nothing that stays.
func (s *logStorage) Excess(p record.PartitionID, before, bytes int64) record.Offset {
	start, _, ok := s.past.bounds(p)
	if local := s.LocalStart(p); ok && start < local {
		// What the log may count twice with the store stays, rather than that something goes too soon.
		o := s.past.m.ExcessBelow(p, local, before, max(bytes-s.log.SizeAtLeast(p), 0))
		// The log may have nothing of it, nor know that there is such a partition: a rebuild has brought it back.
		if o < local {
			return o
		}
		return max(o, s.log.Excess(p, before, bytes))
	}
	return s.log.Excess(p, before, bytes)
}

// SetLogStart passes on what nobody needs.
func (s *logStorage) SetLogStart(p record.PartitionID, o record.Offset) {
	s.log.SetLogStart(p, o)
	if s.past != nil {
		s.past.m.SetLogStart(p, o)
	}
}

// DropPartition passes on that a partition is gone.
func (s *logStorage) DropPartition(p record.PartitionID) {
	s.log.DropPartition(p)
	if s.past != nil {
		s.past.m.DropPartition(p)
	}
}

// offloadLog is the log as offloading sees it.
type offloadLog struct{ s *logStorage }

var _ offload.Log = offloadLog{}

// Pieces lists what does not change any more.
func (o offloadLog) Pieces(p record.PartitionID, from, until record.Offset, maxBytes int64) (offload.Pieces, error) {
	ps, err := o.s.log.Pieces(p, from, until, maxBytes)
	if err != nil {
		return nil, err
	}
	out := pieces{ps: ps, extents: make([]object.Extent, len(ps.Extents()))}
	for i, x := range ps.Extents() {
		out.extents[i] = object.Extent(x)
	}
	return out, nil
}

// Ready tells how much that is, by the index.
func (o offloadLog) Ready(p record.PartitionID, from, until record.Offset) (bytes int64, oldest uint64) {
	return o.s.log.Ready(p, from, until)
}

// LocalStart is the first offset that lies in the log, or the end.
func (o offloadLog) LocalStart(p record.PartitionID) record.Offset { return o.s.LocalStart(p) }

// SetLocalStart lets go of copies.
func (o offloadLog) SetLocalStart(p record.PartitionID, at record.Offset) {
	o.s.log.SetLocalStart(p, at)
}

// Excess is what local retention takes.
func (o offloadLog) Excess(p record.PartitionID, before, bytes int64) record.Offset {
	return o.s.log.Excess(p, before, bytes)
}

// Sync waits for the disk, in async mode.
func (o offloadLog) Sync() error { return o.s.log.Sync() }

// Rotate has what was written come into segments that do not change any more.
func (o offloadLog) Rotate() { o.s.Rotate() }

// pressedShare is the part of journal.max_bytes that is left when offloading begins to hurry.
const pressedShare = 8

// pressed tells that the log has hardly room left.
func (o offloadLog) pressed() bool {
	most := o.s.o.maxBytes
	return most > 0 && o.s.log.Used() > most-max(most/pressedShare, 2*o.s.o.segmentBytes)
}

type pieces struct {
	ps      *journal.Pieces
	extents []object.Extent
}

// Extents tell of them.
func (p pieces) Extents() []object.Extent { return p.extents }

// Open gives their bytes.
func (p pieces) Open(from, to int) io.ReadCloser { return p.ps.Open(from, to) }

// Release lets go of the segments.
func (p pieces) Release() { p.ps.Release() }
