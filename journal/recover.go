package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// readStep is how much recovery reads at once.
const readStep = 1 << 20

// progressEvery is how often a long recovery logs how far it is.
const progressEvery = time.Second

// openSegments finds the files of the log, and which of them are segments.
func (l *Log) openSegments() error {
	names, err := l.fs.List(l.o.Dir + "/wal")
	if err != nil {
		return err
	}
	var doubtful []string
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".tmp"):
			if err := l.fs.Remove(l.walPath(name)); err != nil {
				return err
			}
		case strings.HasPrefix(name, "spare-"):
			if err := l.foundSpare(name); err != nil {
				return err
			}
		case strings.HasSuffix(name, ".log"):
			s, err := l.foundSegment(name)
			if err != nil {
				return err
			}
			if s == nil {
				doubtful = append(doubtful, name)
				continue
			}
			l.mu.segments = append(l.mu.segments, s)
		}
	}
	slices.SortFunc(l.mu.segments, func(a, b *segment) int {
		if a.number() < b.number() {
			return -1
		}
		return 1
	})
	if err := l.judgeDoubtful(doubtful); err != nil {
		return err
	}
	for i, s := range l.mu.segments {
		l.mu.walBytes += s.size
		if i+1 < len(l.mu.segments) {
			s.sealed = true
			if next := l.mu.segments[i+1].header; next.prev == s.number() {
				s.end = next.prevEnd
			}
		}
	}
	l.stats.Segments.Store(int64(len(l.mu.segments)))
	l.stats.LogBytes.Store(l.mu.walBytes)
	return nil
}

func (l *Log) foundSpare(name string) error {
	info, err := l.fs.Stat(l.walPath(name))
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(name, "spare-"), 16, 64); err == nil {
		l.keep.mu.next = max(l.keep.mu.next, n+1)
	}
	if info.Size < blockSize || info.Size%blockSize != 0 || len(l.keep.mu.spares) > 0 && info.Size < l.o.SegmentBytes {
		return l.fs.Remove(l.walPath(name))
	}
	l.keep.mu.spares = append(l.keep.mu.spares, spare{path: l.walPath(name), size: info.Size})
	return nil
}

// foundSegment looks at a .log file; it answers nil if its header is bad.
func (l *Log) foundSegment(name string) (*segment, error) {
	path := l.walPath(name)
	number, err := strconv.ParseUint(strings.TrimSuffix(name, ".log"), 16, 64)
	if err != nil {
		return nil, &CorruptError{Path: path, Reason: "no segment has this name"}
	}
	f, err := l.fs.Open(path, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, blockSize)
	n, err := f.ReadAt(b, 0)
	size, serr := f.Size()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, serr, f.Close()); err != nil {
		return nil, err
	}
	h, ok, err := parseSegmentHeader(b[:n], path)
	if err != nil || !ok || h.number != number {
		if err == nil && (size < segmentBytesMin || size%blockSize != 0) {
			// A spare is written and synced in full before it gets this name.
			err = &CorruptError{Path: path, Offset: size, Reason: "the file has been cut"}
		}
		return nil, err
	}
	if size < h.size {
		return nil, &CorruptError{Path: path, Offset: size, Reason: fmt.Sprintf("the file was made with %d bytes and was cut", h.size)}
	}
	return &segment{header: h, path: path, size: size, seed: groupSeed(number)}, nil
}

// judgeDoubtful decides about .log files without a good header. Such a file is what a crash left between the renaming of a spare and
// the writing of its header, and becomes a spare again, unless there are signs that it was a segment.
func (l *Log) judgeDoubtful(names []string) error {
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, ".log"), 16, 64)
		if err != nil {
			return &CorruptError{Path: l.walPath(name), Reason: "no segment has this name"}
		}
		path := l.walPath(name)
		if n := len(l.mu.segments); n > 0 && l.mu.segments[n-1].number() > number {
			return &CorruptError{Path: path, Reason: "its header is bad, and there are segments behind it"}
		}
		f, err := l.fs.Open(path, 0)
		if err != nil {
			return err
		}
		r, err := newGroupReader(f, path, number)
		found := false
		if err == nil {
			found, _, err = r.findGroup(blockSize, number, 0)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if found {
			return &CorruptError{Path: path, Reason: "its header is bad, and groups of it are there"}
		}
		sp := fmt.Sprintf("spare-%016x", l.keep.mu.next)
		l.keep.mu.next++
		if err := l.fs.Rename(path, l.walPath(sp)); err != nil {
			return err
		}
		if err := l.foundSpare(sp); err != nil {
			return err
		}
	}
	return nil
}

// openIndexes reads the replay position and the partitions' rows from the checkpoint store, then the indexes of the segments before
// that position. The others are indexed by Replay, which reads them in any case.
func (l *Log) openIndexes() error {
	replay, err := l.ckpt.loadLogRows()
	if err != nil {
		return err
	}
	l.mu.replay = replay
	if err := l.openPartSegments(); err != nil {
		return err
	}
	for i, s := range l.mu.segments {
		if s.number() >= replay.Segment {
			if err := l.checkChain(i, replay); err != nil {
				return err
			}
			continue
		}
		if err := l.openIndex(s); err != nil {
			return err
		}
	}
	if n := len(l.mu.segments); n == 0 && replay.Segment != 0 || n > 0 && l.mu.segments[n-1].number() < replay.Segment {
		return &CorruptError{Path: l.walPath(segmentName(replay.Segment)), Reason: "the checkpoint needs this segment and it is not there"}
	}
	if n := len(l.mu.segments); n > 0 {
		for _, p := range l.mu.partitions {
			p.droppedIn = l.mu.segments[n-1].number()
		}
	}
	return nil
}

// checkChain makes sure that no segment is missing between the replay position and the i-th one.
func (l *Log) checkChain(i int, replay Position) error {
	s := l.mu.segments[i]
	want := s.header.prev
	if s.number() == replay.Segment || want == 0 && replay.Segment <= s.number() && i == 0 && replay.Segment == 0 {
		return nil
	}
	if i > 0 && l.mu.segments[i-1].number() == want {
		return nil
	}
	return &CorruptError{Path: l.walPath(segmentName(want)), Reason: "this segment is not there, and a later one is"}
}

// openIndex reads the index of a sealed segment, or marks it to be rebuilt, and maps it.
func (l *Log) openIndex(s *segment) error {
	b, err := vfs.ReadFile(l.fs, l.walPath(indexName(s.number())))
	if err != nil && !vfs.IsNotExist(err) {
		return err
	}
	if number, end, dirs, ok := parseIndex(b); ok && number == s.number() && (s.end == 0 || s.end == end) {
		s.end, s.indexed = end, true
		l.mu.Lock()
		l.adoptLocked(s, dirs)
		l.mu.Unlock()
		return s.mapFile(l.fs)
	}
	return nil
}

// Replay calls fn with each frame from the checkpoint on and the position behind it, in order of the log, and brings index and log end up to date. The
// frame is a view, valid during the call. A torn tail is cut; what is bad in the middle ends it with a *CorruptError and leaves the disk as it
// is. fn may be nil.
func (l *Log) Replay(fn func(record.Frame, Position) error) error {
	r := replayer{l: l, fn: fn, from: l.mu.replay, nextLog: l.clk.Mono() + progressEvery}
	for _, s := range l.mu.segments {
		if s.number() >= l.mu.replay.Segment {
			r.total += s.end
		}
	}
	for i, s := range l.mu.segments {
		if s.indexed {
			continue
		}
		if err := r.segment(s, i == len(l.mu.segments)-1); err != nil {
			return err
		}
	}
	if err := l.takeUp(&r); err != nil {
		return named(err)
	}
	l.buryReplayed()
	l.stats.ReplayedFrames.Store(r.frames)
	if r.bytes > 0 {
		l.log.Info("journal replayed", "dir", l.o.Dir, "from", l.mu.replay.String(), "frames", r.frames, "bytes", r.bytes)
	}
	l.replayed = true
	return nil
}

// replayer is one run of Replay.
type replayer struct {
	l       *Log
	fn      func(record.Frame, Position) error
	from    Position
	seq     uint64
	crc     uint32
	last    groupHeader
	stale   bool
	frames  int64
	bytes   int64
	total   int64
	nextLog time.Duration
}

// segment reads one segment. In the active one the first bad group is judged; in a sealed one it is corruption.
func (r *replayer) segment(s *segment, active bool) error {
	f, err := r.l.fs.Open(s.path, 0)
	if err != nil {
		return err
	}
	r.seq, r.crc, r.last = s.header.firstSeq, s.header.prevCRC, groupHeader{}
	g, err := newGroupReader(f, s.path, s.number())
	if err == nil {
		err = r.groups(s, g, active)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	s.indexed = true
	if active {
		return nil
	}
	if err := r.l.writeIndex(s); err != nil {
		r.l.log.Warn("cannot write a segment's index", "segment", s.number(), "err", err)
	}
	return s.mapFile(r.l.fs)
}

func (r *replayer) groups(s *segment, g *groupReader, active bool) error {
	ix := indexer{l: r.l}
	if s.number() > r.from.Segment {
		r.l.mu.Lock()
		s.heads = r.l.headsLocked()
		r.l.mu.Unlock()
	}
	if s.number() < r.from.Segment {
		ix.collect = make(map[record.PartitionID]*indexDir)
		defer r.adopt(s, ix.collect)
	}
	pos := int64(blockSize)
	for s.end == 0 || pos < s.end {
		h, frames, ok, err := g.group(pos, s.number(), r.seq, r.crc)
		if err != nil {
			return err
		}
		if !ok {
			// A sealed segment without a known end is one whose follower was recycled, and whose index is gone.
			if active || s.end == 0 {
				return r.judge(s, g, pos, active)
			}
			return &CorruptError{Path: s.path, Offset: pos, Reason: fmt.Sprintf("bad group %d, and the log goes on behind it", r.seq)}
		}
		r.l.mu.Lock()
		ix.addLocked(s, pos, frames, true)
		r.l.mu.Unlock()
		if err := r.deliver(s, pos, frames); err != nil {
			return err
		}
		r.seq, r.crc, r.last = h.seq+1, h.crc, h
		pos += h.size()
		r.bytes += h.size()
		r.progress(s)
	}
	return nil
}

// adopt enters what was collected of an old segment.
func (r *replayer) adopt(s *segment, collected map[record.PartitionID]*indexDir) {
	dirs := make([]indexDir, 0, len(collected))
	for _, d := range collected {
		dirs = append(dirs, *d)
	}
	r.l.mu.Lock()
	r.l.adoptLocked(s, dirs)
	r.l.mu.Unlock()
}

func (r *replayer) deliver(s *segment, pos int64, frames []byte) error {
	at := Position{Segment: s.number(), Offset: pos + groupHeaderSize}
	for len(frames) > 0 {
		f, n, err := record.DecodeFrame(frames)
		if err != nil {
			return &CorruptError{Path: s.path, Offset: at.Offset, Reason: "bad frame in a good group: " + err.Error()}
		}
		if !at.Before(r.from) {
			r.frames++
			if r.fn != nil {
				if err := r.fn(f, Position{Segment: at.Segment, Offset: at.Offset + int64(n)}); err != nil {
					return fmt.Errorf("replay frame at %s: %w", at, err)
				}
			}
		}
		at.Offset += int64(n)
		frames = frames[n:]
	}
	return nil
}

func (r *replayer) progress(s *segment) {
	now := r.l.clk.Mono()
	if now < r.nextLog {
		return
	}
	r.nextLog = now + progressEvery
	r.l.log.Info("journal is being replayed", "segment", s.number(), "bytes", r.bytes, "of", r.total, "frames", r.frames)
}

// judge decides what the first bad group of the active segment, at pos, means. docs/format/journal.md has the rules.
func (r *replayer) judge(s *segment, g *groupReader, pos int64, active bool) error {
	s.end = pos
	if r.last.flags&flagCleanEnd != 0 && active {
		return nil
	}
	for at := pos; ; at += blockSize {
		found, h, err := g.findGroup(at, s.number(), r.seq)
		if err != nil {
			return err
		}
		if !found {
			break
		}
		if h.flushed >= r.seq || h.seq == r.seq {
			return &CorruptError{Path: s.path, Offset: pos, Reason: fmt.Sprintf("bad group %d, and group %d is behind it", r.seq, h.seq)}
		}
		r.stale = true
		at = g.foundAt
	}
	if !active {
		return nil
	}
	torn, err := g.anything(pos, s.number())
	if err != nil {
		return err
	}
	if torn || r.stale {
		r.l.stats.TornCut.Add(1)
		r.l.log.Warn("journal ended in a torn write, which was never acknowledged; it is cut", "segment", s.number(), "at", pos)
	}
	return nil
}

// buryReplayed takes out of the index what the replay brought back and nobody needs. A log start that moved after the last checkpoint
// is known by what is not there any more, neither here nor elsewhere.
func (l *Log) buryReplayed() {
	elsewhere := l.o.Elsewhere
	if elsewhere == nil {
		elsewhere = func(record.PartitionID) (start, end record.Offset, ok bool) { return 0, 0, false }
	}
	l.mu.Lock()
	var dead []*segment
	for _, p := range l.mu.partitions {
		dead = append(dead, l.buryLocked(p)...)
		first := p.end
		if len(p.refs) > 0 {
			first = p.refs[0].begin(0)
		}
		if start, end, ok := elsewhere(p.id); ok && !p.dropped {
			if p.end = max(p.end, end); end >= first {
				first = min(first, start)
			}
			p.local = p.behindGap(start, end)
			dead = append(dead, l.buryLocked(p)...)
		}
		p.start = max(p.start, min(first, p.end))
	}
	l.mu.Unlock()
	l.keep.bury(dead)
}

// behindGap is where the last piece begins, or the partition ends, that has a gap before it which another place fills, with what comes before; 0: none has. A restart
// makes such gaps: local starts are forgotten, and of what lies below them a segment's index has what was there when it was written. Readers would
// take a gap for records that are not there.
func (p *partition) behindGap(start, end record.Offset) record.Offset {
	if n := len(p.refs); n > 0 && p.refs[n-1].last+1 < p.end && start <= p.refs[n-1].last+1 && p.end <= end {
		return p.end
	}
	for i := len(p.refs) - 1; i > 0; i-- {
		gap, here := p.refs[i-1].last+1, p.refs[i].begin(0)
		switch {
		case gap == here:
		case start <= gap && here <= end:
			return here
		default:
			return 0 // what lay there was deleted, and so was what came before
		}
	}
	return 0
}

// takeUp hands the log's end to the committer.
func (l *Log) takeUp(r *replayer) error {
	if len(l.mu.segments) == 0 {
		return nil
	}
	s := l.mu.segments[len(l.mu.segments)-1]
	c := &l.com
	c.active, c.seq, c.prevCRC = s, r.seq-1, r.crc
	c.mustRotate = r.stale || s.header.mode != uint32(l.o.Durability)+1
	c.clean = r.last.flags&flagCleanEnd != 0
	c.written.Store(c.seq)
	c.flushedFile.Store(s)
	if err := l.openForWriting(s); err != nil {
		return err
	}
	l.mapActive(s)
	if l.o.Durability == Async || s.header.mode != uint32(Sync)+1 {
		// What is there was read from memory, perhaps: from here on it counts as flushed.
		if err := s.file.Sync(); err != nil {
			return err
		}
	}
	c.flushedSeq.Store(c.seq)
	return nil
}

// groupReader reads groups of one file, a step at a time.
type groupReader struct {
	f       vfs.File
	path    string
	size    int64 // of the file: nothing that claims to reach beyond it is believed
	seed    uint32
	buf     []byte
	off     int64 // of buf in the file
	foundAt int64
}

func newGroupReader(f vfs.File, path string, segment uint64) (*groupReader, error) {
	size, err := f.Size()
	return &groupReader{f: f, path: path, size: size, seed: groupSeed(segment)}, err
}

// view gives n bytes at pos, or fewer at the end of the file.
func (g *groupReader) view(pos int64, n int) ([]byte, error) {
	if pos >= g.off && pos+int64(n) <= g.off+int64(len(g.buf)) {
		return g.buf[pos-g.off:][:n], nil
	}
	want := max(n, readStep)
	if cap(g.buf) < want {
		g.buf = make([]byte, want)
	}
	k, err := g.f.ReadAt(g.buf[:want], pos)
	g.buf, g.off = g.buf[:k], pos
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s at %d: %w", g.path, pos, err)
	}
	return g.buf[:min(n, k)], nil
}

// group reads the group at pos and verifies it; ok is false for anything else than the one expected.
func (g *groupReader) group(pos int64, segment, seq uint64, prevCRC uint32) (h groupHeader, frames []byte, ok bool, err error) {
	h, frames, ok, err = g.any(pos, segment)
	if !ok || err != nil || h.seq != seq || h.prevCRC != prevCRC {
		return h, nil, false, err
	}
	return h, frames, true, nil
}

// any reads whatever good group of the segment is at pos.
func (g *groupReader) any(pos int64, segment uint64) (h groupHeader, frames []byte, ok bool, err error) {
	b, err := g.view(pos, groupHeaderSize)
	if err != nil {
		return h, nil, false, err
	}
	h, ok = parseGroupHeader(b)
	n := groupHeaderSize + int(h.length)
	if !ok || h.segment != segment || pos+int64(n) > g.size {
		return h, nil, false, nil
	}
	if b, err = g.view(pos, n); err != nil {
		return h, nil, false, err
	}
	if len(b) < n || groupCRC(g.seed, b) != h.crc {
		return h, nil, false, nil
	}
	return h, b[groupHeaderSize:], true, nil
}

// findGroup looks from pos to the end of the file for a good group of the segment with at least this sequence.
func (g *groupReader) findGroup(pos int64, segment, seq uint64) (found bool, h groupHeader, err error) {
	for at := pos; ; at += blockSize {
		b, err := g.view(at, groupHeaderSize)
		if err != nil {
			return false, h, err
		}
		if len(b) < groupHeaderSize {
			return false, h, nil
		}
		if h, ok := parseGroupHeader(b); !ok || h.segment != segment || h.seq < seq {
			continue
		}
		h, _, ok, err := g.any(at, segment)
		if err != nil {
			return false, h, err
		}
		if ok {
			g.foundAt = at
			return true, h, nil
		}
	}
}

// anything tells whether the block at pos begins a group of this segment, however bad: a write was torn there.
func (g *groupReader) anything(pos int64, segment uint64) (bool, error) {
	b, err := g.view(pos, groupHeaderSize)
	if err != nil {
		return false, err
	}
	h, ok := parseGroupHeader(b)
	return ok && h.segment == segment, nil
}
