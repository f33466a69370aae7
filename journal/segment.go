package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"

	"github.com/sluicemq/sluice/internal/vfs"
)

const (
	segmentMagic  = "SLUICEWL"
	segmentFormat = 1
	featureLevel  = 0
)

// segmentHeader is the first block of a segment. docs/format/journal.md draws it.
type segmentHeader struct {
	number   uint64
	firstSeq uint64
	prev     uint64 // number of the segment before, 0: none
	prevEnd  int64
	prevCRC  uint32
	mode     uint32
	created  int64
	size     int64 // bytes that the file was made with; 0 in a partition segment
}

func (h *segmentHeader) put(b []byte) {
	le := binary.LittleEndian
	clear(b[:blockSize])
	copy(b, segmentMagic)
	le.PutUint16(b[8:], segmentFormat)
	le.PutUint16(b[10:], featureLevel)
	le.PutUint32(b[12:], blockSize)
	le.PutUint64(b[16:], h.number)
	le.PutUint64(b[24:], h.firstSeq)
	le.PutUint64(b[32:], h.prev)
	le.PutUint64(b[40:], uint64(h.prevEnd))
	le.PutUint32(b[48:], h.prevCRC)
	le.PutUint32(b[52:], h.mode)
	le.PutUint64(b[56:], uint64(h.created))
	le.PutUint64(b[68:], uint64(h.size))
	le.PutUint32(b[64:], crc32.Checksum(b[:blockSize], castagnoli))
}

// parseSegmentHeader reads and verifies a header; ok is false for anything that is not one. A header that is whole but of a newer
// format is a *FormatError.
func parseSegmentHeader(b []byte, path string) (h segmentHeader, ok bool, err error) {
	le := binary.LittleEndian
	if len(b) < blockSize || string(b[:8]) != segmentMagic {
		return h, false, nil
	}
	var zero [4]byte
	crc := crc32.Update(0, castagnoli, b[:64])
	crc = crc32.Update(crc, castagnoli, zero[:])
	if crc32.Update(crc, castagnoli, b[68:blockSize]) != le.Uint32(b[64:]) {
		return h, false, nil
	}
	if f, l, bs := le.Uint16(b[8:]), le.Uint16(b[10:]), le.Uint32(b[12:]); f != segmentFormat || l > featureLevel || bs != blockSize {
		return h, false, &FormatError{Path: path, Found: fmt.Sprintf("format %d, features %d, blocks of %d", f, l, bs), Known: segmentFormat}
	}
	return segmentHeader{
		number: le.Uint64(b[16:]), firstSeq: le.Uint64(b[24:]), prev: le.Uint64(b[32:]), prevEnd: int64(le.Uint64(b[40:])),
		prevCRC: le.Uint32(b[48:]), mode: le.Uint32(b[52:]), created: int64(le.Uint64(b[56:])),
		size: int64(le.Uint64(b[68:])),
	}, true, nil
}

// segment is a file with frames: one of the log, or a partition segment. Readers hold it while they use its bytes.
type segment struct {
	header  segmentHeader // of a partition segment the number alone, which counts apart
	path    string
	size    int64
	seed    uint32             // of its groups' checksums
	part    bool               // a partition segment
	readers atomic.Int32       // grows under Log.mu only, while the segment is listed
	dying   atomic.Bool        // no longer listed
	drop    bool               // a dying segment's file is deleted, not recycled
	mapped  atomic.Pointer[mp] // nil: it could not be mapped
	touched atomic.Bool        // some of it may be in this process's memory

	// The committer's while active, then constant; Log.mu guards the change.
	end    int64
	sealed bool

	file   vfs.File // for writing; nil once sealed
	reader vfs.File // for reading what is not mapped

	// Guarded by Log.mu.
	live    int64 // bytes of records' frames that somebody may need
	total   int64 // bytes of records' frames
	indexed bool  // its index is known
	refs    []*ref
	heads   []uint64 // by shard: the index of its last frame before the segment; 0: none, or not known. nil: of none
}

// mp is a mapping behind an atomic pointer.
type mp struct{ vfs.Mapping }

func (s *segment) number() uint64 { return s.header.number }

// release lets a reader go. The keeper looks at what is dying; it learns of it here.
func (s *segment) release(l *Log) {
	if s.readers.Add(-1) == 0 && s.dying.Load() {
		l.keep.wake()
	}
}

func (s *segment) close() error {
	var errs []error
	if m := s.mapped.Swap(nil); m != nil {
		errs = append(errs, m.Close())
	}
	if s.file != nil {
		errs = append(errs, s.file.Close())
	}
	if s.reader != nil && s.reader != s.file {
		errs = append(errs, s.reader.Close())
	}
	s.file, s.reader = nil, nil
	return errors.Join(errs...)
}

// mapFile maps a sealed segment, or a partition segment. It stays readable by its file if that fails.
func (s *segment) mapFile(fsys vfs.FS) error {
	if s.end <= 0 {
		return nil
	}
	return s.mapBytes(fsys, s.end)
}

// mapActive maps the segment that is written to. Writing goes past the page cache, and the kernel takes the pages of what is written out of
// it, before and after: what is read later is read anew. Readers look at committed groups alone, and a group has its blocks for itself. So
// no page that they have seen changes, and what the file held before it was recycled is never looked at.
func (l *Log) mapActive(s *segment) {
	if err := s.mapBytes(l.fs, s.size); err != nil {
		l.log.Warn("cannot map the active segment", "segment", s.number(), "err", err)
	}
}

// mapBytes maps the first so many bytes of the file.
func (s *segment) mapBytes(fsys vfs.FS, n int64) error {
	if s.mapped.Load() != nil {
		return nil
	}
	f, err := fsys.Open(s.path, 0)
	if err != nil {
		return err
	}
	if size, err := f.Size(); err != nil || size < n {
		if err == nil {
			err = &CorruptError{Path: s.path, Offset: size, Reason: fmt.Sprintf("the file has been cut: it had %d bytes", n)}
		}
		return errors.Join(err, f.Close())
	}
	m, err := f.Map(0, n, false)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	s.mapped.Store(&mp{m})
	return nil
}

func (l *Log) walPath(name string) string { return l.o.Dir + "/wal/" + name }

func segmentName(number uint64) string { return fmt.Sprintf("%016x.log", number) }

func indexName(number uint64) string { return fmt.Sprintf("%016x.idx", number) }

// openForWriting opens the file of the segment that becomes active, or goes on being it.
func (l *Log) openForWriting(s *segment) error {
	flag := vfs.Write
	if l.o.Durability == Sync {
		flag |= vfs.Direct
	}
	f, err := l.fs.Open(s.path, flag)
	if err != nil {
		return err
	}
	r := f
	if f.Direct() == vfs.DirectSync {
		if r, err = l.fs.Open(s.path, vfs.Random); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	s.file, s.reader = f, r
	return nil
}

// newActive makes the spare file at path the segment behind prev (nil: the first): renames it, writes its header, flushes both.
// What prev holds must be flushed by now: the new header vouches for it.
func (l *Log) newActive(sp spare, prev *segment, firstSeq uint64, prevCRC uint32) (*segment, error) {
	h := segmentHeader{number: 1, firstSeq: firstSeq, prevCRC: prevCRC, mode: uint32(l.o.Durability) + 1, created: l.clk.Now().UnixMilli(), size: sp.size}
	if prev != nil {
		h.number, h.prev, h.prevEnd = prev.number()+1, prev.number(), prev.end
	}
	s := &segment{header: h, path: l.walPath(segmentName(h.number)), size: sp.size, end: blockSize, indexed: true, seed: groupSeed(h.number)}
	if err := l.fs.Rename(sp.path, s.path); err != nil {
		return nil, err
	}
	if err := l.fs.SyncDir(l.o.Dir + "/wal"); err != nil {
		return nil, err
	}
	if err := l.openForWriting(s); err != nil {
		return nil, err
	}
	b := vfs.AlignedBytes(blockSize)
	h.put(b)
	_, err := s.file.WriteAt(b, 0)
	if err == nil && l.o.Durability == Async {
		err = s.file.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	l.mapActive(s)
	return s, nil
}
