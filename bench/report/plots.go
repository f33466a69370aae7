package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/bench"
)

// worst is the curve's end: one in so many is not drawn finer.
const worst = 1e6

// curvePlot is the whole distribution of latency, stretched towards its end: what is one step to the right is ten times as rare.
func curvePlot(items []Item) template.HTML {
	p := plot{title: "Latency by percentile", xName: "percentile", xLog: true, yLog: true, xMin: 1, xMax: 10, yText: micros,
		xText: func(x float64) string { return fmt.Sprintf("p%.7g", 100*(1-1/x)) }}
	for x, text := range map[float64]string{2: "50 %", 10: "90 %", 100: "99 %", 1e3: "99.9 %", 1e4: "99.99 %", 1e5: "99.999 %", 1e6: "99.9999 %"} {
		p.xTicks = append(p.xTicks, tick{x, text})
	}
	add := func(name string, colour int, dashed bool, d *bench.Distribution) {
		if d == nil {
			return
		}
		l := line{name: name, colour: colour, dashed: dashed}
		for _, c := range d.Curve() {
			x := 1 / max(1-c.Quantile, 1/min(float64(d.Count), worst))
			p.xMax = max(p.xMax, x)
			l.points = append(l.points, point{x, c.Value})
		}
		p.lines = append(p.lines, l)
	}
	for i, it := range items {
		if it.Result == nil {
			continue
		}
		add(label(items, it, "delivery"), i, false, it.Result.Latency)
		add(label(items, it, "acknowledgement"), i+boolInt(len(items) == 1), true, acks(it.Result))
		if len(items) == 1 {
			add("the generator's own lateness", 5, true, it.Result.Generator.Late)
			for k, part := range it.Result.Parts {
				add(part.Name+", delivery", k+2, false, part.Latency)
			}
		}
	}
	return p.svg()
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// label names a line: of one item by what it is alone.
func label(items []Item, it Item, what string) string {
	if len(items) == 1 {
		return what
	}
	return it.Name + ", " + what
}

// overTime makes a plot of what of each point gives; NaN is a gap.
func overTime(items []Item, title string, yLog bool, yText func(float64) string, what []series) template.HTML {
	return timePlot(items, title, yLog, yText, what).svg()
}

func timePlot(items []Item, title string, yLog bool, yText func(float64) string, what []series) *plot {
	p := &plot{title: title, xName: "seconds since the run began", yLog: yLog, yText: yText, xText: func(s float64) string { return trim(s) }}
	for i, it := range items {
		if it.Result == nil || it.Result.Series == nil {
			continue
		}
		s := it.Result.Series
		for k, w := range what {
			colour := i
			if len(items) == 1 {
				colour = w.colour
			} else if k > 0 && !w.always {
				continue
			}
			l := line{name: label(items, it, w.name), colour: colour, dashed: w.dashed}
			some := false
			for n := range s.Points {
				y := w.of(&s.Points[n], s.Width)
				some = some || !math.IsNaN(y) && y > 0
				l.points = append(l.points, point{s.Points[n].Second + s.Width/2, y})
			}
			if some {
				p.lines = append(p.lines, l)
			}
		}
		if len(items) == 1 {
			p.bands = timeBands(it.Result)
		}
		if n := len(s.Points); n > 0 {
			p.xMax = max(p.xMax, s.Points[n-1].Second+s.Width)
		}
	}
	return p
}

// series is one line of a plot over time.
type series struct {
	name   string
	colour int
	dashed bool
	always bool // in comparisons too
	of     func(*bench.Point, float64) float64
}

// timeBands are the measured part and the moments of faults.
func timeBands(r *bench.Result) []band {
	var out []band
	if r.Series.Until > r.Series.From {
		out = append(out, band{r.Series.From, r.Series.Until, "measured", "the measured part"})
	}
	for _, f := range r.Faults {
		out = append(out, band{f.First, f.Last, "fault", strings.TrimSpace(f.Part + " " + f.Kind)})
	}
	return out
}

func spreadOf(of func(*bench.Point) *bench.Spread, pick func(*bench.Spread) float64) func(*bench.Point, float64) float64 {
	return func(p *bench.Point, _ float64) float64 {
		if s := of(p); s != nil {
			return pick(s)
		}
		return math.NaN()
	}
}

func latencyPlot(items []Item) template.HTML {
	p50, p99 := func(s *bench.Spread) float64 { return s.P50 }, func(s *bench.Spread) float64 { return s.P99 }
	most := func(s *bench.Spread) float64 { return s.Max }
	of, what := func(p *bench.Point) *bench.Spread { return p.Latency }, "Latency over time"
	if len(items) == 1 && items[0].Result != nil && len(items[0].Result.Parts) > 0 {
		what += ", of the part in which it is worst"
	}
	if !slices.ContainsFunc(items, delivers) {
		of, what = func(p *bench.Point) *bench.Spread { return p.Ack }, "Latency to the acknowledgement over time"
	}
	return overTime(items, what, true, micros, []series{
		{"p99", 1, false, true, spreadOf(of, p99)}, {"p50", 0, len(items) > 1, true, spreadOf(of, p50)}, {"max", 3, false, false, spreadOf(of, most)},
		{"p99 of the generator's lateness", 5, true, false, spreadOf(func(p *bench.Point) *bench.Spread { return p.Late }, p99)},
	})
}

// delivers tells whether there are latencies of deliveries: of the item, or of the parts of a mixed run.
func delivers(it Item) bool {
	return it.Result != nil && (it.Result.Latency != nil || slices.ContainsFunc(it.Result.Parts, func(p *bench.Result) bool { return p.Latency != nil }))
}

// partPlots are of the parts of a mixed run beside one another, if there is one alone.
func partPlots(items []Item) []template.HTML {
	if len(items) != 1 || items[0].Result == nil || len(items[0].Result.Parts) == 0 {
		return nil
	}
	whole := items[0].Result
	var parts []Item
	for _, p := range whole.Parts {
		parts = append(parts, Item{Name: p.Name, Result: p})
	}
	var out []template.HTML
	for _, x := range []struct {
		title string
		log   bool
		text  func(float64) string
		of    series
	}{
		{"Latency over time by part", true, micros, series{"p99", 0, false, true,
			spreadOf(func(p *bench.Point) *bench.Spread { return p.Latency }, func(s *bench.Spread) float64 { return s.P99 })}},
		{"Messages received per second by part", false, amount, series{"received", 0, false, true,
			func(p *bench.Point, width float64) float64 { return float64(p.Received) / width }}},
	} {
		p := timePlot(parts, x.title, x.log, x.text, []series{x.of})
		if whole.Series != nil {
			p.bands = timeBands(whole)
		}
		out = append(out, p.svg())
	}
	return out
}

func ratePlot(items []Item) template.HTML {
	rate := func(of func(*bench.Point) uint64) func(*bench.Point, float64) float64 {
		return func(p *bench.Point, width float64) float64 { return float64(of(p)) / width }
	}
	return overTime(items, "Messages per second", false, amount, []series{
		{"sent", 0, false, true, rate(func(p *bench.Point) uint64 { return p.Sent })},
		{"received", 1, true, true, rate(func(p *bench.Point) uint64 { return p.Received })},
		{"acknowledged", 2, true, false, rate(func(p *bench.Point) uint64 { return p.Acked })},
		{"lost", 3, false, false, rate(func(p *bench.Point) uint64 { return p.Lost })},
	})
}

func cpuPlot(items []Item) template.HTML {
	return overTime(items, "Processor cores in use", false, trim, []series{
		{"server", 0, false, true, func(p *bench.Point, _ float64) float64 { return p.ServerCores }},
		{"generator", 5, true, false, func(p *bench.Point, _ float64) float64 { return p.GeneratorCores }},
	})
}

func memoryPlot(items []Item) template.HTML {
	return overTime(items, "Resident memory of the server", false, func(n float64) string { return amount(n) + "B" }, []series{
		{"server", 0, false, true, func(p *bench.Point, _ float64) float64 {
			if p.ServerRSS == 0 {
				return math.NaN()
			}
			return float64(p.ServerRSS)
		}},
	})
}

func connectionPlot(items []Item) template.HTML {
	return overTime(items, "Connections that stand", false, amount, []series{
		{"connections", 0, false, true, func(p *bench.Point, _ float64) float64 { return float64(p.Connected) }},
	})
}

// ladderPlot is latency against rate, with the interval in which the knee lies.
func ladderPlot(items []Item) template.HTML {
	p := plot{title: "Latency by rate", xName: "messages per second", xLog: true, yLog: true, yText: micros, xText: amount}
	for i, it := range items {
		if it.Ladder == nil {
			continue
		}
		byBound := map[string]*line{}
		var order []string
		for _, rung := range it.Ladder.Rungs {
			for _, b := range rung.Bounds {
				l := byBound[b.Of]
				if l == nil {
					l = &line{name: label(items, it, b.Of), colour: i, dots: true, dashed: len(order) > 0}
					byBound[b.Of] = l
					order = append(order, b.Of)
				}
				l.points = append(l.points, point{rung.Rate, b.Median})
				l.low, l.high = append(l.low, b.Low), append(l.high, b.High)
			}
		}
		for _, of := range order {
			p.lines = append(p.lines, *byBound[of])
		}
		if l := it.Ladder; l.Held > 0 && l.Missed > 0 {
			p.bands = append(p.bands, band{l.Held, l.Missed, "knee", fmt.Sprintf("the knee: %s to %s a second", amount(l.Held), amount(l.Missed))})
		}
	}
	return p.svg()
}
