package offload

import (
	"cmp"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// duesMax bounds the partitions that one plan takes in: about 16 MiB. What is left is found by the next turn.
const duesMax = 1 << 16

// groupKey says what may lie in one object.
type groupKey struct {
	tenant record.TenantID
	shard  record.ShardID
	keep   int8 // of retention: times that differ by a factor of at most 4 are one
	class  string
	sparse bool // of compacted topics, which are written anew, one by one: others must not hold what that replaces
}

func keyOf(p *Partition) groupKey {
	keep := int8(math.MaxInt8)
	if p.RetentionMillis >= 0 {
		keep = int8(bits.Len64(uint64(p.RetentionMillis)) / 2)
	}
	return groupKey{tenant: p.Tenant, shard: p.Shard, class: p.Class, keep: keep, sparse: p.Compact}
}

// due is what may go of one partition.
type due struct {
	p      Partition
	from   record.Offset // what lies below is in the manifest, or needed by nobody
	until  record.Offset
	bytes  int64  // about
	oldest uint64 // number of the segment that it begins in
}

// group is what may go into one object, or several.
type group struct {
	key   groupKey
	dues  []due // oldest first
	bytes int64
	since time.Duration // since when something of it is due
}

func (g *group) oldest() uint64 {
	if len(g.dues) == 0 {
		return math.MaxUint64
	}
	return g.dues[0].oldest
}

// plan is what a turn does.
type plan struct {
	f      *Offloader
	groups []*group
	all    bool // however little it is

	goesOn   bool       // the partition of the pass under way is there
	dirtiest *Partition // that needs a pass; nil: none does
	share    float64    // of it that is dirty
}

// tieredEnd is where what goes of p next begins.
func (f *Offloader) tieredEnd(p *Partition) record.Offset {
	if _, end, ok := f.o.Manifest.Bounds(p.Partition); ok {
		return max(end, p.LogStart)
	}
	return p.LogStart
}

// plan looks at all partitions: what is due is noted, and local copies that nobody needs are let go.
func (f *Offloader) plan(flush bool) *plan {
	pressed := f.o.Pressed != nil && f.o.Pressed()
	p := &plan{f: f, all: flush || pressed}
	groups := make(map[groupKey]*group)
	dues := 0
	now := f.clk.Mono()
	over := func(_ record.PartitionID, until time.Duration) bool { return now >= until }
	maps.DeleteFunc(f.bad, over)
	maps.DeleteFunc(f.unclean, over)
	f.o.Catalog.Partitions(func(part Partition) bool {
		// After a restart the manifest has to be told; and nothing is lost by telling it once more.
		f.o.Manifest.SetLogStart(part.Partition, part.LogStart)
		f.release(&part, pressed)
		p.pick(&part)
		d, ok := f.dueOf(&part, pressed)
		if !ok {
			return true
		}
		if dues++; dues > duesMax {
			f.more = true
			return false
		}
		g := groups[keyOf(&part)]
		if g == nil {
			g = &group{key: keyOf(&part)}
			groups[g.key] = g
			p.groups = append(p.groups, g)
		}
		g.bytes += d.bytes
		g.dues = append(g.dues, d)
		return true
	})
	for _, g := range p.groups {
		slices.SortFunc(g.dues, func(a, b due) int {
			return cmp.Or(cmp.Compare(a.oldest, b.oldest), cmp.Compare(a.p.Partition, b.p.Partition))
		})
	}
	f.age(p, now)
	return p
}

// dueOf tells what may go of a partition.
func (f *Offloader) dueOf(p *Partition, pressed bool) (d due, ok bool) {
	if p.Policy == None {
		return d, false
	}
	if _, bad := f.bad[p.Partition]; bad {
		return d, false
	}
	d = due{p: *p, from: f.tieredEnd(p), until: p.LastStable}
	if p.Policy == Archive && !pressed {
		d.until = min(d.until, f.excess(p))
	}
	if d.from >= d.until {
		return d, false
	}
	d.bytes, d.oldest = f.o.Log.Ready(p.Partition, d.from, d.until)
	return d, d.bytes > 0
}

// excess is the offset below which local retention takes everything.
func (f *Offloader) excess(p *Partition) record.Offset {
	before, bytes := int64(math.MinInt64), int64(math.MaxInt64)
	if p.LocalMillis >= 0 {
		before = f.clk.Now().UnixMilli() - p.LocalMillis
	}
	if p.LocalBytes >= 0 {
		bytes = p.LocalBytes
	}
	return f.o.Log.Excess(p.Partition, before, bytes)
}

// release lets go of the local copies that the manifest has and local retention takes. The manifest knows only what is committed.
func (f *Offloader) release(p *Partition, pressed bool) {
	start, end, ok := f.o.Manifest.Bounds(p.Partition)
	if !ok || p.Policy == None && !p.Compact {
		return
	}
	local := max(f.o.Log.LocalStart(p.Partition), p.LogStart)
	if end <= local || start > local {
		return // nothing of it lies here; or something lies here that is nowhere else
	}
	if !pressed || p.Policy == None {
		end = min(end, f.goes(p))
	}
	if end > local {
		f.o.Log.SetLocalStart(p.Partition, end)
		f.stats.Releases.Add(1)
	}
}

// goes is the offset below which local copies are let go: what local retention takes, and what passes have seen, whatever that says. A deletion that such a pass has
// left out must not be missing where an older copy is read.
func (f *Offloader) goes(p *Partition) record.Offset {
	end := record.Offset(0)
	if p.Policy != None {
		end = f.excess(p)
	}
	if clean, ok := f.o.Manifest.CleanEnd(p.Partition); ok && p.Compact {
		end = max(end, clean)
	}
	return end
}

// age notes since when each group has something due, and forgets groups that have nothing.
func (f *Offloader) age(p *plan, now time.Duration) {
	since := make(map[groupKey]time.Duration, len(p.groups))
	oldest, bytes, parts := now, int64(0), 0
	for _, g := range p.groups {
		g.since = now
		if t, ok := f.since[g.key]; ok {
			g.since = t
		}
		since[g.key] = g.since
		oldest, bytes, parts = min(oldest, g.since), bytes+g.bytes, parts+len(g.dues)
	}
	f.since = since
	f.waiting(bytes, parts, oldest)
}

// ripe tells whether a group's next object is to be made.
func (p *plan) ripe(g *group) bool {
	if len(g.dues) == 0 {
		return false
	}
	return p.all || g.bytes >= p.f.o.MinObjectBytes || p.f.clk.Mono()-g.since >= p.f.o.MaxLag
}

// next is the group whose object is made next: that with the oldest records, so that the log can be cut soonest. nil: that was all.
func (p *plan) next() *group {
	var best *group
	for _, g := range p.groups {
		if p.ripe(g) && (best == nil || g.oldest() < best.oldest()) {
			best = g
		}
	}
	return best
}

// took notes that of a due everything below from has gone, and that it is done if that is all there is.
func (p *plan) took(g *group, i int, from record.Offset, done bool) {
	d := &g.dues[i]
	g.bytes -= d.bytes
	d.from, d.bytes = from, 0
	if !done && d.from < d.until {
		d.bytes, d.oldest = p.f.o.Log.Ready(d.p.Partition, d.from, d.until)
	}
	g.bytes += d.bytes
}

// tidy takes out what is done, and puts what is left in order.
func (g *group) tidy() {
	g.dues = slices.DeleteFunc(g.dues, func(d due) bool { return d.bytes <= 0 })
	slices.SortStableFunc(g.dues, func(a, b due) int { return cmp.Compare(a.oldest, b.oldest) })
}
