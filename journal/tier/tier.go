// Package tier is the seam between the journal and where its history goes: Store, what it promises, the errors it answers with and
// the names that objects may have. It owns no connection and no byte, and knows no store: each is a folder beside it (localtier,
// s3tier, hdfstier), package stores has the list of them, and package tiertest the tests that each must pass. Its neighbours:
// object says what an object holds, cache keeps blocks that were read, upload brings objects out. docs/tiers.md shows how a store is
// written.
package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Store keeps immutable objects under names. All methods may be called concurrently, from any number of goroutines; Close must be the
// last. (Six methods, where a seam has five at most: a store that has connections must be told of its end.)
//
// Promises:
//
//   - Durable: when Put returns without an error, the object is as durable as the store makes anything, its name included. A local
//     directory has synced the file and the folder, S3 has answered 200, HDFS has as many replicas as it waits for.
//   - Whole: a name is absent, or it is an object with all its bytes. Nobody sees a part of one, nor one that is being written.
//   - Read after write: when Put or Delete has returned, each Get, Stat and List that begins later sees its effect, whoever asks.
//   - A Put that has failed has left the name as it was, unless the error is Temporary, or the context's: then the object may be
//     there, whole, now or shortly; never a part of it. What it has left elsewhere (temporary files, parts of an upload) is invisible to
//     all methods; Sweeper removes it.
//   - Bounded: a Put holds a fixed amount of memory, whatever the object's size, a Get what its reader has not read yet, of a
//     fixed amount, a List one page.
//   - No promise of order among concurrent calls for one name: one of them is the last.
//
// Errors are of type *Error, or wrap one; errors.Is finds the sentinels below, and never io.EOF. When ctx ends, a call returns soon, with an error
// that wraps ctx.Err(); so does the reader that Get gave. No method retries for longer than one short backoff: package upload does, and
// whoever reads.
type Store interface {
	// Put stores the size bytes that r gives, under name, in place of what is there, unless o forbids it. It reads r from the calling
	// goroutine, or has stopped reading when it returns. ErrSize: r gave fewer bytes, or has more; r's own error is wrapped as it is. In both
	// cases nothing was stored. ErrExists: o.IfAbsent, and the name is taken; of concurrent Puts with IfAbsent of a name that was absent
	// exactly one succeeds, unless one fails with a Temporary error. ErrUnsupported: the store cannot promise that; it never only tries.
	Put(ctx context.Context, name string, r io.Reader, size int64, o PutOptions) error
	// Get reads rng of an object. The reader gives exactly the bytes of the range that are in the object, then io.EOF; or an error,
	// never silently fewer. info tells the whole object's size. The caller closes the reader, early if he likes. ErrNotFound; ErrRange: the
	// range begins behind the end. A range that begins at the end, and the last bytes of an empty object, are empty. An object that is
	// replaced or deleted while it is read gives its old bytes to the end, or an error.
	Get(ctx context.Context, name string, rng Range) (body io.ReadCloser, info Info, err error)
	// Stat tells about an object. ErrNotFound: there is none.
	Stat(ctx context.Context, name string) (Info, error)
	// List gives the objects whose names begin with prefix, any string, and are behind after, in bytewise order of names: at most limit of
	// them, MaxPage if limit is 0 or more than that. more: there are, or were, others behind the last one. An object that is there from before
	// the first page to after the last one is listed once, whatever changes around it; one that comes or goes may be or not.
	List(ctx context.Context, prefix, after string, limit int) (page []Info, more bool, err error)
	// Delete removes an object. It is no error if there is none.
	Delete(ctx context.Context, name string) error
	// Close ends connections, and waits for the goroutines that the store has started.
	Close() error
}

// Sweeper is a Store that failed Puts leave something in. Sweep removes what is older than age: a day, or what no Put can take. It gives the
// number of things removed.
type Sweeper interface {
	Sweep(ctx context.Context, age time.Duration) (int, error)
}

// MaxPage is how many objects List gives at once at most.
const MaxPage = 1000

// MaxSize is the largest object that every store must take; Put answers ErrTooLarge for more than a store takes.
const MaxSize = 5 << 30

// Range is a part of an object. The zero value is all of it.
type Range struct {
	// Off is where it begins; below 0, so many bytes before the end, or at the beginning of an object that is shorter.
	Off int64
	// Len is how many bytes; 0: to the end. What would be behind the end is left out.
	Len int64
}

// In gives the range's first byte, and its length, in an object of size bytes. ErrRange: it begins behind the end, or Len is negative.
func (r Range) In(size int64) (off, n int64, err error) {
	off = r.Off
	if off < 0 {
		off = max(size+off, 0)
	}
	if off > size || r.Len < 0 {
		return 0, 0, ErrRange
	}
	n = size - off
	if r.Len > 0 {
		n = min(n, r.Len)
	}
	return off, n, nil
}

// PutOptions say how an object is stored.
type PutOptions struct {
	// IfAbsent refuses with ErrExists when the name is taken.
	IfAbsent bool
	// Class is the storage class, in the store's own words ("STANDARD_IA"). Stores without classes ignore it. "": the store's default.
	Class string
}

// Info is what Stat, Get and List tell of an object.
type Info struct {
	Name    string
	Size    int64
	ModTime time.Time // when it was put, by the store's clock; a second's precision
}

// Kind is what an error means to who has to go on.
type Kind uint8

// The kinds of errors.
const (
	// Permanent errors come again: bad requests, bad configuration.
	Permanent Kind = iota
	// Unavailable: the store does not answer, answers with an error of its own, or has cut the connection.
	Unavailable
	// Throttled: it asks for fewer requests.
	Throttled
	// Full: it has no room, or no quota.
	Full
	// Denied: it does not know us, or does not let us. Somebody has to change that.
	Denied
	// NotFound, Exists, BadRange, BadName, BadSize, TooLarge and Unsupported are told by their sentinels.
	NotFound
	Exists
	BadRange
	BadName
	BadSize
	TooLarge
	Unsupported
	// Canceled: the context has ended.
	Canceled
)

// What errors.Is finds in a store's errors.
var (
	ErrNotFound    = errors.New("tier: no such object")
	ErrExists      = errors.New("tier: object exists")
	ErrRange       = errors.New("tier: range begins behind the object's end")
	ErrName        = errors.New("tier: bad object name")
	ErrSize        = errors.New("tier: the reader does not give the announced size")
	ErrTooLarge    = errors.New("tier: object too large for the store")
	ErrUnsupported = errors.New("tier: the store cannot do that")
	ErrUnavailable = errors.New("tier: store unavailable")
	ErrThrottled   = errors.New("tier: store throttles")
	ErrFull        = errors.New("tier: store full")
	ErrDenied      = errors.New("tier: store denies access")
	ErrPermanent   = errors.New("tier: store refuses")
)

var sentinels = [...]error{
	Permanent: ErrPermanent, Unavailable: ErrUnavailable, Throttled: ErrThrottled, Full: ErrFull, Denied: ErrDenied, NotFound: ErrNotFound,
	Exists: ErrExists, BadRange: ErrRange, BadName: ErrName, BadSize: ErrSize, TooLarge: ErrTooLarge, Unsupported: ErrUnsupported,
	Canceled: context.Canceled,
}

// Error is a store's error: what, where and why.
type Error struct {
	Store string // its kind: "s3"
	Op    string // "put"
	Name  string // of the object, or what else it was about
	Kind  Kind
	Err   error // the cause; nil if Kind says it all
}

// Error tells all of it in one line.
func (e *Error) Error() string {
	head := e.Store + ": " + e.Op
	if e.Name != "" {
		head += " " + e.Name
	}
	if e.Err == nil || errors.Is(e.Err, sentinels[e.Kind]) {
		return fmt.Sprintf("%s: %v", head, sentinels[e.Kind])
	}
	return fmt.Sprintf("%s: %v: %v", head, sentinels[e.Kind], e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is finds the sentinel of the error's kind.
func (e *Error) Is(target error) bool { return e.Kind != Canceled && target == sentinels[e.Kind] }

// KindOf tells an error's kind, and whether it is a store's.
func KindOf(err error) (Kind, bool) {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind, true
	}
	return Permanent, false
}

// Temporary tells whether the same call may succeed later without anybody's doing: the store is unavailable, throttles or is full.
func Temporary(err error) bool {
	k, ok := KindOf(err)
	return ok && (k == Unavailable || k == Throttled || k == Full)
}
