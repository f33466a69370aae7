package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/tier"
)

// DefaultObjectBytes is how large an object of a backup may be.
const DefaultObjectBytes = 64 << 20

const (
	// streamBytes is how much of a stream is gathered in memory for one object.
	streamBytes = 4 << 20
	// readBytes is the most that is read between two looks at the pace.
	readBytes = 256 << 10
)

// Options of a Writer.
type Options struct {
	Begin       Begin         // ID, Format and Began are set by Create
	ObjectBytes int64         // 0: DefaultObjectBytes
	Rate        func() int64  // bytes a second, asked all the time; nil, or 0: no bound
	Pace        *pace.Limiter // in place of Rate: one that bounds something else as well. nil: none
	Class       string        // storage class; "": the store's default
}

// Writer makes one backup: Create, File and Stream for each file, then Finish, or Abort. It is for one goroutine, but Copied.
type Writer struct {
	s      tier.Store
	o      Options
	pace   *pace.Limiter
	m      Manifest
	next   int
	copied atomic.Int64
}

// Create begins a backup: from here on the store has something of it.
func Create(ctx context.Context, s tier.Store, o Options) (*Writer, error) {
	if o.ObjectBytes == 0 {
		o.ObjectBytes = DefaultObjectBytes
	}
	if o.Rate == nil {
		o.Rate = func() int64 { return 0 }
	}
	o.Begin.Began = time.Now().UTC().Truncate(time.Millisecond)
	o.Begin.ID, o.Begin.Format = NewID(o.Begin.Began), formatKnown
	w := &Writer{s: s, o: o, pace: o.Pace, m: Manifest{Begin: o.Begin}}
	if w.pace == nil {
		w.pace = pace.NewLimiter(clock.Real{}, o.Rate)
	}
	b, err := seal(&o.Begin)
	if err != nil {
		return nil, err
	}
	return w, w.putSmall(ctx, beginName, b)
}

// ID is the backup's name.
func (w *Writer) ID() string { return w.m.ID }

// Copied is how many bytes have gone to the store; any goroutine may ask.
func (w *Writer) Copied() int64 { return w.copied.Load() }

func (w *Writer) putSmall(ctx context.Context, object string, b []byte) error {
	return retry(ctx, func() error {
		return w.s.Put(ctx, objectName(w.m.ID, object), bytes.NewReader(b), int64(len(b)), tier.PutOptions{})
	})
}

// File stores size bytes of src, full of which it has where it is used.
func (w *Writer) File(ctx context.Context, name string, src io.ReaderAt, size, full int64) error {
	f := File{Name: name, Size: size, Parts: []Part{}}
	if full != size {
		f.Full = full
	}
	for off := int64(0); off < size; off += w.o.ObjectBytes {
		p, err := w.put(ctx, src, off, min(w.o.ObjectBytes, size-off))
		if err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
		f.Parts = append(f.Parts, p)
	}
	w.m.Files = append(w.m.Files, f)
	return nil
}

// put stores a part of src as the next object.
func (w *Writer) put(ctx context.Context, src io.ReaderAt, off, n int64) (Part, error) {
	w.next++
	p := Part{Object: fmt.Sprintf("%08d", w.next), Size: n}
	err := retry(ctx, func() error {
		r := &pacedReader{w: w, ctx: ctx, r: io.NewSectionReader(src, off, n), sum: sha256.New()}
		err := w.s.Put(ctx, objectName(w.m.ID, p.Object), r, n, tier.PutOptions{Class: w.o.Class})
		if err != nil {
			w.copied.Add(-r.n)
			if r.err != nil {
				return r.err // the store's has lost what kind it was
			}
			return err
		}
		p.SHA256 = hex.EncodeToString(r.sum.Sum(nil))
		return nil
	})
	return p, err
}

// pacedReader reads a part for a store at the backup's pace, and sums it up.
type pacedReader struct {
	w   *Writer
	ctx context.Context
	r   io.Reader
	sum hash.Hash
	n   int64
	err error
}

// Read reads.
func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p[:r.w.pace.Step(min(len(p), readBytes))])
	r.sum.Write(p[:n])
	r.n += int64(n)
	r.w.copied.Add(int64(n))
	if d := r.w.pace.Take(n); err == nil && d > 0 {
		err = pause(r.ctx, d)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// Stream stores a file whose size is not known before: fill calls write with its bytes, which it may use again afterwards.
func (w *Writer) Stream(ctx context.Context, name string, fill func(write func([]byte) error) error) error {
	f := File{Name: name, Parts: []Part{}}
	buf := make([]byte, 0, streamBytes)
	flush := func() error {
		p, err := w.put(ctx, bytes.NewReader(buf), 0, int64(len(buf)))
		if err == nil {
			f.Parts, f.Size, buf = append(f.Parts, p), f.Size+p.Size, buf[:0]
		}
		return err
	}
	err := fill(func(b []byte) error {
		for len(b) > 0 {
			n := copy(buf[len(buf):cap(buf)], b)
			buf, b = buf[:len(buf)+n], b[n:]
			if len(buf) == cap(buf) {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && len(buf) > 0 {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	w.m.Files = append(w.m.Files, f)
	return nil
}

// Finish makes the backup exist. set fills in what the manifest says beside its files.
func (w *Writer) Finish(ctx context.Context, set func(*Manifest)) (*Manifest, error) {
	set(&w.m)
	w.m.Ended = time.Now().UTC().Truncate(time.Millisecond)
	b, err := seal(&w.m)
	if err != nil {
		return nil, err
	}
	if len(b) > manifestBytesMax {
		return nil, fmt.Errorf("backup: a manifest of %d bytes is too large: there are %d objects", len(b), w.m.Objects())
	}
	return &w.m, w.putSmall(ctx, manifestName, b)
}

// Abort removes what was stored, as far as the store lets it: the next backup of the same node, or Delete, removes the rest.
func (w *Writer) Abort(ctx context.Context) error {
	err := Delete(ctx, w.s, w.m.ID)
	if errors.Is(err, ErrNone) {
		return nil
	}
	return err
}
