package journal

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

const (
	worldParts  = 3
	worldShards = 2
)

// known is what a test knows about a log at one moment.
type known struct {
	// At least this much must be there: it was acknowledged, and durable. At most that much can be: it was gathered.
	least, most [worldParts]record.Offset
	// Index of the last command of each shard, likewise.
	leastIdx, mostIdx [worldShards]uint64
	start             [worldParts]record.Offset // the highest log start asked for
	tiered            [worldParts]record.Offset // everything below is elsewhere too
}

// elsewhere is Options.Elsewhere.
func (k *known) elsewhere(p record.PartitionID) (start, end record.Offset, ok bool) {
	end = k.tiered[p-1]
	return 0, end, end > 0
}

// world is the slow model of a log: counters, and a log that must agree with them after every crash. It is the log's Source.
type world struct {
	o   Options
	mem *vfs.Mem
	l   *Log
	mu  struct {
		sync.Mutex
		known
		queue [][]byte
		heads []known // what is known once the queue's groups are acknowledged
		acked known
		open  int
		err   error
		end   Position
	}
}

func newWorld(o Options) *world {
	w := &world{o: o, mem: vfs.NewMem()}
	w.o.FS, w.o.Dir = w.mem, "data"
	if err := w.mem.MkdirAll("data"); err != nil {
		panic(err)
	}
	if err := w.mem.SyncDir("."); err != nil {
		panic(err)
	}
	return w
}

func (w *world) Gather(dst []byte, most int) ([]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.queue) == 0 {
		return dst, false
	}
	dst = append(dst, w.mu.queue[0]...)
	w.mu.queue = w.mu.queue[1:]
	return dst, len(w.mu.queue) > 0
}

func (w *world) Committed(g *Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.mu.heads[0]
	w.mu.heads = w.mu.heads[1:]
	w.mu.acked.most, w.mu.acked.mostIdx = h.most, h.mostIdx
	if w.o.Durability == Sync {
		w.mu.least, w.mu.leastIdx = h.most, h.mostIdx
	}
	w.mu.open--
	w.mu.end = g.End()
}

func (w *world) Failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.err = err
	w.mu.queue, w.mu.heads, w.mu.open = nil, nil, 0
}

// put sends one group: a command for each shard, and records for the partitions.
func (w *world) put(size [worldParts]int) {
	w.mu.Lock()
	var g []byte
	for s := range w.mu.mostIdx {
		w.mu.mostIdx[s]++
		g = commandFrame(g, record.ShardID(s), w.mu.mostIdx[s], "a command")
	}
	for p, n := range size {
		if n > 0 {
			g = recordsFrame(g, record.PartitionID(p+1), w.mu.most[p], 2, n)
			w.mu.most[p] += 2
		}
	}
	w.mu.queue = append(w.mu.queue, g)
	w.mu.heads = append(w.mu.heads, w.mu.known)
	w.mu.open++
	w.mu.Unlock()
	w.l.Wake()
}

func (w *world) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.open == 0
}

// checkpoint writes and flushes rows that say which command each shard has applied.
func (w *world) checkpoint(flush bool) error {
	w.mu.Lock()
	acked, end := w.mu.acked, w.mu.end
	w.mu.Unlock()
	for s := range worldShards {
		err := w.l.Checkpointer().Write(record.ShardID(s), acked.mostIdx[s], end, func(cw *CheckpointWriter) error {
			return cw.Set([]byte("applied"), binary.LittleEndian.AppendUint64(nil, acked.mostIdx[s]))
		})
		if err != nil {
			return err
		}
	}
	if !flush {
		return nil
	}
	if err := w.l.Checkpointer().Flush(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range acked.most {
		w.mu.least[p] = max(w.mu.least[p], acked.most[p])
	}
	for s := range acked.mostIdx {
		w.mu.leastIdx[s] = max(w.mu.leastIdx[s], acked.mostIdx[s])
	}
	return nil
}

func (w *world) setStart(p int, o record.Offset) {
	w.mu.Lock()
	o = min(o, w.mu.acked.most[p])
	w.mu.start[p] = max(w.mu.start[p], o)
	w.mu.Unlock()
	w.l.SetLogStart(record.PartitionID(p+1), o)
}

func (w *world) knows() known {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.known
}

// start opens the log on w.mem, compares it with what is known, and goes on from what it holds.
func (w *world) start() error {
	w.o.FS = w.mem
	l, k, err := check(w.o, w.knows())
	if err != nil {
		return err
	}
	w.l = l
	w.mu.Lock()
	w.mu.known = k
	w.mu.acked = k
	w.mu.queue, w.mu.heads, w.mu.open, w.mu.err = nil, nil, 0, nil
	if n := len(l.mu.segments); n > 0 {
		w.mu.end = Position{Segment: l.mu.segments[n-1].number(), Offset: l.mu.segments[n-1].end}
	} else {
		w.mu.end = Position{}
	}
	w.mu.Unlock()
	return l.Start(w)
}

// check opens a log and compares it with what is known about it. It answers the log, replayed, and what it holds.
func check(o Options, k known) (*Log, known, error) {
	o.Elsewhere = k.elsewhere
	l, err := Open(o)
	if err != nil {
		return nil, k, err
	}
	got, err := compare(l, k)
	if err != nil {
		_ = l.Close()
		return nil, k, err
	}
	return l, got, nil
}

func compare(l *Log, k known) (known, error) {
	var idx [worldShards]uint64
	for s := range idx {
		applied, err := l.Checkpointer().Load(record.ShardID(s), func(key, v []byte) error { return nil })
		if err != nil {
			return k, err
		}
		row, err := l.Checkpointer().Get(record.ShardID(s), []byte("applied"))
		if err != nil {
			return k, err
		}
		if applied != 0 && binary.LittleEndian.Uint64(row) != applied {
			return k, fmt.Errorf("shard %d: rows of %d, applied %d", s, binary.LittleEndian.Uint64(row), applied)
		}
		idx[s] = applied
	}
	err := l.Replay(func(f record.Frame, at Position) error {
		if f.Kind != record.KindCommand || f.Index <= idx[f.Shard] {
			return nil
		}
		if f.Index != idx[f.Shard]+1 {
			return fmt.Errorf("shard %d: command %d follows %d", f.Shard, f.Index, idx[f.Shard])
		}
		idx[f.Shard]++
		return nil
	})
	if err != nil {
		return k, err
	}
	got := k
	for s := range idx {
		if idx[s] < k.leastIdx[s] || idx[s] > k.mostIdx[s] {
			return k, fmt.Errorf("shard %d: last command is %d, must be from %d to %d", s, idx[s], k.leastIdx[s], k.mostIdx[s])
		}
		got.leastIdx[s], got.mostIdx[s] = idx[s], idx[s]
	}
	for p := range worldParts {
		id := record.PartitionID(p + 1)
		start, end := l.LogStart(id), l.LogEnd(id)
		if end < k.least[p] || end > k.most[p] || start > k.start[p] {
			return k, fmt.Errorf("partition %d: holds %d to %d, must end from %d to %d and start up to %d", id, start, end, k.least[p], k.most[p], k.start[p])
		}
		from := max(start, min(k.start[p], end)) // below, records may have gone
		offs, err := tieredOffsets(l, id, from, k.tiered[p])
		if err != nil {
			return k, fmt.Errorf("partition %d: %w", id, err)
		}
		for i, o := range offs {
			if o != from+record.Offset(i) {
				return k, fmt.Errorf("partition %d: offset %d at place %d from %d", id, o, i, from)
			}
		}
		if from+record.Offset(len(offs)) != end {
			return k, fmt.Errorf("partition %d: %d records from %d, log end is %d", id, len(offs), from, end)
		}
		got.least[p], got.most[p], got.start[p] = end, end, from
	}
	return got, nil
}

// crash cuts the power (or kills the process, with Keep) and starts again.
func (w *world) crash(c vfs.Cut) error {
	w.mu.Lock()
	k := w.mu.known
	if c.Keep {
		k.least, k.leastIdx = w.mu.acked.most, w.mu.acked.mostIdx
	}
	w.mu.Unlock()
	next := w.mem.Crash(c)
	// What was acknowledged between the two moments may be there or not.
	w.mu.Lock()
	w.mu.least, w.mu.leastIdx = k.least, k.leastIdx
	after := w.mu.known
	w.mu.Unlock()
	old := w.l
	_ = old.Close() // writes on the old file system, which nobody looks at any more
	w.mu.Lock()
	w.mu.known = after
	w.mu.Unlock()
	w.mem = next
	return w.start()
}

// settle waits until all that was put is acknowledged, and fails the test if it was refused.
func (w *world) settle(t testing.TB) {
	t.Helper()
	testx.Eventually(t, waitFor, w.idle)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.err != nil {
		t.Fatalf("refused: %v", w.mu.err)
	}
}

func seeded(n uint64) *rand.Rand { return rand.New(rand.NewPCG(n, 7)) }
