package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sluicemq/sluice/journal/record"
)

// Extent tells of one batch, or of some neighbouring ones: their offsets, the latest timestamp in milliseconds (the least int64 if none has one:
// control batches), and their bytes.
type Extent struct {
	First, Last record.Offset
	MaxTime     int64
	Bytes       int64
}

// Pieces are neighbouring batches of one partition in segments that do not change any more, which it holds until Release. Extents and Open may
// be called concurrently.
type Pieces struct {
	l       *Log
	part    record.PartitionID
	extents []Extent
	places  []pieceAt // of the extents
	segs    []*segment
	once    sync.Once
}

// pieceAt is where an extent's frames lie.
type pieceAt struct {
	seg  *segment
	pos  int64
	span int
}

// Pieces lists what lies here of p from the batch that holds from on, in whole batches that end before until: the oldest first, up to maxBytes but
// at least one extent if there is any, and nothing that a crash could take, or that a restart would find in the log again. What may change yet
// ends the list, so that there is no gap but of compaction. It reads the headers of what it lists, so it may wait for the disk. Memory: some 60
// bytes an extent, which is a batch or what lies within 4 KiB of a segment. Errors: ErrIO, *CorruptError.
func (l *Log) Pieces(p record.PartitionID, from, until record.Offset, maxBytes int64) (*Pieces, error) {
	ps := &Pieces{l: l, part: p}
	w := &window{l: l}
	var err error
	for _, r := range ps.plan(from, until, maxBytes) {
		if err = ps.list(w, &r, from, until, maxBytes); err != nil {
			break
		}
	}
	if err = errors.Join(err, w.close()); err != nil {
		ps.Release()
		return nil, fmt.Errorf("list partition %d from %d: %w", p, from, err)
	}
	return ps, nil
}

// pieceRef is what one segment has, of what is to be listed.
type pieceRef struct {
	seg     *segment
	entries entries
}

// plan finds the index entries to look at, and takes hold of their segments.
func (ps *Pieces) plan(from, until record.Offset, maxBytes int64) (out []pieceRef) {
	l := ps.l
	l.mu.RLock()
	defer l.mu.RUnlock()
	frames := int64(0) // their batches are fewer bytes
	l.eachReadyLocked(ps.part, from, until, func(r *ref, lo, hi int) bool {
		r.seg.readers.Add(1)
		ps.segs = append(ps.segs, r.seg)
		for end := lo; end < hi; end++ {
			if frames >= maxBytes && len(out)+end-lo > 0 {
				hi = end
				break
			}
			e := r.entries.at(end)
			frames += int64(r.after(end) - e.before)
		}
		if hi > lo {
			out = append(out, pieceRef{seg: r.seg, entries: r.entries[lo*entrySize : hi*entrySize]})
		}
		return frames < maxBytes
	})
	return out
}

// eachReadyLocked calls fn with the pieces of a partition in segments that do not change any more, and the numbers of their entries that have
// offsets from from on and begin before until, in order, until it answers false.
func (l *Log) eachReadyLocked(id record.PartitionID, from, until record.Offset, fn func(r *ref, lo, hi int) bool) {
	p := l.mu.partitions[id]
	if p == nil || p.dropped {
		return
	}
	keep := l.keepFromLocked()
	from = max(from, p.floor())
	for _, r := range p.refs {
		if !r.compactable(keep) || r.first >= until {
			return
		}
		if r.last < from {
			continue
		}
		lo := r.entries.search(from)
		hi := r.entries.len()
		if r.last >= until {
			hi = r.entries.search(until)
			if hi < r.entries.len() && r.entries.at(hi).base < until {
				hi++ // some of its batches may end before
			}
		}
		if lo < hi && !fn(r, lo, hi) {
			return
		}
	}
}

// Ready is about how many bytes Pieces would list without a bound, by the index alone, and the number of the oldest of the log's segments that
// they lie in, 0 if some were moved out of the log already: of two partitions, what the one with the smaller number has leaves the log sooner.
func (l *Log) Ready(p record.PartitionID, from, until record.Offset) (bytes int64, oldest uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	l.eachReadyLocked(p, from, until, func(r *ref, lo, hi int) bool {
		if bytes == 0 && !r.seg.part {
			oldest = r.seg.number()
		}
		e := r.entries.at(lo)
		bytes += int64(r.after(hi-1) - e.before)
		return true
	})
	return bytes, oldest
}

// list adds the extents of some entries of a segment.
func (ps *Pieces) list(w *window, r *pieceRef, from, until record.Offset, maxBytes int64) error {
	sum := int64(0)
	for i := range ps.extents {
		sum += ps.extents[i].Bytes
	}
	n := r.entries.len()
	for i := 0; i < n; {
		first := r.entries.at(i)
		end, k := int64(first.pos)+int64(first.span), i+1
		for ; k < n; k++ {
			e := r.entries.at(k)
			if gap := int64(e.pos) - end; gap < 0 || gap > runGap || int64(e.pos)+int64(e.span)-int64(first.pos) > pieceRun {
				break
			}
			end = int64(e.pos) + int64(e.span)
		}
		b, err := w.read(r.seg, int64(first.pos), int(end-int64(first.pos)))
		if err != nil {
			return err
		}
		for ; i < k; i++ {
			e := r.entries.at(i)
			x, err := ps.extent(r.seg, &e, b[e.pos-first.pos:][:e.span], from, until)
			switch {
			case err != nil:
				return err
			case x.Bytes == 0: // of the last entry, all of it is too young; of the first, none is wanted
				continue
			case len(ps.extents) > 0 && sum+x.Bytes > maxBytes:
				return nil
			}
			sum += x.Bytes
			ps.extents = append(ps.extents, x)
			ps.places = append(ps.places, pieceAt{seg: r.seg, pos: int64(e.pos), span: int(e.span)})
		}
	}
	return nil
}

// extent reads the headers of the frames that an entry stands for.
func (ps *Pieces) extent(s *segment, e *entry, b []byte, from, until record.Offset) (x Extent, err error) {
	x.MaxTime = noTime
	for at := int64(e.pos); len(b) > 0; {
		fr, n, err := record.ViewFrame(b)
		if err != nil {
			return x, &CorruptError{Path: s.path, Offset: at, Reason: err.Error()}
		}
		b, at = b[n:], at+int64(n)
		batch := ps.batch(&fr)
		if batch == nil || batch.LastOffset() < from || batch.LastOffset() >= until {
			continue
		}
		if x.Bytes == 0 {
			x.First = batch.BaseOffset()
		}
		x.Last, x.Bytes, x.MaxTime = batch.LastOffset(), x.Bytes+int64(len(batch)), max(x.MaxTime, timeOf(batch))
	}
	return x, nil
}

// batch is a frame's batch if it is the partition's, or nil.
func (ps *Pieces) batch(fr *record.Frame) record.Batch {
	if fr.Kind != record.KindRecords || fr.Partition != ps.part {
		return nil
	}
	if batch := record.Batch(record.FrameBatch(fr.Payload)); len(batch) >= record.BatchHeaderSize {
		return batch
	}
	return nil
}

// Extents tell of the pieces, in the order of offsets. The list is not changed by either side.
func (ps *Pieces) Extents() []Extent { return ps.extents }

// Open gives the bytes of the extents from number from to before number to, exactly as many as those say: batches as they are stored, base offsets
// set. The checksum of each frame is verified on the way. One goroutine reads, and closes it before Release. Errors: ErrIO, *CorruptError, ErrClosed.
func (ps *Pieces) Open(from, to int) io.ReadCloser {
	return &pieceReader{ps: ps, next: from, read: from, to: to, w: window{l: ps.l}}
}

// Release lets go of the segments. What was opened must be closed by then.
func (ps *Pieces) Release() {
	ps.once.Do(func() {
		for _, s := range ps.segs {
			s.release(ps.l)
		}
		ps.segs = nil
	})
}

// pieceReader gives batches as they lie in a window: some extents, those from base on.
type pieceReader struct {
	ps     *Pieces
	w      window
	part   []byte // of the segment, from base on
	base   int64
	next   int    // the extent that is read
	read   int    // behind the last one in part
	to     int    // behind the last one
	frames []byte // of the extent, those that are left; at is where they lie
	at     int64
	given  int64        // bytes of the extent's batches
	within bool         // an extent is under way
	batch  record.Batch // what is left of one
	err    error
}

// Read gives the next bytes: as many as there are of what was read at once.
func (r *pieceReader) Read(b []byte) (n int, err error) {
	for n < len(b) {
		if len(r.batch) == 0 {
			if r.err == nil {
				r.err = r.advance()
			}
			if r.err != nil {
				break
			}
		}
		k := copy(b[n:], r.batch)
		n, r.batch = n+k, r.batch[k:]
	}
	if n > 0 || len(b) == 0 {
		return n, nil
	}
	return 0, r.err
}

// advance goes on to the next batch.
func (r *pieceReader) advance() error {
	for {
		for len(r.frames) > 0 {
			fr, n, err := record.DecodeFrame(r.frames)
			if err != nil {
				return &CorruptError{Path: r.ps.places[r.next].seg.path, Offset: r.at, Reason: err.Error()}
			}
			r.frames, r.at = r.frames[n:], r.at+int64(n)
			x := &r.ps.extents[r.next]
			if batch := r.ps.batch(&fr); batch != nil && batch.BaseOffset() >= x.First && batch.BaseOffset() <= x.Last {
				r.batch, r.given = batch, r.given+int64(len(batch))
				return nil
			}
		}
		if r.within {
			if p := &r.ps.places[r.next]; r.given != r.ps.extents[r.next].Bytes {
				return &CorruptError{Path: p.seg.path, Offset: p.pos, Reason: "the batches are not those that their headers were of"}
			}
			r.within = false
			r.next++
		}
		if r.next >= r.to {
			return io.EOF
		}
		if r.next >= r.read {
			if err := r.fill(); err != nil {
				return err
			}
		}
		p := &r.ps.places[r.next]
		r.frames, r.at, r.given, r.within = r.part[p.pos-r.base:][:p.span], p.pos, 0, true
	}
}

// fill reads the extents that lie close together from the next one on.
func (r *pieceReader) fill() (err error) {
	first := r.ps.places[r.next]
	end, k := first.pos+int64(first.span), r.next+1
	for ; k < r.to; k++ {
		p := r.ps.places[k]
		if gap := p.pos - end; p.seg != first.seg || gap < 0 || gap > runGap || p.pos+int64(p.span)-first.pos > pieceRun {
			break
		}
		end = p.pos + int64(p.span)
	}
	r.base, r.read = first.pos, k
	r.part, err = r.w.read(first.seg, first.pos, int(end-first.pos))
	return err
}

// Close lets go of memory and file.
func (r *pieceReader) Close() error {
	r.part, r.frames, r.batch, r.err = nil, nil, nil, ErrClosed
	return r.w.close()
}
