package journal

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
	"sort"

	"github.com/sluicemq/sluice/internal/invariant"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

const (
	indexMagic      = "SLUICEIX"
	indexFormat     = 2
	indexHeaderSize = 40
	indexDirSize    = 56
	entrySize       = 32

	// spanNear is how far frames of one partition may lie apart to share an entry, spanMax how far if at least half of what lies there is
	// the partition's.
	spanNear = 4 << 10
	spanMax  = 32 << 10

	dirCompacted = 1 // flag of a directory's entry

	// noTime is the time of frames whose records have none: control batches.
	noTime = math.MinInt64
)

// entry stands for one or some neighbouring frames of one partition.
type entry struct {
	base      record.Offset
	lastDelta uint32
	pos       uint32
	span      uint32
	before    uint32 // bytes of the partition's frames in this file before it
	time      int64  // the latest maximum timestamp of its batches, control batches aside
}

// last is the last offset that the entry stands for.
func (e *entry) last() record.Offset { return e.base + record.Offset(e.lastDelta) }

// entries are encoded: they hold no pointer, and are what an index file holds.
type entries []byte

func (es entries) len() int { return len(es) / entrySize }

func (es entries) at(i int) entry {
	le, b := binary.LittleEndian, es[i*entrySize:]
	return entry{
		base: record.Offset(le.Uint64(b)), lastDelta: le.Uint32(b[8:]), pos: le.Uint32(b[12:]), span: le.Uint32(b[16:]), before: le.Uint32(b[20:]),
		time: int64(le.Uint64(b[24:])),
	}
}

func (es entries) put(i int, e entry) {
	le, b := binary.LittleEndian, es[i*entrySize:]
	le.PutUint64(b, uint64(e.base))
	le.PutUint32(b[8:], e.lastDelta)
	le.PutUint32(b[12:], e.pos)
	le.PutUint32(b[16:], e.span)
	le.PutUint32(b[20:], e.before)
	le.PutUint64(b[24:], uint64(e.time))
}

func (es entries) append(e entry) entries {
	var b [entrySize]byte
	es = append(es, b[:]...)
	es.put(es.len()-1, e)
	return es
}

// search finds the first entry that ends at or behind o.
func (es entries) search(o record.Offset) int {
	return sort.Search(es.len(), func(i int) bool { e := es.at(i); return e.last() >= o })
}

// ref is what one segment holds of one partition. Guarded by Log.mu.
type ref struct {
	seg         *segment
	part        *partition
	entries     entries
	first, last record.Offset // in a partition segment: what it was written in place of
	bytes, dead int64
	time        int64 // the latest of its entries
	tenant      record.TenantID
	gone        bool // no longer the partition's
	compacted   bool // compaction has written it
}

// begin is the first offset that r has at or behind o, or has in its place what compaction has left.
func (r *ref) begin(o record.Offset) record.Offset {
	if k := r.entries.search(o); !r.compacted && k < r.entries.len() {
		e := r.entries.at(k) // what r was written in place of may begin before what was alive of it
		return max(e.base, o)
	}
	return max(r.first, o)
}

// deadBefore is how many bytes of r's frames nobody needs when nobody needs offsets below o.
func (r *ref) deadBefore(o record.Offset) int64 {
	if r.last < o {
		return r.bytes
	}
	k := r.entries.search(o)
	if k == r.entries.len() {
		return r.bytes // what follows is a gap
	}
	e := r.entries.at(k)
	return int64(e.before)
}

// partition is the index of one partition. Guarded by Log.mu.
type partition struct {
	id         record.PartitionID
	start, end record.Offset // log start; one behind the last record
	local      record.Offset // what SetLocalStart has said: below it the frames are dead, the records are not
	refs       []*ref        // by offset
	savedEnd   record.Offset // in its checkpoint row
	dropped    bool
	droppedIn  uint64 // the segment that was active then: no later one has frames of it
}

// floor is the offset below which nobody needs the frames that lie here.
func (p *partition) floor() record.Offset { return max(p.start, p.local) }

// shardMark is where a shard's frames lie. Guarded by Log.mu.
type shardMark struct {
	seen        bool
	first, last Position // of the frames since the log was opened
	index       uint64   // of the last of them
	from        uint64   // index of the first of them that is no truncation; 0: none yet
	saved       bool
	at          Position // its checkpoint's
}

// indexer adds the frames of groups to the index; it remembers what the frame before needed.
type indexer struct {
	l    *Log
	part *partition

	barrier int64 // of the group at hand: what lies behind is not entered together with what lies before

	// collect is set while the lost index of an old segment is rebuilt: its records belong before what is indexed already.
	collect map[record.PartitionID]*indexDir
}

// addLocked indexes the frames of one group that lies in s at pos (its header). It leaves alone what s's index knows already.
func (ix *indexer) addLocked(s *segment, pos int64, frames []byte, withRecords bool) (count int) {
	at := pos + groupHeaderSize
	ix.barrier = pos
	for len(frames) >= record.FrameHeaderSize {
		f, n, err := record.ViewFrame(frames)
		invariant.Check(err == nil, "a frame in a group")
		if err != nil {
			return count
		}
		if f.Kind != record.KindWatermark { // a restart does not need those
			ix.markShardLocked(&f, Position{Segment: s.number(), Offset: at})
		}
		switch {
		case f.Kind == record.KindRecords && withRecords:
			ix.addRecordsLocked(s, ix.barrier, at, &f, n)
		case f.Kind == record.KindTruncate:
			ix.barrier = at
			ix.truncateLocked(s, at, &f)
		}
		at += int64(n)
		frames = frames[n:]
		count++
	}
	return count
}

func (ix *indexer) markShardLocked(f *record.Frame, p Position) {
	m, id := &ix.l.mu, f.Shard
	if int(id) >= len(m.shards) {
		m.shards = slices.Grow(m.shards, int(id)+1-len(m.shards))[:int(id)+1]
	}
	sh := &m.shards[id]
	if !sh.seen {
		sh.seen, sh.first = true, p
	}
	if sh.from == 0 && f.Kind != record.KindTruncate {
		sh.from = f.Index
	}
	sh.last, sh.index = p, f.Index
}

func (ix *indexer) addRecordsLocked(s *segment, group, at int64, f *record.Frame, n int) {
	b := record.Batch(record.FrameBatch(f.Payload))
	if len(b) < record.BatchHeaderSize {
		invariant.Check(false, "a frame of records has no batch")
		return
	}
	if ix.part == nil || ix.part.id != f.Partition {
		ix.part = ix.l.partitionLocked(f.Partition)
	}
	p := ix.part
	base, last := b.BaseOffset(), b.LastOffset()
	e := entry{base: base, lastDelta: uint32(last - base), pos: uint32(at), span: uint32(n), time: timeOf(b)}
	if ix.collect != nil {
		ix.collectRecords(f, e, group)
		return
	}
	if p.dropped || base < p.end && len(p.refs) > 0 && base <= p.refs[len(p.refs)-1].last {
		// Behind a drop come frames that were gathered before it. Offsets never go back otherwise.
		invariant.Check(p.dropped, "offsets of a partition went back")
		return
	}
	r := (*ref)(nil)
	if k := len(p.refs); k > 0 && p.refs[k-1].seg == s {
		r = p.refs[k-1]
	} else {
		r = &ref{seg: s, part: p, tenant: f.Tenant, first: base, time: noTime}
		p.refs = append(p.refs, r)
		s.refs = append(s.refs, r)
		ix.l.mu.refs++
	}
	e.before = uint32(r.bytes)
	r.add(e, group)
	r.last = last
	r.bytes += int64(n)
	s.total += int64(n)
	if last < p.floor() {
		r.dead += int64(n)
	} else {
		s.live += int64(n)
	}
	p.end = max(p.end, last+1)
}

func (ix *indexer) collectRecords(f *record.Frame, e entry, group int64) {
	d := ix.collect[f.Partition]
	if d == nil {
		d = &indexDir{partition: f.Partition, tenant: f.Tenant, first: e.base, time: noTime}
		ix.collect[f.Partition] = d
	}
	e.before = uint32(d.bytes)
	r := ref{entries: d.entries, time: d.time}
	r.add(e, group)
	d.entries, d.last, d.bytes, d.time = r.entries, e.last(), d.bytes+int64(e.span), r.time
}

// timeOf is the time that an entry gives a batch.
func timeOf(b record.Batch) int64 {
	if b.Attributes()&record.Control != 0 {
		return noTime
	}
	return b.MaxTimestamp()
}

// add appends e, or lets the last entry stand for it too if both lie close together in the group at this position.
func (r *ref) add(e entry, group int64) {
	r.time = max(r.time, e.time)
	if k := r.entries.len(); k > 0 {
		prev := r.entries.at(k - 1)
		span, own := e.pos+e.span-prev.pos, e.before-prev.before+e.span
		if int64(prev.pos) >= group && (span <= spanNear || span <= spanMax && own >= span/2) {
			prev.lastDelta = uint32(e.last() - prev.base)
			prev.span, prev.time = span, max(prev.time, e.time)
			r.entries.put(k-1, prev)
			return
		}
	}
	r.entries = r.entries.append(e)
}

func (l *Log) partitionLocked(id record.PartitionID) *partition {
	p := l.mu.partitions[id]
	if p == nil {
		p = &partition{id: id}
		l.mu.partitions[id] = p
	}
	return p
}

// writeIndex writes the index file of a sealed segment.
func (l *Log) writeIndex(s *segment) error {
	b := l.encodeIndex(s)
	path := l.walPath(indexName(s.number()))
	if err := vfs.WriteFile(l.fs, path, b); err != nil {
		return err
	}
	return l.fs.SyncDir(l.o.Dir + "/wal")
}

func (l *Log) encodeIndex(s *segment) []byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	refs := make([]*ref, 0, len(s.refs))
	for _, r := range s.refs {
		if !r.gone {
			refs = append(refs, r)
		}
	}
	sortRefs(refs)
	out := make([]byte, indexHeaderSize)
	copy(out, indexMagic)
	out, count := appendDirs(out, refs)
	le := binary.LittleEndian
	le.PutUint16(out[8:], indexFormat)
	le.PutUint64(out[16:], s.number())
	le.PutUint64(out[24:], uint64(s.end))
	le.PutUint32(out[32:], uint32(len(refs)))
	le.PutUint32(out[36:], uint32(count))
	le.PutUint32(out[12:], crc32.Checksum(out, castagnoli))
	return out
}

// sortRefs brings refs into the order of an index: by partition and offset.
func sortRefs(refs []*ref) {
	slices.SortFunc(refs, func(a, b *ref) int {
		return cmp.Or(cmp.Compare(a.part.id, b.part.id), cmp.Compare(a.first, b.first))
	})
}

// appendDirs appends the directory of refs, which are sorted, and their entries, and counts those.
func appendDirs(out []byte, refs []*ref) (_ []byte, count int) {
	for _, r := range refs {
		count += r.entries.len()
	}
	out = slices.Grow(out, len(refs)*indexDirSize+count*entrySize)
	le := binary.LittleEndian
	first := uint32(0)
	for _, r := range refs {
		out = le.AppendUint64(out, uint64(r.part.id))
		out = le.AppendUint64(out, uint64(r.first))
		out = le.AppendUint64(out, uint64(r.last))
		out = le.AppendUint64(out, uint64(r.bytes))
		out = le.AppendUint32(out, first)
		out = le.AppendUint32(out, uint32(r.entries.len()))
		out = le.AppendUint32(out, uint32(r.tenant))
		flags := uint32(0)
		if r.compacted {
			flags = dirCompacted
		}
		out = le.AppendUint32(out, flags)
		out = le.AppendUint64(out, uint64(r.time))
		first += uint32(r.entries.len())
	}
	for _, r := range refs {
		out = append(out, r.entries...)
	}
	return out, count
}

// indexDir is one partition in an index file.
type indexDir struct {
	partition   record.PartitionID
	tenant      record.TenantID
	first, last record.Offset
	bytes       int64
	time        int64
	compacted   bool
	entries     entries
}

// parseIndex reads an index file. ok is false if anything in it does not fit: it is rebuilt then.
func parseIndex(b []byte) (segment uint64, end int64, dirs []indexDir, ok bool) {
	le := binary.LittleEndian
	if len(b) < indexHeaderSize || string(b[:8]) != indexMagic || le.Uint16(b[8:]) != indexFormat {
		return 0, 0, nil, false
	}
	var zero [4]byte
	crc := crc32.Update(0, castagnoli, b[:12])
	crc = crc32.Update(crc, castagnoli, zero[:])
	if crc32.Update(crc, castagnoli, b[16:]) != le.Uint32(b[12:]) {
		return 0, 0, nil, false
	}
	dirs, ok = parseDirs(b[indexHeaderSize:], int64(le.Uint32(b[32:])), int64(le.Uint32(b[36:])))
	return le.Uint64(b[16:]), int64(le.Uint64(b[24:])), dirs, ok
}

// parseDirs reads a directory of so many parts and their entries.
func parseDirs(b []byte, parts, count int64) (dirs []indexDir, ok bool) {
	if int64(len(b)) != parts*indexDirSize+count*entrySize {
		return nil, false
	}
	le := binary.LittleEndian
	all := entries(b[parts*indexDirSize:])
	dirs = make([]indexDir, parts)
	for i := range dirs {
		d := b[i*indexDirSize:]
		first, n := int64(le.Uint32(d[32:])), int64(le.Uint32(d[36:]))
		if first+n > count || n == 0 {
			return nil, false
		}
		dirs[i] = indexDir{
			partition: record.PartitionID(le.Uint64(d)), first: record.Offset(le.Uint64(d[8:])), last: record.Offset(le.Uint64(d[16:])),
			bytes: int64(le.Uint64(d[24:])), tenant: record.TenantID(le.Uint32(d[40:])), time: int64(le.Uint64(d[48:])),
			compacted: le.Uint32(d[44:])&dirCompacted != 0,
			entries:   all[first*entrySize : (first+n)*entrySize : (first+n)*entrySize],
		}
	}
	return dirs, true
}

// adoptLocked enters what an index file says about a segment.
func (l *Log) adoptLocked(s *segment, dirs []indexDir) {
	for _, d := range dirs {
		if l.cutDirLocked(s, &d); len(d.entries) == 0 {
			continue
		}
		p := l.partitionLocked(d.partition)
		r := &ref{seg: s, part: p, tenant: d.tenant, entries: d.entries, first: d.first, last: d.last, bytes: d.bytes, time: d.time, compacted: d.compacted}
		s.total += r.bytes
		if !p.insert(r) {
			continue
		}
		s.refs = append(s.refs, r)
		l.mu.refs++
		r.dead = r.deadBefore(p.floor())
		s.live += r.bytes - r.dead
		p.end = max(p.end, r.last+1)
	}
}

// insert puts r in its place. It answers false when another ref holds those offsets already: a partition segment, written before a
// crash that kept the log segment it was rewritten from. That one's frames are dead.
func (p *partition) insert(r *ref) bool {
	if p.dropped || r.last < p.floor() {
		return false
	}
	i := sort.Search(len(p.refs), func(i int) bool { return p.refs[i].last >= r.first })
	if i < len(p.refs) && p.refs[i].first <= r.last {
		return false
	}
	p.refs = slices.Insert(p.refs, i, r)
	return true
}
