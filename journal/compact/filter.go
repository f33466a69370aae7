package compact

import (
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

const (
	// openedMax bounds what a compressed batch may come to when compaction opens it. One that is larger stays as it is.
	openedMax = 256 << 20
	// scratchMax is how much of that memory is kept from one batch to the next.
	scratchMax = 4 << 20
)

// batchFilter makes of a batch what compaction leaves of it. It keeps its buffers.
type batchFilter struct {
	plain, built, packed []byte
}

// opened is the batch with its records open. ok false: it cannot be opened.
func (f *batchFilter) opened(b record.Batch) (_ record.Batch, ok bool) {
	if !b.Attributes().Compressed() {
		return b, true
	}
	if cap(f.plain) > scratchMax {
		f.plain = nil
	}
	out, err := compress.OpenBatch(f.plain[:0], b, openedMax)
	if err != nil {
		return nil, false
	}
	f.plain = out
	return out, true
}

// apply is what stays of a batch: itself, another one with fewer records, or nothing.
func (f *batchFilter) apply(p *Pass, b record.Batch, seen bool) record.Batch {
	opened, ok := f.opened(b)
	if !ok {
		return b
	}
	attrs := b.Attributes()
	horizon := attrs&record.DeleteHorizon != 0 && seen && p.o.KeepDeletes >= 0
	kept, deletes := int32(0), false
	for it := opened.Records(); it.Next(); {
		if rec := it.Record(); p.stays(rec, horizon, b.BaseTimestamp()) {
			kept++
			deletes = deletes || rec.Value == nil
		}
	}
	stamp := deletes && !horizon && p.o.KeepDeletes >= 0
	switch {
	case kept == 0:
		return nil
	case kept == b.Count() && !stamp:
		return b
	}
	base := b.BaseTimestamp()
	if stamp {
		attrs |= record.DeleteHorizon
		base = p.o.Now + p.o.KeepDeletes
	}
	return f.build(p, opened, attrs, base, horizon)
}

// stays tells whether a record outlives the pass.
func (p *Pass) stays(rec *record.Record, horizon bool, until int64) bool {
	if rec.Key == nil || p.keys.after(rec.Key, rec.Offset) {
		return false
	}
	return rec.Value != nil || !horizon || until > p.o.Now
}

// build writes the records of an opened batch that stay, under the same header but for what has to change.
func (f *batchFilter) build(p *Pass, b record.Batch, attrs record.Attributes, base int64, horizon bool) record.Batch {
	if cap(f.built) > scratchMax {
		f.built = nil
	}
	var bb record.BatchBuilder
	bb.Begin(f.built[:0], base)
	latest := int64(noTime)
	for it := b.Records(); it.Next(); {
		rec := it.Record()
		if !p.stays(rec, horizon, b.BaseTimestamp()) {
			continue
		}
		in := record.Input{OffsetDelta: int32(rec.Offset - b.BaseOffset()), Timestamp: rec.Timestamp, Key: rec.Key, Value: rec.Value,
			RawHeaders: rec.Headers.Raw(), RawCount: rec.Headers.Len()}
		bb.Append(&in)
		latest = max(latest, rec.Timestamp)
	}
	return f.finish(&bb, b, attrs, latest)
}

// stamp is a control batch with the time from which on it may go.
func (f *batchFilter) stamp(b, opened record.Batch, horizon int64) record.Batch {
	var bb record.BatchBuilder
	bb.Begin(f.built[:0], horizon)
	for it := opened.Records(); it.Next(); {
		rec := it.Record()
		bb.Append(&record.Input{OffsetDelta: int32(rec.Offset - b.BaseOffset()), Timestamp: rec.Timestamp, Key: rec.Key, Value: rec.Value,
			RawHeaders: rec.Headers.Raw(), RawCount: rec.Headers.Len()})
	}
	if bb.Count() == 0 {
		return b // an empty one, made elsewhere
	}
	return f.finish(&bb, b, b.Attributes()|record.DeleteHorizon, b.MaxTimestamp())
}

// finish gives the batch that is built the header of the one that it comes of, and its codec.
func (f *batchFilter) finish(bb *record.BatchBuilder, b record.Batch, attrs record.Attributes, latest int64) record.Batch {
	f.built = bb.Finish(&record.BatchOptions{
		BaseOffset: b.BaseOffset(), LeaderEpoch: b.LeaderEpoch(), Attributes: attrs &^ record.CompressionMask, LastDelta: b.LastOffsetDelta(),
		Producer: record.Producer{Known: true, ID: b.ProducerID(), Epoch: b.ProducerEpoch(), Sequence: b.BaseSequence()},
	})
	out := record.Batch(f.built)
	if out.MaxTimestamp() != latest {
		out.CorrectMaxTimestamp(latest)
	}
	codec := attrs.Codec()
	if codec == record.Uncompressed {
		return out
	}
	if cap(f.packed) > scratchMax {
		f.packed = nil
	}
	f.packed = compress.AppendBatch(f.packed[:0], compress.Settings{Codec: codec}, out)
	return f.packed
}
