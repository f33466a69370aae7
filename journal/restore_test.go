package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// mustBeNamed makes sure that bytes which are not what was written are told by name.
func mustBeNamed(t *testing.T, err error) {
	t.Helper()
	var named *CorruptError
	if !errors.As(err, &named) {
		t.Fatalf("it has no name: %v", err)
	}
}

// FuzzRow: what is read is what was written, to the last byte, or an error by name; memory is bounded by what is there.
func FuzzRow(f *testing.F) {
	f.Add(AppendRow(AppendRow(nil, []byte{keyLog, rowReplay}, make([]byte, 16)), []byte{keyShard, 0, 1, rowOfShard}, nil))
	f.Add([]byte{1, 'k', 0xff, 0xff, 0xff, 0xff, 1})           // a value of more than can be
	f.Add([]byte{1, 'k', 0x80, 0x80, 0x80, 0x80, 1, 'v'})      // one of 256 MiB that is not there
	f.Add([]byte{1, 'k'})                                      // a key alone
	f.Add([]byte{0x81, 0, 'k', 0})                             // a length that is longer than need be
	f.Add(bytes.Repeat([]byte{0xff}, 2*binary.MaxVarintLen64)) // no number
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var key, value []byte
		for {
			from := len(b) - r.Len()
			var err error
			key, value, err = ReadRow(r, key, value)
			if err == io.EOF { //nolint:errorlint // the end itself, not an error that wraps it
				if from != len(b) {
					t.Fatalf("the end is told at byte %d of %d", from, len(b))
				}
				return
			}
			if err != nil {
				mustBeNamed(t, err)
				return
			}
			if again := AppendRow(nil, key, value); !bytes.Equal(again, b[from:len(b)-r.Len()]) {
				t.Fatalf("%x is read, %x was written", again, b[from:len(b)-r.Len()])
			}
			if n := cap(key) + cap(value); n > 4*len(b)+4*restoreStep {
				t.Fatalf("%d bytes are taken for %d", n, len(b))
			}
		}
	})
}

// TestRowPromises: a row that says it has much and has not takes little, and what a reader fails with comes as it is.
func TestRowPromises(t *testing.T) {
	raw := []byte{1, 'k', 0x80, 0x80, 0x80, 0x80, 1, 'v'} // 256 MiB are said
	if n := testing.AllocsPerRun(10, func() {
		_, v, err := ReadRow(bytes.NewReader(raw), nil, nil)
		mustBeNamed(t, err)
		if cap(v) > 2*restoreStep {
			t.Errorf("%d bytes are taken", cap(v))
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
	broken := errors.Join(io.EOF, errors.New("the network is gone")) // as an error of a connection may be
	for at := range raw {
		_, _, err := ReadRow(&brokenReader{raw[:at], broken}, nil, nil)
		if !errors.Is(err, broken) || err == io.EOF { //nolint:errorlint // the end itself, not an error that wraps it
			t.Errorf("broken at %d: %v", at, err)
		}
	}
	if _, err := ReadBounds(&brokenReader{make([]byte, 7), broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// brokenReader fails at its end.
type brokenReader struct {
	b   []byte
	err error
}

func (r *brokenReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, r.err
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func (r *brokenReader) ReadByte() (byte, error) {
	var one [1]byte
	_, err := r.Read(one[:])
	return one[0], err
}

// FuzzBounds: what is read can be where a partition begins and ends.
func FuzzBounds(f *testing.F) {
	f.Add(AppendBounds(AppendBounds(nil, &PartitionBounds{Partition: 1, Start: 2, Local: 5, End: 9, Bytes: 100}), &PartitionBounds{Partition: 7}))
	f.Add(AppendBounds(nil, &PartitionBounds{Partition: 1, Start: 9, Local: 9, End: 2}))
	f.Add(AppendBounds(nil, &PartitionBounds{Partition: 1, Local: 3, End: 2}))
	f.Add(AppendBounds(nil, &PartitionBounds{Partition: 1, Start: -1, End: 2, Bytes: -1}))
	f.Add(make([]byte, 41))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		for {
			from := len(raw) - r.Len()
			b, err := ReadBounds(r)
			if err == io.EOF { //nolint:errorlint // the end itself, not an error that wraps it
				if from != len(raw) {
					t.Fatalf("the end is told at byte %d of %d", from, len(raw))
				}
				return
			}
			if err != nil {
				mustBeNamed(t, err)
				return
			}
			if b.Start < 0 || b.Start > b.End || b.Local < 0 || b.Local > b.End || b.End > offsetMax || b.Bytes < 0 || !bytes.Equal(AppendBounds(nil, &b), raw[from:from+40]) {
				t.Fatalf("%+v", b)
			}
		}
	})
}

// someRows are those of a log with two partitions, one of which was dropped.
func someRows() []byte {
	row := func(id record.PartitionID, start, end uint64, flags byte) []byte {
		v := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, start), end)
		return AppendRow(nil, partitionKey(id), append(v, flags))
	}
	b := AppendRow(nil, []byte{keyLog, rowReplay}, make([]byte, 16))
	b = append(append(b, row(7, 3, 9, 0)...), row(8, 4, 4, partDropped)...)
	b = AppendRow(b, []byte{keyShard, 0, 1, rowApplied}, make([]byte, 24))
	return AppendRow(b, []byte{keyShard, 0, 1, rowOfShard, 'x'}, []byte("value"))
}

// FuzzRestoreRows: whatever rows a backup has, they are refused by name, and no log comes out of it, or there is a log that opens, or is refused by
// name, and whose partitions begin before they end.
func FuzzRestoreRows(f *testing.F) {
	f.Add(someRows())
	f.Add(AppendRow(nil, partitionKey(1), append(bytes.Repeat([]byte{0xff}, 16), 0)))
	f.Add(AppendRow(nil, []byte{keyLog, rowReplay}, bytes.Repeat([]byte{0xff}, 16)))
	f.Add(AppendRow(nil, []byte{keyShard, 0xff, 0xff, rowApplied}, make([]byte, 24)))
	f.Add(AppendRow(nil, append([]byte{keyLog, rowCut}, make([]byte, 24)...), make([]byte, 8)))
	f.Fuzz(func(t *testing.T, rows []byte) {
		o := Options{Dir: "log", FS: vfs.NewMem()}
		im := image{rows: rows}
		if err := im.restore(o); err != nil {
			mustBeNamed(t, err)
			if l, err := Open(o); err == nil {
				_ = l.Close()
				t.Fatal("what was restored half opens")
			}
			return
		}
		l, err := Open(o)
		if err == nil {
			defer func() { _ = l.Close() }()
			err = l.Replay(nil)
		}
		if err != nil {
			mustBeNamed(t, err)
			return
		}
		for _, p := range l.Partitions() {
			if start, local, end := l.LogStart(p), l.LocalStart(p), l.LogEnd(p); start < 0 || start > end || local > end {
				t.Fatalf("partition %d lies from %d, %d on to %d", p, start, local, end)
			}
		}
	})
}

// TestFilesNotOfALog: names and sizes that no file of a log has are refused before anything is written.
func TestFilesNotOfALog(t *testing.T) {
	fs := vfs.NewMem()
	r, err := NewRestorer(Options{Dir: "log", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []BackupFile{
		{Name: "wal/0000000000000001.log", Full: fileBytesMax + blockSize}, {Name: "wal/0000000000000001.log", Size: -1}, {Name: "wal/0000000000000001.log", Size: 9, Full: 8},
		{Name: "wal/../0000000000000001.log"}, {Name: "wal/1.log"}, {Name: "FORMAT"}, {Name: ""}, {Name: "partitions/0000000000000001.log"},
	} {
		mustBeNamed(t, r.File(f, bytes.NewReader(nil)))
	}
	if names, err := fs.List("log/wal"); err != nil || len(names) > 0 {
		t.Errorf("%q %v", names, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
