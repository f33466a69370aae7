package journal

import (
	"encoding/binary"
	"hash/crc32"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/internal/invariant"
	"github.com/sluicemq/sluice/internal/vfs"
)

const (
	blockSize       = vfs.BlockSize
	groupHeaderSize = 64
	groupMagic      = 0x31474c53 // "SLG1"
	groupFormat     = 1
	flagCleanEnd    = 1

	// chunksSpare is how many staging buffers are kept for reuse, beside the one that is being filled.
	chunksSpare = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func alignUp(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// groupHeader is the header of a group. docs/format/journal.md draws it.
type groupHeader struct {
	flags   uint16
	segment uint64
	seq     uint64
	prevCRC uint32
	crc     uint32
	length  uint32
	frames  uint32
	flushed uint64
	time    int64
}

// put writes h into the head of b and seals it: b is header and frames, seed groupSeed of the segment.
func (h *groupHeader) put(b []byte, seed uint32) {
	le := binary.LittleEndian
	clear(b[:groupHeaderSize])
	le.PutUint32(b[0:], groupMagic)
	le.PutUint16(b[4:], groupFormat)
	le.PutUint16(b[6:], h.flags)
	le.PutUint64(b[8:], h.segment)
	le.PutUint64(b[16:], h.seq)
	le.PutUint32(b[24:], h.prevCRC)
	le.PutUint32(b[32:], h.length)
	le.PutUint32(b[36:], h.frames)
	le.PutUint64(b[40:], h.flushed)
	le.PutUint64(b[48:], uint64(h.time))
	h.crc = groupCRC(seed, b)
	le.PutUint32(b[28:], h.crc)
}

// parseGroupHeader reads what claims to be a group's header; only the magic and format are checked.
func parseGroupHeader(b []byte) (h groupHeader, ok bool) {
	le := binary.LittleEndian
	if len(b) < groupHeaderSize || le.Uint32(b) != groupMagic || le.Uint16(b[4:]) != groupFormat {
		return h, false
	}
	return groupHeader{
		flags: le.Uint16(b[6:]), segment: le.Uint64(b[8:]), seq: le.Uint64(b[16:]), prevCRC: le.Uint32(b[24:]),
		crc: le.Uint32(b[28:]), length: le.Uint32(b[32:]), frames: le.Uint32(b[36:]), flushed: le.Uint64(b[40:]),
		time: int64(le.Uint64(b[48:])),
	}, true
}

// size is what the group takes in its segment.
func (h *groupHeader) size() int64 { return alignUp(groupHeaderSize + int64(h.length)) }

// groupSeed begins the checksums of a segment's groups with its number, so that what a recycled file held before never passes.
func groupSeed(segment uint64) uint32 {
	return crc32.Update(0, castagnoli, binary.LittleEndian.AppendUint64(nil, segment))
}

var noCRC [4]byte // stands where the checksum itself will be

// groupCRC is the checksum of a group, header and frames, of the segment with this seed.
func groupCRC(seed uint32, b []byte) uint32 {
	crc := crc32.Update(seed, castagnoli, b[:28])
	crc = crc32.Update(crc, castagnoli, noCRC[:])
	return crc32.Update(crc, castagnoli, b[32:])
}

// Group is one committed write. It is reference-counted: its bytes stay as they are until the last reference is released.
type Group struct {
	refs   atomic.Int32
	count  int
	seq    uint64
	at     Position // of its header
	shards shardSet // that it has frames of
	held   shardSet // of these, if it is shown before it is written, those that are not
	size   int64
	frames []byte
	chunk  *chunk
}

var groupPool = sync.Pool{New: func() any { return new(Group) }}

// Frames are the whole frames as the Source gathered them. A view: valid as long as a reference is held.
func (g *Group) Frames() []byte { return g.frames }

// Count is the number of frames.
func (g *Group) Count() int { return g.count }

// Sequence is the group's number in the log.
func (g *Group) Sequence() uint64 { return g.seq }

// Position is where the first frame lies.
func (g *Group) Position() Position {
	return Position{Segment: g.at.Segment, Offset: g.at.Offset + groupHeaderSize}
}

// End is where the group ends: a checkpoint that includes it stands there.
func (g *Group) End() Position { return Position{Segment: g.at.Segment, Offset: g.at.Offset + g.size} }

// Retain adds a reference. Any goroutine that holds one may.
func (g *Group) Retain() { g.refs.Add(1) }

// Release drops a reference.
func (g *Group) Release() {
	n := g.refs.Add(-1)
	invariant.Check(n >= 0, "group released too often")
	if n != 0 {
		return
	}
	c := g.chunk
	g.chunk, g.frames = nil, nil
	groupPool.Put(g)
	c.release()
}

// chunk is a staging buffer: groups are gathered into it one behind the other, each on a block, and written from it. It has a
// reference for each of its groups, and one while it is being filled.
type chunk struct {
	refs atomic.Int32
	buf  []byte
	used int
	tail *tail
}

func (c *chunk) release() {
	if c.refs.Add(-1) == 0 {
		c.tail.giveBack(c)
	}
}

// tail keeps the newest groups in memory for readers, within a bound, and the staging buffers that they lie in.
type tail struct {
	bytesMax  int64
	chunkSize int
	alive     atomic.Int64 // bytes of staging buffers that somebody holds

	mu struct {
		sync.RWMutex
		groups []*Group // oldest first, by position
		head   int      // groups before it have left
		bytes  int64
		spare  []*chunk
	}
}

func (t *tail) init(bytesMax int64, groupBytesMax int) {
	t.bytesMax = bytesMax
	t.chunkSize = int(alignUp(int64(2*groupBytesMax + groupHeaderSize)))
}

// newChunk gives a buffer with one reference and room for at least n bytes.
func (t *tail) newChunk(n int) *chunk {
	if n <= t.chunkSize {
		t.mu.Lock()
		if k := len(t.mu.spare); k > 0 {
			c := t.mu.spare[k-1]
			t.mu.spare = t.mu.spare[:k-1]
			t.mu.Unlock()
			c.used = 0
			c.refs.Store(1)
			t.alive.Add(int64(len(c.buf)))
			return c
		}
		t.mu.Unlock()
		n = t.chunkSize
	}
	c := &chunk{buf: vfs.AlignedBytes(int(alignUp(int64(n)))), tail: t}
	c.refs.Store(1)
	t.alive.Add(int64(len(c.buf)))
	return c
}

// crowded says that readers hold so much of what has left the tail that it does them no more favours: what they get is a copy. At most
// another tail's worth can be added to what they hold, since they hold only what was in the tail.
func (t *tail) crowded() bool { return t.alive.Load() > 2*t.bytesMax+4*int64(t.chunkSize) }

func (t *tail) giveBack(c *chunk) {
	t.alive.Add(-int64(len(c.buf)))
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(c.buf) == t.chunkSize && len(t.mu.spare) < chunksSpare {
		t.mu.spare = append(t.mu.spare, c)
	}
}

// add takes over one reference of g, and lets the oldest go. The newest stays in any case: a reader is likely to want it.
func (t *tail) add(g *Group, gone []*Group) (_ []*Group, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := &t.mu
	if m.head > 0 && len(m.groups) == cap(m.groups) {
		n := copy(m.groups, m.groups[m.head:])
		clear(m.groups[n:])
		m.groups, m.head = m.groups[:n], 0
	}
	m.groups = append(m.groups, g)
	m.bytes += g.size
	for m.bytes > t.bytesMax && m.head < len(m.groups)-1 {
		old := m.groups[m.head]
		m.groups[m.head] = nil
		m.head++
		m.bytes -= old.size
		gone = append(gone, old) // released by the caller: a release may take the lock
	}
	return gone, m.bytes
}

// find gives the group that holds the byte at p, with a reference for the caller, or nil.
func (t *tail) find(p Position) *Group {
	t.mu.RLock()
	defer t.mu.RUnlock()
	live := t.mu.groups[t.mu.head:]
	i := sort.Search(len(live), func(i int) bool { return p.Before(live[i].at) }) - 1
	if i < 0 || live[i].at.Segment != p.Segment || p.Offset >= live[i].at.Offset+live[i].size {
		return nil
	}
	live[i].Retain()
	return live[i]
}

func (t *tail) clear() {
	t.mu.Lock()
	groups := t.mu.groups[t.mu.head:]
	t.mu.groups, t.mu.head, t.mu.bytes = nil, 0, 0
	t.mu.Unlock()
	for _, g := range groups {
		g.Release()
	}
}
