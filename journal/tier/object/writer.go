package object

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/sluicemq/sluice/journal/record"
)

// Options say how an object is laid out.
type Options struct {
	BlockBytes int64 // 0: 256 KiB; a block has no more, unless it is one extent
}

// Builder lays an object out: what will stand where, before a byte of it is read. It holds the indexes alone, 40 bytes for each block. It is for
// one goroutine.
type Builder struct {
	o   Options
	sum Summary
	pos int64
	err error
}

// NewBuilder begins an object, created at so many milliseconds since 1970.
func NewBuilder(id ID, created int64, o Options) *Builder {
	if o.BlockBytes <= 0 {
		o.BlockBytes = BlockBytes
	}
	return &Builder{o: o, sum: Summary{ID: id, Created: created}, pos: headerSize}
}

func (b *Builder) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf("object "+b.sum.ID.Name()+": "+format, args...)
	}
}

// Run begins the next run.
func (b *Builder) Run(t Topic, flags RunFlags) {
	if len(t.Name) > MaxName {
		b.fail("the name of a topic has %d bytes", len(t.Name))
	}
	b.endRun()
	b.sum.Runs = append(b.sum.Runs, Run{Topic: t, Pos: b.pos, MaxTime: NoTime, Flags: flags})
}

func (b *Builder) endRun() {
	if k := len(b.sum.Runs); k > 0 && len(b.sum.Runs[k-1].Blocks) == 0 {
		b.fail("a run without records")
	}
}

// Add appends an extent to the run. A block is made of one or more; no extent is cut.
func (b *Builder) Add(e Extent) {
	if len(b.sum.Runs) == 0 || e.Bytes <= 0 || e.Bytes > math.MaxInt32 || e.First < 0 || e.Last < e.First {
		b.fail("bad extent %+v", e)
		return
	}
	r := &b.sum.Runs[len(b.sum.Runs)-1]
	k := len(r.Blocks)
	if k > 0 && e.First <= r.Last {
		b.fail("offsets go back: %d behind %d", e.First, r.Last)
		return
	}
	if k == 0 {
		r.First = e.First
	}
	if k == 0 || int64(r.Blocks[k-1].Bytes)+e.Bytes > b.o.BlockBytes {
		r.Blocks = append(r.Blocks, Block{First: e.First, Pos: b.pos, MaxTime: NoTime})
		k++
	}
	bl := &r.Blocks[k-1]
	bl.Last, bl.Bytes, bl.MaxTime = e.Last, bl.Bytes+int32(e.Bytes), max(bl.MaxTime, e.MaxTime)
	r.Last, r.Bytes, r.MaxTime = e.Last, r.Bytes+e.Bytes, max(r.MaxTime, e.MaxTime)
	b.pos += e.Bytes
}

// Abort appends an aborted transaction to the run.
func (b *Builder) Abort(a Aborted) {
	if len(b.sum.Runs) == 0 || a.First < 0 || a.Last < a.First {
		b.fail("bad aborted transaction %+v", a)
		return
	}
	r := &b.sum.Runs[len(b.sum.Runs)-1]
	if k := len(r.Aborted); k > 0 && a.Last < r.Aborted[k-1].Last {
		b.fail("aborted transactions go back")
	}
	r.Aborted = append(r.Aborted, a)
}

// Writer gives an object's bytes.
type Writer struct {
	sum Summary
	end int64 // of the data
}

// Finish ends the layout. An object without a run is an error.
func (b *Builder) Finish() (*Writer, error) {
	b.endRun()
	if len(b.sum.Runs) == 0 {
		b.fail("nothing in it")
	}
	tail := int64(trailerSize)
	for i := range b.sum.Runs {
		r := &b.sum.Runs[i]
		tail += runSize + int64(len(r.Name)) + int64(len(r.Blocks))*blockSize + int64(len(r.Aborted))*abortSize
	}
	if tail > MaxTail {
		b.fail("a tail of %d bytes", tail)
	}
	if b.err != nil {
		return nil, b.err
	}
	b.sum.Tail, b.sum.Size = tail, b.pos+tail
	return &Writer{sum: b.sum, end: b.pos}, nil
}

// Name is the name to put it under.
func (w *Writer) Name() string { return w.sum.ID.Name() }

// Size is the number of bytes that Reader gives.
func (w *Writer) Size() int64 { return w.sum.Size }

// Summary is what to keep of it. Checksums are right once a Reader has come to its end.
func (w *Writer) Summary() Summary { return w.sum }

// Reader gives the object's bytes. open gives the batches of a run, by its number: exactly those that were laid out; it is asked for one run
// after another, and closed. Memory: the tail. For a second try a second Reader is taken; two must not be read at once.
func (w *Writer) Reader(open func(run int) (io.ReadCloser, error)) io.ReadCloser {
	return &stream{w: w, open: open, out: w.header(), at: 0}
}

// stream is an object's bytes as they are made.
type stream struct {
	w          *Writer
	open       func(int) (io.ReadCloser, error)
	out        []byte // header or tail, what is left of it
	run, block int
	in         io.ReadCloser // nil: the run is not open
	done       int32         // bytes of the block that have been given
	crc        uint32
	at         int64
	tailed     bool
	err        error
}

func (s *stream) Read(p []byte) (int, error) {
	for s.err == nil {
		switch {
		case len(s.out) > 0:
			n := copy(p, s.out)
			s.out = s.out[n:]
			return n, nil
		case s.run < len(s.w.sum.Runs):
			if n, err := s.data(p); n > 0 || err != nil {
				s.err = err
				if err != nil {
					return 0, err
				}
				return n, nil
			}
		case !s.tailed:
			s.tailed = true
			s.out = s.w.tail()
		default:
			s.err = io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
	}
	return 0, s.err
}

// data gives bytes of the block, or goes on to the next one.
func (s *stream) data(p []byte) (int, error) {
	r := &s.w.sum.Runs[s.run]
	if s.in == nil {
		in, err := s.open(s.run)
		if err != nil {
			return 0, err
		}
		s.in = in
	}
	b := &r.Blocks[s.block]
	if left := b.Bytes - s.done; left > 0 {
		n, err := s.in.Read(p[:min(len(p), int(left))])
		s.crc = crc32.Update(s.crc, castagnoli, p[:n])
		s.done += int32(n)
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("run %d of object %s: %w", s.run, s.w.Name(), err)
		}
		return n, nil
	}
	b.CRC = s.crc
	s.crc, s.done, s.block = 0, 0, s.block+1
	if s.block < len(r.Blocks) {
		return 0, nil
	}
	in := s.in
	s.in, s.block, s.run = nil, 0, s.run+1
	return 0, in.Close()
}

// Close closes the run that is open.
func (s *stream) Close() error {
	in := s.in
	s.in = nil
	if s.err == nil {
		s.err = io.ErrClosedPipe
	}
	if in == nil {
		return nil
	}
	return in.Close()
}

func (w *Writer) header() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerSize)
	copy(b, headMagic)
	le.PutUint16(b[8:], format)
	putID(b[16:], w.sum.ID)
	le.PutUint64(b[40:], uint64(w.sum.Created))
	le.PutUint64(b[48:], uint64(w.sum.Size))
	le.PutUint32(b[12:], crc32.Checksum(b, castagnoli))
	return b
}

func putID(b []byte, id ID) {
	le := binary.LittleEndian
	le.PutUint32(b, uint32(id.Tenant))
	le.PutUint32(b[4:], uint32(id.Shard))
	le.PutUint32(b[8:], uint32(id.Epoch))
	le.PutUint64(b[16:], id.Sequence)
}

func getID(b []byte) ID {
	le := binary.LittleEndian
	return ID{Tenant: record.TenantID(le.Uint32(b)), Shard: record.ShardID(le.Uint32(b[4:])), Epoch: record.Epoch(le.Uint32(b[8:])), Sequence: le.Uint64(b[16:])}
}

// tail encodes directory, blocks, aborted transactions, names and trailer.
func (w *Writer) tail() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, w.sum.Tail)
	blocks, aborts, names := 0, 0, 0
	for i := range w.sum.Runs {
		r := &w.sum.Runs[i]
		b = append(b, r.ID[:]...)
		b = le.AppendUint64(b, uint64(r.Partition))
		b = le.AppendUint32(b, uint32(r.Index))
		b = le.AppendUint32(b, uint32(r.Flags))
		for _, v := range []int64{int64(r.First), int64(r.Last), r.MaxTime, r.Pos, r.Bytes} {
			b = le.AppendUint64(b, uint64(v))
		}
		for _, v := range []int{blocks, len(r.Blocks), aborts, len(r.Aborted), names, len(r.Name), 0, 0} {
			b = le.AppendUint32(b, uint32(v))
		}
		blocks, aborts, names = blocks+len(r.Blocks), aborts+len(r.Aborted), names+len(r.Name)
	}
	for i := range w.sum.Runs {
		for _, bl := range w.sum.Runs[i].Blocks {
			b = le.AppendUint64(b, uint64(bl.First))
			b = le.AppendUint64(b, uint64(bl.Last))
			b = le.AppendUint64(b, uint64(bl.Pos))
			b = le.AppendUint64(b, uint64(bl.MaxTime))
			b = le.AppendUint32(b, uint32(bl.Bytes))
			b = le.AppendUint32(b, bl.CRC)
		}
	}
	for i := range w.sum.Runs {
		for _, a := range w.sum.Runs[i].Aborted {
			for _, v := range []int64{a.ProducerID, int64(a.First), int64(a.Last), int64(a.LastStable)} {
				b = le.AppendUint64(b, uint64(v))
			}
		}
	}
	for i := range w.sum.Runs {
		b = append(b, w.sum.Runs[i].Name...)
	}
	return w.trailer(b, blocks, aborts, names)
}

// trailer ends a tail: its checksum is over all of it, the trailer included.
func (w *Writer) trailer(b []byte, blocks, aborts, names int) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(w.sum.Size))
	b = le.AppendUint64(b, uint64(w.end))
	for _, v := range []int{len(w.sum.Runs), blocks, aborts, names} {
		b = le.AppendUint32(b, uint32(v))
	}
	b = le.AppendUint16(b, format)
	b = append(b, 0, 0)
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, tailMagic...)
}
