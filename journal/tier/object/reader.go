package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
)

// Open reads an object's tail from a store, by one ranged Get if the tail has at most tail bytes, as a manifest knows; 0: TailGuess. Of a longer
// one the rest is read by a second. tier.ErrNotFound; ErrCorrupt, with the place.
func Open(ctx context.Context, s tier.Store, id ID, tail int64) (*Summary, error) {
	if tail <= 0 || tail > MaxTail {
		tail = TailGuess
	}
	b, size, err := readRange(ctx, s, id.Name(), tier.Range{Off: -tail})
	if err != nil {
		return nil, err
	}
	need, err := TailSize(id.Name(), b, size)
	if err != nil {
		return nil, err
	}
	if need > int64(len(b)) {
		rest, again, err := readRange(ctx, s, id.Name(), tier.Range{Off: size - need, Len: need - int64(len(b))})
		if err != nil {
			return nil, err
		}
		if again != size {
			return nil, &CorruptError{Object: id.Name(), At: size, Reason: fmt.Sprintf("it has %d bytes, and had %d", again, size)}
		}
		b = append(rest, b...)
	}
	sum, err := ParseTail(id.Name(), b[int64(len(b))-need:], size)
	if err != nil {
		return nil, err
	}
	sum.ID = id
	return sum, nil
}

func readRange(ctx context.Context, s tier.Store, name string, r tier.Range) ([]byte, int64, error) {
	body, info, err := s.Get(ctx, name, r)
	if err != nil {
		return nil, 0, err
	}
	_, n, err := r.In(info.Size)
	if err != nil {
		return nil, 0, errors.Join(err, body.Close())
	}
	b := make([]byte, n)
	_, err = io.ReadFull(body, b)
	return b, info.Size, errors.Join(err, body.Close())
}

// TailSize is the size of the tail of an object of size bytes whose last ones are b. It believes the trailer as far as its numbers can be
// right; ParseTail checks it.
func TailSize(name string, b []byte, size int64) (int64, error) {
	if len(b) < trailerSize || size < headerSize+trailerSize {
		return 0, &CorruptError{Object: name, At: size, Reason: "too short"}
	}
	t := b[len(b)-trailerSize:]
	le := binary.LittleEndian
	switch {
	case string(t[40:]) != tailMagic:
		return 0, &CorruptError{Object: name, At: size - 8, Reason: "its end is not that of an object"}
	case le.Uint16(t[32:]) != format:
		return 0, fmt.Errorf("object %s has format %d; this program knows %d", name, le.Uint16(t[32:]), format)
	case int64(le.Uint64(t)) != size:
		return 0, &CorruptError{Object: name, At: size - trailerSize, Reason: fmt.Sprintf("it has %d bytes, and should have %d", size, le.Uint64(t))}
	}
	end := int64(le.Uint64(t[8:]))
	need := size - end
	runs, blocks, aborts, names := int64(le.Uint32(t[16:])), int64(le.Uint32(t[20:])), int64(le.Uint32(t[24:])), int64(le.Uint32(t[28:]))
	if end < headerSize || need > MaxTail || need != trailerSize+runs*runSize+blocks*blockSize+aborts*abortSize+names || runs == 0 || blocks < runs {
		return 0, &CorruptError{Object: name, At: size - trailerSize, Reason: "its tail has not the size of what is in it"}
	}
	return need, nil
}

// ParseTail reads the tail of an object of size bytes; b is all of it. What it gives can be relied upon: runs lie behind each other and
// fill the object, blocks fill runs, offsets grow. It takes memory in proportion to b.
func ParseTail(name string, b []byte, size int64) (*Summary, error) {
	need, err := TailSize(name, b, size)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	t := len(b) - trailerSize
	if int64(len(b)) != need || le.Uint32(b[t+36:]) != crc32.Checksum(b[:t+36], castagnoli) {
		return nil, &CorruptError{Object: name, At: size - int64(len(b)), Reason: "the tail's checksum does not match"}
	}
	p := tailParser{name: name, at: size - int64(len(b)), end: int64(le.Uint64(b[t+8:])), pos: headerSize}
	runs, blocks, aborts := int(le.Uint32(b[t+16:])), int(le.Uint32(b[t+20:])), int(le.Uint32(b[t+24:]))
	p.runs, b = b[:runs*runSize], b[:t]
	b = b[runs*runSize:]
	p.blocks, b = b[:blocks*blockSize], b[blocks*blockSize:]
	p.aborts, p.names = b[:aborts*abortSize], b[aborts*abortSize:]
	sum := &Summary{Size: size, Tail: need, Runs: make([]Run, runs)}
	for i := range sum.Runs {
		if err := p.run(&sum.Runs[i], i); err != nil {
			return nil, err
		}
	}
	if p.pos != p.end || len(p.blocks)+len(p.aborts)+len(p.names) > 0 {
		return nil, p.corrupt(runs, "runs do not fill the object")
	}
	return sum, nil
}

// tailParser takes what belongs to a run from the front of each table.
type tailParser struct {
	name                        string
	at                          int64
	runs, blocks, aborts, names []byte
	nBlocks, nAborts, nNames    uint32
	pos, end                    int64
}

func (p *tailParser) corrupt(run int, reason string) error {
	return &CorruptError{Object: p.name, At: p.at + int64(run)*runSize, Reason: reason}
}

func (p *tailParser) run(r *Run, i int) error {
	le, b := binary.LittleEndian, p.runs[i*runSize:(i+1)*runSize]
	copy(r.ID[:], b)
	r.Partition, r.Index = record.PartitionID(le.Uint64(b[16:])), int32(le.Uint32(b[24:]))
	r.Flags = RunFlags(le.Uint32(b[28:]))
	r.First, r.Last, r.MaxTime = record.Offset(le.Uint64(b[32:])), record.Offset(le.Uint64(b[40:])), int64(le.Uint64(b[48:]))
	r.Pos, r.Bytes = int64(le.Uint64(b[56:])), int64(le.Uint64(b[64:]))
	firstBlock, blocks, firstAbort, aborts := le.Uint32(b[72:]), int(le.Uint32(b[76:])), le.Uint32(b[80:]), int(le.Uint32(b[84:]))
	firstName, name := le.Uint32(b[88:]), int(le.Uint32(b[92:]))
	switch {
	case r.Pos != p.pos || r.Bytes <= 0 || r.Bytes > p.end-p.pos:
		return p.corrupt(i, "a run does not begin where the one before it ends, or has no bytes of the object")
	case firstBlock != p.nBlocks || firstAbort != p.nAborts || firstName != p.nNames:
		return p.corrupt(i, "a run's entries do not begin where those before end")
	case r.Index < 0 || r.Last > offsetMax:
		return p.corrupt(i, "a run is of no partition, or goes on behind all offsets")
	case blocks == 0 || blocks > len(p.blocks)/blockSize || aborts > len(p.aborts)/abortSize || name > len(p.names) || name > MaxName:
		return p.corrupt(i, "a run has more entries than there are, or none")
	}
	r.Name = string(p.names[:name])
	if err := p.takeBlocks(r, i, blocks); err != nil {
		return err
	}
	if err := p.takeAborts(r, i, aborts); err != nil {
		return err
	}
	p.names = p.names[name:]
	p.nBlocks, p.nAborts, p.nNames = p.nBlocks+uint32(blocks), p.nAborts+uint32(aborts), p.nNames+uint32(name)
	p.pos += r.Bytes
	return nil
}

func (p *tailParser) takeBlocks(r *Run, i, n int) error {
	le := binary.LittleEndian
	r.Blocks = make([]Block, n)
	pos, last, latest := r.Pos, r.First-1, NoTime
	for k := range r.Blocks {
		b := p.blocks[k*blockSize:]
		bl := Block{
			First: record.Offset(le.Uint64(b)), Last: record.Offset(le.Uint64(b[8:])), Pos: int64(le.Uint64(b[16:])), MaxTime: int64(le.Uint64(b[24:])),
			Bytes: int32(le.Uint32(b[32:])), CRC: le.Uint32(b[36:]),
		}
		if bl.Pos != pos || bl.Bytes <= 0 || bl.First < 0 || bl.First <= last || bl.Last < bl.First {
			return p.corrupt(i, fmt.Sprintf("block %d of a run does not follow the one before it", k))
		}
		r.Blocks[k] = bl
		pos, last, latest = pos+int64(bl.Bytes), bl.Last, max(latest, bl.MaxTime)
	}
	if pos != r.Pos+r.Bytes || r.Blocks[0].First != r.First || last != r.Last || latest != r.MaxTime {
		return p.corrupt(i, "a run's blocks are not what the run says")
	}
	p.blocks = p.blocks[n*blockSize:]
	return nil
}

func (p *tailParser) takeAborts(r *Run, i, n int) error {
	le := binary.LittleEndian
	if n > 0 {
		r.Aborted = make([]Aborted, n)
	}
	for k := range r.Aborted {
		b := p.aborts[k*abortSize:]
		a := Aborted{ProducerID: int64(le.Uint64(b)), First: record.Offset(le.Uint64(b[8:])), Last: record.Offset(le.Uint64(b[16:])), LastStable: record.Offset(le.Uint64(b[24:]))}
		if a.First < 0 || a.Last < a.First || k > 0 && a.Last < r.Aborted[k-1].Last {
			return p.corrupt(i, "aborted transactions out of order")
		}
		r.Aborted[k] = a
	}
	p.aborts = p.aborts[n*abortSize:]
	return nil
}

// ParseHeader reads an object's first bytes, 64 of them, and gives what they say. It tells an object that lies under another's name.
func ParseHeader(name string, b []byte) (id ID, created, size int64, err error) {
	if len(b) < headerSize {
		return id, 0, 0, &CorruptError{Object: name, Reason: "too short"}
	}
	var h [headerSize]byte
	copy(h[:], b)
	le := binary.LittleEndian
	crc := le.Uint32(h[12:])
	clear(h[12:16])
	if string(h[:8]) != headMagic || crc32.Checksum(h[:], castagnoli) != crc {
		return id, 0, 0, &CorruptError{Object: name, Reason: "bad header"}
	}
	if v := le.Uint16(h[8:]); v != format {
		return id, 0, 0, fmt.Errorf("object %s has format %d; this program knows %d", name, v, format)
	}
	id = getID(h[16:])
	if id.Name() != name {
		return id, 0, 0, &CorruptError{Object: name, Reason: "its header is that of " + id.Name()}
	}
	return id, int64(le.Uint64(h[40:])), int64(le.Uint64(h[48:])), nil
}

// BlockAt gives the number of the block that has offset o, or the first one behind it; len(Blocks): there is none.
func (r *Run) BlockAt(o record.Offset) int {
	return sort.Search(len(r.Blocks), func(i int) bool { return r.Blocks[i].Last >= o })
}

// BlockSince gives the number of the first block that has a record of time t, in milliseconds, or later; len(Blocks): there is none.
func (r *Run) BlockSince(t int64) int {
	for i := range r.Blocks {
		if r.Blocks[i].MaxTime >= t {
			return i
		}
	}
	return len(r.Blocks)
}

// AbortedIn appends the aborted transactions that have records in an interval of offsets, both ends included.
func (r *Run) AbortedIn(dst []Aborted, first, last record.Offset) []Aborted {
	// They are sorted by their ends: those that end before first are passed over.
	i := sort.Search(len(r.Aborted), func(i int) bool { return r.Aborted[i].Last >= first })
	for _, a := range r.Aborted[i:] {
		if a.First <= last {
			dst = append(dst, a)
		}
	}
	return dst
}

// ReadBlocks reads n blocks of a run from the one of number from on, by one ranged Get, and calls got for each, in order, once its
// checksum is right. b is got's to keep. An error of got ends it.
func ReadBlocks(ctx context.Context, s tier.Store, name string, r *Run, from, n int, got func(i int, b []byte) error) error {
	return ReadBlocksInto(ctx, s, name, r, from, n, func(size int) []byte { return make([]byte, size) }, got)
}

// ReadBlocksInto is ReadBlocks into memory that is the caller's: memory gives size bytes for each block. What it gave last is not of use where got was not called with
// it.
func ReadBlocksInto(ctx context.Context, s tier.Store, name string, r *Run, from, n int, memory func(size int) []byte, got func(i int, b []byte) error) (err error) {
	blocks := r.Blocks[from : from+n]
	if n == 0 {
		return nil
	}
	last := blocks[n-1]
	body, _, err := s.Get(ctx, name, tier.Range{Off: blocks[0].Pos, Len: last.Pos + int64(last.Bytes) - blocks[0].Pos})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	for i := range blocks {
		b := memory(int(blocks[i].Bytes))
		if _, err := io.ReadFull(body, b); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return &CorruptError{Object: name, At: blocks[i].Pos, Reason: "it ends within its blocks"}
			}
			return err
		}
		if crc32.Checksum(b, castagnoli) != blocks[i].CRC {
			return &CorruptError{Object: name, At: blocks[i].Pos, Reason: "a block's checksum does not match"}
		}
		if err := got(from+i, b); err != nil {
			return err
		}
	}
	return nil
}
