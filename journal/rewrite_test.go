package journal

import (
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// checkpointed has the log let go of what it may, up to its end.
func (l *opened) checkpointed(t testing.TB) {
	t.Helper()
	for s := range record.ShardID(2) {
		if err := l.Checkpointer().Write(s, 1, l.src.end(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Checkpointer().Flush(); err != nil {
		t.Fatal(err)
	}
}

// Many partitions make few files, however they live and die.
func TestRewriteManyPartitions(t *testing.T) {
	o := smallOptions(Sync)
	mem := memDir(t)
	o.Dir, o.FS, o.SegmentBytes, o.GroupBytesMax, o.TailBytes, o.LogBytesMax = "data", mem, 256<<10, 64<<10, 64<<10, 512<<10
	l := open(t, o)
	const parts, rounds = 300, 20
	id := func(p int) record.PartitionID { return record.PartitionID(100 + p) }
	for round := range rounds {
		for p := 0; p < parts; p += 50 {
			var g []byte
			for k := p; k < p+50; k++ {
				g = recordsFrame(g, id(k), record.Offset(round), 1, 500)
			}
			if err := l.src.commit(t, g); err != nil {
				t.Fatal(err)
			}
		}
		for p := range parts { // every third is kept
			if p%3 != 0 {
				l.SetLogStart(id(p), record.Offset(round))
			}
		}
		l.checkpointed(t)
	}
	files := func() (n int) {
		names, err := mem.List("data/partitions")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	// 3 MB were written, a third of it lives.
	testx.Eventually(t, waitFor, func() bool { return l.Stats().LogBytes.Load() <= 1<<20 && files() > 0 && files() <= 12 },
		func() string { return fmt.Sprint(l.Stats().LogBytes.Load(), " bytes of log, ", files(), " files") })
	check := func() {
		t.Helper()
		for p := range parts {
			from, want := record.Offset(0), rounds
			if p%3 != 0 {
				from, want = rounds-1, 1
			}
			if got, err := tryOffsets(l.Log, id(p), from); err != nil || len(got) != want || got[0] != from {
				t.Fatalf("partition %d: %v, %v", p, got, err)
			}
		}
	}
	check()
	l.close(t)
	l = open(t, o)
	check()
	// All but one die: what is left of the files is joined.
	for p := range parts - 1 {
		l.DropPartition(id(p))
	}
	l.checkpointed(t)
	l.clean.wake()
	testx.Eventually(t, waitFor, func() bool { return files() <= 1 }, func() string { return fmt.Sprint(files(), " files are left") })
	if got, err := tryOffsets(l.Log, id(parts-1), 19); err != nil || len(got) != 1 {
		t.Errorf("the last one: %v, %v", got, err)
	}
	l.close(t)
}

// A crash between the writing of a partition segment and the removal of what it was written in place of: each record is there once.
func TestRewriteCut(t *testing.T) {
	o := smallOptions(Sync)
	mem := memDir(t)
	o.Dir, o.FS, o.LogBytesMax = "data", mem, 1<<40
	l := open(t, o)
	next := record.Offset(0)
	for range 40 {
		var g []byte
		g = recordsFrame(g, 7, next, 2, 700)
		g = recordsFrame(g, 8, next, 2, 700)
		next += 2
		if err := l.src.commit(t, g); err != nil {
			t.Fatal(err)
		}
	}
	l.checkpointed(t)
	l.SetLogStart(7, 5)
	before := mem.Crash(vfs.Cut{Keep: true})
	rewriteSealed(t, l.Log, 2)
	between := mem.Crash(vfs.Cut{Keep: true})
	l.SetLogStart(7, 9)
	rewriteParts(t, l.Log)
	l.close(t)
	// The files that rewriting has removed come back.
	back := func(from *vfs.Mem, dir string) {
		names, err := from.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := dir + "/" + name
			if _, err := mem.Stat(path); err == nil {
				continue
			}
			b, err := vfs.ReadFile(from, path)
			if err == nil {
				err = vfs.WriteFile(mem, path, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	back(before, "data/wal")
	back(between, "data/partitions")
	l = open(t, o)
	for _, c := range []struct {
		p    record.PartitionID
		from record.Offset
	}{{7, 9}, {8, 0}} {
		got, err := tryOffsets(l.Log, c.p, c.from)
		if err != nil || len(got) != int(next-c.from) {
			t.Fatalf("partition %d has %d records, want %d: %v", c.p, len(got), next-c.from, err)
		}
		for i, o := range got {
			if o != c.from+record.Offset(i) {
				t.Fatalf("partition %d has %v", c.p, got)
			}
		}
	}
	l.close(t)
}
