package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// reserveShare is the part of the last segment that is set aside for urgent frames when the disk has no room for another.
const reserveShare = 4

// committer writes groups, one at a time, on one goroutine: while the disk writes one, the frames of the next gather in the
// Source. There is no timer: an idle log writes what comes at once.
type committer struct {
	l      *Log
	src    Source
	urgent UrgentSource // src, if it can tell what is urgent
	ahead  AheadSource  // src, if it can tell what may be shown before it is written
	held   shardSet     // of the group under way: what it says may not be
	hold   func(record.ShardID)

	pending  atomic.Uint32 // somebody called Wake since the last Gather
	sleeping atomic.Uint32
	woken    chan struct{}
	failed   atomic.Pointer[error]
	rotate   atomic.Bool // somebody called Rotate

	// The committer goroutine's own.
	active     *segment
	mustRotate bool // what lies behind the end must not be followed by a new group in this segment
	seq        uint64
	prevCRC    uint32
	clean      bool // the last group is a clean end
	full       bool
	chunk      *chunk
	last       int // bytes of the last group's frames
	indexer    indexer
	gone       []*Group

	// Async mode.
	flushing    chan struct{}
	written     atomic.Uint64 // sequence of the last group that was written
	flushedSeq  atomic.Uint64
	flushedFile atomic.Pointer[segment]
}

func (c *committer) init(l *Log) {
	c.l = l
	c.indexer.l = l
	c.woken = make(chan struct{}, 1)
	c.flushing = make(chan struct{}, 1)
}

// wake and run: a waker sets pending, then looks at sleeping; the committer sets sleeping, then looks at pending. Whoever comes
// second sees what the first has set, so that no wake-up is lost.
func (c *committer) wake() {
	if c.pending.Load() == 1 {
		return
	}
	c.pending.Store(1)
	if c.sleeping.Load() == 1 && c.sleeping.CompareAndSwap(1, 0) {
		c.signal()
	}
}

func (c *committer) signal() {
	select {
	case c.woken <- struct{}{}:
	default: // a signal waits already
	}
}

func (c *committer) run() {
	for !c.l.closing.Load() {
		c.pending.Store(0)
		if c.turn() {
			continue
		}
		c.sleeping.Store(1)
		if c.pending.Load() == 1 {
			c.sleeping.Store(0)
			continue
		}
		select {
		case <-c.woken:
		case <-c.l.stop:
		}
		c.sleeping.Store(0)
	}
	// What waits at Close is written if it can be, then refused.
	for c.failed.Load() == nil && !c.full && c.turn() {
		continue
	}
	c.src.Failed(ErrClosed)
}

// turn gathers and writes one group. It answers false when there is nothing to do until the next signal.
func (c *committer) turn() bool {
	if err := c.failed.Load(); err != nil {
		c.src.Failed(*err)
		return false
	}
	if c.full && !c.spaceBack() {
		c.src.Failed(c.fullError(nil))
		return false
	}
	if c.rotate.Load() {
		if err := c.rotateNow(); err != nil {
			c.fail(err)
			return false
		}
	}
	limited := c.limited()
	if limited && c.urgent == nil {
		c.src.Failed(c.noRoom(limited))
		return false
	}
	reserved := limited || c.urgent != nil && c.l.keep.low.Load() && c.active != nil && c.active.size-c.active.end < c.active.size/reserveShare
	dst, most := c.staging()
	var out []byte
	var more bool
	if reserved {
		out, more = c.urgent.GatherUrgent(dst, most)
	} else {
		out, more = c.src.Gather(dst, most)
	}
	if len(out) == 0 {
		if reserved {
			c.urgent.Refuse(c.noRoom(limited))
		}
		return false
	}
	c.last = len(out)
	g, buf := c.stage(dst, out)
	if err := c.commit(g, buf); err != nil {
		g.Release()
		c.fail(err)
		return false
	}
	return more || reserved || c.pending.Load() == 1
}

// noRoom says why what waits is not written.
func (c *committer) noRoom(limited bool) error {
	if limited {
		c.l.stats.FailedLimit.Add(1)
		return fmt.Errorf("%w: %s", ErrLimit, c.l.o.Dir)
	}
	return c.fullError(nil)
}

// countFrames counts what the Source gave, and says of which shards it is. Anything but whole frames could never be read back: it is not written.
func countFrames(b []byte) (count uint32, of shardSet, err error) {
	for len(b) > 0 {
		n, err := record.FrameSize(b)
		if err != nil || n > len(b) {
			return 0, of, fmt.Errorf("the source gave no whole frames: %w", record.ErrFrame)
		}
		of.add(record.FrameShard(b))
		b = b[n:]
		count++
	}
	return count, of, nil
}

// staging is where the next group's frames go, and how many bytes of them there may be.
func (c *committer) staging() (dst []byte, most int) {
	want := groupHeaderSize + c.l.o.GroupBytesMax
	// As much room as the last group took, but no less than a quarter: what outgrows its room is copied once more.
	if c.chunk != nil && len(c.chunk.buf)-c.chunk.used < max(want/4, 2*blockSize, min(want, c.last+groupHeaderSize)) {
		c.chunk.release()
		c.chunk = nil
	}
	if c.chunk == nil {
		c.chunk = c.l.tail.newChunk(want)
	}
	room := c.chunk.buf[c.chunk.used:]
	room = room[:min(len(room), int(alignUp(int64(want))))]
	dst = room[groupHeaderSize:groupHeaderSize:len(room)]
	return dst, min(cap(dst), c.l.o.GroupBytesMax)
}

// stage makes a group of what was gathered; buf is the group with header and padding. Frames that outgrew the staging buffer, a
// large one alone, are copied into one of their own.
func (c *committer) stage(dst, out []byte) (g *Group, buf []byte) {
	size := int(alignUp(int64(groupHeaderSize + len(out))))
	ch := c.chunk
	if unsafe.SliceData(out) != unsafe.SliceData(dst[:1]) {
		ch = c.l.tail.newChunk(size)
		copy(ch.buf[groupHeaderSize:], out)
	}
	buf = ch.buf[ch.used : ch.used+size : ch.used+size]
	clear(buf[groupHeaderSize+len(out):])
	g = groupPool.Get().(*Group)
	g.refs.Store(1)
	g.chunk, g.size = ch, int64(size)
	g.frames = buf[groupHeaderSize : groupHeaderSize+len(out) : groupHeaderSize+len(out)]
	if ch == c.chunk {
		// The group's place stays its own even if the write fails: a part of it may be under way.
		ch.refs.Add(1)
		ch.used += size
	}
	return g, buf
}

// commit writes a group, enters it in the index and the tail, and tells the Source.
func (c *committer) commit(g *Group, buf []byte) error {
	if err := c.makeRoom(g.size); err != nil {
		return err
	}
	count, of, err := countFrames(g.frames)
	if err != nil {
		return err
	}
	s := c.active
	h := groupHeader{
		segment: s.number(), seq: c.seq + 1, prevCRC: c.prevCRC, length: uint32(len(g.frames)), frames: count,
		flushed: c.flushed(), time: c.l.clk.Now().UnixMilli(),
	}
	h.put(buf[:groupHeaderSize+len(g.frames)], s.seed)
	g.seq, g.count, g.shards = h.seq, int(h.frames), of
	g.at = Position{Segment: s.number(), Offset: s.end}
	shown := c.show(g)
	if err := c.write(s, buf, s.end); err != nil {
		if shown {
			c.hide(g)
			return fmt.Errorf("%w: %w", errShown, err)
		}
		return err
	}
	c.advance(&h)
	c.publish(s, g, shown)
	c.src.Committed(g)
	g.Release()
	if s.end > s.size/4 {
		c.l.keep.prepare(c.l.o.SegmentBytes)
	}
	return nil
}

// errShown is a write that failed of what others have taken over already: nothing else may ever take its place.
var errShown = errors.New("others have what was not written")

// show lets scanners that want it have a group before it is written, and says whether it did.
func (c *committer) show(g *Group) bool {
	l := c.l
	if l.aheads.Load() == 0 || c.ahead == nil {
		return false
	}
	c.held = shardSet{}
	if !c.ahead.Ahead(c.hold) {
		return false
	}
	g.held = c.held
	l.mu.Lock()
	if !slices.ContainsFunc(l.mu.scanners, func(sc *Scanner) bool { return sc.takesAhead(g) && !sc.passesOver(g) }) {
		l.mu.Unlock()
		return false // it might be written yet if this fails: nobody has seen it
	}
	g.Retain()
	l.mu.ahead = g
	l.mu.Unlock()
	l.wakeScanners(g)
	return true
}

// hide takes back a group that will never be in the log.
func (c *committer) hide(g *Group) {
	c.l.mu.Lock()
	c.l.mu.ahead = nil
	c.l.mu.Unlock()
	g.Release()
}

func (c *committer) advance(h *groupHeader) {
	c.seq, c.prevCRC = h.seq, h.crc
	c.clean = h.flags&flagCleanEnd != 0
	c.written.Store(c.seq)
}

// publish moves the log's end over g and enters g in the index, both at once. Apart, a checkpoint could come in between: the committer
// moves the end, a Flush finds no shard with frames behind its rows and has the next restart replay from that end, the committer marks
// the shards. A kill before the next Flush, and nothing would ever apply g.
func (c *committer) publish(s *segment, g *Group, shown bool) {
	l := c.l
	g.Retain()
	var bytes int64
	c.gone, bytes = l.tail.add(g, c.gone[:0])
	l.mu.Lock()
	s.end += g.size
	c.indexer.addLocked(s, g.at.Offset, g.frames, true)
	c.indexer.part = nil // it may be dropped until the next group
	l.mu.ahead = nil     // now it is in the log: a scanner meets it here or there
	for _, sc := range l.mu.scanners {
		if had := shown && sc.takesAhead(g); !sc.passesLocked(g) && !had {
			sc.wake()
		}
	}
	l.mu.Unlock()
	if shown {
		g.Release()
	}
	for _, old := range c.gone {
		old.Release()
	}
	st := &l.stats
	st.TailBytes.Store(bytes)
	st.Groups.Add(1)
	st.Frames.Add(int64(g.count))
	st.Bytes.Add(int64(len(g.frames)))
	st.WrittenBytes.Add(g.size)
}

// write puts b on the disk as durably as the mode says.
func (c *committer) write(s *segment, b []byte, at int64) error {
	from := c.l.clk.Mono()
	if _, err := s.file.WriteAt(b, at); err != nil {
		return err
	}
	if c.l.o.Durability == Async {
		select {
		case c.flushing <- struct{}{}:
		default: // the flusher knows
		}
		return nil
	}
	c.flushedSeq.Store(c.seq + 1)
	c.observe(from)
	return nil
}

func (c *committer) observe(from time.Duration) {
	c.l.stats.Flushes.Add(1)
	if f := c.l.o.Events.Flushed; f != nil {
		f(c.l.clk.Mono() - from)
	}
}

// flushed is the flush mark of the next group.
func (c *committer) flushed() uint64 {
	if c.l.o.Durability == Sync {
		return c.seq
	}
	return c.flushedSeq.Load()
}

// makeRoom goes on to the next segment if the active one has no room for size more bytes.
func (c *committer) makeRoom(size int64) error {
	s := c.active
	// One block stays free for the mark of a clean end.
	if s != nil && !c.mustRotate && s.end+size+blockSize <= s.size {
		return nil
	}
	need := alignUp(size + 2*blockSize)
	want := max(c.l.o.SegmentBytes, need)
	if s == nil {
		want = max(min(firstSegmentBytes, c.l.o.SegmentBytes), need)
	}
	if want > segmentBytesMax {
		return fmt.Errorf("a group of %d bytes is too large for a segment", size)
	}
	return c.nextSegment(want)
}

// nextSegment goes on to the next segment, of at least so many bytes.
func (c *committer) nextSegment(want int64) error {
	s := c.active
	sp, err := c.l.keep.take(want)
	if err != nil {
		return err
	}
	if s != nil && s.file != nil && c.l.o.Durability == Async {
		if err := s.file.Sync(); err != nil {
			return err
		}
		c.flushedSeq.Store(c.seq)
	}
	// The header of the next segment says where this one ended, and it may be on the disk even if writing it fails.
	c.mustRotate = s != nil
	next, err := c.l.newActive(sp, s, c.seq+1, c.prevCRC)
	if err != nil {
		return err
	}
	c.activate(next)
	return nil
}

// Rotate has the log go on in its next segment soon, so that what the active one holds can be rewritten.
func (l *Log) Rotate() {
	l.keep.prepare(l.o.SegmentBytes)
	l.com.rotate.Store(true)
	l.com.wake()
}

// rotateNow does what Rotate has asked for, once the next segment's file is there: commits do not wait for it.
func (c *committer) rotateNow() error {
	if c.active == nil || c.active.end == blockSize {
		c.rotate.Store(false)
		return nil
	}
	c.l.keep.mu.Lock()
	ready := slices.ContainsFunc(c.l.keep.mu.spares, func(sp spare) bool { return sp.size >= c.l.o.SegmentBytes })
	c.l.keep.mu.Unlock()
	if !ready {
		c.l.clk.AfterFunc(spaceRetry, c.wake)
		return nil
	}
	err := c.nextSegment(c.l.o.SegmentBytes)
	c.rotate.Store(false) // after it: see Rotating
	return err
}

// Rotating tells whether the next segment that Rotate has asked for is yet to come. A checkpoint that is written once it is false lets rewriting, and
// Pieces, look at all that was written before Rotate.
func (l *Log) Rotating() bool { return l.com.rotate.Load() }

// Lags tells whether the last checkpoint leaves segments before the one that is written to for a restart to replay: something of them was still on its
// way to the tables.
func (l *Log) Lags() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := len(l.mu.segments)
	return n > 0 && l.mu.replay.Segment < l.mu.segments[n-1].number()
}

// activate lists a new segment, and seals the one before.
func (c *committer) activate(next *segment) {
	l, old := c.l, c.active
	l.mu.Lock()
	next.heads = l.headsLocked()
	l.mu.segments = append(l.mu.segments, next)
	l.mu.walBytes += next.size
	l.stats.Segments.Store(int64(len(l.mu.segments)))
	l.stats.LogBytes.Store(l.mu.walBytes)
	if old != nil {
		old.sealed = true
	}
	l.mu.Unlock()
	l.wakeScanners(nil) // of a quiet log: who has read the old one to its end holds it no more
	c.active, c.mustRotate = next, false
	c.flushedFile.Store(next)
	if old == nil {
		return
	}
	// The reading handle stays for those who use it now; the writing one has no more to do.
	if old.file != nil && old.file != old.reader {
		if err := old.file.Close(); err != nil {
			l.log.Warn("cannot close a sealed segment", "segment", old.number(), "err", err)
		}
	}
	old.file = nil
	l.keep.seal(old)
}

// fail classifies an error of the disk and tells the Source.
func (c *committer) fail(err error) {
	switch {
	case errors.Is(err, ErrClosed):
		c.src.Failed(ErrClosed)
	case vfs.IsFull(err) && !errors.Is(err, errShown):
		c.full = true
		c.l.stats.FailedFull.Add(1)
		c.l.log.Error("journal cannot write: disk is full", "dir", c.l.o.Dir, "err", err)
		c.l.clk.AfterFunc(spaceRetry, c.signal)
		c.src.Failed(c.fullError(err))
	default:
		c.stopFor(fmt.Errorf("%w: %w", ErrIO, err))
		c.src.Failed(*c.failed.Load())
	}
}

// stopFor ends all writing. What a failed flush covered is trusted no more, so there is no way back but to open anew.
func (c *committer) stopFor(err error) {
	if c.failed.CompareAndSwap(nil, &err) {
		c.l.stats.FailedIO.Add(1)
		c.l.log.Error("journal has failed and writes no more", "dir", c.l.o.Dir, "err", err)
	}
}

func (c *committer) fullError(err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s", ErrFull, c.l.o.Dir)
	}
	return fmt.Errorf("%w: %w", ErrFull, err)
}

// spaceBack looks whether a full disk has room again: for a group where the active segment has room, else for a segment.
func (c *committer) spaceBack() bool {
	if c.active == nil || c.mustRotate || c.active.end+int64(2*c.l.o.GroupBytesMax) > c.active.size {
		c.l.keep.mu.Lock()
		ok := len(c.l.keep.mu.spares) > 0
		c.l.keep.mu.Unlock()
		if !ok && c.l.keep.low.Load() {
			c.l.clk.AfterFunc(spaceRetry, c.signal)
			return false // the keeper tries
		}
	}
	free, err := c.l.fs.FreeSpace(c.l.o.Dir)
	if err != nil || free < int64(2*c.l.o.GroupBytesMax) {
		c.l.clk.AfterFunc(spaceRetry, c.signal)
		return false
	}
	c.full = false
	c.l.log.Info("journal writes again", "dir", c.l.o.Dir)
	return true
}

// flushLoop is the async mode's flusher: FlushInterval after a write it syncs what was written by then.
func (c *committer) flushLoop() {
	due := make(chan struct{}, 1)
	for {
		select {
		case <-c.l.stop:
			return
		case <-c.flushing:
		}
		t := c.l.clk.AfterFunc(c.l.o.FlushInterval, func() { due <- struct{}{} })
		select {
		case <-c.l.stop:
			t.Stop()
			return
		case <-due:
		}
		if err := c.flush(); err != nil {
			c.stopFor(fmt.Errorf("%w: %w", ErrIO, err))
			c.signal()
			return
		}
	}
}

// flush syncs the active segment. The committer may seal it meanwhile: it is flushed then all the same, and stays open for a reader.
func (c *committer) flush() error {
	l := c.l
	seq, from := c.written.Load(), l.clk.Mono()
	l.mu.RLock()
	s := c.flushedFile.Load()
	if s == nil || s.reader == nil {
		l.mu.RUnlock()
		return nil
	}
	f := s.reader // in async mode the handle that writes, too
	s.readers.Add(1)
	l.mu.RUnlock()
	err := f.Sync()
	s.release(l)
	if err != nil {
		return err
	}
	for {
		old := c.flushedSeq.Load()
		if old >= seq || c.flushedSeq.CompareAndSwap(old, seq) {
			break
		}
	}
	c.observe(from)
	return nil
}

// flushWritten makes durable what async mode has written so far: nothing may be built upon what a power cut could take.
func (c *committer) flushWritten() error {
	if c.l.o.Durability == Sync || c.flushedSeq.Load() >= c.written.Load() {
		return nil
	}
	if err := c.l.Err(); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		c.stopFor(fmt.Errorf("%w: %w", ErrIO, err))
		c.signal()
		return *c.failed.Load()
	}
	return nil
}

// finish marks a clean end, so that the next open need not look for what a crash may have left. After the goroutines have ended.
func (c *committer) finish() error {
	s := c.active
	if s == nil || s.file == nil || c.mustRotate || c.clean || c.full || s.end+blockSize > s.size {
		if s != nil && s.file != nil && c.l.o.Durability == Async {
			return s.file.Sync()
		}
		return nil
	}
	if c.l.o.Durability == Async {
		if err := s.file.Sync(); err != nil {
			return err
		}
	}
	b := vfs.AlignedBytes(blockSize)
	h := groupHeader{flags: flagCleanEnd, segment: s.number(), seq: c.seq + 1, prevCRC: c.prevCRC, flushed: c.seq, time: c.l.clk.Now().UnixMilli()}
	h.put(b[:groupHeaderSize], s.seed)
	if _, err := s.file.WriteAt(b, s.end); err != nil {
		return fmt.Errorf("mark the log's end: %w", err)
	}
	c.advance(&h)
	c.l.mu.Lock()
	s.end += blockSize
	c.l.mu.Unlock()
	if c.l.o.Durability == Async {
		return s.file.Sync()
	}
	return nil
}
