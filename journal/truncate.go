package journal

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluicemq/sluice/journal/record"
)

// cut remembers that frames of a partition were taken back by a KindTruncate: those from an offset on that lie before a position. It is needed as
// long as there is a segment before: its index file, or what its frames say, may still know of them. Guarded by Log.mu.
type cut struct {
	part  record.PartitionID
	from  record.Offset
	at    Position // of the frame that took them back
	saved bool     // in the checkpoint store
}

// truncateLocked takes out of the index what a KindTruncate at this place says. A segment whose index is being rebuilt has its own cut as it is
// read; the rest was done when the log was opened.
func (ix *indexer) truncateLocked(s *segment, at int64, f *record.Frame) {
	ends, ok := record.Ends(f.Payload)
	if !ok {
		return
	}
	l := ix.l
	for _, e := range ends {
		if ix.collect != nil {
			if d := ix.collect[e.Partition]; d != nil {
				if d.cut(l, s, e.End); len(d.entries) == 0 {
					delete(ix.collect, e.Partition)
				}
			}
			continue
		}
		c := cut{part: e.Partition, from: e.End, at: Position{Segment: s.number(), Offset: at}}
		if !slices.ContainsFunc(l.mu.cuts, func(o cut) bool { return o.part == c.part && o.from == c.from && o.at == c.at }) {
			l.mu.cuts = append(l.mu.cuts, c)
		}
		if p := l.mu.partitions[e.Partition]; p != nil && !p.dropped {
			l.cutPartitionLocked(p, max(e.End, p.floor()))
		}
	}
}

// cutPartitionLocked has p end at o. What it holds from there on was never acknowledged, and lies behind every checkpoint.
func (l *Log) cutPartitionLocked(p *partition, o record.Offset) {
	wake := false
	for k := len(p.refs); k > 0 && p.refs[k-1].last >= o; k-- {
		r := p.refs[k-1]
		d := indexDir{partition: p.id, first: r.first, last: r.last, bytes: r.bytes, time: r.time, entries: slices.Clone(r.entries)}
		d.cut(l, r.seg, o)
		r.seg.live -= r.bytes - d.bytes
		if len(d.entries) == 0 {
			r.seg.live += r.dead
			l.forgetRefLocked(r)
			p.refs[k-1] = nil
			p.refs = p.refs[:k-1]
			wake = wake || r.seg.live == 0
			continue
		}
		r.entries, r.last, r.bytes, r.time = d.entries, d.last, d.bytes, d.time
		break
	}
	p.end = min(p.end, o)
	if wake {
		l.keep.wake()
	}
}

// cutDirLocked applies what is remembered to what an index says of a segment. A partition segment has nothing that was taken back: what is
// rewritten lies before every checkpoint.
func (l *Log) cutDirLocked(s *segment, d *indexDir) {
	if s.part {
		return
	}
	for i := range l.mu.cuts {
		if c := &l.mu.cuts[i]; c.part == d.partition && s.number() < c.at.Segment {
			d.cut(l, s, c.from)
		}
	}
}

// cut takes the frames from offset o on out of d, which is of s.
func (d *indexDir) cut(l *Log, s *segment, o record.Offset) {
	if d.last < o || len(d.entries) == 0 {
		return
	}
	k := d.entries.search(o)
	if k == d.entries.len() {
		return
	}
	e := d.entries.at(k)
	d.bytes = int64(e.before)
	if e.base < o {
		if own := e.shrink(l, s, d.partition, o); own > 0 {
			d.entries.put(k, e)
			d.bytes += own
			k++
		}
	}
	d.entries = d.entries[:k*entrySize]
	if k == 0 {
		d.bytes = 0
		return
	}
	d.time = noTime
	for i := range k {
		d.time = max(d.time, d.entries.at(i).time)
	}
	last := d.entries.at(k - 1)
	d.last = last.last()
}

// shrink has an entry end before offset o, and answers how many bytes of frames are left of it. It has to look at its frames, some KiB of them.
func (e *entry) shrink(l *Log, s *segment, p record.PartitionID, o record.Offset) (own int64) {
	span, last := uint32(0), e.base
	err := l.readNow(s, int64(e.pos), int(e.span), func(b []byte) error {
		for at := uint32(0); len(b) > 0; {
			f, n, err := record.ViewFrame(b)
			if err != nil {
				return err
			}
			at += uint32(n)
			batch := record.Batch(record.FrameBatch(f.Payload))
			if f.Kind == record.KindRecords && f.Partition == p && len(batch) >= record.BatchHeaderSize {
				if batch.BaseOffset() >= o {
					return nil
				}
				span, last = at, batch.LastOffset()
				own += int64(n)
			}
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		// What cannot be read now is not to be read later either.
		l.log.Error("cannot read what a truncation leaves of an index entry", "segment", s.path, "at", e.pos, "err", err)
		return 0
	}
	e.span, e.lastDelta = span, uint32(last-e.base)
	return own
}

// putCutsLocked writes the cuts that the store does not have, and forgets those that no segment needs any more.
func (l *Log) putCutsLocked(b *pebble.Batch) (err error) {
	if len(l.mu.cuts) == 0 || len(l.mu.segments) == 0 {
		return nil
	}
	oldest := l.mu.segments[0].number()
	kept := l.mu.cuts[:0]
	for _, c := range l.mu.cuts {
		if c.at.Segment <= oldest {
			err = errors.Join(err, b.Delete(cutKey(&c), nil))
			continue
		}
		if !c.saved {
			c.saved = true
			err = errors.Join(err, b.Set(cutKey(&c), binary.LittleEndian.AppendUint64(nil, uint64(c.from)), nil))
		}
		kept = append(kept, c)
	}
	l.mu.cuts = kept
	return err
}

func cutKey(c *cut) []byte {
	key := binary.BigEndian.AppendUint64([]byte{keyLog, rowCut}, uint64(c.part))
	key = binary.BigEndian.AppendUint64(key, c.at.Segment)
	return binary.BigEndian.AppendUint64(key, uint64(c.at.Offset))
}

func (c *Checkpointer) loadCuts() error {
	return c.scan([]byte{keyLog, rowCut}, []byte{keyLog, rowCut + 1}, func(key, v []byte) error {
		if len(key) != 26 || len(v) != 8 {
			return &CorruptError{Path: c.l.o.Dir + "/checkpoint", Reason: "bad row of a truncation"}
		}
		be := binary.BigEndian
		at := Position{Segment: be.Uint64(key[10:]), Offset: int64(be.Uint64(key[18:]))}
		c.l.mu.cuts = append(c.l.mu.cuts, cut{
			part: record.PartitionID(be.Uint64(key[2:])), from: record.Offset(binary.LittleEndian.Uint64(v)), at: at, saved: true,
		})
		return nil
	})
}
