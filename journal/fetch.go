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
	// First is the base offset of the first batch, if there is one.
	First record.Offset
	// LogStart and LogEnd are the partition's, at the time of the fetch.
	LogStart, LogEnd record.Offset

	l      *Log
	req    FetchRequest
	got    int
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

// FetchRequest asks for whole stored batches of a partition.
type FetchRequest struct {
	Partition record.PartitionID
	// From is the first offset wanted: the first batch may begin below it, or behind it where there is a gap. No batch that begins at or
	// behind End is given; 0 is the log end.
	From, End record.Offset
	MaxBytes  int // at least one batch is given, whatever its size
	// Trust leaves the frames' checksums alone: for readers who hand the batches to clients, which check the batches' own.
	Trust bool
	// Copy asks for bytes that may be looked at without Guard. Without it, batches of ownBytes and more may be views of a mapped file.
	Copy bool
}

// ownBytes is the size below which a batch is never a view of a mapped file: who sends it copies it, which is to wait for no disk.
const ownBytes = 4 << 10

// Release lets go of what was fetched and makes f ready to be used again.
func (f *Fetched) Release() {
	f.letGo()
	clear(f.Batches)
	clear(f.Extras)
	f.Batches, f.Extras = f.Batches[:0], f.Extras[:0]
}

func (f *Fetched) letGo() {
	for _, g := range f.groups {
		g.Release()
	}
	for _, s := range f.segs {
		s.release(f.l)
	}
	for _, b := range f.blocks {
		b.Release()
	}
	clear(f.spans)
	clear(f.groups)
	clear(f.segs)
	clear(f.blocks)
	f.spans = f.spans[:0]
	f.groups, f.segs, f.blocks = f.groups[:0], f.segs[:0], f.blocks[:0]
}

// Fetch finds whole stored batches of p from the one that holds offset from (or the next after a gap) on, up to maxBytes but at least
// one if there is any. Nothing at the log end is no error. What the tail does not hold may wait for the disk: then never call it on
// a loop. ErrOffsetOutOfRange: from lies outside of log start and end. f is released first. The batches may lie in mapped files.
func (l *Log) Fetch(p record.PartitionID, from record.Offset, maxBytes int, f *Fetched) error {
	return l.Read(&FetchRequest{Partition: p, From: from, MaxBytes: maxBytes}, f)
}

// Read is Fetch with all its options.
func (l *Log) Read(r *FetchRequest, f *Fetched) error {
	f.begin(l, r)
	if err := l.plan(f); err != nil {
		return err
	}
	mapped, more := false, true
	for i := 0; i < len(f.spans) && more; {
		sp := &f.spans[i]
		var err error
		if sp.group != nil {
			l.stats.TailReads.Add(1)
			more, err = f.collect(sp.frames(), sp, false)
			i++
		} else {
			n := f.run(i)
			more, err = l.readCold(f, i, n, &mapped)
			i += n
		}
		if err != nil {
			f.Release()
			return err
		}
	}
	if err := f.own(mapped); err != nil {
		f.Release()
		return err
	}
	return nil
}

// ReadTail is Read for what is in memory, the tail or what the system keeps of mapped files: it does not wait for the disk. ok false: the
// first of it does not lie there, Read gets it.
func (l *Log) ReadTail(r *FetchRequest, f *Fetched) (ok bool, err error) {
	f.begin(l, r)
	if err := l.plan(f); err != nil {
		return false, err
	}
	mapped := false
	for i, more := 0, true; i < len(f.spans) && more && err == nil; {
		sp := &f.spans[i]
		if sp.group != nil {
			l.stats.TailReads.Add(1)
			more, err = f.collect(sp.frames(), sp, false)
			i++
			continue
		}
		n := f.run(i)
		m, pos, size := f.place(i, n)
		if m == nil || !m.Resident(pos, size) {
			if len(f.Batches) > 0 {
				break // what comes behind is for the next time
			}
			f.Release()
			return false, nil
		}
		more, err = l.readMapped(f, m, f.spans[i:i+n])
		mapped = true
		i += n
	}
	if err == nil {
		err = f.own(mapped)
	}
	if err != nil {
		f.Release()
		return false, err
	}
	if len(f.groups) > 0 && l.tail.crowded() {
		f.copyOut(func([]byte) bool { return true })
	}
	return true, nil
}

func (f *Fetched) begin(l *Log, r *FetchRequest) {
	f.Release()
	f.l, f.req, f.got = l, *r, 0
}

// plan finds the places to look at and takes hold of what keeps their bytes.
func (l *Log) plan(f *Fetched) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	from := f.req.From
	p := l.mu.partitions[f.req.Partition]
	if p == nil {
		f.LogStart, f.LogEnd = 0, 0
		if from == 0 {
			return nil
		}
		return fmt.Errorf("%w: partition %d has no records, asked for %d", ErrOffsetOutOfRange, f.req.Partition, from)
	}
	f.LogStart, f.LogEnd = p.start, p.end
	if from < p.start || from > p.end {
		return fmt.Errorf("%w: partition %d has %d to %d, asked for %d", ErrOffsetOutOfRange, p.id, p.start, p.end, from)
	}
	if f.req.End <= 0 || f.req.End > p.end {
		f.req.End = p.end
	}
	left := f.req.MaxBytes
	i := sort.Search(len(p.refs), func(i int) bool { return p.refs[i].last >= from })
	for ; i < len(p.refs); i++ {
		r := p.refs[i]
		for k := r.entries.search(from); k < r.entries.len(); k++ {
			e := r.entries.at(k)
			if len(f.spans) > 0 && left <= 0 || len(f.spans) == spansMax || e.base >= f.req.End {
				return nil
			}
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

// frames are the bytes of a span that lies in a group.
func (sp *span) frames() []byte {
	return sp.group.frames[sp.pos-sp.group.at.Offset-groupHeaderSize:][:sp.n]
}

// What lies no farther apart than runGap is read at once, up to runMax bytes.
const (
	runGap = 16 << 10
	runMax = 4 << 20
)

// run is how many spans from the i-th on are read at once.
func (f *Fetched) run(i int) (n int) {
	first := &f.spans[i]
	end := first.pos + int64(first.n)
	for n = 1; i+n < len(f.spans); n++ {
		sp := &f.spans[i+n]
		if sp.group != nil || sp.seg != first.seg || sp.pos < end || sp.pos-end > runGap || sp.pos+int64(sp.n)-first.pos > runMax {
			break
		}
		end = sp.pos + int64(sp.n)
	}
	return n
}

// place is where n spans from the i-th on lie in their segment, and its map, nil if there is none.
func (f *Fetched) place(i, n int) (m *mp, pos, size int64) {
	first, last := &f.spans[i], &f.spans[i+n-1]
	return first.seg.mapped.Load(), first.pos, last.pos + int64(last.n) - first.pos
}

// readCold reads neighbouring spans from a map, or from the file if their segment is not mapped.
func (l *Log) readCold(f *Fetched, i, n int, mapped *bool) (more bool, err error) {
	l.reads <- struct{}{}
	defer func() { <-l.reads }()
	m, pos, size := f.place(i, n)
	if m != nil {
		*mapped = true
		return l.readMapped(f, m, f.spans[i:i+n])
	}
	l.stats.DiskReads.Add(1)
	b := alloc.NewBlock(int(size))
	f.blocks = append(f.blocks, b)
	s := f.spans[i].seg
	if _, err := s.reader.ReadAt(b.Bytes(), pos); err != nil {
		return false, fmt.Errorf("%w: %s at %d: %w", ErrIO, s.path, pos, err)
	}
	return f.collectAll(b.Bytes(), f.spans[i:i+n])
}

// readMapped reads neighbouring spans from their segment's map. It waits for the disk if they are not resident.
func (l *Log) readMapped(f *Fetched, m *mp, spans []span) (more bool, err error) {
	l.stats.MapReads.Add(1)
	first, last := &spans[0], &spans[len(spans)-1]
	n := last.pos + int64(last.n) - first.pos
	l.touch(first.seg, n)
	// One system call brings the pages in, so that no fault holds a processor, and a failed disk is an error.
	if err := m.Populate(first.pos, n); err != nil {
		return false, fmt.Errorf("%w: %s at %d: %w", ErrIO, first.seg.path, first.pos, err)
	}
	gerr := vfs.Guard(func() error {
		more, err = f.collectAll(m.Bytes()[first.pos:][:n], spans)
		return nil
	})
	if gerr != nil {
		return false, fmt.Errorf("%w: %s at %d: %w", ErrIO, first.seg.path, first.pos, gerr)
	}
	return more, err
}

const (
	// touchedMax is how much of its files' memory the log lets itself be charged with: what has been sent is the system's to keep.
	touchedMax = 32 << 20
	// touchStep is in what pieces the system gives a process pages of a file.
	touchStep = 64 << 10
)

// touch counts n bytes of s that a reader brings into this process's memory. When they are too many all is let go of: whoever is reading it
// finds it in the system's.
func (l *Log) touch(s *segment, n int64) {
	if !s.touched.Load() {
		s.touched.Store(true)
	}
	if got := l.touched.Add(n + touchStep); got < touchedMax || !l.touched.CompareAndSwap(got, 0) {
		return
	}
	var list []*segment
	hold := func(s *segment) {
		if s.touched.Load() {
			s.touched.Store(false)
			s.readers.Add(1)
			list = append(list, s)
		}
	}
	l.mu.RLock()
	for _, s := range l.mu.segments {
		hold(s)
	}
	for s := range l.mu.parts {
		hold(s)
	}
	l.mu.RUnlock()
	for _, s := range list {
		if m := s.mapped.Load(); m != nil {
			m.Drop(0, int64(len(m.Bytes())))
		}
		s.release(l)
	}
}

func (f *Fetched) collectAll(b []byte, spans []span) (more bool, err error) {
	more = true
	for i := 0; i < len(spans) && more && err == nil; i++ {
		sp := &spans[i]
		more, err = f.collect(b[sp.pos-spans[0].pos:][:sp.n], sp, !f.req.Trust)
	}
	return more, err
}

// collect takes the partition's batches out of a span's bytes.
func (f *Fetched) collect(b []byte, sp *span, verify bool) (more bool, err error) {
	at, r := sp.pos, &f.req
	for len(b) > 0 {
		fr, n, err := record.ViewFrame(b)
		if err == nil && verify && fr.Partition == r.Partition {
			_, _, err = record.DecodeFrame(b)
		}
		if err != nil {
			return false, &CorruptError{Path: sp.seg.path, Offset: at, Reason: err.Error()}
		}
		b, at = b[n:], at+int64(n)
		if fr.Kind != record.KindRecords || fr.Partition != r.Partition {
			continue
		}
		raw := record.FrameBatch(fr.Payload)
		if len(raw) < record.BatchHeaderSize {
			continue
		}
		batch := record.Batch(raw)
		if batch.LastOffset() < r.From {
			continue
		}
		if batch.BaseOffset() >= r.End || len(f.Batches) > 0 && f.got+len(batch) > r.MaxBytes {
			return false, nil
		}
		if f.got += len(batch); len(f.Batches) == 0 {
			f.First = batch.BaseOffset()
		}
		f.Batches = append(f.Batches, batch)
		f.Extras = append(f.Extras, record.FrameExtra(fr.Payload))
	}
	return f.got < r.MaxBytes, nil
}

// own copies what may not stay a view of a mapped file.
func (f *Fetched) own(mapped bool) error {
	if !mapped {
		return nil
	}
	if f.req.Copy {
		return vfs.Guard(func() error {
			f.copyOut(func([]byte) bool { return true })
			return nil
		})
	}
	return vfs.Guard(func() error {
		f.copyOut(func(b []byte) bool { return len(b) < ownBytes })
		return nil
	})
}

// copyOut copies batches into a block; if it is all of them, what held them is let go.
func (f *Fetched) copyOut(which func([]byte) bool) {
	n, all := 0, true
	for i, b := range f.Batches {
		if which(b) {
			n += len(b) + len(f.Extras[i])
		} else {
			all = false
		}
	}
	if n == 0 {
		return
	}
	block := alloc.NewBlock(n)
	to := block.Bytes()
	for i, b := range f.Batches {
		if which(b) {
			f.Batches[i], to = take(to, b)
			f.Extras[i], to = take(to, f.Extras[i])
		}
	}
	if all {
		f.letGo()
	}
	f.blocks = append(f.blocks, block)
}

func take(to, b []byte) (copied, rest []byte) {
	n := copy(to, b)
	return to[:n:n], to[n:]
}
