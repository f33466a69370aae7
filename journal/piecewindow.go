package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sluicemq/sluice/internal/vfs"
)

// pieceRun is how much of a segment is read at once for Pieces.
const pieceRun = 256 << 10

// window reads segments for Pieces, a part at a time, into memory of its own. What lies there is read once and then leaves: it is read past
// the page cache, which keeps its room for what is read again, unless it is in there already. It is for one goroutine, and must be closed.
type window struct {
	l   *Log
	seg *segment // that f is of
	f   vfs.File
	own *[]byte // from windowPool; nil: none yet
}

// windowPool has memory for a part, with the blocks that it begins and ends in.
var windowPool = sync.Pool{New: func() any {
	b := vfs.AlignedBytes(pieceRun + 2*vfs.BlockSize)
	return &b
}}

// read gives n bytes of a segment. They are valid until the next call.
func (w *window) read(s *segment, pos int64, n int) ([]byte, error) {
	if w.l.closing.Load() {
		return nil, ErrClosed
	}
	b, err := w.fetch(s, pos, n)
	if err != nil {
		return nil, fmt.Errorf("%w: %s at %d: %w", ErrIO, s.path, pos, err)
	}
	return b, nil
}

func (w *window) fetch(s *segment, pos int64, n int) ([]byte, error) {
	w.l.reads <- struct{}{}
	defer func() { <-w.l.reads }()
	from := pos &^ (vfs.BlockSize - 1)
	buf := w.buffer(int(pos-from) + n)
	if m := s.mapped.Load(); m != nil && m.Resident(pos, int64(n)) {
		w.l.touch(s, int64(n))
		if err := m.Populate(pos, int64(n)); err != nil {
			return nil, err
		}
		return buf[:n], vfs.Guard(func() error {
			copy(buf, m.Bytes()[pos:][:n])
			return nil
		})
	}
	if err := w.open(s); err != nil {
		return nil, err
	}
	got, err := w.f.ReadAt(buf, from)
	if skip := int(pos - from); got >= skip+n {
		return buf[skip : skip+n], nil // a file may end in the middle of a block
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}

// buffer gives aligned memory for n bytes, to the end of their last block.
func (w *window) buffer(n int) []byte {
	n = (n + vfs.BlockSize - 1) &^ (vfs.BlockSize - 1)
	if w.own == nil {
		w.own = windowPool.Get().(*[]byte)
	}
	if n > len(*w.own) {
		return vfs.AlignedBytes(n) // a frame that is larger than a part
	}
	return (*w.own)[:n]
}

func (w *window) open(s *segment) error {
	if w.f != nil && w.seg == s {
		return nil
	}
	if err := w.closeFile(); err != nil {
		return err
	}
	f, err := w.l.fs.Open(s.path, vfs.Unbuffered)
	if err != nil {
		return err
	}
	w.f, w.seg = f, s
	return nil
}

func (w *window) closeFile() error {
	f := w.f
	w.f, w.seg = nil, nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// close lets go of memory and file.
func (w *window) close() error {
	if w.own != nil {
		windowPool.Put(w.own)
		w.own = nil
	}
	return w.closeFile()
}
