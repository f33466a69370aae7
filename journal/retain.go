package journal

import (
	"github.com/sluicemq/sluice/journal/record"
)

// SetLogStart says that nobody needs records of p before o: their frames are dead. It never goes back, nor beyond the log end. It is
// durable with the next Checkpointer.Flush; a crash before that brings records back, never takes any.
func (l *Log) SetLogStart(p record.PartitionID, o record.Offset) {
	l.mu.Lock()
	part := l.mu.partitions[p]
	if part == nil || o <= part.start {
		l.mu.Unlock()
		return
	}
	part.start = min(o, part.end)
	l.mu.dirty[p] = struct{}{}
	dead := l.buryLocked(part)
	l.mu.Unlock()
	l.keep.bury(dead)
}

// SetLocalStart says that the records of p before o are kept elsewhere: their frames are dead here, as below the log start, but the log start
// stays. It never goes back, nor beyond the log end, and is forgotten with Close: of what it has let go of, a restart brings back what is still in
// the files. Options.Elsewhere must know of those records by then, and whatever makes it know must have been committed before. In async mode
// it waits until that is on stable storage, so never call it on a loop; if the log has failed it does nothing.
func (l *Log) SetLocalStart(p record.PartitionID, o record.Offset) {
	if l.closing.Load() || l.com.flushWritten() != nil {
		return
	}
	l.mu.Lock()
	part := l.mu.partitions[p]
	if part == nil || part.dropped || o <= part.floor() {
		l.mu.Unlock()
		return
	}
	part.local = min(o, part.end)
	dead := l.buryLocked(part)
	l.mu.Unlock()
	l.keep.bury(dead)
}

// Sync has all that was committed so far be on stable storage: in async mode it waits for that, so never call it on a loop. It answers why the log
// has failed, if it has.
func (l *Log) Sync() error { return l.com.flushWritten() }

// LocalStart is the first offset of p at or above the log start that lies here, or the log end if none does.
func (l *Log) LocalStart(p record.PartitionID) record.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if part := l.mu.partitions[p]; part != nil {
		return part.localStart()
	}
	return 0
}

func (p *partition) localStart() record.Offset {
	if len(p.refs) == 0 {
		return p.end
	}
	return p.refs[0].begin(p.floor())
}

// DropPartition forgets p: all its frames are dead, and so are those that are still on their way.
func (l *Log) DropPartition(p record.PartitionID) {
	l.mu.Lock()
	part := l.partitionLocked(p)
	part.dropped = true
	if n := len(l.mu.segments); n > 0 {
		part.droppedIn = l.mu.segments[n-1].number() + 1 // a group under way may go to the next one
	}
	part.start = part.end
	l.mu.dirty[p] = struct{}{}
	dead := l.buryLocked(part)
	l.mu.Unlock()
	l.keep.bury(dead)
}

// Partitions are the ids of all partitions that were not dropped, in no order.
func (l *Log) Partitions() []record.PartitionID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	ids := make([]record.PartitionID, 0, len(l.mu.partitions))
	for id, p := range l.mu.partitions {
		if !p.dropped {
			ids = append(ids, id)
		}
	}
	return ids
}

// Size is how many bytes of the log and of segments are of p's records, from its log start or its local start on. What a frame holds of that
// offset is counted whole.
func (l *Log) Size(p record.PartitionID) (bytes int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if part := l.mu.partitions[p]; part != nil {
		return part.size()
	}
	return 0
}

// SizeAtLeast is Size without the frames that share an entry of the index with what lies below the log start or the local start: Size counts these whole.
func (l *Log) SizeAtLeast(p record.PartitionID) (bytes int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	part := l.mu.partitions[p]
	if part == nil {
		return 0
	}
	bytes = part.size()
	if len(part.refs) > 0 {
		r := part.refs[0]
		if k := r.entries.search(part.floor()); k < r.entries.len() && r.entries.at(k).base < part.floor() {
			bytes -= int64(r.after(k) - r.entries.at(k).before)
		}
	}
	return bytes
}

func (p *partition) size() (bytes int64) {
	for _, r := range p.refs {
		bytes += r.bytes - r.dead
	}
	return bytes
}

// LogStart is the first offset of p that may be asked for.
func (l *Log) LogStart(p record.PartitionID) record.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if part := l.mu.partitions[p]; part != nil {
		return part.start
	}
	return 0
}

// LogEnd is the offset behind the last committed record of p.
func (l *Log) LogEnd(p record.PartitionID) record.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if part := l.mu.partitions[p]; part != nil {
		return part.end
	}
	return 0
}

// Hold keeps everything in the log from at on, whatever the checkpoint says, until the name is given another position; the zero
// Position lets go. Who keeps places of frames by himself, as a Raft log store does, holds the oldest one.
func (l *Log) Hold(name string, at Position) {
	l.mu.Lock()
	if at == (Position{}) {
		delete(l.mu.holds, name)
	} else {
		l.mu.holds[name] = at
	}
	l.mu.Unlock()
	l.keep.wake()
}

// HoldNew keeps everything that is committed from now on, as Hold does.
func (l *Log) HoldNew(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.mu.replay
	if n := len(l.mu.segments); n > 0 {
		at = Position{Segment: l.mu.segments[max(n-2, 0)].number(), Offset: blockSize} // the last one may be new, and a group be on its way into the one before
	}
	l.mu.holds[name] = at
}

// buryLocked counts what is dead in part's refs, takes out those that hold nothing else, and answers the partition segments that
// are to be removed.
func (l *Log) buryLocked(part *partition) (dead []*segment) {
	gone, wake, floor := 0, false, part.floor()
	for _, r := range part.refs {
		if r.first >= floor {
			break
		}
		d := r.deadBefore(floor)
		r.seg.live -= d - r.dead
		r.dead = d
		if r.last >= floor {
			break
		}
		gone++
		l.forgetRefLocked(r)
		switch {
		case r.seg.live > 0:
		case r.seg.part:
			dead = append(dead, l.unlistPartLocked(r.seg)...)
		default:
			wake = true
		}
	}
	if gone > 0 {
		n := copy(part.refs, part.refs[gone:])
		clear(part.refs[n:])
		part.refs = part.refs[:n]
	}
	if wake {
		l.keep.wake()
	}
	return dead
}

// forgetRefLocked notes that r is no longer its partition's.
func (l *Log) forgetRefLocked(r *ref) {
	r.gone = true
	r.entries = nil
	l.mu.refs--
}

// unlistPartLocked takes a partition segment out, of which nothing is needed.
func (l *Log) unlistPartLocked(s *segment) (dead []*segment) {
	if _, ok := l.mu.parts[s]; !ok {
		return nil
	}
	delete(l.mu.parts, s)
	l.stats.PartitionSegments.Store(int64(len(l.mu.parts)))
	l.stats.PartitionBytes.Add(-s.size)
	l.wakeLimited()
	return []*segment{s}
}

// keepFromLocked is the position from which on the log is needed as it is: by a restart, or by a hold.
func (l *Log) keepFromLocked() Position {
	from := l.mu.replay
	for _, at := range l.mu.holds {
		if at.Before(from) {
			from = at
		}
	}
	for _, sc := range l.mu.scanners {
		if sc.held.Before(from) {
			from = sc.held
		}
	}
	return from
}

// recycleDead unlists the sealed segments of which nothing is needed, and hands them over to be recycled.
func (l *Log) recycleDead() {
	l.mu.Lock()
	from := l.keepFromLocked()
	var dead []*segment
	kept := l.mu.segments[:0]
	for _, s := range l.mu.segments {
		if s.sealed && s.indexed && s.number() < from.Segment && s.live == 0 {
			dead = append(dead, s)
			l.mu.walBytes -= s.size
			continue
		}
		kept = append(kept, s)
	}
	clear(l.mu.segments[len(kept):])
	l.mu.segments = kept
	l.stats.Segments.Store(int64(len(kept)))
	l.stats.LogBytes.Store(l.mu.walBytes)
	l.mu.Unlock()
	l.wakeLimited()
	l.keep.bury(dead)
	l.clean.wake()
}
