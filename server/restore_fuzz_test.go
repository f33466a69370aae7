package server

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/journal/tier/localtier"
)

// FuzzRestore: whatever a backup has, with the right checksums, it is restored and read in full, or the directory stays marked as one that no node starts
// with. Nothing panics.
func FuzzRestore(f *testing.F) {
	row := func(key []byte, value ...byte) []byte { return journal.AppendRow(nil, key, value) }
	u64 := func(list ...uint64) (b []byte) {
		for _, n := range list {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		return b
	}
	partition := func(id byte, start, end uint64) []byte {
		return row([]byte{0, 'p', 0, 0, 0, 0, 0, 0, 0, id}, append(u64(start, end), 0)...)
	}
	bounds := func(b journal.PartitionBounds) []byte { return journal.AppendBounds(nil, &b) }
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add(partition(5, 0, 0), bounds(journal.PartitionBounds{Partition: 5}), []byte{})
	f.Add(partition(5, 7, 7), bounds(journal.PartitionBounds{Partition: 5, Start: 7, Local: 7, End: 7}), []byte{})
	f.Add(partition(5, 9, 3), bounds(journal.PartitionBounds{Partition: 5, Start: 9, Local: 9, End: 3}), []byte{})
	f.Add(partition(5, 1<<63, 1<<63), bounds(journal.PartitionBounds{Partition: 5, Start: -1 << 63, Local: -1 << 63, End: -1 << 63}), []byte{})
	f.Add(row([]byte{0, 'r'}, u64(1, 4096)...), []byte{}, []byte("no segment"))
	f.Add(row([]byte{1, 0, 0, 0}, u64(1, 0, 0)...), []byte{}, []byte{})
	f.Add(row([]byte{1, 0, 0, 1, 't'}, 1, 2, 3), []byte{}, []byte{})
	f.Add([]byte{2, 0}, []byte{1}, []byte{})
	f.Fuzz(func(t *testing.T, rows, bounds, wal []byte) {
		fs := vfs.NewMem()
		st, err := localtier.Open(t.Context(), localtier.Options{Dir: "/vault", FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		w, err := backup.Create(t.Context(), st, backup.Options{Begin: backup.Begin{Cluster: "c"}})
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{rowsFile: rows, boundsFile: bounds, "journal/wal/0000000000000001.log": wal} {
			if full := int64(len(b)+4095) &^ 4095; name == rowsFile || name == boundsFile {
				err = w.Stream(t.Context(), name, func(write func([]byte) error) error { return write(b) })
			} else if len(b) > 0 {
				err = w.File(t.Context(), name, bytes.NewReader(b), int64(len(b)), full)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(t.Context(), func(m *backup.Manifest) { m.Shards = 2 }); err != nil {
			t.Fatal(err)
		}
		_, err = restoreFrom(t.Context(), st, RestoreOptions{Data: "/data", FS: fs, Verify: true})
		_, marked := fs.Stat("/data/" + restoringFile)
		_, done := fs.Stat("/data/" + restoredFile)
		if (err == nil) != (done == nil) || (err == nil) != vfs.IsNotExist(marked) {
			t.Fatalf("%v; %s: %v, %s: %v", err, restoringFile, marked, restoredFile, done)
		}
	})
}
