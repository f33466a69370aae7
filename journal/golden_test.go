package journal

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// script is one file of testdata: a history, and what the log looks like after each step.
type script struct {
	t    *testing.T
	o    Options
	mem  *vfs.Mem
	l    *opened
	next map[record.PartitionID]record.Offset
}

func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		s := &script{t: t, mem: memDir(t), o: smallOptions(Sync), next: make(map[record.PartitionID]record.Offset)}
		s.o.Dir, s.o.LogBytesMax, s.o.Clock = "data", 1<<40, clock.NewManual(time.Unix(1e9, 0))
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out, err := s.run(d)
			if err != nil {
				return out + "error: " + err.Error() + "\n"
			}
			return out
		})
		if s.l != nil {
			_ = s.l.Close()
		}
	})
}

func (s *script) run(d *datadriven.TestData) (string, error) {
	switch d.Cmd {
	case "open":
		s.o.FS = s.mem
		if d.HasArg("async") {
			s.o.Durability = Async
			s.o.FlushInterval = time.Hour
		}
		var err error
		s.l, err = tryOpen(s.o)
		if err != nil {
			return "", err
		}
		clear(s.next)
		out := fmt.Sprintf("replayed %d frames, cut %d\n", len(s.l.frames), s.l.Stats().TornCut.Load())
		return out + s.state(), nil
	case "put":
		return "", s.put(d)
	case "checkpoint":
		for shard := range record.ShardID(2) {
			if err := s.l.Checkpointer().Write(shard, 1, s.l.src.end(), nil); err != nil {
				return "", err
			}
		}
		err := s.l.Checkpointer().Flush()
		return s.state(), err
	case "start":
		s.l.SetLogStart(record.PartitionID(s.arg(d, "partition")), record.Offset(s.arg(d, "offset")))
		return s.state(), nil
	case "drop":
		s.l.DropPartition(record.PartitionID(s.arg(d, "partition")))
		return s.state(), nil
	case "rewrite":
		for _, seg := range s.l.mu.segments {
			if seg.number() == uint64(s.arg(d, "segment")) {
				err := s.l.clean.rewrite([]*segment{seg})
				return s.state(), err
			}
		}
		return "", fmt.Errorf("no such segment")
	case "fetch":
		offs, err := tryOffsets(s.l.Log, record.PartitionID(s.arg(d, "partition")), record.Offset(s.arg(d, "from")))
		if err != nil || len(offs) == 0 {
			return "nothing\n", err
		}
		return fmt.Sprintf("%d records, %d to %d\n", len(offs), offs[0], offs[len(offs)-1]), nil
	case "flip":
		var name string
		d.ScanArgs(s.t, "file", &name)
		return "", s.mem.Flip("data/"+name, s.arg(d, "at"), 0)
	case "crash":
		s.mem = s.mem.Crash(vfs.Cut{Keep: d.HasArg("keep")})
		_ = s.l.Close()
		s.l = nil
		return "", nil
	case "close":
		err := s.l.Close()
		s.l = nil
		return "", err
	case "state":
		return s.state(), nil
	default:
		return "", fmt.Errorf("unknown command %q", d.Cmd)
	}
}

func (s *script) arg(d *datadriven.TestData, name string) int64 {
	var n int64
	d.ScanArgs(s.t, name, &n)
	return n
}

// put commits groups; each line of the input is "partition size" of one frame with two records.
func (s *script) put(d *datadriven.TestData) error {
	times := int64(1)
	if d.HasArg("times") {
		times = s.arg(d, "times")
	}
	for range times {
		var g []byte
		for line := range strings.Lines(d.Input) {
			f := strings.Fields(line)
			p, err := strconv.ParseUint(f[0], 10, 64)
			if err != nil {
				return err
			}
			size, err := strconv.Atoi(f[1])
			if err != nil {
				return err
			}
			id := record.PartitionID(p)
			base, ok := s.next[id]
			if !ok {
				base = s.l.LogEnd(id)
			}
			g = recordsFrame(g, id, base, 2, size/2)
			s.next[id] = base + 2
		}
		if err := s.l.src.commit(s.t, g); err != nil {
			return err
		}
	}
	return nil
}

// state is what the log holds, once the keeper has done its part.
func (s *script) state() string {
	l := s.l.Log
	l.recycleDead()
	testx.Eventually(s.t, waitFor, s.settled, "the keeper has not done its part")
	l.mu.RLock()
	defer l.mu.RUnlock()
	var b strings.Builder
	for _, seg := range l.mu.segments {
		kind := "active"
		if seg.sealed {
			kind = "sealed"
		}
		fmt.Fprintf(&b, "segment %d %s: end %d of %d, live %d of %d\n", seg.number(), kind, seg.end, seg.size, seg.live, seg.total)
	}
	for _, id := range slices.Sorted(maps.Keys(l.mu.partitions)) {
		p := l.mu.partitions[id]
		fmt.Fprintf(&b, "partition %d: %d to %d", id, p.start, p.end)
		if p.dropped {
			b.WriteString(" dropped")
		}
		for _, r := range p.refs {
			where := "segment"
			if r.seg.part {
				where = "partition segment"
			}
			fmt.Fprintf(&b, "; %d-%d in %s %d, %d entries", r.first, r.last, where, r.seg.number(), r.entries.len())
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "replay from %s\n", l.mu.replay)
	return b.String()
}

// settled tells whether files and index agree: what is dead is gone, what is sealed has its index and its map.
func (s *script) settled() bool {
	l := s.l.Log
	l.mu.RLock()
	defer l.mu.RUnlock()
	want := make(map[string]bool)
	for _, seg := range l.mu.segments {
		want[segmentName(seg.number())] = true
		if seg.sealed {
			want[indexName(seg.number())] = true
			if seg.mapped.Load() == nil {
				return false
			}
		}
	}
	names, err := s.mem.List("data/wal")
	if err != nil {
		return false
	}
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, "spare-") {
			continue
		}
		if !want[name] {
			return false
		}
		n++
	}
	parts, err := s.mem.List("data/partitions")
	return err == nil && n == len(want) && len(parts) == len(l.mu.parts)
}
