package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// generation makes a frame of one record that says in which generation it was written.
func generation(dst []byte, p record.PartitionID, o record.Offset, index uint64, gen int) []byte {
	f := record.Frame{Kind: record.KindRecords, Shard: 1, Index: index, Partition: p, Epoch: record.Epoch(gen)}
	dst, start := record.BeginFrame(dst, &f)
	dst = record.BeginRecordsPayload(dst, nil)
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	b.Append(&record.Input{Timestamp: 1000, Value: fmt.Appendf(nil, "%d of %d", o, gen)})
	dst = append(dst, b.Finish(&record.BatchOptions{BaseOffset: o})...)
	return record.FinishFrame(dst, start)
}

func truncation(dst []byte, index uint64, ends ...record.PartitionEnd) []byte {
	return record.AppendFrame(dst, &record.Frame{Kind: record.KindTruncate, Shard: 1, Index: index, Payload: record.AppendEnds(nil, ends)})
}

// values are those of a partition's records.
func values(t testing.TB, l *Log, p record.PartitionID) (out []string) {
	t.Helper()
	var f Fetched
	defer f.Release()
	for from := l.LogStart(p); ; {
		if err := l.Fetch(p, from, 4<<10, &f); err != nil {
			t.Fatalf("partition %d from %d: %v", p, from, err)
		}
		if len(f.Batches) == 0 {
			return out
		}
		for _, b := range f.Batches {
			if record.Batch(b).NextOffset() <= from {
				continue
			}
			for it := record.Batch(b).Records(); it.Next(); {
				out = append(out, string(it.Record().Value))
			}
			from = record.Batch(b).NextOffset()
		}
	}
}

// TestTruncate takes frames back, those that share an index entry with others included, and writes others in their place.
func TestTruncate(t *testing.T) {
	mem := vfs.NewMem()
	o := smallOptions(Sync)
	o.Dir, o.FS = "log", mem
	l := open(t, o)
	var group []byte
	for i := range 6 {
		group = generation(group, 7, record.Offset(i), uint64(i+1), 1)
	}
	if err := l.src.commit(t, group); err != nil {
		t.Fatal(err)
	}
	group = generation(nil, 7, 6, 7, 1)
	group = generation(group, 8, 0, 8, 1)
	group = truncation(group, 3, record.PartitionEnd{Partition: 7, End: 3}, record.PartitionEnd{Partition: 8, End: 0})
	group = generation(group, 7, 3, 4, 2)
	if err := l.src.commit(t, group); err != nil {
		t.Fatal(err)
	}
	want := []string{"0 of 1", "1 of 1", "2 of 1", "3 of 2"}
	check := func(l *Log) {
		t.Helper()
		if got := values(t, l, 7); !slices.Equal(got, want) {
			t.Errorf("partition 7 has %q, want %q", got, want)
		}
		if got := l.LogEnd(7); got != 4 {
			t.Errorf("partition 7 ends at %d", got)
		}
		if got := l.LogEnd(8); got != 0 {
			t.Errorf("partition 8 ends at %d", got)
		}
	}
	check(l.Log)
	l.close(t)
	l = open(t, o)
	check(l.Log)
	l.close(t)
}

// TestTruncateModel compares a partition with a list, through truncations, checkpoints, segments, restarts, power cuts, and lost index files.
func TestTruncateModel(t *testing.T) {
	seeds := 20
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { truncateModel(t, seeded(uint64(seed))) })
	}
}

// truncateModel is one run of it. Length: a case for each operation.
func truncateModel(t *testing.T, rnd *rand.Rand) {
	t.Helper()
	mem := vfs.NewMem()
	o := smallOptions(Sync)
	o.Dir = "log"
	o.FS = mem
	l := open(t, o)
	var model [2][]string
	gen, safe, index := 1, [2]int{}, uint64(0) // what lies below safe was applied
	check := func(what string) {
		t.Helper()
		for p := range model {
			if got := values(t, l.Log, record.PartitionID(7+p)); !slices.Equal(got, model[p]) {
				t.Fatalf("after %s: partition %d has %d records, want %d:\n%.2000q\n%.2000q", what, 7+p, len(got), len(model[p]), got, model[p])
			}
		}
	}
	reopen := func(fs *vfs.Mem) {
		mem, o.FS = fs, fs
		l = open(t, o)
	}
	for range 60 {
		switch k := rnd.IntN(12); {
		case k < 5:
			var g []byte
			for range 1 + rnd.IntN(40) {
				p := rnd.IntN(2)
				index++
				g = generation(g, record.PartitionID(7+p), record.Offset(len(model[p])), index, gen)
				model[p] = append(model[p], fmt.Sprintf("%d of %d", len(model[p]), gen))
			}
			if err := l.src.commit(t, g); err != nil {
				t.Fatal(err)
			}
		case k < 8:
			gen++
			var ends []record.PartitionEnd
			for p := range model {
				if n := safe[p] + rnd.IntN(len(model[p])-safe[p]+1); n < len(model[p]) {
					model[p] = model[p][:n]
					ends = append(ends, record.PartitionEnd{Partition: record.PartitionID(7 + p), End: record.Offset(n)})
				}
			}
			if err := l.src.commit(t, truncation(nil, 1, ends...)); err != nil {
				t.Fatal(err)
			}
			check("truncation")
		case k == 8:
			safe = [2]int{len(model[0]), len(model[1])}
			if err := errors.Join(l.Checkpointer().Write(1, index, l.src.end(), nil), l.Checkpointer().Flush()); err != nil {
				t.Fatal(err)
			}
		case k == 9:
			if err := l.src.commit(t, commandFrame(nil, 0, 1, strings.Repeat("x", 30<<10))); err != nil { // fills half a segment
				t.Fatal(err)
			}
		case k == 10:
			l.close(t)
			names, _ := mem.List("log/wal")
			for _, n := range names {
				if rnd.IntN(3) == 0 && n[len(n)-4:] == ".idx" {
					if err := mem.Remove("log/wal/" + n); err != nil {
						t.Fatal(err)
					}
				}
			}
			reopen(mem)
			check("a restart")
		default:
			fs := mem.Crash(vfs.Cut{Rand: rnd})
			l.close(t)
			reopen(fs)
			check("a power cut")
		}
		if l.src.end() == (Position{}) { // nothing was written since it was opened
			if err := l.src.commit(t, commandFrame(nil, 1, index, "x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	check("all")
	l.close(t)
}

// TestScan reads a log from its begin, then what comes, through sealed segments, those that the tail has lost, and to the end. Length: one
// history, told in order.
func TestScan(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "log", vfs.NewMem()
	l := open(t, o)
	sc, err := l.Scan(Position{})
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	write := func(n int) {
		for range n {
			if err := l.src.commit(t, generation(commandFrame(nil, 0, next, "command"), 7, record.Offset(next-1), next, 1)); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	read := func(sc *Scanner, from uint64) uint64 {
		for {
			frames, _, err := sc.Next()
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) == 0 {
				return from
			}
			for len(frames) > 0 {
				f, n, err := record.DecodeFrame(frames)
				if err != nil {
					t.Fatal(err)
				}
				if frames = frames[n:]; f.Shard != 1 {
					continue
				}
				if from != 0 && f.Index != from {
					t.Fatalf("index %d, want %d", f.Index, from)
				}
				from = f.Index + 1
			}
		}
	}
	at := read(sc, 1)
	write(3)
	<-sc.Ready()
	at = read(sc, at)
	write(50)
	l.Rotate()
	testx.Eventually(t, waitFor, func() bool { return !l.Rotating() })
	write(50)
	if at = read(sc, at); at != next {
		t.Errorf("scanned to %d, want %d", at, next)
	}
	// Of a log to which nothing is written any more it holds what it has not read, and no more.
	for len(sc.Ready()) > 0 {
		<-sc.Ready()
	}
	l.Rotate()
	<-sc.Ready()
	read(sc, at)
	l.mu.RLock()
	if active := l.mu.segments[len(l.mu.segments)-1].number(); sc.held.Segment != active {
		t.Errorf("segment %d is held, %d is written to", sc.held.Segment, active)
	}
	l.mu.RUnlock()
	sc.Close()

	p := l.ShardPosition(1, 70)
	if p.Segment < 2 {
		t.Errorf("index 70 is looked for from %s on", p)
	}
	sc, err = l.Scan(p)
	if err != nil {
		t.Fatal(err)
	}
	if at := read(sc, 0); at != next {
		t.Errorf("scanned to %d, want %d", at, next)
	}
	sc.Close()

	// What a checkpoint has let go of is gone, unless somebody reads there.
	sc, err = l.Scan(Position{})
	if err != nil {
		t.Fatal(err)
	}
	l.SetLogStart(7, record.Offset(next-1))
	checkpoint := func() {
		if err := errors.Join(l.Checkpointer().Write(0, next, l.src.end(), nil), l.Checkpointer().Write(1, next, l.src.end(), nil), l.Checkpointer().Flush()); err != nil {
			t.Fatal(err)
		}
	}
	checkpoint()
	write(1)
	if at := read(sc, 1); at != next {
		t.Errorf("scanned to %d, want %d", at, next)
	}
	sc.Close()
	testx.Eventually(t, waitFor, func() bool {
		checkpoint()
		sc, err := l.Scan(Position{Segment: 1, Offset: blockSize})
		if err == nil {
			sc.Close()
		}
		return errors.Is(err, ErrGone)
	})
	l.close(t)
}
