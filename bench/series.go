package bench

import (
	"math"
	"slices"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Series is what happened in each second of a run, which begins with its first connection. In that of a mixed run counts are those of all
// parts together and percentiles those of the part in which they were worst; each part has a series of its own besides.
type Series struct {
	Width float64 `json:"width_seconds"` // of a point: 1, or more in a run of more than 20 minutes
	From  float64 `json:"measured_from"` // the measured part
	Until float64 `json:"measured_until"`
	// Points are in order; those at the run's end of which there is nothing to say are left out.
	Points []Point `json:"points"`
}

// Point is one second of a run, or one width of its series. Counts are of what happened in it; Lost counts what was meant to be
// sent in it and never came.
type Point struct {
	Second       float64 `json:"second"` // where it begins
	Connected    uint64  `json:"connected,omitempty"`
	Disconnected uint64  `json:"disconnected,omitempty"` // or could not connect
	Sent         uint64  `json:"sent"`
	Acked        uint64  `json:"acked"`
	Received     uint64  `json:"received"`
	Lost         uint64  `json:"lost,omitempty"`
	Duplicates   uint64  `json:"duplicates,omitempty"`
	Reordered    uint64  `json:"reordered,omitempty"`
	Corrupt      uint64  `json:"corrupt,omitempty"`
	Stray        uint64  `json:"stray,omitempty"`
	Refused      uint64  `json:"refused,omitempty"`
	Held         uint64  `json:"held_by_broker,omitempty"`

	Latency *Spread `json:"latency_us,omitempty"` // of deliveries in this second
	Ack     *Spread `json:"ack_us,omitempty"`
	Late    *Spread `json:"late_us,omitempty"` // of the generator's sends, in the measured part

	ServerCores    float64 `json:"server_cores,omitempty"`
	ServerRSS      int64   `json:"server_rss,omitempty"` // at its end, as the kernel counts it cheaply
	GeneratorCores float64 `json:"generator_cores,omitempty"`
}

// Spread are the percentiles of a second, in microseconds.
type Spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

const (
	// pointsMax bounds a series: a longer run has wider points.
	pointsMax = 1200
	// cutsMax bounds what loops may have handed over and nobody has looked at; a loop whose second finds no place goes on with it.
	cutsMax = 256
	// histogramsMax bounds how many empty histograms are kept for loops, of some 200 kB each.
	histogramsMax = 64
)

// cut is one second of one loop, as it hands it over.
type cut struct {
	loop   int
	second int64
	point  Point // counts alone
	cutting
}

// recorder gathers the seconds of all loops. Loops use the part under the lock, once in a second; the rest belongs to the watch's
// goroutine, and after its end to the one that called Run.
type recorder struct {
	mu struct {
		sync.Mutex
		cuts []cut
		free []*hdrhistogram.Histogram
	}
	width  int64 // seconds of a point
	points []Point
	open   map[int64]*cutting // by point: of loops that have come past it, until all have
	passed []int64            // by loop: the last second it has handed over
	total  cutting            // of all seconds that are over
	closed int64              // points below have their percentiles
}

func newRecorder(loops int) *recorder {
	r := &recorder{width: 1, open: map[int64]*cutting{}, passed: make([]int64, loops)}
	for i := range r.passed {
		r.passed[i] = -1
	}
	return r
}

// cut hands over the second that has ended.
func (l *loop) cut() {
	second := l.cutAt/1e9 - 1
	st := &l.stats
	now := st.point(uint64(l.live), l.counts.failed.Load())
	c := cut{loop: l.id, second: second, point: now.since(&l.cutPoint), cutting: st.cutting}
	if l.run.recorder.take(&c) {
		l.cutPoint = now
		st.cutting = c.cutting
	}
	l.cutAt = (l.now/1e9 + 1) * 1e9
}

// take keeps c, if there is room, and puts empty histograms into it.
func (r *recorder) take(c *cut) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mu.cuts) >= cutsMax {
		return false
	}
	r.mu.cuts = append(r.mu.cuts, *c)
	for _, h := range c.all() {
		if n := len(r.mu.free); *h != nil && n > 0 {
			*h = r.mu.free[n-1]
			r.mu.free = r.mu.free[:n-1]
		} else {
			*h = nil
		}
	}
	return true
}

// recycle keeps h for a loop, empty.
func (r *recorder) recycle(h *hdrhistogram.Histogram) {
	h.Reset()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mu.free) < histogramsMax {
		r.mu.free = append(r.mu.free, h)
	}
}

// point gives the counts so far.
func (s *stats) point(connected, failed uint64) Point {
	return Point{Connected: connected, Disconnected: failed, Sent: s.sent, Acked: s.acked - s.cleared, Received: s.received, Duplicates: s.duplicates,
		Reordered: s.reordered, Corrupt: s.corrupt, Stray: s.stray, Refused: s.marks[faultRefused].count, Held: s.held}
}

// since gives what p has more than before.
func (p Point) since(before *Point) Point {
	p.Disconnected -= before.Disconnected
	p.Sent -= before.Sent
	p.Acked -= before.Acked
	p.Received -= before.Received
	p.Duplicates -= before.Duplicates
	p.Reordered -= before.Reordered
	p.Corrupt -= before.Corrupt
	p.Stray -= before.Stray
	p.Refused -= before.Refused
	p.Held -= before.Held
	return p
}

// add gives the counts of two parts of one point. Connected is a level, so the later one's counts; percentiles are the worse ones.
func (p *Point) add(o *Point) {
	p.Disconnected += o.Disconnected
	p.Sent += o.Sent
	p.Acked += o.Acked
	p.Received += o.Received
	p.Lost += o.Lost
	p.Duplicates += o.Duplicates
	p.Reordered += o.Reordered
	p.Corrupt += o.Corrupt
	p.Stray += o.Stray
	p.Refused += o.Refused
	p.Held += o.Held
	p.Latency = p.Latency.worse(o.Latency)
	p.Ack = p.Ack.worse(o.Ack)
	p.Late = p.Late.worse(o.Late)
}

func (s *Spread) worse(o *Spread) *Spread {
	if s == nil {
		return o
	}
	if o == nil {
		return s
	}
	return &Spread{max(s.P50, o.P50), max(s.P99, o.P99), max(s.Max, o.Max)}
}

// at gives the point that a second lies in.
func (r *recorder) at(second int64) *Point {
	for second/r.width >= pointsMax {
		r.widen()
	}
	n := second / r.width
	for int64(len(r.points)) <= n {
		r.points = append(r.points, Point{Second: float64(int64(len(r.points)) * r.width)})
	}
	return &r.points[n]
}

// widen makes one point of two.
func (r *recorder) widen() {
	r.close(int64(len(r.points)))
	r.points = halved(r.points)
	r.width *= 2
	r.closed = int64(len(r.points))
}

// halved makes one point of two, in the place of points.
func halved(points []Point) []Point {
	half := points[:0]
	for i := 0; i < len(points); i += 2 {
		p := points[i]
		if i+1 < len(points) {
			q := &points[i+1]
			p.add(q)
			p.Connected, p.ServerRSS = q.Connected, q.ServerRSS
			p.ServerCores, p.GeneratorCores = (p.ServerCores+q.ServerCores)/2, (p.GeneratorCores+q.GeneratorCores)/2
		}
		half = append(half, p)
	}
	return half
}

// gather takes what loops have handed over.
func (r *recorder) gather() {
	r.mu.Lock()
	cuts := r.mu.cuts
	r.mu.cuts = nil
	r.mu.Unlock()
	for i := range cuts {
		r.put(&cuts[i])
	}
	done := r.passed[0]
	for _, second := range r.passed {
		done = min(done, second)
	}
	r.close((done + 1) / r.width)
}

// put adds one loop's second to its point.
func (r *recorder) put(c *cut) {
	p := r.at(c.second)
	connected := c.point.Connected
	c.point.Connected = 0
	p.add(&c.point)
	if first := c.second % r.width; first == r.width-1 || r.width == 1 {
		p.Connected += connected
	}
	r.passed[c.loop] = c.second
	n := c.second / r.width
	if r.open[n] == nil {
		r.open[n] = &cutting{}
	}
	r.merge(r.open[n], &c.cutting)
}

// close gives the points below n their percentiles.
func (r *recorder) close(n int64) {
	for ; r.closed < n; r.closed++ {
		c := r.open[r.closed]
		if c == nil {
			continue
		}
		delete(r.open, r.closed)
		p := &r.points[r.closed]
		p.Latency, p.Ack, p.Late = p.Latency.worse(c.delivery.spread()), p.Ack.worse(c.acks.spread()), p.Late.worse(spread(c.lateness))
		r.merge(&r.total, c)
	}
}

// all gives its histograms.
func (c *cutting) all() [5]**hdrhistogram.Histogram {
	return [5]**hdrhistogram.Histogram{&c.delivery[0], &c.delivery[1], &c.acks[0], &c.acks[1], &c.lateness}
}

// merge adds o to c, and takes its histograms.
func (r *recorder) merge(c, o *cutting) {
	from := o.all()
	for i, to := range c.all() {
		h := *from[i]
		switch {
		case h == nil:
		case *to == nil:
			*to = h
		default:
			(*to).Merge(h)
			r.recycle(h)
		}
	}
	*o = cutting{}
}

func (p *split) spread() *Spread {
	if p[0] == nil {
		return spread(p[1])
	}
	if p[1] == nil {
		return spread(p[0])
	}
	both := p[0].Clone()
	both.Merge(p[1])
	return spread(both)
}

func spread(h *hdrhistogram.Histogram) *Spread {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	return &Spread{micros(h.ValueAtQuantile(50)), micros(h.ValueAtQuantile(99)), micros(h.Max())}
}

// finish gives the whole series. The loops have stopped and the last seconds are handed over.
func (r *recorder) finish() {
	r.gather()
	r.close(int64(len(r.points)))
}

// trimmed drops what is empty at the end. Connections that stand are no load, unless there was never any other.
func trimmed(points []Point) []Point {
	end := func(standing bool) int {
		for n := len(points); n > 0; n-- {
			p := points[n-1]
			p.Second, p.GeneratorCores = 0, 0
			if !standing {
				p.Connected = 0
			}
			if p != (Point{}) {
				return n
			}
		}
		return 0
	}
	if n := end(false); n > 0 {
		return points[:n]
	}
	return points[:end(true)]
}

// fillMixedSeries adds the seconds of the parts up, which have one clock: what the processes used is of the whole's own recorder.
func (r *run) fillMixedSeries(parts []*Result) {
	rec := r.recorder
	all := []*Series{}
	for _, p := range parts {
		if p != nil && p.Series != nil {
			all = append(all, &Series{Width: p.Series.Width, Points: slices.Clone(p.Series.Points)})
			rec.at(max(int64(len(p.Series.Points))*int64(p.Series.Width)-1, 0))
		}
	}
	for _, s := range all {
		for int64(s.Width) > rec.width {
			rec.widen()
		}
	}
	for _, s := range all {
		for int64(s.Width) < rec.width {
			s.Points = halved(s.Points)
			s.Width *= 2
		}
		for i := range s.Points {
			p := rec.at(int64(i) * rec.width)
			connected := p.Connected + s.Points[i].Connected
			p.add(&s.Points[i])
			p.Connected = connected
		}
	}
	r.fillSeries()
}

// lostAt notes that n deliveries of what was to be sent at a moment never came. The loops have stopped.
func (r *run) lostAt(at int64, n uint64) {
	r.result.total.marks[faultLost].add(at, n)
	r.recorder.at(max(at, 0) / 1e9).Lost += n
}

// fillSeries puts the series into the result. The loops have stopped.
func (r *run) fillSeries() {
	s := &Series{Width: float64(r.recorder.width), Points: trimmed(r.recorder.points)}
	if from := r.measureFrom.Load(); from != math.MaxInt64 {
		s.From = seconds(from)
		s.Until = seconds(min(r.measureUntil.Load(), r.clock()))
	}
	r.result.Series = s
}
