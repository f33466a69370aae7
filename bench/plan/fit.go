package plan

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// observed are the events of an observation as far as they were counted: shared ones from the server's counters, those that
// could not be counted from p.
func (p *Parameters) observed(o *Observation) Terms {
	v := p.events(&o.Load)
	if o.Counted {
		v[Read], v[Write], v[Flush] = o.Reads/o.Seconds, o.Writes/o.Seconds, o.Flushes/o.Seconds
		v.wake(o.Wakeups / o.Seconds)
		v.setCold()
	}
	return v
}

// weighed is an observation, and how much of its error counts.
type weighed struct {
	*Observation
	trust float64
}

// usable tells whether an observation's CPU time can be fitted.
func (o *Observation) usable() bool {
	return o.Doubt == "" && o.CPU >= cpuLeast && (o.Counted || o.Timetable)
}

// cpuLeast is the CPU time below which a rung says more of the kernel's clock than of the server.
const cpuLeast = 0.02

// errFew is what a fit says that has too little to go by.
var errFew = errors.New("too few results to fit a model: want at least 10 rungs with CPU time, from sluice plan measure or sluice bench ladder")

// fit finds the parameters that fit the observations best. like, if there is one, has what a replica does not fit anew.
func fit(list []weighed, like *Parameters) (*Parameters, error) {
	var cpu []weighed
	for _, o := range list {
		if o.usable() {
			cpu = append(cpu, o)
		}
	}
	if len(cpu) < 10 {
		return nil, errFew
	}
	p := &Parameters{}
	p.Fetches = fitFetches(cpu)
	p.fitSharing(cpu, like)
	p.fitCPU(cpu, like)
	p.fitBytes(cpu)
	p.fitMemory(list)
	return p, nil
}

// times are what ColdAfter is tried with, in seconds.
var times = []float64{1e-3, 3e-3, 6e-3, 12e-3, 25e-3, 50e-3}

// fitCPU fits what each event costs. like, if there is one, has the time, which else is looked for.
func (p *Parameters) fitCPU(list []weighed, like *Parameters) {
	if like != nil {
		p.ColdAfter = like.ColdAfter
		p.CPU, _ = p.tryCPU(list)
		return
	}
	best, least := 0.0, math.Inf(1)
	for _, p.ColdAfter = range times {
		if costs, off := p.tryCPU(list); off < least {
			best, least, p.CPU = p.ColdAfter, off, costs
		}
	}
	p.ColdAfter = best
}

// drivenTrust is how much of its error a rung counts that answers drive: it shows costs that no other does, at a rate that no
// fleet has.
const drivenTrust = 0.2

// tryCPU fits the costs, and says how far they are off.
func (p *Parameters) tryCPU(list []weighed) (costs Terms, off float64) {
	var eqs []equation
	for _, o := range list {
		trust := o.trust
		if !o.Timetable {
			trust *= drivenTrust
		}
		eqs = append(eqs, equation{terms: p.observed(o.Observation).costly(), value: o.CPU / o.Seconds * 1e6, trust: trust})
	}
	costs, logs := fitLogs(eqs)
	for i, x := range logs {
		off += eqs[i].trust * math.Abs(x)
	}
	return costs, off
}

// limits are what Max of a sharing is tried at: each some 12 % above the one before.
func limits(from, to float64) (list []float64) {
	for x := from; x <= to; x *= 1.12 {
		list = append(list, x)
	}
	return list
}

// around are limits near one.
func around(x float64) []float64 { return []float64{x / 1.5, x / 1.2, x, x * 1.2, x * 1.5} }

// fitFetches finds the most fetches a second of a consumer.
func fitFetches(list []weighed) float64 {
	best, least := 1000.0, math.Inf(1)
	for _, limit := range limits(50, 20000) {
		sum, n := 0.0, 0
		for _, o := range list {
			for _, k := range o.Load.Kafka {
				if o.Timetable && k.Consumers > 0 && k.Fetches > 0 {
					want := k.Fetches
					k.Fetches = 0
					sum += square(o.trust * math.Log(k.fetches(limit)/want))
					n++
				}
			}
		}
		if n > 0 && sum < least {
			best, least = limit, sum
		}
	}
	return best
}

func square(x float64) float64 { return x * x }

// sharingRow is one observation of turns and of what led to them.
type sharingRow struct {
	arrivals Terms
	turns    float64 // a second, of one loop or disk
	loops    float64
	trust    float64
}

// fitShare finds Max and Costs: for each Max tried, turns are turned back into arrivals, which are linear.
func fitShare(rows []sharingRow, tries []float64) (best Sharing) {
	least := math.Inf(1)
	for _, limit := range tries {
		var eqs []equation
		for _, r := range rows {
			a := unsaturate(r.turns, limit) * r.loops
			// A relative error of the turns is one of the arrivals, times how far they are from the limit.
			eqs = append(eqs, equation{r.arrivals, a, r.trust * max(1-r.turns/limit, 0.02)})
		}
		s := Sharing{Max: limit, Costs: fitLinear(eqs)}
		sum := 0.0
		for _, r := range rows {
			sum += r.trust * min(math.Abs(math.Log(max(s.turns(r), 1e-3)/r.turns)), 2)
		}
		if sum < least {
			best, least = s, sum
		}
	}
	return best
}

func (s *Sharing) turns(r sharingRow) float64 {
	return saturate(r.arrivals.cost(s.Costs)/r.loops, s.Max)
}

// fitSharing fits how wake-ups, flushes and system calls follow from loads, of rungs whose clients send by themselves.
func (p *Parameters) fitSharing(list []weighed, like *Parameters) {
	var wakes, flushes []sharingRow
	var reads, writes []equation
	for _, o := range list {
		if !o.Counted || !o.Timetable {
			continue
		}
		l := &o.Load
		v := p.observed(o.Observation)
		loops := max(l.Cores, 1)
		if v[Flush] > 2 {
			flushes = append(flushes, sharingRow{l.flushArrivals(), v[Flush], 1, o.trust})
		}
		if v.turns() > 0 {
			wakes = append(wakes, sharingRow{l.wakeArrivals(v[Flush], v[Fetch]), v.turns() / loops, loops, o.trust})
		}
		in, out := l.crowds(v[Fetch])
		if v[Read] > 0 {
			reads = append(reads, equation{terms: l.callTerms(in, in, v.turns()), value: v[Read], trust: o.trust})
		}
		if v[Write] > 0 {
			writes = append(writes, equation{terms: l.callTerms(out, in, v.turns()), value: v[Write], trust: o.trust})
		}
	}
	wakeLimits, flushLimits := limits(1000, 200_000), limits(100, 50_000)
	if like != nil {
		wakeLimits, flushLimits = around(like.Wake.Max), around(like.Flush.Max)
	}
	p.Wake, p.Flush = fitShare(wakes, wakeLimits), fitShare(flushes, flushLimits)
	p.Reads, p.Writes = fitLinear(reads), fitLinear(writes)
}

// fitBytes fits what goes to the disk and through the sockets.
func (p *Parameters) fitBytes(list []weighed) {
	var disk, in, out []equation
	add := func(to *[]equation, t Terms, bytes float64, o *weighed) {
		if per := bytes / o.Seconds; per > 1000 {
			*to = append(*to, equation{terms: t, value: per, trust: o.trust})
		}
	}
	for _, o := range list {
		if !o.Counted {
			continue
		}
		v := p.observed(o.Observation)
		add(&disk, diskTerms(v), o.Written, &o)
		add(&in, receivedTerms(&o.Load, v), o.Received, &o)
		add(&out, sentTerms(&o.Load, v), o.Sent, &o)
	}
	p.Disk, p.Received, p.Sent = fitLinear(disk), fitLinear(in), fitLinear(out)
}

// memoryLeast is what a gain of memory has to be to say anything: a quiet node's memory moves by as much by itself.
const memoryLeast = 256 << 10

// settled tells whether an observation's memory can be fitted.
func (o *Observation) settled() bool {
	return o.Settled && o.Doubt == "" && o.MemoryAfter-o.MemoryBefore >= memoryLeast
}

// fitMemory fits what a node holds, by how its memory has grown; the base is what it had before.
func (p *Parameters) fitMemory(list []weighed) {
	var eqs []equation
	var before []float64
	for _, o := range list {
		if !o.settled() {
			continue
		}
		t := o.Load.held()
		delete(t, heldBase)
		gain := o.MemoryAfter - o.MemoryBefore
		eqs = append(eqs, equation{terms: t, value: gain, trust: o.trust})
		before = append(before, o.MemoryBefore)
	}
	p.Memory = Terms{}
	if len(eqs) > 0 {
		p.Memory = fitLinear(eqs)
		slices.Sort(before)
		p.Memory[heldBase] = before[0] // later ones hold what rungs before them have left
	}
}

// sameMachine refuses to make one model of different machines.
func sameMachine(list []Observation) error {
	for i := range list {
		if a, b := &list[0].Machine, &list[i].Machine; a.CPU != b.CPU || a.Cores != b.Cores {
			return fmt.Errorf("results of different machines do not make one model: %v, and %v", a, b)
		}
	}
	return nil
}
