package offload

import (
	"fmt"
	"io"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Spool is where what a pass leaves lies until it is put: an object's size must be known before its first byte. What is in it need not outlive a crash.
type Spool interface {
	io.WriterAt
	io.ReaderAt
	// Truncate lets go of what lies behind size.
	Truncate(size int64) error
	Close() error
}

const (
	// spoolBuffer is how much is gathered before it is written.
	spoolBuffer = 256 * kib
	// spoolExtent is how much of neighbouring batches is one extent: fewer would be no finer, as a block is larger.
	spoolExtent = 64 * kib
)

// spooled is what a step of a pass has brought together: batches of one partition, in order, as sources of runs. It is one step's at a time.
type spooled struct {
	s       Spool
	buf     []byte
	size    int64
	at      []int64 // where each extent begins
	extents []object.Extent
	fresh   bool // the next batch begins an extent
}

func (s *spooled) reset() {
	s.buf, s.size, s.at, s.extents, s.fresh = s.buf[:0], 0, s.at[:0], s.extents[:0], true
}

// cut has the next batch begin an extent, whose number it gives.
func (s *spooled) cut() int {
	s.fresh = true
	return len(s.extents)
}

// add appends a batch, which it does not keep.
func (s *spooled) add(b record.Batch) error {
	latest := object.NoTime
	if b.Attributes()&record.Control == 0 {
		latest = b.MaxTimestamp()
	}
	if s.fresh || s.extents[len(s.extents)-1].Bytes >= spoolExtent {
		s.at = append(s.at, s.size)
		s.extents = append(s.extents, object.Extent{First: b.BaseOffset(), MaxTime: object.NoTime})
		s.fresh = false
	}
	e := &s.extents[len(s.extents)-1]
	e.Last, e.Bytes, e.MaxTime = b.LastOffset(), e.Bytes+int64(len(b)), max(e.MaxTime, latest)
	s.buf = append(s.buf, b...)
	s.size += int64(len(b))
	if len(s.buf) < spoolBuffer {
		return nil
	}
	return s.flush()
}

func (s *spooled) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	if _, err := s.s.WriteAt(s.buf, s.size-int64(len(s.buf))); err != nil {
		return fmt.Errorf("write what compaction leaves: %w", err)
	}
	s.buf = s.buf[:0]
	return nil
}

var _ Pieces = (*spooled)(nil)

// Extents makes it Pieces.
func (s *spooled) Extents() []object.Extent { return s.extents }

// Open makes it Pieces.
func (s *spooled) Open(from, to int) io.ReadCloser {
	end := s.size
	if to < len(s.at) {
		end = s.at[to]
	}
	return io.NopCloser(io.NewSectionReader(s.s, s.at[from], end-s.at[from]))
}

// Release makes it Pieces: the spool is the pass's.
func (s *spooled) Release() {}

// memorySpool is a Spool for tests, and for who gives none.
type memorySpool struct{ b []byte }

// WriteAt makes it a Spool.
func (m *memorySpool) WriteAt(p []byte, at int64) (int, error) {
	if end := at + int64(len(p)); end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	return copy(m.b[at:], p), nil
}

// ReadAt makes it a Spool.
func (m *memorySpool) ReadAt(p []byte, at int64) (int, error) {
	if at >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Truncate makes it a Spool.
func (m *memorySpool) Truncate(size int64) error {
	m.b = m.b[:min(size, int64(len(m.b)))]
	return nil
}

// Close makes it a Spool.
func (m *memorySpool) Close() error { return nil }
