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

// FuzzPartSegment opens a log with a partition segment of arbitrary bytes: it is read, or an error, never a panic.
func FuzzPartSegment(f *testing.F) {
	o := smallOptions(Sync)
	mem := memDir(f)
	o.Dir, o.FS, o.LogBytesMax = "data", mem, 1<<40
	l := open(f, o)
	for i := range 30 {
		if err := l.src.commit(f, recordsFrame(nil, record.PartitionID(i%3), record.Offset(i/3), 1, 3000)); err != nil {
			f.Fatal(err)
		}
	}
	l.checkpointed(f)
	rewriteSealed(f, l.Log, 1)
	l.close(f)
	b, err := vfs.ReadFile(mem, "data/partitions/"+partName(0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:100])
	for _, at := range []int{17, 30, 34, len(b) - 10, len(b) - 200} {
		c := append([]byte{}, b...)
		c[at] ^= 0x40
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := bareLog(t)
		if err := l.fs.MkdirAll("data/partitions"); err != nil {
			t.Fatal(err)
		}
		if err := vfs.WriteFile(l.fs, l.partPath(partName(0)), b); err != nil {
			t.Fatal(err)
		}
		if err := l.openPart(0); err != nil {
			return
		}
		for _, id := range l.Partitions() {
			_, _ = tryOffsets(l, id, l.LogStart(id)) // may be nonsense with good checksums; reading it must end
		}
		_ = l.closeFiles()
	})
}

// bareLog is a log without a checkpoint store.
func bareLog(t testing.TB) *Log {
	t.Helper()
	l := &Log{}
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", memDir(t)
	o.setDefaults()
	l.o, l.fs, l.clk, l.log = o, o.FS, o.Clock, o.Logger
	l.reads = make(chan struct{}, readPoolSize)
	l.tail.init(o.TailBytes, o.GroupBytesMax)
	l.mu.partitions = make(map[record.PartitionID]*partition)
	l.mu.parts = make(map[*segment]struct{})
	l.keep.init(l)
	l.com.init(l)
	return l
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
		l := bareLog(t)
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
		_ = l.closeFiles()
	})
}
