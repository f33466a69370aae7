package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Answer is what a fleet needs.
type Answer struct {
	Fleet     string `json:"fleet"`
	Model     string `json:"model"` // where the figures come from
	Nodes     int    `json:"nodes"`
	Low       int    `json:"nodes_low"` // of the 90 % interval
	High      int    `json:"nodes_high"`
	Surviving int    `json:"nodes_surviving"` // with what is to survive failures
	Survive   int    `json:"survive"`
	Binds     string `json:"binds"` // the resource that decides

	Price     float64 `json:"price,omitempty"` // of all nodes that survive
	PriceLow  float64 `json:"price_low,omitempty"`
	PriceHigh float64 `json:"price_high,omitempty"`
	Currency  string  `json:"currency,omitempty"`

	Resources []Resource `json:"resources"` // of one node at the peak
	Spent     []Part     `json:"cpu_goes_to"`
	Events    Terms      `json:"events_per_second"`           // of one node at the peak
	Return    float64    `json:"reconnect_seconds,omitempty"` // until the clients of a lost node are back
	Warnings  []string   `json:"warnings"`
}

// Resource is what a node needs of something, with its 90 % interval.
type Resource struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"` // cores, bytes, bytes/s, flushes/s
	Needs float64 `json:"needs"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	May   float64 `json:"may_use"` // 0: not given
	Used  float64 `json:"used"`    // share of that
	Spare float64 `json:"headroom"`
}

// Part is what CPU time goes to.
type Part struct {
	Event string  `json:"event"`
	Share float64 `json:"share"`
}

const (
	// memoryMay is how much of a node's memory may be alive: its soft limit is 75 % of it, and at 80 % of that slow readers get
	// less room (docs/configuration.md, limits.memory).
	memoryMay = 0.75 * 0.8
	diskMay   = 0.8 // of its bytes
	nodesMax  = 100_000
	// frameBytes are what a read or write costs a network below the socket: Ethernet, IP and TCP headers.
	frameBytes = 66
)

// may is how much of each resource a node may use.
func (f *Fleet) may(p *Parameters) [resources]float64 {
	free := 1 - float64(f.Headroom)
	return [resources]float64{f.Node.Cores * free, float64(f.Node.Memory) * memoryMay, float64(f.Node.Disk) * diskMay,
		float64(f.Node.DiskWrite) * free, p.Flush.Max * free, float64(f.Node.Network) / 8 * free, float64(f.Node.Network) / 8 * free}
}

// The resources of a node.
const (
	resCPU = iota
	resMemory
	resDisk
	resDiskWrite
	resFlushes
	resReceived
	resSent
	resources
)

var resourceNames = [resources][2]string{{"CPU", "cores"}, {"memory", "bytes"}, {"disk", "bytes"}, {"disk writes", "bytes/s"},
	{"disk flushes", "flushes/s"}, {"network in", "bytes/s"}, {"network out", "bytes/s"}}

// needs are those of one of n nodes at the peak.
func (f *Fleet) needs(p *Parameters, n float64) ([resources]float64, Usage) {
	u := p.Predict(f.load(n, f.Burst))
	// Flushes are no limit by themselves: at their most, more messages share each. What counts is how near to the most.
	in := u.Received + u.Events[Read]*frameBytes
	out := u.Sent + u.Events[Write]*frameBytes
	return [resources]float64{u.CPU, u.Memory, u.Stored, u.Disk, 0, in, out}, u
}

// fits tells whether n nodes are enough, and what is fullest.
func (f *Fleet) fits(p *Parameters, n, cpuFactor, memoryFactor float64) (ok bool, fullest int) {
	need, _ := f.needs(p, n)
	need[resCPU] *= cpuFactor
	need[resMemory] = p.memoryTimes(need[resMemory], memoryFactor)
	may := f.may(p)
	most := -1.0
	for i := range need {
		if may[i] > 0 && need[i]/may[i] > most {
			most, fullest = need[i]/may[i], i
		}
	}
	return most <= 1, fullest
}

// least is the smallest number of nodes that is enough; 0: none is.
func (f *Fleet) least(p *Parameters, cpuFactor, memoryFactor float64) int {
	enough := func(n int) bool { ok, _ := f.fits(p, float64(n), cpuFactor, memoryFactor); return ok }
	high := 1
	for !enough(high) {
		if high *= 2; high > nodesMax {
			return 0
		}
	}
	low := high / 2 // not enough, or 0
	for low+1 < high {
		if mid := (low + high) / 2; enough(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// Ask answers how many nodes a fleet needs.
func (m *Model) Ask(f *Fleet, modelName string) (*Answer, error) {
	p := &m.Parameters
	a := &Answer{Fleet: f.Name, Model: modelName, Survive: f.Survive, Currency: f.Node.Currency}
	a.Nodes = f.least(p, 1, 1)
	if a.Nodes == 0 {
		_, i := f.fits(p, nodesMax, 1, 1)
		return nil, fmt.Errorf("no number of nodes is enough: %s is too little for what each of them has to do, however many there are "+
			"(classes with on_every_node, and what a node needs by itself)", resourceNames[i][0])
	}
	_, binds := f.fits(p, float64(a.Nodes), 1, 1)
	a.Binds = resourceNames[binds][0]
	var counts []float64
	each := [resources][]float64{}
	for i := range m.Replicas {
		r := &m.Replicas[i]
		for j := range intervalDraws { // a different part of what the model does not know for each
			q := (float64(j) + 0.5) / intervalDraws
			cf, mf := factor(m.Check.CPUFactors, q), factor(m.Check.MemoryFactors, q)
			enough := f.least(r, cf, mf)
			if enough == 0 {
				enough = nodesMax
			}
			counts = append(counts, float64(enough))
			need, _ := f.needs(r, float64(a.Nodes))
			need[resCPU] *= cf
			need[resMemory] = r.memoryTimes(need[resMemory], mf)
			for k := range need {
				each[k] = append(each[k], need[k])
			}
		}
	}
	slices.Sort(counts)
	a.Low, a.High = a.Nodes, a.Nodes
	if len(counts) > 0 {
		a.Low, a.High = min(a.Nodes, int(quantile(counts, 0.05))), max(a.Nodes, int(math.Ceil(quantile(counts, 0.95))))
	}
	a.Surviving = a.Nodes + f.Survive
	if f.Node.Price > 0 {
		price := func(n int) float64 { return float64(n+f.Survive) * float64(f.Node.Price) }
		a.Price, a.PriceLow, a.PriceHigh = price(a.Nodes), price(a.Low), price(a.High)
	}
	need, u := f.needs(p, float64(a.Nodes))
	a.Events = u.Events
	a.fill(f, p, need, each)
	a.spend(p, u.Events)
	if a.Return = f.reconnect(p, a.Surviving); math.IsInf(a.Return, 1) {
		a.Return = 0
		a.Warnings = append(a.Warnings, "after a failure the usual load alone takes all CPU of the nodes that are left: the clients of the lost one cannot come back")
	}
	a.Warnings = append(a.Warnings, m.beyond(f.load(float64(a.Nodes), f.Burst), u.Events)...)
	if a.Nodes > 1 {
		a.Warnings = append(a.Warnings, "nodes share no work (docs/limits.md): here each node is a broker by itself, and a message reaches those clients "+
			"alone that are on the node of its publisher; the fleet has to be split so, and what has to see everything connects to each node "+
			"(on_every_node)")
	}
	if f.Survive > 0 {
		a.Warnings = append(a.Warnings, "a spare node takes over no sessions and no data: its clients have to be sent there, and what the lost node kept is not "+
			"there; to keep it, make a cluster of three of each node (docs/operate/cluster.md)")
	}
	return a, nil
}

// memoryTimes multiplies what of a node's memory is not its base.
func (p *Parameters) memoryTimes(memory, factor float64) float64 {
	base := p.Memory[heldBase]
	return base + (memory-base)*factor
}

// intervalDraws is how many parts of the spread of the errors each replica is tried with.
const intervalDraws = 9

func factor(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 1
	}
	return quantile(sorted, q)
}

func (a *Answer) fill(f *Fleet, p *Parameters, need [resources]float64, each [resources][]float64) {
	may := f.may(p)
	for i, n := range need {
		if i == resFlushes {
			continue
		}
		r := Resource{Name: resourceNames[i][0], Unit: resourceNames[i][1], Needs: n, Low: n, High: n, May: may[i]}
		if len(each[i]) > 0 {
			slices.Sort(each[i])
			r.Low, r.High = min(n, quantile(each[i], 0.05)), max(n, quantile(each[i], 0.95))
		}
		if r.May > 0 {
			r.Used = n / r.May
			r.Spare = 1 - r.Used
		}
		if n > 0 {
			a.Resources = append(a.Resources, r)
		}
	}
}

// spend says what CPU time goes to, the most first.
func (a *Answer) spend(p *Parameters, v Terms) {
	c := v.costly()
	total := c.cost(p.CPU)
	shares := Terms{}
	for _, name := range costs {
		under := name
		if strings.HasPrefix(name, coldFlush) {
			under = coldFlush
		}
		shares[under] += c[name] * p.CPU[name] / max(total, 1e-9)
	}
	for _, name := range shares.names() {
		if shares[name] >= 0.01 {
			a.Spent = append(a.Spent, Part{name, shares[name]})
		}
	}
	slices.SortStableFunc(a.Spent, func(x, y Part) int { return cmp.Compare(y.Share, x.Share) })
}

// reconnect is how long the clients of a lost node take to come back to the others, which have what CPU the usual load leaves.
func (f *Fleet) reconnect(p *Parameters, nodes int) float64 {
	if f.Survive == 0 || nodes < 2 {
		return 0
	}
	left := float64(nodes - 1)
	l := f.load(left, 1)
	spare := left * max(f.Node.Cores-p.Predict(l).CPU, 0)
	storm := &Load{Cores: f.Node.Cores}
	for i := range f.Devices {
		c := &f.Devices[i]
		storm.Connects[c.Transport] += c.on(float64(nodes)) * float64(c.Connected)
	}
	if spare <= 0 {
		return math.Inf(1)
	}
	events := storm.direct()
	delete(events, Base)
	in, out := storm.crowds(0)
	events[Read], events[Write] = storm.callTerms(in, in, 1).cost(p.Reads), storm.callTerms(out, in, 1).cost(p.Writes)
	return events.costly().cost(p.CPU) / 1e6 / spare
}

// beyond says where an answer needs more of something than was measured.
func (m *Model) beyond(l *Load, v Terms) (warnings []string) {
	type excess struct {
		what   string
		factor float64
	}
	var list []excess
	c := v.costly()
	total := c.cost(m.Parameters.CPU)
	look := func(what string, has, most float64) {
		if has > 1.05*most && has > 0 {
			f := math.Inf(1)
			if most > 0 {
				f = has / most
			}
			list = append(list, excess{what, f})
		}
	}
	for _, name := range costs {
		if m.Most[name] == 0 && c[name] > 0 || c[name]*m.Parameters.CPU[name] > 0.01*total {
			look(name, c[name], m.Most[name])
		}
	}
	held := l.held()
	for _, name := range held.names() {
		if name != heldBase {
			look(name, held[name], m.Most["held_"+name])
		}
	}
	look(mostCores, l.Cores, m.Most[mostCores])
	size := 0.0
	for i := range l.Flows {
		size = max(size, l.Flows[i].Size)
	}
	look(mostSize, size, m.Most[mostSize])
	slices.SortStableFunc(list, func(a, b excess) int { return cmp.Compare(b.factor, a.factor) })
	var never, over []string
	for _, e := range list {
		if math.IsInf(e.factor, 1) {
			never = append(never, plain(e.what))
		} else {
			over = append(over, fmt.Sprintf("%s %.1f times", plain(e.what), e.factor))
		}
	}
	if len(never) > 0 {
		warnings = append(warnings, "never measured, and counted as if it cost nothing: "+strings.Join(never, ", "))
	}
	if len(over) > 0 {
		warnings = append(warnings, "beyond what was measured, so that the answer rests on the model alone: "+strings.Join(over, ", "))
	}
	return warnings
}

func plain(name string) string { return strings.ReplaceAll(name, "_", " ") }
