package journal

import (
	"fmt"
	"sort"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

const (
	// readPoolSize bounds how many fetches wait for the disk at once: each holds a thread.
	readPoolSize = 16
	// spansMax bounds how many places one fetch looks at.
	spansMax = 256
)

// Fetched is what a Fetch found. Batches and Extras alias memory of the log: they are views, valid until Release. Its zero value is
// ready; reuse it to allocate nothing.
type Fetched struct {
	// Batches are whole stored batches, in order of their offsets. The first may begin below the offset asked for.
	Batches [][]byte
	// Extras are the core's blocks of the batches' frames, one for each batch.
	Extras [][]byte
	// LogStart and LogEnd are the partition's, at the time of the fetch.
	LogStart, LogEnd record.Offset

	l      *Log
	spans  []span
	groups []*Group
	segs   []*segment
	blocks []*alloc.Block
}

// span is a place where frames of the partition lie, with what holds its bytes: a group, or a segment.
type span struct {
	pos   int64
	n     int
	group *Group
	seg   *segment
}

// Release lets go of what was fetched and makes f ready to be used again.
func (f *Fetched) Release() {
	for _, g := range f.groups {
		g.Release()
	}
	for _, s := range f.segs {
		s.release(f.l)
	}
	for _, b := range f.blocks {
		b.Release()
	}
	clear(f.Batches)
	clear(f.Extras)
	clear(f.spans)
	clear(f.groups)
	clear(f.segs)
	clear(f.blocks)
	f.Batches, f.Extras, f.spans = f.Batches[:0], f.Extras[:0], f.spans[:0]
	f.groups, f.segs, f.blocks = f.groups[:0], f.segs[:0], f.blocks[:0]
}

// Fetch finds whole stored batches of p from the one that holds offset from (or the next after a gap) on, up to maxBytes but at least
// one if there is any. Nothing at the log end is no error. What the tail does not hold may wait for the disk: then never call it on
// a loop. ErrOffsetOutOfRange: from lies outside of log start and end. f is released first.
func (l *Log) Fetch(p record.PartitionID, from record.Offset, maxBytes int, f *Fetched) error {
	f.Release()
	f.l = l
	if err := l.plan(p, from, maxBytes, f); err != nil {
		return err
	}
	got := 0
	for i := 0; i < len(f.spans); i++ {
		sp := &f.spans[i]
		var err error
		more := true
		if sp.group != nil {
			l.stats.TailReads.Add(1)
			b := sp.group.frames[sp.pos-sp.group.at.Offset-groupHeaderSize:][:sp.n]
			more, err = f.collect(b, p, from, maxBytes, &got, sp, false)
		} else {
			more, err = l.fetchCold(f, sp, p, from, maxBytes, &got)
		}
		if err != nil {
			f.Release()
			return err
		}
		if !more {
			break
		}
	}
	return nil
}

// FetchTail is Fetch for what the tail holds in memory: it never blocks. ok false: a part of it does not lie there, Fetch gets it.
func (l *Log) FetchTail(p record.PartitionID, from record.Offset, maxBytes int, f *Fetched) (ok bool, err error) {
	f.Release()
	f.l = l
	if err := l.plan(p, from, maxBytes, f); err != nil {
		return false, err
	}
	got := 0
	for i := range f.spans {
		sp := &f.spans[i]
		if sp.group == nil {
			if len(f.Batches) > 0 {
				return true, nil // what comes behind is for the next time
			}
			f.Release()
			return false, nil
		}
		l.stats.TailReads.Add(1)
		more, err := f.collect(sp.group.frames[sp.pos-sp.group.at.Offset-groupHeaderSize:][:sp.n], p, from, maxBytes, &got, sp, false)
		if err != nil {
			f.Release()
			return false, err
		}
		if !more {
			break
		}
	}
	return true, nil
}

// plan finds the places to look at and takes hold of what keeps their bytes.
func (l *Log) plan(id record.PartitionID, from record.Offset, maxBytes int, f *Fetched) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p := l.mu.partitions[id]
	if p == nil {
		f.LogStart, f.LogEnd = 0, 0
		if from == 0 {
			return nil
		}
		return fmt.Errorf("%w: partition %d has no records, asked for %d", ErrOffsetOutOfRange, id, from)
	}
	f.LogStart, f.LogEnd = p.start, p.end
	if from < p.start || from > p.end {
		return fmt.Errorf("%w: partition %d has %d to %d, asked for %d", ErrOffsetOutOfRange, id, p.start, p.end, from)
	}
	left := maxBytes
	i := sort.Search(len(p.refs), func(i int) bool { return p.refs[i].last >= from })
	for ; i < len(p.refs); i++ {
		r := p.refs[i]
		for k := r.entries.search(from); k < r.entries.len(); k++ {
			if len(f.spans) > 0 && left <= 0 || len(f.spans) == spansMax {
				return nil
			}
			e := r.entries.at(k)
			f.hold(l, r.seg, &e)
			left -= int(e.span)
		}
	}
	return nil
}

// hold adds a span and takes a reference of the group or the segment that has its bytes.
func (f *Fetched) hold(l *Log, s *segment, e *entry) {
	sp := span{pos: int64(e.pos), n: int(e.span), seg: s}
	if n := len(f.groups); n > 0 && !s.part {
		if g := f.groups[n-1]; g.at.Segment == s.number() && g.at.Offset <= sp.pos && sp.pos < g.at.Offset+g.size {
			sp.group = g
		}
	}
	if sp.group == nil && !s.part {
		if g := l.tail.find(Position{Segment: s.number(), Offset: sp.pos}); g != nil {
			f.groups = append(f.groups, g)
			sp.group = g
		}
	}
	if sp.group == nil && (len(f.segs) == 0 || f.segs[len(f.segs)-1] != s) {
		s.readers.Add(1)
		f.segs = append(f.segs, s)
	}
	f.spans = append(f.spans, sp)
}

// fetchCold reads a span from a map, or from the file while its segment is not mapped. Frames are verified: they come from a disk.
func (l *Log) fetchCold(f *Fetched, sp *span, p record.PartitionID, from record.Offset, maxBytes int, got *int) (more bool, err error) {
	l.reads <- struct{}{}
	defer func() { <-l.reads }()
	if m := sp.seg.mapped.Load(); m != nil {
		l.stats.MapReads.Add(1)
		// One system call brings the pages in, so that no fault holds a processor, and a failed disk is an error.
		if err := m.Populate(sp.pos, int64(sp.n)); err != nil {
			return false, fmt.Errorf("%w: %s at %d: %w", ErrIO, sp.seg.path, sp.pos, err)
		}
		gerr := vfs.Guard(func() error {
			more, err = f.collect(m.Bytes()[sp.pos:][:sp.n], p, from, maxBytes, got, sp, true)
			return nil
		})
		if gerr != nil {
			return false, fmt.Errorf("%w: %s at %d: %w", ErrIO, sp.seg.path, sp.pos, gerr)
		}
		return more, err
	}
	l.stats.DiskReads.Add(1)
	b := alloc.NewBlock(sp.n)
	f.blocks = append(f.blocks, b)
	if _, err := sp.seg.reader.ReadAt(b.Bytes(), sp.pos); err != nil {
		return false, fmt.Errorf("%w: %s at %d: %w", ErrIO, sp.seg.path, sp.pos, err)
	}
	return f.collect(b.Bytes(), p, from, maxBytes, got, sp, true)
}

// collect takes the partition's batches out of a span's bytes.
func (f *Fetched) collect(b []byte, p record.PartitionID, from record.Offset, maxBytes int, got *int, sp *span, verify bool) (more bool, err error) {
	at := sp.pos
	for len(b) > 0 {
		fr, n, err := record.ViewFrame(b)
		if err == nil && verify && fr.Partition == p {
			_, _, err = record.DecodeFrame(b)
		}
		if err != nil {
			return false, &CorruptError{Path: sp.seg.path, Offset: at, Reason: err.Error()}
		}
		b, at = b[n:], at+int64(n)
		if fr.Kind != record.KindRecords || fr.Partition != p {
			continue
		}
		batch := record.FrameBatch(fr.Payload)
		if len(batch) < record.BatchHeaderSize || record.Batch(batch).LastOffset() < from {
			continue
		}
		if len(f.Batches) > 0 && *got+len(batch) > maxBytes {
			return false, nil
		}
		*got += len(batch)
		f.Batches = append(f.Batches, batch)
		f.Extras = append(f.Extras, record.FrameExtra(fr.Payload))
	}
	return *got < maxBytes, nil
}
