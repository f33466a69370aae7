package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/internal/vfs"
)

const (
	partMagic      = "SLUICEPS"
	partFormat     = 3
	partHeaderSize = 64
)

// partHeader is the header of a partition segment. docs/format/journal.md draws it.
type partHeader struct {
	number         uint64
	end            int64 // of the frames: the directory begins there
	parts, entries uint32
	crc            uint32 // of directory and entries
}

func (h *partHeader) encode() (b [partHeaderSize]byte) {
	le := binary.LittleEndian
	copy(b[:], partMagic)
	le.PutUint16(b[8:], partFormat)
	le.PutUint64(b[16:], h.number)
	le.PutUint64(b[24:], uint64(h.end))
	le.PutUint32(b[32:], h.parts)
	le.PutUint32(b[36:], h.entries)
	le.PutUint32(b[40:], h.crc)
	le.PutUint32(b[12:], crc32.Checksum(b[:], castagnoli))
	return b
}

// parsePartHeader reads a header; reason says what is wrong with it.
func parsePartHeader(b []byte, path string, size int64) (h partHeader, err error) {
	corrupt := func(reason string) (partHeader, error) {
		return partHeader{}, &CorruptError{Path: path, Reason: reason}
	}
	if len(b) < partHeaderSize {
		return corrupt("a partition segment has been cut")
	}
	b = slices.Clone(b[:partHeaderSize])
	le := binary.LittleEndian
	sum := le.Uint32(b[12:])
	clear(b[12:16])
	if string(b[:8]) != partMagic || crc32.Checksum(b, castagnoli) != sum {
		return corrupt("bad header of a partition segment")
	}
	if v := le.Uint16(b[8:]); v != partFormat {
		return h, &FormatError{Path: path, Found: fmt.Sprintf("format %d", v), Known: partFormat}
	}
	h = partHeader{number: le.Uint64(b[16:]), end: int64(le.Uint64(b[24:])), parts: le.Uint32(b[32:]), entries: le.Uint32(b[36:]), crc: le.Uint32(b[40:])}
	if h.parts == 0 || h.end < partHeaderSize || h.end+int64(h.parts)*indexDirSize+int64(h.entries)*entrySize != size {
		return corrupt("a partition segment has not the size that its header says")
	}
	return h, nil
}

func (l *Log) partPath(name string) string { return l.o.Dir + "/partitions/" + name }

func partName(number uint64) string { return fmt.Sprintf("%016x.seg", number) }

// openPartSegments opens the partition segments and enters them in the index. Of two that hold the same offsets the newer one counts: it was
// written in place of the other, before a crash.
func (l *Log) openPartSegments() error {
	names, err := l.fs.List(l.o.Dir + "/partitions")
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, ".seg"), 16, 64)
		switch {
		case !strings.HasSuffix(name, ".seg"):
			if err := l.fs.Remove(l.partPath(name)); err != nil {
				return err
			}
		case err != nil || name != partName(number):
			return &CorruptError{Path: l.partPath(name), Reason: "no partition segment has this name"}
		default:
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	for _, n := range slices.Backward(numbers) {
		l.mu.nextPart = max(l.mu.nextPart, n+1)
		if err := l.openPart(n); err != nil {
			return err
		}
	}
	l.stats.PartitionSegments.Store(int64(len(l.mu.parts)))
	return nil
}

func (l *Log) openPart(number uint64) error {
	path := l.partPath(partName(number))
	h, dirs, err := l.readPart(path)
	if err != nil {
		return err
	}
	if h.number != number {
		return &CorruptError{Path: path, Reason: fmt.Sprintf("its header says that it is partition segment %d", h.number)}
	}
	s := newPart(number, path, h.end)
	s.size += int64(h.parts)*indexDirSize + int64(h.entries)*entrySize
	l.mu.Lock()
	l.adoptLocked(s, dirs)
	if len(s.refs) > 0 && s.live > 0 {
		l.mu.parts[s] = struct{}{}
		l.stats.PartitionBytes.Add(s.size)
	}
	l.mu.Unlock()
	if _, ok := l.mu.parts[s]; !ok {
		// Its records died, or were written anew, before a crash that kept the file.
		return l.fs.Remove(path)
	}
	return s.mapFile(l.fs)
}

func newPart(number uint64, path string, end int64) *segment {
	return &segment{header: segmentHeader{number: number}, path: path, size: end, end: end, part: true, sealed: true, indexed: true}
}

// readPart reads a partition segment's header and directory.
func (l *Log) readPart(path string) (h partHeader, dirs []indexDir, err error) {
	f, err := l.fs.Open(path, 0)
	if err != nil {
		return h, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return h, nil, err
	}
	b := make([]byte, min(size, partHeaderSize))
	if err := readFull(f, b, 0); err != nil {
		return h, nil, err
	}
	if h, err = parsePartHeader(b, path, size); err != nil {
		return h, nil, err
	}
	b = make([]byte, size-h.end)
	if err := readFull(f, b, h.end); err != nil {
		return h, nil, err
	}
	dirs, ok := parseDirs(b, int64(h.parts), int64(h.entries))
	if !ok || crc32.Checksum(b, castagnoli) != h.crc {
		return h, nil, &CorruptError{Path: path, Offset: h.end, Reason: "bad directory of a partition segment"}
	}
	return h, dirs, nil
}

func readFull(f vfs.File, b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	_, err := f.ReadAt(b, at)
	return err
}
