package broker

import (
	"encoding/binary"
	"math"
	"sort"
	"sync/atomic"
)

// blockRefs is how many references a block of a queue takes.
const blockRefs = 512

// queue is the filter queue of one durable filter in one shard: the sequences of the records that matched it, ascending, as
// delta-coded blocks. However many sessions share the filter, there is one. Guarded by its shard's lock.
type queue struct {
	number uint64
	blocks []*refBlock
	count  int64
	bytes  int64
	total  *queueTotals
	holder *Session // the reader that had come least far when trim last looked
	dirty  bool     // has blocks that the checkpoint lacks
	grown  bool     // on the shard's list of such
}

// queueTotals sums up all queues of a broker.
type queueTotals struct{ count, bytes atomic.Int64 }

// refBlock holds ascending sequences: first, then the differences as varints.
type refBlock struct {
	first, last uint64
	n           int
	bytes       int64 // of the messages, as stored
	since       int64 // Unix milliseconds of the first message
	until       int64 // the same of the last
	data        []byte
	saved       int // references that the checkpoint has
}

// add appends a reference. Sequences ascend: one that is not above all that are there has been added before.
func (q *queue) add(seq uint64, size int, now int64) bool {
	n := len(q.blocks)
	switch {
	case n == 0 || q.blocks[n-1].n >= blockRefs && q.blocks[n-1].last < seq:
		q.blocks = append(q.blocks, &refBlock{first: seq, last: seq, n: 1, bytes: int64(size), since: now, until: now})
	case q.blocks[n-1].last >= seq:
		return false
	default:
		b := q.blocks[n-1]
		b.data = binary.AppendUvarint(b.data, seq-b.last)
		b.last, b.until = seq, now
		b.n++
		b.bytes += int64(size)
	}
	q.count++
	q.bytes += int64(size)
	q.dirty = true
	q.total.count.Add(1)
	q.total.bytes.Add(int64(size))
	return true
}

// load takes in a block from the checkpoint; they come in order.
func (q *queue) load(b *refBlock) bool {
	if n := len(q.blocks); n > 0 && q.blocks[n-1].last >= b.first {
		return false
	}
	q.blocks = append(q.blocks, b)
	q.count += int64(b.n)
	q.bytes += b.bytes
	q.total.count.Add(int64(b.n))
	q.total.bytes.Add(b.bytes)
	return true
}

// unsaved marks a block as one that the checkpoint lacks.
func (q *queue) unsaved(first uint64) bool {
	for _, b := range q.blocks {
		if b.first == first {
			b.saved, q.dirty = 0, true
			return true
		}
	}
	return false
}

// drop empties the queue, for good.
func (q *queue) drop() {
	q.total.count.Add(-q.count)
	q.total.bytes.Add(-q.bytes)
	q.blocks, q.count, q.bytes = nil, 0, 0
}

// last is the highest sequence, 0 if there is none.
func (q *queue) last() uint64 {
	if len(q.blocks) == 0 {
		return 0
	}
	return q.blocks[len(q.blocks)-1].last
}

// first is the lowest sequence whose block is still there, 0 if there is none.
func (q *queue) first() uint64 {
	if len(q.blocks) == 0 {
		return 0
	}
	return q.blocks[0].first
}

// after appends to dst the sequences above seq, at most limit of them.
func (q *queue) after(dst []uint64, seq uint64, limit int) []uint64 {
	return q.between(dst, seq, math.MaxUint64, limit)
}

// between appends to dst the sequences above seq and below end, at most limit of them.
func (q *queue) between(dst []uint64, seq, end uint64, limit int) []uint64 {
	i := sort.Search(len(q.blocks), func(i int) bool { return q.blocks[i].last > seq })
	for ; i < len(q.blocks) && limit > 0; i++ {
		b := q.blocks[i]
		v, data := b.first, b.data
		for {
			if v >= end {
				return dst
			}
			if v > seq {
				dst = append(dst, v)
				if limit--; limit == 0 {
					break
				}
			}
			if len(data) == 0 {
				break
			}
			d, n := binary.Uvarint(data)
			if n <= 0 {
				break
			}
			v += d
			data = data[n:]
		}
	}
	return dst
}

// backlog estimates how many references, and bytes of messages, lie above seq: exact but for the block that seq falls into.
func (q *queue) backlog(seq uint64) (n, bytes int64) {
	i := sort.Search(len(q.blocks), func(i int) bool { return q.blocks[i].last > seq })
	for ; i < len(q.blocks); i++ {
		b := q.blocks[i]
		if b.first > seq {
			n += int64(b.n)
			bytes += b.bytes
			continue
		}
		k := b.above(seq)
		n += k
		bytes += b.bytes * k / int64(b.n)
	}
	return n, bytes
}

// above counts the references above seq.
func (b *refBlock) above(seq uint64) int64 {
	if b.last <= seq {
		return 0
	}
	n, v, data := int64(b.n), b.first, b.data
	for v <= seq {
		n--
		d, k := binary.Uvarint(data)
		if k <= 0 {
			return n
		}
		v += d
		data = data[k:]
	}
	return n
}

// trim drops the blocks that end at or below seq and answers the first sequences of those that the checkpoint has.
func (q *queue) trim(seq uint64) (gone []uint64) {
	i := 0
	for i < len(q.blocks) && q.blocks[i].last <= seq {
		b := q.blocks[i]
		q.count -= int64(b.n)
		q.bytes -= b.bytes
		q.total.count.Add(-int64(b.n))
		q.total.bytes.Add(-b.bytes)
		if b.saved > 0 {
			gone = append(gone, b.first)
		}
		i++
	}
	if i > 0 {
		q.blocks = append([]*refBlock(nil), q.blocks[i:]...)
	}
	return gone
}

// encode appends the block's checkpoint row.
func (b *refBlock) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, b.first)
	dst = binary.AppendUvarint(dst, b.last)
	dst = binary.AppendUvarint(dst, uint64(b.n))
	dst = binary.AppendUvarint(dst, uint64(b.bytes))
	dst = binary.AppendUvarint(dst, uint64(b.since))
	dst = binary.AppendUvarint(dst, uint64(b.until))
	return append(dst, b.data...)
}

// decodeRefBlock reads what encode wrote, and checks that it holds together.
func decodeRefBlock(src []byte) (*refBlock, bool) {
	d := decoder{b: src}
	b := &refBlock{first: d.uvarint(), last: d.uvarint(), n: int(d.uvarint() & (1<<31 - 1)), bytes: int64(d.uvarint()),
		since: int64(d.uvarint()), until: int64(d.uvarint())}
	b.data = append([]byte(nil), d.b...)
	b.saved = b.n
	v := b.first
	for n := b.n - 1; n > 0 && d.ok(); n-- {
		step := d.uvarint()
		if v+step <= v {
			return nil, false
		}
		v += step
	}
	return b, d.ok() && len(d.b) == 0 && b.n >= 1 && b.n <= blockRefs && v == b.last && b.bytes >= 0
}
