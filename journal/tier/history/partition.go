package history

import (
	"math"
	"slices"
	"sort"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// partition has the live runs of one. Guarded by Manifest.mu.
//
// An upload that was repeated gives runs that overlap. Those that lie wholly within another are put aside; of the others, the chain, both first and last
// offsets grow strictly, so that one binary search finds what has an offset, or is the first behind it.
type partition struct {
	chain []*run
	aside []*run
	bytes int64 // of the chain; see share
}

func (p *partition) empty() bool { return len(p.chain) == 0 && len(p.aside) == 0 }

// at is the number of the first run of the chain that ends at or behind o.
func (p *partition) at(o record.Offset) int {
	return sort.Search(len(p.chain), func(i int) bool { return p.chain[i].last >= o })
}

// share is the part of a run's bytes that the run before it in the chain does not have, taken as if all offsets had the same.
func (p *partition) share(i int) int64 {
	r := p.chain[i]
	if i == 0 || p.chain[i-1].last < r.first {
		return r.bytes
	}
	return portion(r.bytes, r.last-p.chain[i-1].last, r.last-r.first+1)
}

func portion(bytes int64, part, whole record.Offset) int64 {
	return int64(float64(bytes) * (float64(part) / float64(whole)))
}

// end is the offset behind all.
func (p *partition) end() record.Offset { return p.chain[len(p.chain)-1].last + 1 }

func (p *partition) insert(r *run) {
	i := p.at(r.last)
	if i < len(p.chain) && p.chain[i].first <= r.first {
		p.aside = append(p.aside, r)
		return
	}
	// What lies within r follows each other.
	from := sort.Search(len(p.chain), func(i int) bool { return p.chain[i].first >= r.first })
	to := from
	for to < len(p.chain) && p.chain[to].last <= r.last {
		p.aside = append(p.aside, p.chain[to])
		to++
	}
	p.count(from, to+1, -1)
	if to > from {
		p.chain[from] = r
		p.chain = slices.Delete(p.chain, from+1, to)
	} else {
		p.chain = slices.Insert(p.chain, from, r)
	}
	p.count(from, from+2, 1)
}

// count adds the shares of runs, or takes them away.
func (p *partition) count(from, to int, sign int64) {
	for i := from; i < min(to, len(p.chain)); i++ {
		p.bytes += sign * p.share(i)
	}
}

// remove takes a live run out. What it had put aside comes back.
func (p *partition) remove(r *run) {
	if i := slices.Index(p.aside, r); i >= 0 {
		p.aside = slices.Delete(p.aside, i, i+1)
		return
	}
	i := p.at(r.last)
	p.count(i, i+2, -1)
	p.chain = slices.Delete(p.chain, i, i+1)
	p.count(i, i+1, 1)
	aside := p.aside
	p.aside = nil
	for _, a := range aside {
		p.insert(a)
	}
}

// trim takes the runs out that end below o, and calls lost for each.
func (p *partition) trim(o record.Offset, lost func(*run)) {
	n := p.at(o)
	for _, r := range p.chain[:n] {
		lost(r)
	}
	p.count(0, n+1, -1)
	p.chain = slices.Delete(p.chain, 0, n)
	p.count(0, 1, 1)
	// What is put aside ends no later than what it lies in: nothing comes back.
	p.aside = slices.DeleteFunc(p.aside, func(r *run) bool {
		if r.last >= o {
			return false
		}
		lost(r)
		return true
	})
}

func (p *partition) all(lost func(*run)) {
	for _, r := range p.chain {
		lost(r)
	}
	for _, r := range p.aside {
		lost(r)
	}
}

// Covers tells whether the tier answers for offset o of p: it lies at or above the log start and the first offset there, and not behind the last. A
// gap in what was offloaded is covered: nobody has those offsets.
func (m *Manifest) Covers(p record.PartitionID, o record.Offset) bool {
	start, end, ok := m.Bounds(p)
	return ok && o >= start && o < end
}

// Bounds are the first offset of p that is tiered, at or above the log start, and the one behind the last. ok false: there is none.
func (m *Manifest) Bounds(p record.PartitionID) (start, end record.Offset, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return 0, 0, false
	}
	return max(part.chain[0].first, m.mu.starts[p]), part.end(), true
}

// LogStart is what SetLogStart has said of p.
func (m *Manifest) LogStart(p record.PartitionID) record.Offset {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.starts[p]
}

// Size is how many bytes of batches of p are tiered, from its log start on. The run that the log start lies in is counted whole, what two objects
// have once.
func (m *Manifest) Size(p record.PartitionID) int64 { return m.SizeBelow(p, math.MaxInt64) }

// SizeBelow is Size without what lies at or above local: of a run that local lies in, the part below, as if all offsets had the same bytes.
func (m *Manifest) SizeBelow(p record.PartitionID, local record.Offset) int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return 0
	}
	return part.sizeBelow(local)
}

func (p *partition) sizeBelow(local record.Offset) int64 {
	bytes := p.bytes
	for i := len(p.chain) - 1; i >= 0 && p.chain[i].last >= local; i-- {
		bytes -= p.share(i) - p.shareBelow(i, local)
	}
	return bytes
}

// shareBelow is the part of share that lies below local.
func (p *partition) shareBelow(i int, local record.Offset) int64 {
	r := p.chain[i]
	from := r.first
	if i > 0 {
		from = max(from, p.chain[i-1].last+1)
	}
	if local <= from {
		return 0
	}
	if local > r.last {
		return p.share(i)
	}
	return portion(r.bytes, local-from, r.last-r.first+1)
}

// Excess is the offset below which all of p that is tiered is older than before, in milliseconds of Unix time, or behind the newest bytes: what retention takes
// in whole runs. It is the log start if that is nothing.
func (m *Manifest) Excess(p record.PartitionID, before, bytes int64) record.Offset {
	return m.ExcessBelow(p, math.MaxInt64, before, bytes)
}

// ExcessBelow is Excess of what lies below local, where the local log goes on: bytes is what may stay below it. The answer is never above local.
func (m *Manifest) ExcessBelow(p record.PartitionID, local record.Offset, before, bytes int64) record.Offset {
	m.mu.RLock()
	defer m.mu.RUnlock()
	start := m.mu.starts[p]
	part := m.mu.parts[p]
	if part == nil {
		return start
	}
	surplus := part.sizeBelow(local) - bytes
	for i, r := range part.chain {
		if r.first >= local {
			break
		}
		size := part.shareBelow(i, local)
		if r.maxTime >= before && size > surplus {
			break
		}
		start, surplus = max(start, min(r.last+1, local)), surplus-size
	}
	return start
}

// MaxTime is the highest timestamp of p's runs, in milliseconds of Unix time. found false: none has one.
func (m *Manifest) MaxTime(p record.PartitionID) (time int64, found bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	time = object.NoTime
	if part := m.mu.parts[p]; part != nil {
		for _, r := range part.chain {
			time = max(time, r.maxTime)
		}
	}
	return time, time != object.NoTime
}

// place is a run, and where it lies.
type place struct {
	Run
	id         object.ID
	size, tail int64
}

// find gives the run that has offset o of p, or the first one behind it.
func (m *Manifest) find(p record.PartitionID, o record.Offset) (place, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return place{}, false
	}
	i := part.at(max(o, m.mu.starts[p]))
	if i == len(part.chain) {
		return place{}, false
	}
	return part.chain[i].place(), true
}

// findTime gives the first run from offset o on that has a timestamp at or above at.
func (m *Manifest) findTime(p record.PartitionID, o record.Offset, at int64) (place, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := m.mu.parts[p]
	if part == nil {
		return place{}, false
	}
	for _, r := range part.chain[part.at(max(o, m.mu.starts[p])):] {
		if r.maxTime >= at && r.maxTime != object.NoTime {
			return r.place(), true
		}
	}
	return place{}, false
}

func (r *run) place() place {
	return place{Run: r.export(), id: r.obj.id, size: r.obj.size, tail: r.obj.tail}
}
