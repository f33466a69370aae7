// Package s3tier is the Store that is a bucket of an S3-compatible service: an object for each object, under a prefix. It owns the
// client and its connections, and knows no format. Large objects go in parts of Options.PartBytes, two at a time; one that failed in the middle
// is aborted, and Sweep removes what could not be. Each request is made once: who calls tries again. Put with IfAbsent is If-None-Match, of
// which the service is asked once whether it keeps it. It alone imports minio-go.
package s3tier

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/sluicemq/sluice/journal/tier"
)

const (
	kind = "s3"
	// partBytes is what a part has without Options.PartBytes: each part is a request that costs money, and so are the begin and the end of an
	// upload in parts. minPartBytes is S3's own bound.
	partBytes    = 16 << 20
	minPartBytes = 5 << 20
	maxParts     = 10_000
	partsAtOnce  = 2
	// pageMax is one less than S3's pages: one more object tells whether there is more.
	pageMax = tier.MaxPage - 1
	// abortFor bounds what is done for an upload that has failed already.
	abortFor = 10 * time.Second
	// probeDir is where objects are made that no name can be of.
	probeDir = ".probe/"
)

// Store is the bucket.
type Store struct {
	o      Options
	core   minio.Core
	sse    encrypt.ServerSide // nil: none
	hc     *http.Transport
	prefix string      // "", or ends with a slash
	parts  chan []byte // free buffers, and the bound of them: made when first needed
	asked  tier.Requests

	cond struct {
		sync.Mutex
		known, single, multi bool // whether If-None-Match was asked for, and holds for a PUT and at the end of an upload in parts
	}
}

// Close ends the connections that nobody uses.
func (s *Store) Close() error {
	s.hc.CloseIdleConnections()
	return nil
}

func (s *Store) key(name string) string { return s.prefix + name }

func (s *Store) wrap(ctx context.Context, op, name string, err error) error {
	return tier.Wrap(ctx, kind, op, name, kindOf(err), err)
}

// Put uploads. See tier.Store.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return s.wrap(ctx, "put", name, err)
	}
	if o.IfAbsent {
		if err := s.conditional(ctx, size > s.o.PartBytes); err != nil {
			return s.wrap(ctx, "put", name, err)
		}
	}
	src := tier.Exactly(ctx, r, size)
	err := s.upload(ctx, s.key(name), src, size, o)
	if bad := src.Err(); bad != nil {
		err = bad
	}
	return s.wrap(ctx, "put", name, err)
}

func (s *Store) upload(ctx context.Context, key string, src io.Reader, size int64, o tier.PutOptions) error {
	if size > s.o.PartBytes {
		return s.multipart(ctx, key, src, size, o)
	}
	buf, err := s.buffer(ctx)
	if err != nil {
		return err
	}
	defer s.release(buf)
	n, err := io.ReadFull(src, buf[:max(size, 0)])
	if err == nil {
		var one [1]byte
		_, err = src.Read(one[:]) // an exact reader ends here
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return s.putOnce(ctx, key, buf[:n], o)
}

// putOnce stores what fits in one request.
func (s *Store) putOnce(ctx context.Context, key string, b []byte, o tier.PutOptions) error {
	po := s.putOptions(o)
	po.UserMetadata = s.sumHeader(b)
	if o.IfAbsent {
		po.SetMatchETagExcept("*")
	}
	_, err := s.core.PutObject(ctx, s.o.Bucket, key, newBody(b), int64(len(b)), "", "", po)
	if o.IfAbsent && isConflict(err) {
		// Another conditional PUT of this name is on its way: it may win or fail, and a later try will know.
		return fmt.Errorf("%w: %w", tier.ErrUnavailable, err)
	}
	return err
}

func (s *Store) putOptions(o tier.PutOptions) minio.PutObjectOptions {
	class := o.Class
	if class == "" {
		class = s.o.Class
	}
	return minio.PutObjectOptions{StorageClass: class, ServerSideEncryption: s.sse, ContentType: "application/octet-stream", DisableContentSha256: s.unsigned()}
}

// unsigned tells that signatures leave out what is uploaded. Its CRC-32C is a header, and so signed; SHA-256 over a mebibyte costs as much as all else
// that is done with it.
func (s *Store) unsigned() bool { return !s.o.SignPayload && !s.o.NoChecksum }

// Get reads a range. See tier.Store.
func (s *Store) Get(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	fail := func(err error) (io.ReadCloser, tier.Info, error) {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, err)
	}
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return fail(err)
	}
	if rng.Len < 0 {
		return fail(tier.ErrRange)
	}
	if rng.Off < 0 && rng.Len > 0 && rng.Len < -rng.Off {
		// S3 has no range that begins counted from the end, and ends before it.
		info, err := s.stat(ctx, name)
		if err != nil {
			return fail(err)
		}
		if rng.Off, rng.Len, err = rng.In(info.Size); err != nil || rng.Len == 0 {
			return io.NopCloser(strings.NewReader("")), info, err
		}
	}
	opts := minio.GetObjectOptions{ServerSideEncryption: s.readSSE()}
	setRange(&opts, rng)
	raw, oi, h, err := s.core.GetObject(ctx, s.o.Bucket, s.key(name), opts)
	if isBadRange(err) {
		return s.getNothing(ctx, name, rng)
	}
	if err != nil {
		return fail(err)
	}
	info := tier.Info{Name: name, Size: oi.Size, ModTime: oi.LastModified}
	off, n, err := answered(h, rng, &info)
	if err != nil {
		return fail(errors.Join(err, raw.Close()))
	}
	return &body{ctx: ctx, s: s, name: name, raw: raw, skip: off, left: n}, info, nil
}

// getNothing answers for a range that the service finds empty or behind the end, which is the same to it.
func (s *Store) getNothing(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	info, err := s.stat(ctx, name)
	if err == nil {
		var n int64
		if _, n, err = rng.In(info.Size); err == nil && n > 0 {
			err = fmt.Errorf("%w: a range of %d bytes of %d was refused", tier.ErrUnavailable, n, info.Size) // it has changed between
		}
	}
	if err != nil {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, err)
	}
	return io.NopCloser(strings.NewReader("")), info, nil
}

func setRange(o *minio.GetObjectOptions, r tier.Range) {
	switch {
	case r.Off < 0:
		o.Set("Range", "bytes="+strconv.FormatInt(r.Off, 10))
	case r.Len > 0:
		o.Set("Range", fmt.Sprintf("bytes=%d-%d", r.Off, r.Off+r.Len-1))
	case r.Off > 0:
		o.Set("Range", fmt.Sprintf("bytes=%d-", r.Off))
	}
}

// answered tells what of the bytes that come is wanted, and sets the object's size. A service that does not know ranges sends all.
func answered(h http.Header, r tier.Range, info *tier.Info) (skip, n int64, err error) {
	cr := h.Get("Content-Range")
	if cr == "" {
		return r.In(info.Size)
	}
	var from, to, size int64
	if _, err := fmt.Sscanf(cr, "bytes %d-%d/%d", &from, &to, &size); err != nil {
		return 0, 0, fmt.Errorf("%w: bad Content-Range %q", tier.ErrUnavailable, cr)
	}
	info.Size = size
	off, n, err := r.In(size)
	if err == nil && (off != from || n != to-from+1) {
		err = fmt.Errorf("%w: the range %q is not the one asked for", tier.ErrUnavailable, cr)
	}
	return 0, n, err
}

// Stat asks for an object's headers. See tier.Store.
func (s *Store) Stat(ctx context.Context, name string) (tier.Info, error) {
	info, err := s.stat(ctx, name)
	return info, s.wrap(ctx, "stat", name, err)
}

func (s *Store) stat(ctx context.Context, name string) (tier.Info, error) {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return tier.Info{}, err
	}
	oi, err := s.core.StatObject(ctx, s.o.Bucket, s.key(name), minio.StatObjectOptions{ServerSideEncryption: s.readSSE()})
	if err != nil {
		return tier.Info{}, err
	}
	return tier.Info{Name: name, Size: oi.Size, ModTime: oi.LastModified}, nil
}

// List lists. See tier.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (page []tier.Info, more bool, err error) {
	if limit <= 0 || limit > pageMax {
		limit = pageMax
	}
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, false, s.wrap(ctx, "list", prefix, err)
	}
	// Whole pages, whatever limit is: asked for few keys at a time, MinIO (2026-02) ends some listings early.
	opts := minio.ListObjectsOptions{Prefix: s.key(prefix), Recursive: true}
	if after != "" {
		opts.StartAfter = s.key(after)
	}
	for oi := range s.core.ListObjectsIter(lctx, s.o.Bucket, opts) {
		if oi.Err != nil {
			return nil, false, s.wrap(ctx, "list", prefix, oi.Err)
		}
		name := strings.TrimPrefix(oi.Key, s.prefix)
		// What is no name is a probe's, or somebody else's. Services exist that do not know start-after.
		if tier.CheckName(name) != nil || name <= after {
			continue
		}
		if len(page) == limit {
			return page, true, nil
		}
		page = append(page, tier.Info{Name: name, Size: oi.Size, ModTime: oi.LastModified})
	}
	return page, false, s.wrap(ctx, "list", prefix, ctx.Err())
}

// Delete deletes. See tier.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := errors.Join(tier.CheckName(name), ctx.Err())
	if err == nil {
		err = s.core.RemoveObject(ctx, s.o.Bucket, s.key(name), minio.RemoveObjectOptions{})
	}
	if kindOf(err) == tier.NotFound && err != nil {
		return nil
	}
	return s.wrap(ctx, "delete", name, err)
}

// Sweep aborts uploads that began before age ago. See tier.Sweeper.
func (s *Store) Sweep(ctx context.Context, age time.Duration) (int, error) {
	n, before := 0, time.Now().Add(-age)
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for up := range s.core.ListIncompleteUploads(lctx, s.o.Bucket, s.prefix, true) {
		if up.Err != nil {
			return n, s.wrap(ctx, "sweep", "", up.Err)
		}
		if up.Initiated.After(before) {
			continue
		}
		if err := s.core.AbortMultipartUpload(ctx, s.o.Bucket, up.Key, up.UploadID); err != nil {
			return n, s.wrap(ctx, "sweep", up.Key, err)
		}
		n++
	}
	return n, s.wrap(ctx, "sweep", "", ctx.Err())
}

// readSSE is what a read has to say: only the customer's own key.
func (s *Store) readSSE() encrypt.ServerSide {
	if s.sse != nil && s.sse.Type() == encrypt.SSEC {
		return s.sse
	}
	return nil
}

func unique() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// body reads an answer, and makes sure that it is whole.
type body struct {
	ctx        context.Context
	s          *Store
	name       string
	raw        io.ReadCloser
	skip, left int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.skip > 0 {
		k, err := io.CopyN(io.Discard, b.raw, b.skip)
		if b.skip -= k; err != nil {
			return 0, b.fail(err)
		}
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.raw.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	return 0, b.fail(err)
}

func (b *body) fail(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b.s.wrap(b.ctx, "get", b.name, err)
}

func (b *body) Close() error {
	// Closed before its end the connection is given up: no error of the reader's.
	_ = b.raw.Close()
	return nil
}
