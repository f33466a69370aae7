package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// restoreStep is how much of a file, or of rows, is written at once.
const restoreStep = 1 << 20

// fileBytesMax is more than any file of a log has: all of it is written, whatever a backup has of it.
const fileBytesMax = 1 << 33

// ErrNotEmpty means that a directory that is to be written anew holds something.
var ErrNotEmpty = errors.New("journal: directory is not empty")

// Restorer writes the directory of a log from what a Backup gave: NewRestorer, File for each file and Rows once, in any order, Finish, Close. What
// a power cut leaves before Finish has returned is refused by Open as no whole log: FORMAT is written last. Not for concurrent use.
type Restorer struct {
	fs   vfs.FS
	o    Options
	lock io.Closer
	buf  []byte
}

// NewRestorer makes the directory and locks it. ErrNotEmpty: something is in it.
func NewRestorer(o Options) (*Restorer, error) {
	o.setDefaults()
	r := &Restorer{fs: o.FS, o: o}
	if err := r.fs.MkdirAll(o.Dir); err != nil {
		return nil, named(err)
	}
	names, err := r.fs.List(o.Dir)
	if err != nil {
		return nil, named(err)
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("%w: %s holds %s", ErrNotEmpty, o.Dir, names[0])
	}
	if r.lock, err = r.fs.Lock(o.Dir + "/LOCK"); err != nil {
		return nil, named(err)
	}
	for _, dir := range []string{"wal", "partitions", "checkpoint"} {
		if err := r.fs.MkdirAll(o.Dir + "/" + dir); err != nil {
			return nil, errors.Join(named(err), r.lock.Close())
		}
	}
	return r, nil
}

// checkName tells whether a log has files of this name: a backup may have been made by anybody.
func (f *BackupFile) checkName() error {
	dir, base := path.Split(f.Name)
	stem, ext, _ := strings.Cut(base, ".")
	n, err := strconv.ParseUint(stem, 16, 64)
	ok := err == nil
	switch dir + ext {
	case "wal/log":
		ok = ok && base == segmentName(n) && f.Full%blockSize == 0
	case "wal/idx":
		ok = ok && base == indexName(n)
	case "partitions/seg":
		ok = ok && base == partName(n)
	default:
		ok = false
	}
	if !ok || f.Size < 0 || f.Full < f.Size || f.Full > fileBytesMax {
		return &CorruptError{Path: f.Name, Reason: "a log has no such file"}
	}
	return nil
}

// File writes a file, with what src gives, and makes it durable.
func (r *Restorer) File(f BackupFile, src io.Reader) (err error) {
	if err := f.checkName(); err != nil {
		return err
	}
	file, err := r.fs.Open(r.o.Dir+"/"+f.Name, vfs.Write|vfs.Create|vfs.Truncate)
	if err != nil {
		return named(err)
	}
	defer func() { err = named(errors.Join(err, file.Close())) }()
	if r.buf == nil {
		r.buf = make([]byte, restoreStep)
	}
	for off := int64(0); off < f.Size; {
		n, err := io.ReadFull(src, r.buf[:min(int64(len(r.buf)), f.Size-off)])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return &CorruptError{Path: f.Name, Offset: off + int64(n), Reason: fmt.Sprintf("the backup's file ends there, and not at %d", f.Size)}
		}
		if err != nil {
			return err
		}
		if _, err := file.WriteAt(r.buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	// The rest is written too: the segment at the end is written to again, and any may be recycled.
	for off := f.Size; off < f.Full; off += zeroStep {
		if err := file.Allocate(off, min(zeroStep, f.Full-off)); err != nil {
			return err
		}
	}
	return file.Sync()
}

// Rows writes the checkpoint store: read calls put with each row, whose slices it may use again afterwards.
func (r *Restorer) Rows(read func(put func(key, value []byte) error) error) error {
	l := &Log{o: r.o, fs: r.fs, log: r.o.Logger}
	c := newCheckpointer(l)
	if err := c.open(); err != nil {
		return errors.Join(named(err), c.close())
	}
	b := c.mu.db.NewBatch()
	err := read(func(key, value []byte) error {
		if err := checkRow(key, value); err != nil {
			return err
		}
		if err := b.Set(key, value, nil); err != nil || b.Len() < restoreStep {
			return err
		}
		err := c.mu.db.Apply(b, pebble.NoSync)
		b.Reset()
		return err
	})
	if err == nil {
		err = c.mu.db.Apply(b, pebble.NoSync)
	}
	if err = errors.Join(err, b.Close()); err == nil {
		err = c.flushStore()
	}
	failed := c.failed.Load()
	if err = errors.Join(err, c.close()); err == nil && failed != nil {
		err = *failed
	}
	return named(err)
}

// checkRow tells whether a checkpoint store has such a row, as far as the log knows.
func checkRow(key, value []byte) error {
	ok := false
	switch {
	case len(key) < 2:
	case key[0] == keyShard:
		ok = len(key) >= 4 && (key[3] == rowOfShard || key[3] == rowApplied && len(key) == 4 && len(value) == 24 && getPosition(value[8:]).Offset >= 0)
	case key[0] == keyLog && key[1] == rowReplay:
		ok = len(key) == 2 && len(value) == 16 && getPosition(value).Offset >= 0
	case key[0] == keyLog && key[1] == rowPartition:
		ok = len(key) == 10 && len(value) == 17 && areBounds(value)
	case key[0] == keyLog && key[1] == rowCut:
		ok = len(key) == 26 && key[18] < 0x80 && len(value) == 8 && value[7] < 0x80 // no offset is negative
	}
	if !ok {
		return &CorruptError{Path: "checkpoint", Reason: fmt.Sprintf("there is no row of key %.40x with %d bytes, or not with these", key, len(value))}
	}
	return nil
}

// offsetMax is more than any log comes to: what is behind it can be counted on.
const offsetMax = 1 << 62

// areBounds tells whether a partition can begin and end at the offsets that b begins with.
func areBounds(b []byte) bool {
	start, end := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return start <= end && end <= offsetMax
}

// ShardRow is the key in the checkpoint store of a row that a shard knows as key.
func ShardRow(shard record.ShardID, key []byte) []byte {
	prefix := shardPrefix(shard)
	return append(prefix[:], key...)
}

// Finish makes a log of the directory.
func (r *Restorer) Finish() error {
	for _, dir := range []string{"/wal", "/partitions", "/checkpoint", ""} {
		if err := r.fs.SyncDir(r.o.Dir + dir); err != nil {
			return named(err)
		}
	}
	if err := vfs.WriteFile(r.fs, r.o.Dir+"/FORMAT", []byte(formatText)); err != nil {
		return named(err)
	}
	return named(r.fs.SyncDir(r.o.Dir))
}

// Close lets the directory go.
func (r *Restorer) Close() error { return r.lock.Close() }

// AppendRow appends a row as backups store it: two lengths and what they are of.
func AppendRow(dst, key, value []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	dst = append(dst, key...)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

// AppendBounds appends a partition's bounds as backups store them.
func AppendBounds(dst []byte, b *PartitionBounds) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Partition))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Start))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.Local))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(b.End))
	return binary.LittleEndian.AppendUint64(dst, uint64(b.Bytes))
}

// ReadBounds reads what AppendBounds wrote; io.EOF: there is no more. What no partition can have is a *CorruptError; errors of r come as they are.
func ReadBounds(r io.Reader) (b PartitionBounds, err error) {
	var raw [40]byte
	if n, err := io.ReadFull(r, raw[:]); err != nil {
		return b, cutAt("bounds", n, err)
	}
	b.Partition = record.PartitionID(binary.LittleEndian.Uint64(raw[:]))
	b.Start = record.Offset(binary.LittleEndian.Uint64(raw[8:]))
	b.Local = record.Offset(binary.LittleEndian.Uint64(raw[16:]))
	b.End = record.Offset(binary.LittleEndian.Uint64(raw[24:]))
	b.Bytes = int64(binary.LittleEndian.Uint64(raw[32:]))
	if b.Start < 0 || b.Start > b.End || b.Local < 0 || b.Local > b.End || b.End > offsetMax || b.Bytes < 0 {
		return PartitionBounds{}, &CorruptError{Path: "bounds", Reason: fmt.Sprintf("no partition is as %+v", b)}
	}
	return b, nil
}

// cutAt is what reading n bytes of something that is longer has ended with: io.EOF at its begin, and behind that an error by name.
func cutAt(what string, n int, err error) error {
	if n > 0 && (err == io.EOF || err == io.ErrUnexpectedEOF) { //nolint:errorlint // a reader's own errors may wrap them
		return &CorruptError{Path: what, Reason: "it has been cut"}
	}
	return err
}

// rowBytesMax is more than any row has, and rowLengthMax how many bytes say so.
const (
	rowBytesMax  = 512 << 20
	rowLengthMax = 5
)

// rowReader is what rows are read from.
type rowReader interface {
	io.Reader
	io.ByteReader
}

// ReadRow reads what AppendRow wrote, into buffers that it may use again; io.EOF: there is no more. What is no row is a *CorruptError; errors of r come
// as they are. It takes memory in proportion to what is there, not to what is said to be.
func ReadRow(r rowReader, key, value []byte) (k, v []byte, err error) {
	n, err := readLength(r)
	if err != nil {
		return nil, nil, err
	}
	if k, err = readSized(r, key, n); err != nil {
		return nil, nil, err
	}
	if n, err = readLength(r); err != nil {
		return nil, nil, cutAt("checkpoint", 1, err)
	}
	v, err = readSized(r, value, n)
	return k, v, err
}

// readLength reads an uvarint of as few bytes as can be.
func readLength(r io.ByteReader) (n int, err error) {
	for i := range rowLengthMax {
		c, err := r.ReadByte()
		if err != nil {
			return 0, cutAt("checkpoint", i, err)
		}
		n |= int(c&0x7f) << (7 * i)
		if c >= 0x80 {
			continue
		}
		if c == 0 && i > 0 || n > rowBytesMax {
			break
		}
		return n, nil
	}
	return 0, &CorruptError{Path: "checkpoint", Reason: "no row is that long"}
}

// readSized reads n bytes.
func readSized(r io.Reader, buf []byte, n int) ([]byte, error) {
	buf = buf[:0]
	for left := n; left > 0; {
		step := min(left, max(cap(buf)-len(buf), restoreStep))
		buf = slices.Grow(buf, step)
		k, err := io.ReadFull(r, buf[len(buf):len(buf)+step])
		buf, left = buf[:len(buf)+k], left-k
		if err != nil {
			return buf, cutAt("checkpoint", 1, err)
		}
	}
	return buf, nil
}
