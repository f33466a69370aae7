package journal

import (
	"fmt"
	"math"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/compact"
	"github.com/sluicemq/sluice/journal/record"
)

// CompactRequest asks for one pass of compaction over a partition: of each key the latest record stays, offsets stay as they are.
type CompactRequest struct {
	Partition record.PartitionID
	// End is behind the last record whose transaction is decided: nothing behind it is looked at.
	End record.Offset
	// Young is a time, in milliseconds of Unix time: compaction stops at the first batch with a record of that time or a later one.
	Young int64
	// Now and KeepDeletes say how long a record without a value, and a marker without a transaction, stays after it was first met: from Now on
	// for KeepDeletes milliseconds; below 0: for good.
	Now, KeepDeletes int64
	// Aborted are the transactions whose records go, by their ends.
	Aborted []AbortedRange
	// KeyBytes bounds the memory for keys; a pass goes as far as they fit. 0: 16 MiB.
	KeyBytes int
}

// AbortedRange is an aborted transaction of a partition.
type AbortedRange = compact.Aborted

// Compacted is what a pass did.
type Compacted struct {
	Until         record.Offset // everything below it is compacted
	Read, Written int64         // bytes of frames
	// Ended are the ends of aborted transactions of which nothing is left, their markers included.
	Ended []record.Offset
}

// Dirt is what compaction has to do in a partition.
type Dirt struct {
	Clean, Dirty int64 // bytes of frames that it has written, and that it has not and could look at
	Waiting      int64 // and of those that it cannot: they lie where a restart would begin, or in the segment that is written to
	Since        int64 // the time of the first that it has not written, Dirty or Waiting, in milliseconds; MaxInt64: there is none
}

// Dirt tells what compaction of p would find. It reads the index alone.
func (l *Log) Dirt(p record.PartitionID) Dirt {
	l.mu.RLock()
	defer l.mu.RUnlock()
	d := Dirt{Since: math.MaxInt64}
	part := l.mu.partitions[p]
	if part == nil {
		return d
	}
	from := l.keepFromLocked()
	reached := true
	for _, r := range part.refs {
		reached = reached && r.compactable(from)
		switch {
		case r.compacted:
			d.Clean += r.bytes - r.dead
			continue
		case reached:
			d.Dirty += r.bytes - r.dead
		default:
			d.Waiting += r.bytes - r.dead
		}
		if k := r.entries.search(part.floor()); d.Since == math.MaxInt64 && k < r.entries.len() {
			if e := r.entries.at(k); e.time != noTime {
				d.Since = e.time
			}
		}
	}
	return d
}

// compactable tells whether r lies where rewriting may look: behind it a restart would find its frames again.
func (r *ref) compactable(from Position) bool {
	return r.seg.part || r.seg.sealed && r.seg.indexed && r.seg.number() < from.Segment
}

// Compact makes one pass over a partition, in the caller's goroutine, within the bandwidth that rewriting may take. What is written is
// durable before the index points to it.
func (l *Log) Compact(r CompactRequest) (Compacted, error) {
	c := &l.clean
	c.one.Lock()
	defer c.one.Unlock()
	if l.closing.Load() {
		return Compacted{}, ErrClosed
	}
	p := compaction{c: c, l: l, r: r}
	release := p.plan()
	defer release()
	if p.dirty >= len(p.refs) {
		return p.out, nil
	}
	if err := p.readKeys(); err != nil {
		return p.out, err
	}
	if p.out.Until <= p.refs[p.dirty].first {
		return p.out, nil
	}
	err := p.write()
	p.out.Ended = p.pass.Ended()
	return p.out, err
}

// compaction is one pass.
type compaction struct {
	c     *cleaner
	l     *Log
	r     CompactRequest
	refs  []*ref
	live  []entries // of refs, as they were when the pass began
	dirty int       // the first ref that no pass has written
	pass  *compact.Pass
	out   Compacted

	payload, frame []byte
}

// plan takes hold of the pieces that the pass may look at.
func (p *compaction) plan() (release func()) {
	l := p.l
	l.mu.RLock()
	defer l.mu.RUnlock()
	release = func() {
		for _, r := range p.refs {
			r.seg.release(l)
		}
	}
	part := l.mu.partitions[p.r.Partition]
	if part == nil || part.dropped {
		return release
	}
	p.out.Until = part.floor()
	from := l.keepFromLocked()
	clean := true
	for _, r := range part.refs {
		if !r.compactable(from) || r.first >= p.r.End {
			break
		}
		if clean = clean && r.compacted; clean {
			p.dirty++
		}
		r.seg.readers.Add(1)
		p.refs = append(p.refs, r)
		p.live = append(p.live, r.entries[min(r.entries.search(part.floor()), r.entries.len())*entrySize:])
	}
	return release
}

// batches calls fn with each batch of a ref, and its frame, until it answers false.
func (p *compaction) batches(i int, fn func(fr *record.Frame, frame []byte, b record.Batch) (bool, error)) (more bool, err error) {
	s, es := p.refs[i].seg, p.live[i]
	more = true
	for k := 0; k < es.len() && more && err == nil; k++ {
		if p.l.closing.Load() {
			return false, ErrClosed
		}
		e := es.at(k)
		err = p.l.readSpan(s, int64(e.pos), int(e.span), func(b []byte) error {
			for len(b) > 0 && more {
				fr, n, err := record.DecodeFrame(b)
				if err != nil {
					return &CorruptError{Path: s.path, Offset: int64(e.pos), Reason: err.Error()}
				}
				batch := record.Batch(record.FrameBatch(fr.Payload))
				if fr.Kind == record.KindRecords && fr.Partition == p.r.Partition && len(batch) >= record.BatchHeaderSize {
					if more, err = fn(&fr, b[:n], batch); err != nil {
						return err
					}
				}
				b = b[n:]
			}
			return nil
		})
	}
	return more, err
}

// readKeys notes the last offset of each key of what no pass has written, as far as it may go, and how far that is.
func (p *compaction) readKeys() error {
	p.pass = compact.NewPass(&compact.Options{Base: p.refs[p.dirty].first, KeyBytes: p.r.KeyBytes, Now: p.r.Now, KeepDeletes: p.r.KeepDeletes, Aborted: p.r.Aborted})
	p.out.Until = p.refs[p.dirty].first
	for i := p.dirty; i < len(p.refs); i++ {
		more, err := p.batches(i, func(_ *record.Frame, _ []byte, b record.Batch) (bool, error) {
			if b.NextOffset() > p.r.End || b.MaxTimestamp() >= p.r.Young && b.Attributes()&record.Control == 0 {
				return false, nil
			}
			if !p.pass.Note(b) {
				return false, nil
			}
			p.out.Until = b.NextOffset()
			return true, nil
		})
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
		p.out.Until = p.refs[i].last + 1
	}
	return nil
}

// write copies what stays into partition segments, as many as it takes, in the order of the offsets: a later one may rely on what an earlier
// one has left out.
func (p *compaction) write() error {
	for from := 0; from < len(p.refs) && p.refs[from].first < p.out.Until; {
		to, size := from, int64(0)
		for to < len(p.refs) && p.refs[to].first < p.out.Until && (to == from || size+p.refs[to].bytes <= p.l.partBytesMax()) {
			size += p.refs[to].bytes
			to++
		}
		moves := []move{{from: p.refs[from:to]}}
		err := p.c.replace(moves, func(f vfs.File, s *segment) error { return p.writePieces(f, s, &moves[0], from, to) })
		if err != nil {
			return fmt.Errorf("compact partition %d: %w", p.r.Partition, err)
		}
		from = to
	}
	return nil
}

// writePieces writes what comes of some refs: a compacted piece and, if the pass ends within the last of them, one that is not.
func (p *compaction) writePieces(f vfs.File, s *segment, m *move, from, to int) error {
	w := partWriter{c: p.c, f: f, at: partHeaderSize}
	p.c.buf = p.c.buf[:0]
	first, last := p.refs[from], p.refs[to-1]
	clean := &ref{seg: s, part: first.part, tenant: first.tenant, first: first.first, last: min(last.last, p.out.Until-1), time: noTime, compacted: true}
	rest := &ref{seg: s, part: first.part, tenant: first.tenant, first: p.out.Until, last: last.last, time: noTime}
	for i := from; i < to; i++ {
		_, err := p.batches(i, func(fr *record.Frame, frame []byte, b record.Batch) (bool, error) {
			p.out.Read += int64(len(frame))
			if b.BaseOffset() >= p.out.Until {
				p.endPiece(&w, clean, fr)
				w.add(rest, frame, b)
			} else {
				p.copyBatch(&w, clean, fr, frame, b)
			}
			return true, w.flushFull()
		})
		if err != nil {
			return err
		}
	}
	if rest.bytes == 0 {
		clean.last = last.last
	}
	p.endPiece(&w, clean, nil)
	m.to = append(m.to, clean)
	if rest.bytes > 0 {
		m.to = append(m.to, rest)
	}
	return w.finish(s, m.to)
}

// endPiece sees to it that a piece has something to stand for it: a batch without records, if nothing is left.
func (p *compaction) endPiece(w *partWriter, to *ref, like *record.Frame) {
	if to.bytes > 0 {
		return
	}
	f := record.Frame{Kind: record.KindRecords, Partition: p.r.Partition, Tenant: to.tenant}
	if like != nil {
		f.Shard, f.Epoch, f.Index = like.Shard, like.Epoch, like.Index
	}
	base := max(to.first, to.last-math.MaxInt32)
	f.Payload = record.AppendEmpty(record.BeginRecordsPayload(nil, nil), &record.BatchOptions{BaseOffset: base, LastDelta: int32(to.last - base)}, 0)
	frame := record.AppendFrame(nil, &f)
	w.add(to, frame, record.Batch(record.FrameBatch(f.Payload)))
}

// copyBatch writes what is to stay of a batch.
func (p *compaction) copyBatch(w *partWriter, to *ref, fr *record.Frame, frame []byte, b record.Batch) {
	out := p.pass.Keep(b, true)
	switch {
	case out == nil:
		return
	case &out[0] != &b[0]:
		f := *fr
		f.Payload = append(record.BeginRecordsPayload(p.payload[:0], record.FrameExtra(fr.Payload)), out...)
		p.payload = f.Payload
		p.frame = record.AppendFrame(p.frame[:0], &f)
		frame = p.frame
	}
	p.out.Written += int64(len(frame))
	w.add(to, frame, out)
}
