package journal

import (
	"cmp"
	"errors"
	"hash/crc32"
	"slices"
	"sync"
	"time"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

const (
	// rewriteStep is how much is written at once, and between two looks at the bandwidth.
	rewriteStep = 256 << 10
	// rewriteSync is how much is written between two flushes, so that the last one does not hold up the log's.
	rewriteSync = 16 << 20
	// rewriteFrom is the part of LogBytesMax below which nothing is rewritten: what lives for seconds is written once.
	rewriteFrom = 4

	// partSegments is how many segments' worth a partition segment may hold, and partsSmall how many small ones there may be.
	partSegments = 4
	partsSmall   = 8
	// refsMax is how many pieces of partitions the index may have before old ones are joined.
	refsMax = 1 << 19
)

// cleaner moves what lives long out of the log into partition segments, so that the log's segments can be recycled, and joins those of
// which much is dead.
type cleaner struct {
	l     *Log
	woken chan struct{}
	one   sync.Mutex // one rewriting, or compaction, at a time
	buf   []byte     // its
}

func (c *cleaner) init(l *Log) {
	c.l = l
	c.woken = make(chan struct{}, 1)
}

func (c *cleaner) wake() {
	select {
	case c.woken <- struct{}{}:
	default: // it is told already
	}
}

func (c *cleaner) run() {
	for {
		select {
		case <-c.l.stop:
			return
		case <-c.woken:
		}
		for list := c.pick(); len(list) > 0; list = c.pick() {
			err := c.rewrite(list)
			for _, s := range list {
				s.release(c.l)
			}
			if err == nil {
				c.l.keep.wake()
				continue
			}
			if !errors.Is(err, ErrClosed) {
				c.l.log.Warn("cannot rewrite segments", "first", list[0].path, "segments", len(list), "err", err)
				c.l.clk.AfterFunc(spaceRetry, c.wake)
			}
			break
		}
	}
}

// pick chooses the segments to rewrite next, into one. The caller gets a reader's hold of each.
func (c *cleaner) pick() (list []*segment) {
	l := c.l
	if l.closing.Load() {
		return nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if list = l.pickLogLocked(); list == nil {
		list = l.pickPartsLocked()
	}
	for _, s := range list {
		s.readers.Add(1)
	}
	return list
}

// partBytesMax is how much of live frames is written into one partition segment.
func (l *Log) partBytesMax() int64 { return min(partSegments*l.o.SegmentBytes, segmentBytesMax) }

// pickLogLocked chooses segments of the log, oldest first: such as are half dead; where the log is longer than it may be, the oldest one,
// if an eighth of it is dead; and where the index has too many pieces, the oldest, whatever lives in it.
func (l *Log) pickLogLocked() (list []*segment) {
	if l.mu.walBytes < l.o.LogBytesMax/rewriteFrom {
		return nil
	}
	from := l.keepFromLocked()
	room := l.partBytesMax()
	oldest, crowded := true, l.mu.refs > refsMax
	for _, s := range l.mu.segments {
		if !s.sealed || !s.indexed || s.number() >= from.Segment || s.live == 0 {
			continue
		}
		half := s.live*2 < s.size
		pins := oldest && l.mu.walBytes > l.o.LogBytesMax && s.live < s.size-s.size/8
		if (half || pins || crowded) && s.live <= room {
			list = append(list, s)
			room -= s.live
		}
		oldest = false
	}
	return list
}

// pickPartsLocked chooses partition segments: such as are half dead, together; else the small ones, if there are many.
func (l *Log) pickPartsLocked() (list []*segment) {
	var half, small []*segment
	for s := range l.mu.parts {
		switch {
		case s.live*2 < s.total:
			half = append(half, s)
		case s.live < l.partBytesMax()/partsSmall:
			small = append(small, s)
		}
	}
	switch {
	case len(half) > 0:
		list = append(half, small...)
	case len(small) >= partsSmall:
		list = small
	}
	slices.SortFunc(list, func(a, b *segment) int { return cmp.Compare(a.number(), b.number()) })
	room := l.partBytesMax()
	n := 0
	for ; n < len(list) && list[n].live <= room; n++ {
		room -= list[n].live
	}
	return list[:n]
}

// move is what becomes of one piece of a partition, or of some that follow each other, in the new file: one piece, but for a compaction
// that ends within one.
type move struct {
	from []*ref
	// live are their entries that are not dead, as they were when the move was planned: the refs may die meanwhile.
	live []entries
	to   []*ref
}

// rewrite moves all live records of segments into a new partition segment. It is whole and durable before the index points to it.
func (c *cleaner) rewrite(list []*segment) error {
	c.one.Lock()
	defer c.one.Unlock()
	moves := c.l.planMoves(list)
	if len(moves) == 0 {
		return nil // all has died
	}
	return c.replace(moves, func(f vfs.File, s *segment) error { return c.writeMoves(f, s, moves) })
}

// replace writes a new partition segment and has the index point to it.
func (c *cleaner) replace(moves []move, write func(vfs.File, *segment) error) error {
	l := c.l
	l.mu.Lock()
	number := l.mu.nextPart
	l.mu.nextPart++
	l.mu.Unlock()
	s := newPart(number, l.partPath(partName(number)), 0)
	if err := c.writePart(s, write); err != nil {
		return err
	}
	if err := s.mapFile(l.fs); err != nil {
		return err
	}
	l.mu.Lock()
	dead := l.swapLocked(s, moves)
	l.mu.Unlock()
	l.keep.bury(dead)
	return nil
}

// planMoves lists what lives in segments, in the order of an index.
func (l *Log) planMoves(list []*segment) (moves []move) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	in := make(map[*segment]bool, len(list))
	var refs []*ref
	for _, s := range list {
		in[s] = true
		for _, r := range s.refs {
			// What a replay brought back may be dead to its last entry.
			if !r.gone && r.entries.search(r.part.floor()) < r.entries.len() {
				refs = append(refs, r)
			}
		}
	}
	sortRefs(refs)
	for _, r := range refs {
		live := r.entries[r.entries.search(r.part.floor())*entrySize:]
		if n := len(moves); n > 0 && moves[n-1].follows(r) {
			moves[n-1].from, moves[n-1].live = append(moves[n-1].from, r), append(moves[n-1].live, live)
			continue
		}
		moves = append(moves, move{from: []*ref{r}, live: []entries{live}})
	}
	return moves
}

// follows tells whether r is the piece behind those of m.
func (m *move) follows(r *ref) bool {
	last := m.from[len(m.from)-1]
	if last.part != r.part || last.compacted != r.compacted {
		return false
	}
	i := slices.Index(r.part.refs, last)
	return i >= 0 && i+1 < len(r.part.refs) && r.part.refs[i+1] == r
}

// swapLocked makes the index point to the rewritten records, and answers the partition segments that hold nothing any more.
func (l *Log) swapLocked(s *segment, moves []move) (dead []*segment) {
	for i := range moves {
		m := &moves[i]
		p := m.from[0].part
		at := -1
		for _, r := range m.from {
			if r.gone { // it has died meanwhile, and so have those before it
				continue
			}
			k := slices.Index(p.refs, r)
			if at < 0 {
				at = k
			}
			p.refs = slices.Delete(p.refs, k, k+1)
			r.seg.live -= r.bytes - r.dead
			l.forgetRefLocked(r)
			if r.seg.part && r.seg.live == 0 {
				dead = append(dead, l.unlistPartLocked(r.seg)...)
			}
		}
		for _, r := range m.to {
			s.total += r.bytes
			if at < 0 || p.dropped || r.last < p.floor() {
				r.gone = true
				continue
			}
			p.refs = slices.Insert(p.refs, at, r)
			at++
			r.dead = r.deadBefore(p.floor())
			s.live += r.bytes - r.dead
			s.refs = append(s.refs, r)
			l.mu.refs++
		}
	}
	l.mu.parts[s] = struct{}{}
	l.stats.PartitionSegments.Store(int64(len(l.mu.parts)))
	l.stats.PartitionBytes.Add(s.size)
	if s.live == 0 {
		dead = append(dead, l.unlistPartLocked(s)...)
	}
	return dead
}

// writePart writes a partition segment.
func (c *cleaner) writePart(s *segment, write func(vfs.File, *segment) error) (err error) {
	tmp := s.path + ".tmp"
	f, err := c.l.fs.Open(tmp, vfs.Write|vfs.Create|vfs.Truncate)
	if err != nil {
		return err
	}
	err = write(f, s)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = c.l.fs.Rename(tmp, s.path)
	}
	if err != nil {
		// What is left is deleted at the next open at the latest.
		_ = c.l.fs.Remove(tmp)
		return err
	}
	return c.l.fs.SyncDir(c.l.o.Dir + "/partitions")
}

// writeMoves writes the file's contents.
func (c *cleaner) writeMoves(f vfs.File, s *segment, moves []move) error {
	w := partWriter{c: c, f: f, at: partHeaderSize}
	c.buf = c.buf[:0]
	refs := make([]*ref, 0, len(moves))
	for i := range moves {
		m := &moves[i]
		first, last := m.from[0], m.from[len(m.from)-1]
		to := &ref{seg: s, part: first.part, tenant: first.tenant, first: first.first, last: last.last, time: noTime, compacted: first.compacted}
		m.to = append(m.to, to)
		for k, r := range m.from {
			if err := c.copyFrames(&w, r.seg, m.live[k], to); err != nil {
				return err
			}
		}
		refs = append(refs, to)
	}
	return w.finish(s, refs)
}

// copyFrames copies the frames that some entries of a segment stand for, and enters them in to.
func (c *cleaner) copyFrames(w *partWriter, s *segment, es entries, to *ref) error {
	for i := range es.len() {
		e := es.at(i)
		err := c.l.readSpan(s, int64(e.pos), int(e.span), func(b []byte) error {
			for len(b) > 0 {
				fr, n, err := record.DecodeFrame(b)
				if err != nil {
					return &CorruptError{Path: s.path, Offset: int64(e.pos), Reason: err.Error()}
				}
				batch := record.Batch(record.FrameBatch(fr.Payload))
				if fr.Kind == record.KindRecords && fr.Partition == to.part.id && len(batch) >= record.BatchHeaderSize {
					w.add(to, b[:n], batch)
				}
				b = b[n:]
			}
			return nil
		})
		if err == nil {
			err = w.flushFull()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// partWriter appends frames to a partition segment.
type partWriter struct {
	c        *cleaner
	f        vfs.File
	at       int64 // where what waits in the cleaner's buffer goes
	unsynced int
}

func (w *partWriter) add(to *ref, frame []byte, batch record.Batch) {
	pos := w.at + int64(len(w.c.buf))
	to.add(entry{base: batch.BaseOffset(), lastDelta: uint32(batch.LastOffsetDelta()), pos: uint32(pos), span: uint32(len(frame)),
		before: uint32(to.bytes), time: timeOf(batch)}, 0)
	to.bytes += int64(len(frame))
	w.c.buf = append(w.c.buf, frame...)
}

// finish writes directory and header behind the frames.
func (w *partWriter) finish(s *segment, refs []*ref) error {
	if err := w.flush(); err != nil {
		return err
	}
	dirs, count := appendDirs(nil, refs)
	h := partHeader{number: s.number(), end: w.at, parts: uint32(len(refs)), entries: uint32(count), crc: crc32.Checksum(dirs, castagnoli)}
	s.end, s.size = w.at, w.at+int64(len(dirs))
	b := h.encode()
	_, err := w.f.WriteAt(dirs, w.at)
	if err == nil {
		_, err = w.f.WriteAt(b[:], 0)
	}
	return err
}

func (w *partWriter) flushFull() error {
	if len(w.c.buf) < rewriteStep {
		return nil
	}
	return w.flush()
}

func (w *partWriter) flush() error {
	n := len(w.c.buf)
	if n == 0 {
		return nil
	}
	if _, err := w.f.WriteAt(w.c.buf, w.at); err != nil {
		return err
	}
	w.at += int64(n)
	w.c.buf = w.c.buf[:0]
	if w.unsynced += n; w.unsynced >= rewriteSync {
		w.unsynced = 0
		if err := w.f.Sync(); err != nil {
			return err
		}
	}
	return w.c.pace(n)
}

// pace waits as long as n bytes may take.
func (c *cleaner) pace(n int) error {
	l := c.l
	l.stats.RewrittenBytes.Add(int64(n))
	if l.closing.Load() {
		return ErrClosed
	}
	if l.o.RewriteRate < 0 {
		return nil
	}
	due := make(chan struct{})
	t := l.clk.AfterFunc(time.Duration(int64(n)*int64(time.Second)/l.o.RewriteRate), func() { close(due) })
	select {
	case <-due:
		return nil
	case <-l.stop:
		t.Stop()
		return ErrClosed
	}
}

// readSpan hands fn bytes of a segment, under the map's guard if they are mapped. fn must not keep them.
func (l *Log) readSpan(s *segment, pos int64, n int, fn func(b []byte) error) error {
	l.reads <- struct{}{}
	defer func() { <-l.reads }()
	return l.readNow(s, pos, n, fn)
}

// readNow is readSpan without a place in the read pool: those who have one may wait for Log.mu, which the caller may hold.
func (l *Log) readNow(s *segment, pos int64, n int, fn func(b []byte) error) error {
	m := s.mapped.Load()
	if m == nil {
		f, err := l.fs.Open(s.path, vfs.Random)
		if err != nil {
			return err
		}
		b := make([]byte, n)
		if _, err = f.ReadAt(b, pos); err != nil {
			return errors.Join(err, f.Close())
		}
		return errors.Join(fn(b), f.Close())
	}
	if err := m.Populate(pos, int64(n)); err != nil {
		return err
	}
	return vfs.Guard(func() error { return fn(m.Bytes()[pos:][:n]) })
}
