package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/sluicemq/sluice/journal/tier"
)

// Reader reads a complete backup. Its methods are safe for concurrent use.
type Reader struct {
	s tier.Store
	Manifest
}

// Open reads the manifest of a backup. ErrNone, ErrIncomplete, ErrDamaged, ErrFormat.
func Open(ctx context.Context, s tier.Store, id string) (*Reader, error) {
	m, err := readManifest(ctx, s, id)
	if err != nil {
		return nil, err
	}
	return &Reader{s: s, Manifest: *m}, nil
}

// File finds a file by its name; nil: there is none.
func (r *Reader) File(name string) *File {
	for i := range r.Files {
		if r.Files[i].Name == name {
			return &r.Files[i]
		}
	}
	return nil
}

// Read gives a reader of a file, which verifies each object at its end: a *DamagedError comes instead of the last bytes of one that has others than
// were written. The caller closes it. It takes up where a connection was cut.
func (r *Reader) Read(ctx context.Context, f *File) io.ReadCloser {
	return &fileReader{ctx: ctx, r: r, parts: f.Parts}
}

// fileReader reads part after part.
type fileReader struct {
	ctx   context.Context
	r     *Reader
	parts []Part
	body  io.ReadCloser // of the first of them; nil: not open
	off   int64         // in it
	fails int           // in a row
	sum   hash.Hash
}

// Read reads.
func (f *fileReader) Read(p []byte) (int, error) {
	for len(f.parts) > 0 {
		n, err := f.read(p)
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// read reads of the part under way, and goes on to the next one at its end. The byte at which the part ends is given once its checksum is right.
func (f *fileReader) read(p []byte) (int, error) {
	part := &f.parts[0]
	if f.sum == nil {
		f.sum = sha256.New()
	}
	if f.off == part.Size {
		return 0, f.end(part)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if f.body == nil {
		if err := f.open(part); err != nil {
			return 0, err
		}
	}
	n, err := f.body.Read(p[:min(int64(len(p)), part.Size-f.off)])
	f.sum.Write(p[:n])
	f.off += int64(n)
	if n > 0 {
		f.fails = 0
	}
	switch {
	case f.off == part.Size:
		if err := f.end(part); err != nil {
			return 0, err
		}
		return n, nil
	case err == nil:
		return n, nil
	case err == io.EOF: // an error of a connection may wrap one
		return 0, f.damaged(part, fmt.Sprintf("it ends at byte %d of %d", f.off, part.Size))
	case !tier.Temporary(err) || f.ctx.Err() != nil:
		return n, err
	}
	// It was cut: the next turn takes up here.
	_ = f.body.Close()
	f.body = nil
	if f.fails++; f.fails >= tries {
		return n, err
	}
	return n, pause(f.ctx, betweenTries.Wait(f.fails))
}

func (f *fileReader) damaged(part *Part, reason string) error {
	return &DamagedError{f.r.ID, part.Object, reason}
}

func (f *fileReader) open(part *Part) error {
	return retry(f.ctx, func() error {
		body, info, err := f.r.s.Get(f.ctx, objectName(f.r.ID, part.Object), tier.Range{Off: f.off})
		switch {
		case errors.Is(err, tier.ErrNotFound):
			return f.damaged(part, "it is missing")
		case err == nil && info.Size != part.Size:
			_ = body.Close()
			return f.damaged(part, fmt.Sprintf("it has %d bytes, and had %d", info.Size, part.Size))
		case errors.Is(err, tier.ErrRange):
			return f.damaged(part, "it has been cut")
		}
		f.body = body
		return err
	})
}

// end verifies a part and goes on to the next one.
func (f *fileReader) end(part *Part) error {
	if f.body == nil && part.Size == 0 {
		if err := f.open(part); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(f.sum.Sum(nil)); got != part.SHA256 {
		return f.damaged(part, "its SHA-256 is "+got+", and was "+part.SHA256)
	}
	err := f.Close()
	f.parts, f.off, f.sum, f.fails = f.parts[1:], 0, nil, 0
	return err
}

// Close ends the reading.
func (f *fileReader) Close() error {
	body := f.body
	f.body = nil
	if body == nil {
		return nil
	}
	return body.Close()
}

// Verify reads all objects. progress is told of bytes as they come; it may be nil.
func (r *Reader) Verify(ctx context.Context, progress func(n int)) error {
	buf := make([]byte, readBytes)
	for i := range r.Files {
		src := r.Read(ctx, &r.Files[i])
		for {
			n, err := src.Read(buf)
			if progress != nil {
				progress(n)
			}
			if err == io.EOF { // the reader's own
				break
			}
			if err != nil {
				_ = src.Close()
				return err
			}
		}
		if err := src.Close(); err != nil {
			return err
		}
	}
	return nil
}
