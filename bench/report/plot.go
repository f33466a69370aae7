package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// The plots are drawn here, as SVG: a page must be seen without a network and without a program that runs in it. Colours are classes, which
// the page's style gives a light and a dark form.

// point is one point of a line; a gap is a NaN.
type point struct{ x, y float64 }

// line is a line of a plot.
type line struct {
	name   string
	colour int // of the palette
	dashed bool
	points []point
	dots   bool
	low    []float64 // with high, of each point: a bar
	high   []float64
}

// band is a part of the x axis that stands out.
type band struct {
	from, to float64
	class    string
	label    string
}

// plot is a diagram.
type plot struct {
	title      string
	xName      string
	xLog, yLog bool
	xMin, xMax float64 // equal: by the points
	yMin       float64
	xTicks     []tick // nil: made
	xText      func(float64) string
	yText      func(float64) string
	lines      []line
	bands      []band
}

type tick struct {
	at   float64
	text string
}

const (
	plotWidth, plotHeight                    = 600, 280
	plotLeft, plotRight, plotTop, plotBottom = 72, 14, 12, 46
	plotInnerWidth, plotInnerHeight          = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
	paletteSize                              = 8
)

// svg draws the plot. Without a point there is nothing.
func (p *plot) svg() template.HTML {
	x, y, ok := p.axes()
	if !ok {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<figure><figcaption>%s</figcaption><svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, html.EscapeString(p.title), plotWidth,
		plotHeight, html.EscapeString(p.title))
	for _, k := range p.bands {
		from, to := x.place(max(k.from, x.min)), x.place(min(k.to, x.max))
		if to < from {
			continue
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d"><title>%s</title></rect>`, k.class, from, plotTop,
			max(to-from, 1.5), plotInnerHeight, html.EscapeString(k.label))
	}
	for _, t := range y.ticks {
		at := y.place(t.at)
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="y" x="%d" y="%.1f">%s</text>`, plotLeft,
			plotWidth-plotRight, at, at, plotLeft-8, at+4, html.EscapeString(t.text))
	}
	for _, t := range x.ticks {
		at := min(x.place(t.at), plotWidth-plotRight)
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="x" x="%.1f" y="%d">%s</text>`, at, at, plotTop,
			plotTop+plotInnerHeight, min(at, plotWidth-plotRight-14), plotTop+plotInnerHeight+17, html.EscapeString(t.text))
	}
	fmt.Fprintf(&b, `<text class="x name" x="%d" y="%d">%s</text>`, plotLeft+plotInnerWidth/2, plotHeight-6, html.EscapeString(p.xName))
	for i := range p.lines {
		p.draw(&b, &p.lines[i], x, y)
	}
	b.WriteString(`</svg>`)
	p.legend(&b)
	b.WriteString(`</figure>`)
	return template.HTML(b.String()) //nolint:gosec // all text in it is escaped above
}

func (p *plot) draw(b *strings.Builder, l *line, x, y *axis) {
	class := fmt.Sprintf("c%d", l.colour%paletteSize)
	if l.dashed {
		class += " dashed"
	}
	open := false
	for _, at := range l.points {
		if math.IsNaN(at.y) {
			if open {
				b.WriteString(`"/>`)
			}
			open = false
			continue
		}
		if !open {
			fmt.Fprintf(b, `<polyline class="%s" points="`, class)
			open = true
		}
		fmt.Fprintf(b, "%.1f,%.1f ", x.place(at.x), y.place(at.y))
	}
	if open {
		b.WriteString(`"/>`)
	}
	if !l.dots {
		return
	}
	for i, at := range l.points {
		if i < len(l.low) && l.high[i] > l.low[i] {
			fmt.Fprintf(b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, class, x.place(at.x), x.place(at.x), y.place(l.low[i]), y.place(l.high[i]))
		}
		fmt.Fprintf(b, `<circle class="%s" cx="%.1f" cy="%.1f" r="3.5"><title>%s: %s at %s</title></circle>`, class, x.place(at.x), y.place(at.y),
			html.EscapeString(l.name), html.EscapeString(p.yText(at.y)), html.EscapeString(p.xText(at.x)))
	}
}

func (p *plot) legend(b *strings.Builder) {
	b.WriteString(`<p class="legend">`)
	for _, l := range p.lines {
		dashed := ""
		if l.dashed {
			dashed = " dashed"
		}
		fmt.Fprintf(b, `<span><svg viewBox="0 0 22 8"><line class="c%d%s" x1="0" x2="22" y1="4" y2="4"/></svg>%s</span>`, l.colour%paletteSize, dashed,
			html.EscapeString(l.name))
	}
	for i, k := range p.bands {
		if k.label != "" && (i == 0 || p.bands[i-1].class != k.class) {
			fmt.Fprintf(b, `<span><i class="%s"></i>%s</span>`, k.class, html.EscapeString(k.label))
		}
	}
	b.WriteString(`</p>`)
}

// axis places values on one side of a plot.
type axis struct {
	min, max float64
	log      bool
	from, to float64 // in the picture
	ticks    []tick
}

func (a *axis) place(v float64) float64 {
	lo, hi := a.min, a.max
	if a.log {
		lo, hi, v = math.Log10(lo), math.Log10(hi), math.Log10(max(v, a.min))
	}
	return a.from + (min(max(v, lo), hi)-lo)/(hi-lo)*(a.to-a.from)
}

// axes finds the range of what is drawn.
func (p *plot) axes() (x, y *axis, ok bool) {
	x = &axis{min: math.Inf(1), max: math.Inf(-1), log: p.xLog, from: plotLeft, to: plotLeft + plotInnerWidth}
	y = &axis{min: math.Inf(1), max: math.Inf(-1), log: p.yLog, from: plotTop + plotInnerHeight, to: plotTop}
	for i := range p.lines {
		l := &p.lines[i]
		for k, at := range l.points {
			if math.IsNaN(at.y) || p.yLog && at.y <= 0 || p.xLog && at.x <= 0 {
				l.points[k].y = math.NaN()
				continue
			}
			ok = true
			x.min, x.max, y.min, y.max = min(x.min, at.x), max(x.max, at.x), min(y.min, at.y), max(y.max, at.y)
			if k < len(l.high) && l.high[k] > 0 {
				y.min, y.max = min(y.min, l.low[k]), max(y.max, l.high[k])
			}
		}
	}
	if !ok {
		return x, y, false
	}
	if p.xMin != p.xMax {
		x.min, x.max = p.xMin, p.xMax
	}
	if p.yLog {
		y.min, y.max = y.min*0.85, y.max*1.2
		y.ticks = logTicks(y.min, y.max, p.yText)
	} else {
		y.min, y.max = min(y.min, 0), max(y.max*1.06, p.yMin)
		y.ticks = linearTicks(y.min, y.max, 5, p.yText)
	}
	if x.max <= x.min {
		x.min, x.max = x.min*0.5, x.max*1.5+1
	}
	switch {
	case p.xTicks != nil:
		for _, t := range p.xTicks {
			if t.at >= x.min && t.at <= x.max*1.0001 {
				x.ticks = append(x.ticks, t)
			}
		}
	case p.xLog:
		x.min, x.max = x.min*0.9, x.max*1.1
		x.ticks = logTicks(x.min, x.max, p.xText)
	default:
		x.ticks = linearTicks(x.min, x.max, 8, p.xText)
	}
	return x, y, true
}

// linearTicks gives about n round values.
func linearTicks(lo, hi float64, n int, text func(float64) string) []tick {
	if hi <= lo {
		return []tick{{lo, text(lo)}}
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/float64(n))))
	for _, f := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(step*f) <= float64(n) {
			step *= f
			break
		}
	}
	var out []tick
	for at := math.Ceil(lo/step) * step; at <= hi; at += step {
		out = append(out, tick{at, text(at)})
	}
	return out
}

// logTicks gives powers of ten, with steps between them when there are few.
func logTicks(lo, hi float64, text func(float64) string) []tick {
	steps := []float64{1}
	switch decades := math.Log10(hi / lo); {
	case decades < 1.2:
		steps = []float64{1, 1.5, 2, 3, 4, 5, 7}
	case decades < 3:
		steps = []float64{1, 2, 5}
	}
	var out []tick
	for e := math.Floor(math.Log10(lo)); e <= math.Log10(hi); e++ {
		for _, f := range steps {
			if at := f * math.Pow(10, e); at >= lo && at <= hi {
				out = append(out, tick{at, text(at)})
			}
		}
	}
	return out
}

// micros gives a time in microseconds as people read it.
func micros(us float64) string {
	switch {
	case us < 1000:
		return trim(us) + " µs"
	case us < 1e6:
		return trim(us/1e3) + " ms"
	}
	return trim(us/1e6) + " s"
}

// amount gives a number with a prefix.
func amount(n float64) string {
	switch {
	case math.Abs(n) >= 1e9:
		return trim(n/1e9) + " G"
	case math.Abs(n) >= 1e6:
		return trim(n/1e6) + " M"
	case math.Abs(n) >= 1e4:
		return trim(n/1e3) + " k"
	}
	return trim(n)
}

// trim gives three or four digits.
func trim(v float64) string {
	switch a := math.Abs(v); {
	case a == 0 || a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	case a >= 0.01:
		return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	}
	return fmt.Sprintf("%.2g", v)
}
