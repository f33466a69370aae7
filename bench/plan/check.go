package plan

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Model is what `sluice plan fit` makes of results.
type Model struct {
	Format   int       `json:"format"`
	Machine  Machine   `json:"machine"`
	Version  string    `json:"version"` // of the program that was measured with
	Measured time.Time `json:"measured"`

	Parameters Parameters   `json:"parameters"`
	Replicas   []Parameters `json:"replicas"` // the same from resampled rungs
	Check      Check        `json:"check"`
	Most       Terms        `json:"most"` // of each event in a second, and of each thing held, that was measured
}

// modelFormat is the form of a model's file.
const modelFormat = 2

// Check is how well half of the rungs predicted the others.
type Check struct {
	CPU    Errors `json:"cpu"`    // of rungs whose clients send by a timetable
	Driven Errors `json:"driven"` // CPU of those that answers drive: drains of queues, fetches of what is retained, reading a stream again and again
	Memory Errors `json:"memory"`
	// CPUFactors and MemoryFactors are measured over predicted, of rungs that a fit of five sixths of all did not see: the spread of
	// what the model does not know, which goes into every interval as it did into those that Coverage is of.
	CPUFactors    []float64 `json:"cpu_factors"`
	MemoryFactors []float64 `json:"memory_factors"`
}

// Errors are those of held-out rungs, relative to what was measured.
type Errors struct {
	Rungs    int     `json:"rungs"`
	Median   float64 `json:"median"`
	P90      float64 `json:"p90"`
	Worst    float64 `json:"worst"`
	WorstOf  string  `json:"worst_of"`
	Coverage float64 `json:"coverage"` // how many lay in their 90 % interval
	Repeat   Repeat  `json:"repeat"`
	Rows     []Row   `json:"rows"`
}

// Repeat is how far one measurement of a rung is off another of the same rung: what no model can be better than, as long as rungs are
// measured once.
type Repeat struct {
	Rungs  int     `json:"rungs"` // that were measured more than once
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
}

// Row is one held-out rung: what was measured and what was said before, with its interval.
type Row struct {
	Rung      string  `json:"rung"`
	Measured  float64 `json:"measured"` // cores, or bytes
	Predicted float64 `json:"predicted"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	Base      float64 `json:"base,omitempty"` // of memory: what the node had before, which the model need not say
}

// factorMost bounds what one rung that went wrong can do to all intervals.
const factorMost = 10

// factor is measured over predicted, of memory that of what was added.
func (r *Row) factor() float64 {
	return min(max((r.Measured-r.Base)/max(r.Predicted-r.Base, 1e-9), 1.0/factorMost), factorMost)
}

// FitOptions say how to fit. The zero value is what the command does.
type FitOptions struct {
	Replicas int // 0: 100
	Seed     uint64
}

// Fit makes a model of observations and checks it.
func Fit(list []Observation, o FitOptions) (*Model, error) {
	if o.Replicas == 0 {
		o.Replicas = 100
	}
	if len(list) == 0 {
		return nil, errFew
	}
	if err := sameMachine(list); err != nil {
		return nil, err
	}
	rungs := byRung(list)
	p, err := fit(flat(rungs, nil), nil)
	if err != nil {
		return nil, err
	}
	m := &Model{Format: modelFormat, Machine: list[0].Machine, Version: list[len(list)-1].Version, Measured: list[len(list)-1].Started, Parameters: *p,
		Most: p.most(list)}
	rng := rand.New(rand.NewPCG(o.Seed, 5))
	m.Replicas = replicas(rungs, p, o.Replicas, rng)
	if err := m.check(rungs, o.Replicas, rng); err != nil {
		return nil, err
	}
	return m, nil
}

// rung are the observations of one.
type rung []*Observation

// flat are all observations of rungs. trust is that of each rung; nil: 1.
func flat(rungs []rung, trust []float64) (list []weighed) {
	for i, r := range rungs {
		for _, o := range r {
			w := weighed{o, 1}
			if trust != nil {
				w.trust = trust[i]
			}
			list = append(list, w)
		}
	}
	return list
}

// byRung groups observations, rungs in the order in which they come first: levels of one kind stay side by side.
func byRung(list []Observation) (rungs []rung) {
	at := map[string]int{}
	for i := range list {
		o := &list[i]
		k, ok := at[o.Rung]
		if !ok {
			k = len(rungs)
			at[o.Rung] = k
			rungs = append(rungs, nil)
		}
		rungs[k] = append(rungs[k], o)
	}
	return rungs
}

// replicas fits resampled rungs. Each rung counts by a weight drawn by chance, 1 on average (Rubin, The Bayesian Bootstrap, 1981): as
// when rungs are drawn with repetition, but that none is left out wholly, which would leave costs without any measurement.
func replicas(rungs []rung, like *Parameters, n int, rng *rand.Rand) (list []Parameters) {
	trust := make([]float64, len(rungs))
	for range n {
		for i := range trust {
			trust[i] = math.Sqrt(rng.ExpFloat64())
		}
		if p, err := fit(flat(rungs, trust), like); err == nil {
			list = append(list, *p)
		}
	}
	return list
}

// checkSplits is how many ways the rungs are split in two.
const checkSplits = 4

// check predicts each half of the rungs from the other, for several ways to split them.
func (m *Model) check(rungs []rung, n int, rng *rand.Rand) error {
	c := &m.Check
	for range checkSplits {
		halves := split(rungs, rng)
		for side, seen := range halves {
			if err := c.predict(seen, halves[1-side], n, rng); err != nil {
				return err
			}
		}
	}
	for _, x := range []struct {
		e  *Errors
		of func(o *Observation) (float64, bool)
	}{{&c.CPU, measuredCPU(true)}, {&c.Driven, measuredCPU(false)}, {&c.Memory, measuredMemory}} {
		x.e.summarize()
		x.e.Repeat = repeats(rungs, x.of)
	}
	c.CPUFactors, c.MemoryFactors = residuals(rungs, &m.Parameters)
	return nil
}

// split makes two halves. Of two rungs of one kind that come one after the other, which differ in a level, chance puts one in each half:
// so each half knows a little of everything.
func split(rungs []rung, rng *rand.Rand) (halves [2][]rung) {
	at := map[string]int{}
	var pairs [][]rung
	for _, r := range rungs {
		k := kindOf(r[0].Rung)
		if i, ok := at[k]; ok {
			pairs[i] = append(pairs[i], r)
			delete(at, k)
			continue
		}
		at[k] = len(pairs)
		pairs = append(pairs, []rung{r})
	}
	for _, pair := range pairs {
		side := rng.IntN(2)
		for i, r := range pair {
			halves[side^i] = append(halves[side^i], r)
		}
	}
	return halves
}

// kindOf is a rung's name without its levels: the words that begin with a digit.
func kindOf(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == ' ' })
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w[0] >= '0' && w[0] <= '9' }), " ")
}

// measuredCPU gives the cores that an observation took, if it counts and is of that sort.
func measuredCPU(timetable bool) func(o *Observation) (float64, bool) {
	return func(o *Observation) (float64, bool) { return o.CPU / o.Seconds, o.usable() && o.Timetable == timetable }
}

func measuredMemory(o *Observation) (float64, bool) { return o.MemoryAfter, o.settled() }

// repeats compares each measurement of a rung with each other one.
func repeats(rungs []rung, of func(o *Observation) (float64, bool)) (r Repeat) {
	var off []float64
	for _, list := range rungs {
		var values []float64
		for _, o := range list {
			if v, ok := of(o); ok {
				values = append(values, v)
			}
		}
		for i, a := range values {
			for j, b := range values {
				if i != j {
					off = append(off, math.Abs(a-b)/b)
				}
			}
		}
		if len(values) > 1 {
			r.Rungs++
		}
	}
	if len(off) > 0 {
		slices.Sort(off)
		r.Median, r.P90 = quantile(off, 0.5), quantile(off, 0.9)
	}
	return r
}

// predict adds what a fit of some rungs says of others.
func (c *Check) predict(seen, others []rung, n int, rng *rand.Rand) error {
	p, err := fit(flat(seen, nil), nil)
	if err != nil {
		return err
	}
	reps := replicas(seen, p, min(n, 40), rng)
	cpu, memory := residuals(seen, p)
	for _, r := range others {
		if row, ok := cpuRow(p, reps, cpu, r, true); ok {
			c.CPU.Rows = append(c.CPU.Rows, row)
		}
		if row, ok := cpuRow(p, reps, cpu, r, false); ok {
			c.Driven.Rows = append(c.Driven.Rows, row)
		}
		if row, ok := memoryRow(p, reps, memory, r); ok {
			c.Memory.Rows = append(c.Memory.Rows, row)
		}
	}
	return nil
}

// residualFolds is how often the rungs that a fit has are divided again to learn how far it is off.
const residualFolds = 6

// residuals are measured over predicted of rungs that a fit of the others has not seen.
func residuals(rungs []rung, like *Parameters) (cpu, memory []float64) {
	for fold := range residualFolds {
		var seen, out []rung
		for i, r := range rungs {
			if i%residualFolds == fold {
				out = append(out, r)
			} else {
				seen = append(seen, r)
			}
		}
		p, err := fit(flat(seen, nil), like)
		if err != nil {
			continue
		}
		for _, r := range out {
			if row, ok := cpuRow(p, nil, nil, r, true); ok {
				cpu = append(cpu, row.factor())
			}
			if row, ok := memoryRow(p, nil, nil, r); ok {
				memory = append(memory, row.factor())
			}
		}
	}
	slices.Sort(cpu)
	slices.Sort(memory)
	return cpu, memory
}

// cpuRow predicts a rung's CPU time from its load alone. What is measured is the median of its repeats.
func cpuRow(p *Parameters, reps []Parameters, factors []float64, r rung, timetable bool) (Row, bool) {
	row := Row{Rung: r[0].Rung}
	var used []*Observation
	var measured []float64
	for _, o := range r {
		if v, ok := measuredCPU(timetable)(o); ok {
			used, measured = append(used, o), append(measured, v)
		}
	}
	if len(used) == 0 {
		return row, false
	}
	say := func(p *Parameters) (sum float64) {
		for _, o := range used {
			sum += p.Predict(&o.Load).CPU
		}
		return sum / float64(len(used))
	}
	slices.Sort(measured)
	row.Measured = quantile(measured, 0.5)
	row.Predicted = say(p)
	row.Low, row.High = interval(row.Predicted, reps, factors, say)
	return row, true
}

// memoryRow predicts a node's memory from what it had before and what it holds since.
func memoryRow(p *Parameters, reps []Parameters, factors []float64, r rung) (Row, bool) {
	row := Row{Rung: r[0].Rung}
	var used []*Observation
	for _, o := range r {
		if o.settled() {
			used = append(used, o)
		}
	}
	if len(used) == 0 {
		return row, false
	}
	say := func(p *Parameters) (sum float64) {
		for _, o := range used {
			t := o.Load.held()
			delete(t, heldBase)
			sum += t.cost(p.Memory)
		}
		return sum / float64(len(used))
	}
	var before, after []float64
	for _, o := range used {
		before, after = append(before, o.MemoryBefore), append(after, o.MemoryAfter)
	}
	slices.Sort(before)
	slices.Sort(after)
	row.Measured, row.Base = quantile(after, 0.5), quantile(before, 0.5)
	row.Predicted = say(p)
	row.Low, row.High = interval(row.Predicted, reps, factors, say)
	row.Predicted, row.Low, row.High = row.Base+row.Predicted, row.Base+row.Low, row.Base+row.High
	return row, true
}

// interval holds nine in ten of what replicas say, each times each of the factors.
func interval(point float64, reps []Parameters, factors []float64, say func(*Parameters) float64) (low, high float64) {
	if len(factors) == 0 {
		factors = []float64{1}
	}
	var all []float64
	for i := range reps {
		x := say(&reps[i])
		for _, f := range factors {
			all = append(all, x*f)
		}
	}
	if len(all) == 0 {
		return point, point
	}
	slices.Sort(all)
	return quantile(all, 0.05), quantile(all, 0.95)
}

// quantile is of sorted values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// within is the share of errors that are not larger.
func (e *Errors) within(bound float64) float64 {
	n := 0
	for i := range e.Rows {
		if math.Abs(e.Rows[i].Predicted-e.Rows[i].Measured) <= bound*e.Rows[i].Measured {
			n++
		}
	}
	return float64(n) / float64(max(len(e.Rows), 1))
}

func (e *Errors) summarize() {
	var errs []float64
	within := 0
	for _, r := range e.Rows {
		x := math.Abs(r.Predicted-r.Measured) / r.Measured
		errs = append(errs, x)
		if x >= e.Worst {
			e.Worst, e.WorstOf = x, r.Rung
		}
		if r.Measured >= r.Low && r.Measured <= r.High {
			within++
		}
	}
	names := map[string]bool{}
	for _, r := range e.Rows {
		names[r.Rung] = true
	}
	e.Rungs = len(names)
	if len(errs) == 0 {
		return
	}
	slices.Sort(errs)
	e.Median, e.P90 = quantile(errs, 0.5), quantile(errs, 0.9)
	e.Coverage = float64(within) / float64(len(errs))
}

// most is the largest of each event and each thing held that was measured.
func (p *Parameters) most(list []Observation) Terms {
	t := Terms{}
	for i := range list {
		o := &list[i]
		if o.Doubt != "" {
			continue
		}
		for name, v := range p.observed(o).costly() {
			if o.usable() {
				t[name] = max(t[name], v)
			}
		}
		for name, v := range o.Load.held() {
			t["held_"+name] = max(t["held_"+name], v)
		}
		t[mostCores] = max(t[mostCores], o.Load.Cores)
		for _, f := range o.Load.Flows {
			t[mostSize] = max(t[mostSize], f.Size)
		}
	}
	return t
}

// Further names of Most.
const (
	mostCores = "cores"
	mostSize  = "message_size"
)
