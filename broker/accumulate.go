package broker

import (
	"sync"

	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/journal/record"
)

// accumulation is a batch of a stream that is made of what comes one record at a time: it collects until the shard's list is gathered, or
// somebody appends a whole batch behind it. It belongs to its pendingBatch, guarded by the shard's lock until it is gathered.
type accumulation struct {
	builder record.BatchBuilder
	buf     []byte // backing of builder
	waiters []waiter
	taken   []takenID
	size    int // of the batch so far, header included
}

// waiter is a publisher that waits for a record.
type waiter struct {
	c     *Client
	tok   Token
	trace trace.Mark
}

// takenID is a QoS 2 packet identifier that is remembered with its record.
type takenID struct {
	session  uint64
	packetID uint16
}

// accumulationMax is from how many bytes on a batch takes no more records.
const accumulationMax = 256 << 10

var accumulations = sync.Pool{New: func() any { return new(accumulation) }}

// ownSequence marks the batches that the broker makes of MQTT messages: the base sequence of a batch without a producer, in place of -1. A
// client's batch with it is refused, so what stands in such a batch can be trusted.
const ownSequence = -2

// ownBatch says whether the broker has made a batch of MQTT messages.
func ownBatch(b record.Batch) bool {
	return b.ProducerID() == record.NoProducer && b.BaseSequence() == ownSequence
}

// accumulateLocked adds a record to the open batch of p, or begins one, and gives its batch. in.OffsetDelta is set. n is in's size.
func (s *shard) accumulateLocked(b *Broker, p *Partition, in *record.Input, n int) *accumulation {
	f := s.pendingLocked()
	var pb *pendingBatch
	if i := p.mu.building; i > 0 {
		if pb = &f.batches[i-1]; pb.acc.size+n > accumulationMax {
			p.endBatchLocked(f)
			pb = nil
		}
	}
	if pb == nil {
		acc := accumulations.Get().(*accumulation)
		acc.builder.Begin(acc.buf[:0], in.Timestamp)
		acc.size = record.BatchHeaderSize
		f.batches = append(f.batches, pendingBatch{part: p, acc: acc, appendTime: -1,
			info: batchInfo{base: p.mu.next, producer: record.NoProducer, first: ownSequence, lastSeq: ownSequence, at: in.Timestamp}})
		pb = &f.batches[len(f.batches)-1]
		p.mu.building = int32(len(f.batches))
		f.building = append(f.building, p)
		s.countLocked(b, f, record.BatchHeaderSize+batchCost)
	}
	acc := pb.acc
	in.OffsetDelta = acc.builder.NextDelta()
	acc.builder.Append(in)
	pb.info.last = p.mu.next
	p.mu.next++
	pb.info.maxTimestamp = max(pb.info.maxTimestamp, in.Timestamp)
	s.countLocked(b, f, acc.builder.Size()-acc.size)
	acc.size = acc.builder.Size()
	return acc
}

func (s *shard) countLocked(b *Broker, f *pending, n int) {
	f.batchBytes += n
	f.size += n
	b.appending.Add(int64(n))
}

// endBatchLocked ends the open batch of p in list f, if there is one: the next record begins another.
func (p *Partition) endBatchLocked(f *pending) {
	if p.mu.building == 0 {
		return
	}
	pb := &f.batches[p.mu.building-1]
	pb.info.size = int32(pb.acc.size)
	if p.topic.Spec().Config.LogAppendTime {
		pb.appendTime = pb.info.at
	}
	p.mu.building = 0
}

// endBatchesLocked ends all open batches of a list that is gathered, or fails.
func (f *pending) endBatchesLocked() {
	for i, p := range f.building {
		p.endBatchLocked(f)
		f.building[i] = nil
	}
	f.building = f.building[:0]
}

// finish makes the batch whole. It is the committer's.
func (acc *accumulation) finish() record.Batch {
	acc.buf = acc.builder.Finish(&record.BatchOptions{
		Producer: record.Producer{Known: true, ID: record.NoProducer, Epoch: record.NoProducer, Sequence: ownSequence}})
	return acc.buf
}

// free lets go of it, once everybody is answered.
func (acc *accumulation) free() {
	if cap(acc.buf) > 2*accumulationMax {
		acc.buf = nil
	}
	clear(acc.waiters)
	*acc = accumulation{buf: acc.buf[:0], waiters: acc.waiters[:0], taken: acc.taken[:0]}
	accumulations.Put(acc)
}
