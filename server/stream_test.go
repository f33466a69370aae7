package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

// streamProducer is an idempotent producer that keeps batches under way and counts what was acknowledged.
type streamProducer struct {
	l     *benchLoop
	a     *broker.Appender
	p     *broker.Partition
	id    int64
	sent  int64
	acked atomic.Int64
	room  int
	stop  atomic.Bool
	last  record.Offset
	t     testing.TB
}

// batch has one record, whose value is its number.
func (w *streamProducer) batch(n int64) record.Batch {
	var b record.BatchBuilder
	now := time.Now().UnixMilli()
	b.Begin(nil, now)
	value := make([]byte, 200+n%5000)
	binary.BigEndian.PutUint64(value, uint64(w.id))
	binary.BigEndian.PutUint64(value[8:], uint64(n))
	b.Append(&record.Input{Key: []byte("k"), Value: value, Timestamp: now})
	return b.Finish(&record.BatchOptions{Producer: record.Producer{Known: true, ID: w.id, Sequence: int32(n)}})
}

func (w *streamProducer) Appended(t broker.Token, r broker.AppendResult) {
	if r.Err != nil {
		w.t.Errorf("producer %d, batch %d: %v", w.id, t, r.Err)
		return
	}
	if r.Base <= w.last {
		w.t.Errorf("producer %d: batch %d at %d behind %d", w.id, t, r.Base, w.last)
	}
	w.last = r.Base
	w.acked.Store(int64(t) + 1)
	w.room++
	w.Resume()
}

func (w *streamProducer) Resume() {
	for w.room > 0 && !w.stop.Load() {
		switch err := w.l.l.Append(w.a, w.p, w.batch(w.sent), broker.AppendOptions{}, broker.Token(w.sent)); {
		case err == nil:
			w.sent++
			w.room--
		case errors.Is(err, broker.ErrBusy):
			return
		default:
			w.t.Errorf("producer %d: %v", w.id, err)
			return
		}
	}
}

// streamReader follows a partition as a consumer does: from memory, from the disk, or waiting.
type streamReader struct {
	l     *benchLoop
	p     *broker.Partition
	from  record.Offset
	f     broker.StreamFetch
	w     broker.Watcher
	seen  map[int64]int64
	count atomic.Int64
	off   bool
	t     testing.TB
}

func (r *streamReader) next() {
	if r.off {
		return
	}
	if r.l.l.FetchTail(r.p, r.from, 64<<10, false, &r.f) {
		r.l.l.FetchCold(r.p, r.from, 64<<10, false, &r.f, r.take)
		return
	}
	r.take()
}

func (r *streamReader) take() {
	defer r.f.Release()
	if r.f.Err != nil {
		r.t.Errorf("reader at %d: %v", r.from, r.f.Err)
		return
	}
	for _, raw := range r.f.Batches {
		b := record.Batch(raw)
		if err := b.Verify(); err != nil {
			r.t.Errorf("at %d: %v", r.from, err)
			return
		}
		for it := b.Records(); it.Next(); {
			rec := it.Record()
			if rec.Offset < r.from {
				continue
			}
			id, n := int64(binary.BigEndian.Uint64(rec.Value)), int64(binary.BigEndian.Uint64(rec.Value[8:]))
			if r.seen[id] != n {
				r.t.Errorf("at %d: batch %d of producer %d, expected %d", rec.Offset, n, id, r.seen[id])
			}
			r.seen[id] = n + 1
			r.from = rec.Offset + 1
			r.count.Add(1)
		}
	}
	if r.f.Bytes == 0 {
		r.l.l.Watch(r.p, r.from, &r.w, r.next)
		return
	}
	r.l.l.Run(r.next)
}

// togetherBench is producers and readers of four partitions.
type togetherBench struct {
	*streamBench
	producers []*streamProducer
	readers   []*streamReader
}

func startTogether(t *testing.T, o storageOptions) *togetherBench {
	t.Helper()
	s := &togetherBench{streamBench: openStreamBench(t, 3, 4, o)}
	for i := range 8 {
		w := &streamProducer{l: s.loops[i%3], p: s.partition(i % 4), id: int64(i + 1), room: 5, last: -1, t: t}
		s.producers = append(s.producers, w)
		w.l.todo <- func() {
			w.a = w.l.l.NewAppender(w)
			w.Resume()
		}
	}
	for i := range 8 {
		r := &streamReader{l: s.loops[(i+1)%3], p: s.partition(i % 4), seen: map[int64]int64{}, t: t}
		s.readers = append(s.readers, r)
		r.l.todo <- r.next
	}
	return s
}

// stop has the producers stop, and answers how many batches were acknowledged once all are.
func (s *togetherBench) stop(t *testing.T) (total int64) {
	t.Helper()
	for _, w := range s.producers {
		w.stop.Store(true)
	}
	testx.Eventually(t, time.Minute, func() bool {
		total = 0
		for _, w := range s.producers {
			sent := make(chan int64, 1)
			w.l.todo <- func() { sent <- w.sent }
			n := <-sent
			if w.acked.Load() != n {
				return false
			}
			total += n
		}
		return true
	})
	return total
}

// Producers, readers from memory and from the disk, checkpoints, and records that are deleted under way, all at once on small segments; then
// the log is opened again.
func TestStreamsTogether(t *testing.T) {
	o := storageOptions{dir: t.TempDir(), segmentBytes: 1 << 20, tailBytes: 256 << 10, groupBytes: 128 << 10, checkpointInterval: 50 * time.Millisecond,
		checkpointBytes: 1 << 40}
	s := startTogether(t, o)
	testx.Eventually(t, time.Minute, func() bool {
		return s.producers[0].acked.Load() > 500 && s.readers[3].count.Load() > 20 && s.readers[7].count.Load() > 20
	})
	deleted := make(chan error, 1)
	s.loops[0].todo <- func() { // what all readers have passed
		s.loops[0].l.DeleteRecords(s.partition(3), 10, func(_ record.Offset, err error) { deleted <- err })
	}
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	testx.Eventually(t, time.Minute, func() bool { return s.producers[0].acked.Load() > 1500 })
	total := s.stop(t)
	testx.Eventually(t, time.Minute, func() bool {
		read := int64(0)
		for _, r := range s.readers {
			read += r.count.Load()
		}
		return read == 2*total
	}, func() string { return fmt.Sprint(total, " were acknowledged") })
	for _, r := range s.readers {
		off := make(chan struct{})
		r.l.todo <- func() {
			r.off = true
			r.l.l.Unwatch(&r.w)
			close(off)
		}
		<-off
	}
	s.close(t)
	checkTogether(t, o, s.producers)
}

// checkTogether reads what a log has when it is opened again.
func checkTogether(t *testing.T, o storageOptions, producers []*streamProducer) {
	t.Helper()
	s := openStreamBench(t, 2, 4, o)
	defer s.close(t)
	for i := range 4 {
		p := s.partition(i)
		want := record.Offset(0)
		if i == 3 {
			want = 10
		}
		if p.LogStart() != want {
			t.Errorf("partition %d begins at %d", i, p.LogStart())
		}
		if want > 0 {
			continue // the first ones are gone
		}
		r := &streamReader{l: s.loops[0], p: p, seen: map[int64]int64{}, t: t}
		expected := int64(0)
		for _, w := range producers {
			if w.p.Index() == p.Index() {
				expected += w.acked.Load()
			}
		}
		r.l.todo <- r.next
		testx.Eventually(t, time.Minute, func() bool { return r.count.Load() == expected })
		off := make(chan struct{})
		r.l.todo <- func() {
			r.off = true
			r.l.l.Unwatch(&r.w)
			close(off)
		}
		<-off
	}
}
