package compress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// firstGuess is how much room is made for the output of n bytes before anything is known of it.
func firstGuess(n, limit int) int { return min(4*n+512, limit) }

// readAll appends what r has left to dst, at most limit bytes. dst grows by doubling.
func readAll(dst []byte, r io.Reader, n, limit int) ([]byte, error) {
	start := len(dst)
	dst = slices.Grow(dst, firstGuess(n, limit)+1) // one more than may come, to see the end
	for {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, min(len(dst)-start+512, limit+1))
		}
		n, err := r.Read(dst[len(dst):min(cap(dst), start+limit+1)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst)-start > limit:
			return nil, ErrTooLarge
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return nil, err
		}
	}
}

// opener is a decoder that reads a stream, and what it reads from.
type opener[R any] struct {
	src    bytes.Reader
	reader R
}

// sealer is an encoder that writes a stream, and what it writes to.
type sealer[W any] struct {
	dst    sink
	writer W
}

// sink is a slice to append to.
type sink struct{ b []byte }

func (s *sink) Write(b []byte) (int, error) {
	s.b = append(s.b, b...)
	return len(b), nil
}

// seal writes src through an encoder, which cannot fail, for a sink does not.
func (s *sealer[W]) seal(w io.WriteCloser, dst, src []byte, reset func(io.Writer)) []byte {
	s.dst.b = dst
	reset(&s.dst)
	_, err := w.Write(src)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic("compress: writing to memory failed: " + err.Error())
	}
	dst = s.dst.b
	s.dst.b = nil
	return dst
}

var gzipOpeners = sync.Pool{New: func() any { return &opener[gzip.Reader]{} }}

func openGzip(dst, src []byte, limit int) ([]byte, error) {
	o := gzipOpeners.Get().(*opener[gzip.Reader])
	defer gzipOpeners.Put(o)
	o.src.Reset(src)
	defer o.src.Reset(nil)
	if err := o.reader.Reset(&o.src); err != nil {
		return nil, unexpected(err)
	}
	return readAll(dst, &o.reader, len(src), limit)
}

// unexpected makes an error of an end that comes before anything else: an empty input is not what a codec writes.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// gzipSealers has a pool for each level; 0 stands for the default.
var gzipSealers [gzip.BestCompression + 1]sync.Pool

func appendGzip(dst []byte, level int, src []byte) []byte {
	level = max(0, min(level, gzip.BestCompression))
	pool := &gzipSealers[level]
	s, ok := pool.Get().(*sealer[*gzip.Writer])
	if !ok {
		if level == 0 {
			level = gzip.DefaultCompression
		}
		w, err := gzip.NewWriterLevel(nil, level)
		if err != nil {
			panic("compress: gzip has no level: " + err.Error())
		}
		s = &sealer[*gzip.Writer]{writer: w}
	}
	defer pool.Put(s)
	return s.seal(s.writer, dst, src, s.writer.Reset)
}

var lz4Openers = sync.Pool{New: func() any { return &opener[*lz4.Reader]{reader: lz4.NewReader(nil)} }}

var errLZ4Frame = errors.New("no frame, or one of a kind that Kafka does not take")

// openLZ4 takes the frames that Kafka takes: of version 1, with blocks that do not need the ones before them. That leaves out the
// legacy frame, whose blocks open to 8 MiB.
func openLZ4(dst, src []byte, limit int) ([]byte, error) {
	const magic, versionMask, version1, independent = 0x184D2204, 0xC0, 0x40, 0x20
	if len(src) < 7 || binary.LittleEndian.Uint32(src) != magic || src[4]&versionMask != version1 || src[4]&independent == 0 {
		return nil, errLZ4Frame
	}
	o := lz4Openers.Get().(*opener[*lz4.Reader])
	defer lz4Openers.Put(o)
	o.src.Reset(src)
	defer o.src.Reset(nil)
	o.reader.Reset(&o.src)
	return readAll(dst, o.reader, len(src), limit)
}

// lz4Levels is how many levels there are here; 0 is the fast one, which Kafka has by default and calls 9.
const lz4Levels = 10

var lz4Sealers [lz4Levels]sync.Pool

func appendLZ4(dst []byte, level int, src []byte) []byte {
	const kafkaDefault = 9
	if level == kafkaDefault {
		level = 0
	}
	level = max(0, min(level, lz4Levels-1))
	pool := &lz4Sealers[level]
	s, ok := pool.Get().(*sealer[*lz4.Writer])
	if !ok {
		s = &sealer[*lz4.Writer]{writer: lz4.NewWriter(nil)}
		strength := lz4.Fast
		if level > 0 {
			strength = lz4.CompressionLevel(1 << (8 + level))
		}
		// Blocks of 64 KiB and no checksum, as Kafka's clients write: the batch has a checksum.
		err := s.writer.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.CompressionLevelOption(strength))
		if err != nil {
			panic("compress: lz4 has no level: " + err.Error())
		}
	}
	defer pool.Put(s)
	return s.seal(s.writer, dst, src, s.writer.Reset)
}

// xerialHeader begins the stream of snappy-java, which Kafka's Java clients write: magic, version 1, readable from version 1 on.
// Blocks follow, each behind its length. Other clients write a single block without any of this.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}

const (
	xerialMagic = 8        // the part of the header that tells a stream from a block
	xerialBlock = 32 << 10 // what snappy-java takes into a block
	snappyMost  = 22       // a byte of snappy opens to less: three bytes copy up to 64
)

func openSnappy(dst, src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerialHeader[:xerialMagic]) {
		return openBlock(dst, src, limit)
	}
	start := len(dst)
	dst = slices.Grow(dst, firstGuess(len(src), limit))
	for len(src) > 0 {
		if bytes.HasPrefix(src, xerialHeader[:xerialMagic]) { // again where streams were joined
			if len(src) < len(xerialHeader) {
				return nil, io.ErrUnexpectedEOF
			}
			src = src[len(xerialHeader):]
			continue
		}
		if len(src) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(src)
		if uint64(n) > uint64(len(src)-4) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if dst, err = openBlock(dst, src[4:4+n], limit-(len(dst)-start)); err != nil {
			return nil, err
		}
		src = src[4+n:]
	}
	return dst, nil
}

// openBlock opens a block of snappy, which begins with the size that it opens to.
func openBlock(dst, src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	switch {
	case err != nil:
		return nil, err
	case n > snappyMost*len(src):
		return nil, s2.ErrCorrupt
	case n > limit:
		return nil, ErrTooLarge
	}
	at := len(dst)
	dst = slices.Grow(dst, n)
	if _, err := s2.Decode(dst[at:at:at+n], src); err != nil {
		return nil, err
	}
	return dst[:at+n], nil
}

func appendSnappy(dst, src []byte) []byte {
	dst = append(dst, xerialHeader...)
	for len(src) > 0 {
		block := src[:min(len(src), xerialBlock)]
		src = src[len(block):]
		at := len(dst) + 4
		room := s2.MaxEncodedLen(len(block))
		dst = slices.Grow(dst, 4+room)
		out := s2.EncodeSnappy(dst[at:at+room], block)
		dst = dst[:at+len(out)]
		binary.BigEndian.PutUint32(dst[at-4:], uint32(len(out)))
	}
	return dst
}

// zstdOpeners has decoders that write no further than the room they are given. They keep no window: what they look back at is
// their output.
var zstdOpeners = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("compress: zstd takes no decoder: " + err.Error())
	}
	return d
}}

const (
	// zstdBlock is what a block opens to at most.
	zstdBlock = 128 << 10
	// zstdMost is what a byte of zstd can open to: four bytes can be a block.
	zstdMost = zstdBlock / 4
)

// openZstd opens into the room that a frame asks for, or into a guess, for a frame need not say its size. Where the room ends too
// early it tries again with four times as much. The decoder has several errors for that end; they are told from others by a
// block's room not being left behind what came out.
func openZstd(dst, src []byte, limit int) ([]byte, error) {
	if len(src) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	room, err := zstdRoom(src, limit)
	if err != nil {
		return nil, err
	}
	d := zstdOpeners.Get().(*zstd.Decoder)
	defer zstdOpeners.Put(d)
	start, plausible := len(dst), min(limit, len(src)*zstdMost)
	for {
		dst = slices.Grow(dst, room)
		// With a block more than allowed, what is too large comes out and shows.
		room = min(cap(dst)-start, plausible+zstdBlock)
		out, err := d.DecodeAll(src, dst[start:start:start+room])
		full := errors.Is(err, zstd.ErrDecoderSizeExceeded)
		switch {
		case len(out) > limit:
			return nil, ErrTooLarge
		case err == nil:
			return dst[:start+len(out)], nil
		case !full && len(out)+zstdBlock <= room:
			return nil, err
		case room == plausible+zstdBlock:
			if full && plausible == limit {
				return nil, ErrTooLarge
			}
			return nil, err
		}
		room = min(4*room+512, plausible+zstdBlock)
	}
}

// zstdRoom is how much room to make for the output: what the frame says, if it says so and that can be, else a guess.
func zstdRoom(src []byte, limit int) (int, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return 0, err
	}
	switch {
	case !h.HasFCS:
		return firstGuess(len(src), limit), nil
	case h.FrameContentSize > uint64(limit):
		return 0, ErrTooLarge
	case h.FrameContentSize > uint64(len(src))*zstdMost:
		return 0, zstd.ErrFrameSizeMismatch
	}
	return int(h.FrameContentSize), nil
}

// zstdSealers has a pool for each strength of the encoder.
var zstdSealers [zstd.SpeedBestCompression + 1]sync.Pool

// zstdWindow is how far back an encoder looks. It bounds what a reader must keep; batches are rarely larger.
const zstdWindow = 1 << 20

func appendZstd(dst []byte, level int, src []byte) []byte {
	strength := zstd.SpeedDefault
	if level != 0 {
		strength = zstd.EncoderLevelFromZstd(level)
	}
	pool := &zstdSealers[strength]
	e, ok := pool.Get().(*zstd.Encoder)
	if !ok {
		var err error
		e, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(strength), zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		if err != nil {
			panic("compress: zstd takes no encoder: " + err.Error())
		}
	}
	defer pool.Put(e)
	return e.EncodeAll(src, dst)
}
