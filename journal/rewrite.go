package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

const (
	partMagic      = "SLUICEPS"
	partFormat     = 2
	partHeaderSize = 72

	// rewriteStep is how much is written at once, and between two looks at the bandwidth.
	rewriteStep = 256 << 10
	// rewriteFrom is the part of LogBytesMax below which nothing is rewritten: what lives for seconds is written once.
	rewriteFrom = 4
)

// cleaner moves what lives long out of the log into partition segments, so that the log's segments can be recycled.
type cleaner struct {
	l     *Log
	woken chan struct{}
	buf   []byte
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
		for s := c.pick(); s != nil; s = c.pick() {
			err := c.rewrite(s)
			s.release(c.l)
			if err == nil {
				c.l.keep.wake()
				continue
			}
			if !errors.Is(err, ErrClosed) {
				c.l.log.Warn("cannot rewrite a segment", "segment", s.number(), "err", err)
				c.l.clk.AfterFunc(spaceRetry, c.wake)
			}
			break
		}
	}
}

// pick chooses the segment to rewrite next, oldest first: one of which less than half lives, or the oldest when the log is longer
// than it may be. The caller gets a reader's hold of it.
func (c *cleaner) pick() *segment {
	l := c.l
	if l.closing.Load() {
		return nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.mu.walBytes < l.o.LogBytesMax/rewriteFrom {
		return nil
	}
	from := l.keepFromLocked()
	for i, s := range l.mu.segments {
		if !s.sealed || !s.indexed || s.number() >= from.Segment || s.live == 0 {
			continue
		}
		if s.live*2 < s.end || i == 0 && l.mu.walBytes > l.o.LogBytesMax {
			s.readers.Add(1)
			return s
		}
	}
	return nil
}

// rewriting is the part of one partition.
type rewriting struct {
	id          record.PartitionID
	entries     entries // where the live frames are, in the log segment
	first, last record.Offset
	seg         *segment // what was written
	out         entries
	bytes       int64
	time        int64
}

// rewrite moves all live records of s. The new files are whole and durable before the index points to them.
func (c *cleaner) rewrite(s *segment) error {
	l := c.l
	var parts []*rewriting
	l.mu.RLock()
	for _, p := range l.mu.partitions {
		for _, r := range p.refs {
			if r.seg == s {
				// What a replay brought back may be dead to its last entry.
				if k := r.entries.search(p.start); k < r.entries.len() {
					parts = append(parts, &rewriting{id: p.id, entries: r.entries[k*entrySize:]})
				}
				break
			}
		}
	}
	l.mu.RUnlock()
	for _, p := range parts {
		if err := c.writePart(s, p); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.o.Dir + "/partitions"); err != nil {
		return err
	}
	var dead []*segment
	l.mu.Lock()
	for _, p := range parts {
		if !l.swapLocked(s, p) {
			dead = append(dead, p.seg)
		}
	}
	l.stats.PartitionSegments.Store(int64(len(l.mu.parts)))
	l.mu.Unlock()
	l.keep.bury(dead)
	return nil
}

// swapLocked makes the index point to the rewritten records. It answers false if they have died meanwhile.
func (l *Log) swapLocked(s *segment, w *rewriting) bool {
	p := l.mu.partitions[w.id]
	if p == nil || p.dropped || w.last < p.start {
		return false
	}
	for i, r := range p.refs {
		if r.seg != s {
			continue
		}
		n := &ref{seg: w.seg, entries: w.out, first: w.first, last: w.last, bytes: w.bytes, time: w.time}
		n.dead = n.deadBefore(p.start)
		w.seg.total, w.seg.live = n.bytes, n.bytes-n.dead
		s.live -= r.bytes - r.dead
		p.refs[i] = n
		l.mu.parts[w.seg] = struct{}{}
		return true
	}
	return false
}

func (l *Log) partPath(name string) string { return l.o.Dir + "/partitions/" + name }

// writePart writes one partition segment.
func (c *cleaner) writePart(s *segment, w *rewriting) (err error) {
	e := w.entries.at(0)
	w.first = e.base
	path := c.l.partPath(fmt.Sprintf("%016x-%016x-%016x.seg", uint64(w.id), uint64(w.first), s.number()))
	f, err := c.l.fs.Open(path+".tmp", vfs.Write|vfs.Create|vfs.Truncate)
	if err != nil {
		return err
	}
	size, err := c.writeFrames(f, s, w)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = c.l.fs.Rename(path+".tmp", path)
	}
	if err != nil {
		// What is left is deleted at the next open at the latest.
		_ = c.l.fs.Remove(path + ".tmp")
		return err
	}
	w.seg = &segment{header: segmentHeader{number: s.number()}, path: path, size: size, end: size, part: true, pid: uint64(w.id), sealed: true, indexed: true}
	return w.seg.mapFile(c.l.fs)
}

// writeFrames writes the file's contents and answers their size.
func (c *cleaner) writeFrames(f vfs.File, s *segment, w *rewriting) (int64, error) {
	r := ref{time: noTime}
	pos := int64(partHeaderSize)
	c.buf = c.buf[:0]
	for i := range w.entries.len() {
		e := w.entries.at(i)
		err := c.l.readSpan(s, int64(e.pos), int(e.span), func(b []byte) error {
			for len(b) > 0 {
				fr, n, err := record.DecodeFrame(b)
				if err != nil {
					return &CorruptError{Path: s.path, Offset: int64(e.pos), Reason: err.Error()}
				}
				if batch := record.Batch(record.FrameBatch(fr.Payload)); fr.Kind == record.KindRecords && fr.Partition == w.id && len(batch) >= record.BatchHeaderSize {
					at := pos + int64(len(c.buf))
					r.add(entry{base: batch.BaseOffset(), lastDelta: uint32(batch.LastOffsetDelta()), pos: uint32(at), span: uint32(n), before: uint32(r.bytes), time: timeOf(batch)}, 0)
					r.bytes += int64(n)
					w.last = batch.LastOffset()
					c.buf = append(c.buf, b[:n]...)
				}
				b = b[n:]
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if len(c.buf) >= rewriteStep || i == w.entries.len()-1 {
			if _, err := f.WriteAt(c.buf, pos); err != nil {
				return 0, err
			}
			pos += int64(len(c.buf))
			if err := c.pace(len(c.buf)); err != nil {
				return 0, err
			}
			c.buf = c.buf[:0]
		}
	}
	w.out, w.bytes, w.time = r.entries, r.bytes, r.time
	if _, err := f.WriteAt(r.entries, pos); err != nil {
		return 0, err
	}
	var h [partHeaderSize]byte
	le := binary.LittleEndian
	copy(h[:], partMagic)
	le.PutUint16(h[8:], partFormat)
	le.PutUint64(h[16:], uint64(w.id))
	le.PutUint64(h[24:], uint64(w.first))
	le.PutUint64(h[32:], uint64(w.last))
	le.PutUint64(h[40:], uint64(pos))
	le.PutUint32(h[48:], uint32(r.entries.len()))
	le.PutUint32(h[52:], crc32.Checksum(r.entries, castagnoli))
	le.PutUint64(h[56:], s.number())
	le.PutUint64(h[64:], uint64(w.time))
	le.PutUint32(h[12:], crc32.Checksum(h[:], castagnoli))
	_, err := f.WriteAt(h[:], 0)
	return pos + int64(len(r.entries)), err
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

// openPartSegments opens the partition segments and enters them in the index.
func (l *Log) openPartSegments() error {
	names, err := l.fs.List(l.o.Dir + "/partitions")
	if err != nil {
		return err
	}
	for _, name := range names {
		path := l.partPath(name)
		if !strings.HasSuffix(name, ".seg") {
			if err := l.fs.Remove(path); err != nil {
				return err
			}
			continue
		}
		if err := l.openPart(path); err != nil {
			return err
		}
	}
	l.stats.PartitionSegments.Store(int64(len(l.mu.parts)))
	return nil
}

func (l *Log) openPart(path string) error {
	s, r, err := l.readPart(path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.partitionLocked(record.PartitionID(s.pid))
	if !p.insert(r) {
		// Its records died, or the log was cut down, before a crash that kept the file.
		return l.fs.Remove(path)
	}
	r.dead = r.deadBefore(p.start)
	s.total, s.live = r.bytes, r.bytes-r.dead
	p.end = max(p.end, r.last+1)
	l.mu.parts[s] = struct{}{}
	return s.mapFile(l.fs)
}

func (l *Log) readPart(path string) (*segment, *ref, error) {
	f, err := l.fs.Open(path, 0)
	if err != nil {
		return nil, nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	corrupt := func(reason string) (*segment, *ref, error) {
		return nil, nil, errors.Join(&CorruptError{Path: path, Reason: reason}, f.Close())
	}
	var h [partHeaderSize]byte
	if size < partHeaderSize {
		return corrupt("a partition segment has been cut")
	}
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	le := binary.LittleEndian
	sum := le.Uint32(h[12:])
	clear(h[12:16])
	if string(h[:8]) != partMagic || crc32.Checksum(h[:], castagnoli) != sum {
		return corrupt("bad header of a partition segment")
	}
	if v := le.Uint16(h[8:]); v != partFormat {
		return nil, nil, errors.Join(&FormatError{Path: path, Found: fmt.Sprintf("format %d", v), Known: partFormat}, f.Close())
	}
	at, n := int64(le.Uint64(h[40:])), int64(le.Uint32(h[48:]))
	if n == 0 || at < partHeaderSize || at+n*entrySize != size {
		return corrupt("a partition segment has not the size that its header says")
	}
	es := make(entries, n*entrySize)
	if _, err := f.ReadAt(es, at); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	if crc32.Checksum(es, castagnoli) != le.Uint32(h[52:]) {
		return corrupt("bad index of a partition segment")
	}
	s := &segment{
		header: segmentHeader{number: le.Uint64(h[56:])}, path: path, size: size, end: size, part: true, pid: le.Uint64(h[16:]), sealed: true, indexed: true,
	}
	r := &ref{seg: s, entries: es, first: record.Offset(le.Uint64(h[24:])), last: record.Offset(le.Uint64(h[32:])), bytes: at - partHeaderSize, time: int64(le.Uint64(h[64:]))}
	return s, r, f.Close()
}
