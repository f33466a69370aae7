package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// ErrGone means that the log does not reach back to what was asked for.
var ErrGone = errors.New("journal: what was asked for is not in the log any more")

// Scanner reads the log's groups in order, from a place on, and waits for what comes. It keeps all that lies ahead of it in the log, so who
// falls far behind is best closed. Not for concurrent use, but Ready's channel. Log.Close waits for Close; Next answers ErrClosed from then on.
type Scanner struct {
	l     *Log
	at    Position // mu.at, of Next
	held  Position // the log is kept from here on; guarded by Log.mu
	group *Group   // of the last Next, if the tail had it
	ahead bool     // guarded by Log.mu
	file  vfs.File
	fileN uint64 // its segment
	buf   []byte
	ready chan struct{}
	only  bool     // it looks for frames of some shards; guarded by Log.mu
	of    shardSet // of these; likewise

	mu struct {
		sync.Mutex          // behind Log.mu
		at         Position // of the next group
		passed     int64
		waits      bool // Next has answered nothing: at and passed are the committer's to move
	}

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
// first frame whether it does. It is the latest such place that is known: for a shard of which nothing was written since the log was opened, the oldest there is.
func (l *Log) ShardPosition(shard record.ShardID, index uint64) Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := l.chainLocked()
	var mark shardMark
	if int(shard) < len(l.mu.shards) {
		mark = l.mu.shards[shard]
	}
	for i := len(list) - 1; i >= 0; i-- {
		if mark.from != 0 && index >= mark.from && list[i].number() <= mark.first.Segment { // what lies before it is older, or taken back
			return Position{Segment: list[i].number(), Offset: blockSize}
		}
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
	sc := &Scanner{l: l, ready: make(chan struct{}, 1)}
	at := from
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing.Load() {
		return nil, ErrClosed
	}
	list := l.chainLocked()
	switch {
	case from == (Position{}) && len(list) > 0:
		at = Position{Segment: list[0].number(), Offset: blockSize}
	case from == (Position{}):
		at = Position{Segment: 1, Offset: blockSize}
	case len(list) == 0 || from.Segment < list[0].number() || from.Segment > list[len(list)-1].number():
		return nil, fmt.Errorf("scan from %s: %w", from, ErrGone)
	}
	sc.mu.at, sc.held = at, Position{Segment: at.Segment}
	l.mu.scanners = append(l.mu.scanners, sc)
	l.backups.Add(1)
	return sc, nil
}

// wakeScanners tells those of a group that is shown that take it ahead and look for what it has; of none, all.
func (l *Log) wakeScanners(g *Group) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, sc := range l.mu.scanners {
		if g == nil || sc.takesAhead(g) && !sc.passesOver(g) {
			sc.wake()
		}
	}
}

func (sc *Scanner) wake() {
	select {
	case sc.ready <- struct{}{}:
	default: // it knows
	}
}

// passesOver tells whether a group has nothing that is looked for.
func (sc *Scanner) passesOver(g *Group) bool { return sc.only && !sc.of.meets(&g.shards) }

// takesAhead tells whether a scanner may have a group before it is written: nothing that it looks for is held back.
func (sc *Scanner) takesAhead(g *Group) bool {
	if !sc.only {
		return sc.ahead && g.held == shardSet{}
	}
	return sc.ahead && !sc.of.meets(&g.held)
}

// passesLocked has a scanner that waits pass over a group that is in the log now, if there is nothing for it in there, and says whether nobody need be woken.
func (sc *Scanner) passesLocked(g *Group) bool {
	if !sc.passesOver(g) {
		return false
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	switch {
	case !sc.mu.waits: // it comes by, if it has not
	case sc.mu.at == g.at:
		sc.mu.at.Offset += g.size
		sc.mu.passed += g.size
	case sc.mu.at.Before(g.at): // it has not heard of another segment yet
		return false
	}
	return true
}

// shardSet are shards, by their numbers modulo its size: what is in may be another one.
type shardSet [4]uint64

func (s *shardSet) add(shard record.ShardID) { s[shard/64%4] |= 1 << (shard % 64) }

func (s *shardSet) meets(o *shardSet) bool {
	return s[0]&o[0]|s[1]&o[1]|s[2]&o[2]|s[3]&o[3] != 0
}

// Only has Next pass over groups that have nothing of these shards, n from first on, where that is known without reading them, and Ready say nothing of them:
// a scanner whose shards are idle costs nothing, and holds no more of the log than it would. It comes before the first Next.
func (sc *Scanner) Only(first record.ShardID, n int) {
	l := sc.l
	l.mu.Lock()
	defer l.mu.Unlock()
	sc.only = true
	for i := range n {
		sc.of.add(first + record.ShardID(i))
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

// Position is where the next group will be: a Scan may go on there. passed is how many bytes of the log it has gone over so far, groups with their heads and
// what fills them up. Any goroutine may ask.
func (sc *Scanner) Position() (at Position, passed int64) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.mu.at, sc.mu.passed
}

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
			shown = l.tail.find(sc.at)
			if shown == nil {
				return sc.read(s)
			}
		case shown == nil && !sealed:
			return nil, at, nil
		}
		if shown == nil {
			sc.next()
			continue
		}
		sc.group = shown
		sc.step(shown.size)
		if !sc.passesOver(shown) {
			return shown.frames, shown.Position(), nil
		}
		sc.letGo()
	}
}

// next goes on to the next segment.
func (sc *Scanner) next() {
	l := sc.l
	l.mu.Lock()
	sc.held = Position{Segment: sc.at.Segment + 1}
	sc.moveTo(Position{Segment: sc.at.Segment + 1, Offset: blockSize}, 0)
	l.mu.Unlock()
	l.keep.wake()
}

// look finds the segment at sc.at, where it ends, and the group at sc.at that is being written, retained, if it is shown. It is one look: a group that is written moves from
// the one place to the other, and who was woken when it was shown is not woken then.
func (sc *Scanner) look() (s *segment, end int64, sealed bool, shown *Group, err error) {
	l := sc.l
	l.mu.RLock()
	defer l.mu.RUnlock()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.at, sc.mu.waits = sc.mu.at, false
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
		sc.mu.waits = true
		return nil, 0, false, nil, nil // a segment's successor comes with its first group
	}
	s = list[i]
	if g := l.mu.ahead; g != nil && g.at == sc.at && sc.takesAhead(g) {
		g.Retain()
		shown = g
	}
	sc.mu.waits = shown == nil && !s.sealed && sc.at.Offset >= s.end
	return s, s.end, s.sealed, shown, nil
}

// read reads the group at sc.at, which the tail does not have, and goes on behind it. A mark of a clean end has no frames: the next group is read.
func (sc *Scanner) read(s *segment) (frames []byte, at Position, err error) {
	at = Position{Segment: s.number(), Offset: sc.at.Offset + groupHeaderSize}
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
	sc.moveTo(Position{Segment: sc.at.Segment, Offset: sc.at.Offset + n}, n)
}

func (sc *Scanner) moveTo(at Position, n int64) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.at, sc.mu.at = at, at
	sc.mu.passed += n
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
	l.backups.Done()
	l.keep.wake()
}
