package journal

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// waitFor is how long a test waits for what must happen.
const waitFor = 20 * time.Second

// testSource is a Source that a test fills by hand. It hands frames out one Gather for each put, so that a test decides on groups.
type testSource struct {
	l  *Log
	mu struct {
		sync.Mutex
		queue  [][]byte // each one group
		urgent [][]byte
		done   int // puts that were committed or failed
		put    int
		sent   int
		errs   []error
		ends   []Position
		acked  int
	}
	ahead atomic.Bool
	held  []record.ShardID // of what is shown ahead
}

// Ahead makes it an AheadSource.
func (s *testSource) Ahead(hold func(record.ShardID)) bool {
	for _, shard := range s.held {
		hold(shard)
	}
	return s.ahead.Load()
}

func newTestSource(l *Log) *testSource { return &testSource{l: l} }

func (s *testSource) put(group []byte) int {
	s.mu.Lock()
	s.mu.queue = append(s.mu.queue, group)
	s.mu.put++
	n := s.mu.put
	s.mu.Unlock()
	s.l.Wake()
	return n
}

func (s *testSource) Gather(dst []byte, most int) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.queue) == 0 {
		return dst, false
	}
	dst = append(dst, s.mu.queue[0]...)
	s.mu.queue = s.mu.queue[1:]
	return dst, len(s.mu.queue) > 0
}

func (s *testSource) Committed(g *Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.done++
	s.mu.acked++
	s.mu.ends = append(s.mu.ends, g.End())
}

func (s *testSource) Failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.errs = append(s.mu.errs, err)
	s.mu.done = s.mu.put
	s.mu.queue = nil
}

func (s *testSource) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.done == s.mu.put
}

func (s *testSource) end() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.mu.ends); n > 0 {
		return s.mu.ends[n-1]
	}
	return Position{}
}

// commit puts a group and waits until it is committed or failed.
func (s *testSource) commit(t testing.TB, group []byte) error {
	t.Helper()
	s.mu.Lock()
	before := len(s.mu.errs)
	s.mu.Unlock()
	s.put(group)
	testx.Eventually(t, waitFor, s.settled)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.errs) > before {
		return s.mu.errs[len(s.mu.errs)-1]
	}
	return nil
}

// batchOf makes a batch of n records from base on, each with a value of size bytes that tells its offset.
func batchOf(base record.Offset, n, size int) []byte {
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	for i := range n {
		v := make([]byte, max(size, 8))
		binary.LittleEndian.PutUint64(v, uint64(base)+uint64(i))
		for k := 8; k < len(v); k++ {
			v[k] = byte(int(base) + i + k)
		}
		b.Append(&record.Input{OffsetDelta: int32(i), Timestamp: 1000, Value: v})
	}
	return b.Finish(&record.BatchOptions{BaseOffset: base})
}

// recordsFrame appends a frame with a batch of n records to dst.
func recordsFrame(dst []byte, p record.PartitionID, base record.Offset, n, size int) []byte {
	f := record.Frame{Kind: record.KindRecords, Shard: record.ShardID(p % 2), Index: uint64(base), Partition: p}
	dst, start := record.BeginFrame(dst, &f)
	dst = record.BeginRecordsPayload(dst, fmt.Appendf(nil, "extra %d", base))
	dst = append(dst, batchOf(base, n, size)...)
	return record.FinishFrame(dst, start)
}

func commandFrame(dst []byte, shard record.ShardID, index uint64, payload string) []byte {
	return record.AppendFrame(dst, &record.Frame{Kind: record.KindCommand, Shard: shard, Index: index, Payload: []byte(payload)})
}

// opened is a log with its source, replayed and started.
type opened struct {
	*Log
	src    *testSource
	frames []string // what Replay delivered
}

func open(t testing.TB, o Options) *opened {
	t.Helper()
	r, err := tryOpen(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return r
}

func tryOpen(o Options) (*opened, error) {
	l, err := Open(o)
	if err != nil {
		return nil, err
	}
	r := &opened{Log: l, src: newTestSource(l)}
	err = l.Replay(func(f record.Frame, at Position) error {
		r.frames = append(r.frames, fmt.Sprintf("kind %d shard %d index %d partition %d", f.Kind, f.Shard, f.Index, f.Partition))
		return nil
	})
	if err == nil {
		err = l.Start(r.src)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return r, nil
}

func (o *opened) close(t testing.TB) {
	t.Helper()
	if err := o.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// offsets fetches p from an offset to its end and gives the offsets of all records, verifying each batch.
func offsets(t testing.TB, l *Log, p record.PartitionID, from record.Offset) []record.Offset {
	t.Helper()
	out, err := tryOffsets(l, p, from)
	if err != nil {
		t.Fatalf("partition %d from %d: %v", p, from, err)
	}
	return out
}

func tryOffsets(l *Log, p record.PartitionID, from record.Offset) (out []record.Offset, err error) {
	return tieredOffsets(l, p, from, 0)
}

// tieredOffsets is tryOffsets by the rule that readers of log and tier follow: what is not at its place in the log, and below tiered, is elsewhere.
func tieredOffsets(l *Log, p record.PartitionID, from, tiered record.Offset) (out []record.Offset, err error) {
	var f Fetched
	defer f.Release()
	for {
		if err := l.Fetch(p, from, 64<<10, &f); err != nil {
			return out, err
		}
		if from < tiered && (len(f.Batches) == 0 || f.First > from) {
			for ; from < tiered; from++ {
				out = append(out, from)
			}
			continue
		}
		if len(f.Batches) == 0 {
			return out, nil
		}
		for i, raw := range f.Batches {
			b := record.Batch(raw)
			if err := b.Verify(); err != nil {
				return out, err
			}
			if want := fmt.Sprintf("extra %d", b.BaseOffset()); string(f.Extras[i]) != want {
				return out, fmt.Errorf("extra %q, want %q", f.Extras[i], want)
			}
			r := b.Records()
			for r.Next() {
				rec := r.Record()
				if got := record.Offset(binary.LittleEndian.Uint64(rec.Value)); got != rec.Offset {
					return out, fmt.Errorf("record at offset %d says %d", rec.Offset, got)
				}
				if rec.Offset >= from {
					out = append(out, rec.Offset)
				}
			}
			from = b.NextOffset()
		}
	}
}
