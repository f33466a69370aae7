package raftgroup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluicemq/sluice/meta"
)

// An image is the whole state on its way to a node that cannot have it from the log any more (docs/format/raft.md).

const (
	imageMagic   = "SLUICE catalog\n"
	imageVersion = 1
)

// ErrImage says that an image is cut short or not one.
var ErrImage = errors.New("raftgroup: a snapshot of the catalog that is cut short, or is none")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// view is the state at one moment, to be written while it goes on.
type view struct {
	snapshot *pebble.Snapshot
	mark     mark
}

func (s *state) view() *view { return &view{s.db.NewSnapshot(), s.mark} }

func (v *view) close() error { return v.snapshot.Close() }

// errStopped ends the writing of an image or its taking over.
var errStopped = errors.New("raftgroup: stopped")

// write writes the image. The same view gives the same bytes.
func (v *view) write(w io.Writer, stop <-chan struct{}) (err error) {
	sum := crc32.New(castagnoli)
	bw := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	m := v.mark
	m.generation = 0 // a matter of each node
	head := m.append(nil)
	b := append([]byte(imageMagic), imageVersion)
	b = append(binary.AppendUvarint(b, uint64(len(head))), head...)
	if _, err := bw.Write(b); err != nil {
		return err
	}
	it, err := entriesOf(v.snapshot, v.mark.generation)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		e := meta.Entry{Key: string(it.Key()[generationKeyLen:]), Value: it.Value()}
		b = appendEntry(b[:0], &e)
		if _, err := bw.Write(b); err != nil {
			return err
		}
		select {
		case <-stop:
			return errStopped
		default:
		}
	}
	if err := errors.Join(it.Error(), bw.Flush()); err != nil {
		return err
	}
	_, err = w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// imageReader reads an image and keeps its checksum.
type imageReader struct {
	r   *bufio.Reader
	sum uint32
}

// ReadByte makes it an io.ByteReader.
func (r *imageReader) ReadByte() (byte, error) {
	c, err := r.r.ReadByte()
	if err == nil {
		r.sum = crc32.Update(r.sum, castagnoli, []byte{c})
	}
	return c, err
}

func (r *imageReader) bytes(n, limit uint64) ([]byte, error) {
	if n > limit {
		return nil, ErrImage
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, err
	}
	r.sum = crc32.Update(r.sum, castagnoli, b)
	return b, nil
}

// headMax bounds an image's mark.
const headMax = 64 << 10

func (r *imageReader) head() (m mark, err error) {
	magic, err := r.bytes(uint64(len(imageMagic)), headMax)
	if err != nil {
		return m, err
	}
	version, err := r.ReadByte()
	if err != nil {
		return m, err
	}
	if string(magic) != imageMagic {
		return m, ErrImage
	}
	if version != imageVersion {
		return m, fmt.Errorf("%w: it has version %d, this program reads %d", ErrImage, version, imageVersion)
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return m, err
	}
	head, err := r.bytes(n, headMax)
	if err != nil {
		return m, err
	}
	return m, m.decode(head)
}

func (r *imageReader) entry() (e meta.Entry, err error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return e, err
	}
	key, err := r.bytes(n, keyMax)
	if err != nil {
		return e, err
	}
	if n, err = binary.ReadUvarint(r); err != nil {
		return e, err
	}
	if n == 0 {
		return e, ErrImage
	}
	e.Key = string(key)
	e.Value, err = r.bytes(n-1, valueMax)
	return e, err
}

// take replaces the state by an image, all of it or nothing, and tells of what differs. It is on stable storage afterwards.
func (s *state) take(from io.Reader, stop <-chan struct{}) (err error) {
	defer failed(&err)
	r := &imageReader{r: bufio.NewReaderSize(from, 64<<10)}
	m, err := r.head()
	if err != nil {
		return imageFault(err)
	}
	m.generation = s.mark.generation + 1
	changes, err := s.copyImage(r, &m, stop)
	if err != nil {
		return errors.Join(imageFault(err), s.dropOthers())
	}
	b := s.db.NewBatch()
	lo, hi := generationKey(s.mark.generation), generationKey(m.generation)
	if err := errors.Join(b.DeleteRange(lo, hi, nil), b.Set(keyMark, m.append(nil), nil), s.db.Apply(b, pebble.Sync)); err != nil {
		return fmt.Errorf("write the catalog's state: %w", err)
	}
	s.mark = m
	s.apply(m.last, changes)
	return nil
}

func imageFault(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	return err
}

// copyImage writes an image's entries beside those that there are, and answers the difference. Both are in the order of their keys.
func (s *state) copyImage(r *imageReader, m *mark, stop <-chan struct{}) (changes []meta.Entry, err error) {
	old, err := entriesOf(s.db, s.mark.generation)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	old.First()
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	prefix := generationKey(m.generation)
	var size uint64
	last := ""
	for range m.entries {
		e, err := r.entry()
		if err != nil {
			return nil, err
		}
		if err := e.Check(); err != nil {
			return nil, err
		}
		if e.Key <= last {
			return nil, ErrImage
		}
		last = e.Key
		size += uint64(len(e.Key) + len(e.Value))
		changes = goneBefore(old, e.Key, changes)
		if !sameEntry(old, &e) {
			changes = append(changes, e)
		}
		if old.Valid() && string(old.Key()[generationKeyLen:]) == e.Key {
			old.Next()
		}
		if err := b.Set(append(prefix[:generationKeyLen:generationKeyLen], e.Key...), e.Value, nil); err != nil {
			return nil, err
		}
		if b.Len() > stateBatchBytes {
			if err := s.db.Apply(b, pebble.NoSync); err != nil {
				return nil, err
			}
			b.Reset()
			select {
			case <-stop:
				return nil, errStopped
			default:
			}
		}
	}
	changes = goneBefore(old, "", changes)
	want := r.sum
	var sum [4]byte
	if _, err := io.ReadFull(r.r, sum[:]); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(sum[:]) != want || size != m.bytes {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrImage)
	}
	return changes, errors.Join(old.Error(), s.db.Apply(b, pebble.NoSync))
}

// goneBefore moves old to key, or to its end if key is empty, and adds what is on the way as deleted.
func goneBefore(old *pebble.Iterator, key string, changes []meta.Entry) []meta.Entry {
	for old.Valid() && (key == "" || string(old.Key()[generationKeyLen:]) < key) {
		changes = append(changes, meta.Entry{Key: string(old.Key()[generationKeyLen:])})
		old.Next()
	}
	return changes
}
