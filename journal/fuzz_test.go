package journal

import (
	"testing"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// FuzzParseIndex: no bytes make it panic, and what it accepts can be searched.
func FuzzParseIndex(f *testing.F) {
	_, mem, _ := filled(f, true)
	names, _ := mem.List("data/wal")
	for _, name := range names {
		if b, err := vfs.ReadFile(mem, "data/wal/"+name); err == nil && len(b) < 16<<10 {
			f.Add(b)
		}
	}
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, dirs, ok := parseIndex(b)
		if !ok {
			return
		}
		for _, d := range dirs {
			if i := d.entries.search(d.first); i > d.entries.len() {
				t.Fatal("search beyond the end")
			}
		}
	})
}

// FuzzSegment opens and replays a log whose only segment holds arbitrary bytes: it is read, or an error, never a panic.
func FuzzSegment(f *testing.F) {
	_, mem, _ := filled(f, true)
	if b, err := vfs.ReadFile(mem, "data/wal/0000000000000001.log"); err == nil {
		f.Add(b)
		f.Add(b[:5000])
		for _, at := range []int{20, 70, 4100, 4130, 8200} {
			c := append([]byte{}, b...)
			c[at] ^= 0x40
			f.Add(c)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			t.Skip()
		}
		l := &Log{}
		o := smallOptions(Sync)
		o.Dir, o.FS = "data", memDir(t)
		o.setDefaults()
		l.o, l.fs, l.clk, l.log = o, o.FS, o.Clock, o.Logger
		l.reads = make(chan struct{}, readPoolSize)
		l.tail.init(o.TailBytes, o.GroupBytesMax)
		l.mu.partitions = make(map[record.PartitionID]*partition)
		l.keep.init(l)
		l.com.init(l)
		if err := l.fs.MkdirAll("data/wal"); err != nil {
			t.Fatal(err)
		}
		if err := vfs.WriteFile(l.fs, l.walPath(segmentName(1)), b); err != nil {
			t.Fatal(err)
		}
		if err := l.openSegments(); err != nil {
			return
		}
		if err := l.Replay(func(record.Frame, Position) error { return nil }); err == nil {
			for id := range l.mu.partitions {
				tail, _ := tryOffsets(l, id, l.LogStart(id))
				_ = tail // records may be nonsense with a good checksum; reading them must end
			}
		}
		l.closeFiles()
	})
}
