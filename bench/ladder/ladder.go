package ladder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/bench"
)

// Verdict is what a rung, or one run of it, came to.
type Verdict string

// The verdicts. The first three are of rungs and runs, the last two of runs that end the ladder.
const (
	Held   Verdict = "held"
	Missed Verdict = "missed"
	Void   Verdict = "void" // the generator's fault: no result
	Wrong  Verdict = "wrong"
	Broken Verdict = "broken" // the run could not be done
)

// The rules by which a ladder ends.
const (
	RuleObjective   = "objective"   // the objective was missed, and the interval is closed in
	RuleGenerator   = "generator"   // the generator could not make more load
	RuleViolation   = "violation"   // the broker doubled, reordered or corrupted: no rate excuses that
	RuleMaxRate     = "max rate"    // the last rung held
	RuleMaxTime     = "max time"    // no time was left for another run
	RuleInterrupted = "interrupted" // from outside
	RuleBroken      = "broken"      // the load could not be made again and again
)

// Options say how to climb.
type Options struct {
	Scenario  string // for the answer
	Objective bench.Objective
	From, To  float64 // messages a second
	Growth    float64
	Precision float64 // the interval is closed in to this share of its upper end
	Repeats   int     // of a rung near the knee
	MaxTime   time.Duration
	Each      time.Duration // what one run takes at least
	Run       func(ctx context.Context, rate float64) (*bench.Result, error)
	Progress  func(line string) // nil: none
}

// Answer is what a ladder found. All of it is there even if it was interrupted, as far as it came.
type Answer struct {
	Ladder    string    `json:"ladder"` // the scenario's name
	Objective string    `json:"objective"`
	Started   time.Time `json:"started"`
	Seconds   float64   `json:"seconds"`
	Partial   bool      `json:"partial,omitempty"`
	Rule      string    `json:"rule"` // which ended it
	Reason    string    `json:"reason"`

	Held   float64 `json:"held"`             // the highest rate that held, messages a second; 0: none did
	Missed float64 `json:"missed,omitempty"` // the lowest that did not; 0: none was missed
	Voided float64 `json:"void,omitempty"`   // the lowest above Held at which the generator fell short; 0: none

	Rungs []*Rung `json:"rungs"` // by rate
}

// Rung is one rate.
type Rung struct {
	Rate    float64  `json:"rate"`
	Verdict Verdict  `json:"verdict"`
	Reasons []string `json:"reasons,omitempty"` // of the runs that did not hold
	Bounds  []Spread `json:"bounds,omitempty"`  // the figures of the objective over the runs that count, µs
	Runs    []Run    `json:"runs"`
}

// Run is one run of a rung.
type Run struct {
	Verdict Verdict       `json:"verdict"`
	Result  *bench.Result `json:"result,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// Spread is a figure over several runs.
type Spread struct {
	Of     string  `json:"of"`
	Low    float64 `json:"low"`
	Median float64 `json:"median"`
	High   float64 `json:"high"`
}

const (
	// extraRuns is how many runs of a rung may be void before the rung is.
	extraRuns = 2
	// voidsMax is how many rungs from the first one down may be void: below, it is not the rate that the generator has no time for.
	voidsMax = 3
	// brokenMax is how often in a row a run may fail to be made.
	brokenMax = 3
	// keptShare is how much of its timetable a broker must let the generator keep.
	keptShare = 0.98
	// lateShare is how late the generator's own sends may be, of a limit that was missed, for the miss to be the broker's.
	lateShare = 0.2
)

// climber is a ladder under way.
type climber struct {
	Options
	ctx     context.Context
	started time.Time
	answer  *Answer
	rungs   map[float64]*Rung
	broken  int
}

// errStop ends the climb: the answer says why.
var errStop = errors.New("the ladder has ended")

// Climb finds the knee. The error is of options that make no sense, or of a first run that could not be made; the answer is there
// otherwise.
func Climb(ctx context.Context, o Options) (*Answer, error) {
	if o.From <= 0 || o.To < o.From || o.Growth <= 1 || o.Precision <= 0 || o.Repeats < 1 || len(o.Objective) == 0 || o.MaxTime <= 0 {
		return nil, &bench.MisuseError{Detail: "the ladder's settings make no sense"}
	}
	c := &climber{Options: o, ctx: ctx, started: time.Now(), rungs: map[float64]*Rung{}}
	c.answer = &Answer{Ladder: o.Scenario, Objective: o.Objective.String(), Started: c.started.UTC().Truncate(time.Second)}
	err := c.climb()
	c.finish()
	if err != nil && !errors.Is(err, errStop) {
		return c.answer, err
	}
	return c.answer, nil
}

// climb goes up and closes in.
func (c *climber) climb() error {
	lo, up, err := c.ascend()
	for err == nil && up-lo > c.Precision*up {
		mid := math.Round(math.Sqrt(max(lo, 1) * up))
		if mid <= lo || mid >= up {
			break
		}
		var v Verdict
		if v, err = c.rung(mid, c.Repeats); v == Held {
			lo = mid
		} else {
			up = mid
		}
	}
	if err != nil {
		return err
	}
	return c.conclude(up)
}

// ascend gives a rung that held, each of its repeats, and one above it that did not; downwards, if the first one does not hold.
func (c *climber) ascend() (lo, up float64, err error) {
	rate := c.From
	var v Verdict
	for ; ; rate = min(math.Round(rate*c.Growth), c.To) {
		if v, err = c.rung(rate, 1); err != nil {
			return 0, 0, err
		}
		if v != Held {
			break
		}
		if rate >= c.To {
			if v, err = c.rung(rate, c.Repeats); err != nil || v == Held {
				return 0, 0, errors.Join(err, c.stop(RuleMaxRate, fmt.Sprintf("%.0f messages a second held", rate)))
			}
			break
		}
	}
	for up = rate; ; up = lo { // what held once must hold again to be the lower end
		if lo = c.below(up); lo == 0 {
			lo = math.Round(up / c.Growth)
		}
		if lo < 1 || lo >= up || c.voids() >= voidsMax && c.below(up) == 0 {
			return 0, up, c.conclude(up)
		}
		if v, err = c.rung(lo, c.Repeats); err != nil || v == Held {
			return lo, up, err
		}
	}
}

// conclude ends the climb below a rung that did not hold.
func (c *climber) conclude(up float64) error {
	rule := RuleObjective
	if c.rungs[up].Verdict == Void {
		rule = RuleGenerator
	}
	return c.stop(rule, fmt.Sprintf("at %.0f messages a second: %s", up, c.rungs[up].Reasons[0]))
}

// below gives the highest rate below up that was run and held, 0 if there is none.
func (c *climber) below(up float64) (best float64) {
	for rate, r := range c.rungs {
		if rate < up && r.Verdict == Held {
			best = max(best, rate)
		}
	}
	return best
}

// voids counts the rungs that say nothing.
func (c *climber) voids() (n int) {
	for _, r := range c.rungs {
		if r.Verdict == Void {
			n++
		}
	}
	return n
}

func (c *climber) stop(rule, reason string) error {
	if c.answer.Rule == "" {
		c.answer.Rule, c.answer.Reason = rule, reason
	}
	return errStop
}

// rung runs a rate until it has been decided so often, and gives what the majority says. A first run that does not hold is repeated
// before it is believed.
func (c *climber) rung(rate float64, often int) (Verdict, error) {
	r := c.rungs[rate]
	if r == nil {
		r = &Rung{Rate: rate}
		c.rungs[rate] = r
	}
	for {
		held, decided, void := r.counts()
		if decided-held > 0 || void > 0 {
			often = max(often, c.Repeats)
		}
		if decided >= often || void > extraRuns && void > decided {
			break
		}
		if err := c.run(r); err != nil {
			r.settle(c.Objective)
			return r.Verdict, err
		}
	}
	r.settle(c.Objective)
	return r.Verdict, nil
}

func (r *Rung) counts() (held, decided, void int) {
	for _, x := range r.Runs {
		switch x.Verdict {
		case Held:
			held++
			decided++
		case Void:
			void++
		default:
			decided++
		}
	}
	return held, decided, void
}

// settle gives the rung its verdict and its figures.
func (r *Rung) settle(o bench.Objective) {
	held, decided, void := r.counts()
	switch {
	case slices.ContainsFunc(r.Runs, func(x Run) bool { return x.Verdict == Wrong }):
		r.Verdict = Wrong
	case decided == 0 || void > decided:
		r.Verdict = Void
	case held*2 > decided:
		r.Verdict = Held
	default:
		r.Verdict = Missed
	}
	r.Bounds = nil
	for _, b := range o {
		var values []float64
		for _, x := range r.Runs {
			if x.Result != nil && x.Verdict != Void {
				values = append(values, worst(b, x.Result)...)
			}
		}
		if len(values) > 0 {
			slices.Sort(values)
			n := len(values)
			r.Bounds = append(r.Bounds, Spread{b.Of, values[0], (values[(n-1)/2] + values[n/2]) / 2, values[n-1]})
		}
	}
}

// worst gives the figure that b bounds, of a mixed result the highest of its parts; none if there is no such.
func worst(b bench.Bound, s *bench.Result) []float64 {
	if len(s.Parts) == 0 {
		if d := s.Response(); d != nil {
			return []float64{b.Value(d)}
		}
		return nil
	}
	var of []float64
	for _, p := range s.Parts {
		of = append(of, worst(b, p)...)
	}
	if len(of) == 0 {
		return nil
	}
	return []float64{slices.Max(of)}
}

// run does one run of a rung.
func (c *climber) run(r *Rung) error {
	if c.ctx.Err() != nil {
		return c.stop(RuleInterrupted, "the ladder was interrupted")
	}
	if spent := time.Since(c.started); spent+c.Each > c.MaxTime {
		return c.stop(RuleMaxTime, fmt.Sprintf("%v have passed, and a run takes %v", spent.Round(time.Second), c.Each))
	}
	res, err := c.Run(c.ctx, r.Rate)
	if c.ctx.Err() != nil {
		return c.stop(RuleInterrupted, "the ladder was interrupted")
	}
	v, reasons := c.judge(r.Rate, res, err)
	x := Run{Verdict: v, Result: res}
	if err != nil {
		x.Error = err.Error()
	}
	r.Runs = append(r.Runs, x)
	for _, text := range reasons {
		if !slices.Contains(r.Reasons, text) {
			r.Reasons = append(r.Reasons, text)
		}
	}
	c.say(r, v, res, reasons)
	var bad *bench.MisuseError
	switch {
	case errors.As(err, &bad):
		return err
	case v == Wrong:
		return c.stop(RuleViolation, fmt.Sprintf("at %.0f messages a second: %s", r.Rate, reasons[0]))
	case v != Broken:
		c.broken = 0
	case len(c.rungs) == 1 && len(r.Runs) == 1:
		c.stop(RuleBroken, err.Error()) //nolint:errcheck // the run's own error is the one to give
		return err
	default:
		if c.broken++; c.broken >= brokenMax {
			return c.stop(RuleBroken, fmt.Sprintf("%d runs in a row could not be made: %v", c.broken, err))
		}
	}
	return nil
}

// wrongWords begin the violations that no rate excuses.
var wrongWords = []string{"DUPLICATES", "REORDERED", "CORRUPT", "STRAY", "ABORTED", "DOUBLE"}

// judge decides about one run. What held in spite of a generator that was late held; what was missed with it says nothing.
func (c *climber) judge(rate float64, res *bench.Result, err error) (Verdict, []string) {
	var lacks *bench.LackError
	switch {
	case errors.As(err, &lacks):
		return Void, []string{lacks.Detail}
	case err != nil:
		return Broken, []string{err.Error()}
	}
	for _, v := range res.Violations {
		for _, w := range wrongWords {
			if strings.Contains(v, w+":") {
				return Wrong, []string{v}
			}
		}
	}
	reasons := slices.Concat(res.Violations, c.Objective.Missed(res))
	if sent := res.Rates.SentPerSecond; sent < keptShare*rate {
		reasons = append(reasons, fmt.Sprintf("%.0f messages a second were sent: the broker took no more", sent))
	}
	switch {
	case res.Void != "" && (len(reasons) > 0 || !responded(res)):
		return Void, []string{res.Void}
	case !responded(res):
		return Missed, append(reasons, "nothing came")
	case len(reasons) == 0:
		return Held, nil
	}
	if late := c.late(res); late != "" {
		return Void, []string{late}
	}
	return Missed, reasons
}

func responded(s *bench.Result) bool {
	return s.Response() != nil || slices.ContainsFunc(s.Parts, responded)
}

// late says whether the generator's own lateness may be what missed the objective.
func (c *climber) late(s *bench.Result) string {
	for _, p := range s.Parts {
		if text := c.late(p); text != "" {
			return p.Name + ": " + text
		}
	}
	d, own := s.Response(), s.Generator.Late
	if d == nil || own == nil {
		return ""
	}
	for _, b := range c.Objective {
		limit := float64(b.Limit) / 1e3
		if v := b.Value(own); !b.Holds(d) && v > lateShare*limit && v > lateShare*b.Value(d) {
			return fmt.Sprintf("%s of the generator's own sends were %.0f µs late, which is too much to judge %s", b.Of, v, b)
		}
	}
	return ""
}

// say prints a line about a run.
func (c *climber) say(r *Rung, v Verdict, res *bench.Result, reasons []string) {
	if c.Progress == nil {
		return
	}
	line := fmt.Sprintf("%8.0f/s, run %d: %s", r.Rate, len(r.Runs), v)
	if res != nil {
		for _, b := range c.Objective {
			for _, x := range worst(b, res) {
				line += fmt.Sprintf(", %s %.0f µs", b.Of, x)
			}
		}
	}
	if len(reasons) > 0 {
		line += " (" + reasons[0] + ")"
	}
	c.Progress(line)
}

// finish writes the interval into the answer.
func (c *climber) finish() {
	a := c.answer
	a.Seconds = time.Since(c.started).Seconds()
	a.Partial = a.Rule != RuleObjective && a.Rule != RuleGenerator && a.Rule != RuleMaxRate
	a.Rungs = []*Rung{}
	for _, r := range c.rungs {
		if len(r.Runs) > 0 {
			a.Rungs = append(a.Rungs, r)
		}
	}
	slices.SortFunc(a.Rungs, func(x, y *Rung) int { return int(math.Copysign(1, x.Rate-y.Rate)) })
	for _, r := range a.Rungs {
		if r.Verdict == Missed { // what holds above one that was missed is noise
			a.Missed = r.Rate
			break
		}
		if r.Verdict == Void && a.Voided == 0 {
			a.Voided = r.Rate
		}
		if r.Verdict == Held {
			a.Held, a.Voided = r.Rate, 0
		}
	}
}
