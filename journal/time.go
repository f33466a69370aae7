package journal

import "github.com/sluicemq/sluice/journal/record"

// SeekTime answers where the first entry of p that lies here begins that has a batch with a maximum timestamp at or above at, in milliseconds of Unix time.
// found false: there is none. Control batches do not count. It reads the index alone.
func (l *Log) SeekTime(p record.PartitionID, at int64) (from record.Offset, found bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	part := l.mu.partitions[p]
	if part == nil {
		return 0, false
	}
	floor := part.floor()
	for _, r := range part.refs {
		if r.time < at {
			continue
		}
		for k := r.entries.search(floor); k < r.entries.len(); k++ {
			if e := r.entries.at(k); e.time >= at && e.time != noTime {
				return max(e.base, floor), true
			}
		}
	}
	return 0, false
}

// MaxTime is the highest maximum timestamp of p's batches, as far as the index knows: of those, too, that share an entry with the log start.
func (l *Log) MaxTime(p record.PartitionID) (time int64, found bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	part := l.mu.partitions[p]
	if part == nil {
		return 0, false
	}
	time = noTime
	for i, r := range part.refs {
		if i > 0 || r.first >= part.floor() {
			time = max(time, r.time)
			continue
		}
		for k := r.entries.search(part.floor()); k < r.entries.len(); k++ {
			e := r.entries.at(k)
			time = max(time, e.time)
		}
	}
	return time, time != noTime
}

// Excess is the offset before which all entries of p are older than before, in milliseconds of Unix time, or lie behind the newest bytes of
// frames: what retention by time and size lets go of. Only what lies here counts. It is the log start if that is nothing, or the local start where that is higher.
func (l *Log) Excess(p record.PartitionID, before, bytes int64) record.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	part := l.mu.partitions[p]
	if part == nil {
		return 0
	}
	surplus := -bytes
	for _, r := range part.refs {
		surplus += r.bytes - r.dead
	}
	start := part.floor()
	for _, r := range part.refs {
		if r.last < start {
			continue
		}
		if r.time < before || r.bytes-r.dead <= surplus {
			start = r.last + 1
			surplus -= r.bytes - r.dead
			continue
		}
		for k := r.entries.search(start); k < r.entries.len(); k++ {
			e := r.entries.at(k)
			size := int64(r.after(k) - e.before)
			if e.time >= before && size > surplus {
				return max(start, min(e.base, part.end))
			}
			start, surplus = e.last()+1, surplus-size
		}
	}
	return min(start, part.end)
}

// after is how many bytes of the partition's frames in the file come before the entry behind k.
func (r *ref) after(k int) uint32 {
	if k+1 < r.entries.len() {
		e := r.entries.at(k + 1)
		return e.before
	}
	return uint32(r.bytes)
}
