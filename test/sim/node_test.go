package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// node is a broker with its journal on a disk that can lose its power. Its loop and its commits run when the simulation says so.
type node struct {
	id   uint64
	mem  *vfs.Mem
	clk  *clock.Manual
	st   *store // nil: it is down
	b    *broker.Broker
	l    *broker.Local
	told [shards]placement      // the controller's news that came here
	sync atomic.Pointer[func()] // called with each flush of the disk; nil: nothing
	// early is told what is about to be written and may be at other nodes before. It runs while a commit is waited for.
	early func(n *node, frames []byte)
}

// start opens the node on what its disk holds.
func (n *node) start() error {
	n.mem.OnSync = func(string, string) { // before anybody else has the disk
		if fn := n.sync.Load(); fn != nil {
			(*fn)()
		}
	}
	log, err := journal.Open(journal.Options{Dir: "log", FS: n.mem, Clock: n.clk, SegmentBytes: 256 << 10, TailBytes: 64 << 10, GroupBytesMax: 32 << 10, RewriteRate: -1})
	if err != nil {
		return fmt.Errorf("open node %d: %w", n.id, err)
	}
	n.b = broker.New(broker.Options{Shards: shards, Clock: n.clk, Replicated: true})
	n.l = n.b.Local(0)
	n.st = &store{log: log, b: n.b, done: make(chan struct{}, 1), early: func(frames []byte) { n.early(n, frames) }}
	n.told = [shards]placement{}
	n.b.UseLog(n.st)
	if err := n.b.Load(n.st); err != nil {
		return err
	}
	err = log.Replay(func(f record.Frame, at journal.Position) error { return n.b.Replay(f, broker.Place(at)) })
	if err != nil {
		return fmt.Errorf("replay node %d: %w", n.id, err)
	}
	n.b.Recovered()
	return log.Start(n.st)
}

func (n *node) up() bool { return n.st != nil }

// kill cuts the power: between two commits, or, if there is something to be written, within one.
func (n *node) kill(rnd *rand.Rand, clean bool) {
	var image *vfs.Mem
	switch {
	case clean:
		n.b.MarkWatermarks()
		for n.st.awake.Load() {
			n.st.commit()
		}
	case n.st.awake.Load() && rnd.IntN(2) == 0:
		own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		var once atomic.Bool
		crash := func() {
			if once.CompareAndSwap(false, true) {
				image = n.mem.Crash(vfs.Cut{Rand: own})
			}
		}
		n.sync.Store(&crash)
		n.st.commit()
		n.sync.Store(nil)
	}
	if image == nil {
		image = n.mem.Crash(vfs.Cut{Rand: rnd})
	}
	_ = n.st.log.Close() // of a process that is no more
	n.b.Close()
	n.mem, n.st, n.b, n.l = image, nil, nil, nil
}

// turn runs the node's loop.
func (n *node) turn() {
	n.l.Drain()
	n.l.EndTurn()
}

// store stands between broker and journal. A group is written when commit is called.
type store struct {
	log    *journal.Log
	b      *broker.Broker
	awake  atomic.Bool
	permit atomic.Bool
	done   chan struct{}
	early  func(frames []byte)
}

func (s *store) commit() {
	s.awake.Store(false)
	s.permit.Store(true)
	s.log.Wake()
	<-s.done
}

func (s *store) Wake() { s.awake.Store(true) }

func (s *store) Gather(dst []byte, most int) ([]byte, bool) {
	if !s.permit.CompareAndSwap(true, false) {
		return dst, false
	}
	out, more := s.b.Gather(dst, most)
	if more {
		s.awake.Store(true)
	}
	whole := true
	switch {
	case len(out) == 0:
		s.done <- struct{}{}
	case s.b.Ahead(func(record.ShardID) { whole = false }) && whole:
		s.early(out[len(dst):])
	}
	return out, false
}

func (s *store) Committed(g *journal.Group) {
	s.b.Committed(broker.Place(g.End()))
	s.done <- struct{}{}
}

func (s *store) Failed(err error) {
	if !errors.Is(err, journal.ErrClosed) {
		panic(err)
	}
}

func (s *store) Read(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	var f journal.Fetched
	defer f.Release()
	for {
		if err := s.log.Fetch(p, from, 64<<10, &f); err != nil {
			return err
		}
		if len(f.Batches) == 0 {
			return nil
		}
		for _, b := range f.Batches {
			if !fn(b) {
				return nil
			}
			from = record.Batch(b).NextOffset()
		}
	}
}

func (s *store) SetLogStart(p record.PartitionID, o record.Offset) { s.log.SetLogStart(p, o) }
func (s *store) DropPartition(p record.PartitionID)                { s.log.DropPartition(p) }
func (s *store) ReadBatches(_ broker.ReadRequest, dst [][]byte) ([][]byte, alloc.Ref, bool, error) {
	return dst, nil, true, nil
}
func (s *store) LocalStart(p record.PartitionID) record.Offset { return s.log.LocalStart(p) }
func (s *store) TieredEnd(record.PartitionID) record.Offset    { return 0 }
func (s *store) LocalSize(p record.PartitionID) int64          { return s.log.Size(p) }
func (s *store) Bounds(p record.PartitionID) (start, end record.Offset) {
	return s.log.LogStart(p), s.log.LogEnd(p)
}

func (s *store) Seek(record.PartitionID, int64, bool) (record.Offset, int64, bool) {
	return 0, 0, false
}
func (s *store) Excess(p record.PartitionID, _, _ int64) record.Offset { return s.log.LogStart(p) }
func (s *store) Size(p record.PartitionID) int64                       { return s.log.Size(p) }
func (s *store) Partitions() []record.PartitionID                      { return s.log.Partitions() }

func (s *store) Write(shard record.ShardID, applied uint64, at broker.Place, fn func(broker.RowWriter) error) error {
	return s.log.Checkpointer().Write(shard, applied, journal.Position(at), func(w *journal.CheckpointWriter) error { return fn(w) })
}

func (s *store) Load(shard record.ShardID, fn func(key, value []byte) error) (uint64, error) {
	return s.log.Checkpointer().Load(shard, fn)
}

func (s *store) Flush() error { return s.log.Checkpointer().Flush() }

// frames gives a shard's frames from an index on, as a leader with this history has them in its log.
func (n *node) frames(shard record.ShardID, from uint64, most int) (out []byte, err error) {
	history, end := n.b.ReplicaHistory(shard)
	sc, err := n.st.log.Scan(n.st.log.ShardPosition(shard, from))
	if err != nil {
		return nil, err
	}
	defer sc.Close()
	for len(out) < most {
		group, _, err := sc.Next()
		if err != nil || len(group) == 0 {
			return out, err
		}
		for len(group) > 0 && len(out) < most {
			f, size, err := record.DecodeFrame(group)
			if err != nil {
				return nil, err
			}
			own := f.Shard == shard && (f.Kind == record.KindRecords || f.Kind == record.KindCommand) && f.Epoch == epochAt(history, f.Index)
			if own && f.Index > from && len(out) == 0 {
				return nil, fmt.Errorf("shard %d of node %d: frame %d where %d was asked for: %w", shard, n.id, f.Index, from, journal.ErrGone)
			}
			if own && f.Index == from && from <= end {
				out = append(out, group[:size]...)
				from++
			}
			group = group[size:]
		}
	}
	return out, nil
}

func epochAt(history []broker.EpochStart, index uint64) (e record.Epoch) {
	for _, s := range history {
		if s.First <= index {
			e = s.Epoch
		}
	}
	return e
}

// values are a partition's records, by their offsets.
func (n *node) values(t *testing.T, p record.PartitionID) (out map[record.Offset]string) {
	t.Helper()
	out = make(map[record.Offset]string)
	var last record.Epoch
	err := n.st.Read(p, n.st.log.LogStart(p), func(b record.Batch) bool {
		if e := b.LeaderEpoch(); e < last {
			t.Errorf("node %d, partition %d: epoch %d behind %d at %d", n.id, p, e, last, b.BaseOffset())
		} else {
			last = e
		}
		for it := b.Records(); it.Next(); {
			out[it.Record().Offset] = string(it.Record().Value)
		}
		return true
	})
	if err != nil {
		t.Errorf("node %d, partition %d: %v", n.id, p, err)
	}
	return out
}

// rows are those of a shard's checkpoint that all replicas have to agree on.
func (n *node) rows(t *testing.T, shard record.ShardID) (rows []string) {
	t.Helper()
	applied, err := n.st.Load(shard, func(key, value []byte) error {
		if key[0] != 'm' { // numbers that a node has given out
			rows = append(rows, fmt.Sprintf("%x=%x", key, value))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(rows)
	return append(rows, fmt.Sprint("applied ", applied))
}
