package broker

import "github.com/sluicemq/sluice/journal/record"

// openedHeldMax bounds the opened batches that wait for another turn, of the whole node. One above it is opened anew in each.
const openedHeldMax = 256 << 20

// openedBatch is a compressed batch of a stream that takes more than one turn to go through. It belongs to a loop.
type openedBatch struct {
	plain []byte // nil: there is none
	it    record.BatchReader
	at    record.Offset // behind the last record that was taken
}

// recordsOf gives the records of a stored batch, whose record at or behind from is the next one wanted. again: the iterator stands on it. What is
// opened is good until this loop opens another, unless keepOpened holds it.
func (l *Local) recordsOf(o *openedBatch, b record.Batch, from record.Offset) (it record.BatchReader, again bool, err error) {
	if o.plain != nil {
		if record.Batch(o.plain).BaseOffset() == b.BaseOffset() && o.at == from {
			return o.it, true, nil
		}
		l.closeOpened(o)
	}
	if !b.Attributes().Compressed() {
		return b.Records(), false, nil
	}
	out, err := openBatch(l.opening[:0], b)
	if err != nil {
		return it, false, err
	}
	l.opening = out
	return record.Batch(out).Records(), false, nil
}

// keepOpened ends a turn in the middle of batch b, at a record behind at that is for the next turn.
func (l *Local) keepOpened(o *openedBatch, b record.Batch, it *record.BatchReader, at record.Offset) {
	if o.plain == nil {
		if !b.Attributes().Compressed() {
			return
		}
		if n := int64(cap(l.opening)); l.b.openedHeld.Add(n) > openedHeldMax {
			l.b.openedHeld.Add(-n)
			l.trimOpening()
			return
		}
		o.plain, l.opening = l.opening, nil
	}
	o.it, o.at = *it, at
}

// closeOpened ends going through a batch.
func (l *Local) closeOpened(o *openedBatch) {
	if o.plain != nil {
		l.b.openedHeld.Add(-int64(cap(o.plain)))
		if l.opening == nil {
			l.opening = o.plain
		}
		*o = openedBatch{}
	}
	l.trimOpening()
}

func (l *Local) trimOpening() {
	if cap(l.opening) > scratchMax {
		l.opening = nil
	}
}
