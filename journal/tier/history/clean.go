package history

import (
	"slices"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Dirt is what passes of compaction have to do in what lies in the tier of a partition.
type Dirt struct {
	First        record.Offset // of the first run, which may lie below the log start
	Clean        record.Offset // behind the last run that passes have seen without a gap from the first one on; First if there is none
	End          record.Offset // behind the last run
	CleanBytes   int64         // of batches in runs that passes have seen
	DirtyBytes   int64         // and in the others
	DirtyMaxTime int64         // the latest timestamp in the first run that no pass has seen; object.NoTime
}

// Dirt tells what passes have to do; ok false: nothing of p lies in the tier.
func (m *Manifest) Dirt(p record.PartitionID) (d Dirt, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return d, false
	}
	d = Dirt{First: part.chain[0].first, Clean: part.chain[0].first, End: part.end(), DirtyMaxTime: object.NoTime}
	for i, r := range part.chain {
		switch {
		case d.DirtyBytes == 0 && r.clean():
			d.Clean, d.CleanBytes = r.last+1, d.CleanBytes+part.share(i)
			continue
		case d.DirtyBytes == 0:
			d.DirtyMaxTime = r.maxTime
		}
		d.DirtyBytes += max(part.share(i), 1)
	}
	return d, true
}

func (r *run) clean() bool { return object.RunFlags(r.flags).Has(object.Clean) }

// CleanEnd is Dirt's Clean: below it the tier has what passes have left, and nobody needs another copy. ok false: no pass has seen anything.
func (m *Manifest) CleanEnd(p record.PartitionID) (end record.Offset, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return 0, false
	}
	for _, r := range part.chain {
		if !r.clean() {
			break
		}
		end, ok = r.last+1, true
	}
	return end, ok
}

// Placed is a run and the object that it lies in.
type Placed struct {
	Run
	ID         object.ID
	Size, Tail int64 // of the object
}

// Check compares an object's tail with what the manifest says of the run. object.ErrCorrupt.
func (p *Placed) Check(s *object.Summary) error {
	w := place{Run: p.Run, id: p.ID, size: p.Size, tail: p.Tail}
	return w.check(s)
}

// Runs gives runs of p that end at or behind an offset, in the order of their offsets, at most n. A run that lies within another one is left out.
func (m *Manifest) Runs(p record.PartitionID, from record.Offset, n int) []Placed {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return nil
	}
	chain := part.chain[part.at(from):]
	out := make([]Placed, 0, min(n, len(chain)))
	for _, r := range chain[:min(n, len(chain))] {
		out = append(out, Placed{Run: r.export(), ID: r.obj.id, Size: r.obj.size, Tail: r.obj.tail})
	}
	return out
}

// Within gives the objects that have a run of p between two offsets, both included, each once, in the order of IDs.
func (m *Manifest) Within(p record.PartitionID, first, last record.Offset) []*Object {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return nil
	}
	var found []*entry
	for _, list := range [][]*run{part.chain, part.aside} {
		for _, r := range list {
			if r.first >= first && r.last <= last {
				found = append(found, r.obj)
			}
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return compareIDs(a.id, b.id) })
	found = slices.Compact(found)
	out := make([]*Object, len(found))
	for i, e := range found {
		out[i] = e.export()
	}
	return out
}

// Whole tells whether readers see all that an object has: each of its runs stands in its row, and is live.
func (m *Manifest) Whole(id object.ID) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.mu.objects[id]
	if e == nil || e.live < len(e.runs) {
		return false
	}
	bytes := int64(object.HeaderSize)
	for i := range e.runs {
		bytes += e.runs[i].bytes
	}
	return bytes == e.size-e.tail
}

// Live tells whether readers see a run, by its number in its object.
func (m *Manifest) Live(id object.ID, index int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.mu.objects[id]
	return e != nil && slices.ContainsFunc(e.runs, func(r run) bool { return r.live && int(r.index) == index })
}

// Replaced tells whether what an object has of p between two offsets, both included, counts for nobody who finds it in the store: live runs of newer
// objects take its place.
func (m *Manifest) Replaced(p record.PartitionID, id object.ID, first, last record.Offset) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return false
	}
	for _, r := range part.chain {
		flags := object.RunFlags(r.flags)
		if !flags.Has(object.Replaces) || !r.obj.id.After(id) || r.first > first && !flags.Has(object.Begins) {
			continue
		}
		if first = max(first, r.last+1); first > last {
			return true
		}
	}
	return false
}
