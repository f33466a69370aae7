package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Exactly gives a reader of the size bytes of r that Put was promised. It fails with ErrSize where r has fewer or more, and with
// the context's error when it has ended; the last bytes are only given once r is known to have no more. The error stays: see Err.
func Exactly(ctx context.Context, r io.Reader, size int64) *ExactReader {
	e := &ExactReader{ctx: ctx, r: r, left: size}
	if size < 0 {
		e.err = fmt.Errorf("%w: it is %d", ErrSize, size)
	}
	return e
}

// ExactReader is what Exactly gives. It is for one goroutine.
type ExactReader struct {
	ctx  context.Context
	r    io.Reader
	left int64
	err  error // nil, or what every further Read answers
}

// Read reads.
func (e *ExactReader) Read(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	if err := e.ctx.Err(); err != nil {
		e.err = err
		return 0, err
	}
	if len(p) == 0 && e.left > 0 {
		return 0, nil
	}
	n, err := 0, error(nil)
	if e.left > 0 {
		n, err = e.r.Read(p[:min(int64(len(p)), e.left)])
		e.left -= int64(n)
	}
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		e.err = &sourceError{err}
	case err != nil && e.left > 0:
		e.err = fmt.Errorf("%w: it ends %d bytes early", ErrSize, e.left)
	case e.left == 0:
		e.err = e.end(err)
	}
	if e.err != nil && !errors.Is(e.err, io.EOF) {
		return 0, e.err
	}
	if n > 0 {
		return n, nil
	}
	return 0, e.err
}

// end makes sure that r has no more, and that the context has not ended while the last bytes were read: the next step is to show the
// object.
func (e *ExactReader) end(err error) error {
	if ended := e.ctx.Err(); ended != nil {
		return ended
	}
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	var one [1]byte
	for range 100 {
		n, err := e.r.Read(one[:])
		switch {
		case n > 0:
			return fmt.Errorf("%w: it has more", ErrSize)
		case errors.Is(err, io.EOF):
			return io.EOF
		case err != nil:
			return &sourceError{err}
		}
	}
	return &sourceError{io.ErrNoProgress}
}

// Err is what the source has done wrong, or the context's error; nil if nothing. A store asks it when a Put has failed, as clients
// of stores wrap errors of readers in their own.
func (e *ExactReader) Err() error {
	if e.err == nil || errors.Is(e.err, io.EOF) {
		return nil
	}
	return e.err
}

// sourceError is an error of the reader that Put was given.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read what is to be put: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// cutError is an error of a connection that has ended before it had said all. To who reads an object io.EOF says that it has come whole: so
// it is io.ErrUnexpectedEOF here, and never that.
type cutError struct{ err error }

func (e *cutError) Error() string { return e.err.Error() }

// Is finds what it is about, but no end.
func (e *cutError) Is(target error) bool {
	return target == io.ErrUnexpectedEOF || target != io.EOF && errors.Is(e.err, target)
}

// As finds what it is about.
func (e *cutError) As(target any) bool { return errors.As(e.err, target) }

// Wrap makes an *Error of err: of the context's kind if that has ended, of its own if it wraps a sentinel, of kind otherwise. What the
// source of a Put has done wrong is no fault of the store, and Permanent. Nil stays nil, and an *Error as it is.
func Wrap(ctx context.Context, store, op, name string, kind Kind, err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	if ctx.Err() != nil {
		return &Error{Store: store, Op: op, Name: name, Kind: Canceled, Err: ctx.Err()}
	}
	var src *sourceError
	if errors.As(err, &src) {
		kind = Permanent // not the store's
	}
	for k, s := range sentinels {
		if k != int(Canceled) && errors.Is(err, s) {
			kind = Kind(k)
		}
	}
	if errors.Is(err, io.EOF) {
		err = &cutError{err}
	}
	return &Error{Store: store, Op: op, Name: name, Kind: kind, Err: err}
}
