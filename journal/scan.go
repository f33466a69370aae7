package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// ErrGone means that the log does not reach back to what was asked for.
var ErrGone = errors.New("journal: what was asked for is not in the log any more")

// Scanner reads the log's groups in order, from a place on, and waits for what comes. It keeps all that lies ahead of it in the log, so who
// falls far behind is best closed. Not for concurrent use, but Ready's channel. Log.Close waits for Close; Next answers ErrClosed from then on.
type Scanner struct {
	l     *Log
	at    Position // of the next group
	held  Position // the log is kept from here on; guarded by Log.mu
	group *Group   // of the last Next, if the tail had it
	ahead bool     // guarded by Log.mu
	file  vfs.File
	fileN uint64 // its segment
	buf   []byte
	ready chan struct{}

	passed int64

	looked func() // nil, but in tests: Next has looked at what there is
}

// headsLocked are the shards' last indexes.
func (l *Log) headsLocked() []uint64 {
	heads := make([]uint64, len(l.mu.shards))
	for i := range heads {
		heads[i] = l.mu.shards[i].index
	}
	return heads
}

// ShardPosition is a place from which a scan finds all frames of the shard from this index on, if the log has them: whoever scans sees by the
// first frame whether it does. It is the latest such place that is known, which after a restart may be the oldest there is.
func (l *Log) ShardPosition(shard record.ShardID, index uint64) Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := l.chainLocked()
	for i := len(list) - 1; i >= 0; i-- {
		if h := list[i].heads; i == 0 || int(shard) < len(h) && h[shard] != 0 && h[shard] < index {
			return Position{Segment: list[i].number(), Offset: blockSize}
		}
	}
	return Position{}
}

// chainLocked are the latest segments between which none is missing.
func (l *Log) chainLocked() []*segment {
	list := l.mu.segments
	for i := len(list) - 1; i > 0; i-- {
		if list[i-1].number()+1 != list[i].number() {
			return list[i:]
		}
	}
	return list
}

// Scan begins to read at the group at from, which is ShardPosition's, or where a Scanner stood; the zero Position is the oldest one from which
// on nothing is missing. Errors: ErrGone, ErrClosed, ErrNotReplayed.
func (l *Log) Scan(from Position) (*Scanner, error) {
	if !l.replayed {
		return nil, ErrNotReplayed
	}
	sc := &Scanner{l: l, at: from, ready: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing.Load() {
		return nil, ErrClosed
	}
	list := l.chainLocked()
	switch {
	case from == (Position{}) && len(list) > 0:
		sc.at = Position{Segment: list[0].number(), Offset: blockSize}
	case from == (Position{}):
		sc.at = Position{Segment: 1, Offset: blockSize}
	case len(list) == 0 || from.Segment < list[0].number() || from.Segment > list[len(list)-1].number():
		return nil, fmt.Errorf("scan from %s: %w", from, ErrGone)
	}
	sc.held = Position{Segment: sc.at.Segment}
	l.mu.scanners = append(l.mu.scanners, sc)
	l.scanning.Add(1)
	l.backups.Add(1)
	return sc, nil
}

// wakeScanners tells those of a group that take it ahead, or the others.
func (l *Log) wakeScanners(ahead, others bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, sc := range l.mu.scanners {
		if sc.ahead && !ahead || !sc.ahead && !others {
			continue
		}
		select {
		case sc.ready <- struct{}{}:
		default: // it knows
		}
	}
}

// Ahead has Next give groups before they are written, those of which the Source says that they may be (AheadSource): who takes them over is as far as the log
// is while it still writes. A log that then cannot write one takes no more writes at all, also if its disk was full.
func (sc *Scanner) Ahead() {
	l := sc.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if !sc.ahead {
		sc.ahead = true
		l.aheads.Add(1)
	}
}

// Ready gets a value after Next has answered nothing, once there is more.
func (sc *Scanner) Ready() <-chan struct{} { return sc.ready }

// Position is where the next group will be: a Scan may go on there.
func (sc *Scanner) Position() Position { return sc.at }

// Passed is how many bytes of the log it has gone over so far, groups with their heads and what fills them up. It is for who calls Next.
func (sc *Scanner) Passed() int64 { return sc.passed }

// SizeFrom is how many bytes of the log lie from a Scanner's Position on, as far as they are written.
func (l *Log) SizeFrom(at Position) (n int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := len(l.mu.segments) - 1; i >= 0; i-- {
		s := l.mu.segments[i]
		if s.number() < at.Segment {
			break
		}
		from := int64(blockSize)
		if s.number() == at.Segment {
			from = at.Offset
		}
		n += max(s.end-from, 0)
	}
	return n
}

// Next gives the frames of the next group and where the first of them lies: a view, until the next call. No frames: there are no more yet. What
// a KindTruncate has taken back is there as well, before it. It may wait for the disk. Errors: ErrClosed, ErrGone, ErrIO, *CorruptError; they last.
func (sc *Scanner) Next() (frames []byte, at Position, err error) {
	l := sc.l
	sc.letGo()
	for {
		if l.closing.Load() {
			return nil, at, ErrClosed
		}
		s, end, sealed, shown, err := sc.look()
		if sc.looked != nil {
			sc.looked()
		}
		switch {
		case err != nil || s == nil:
			return nil, at, err
		case sc.at.Offset < end:
			return sc.read(s)
		case shown != nil:
			sc.group = shown
			sc.step(shown.size)
			return shown.frames, shown.Position(), nil
		case !sealed:
			return nil, at, nil
		}
		sc.at = Position{Segment: s.number() + 1, Offset: blockSize}
		l.mu.Lock()
		sc.held = Position{Segment: sc.at.Segment}
		l.mu.Unlock()
		l.keep.wake()
	}
}

// look finds the segment at sc.at, where it ends, and the group at sc.at that is being written, retained, if it is shown. It is one look: a group that is written moves from
// the one place to the other, and who was woken when it was shown is not woken then.
func (sc *Scanner) look() (s *segment, end int64, sealed bool, shown *Group, err error) {
	l := sc.l
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := l.mu.segments
	i, ok := slices.BinarySearchFunc(list, sc.at.Segment, func(s *segment, n uint64) int {
		switch {
		case s.number() < n:
			return -1
		case s.number() > n:
			return 1
		}
		return 0
	})
	switch {
	case !ok && i < len(list):
		return nil, 0, false, nil, fmt.Errorf("scan at %s: %w", sc.at, ErrGone)
	case !ok:
		return nil, 0, false, nil, nil // a segment's successor comes with its first group
	}
	s = list[i]
	if g := l.mu.ahead; g != nil && sc.ahead && g.at == sc.at {
		g.Retain()
		shown = g
	}
	return s, s.end, s.sealed, shown, nil
}

// read reads the group at sc.at, and goes on behind it. A mark of a clean end has no frames: the next group is read.
func (sc *Scanner) read(s *segment) (frames []byte, at Position, err error) {
	at = Position{Segment: s.number(), Offset: sc.at.Offset + groupHeaderSize}
	if g := sc.l.tail.find(sc.at); g != nil {
		sc.group = g
		sc.step(g.size)
		return g.frames, at, nil
	}
	var head [groupHeaderSize]byte
	if err := sc.readAt(s, head[:]); err != nil {
		return nil, at, err
	}
	h, ok := parseGroupHeader(head[:])
	if !ok || h.segment != s.number() || sc.at.Offset+h.size() > s.size {
		return nil, at, &CorruptError{Path: s.path, Offset: sc.at.Offset, Reason: "no group where one was written"}
	}
	n := groupHeaderSize + int(h.length)
	if cap(sc.buf) < n {
		sc.buf = make([]byte, n)
	}
	b := sc.buf[:n]
	if err := sc.readAt(s, b); err != nil {
		return nil, at, err
	}
	if groupCRC(s.seed, b) != h.crc {
		return nil, at, &CorruptError{Path: s.path, Offset: sc.at.Offset, Reason: "a group's checksum is wrong"}
	}
	sc.step(h.size())
	if h.length == 0 {
		return sc.Next()
	}
	return b[groupHeaderSize:], at, nil
}

func (sc *Scanner) step(n int64) {
	sc.at.Offset += n
	sc.passed += n
}

func (sc *Scanner) readAt(s *segment, b []byte) error {
	if sc.file == nil || sc.fileN != s.number() {
		sc.closeFile()
		f, err := sc.l.fs.Open(s.path, 0)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrIO, s.path, err)
		}
		sc.file, sc.fileN = f, s.number()
	}
	if _, err := sc.file.ReadAt(b, sc.at.Offset); err != nil {
		return fmt.Errorf("%w: %s at %d: %w", ErrIO, s.path, sc.at.Offset, err)
	}
	return nil
}

func (sc *Scanner) letGo() {
	if sc.group != nil {
		sc.group.Release()
		sc.group = nil
	}
}

func (sc *Scanner) closeFile() {
	if sc.file != nil {
		_ = sc.file.Close() // it was read only
		sc.file = nil
	}
}

// Close lets the log go. It is called once.
func (sc *Scanner) Close() {
	l := sc.l
	sc.letGo()
	sc.closeFile()
	l.mu.Lock()
	l.mu.scanners = slices.DeleteFunc(l.mu.scanners, func(o *Scanner) bool { return o == sc })
	ahead := sc.ahead
	l.mu.Unlock()
	if ahead {
		l.aheads.Add(-1)
	}
	l.scanning.Add(-1)
	l.backups.Done()
	l.keep.wake()
}
