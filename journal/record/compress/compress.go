// Package compress opens the compressed records of a batch, and compresses those of one that is not, with the codecs that Kafka
// has. It is for where the core must look inside: conversion, compaction, recompression, a producer's records that are to be
// checked. Batches that are only carried never come here. What it opens comes from strangers: every output has a bound, and a bad
// input is an error. It keeps encoders and decoders in pools and nothing else, does no I/O, starts no goroutine, and may be
// called from any. journal/record owns the batch, which this package hands in and out.
package compress

import (
	"errors"
	"fmt"

	"github.com/sluicemq/sluice/internal/invariant"
	"github.com/sluicemq/sluice/journal/record"
)

var (
	// ErrTooLarge says that the output would be larger than allowed. What was opened up to there is dropped.
	ErrTooLarge = errors.New("compress: opened records are larger than the limit")
	// ErrCorrupt says that the input is not what its codec writes.
	ErrCorrupt = errors.New("compress: compressed records are corrupt")
	// ErrCodec says that there is no such codec.
	ErrCodec = errors.New("compress: unknown codec")
)

// Settings are what to compress with. The zero value does not compress.
type Settings struct {
	Codec record.Codec
	// Level is Kafka's compression.<codec>.level: gzip has 1 to 9, lz4 1 to 17, zstd -131072 to 22, snappy none. 0 stands for the
	// codec's own default. Levels that this implementation does not have become the nearest that it has.
	Level int
}

// Open appends to dst what src holds when opened, at most limit bytes and never more than record.MaxBatchSize. It allocates only where dst must grow, in steps that follow
// the output and not what src says of it. src and dst must not overlap. With an error, dst is returned as it was.
func Open(dst []byte, c record.Codec, src []byte, limit int) ([]byte, error) {
	limit = max(0, min(limit, record.MaxBatchSize))
	var out []byte
	var err error
	switch c {
	case record.Uncompressed:
		if len(src) > limit {
			return dst, ErrTooLarge
		}
		return append(dst, src...), nil
	case record.Gzip:
		out, err = openGzip(dst, src, limit)
	case record.Snappy:
		out, err = openSnappy(dst, src, limit)
	case record.LZ4:
		out, err = openLZ4(dst, src, limit)
	case record.Zstd:
		out, err = openZstd(dst, src, limit)
	default:
		return dst, ErrCodec
	}
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrCorrupt):
		return dst, err
	}
	return dst, fmt.Errorf("%w: %s: %w", ErrCorrupt, c, err)
}

// Append appends src to dst, compressed. It allocates only where dst must grow. src and dst must not overlap.
func Append(dst []byte, s Settings, src []byte) []byte {
	invariant.Check(s.Codec.Known(), "records are to be compressed with an unknown codec")
	switch s.Codec {
	case record.Gzip:
		return appendGzip(dst, s.Level, src)
	case record.Snappy:
		return appendSnappy(dst, src)
	case record.LZ4:
		return appendLZ4(dst, s.Level, src)
	case record.Zstd:
		return appendZstd(dst, s.Level, src)
	default:
		return append(dst, src...)
	}
}

// OpenBatch appends to dst the batch b with its records opened: the same batch, but for its codec, length and checksum. Its records
// take at most limit bytes. They are as their producer wrote them: record.Batch.Verify looks at what is in them. With an error, dst
// is returned as it was.
func OpenBatch(dst []byte, b record.Batch, limit int) ([]byte, error) {
	start := len(dst)
	limit = min(limit, record.MaxBatchSize-record.BatchHeaderSize)
	out, err := Open(append(dst, b[:record.BatchHeaderSize]...), b.Attributes().Codec(), b[record.BatchHeaderSize:], limit)
	if err != nil {
		return dst, err
	}
	record.Reseal(out[start:], record.Uncompressed)
	return out, nil
}

// AppendBatch appends to dst the batch b, whose records are not compressed, with its records compressed: the same batch, but for
// its codec, length and checksum.
func AppendBatch(dst []byte, s Settings, b record.Batch) []byte {
	invariant.Check(!b.Attributes().Compressed(), "compressed records are to be compressed")
	start := len(dst)
	dst = Append(append(dst, b[:record.BatchHeaderSize]...), s, b[record.BatchHeaderSize:])
	record.Reseal(dst[start:], s.Codec)
	return dst
}
