package s3tier

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/sluicemq/sluice/journal/tier"
)

const sumKey = "X-Amz-Checksum-Crc32c"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// buffer takes one of the buffers for parts, or waits for one: all Puts of a store share Options.Buffers of them.
func (s *Store) buffer(ctx context.Context) ([]byte, error) {
	select {
	case b := <-s.parts:
		if b == nil {
			b = make([]byte, s.o.PartBytes)
		}
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Store) release(b []byte) { s.parts <- b }

func newBody(b []byte) io.Reader { return bytes.NewReader(b) }

// sum is the checksum of bytes as S3 writes it.
func sum(b []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)))
}

func (s *Store) sumHeader(b []byte) map[string]string {
	if s.o.NoChecksum {
		return nil
	}
	return map[string]string{sumKey: sum(b)}
}

// upload is one object that goes in parts.
type upload struct {
	s       *Store
	key, id string

	mu struct {
		sync.Mutex
		parts []minio.CompletePart
		err   error // the first
	}
}

// multipart uploads in parts, some at once; each has one buffer. What fails is aborted.
func (s *Store) multipart(ctx context.Context, key string, src io.Reader, size int64, o tier.PutOptions) error {
	po := s.putOptions(o)
	if !s.o.NoChecksum {
		po.UserMetadata = map[string]string{"X-Amz-Checksum-Algorithm": "CRC32C"}
	}
	count := (size + s.o.PartBytes - 1) / s.o.PartBytes
	if count > maxParts {
		return fmt.Errorf("%w: %d parts of %d bytes", tier.ErrTooLarge, count, s.o.PartBytes)
	}
	id, err := s.core.NewMultipartUpload(ctx, s.o.Bucket, key, po)
	if err != nil {
		return err
	}
	u := &upload{s: s, key: key, id: id}
	u.mu.parts = make([]minio.CompletePart, count)
	if err = u.send(ctx, src, size); err == nil {
		err = s.complete(ctx, key, id, u.mu.parts, o.IfAbsent)
	}
	if err != nil {
		// The context may have ended; what this does not reach is swept.
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortFor)
		defer cancel()
		_ = s.core.AbortMultipartUpload(actx, s.o.Bucket, key, id)
	}
	return err
}

func (u *upload) send(ctx context.Context, src io.Reader, left int64) error {
	pctx, cancel := context.WithCancel(ctx)
	defer cancel()
	turn := make(chan struct{}, partsAtOnce)
	var wg sync.WaitGroup
	for i := range u.mu.parts {
		turn <- struct{}{} // bounded by a part's request, which ends with pctx
		n := min(left, u.s.o.PartBytes)
		left -= n
		buf, err := u.read(pctx, src, n)
		if err != nil {
			u.fail(err)
			cancel()
			break
		}
		wg.Go(func() {
			defer func() { u.s.release(buf); <-turn }()
			if err := u.part(pctx, i, buf[:n]); err != nil {
				u.fail(err)
				cancel()
			}
		})
	}
	wg.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.mu.err
}

// read fills n bytes of a buffer, which is the caller's from then on.
func (u *upload) read(ctx context.Context, src io.Reader, n int64) ([]byte, error) {
	buf, err := u.s.buffer(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(src, buf[:n]); err != nil {
		u.s.release(buf)
		return nil, err
	}
	return buf, nil
}

func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mu.err == nil {
		u.mu.err = err
	}
}

func (u *upload) part(ctx context.Context, i int, b []byte) error {
	opts := minio.PutObjectPartOptions{SSE: u.s.sse, DisableContentSha256: u.s.unsigned()}
	crc := ""
	if !u.s.o.NoChecksum {
		crc = sum(b)
		opts.CustomHeader = http.Header{sumKey: []string{crc}}
	}
	p, err := u.s.core.PutObjectPart(ctx, u.s.o.Bucket, u.key, u.id, i+1, newBody(b), int64(len(b)), opts)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	done := minio.CompletePart{PartNumber: i + 1, ETag: p.ETag}
	if p.ChecksumCRC32C != "" {
		done.ChecksumCRC32C = crc // the service knows of it
	}
	u.mu.parts[i] = done
	return nil
}

// complete makes an object of parts. (The client's own PutObject forgets the condition here.)
func (s *Store) complete(ctx context.Context, key, id string, parts []minio.CompletePart, ifAbsent bool) error {
	po := minio.PutObjectOptions{}
	if s.readSSE() != nil {
		po.ServerSideEncryption = s.sse
	}
	if ifAbsent {
		po.SetMatchETagExcept("*")
	}
	_, err := s.core.CompleteMultipartUpload(ctx, s.o.Bucket, key, id, parts, po)
	if ifAbsent && isConflict(err) {
		return fmt.Errorf("%w: %w", tier.ErrUnavailable, err)
	}
	return err
}

// conditional makes sure that the service keeps If-None-Match: it puts an object of one byte twice, and completes an upload onto it. A service that
// ignores the header would replace it, silently.
func (s *Store) conditional(ctx context.Context, parts bool) error {
	s.cond.Lock()
	defer s.cond.Unlock()
	if !s.cond.known {
		single, multi, err := s.probe(ctx)
		if err != nil {
			return err
		}
		s.cond.known, s.cond.single, s.cond.multi = true, single, multi
	}
	switch {
	case !s.cond.single:
		return fmt.Errorf("%w: the service does not keep If-None-Match", tier.ErrUnsupported)
	case parts && !s.cond.multi:
		return fmt.Errorf("%w: the service does not keep If-None-Match for objects of more than a part (%d bytes)", tier.ErrUnsupported, s.o.PartBytes)
	}
	return nil
}

func (s *Store) probe(ctx context.Context) (single, multi bool, err error) {
	key := s.prefix + probeDir + unique()
	once := tier.PutOptions{IfAbsent: true}
	if err := s.putOnce(ctx, key, []byte{'1'}, once); err != nil {
		if isUnknown(err) {
			return false, false, nil
		}
		return false, false, err
	}
	defer func() {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortFor)
		defer cancel()
		_ = s.core.RemoveObject(dctx, s.o.Bucket, key, minio.RemoveObjectOptions{}) // is no name: invisible if it stays
	}()
	if single, err = refused(s.putOnce(ctx, key, []byte{'2'}, once)); err != nil || !single {
		return false, false, err
	}
	multi, err = refused(s.multipart(ctx, key, tier.Exactly(ctx, newBody([]byte{'3'}), 1), 1, once))
	return single, multi, err
}

// refused tells whether a second conditional Put was refused for its condition.
func refused(err error) (bool, error) {
	switch {
	case err == nil, isUnknown(err):
		return false, nil
	case kindOf(err) == tier.Exists:
		return true, nil
	}
	return false, err
}
