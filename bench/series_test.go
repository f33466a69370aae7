package bench

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestSeriesWidens(t *testing.T) {
	r := newRecorder(2)
	const seconds = 2*pointsMax + 101
	var loops [2]cut
	for s := range int64(seconds) {
		for l := range loops {
			c := &loops[l]
			c.loop, c.second, c.point = l, s, Point{Sent: 2, Connected: 5}
			c.delivery.observe(1e6, s%2 == 0)
			if !r.take(c) {
				t.Fatal("no room")
			}
		}
		r.gather()
	}
	r.finish()
	sent := uint64(0)
	for i, p := range r.points {
		sent += p.Sent
		if p.Latency == nil || math.Abs(p.Latency.P50-1000) > 1 || p.Second != float64(int64(i)*r.width) {
			t.Fatalf("point %d: %+v", i, p)
		}
	}
	if r.width != 4 || len(r.points) > pointsMax || sent != 4*seconds || r.points[3].Connected != 10 {
		t.Errorf("%d points of %d s, %d sent, %+v", len(r.points), r.width, sent, r.points[3])
	}
	if n := r.total.delivery[0].TotalCount() + r.total.delivery[1].TotalCount(); n != 2*seconds {
		t.Errorf("%d latencies", n)
	}
}

// TestMixedSeriesOfUnlikeWidths: a part that went on for longer has wider points than another.
func TestMixedSeriesOfUnlikeWidths(t *testing.T) {
	series := func(width float64, points int) *Result {
		s := &Series{Width: width}
		for i := range points {
			s.Points = append(s.Points, Point{Second: float64(i) * width, Sent: uint64(width), Connected: 3, Latency: &Spread{P99: float64(i)}})
		}
		return &Result{Series: s}
	}
	r := &run{recorder: newRecorder(0), result: &Result{}, base: time.Now()}
	r.measureFrom.Store(math.MaxInt64)
	r.recorder.at(11).ServerRSS = 7
	r.fillMixedSeries([]*Result{series(1, 1001), nil, series(4, 600)})
	s := r.result.Series
	if s.Width != 4 || len(s.Points) != 600 || s.Points[2].ServerRSS != 7 {
		t.Fatalf("%d points of %v s, %+v", len(s.Points), s.Width, s.Points[2])
	}
	for i, want := range map[int]Point{0: {Sent: 8, Connected: 6}, 249: {Sent: 8, Connected: 6}, 250: {Sent: 5, Connected: 6}, 251: {Sent: 4, Connected: 3}} {
		if p := s.Points[i]; p.Sent != want.Sent || p.Connected != want.Connected || p.Second != float64(4*i) {
			t.Errorf("point %d: %+v", i, p)
		}
	}
	if p := s.Points[3].Latency; p == nil || p.P99 != 15 {
		t.Errorf("the worst of the point is %+v", p)
	}
}

func TestMergedDistribution(t *testing.T) {
	a, b := newHist(), newHist()
	for i := range int64(1000) {
		observe(a, i*1000)
		observe(b, i*100_000)
	}
	want := hdrhistogram.Import(a.Export())
	want.Merge(b)
	got, err := Merge(distribution(a), nil, distribution(b))
	if err != nil || *got != *distribution(want) {
		t.Fatalf("%v: %+v, want %+v", err, got, distribution(want))
	}
	if c := got.Curve(); len(c) < 50 || c[len(c)-1].Quantile != 1 || c[len(c)-1].Value < 99_000 {
		t.Errorf("curve %v", c)
	}
	broken := *got
	broken.HDR = broken.HDR[:20]
	if _, err := Merge(&broken); err == nil {
		t.Error("a broken histogram is merged")
	}
	if d, err := Merge(); d != nil || err != nil {
		t.Errorf("of nothing: %v, %v", d, err)
	}
}

// TestMessageCostsNothingMore guards what the generator does for one delivery.
func TestMessageCostsNothingMore(t *testing.T) {
	var s stats
	s.init()
	var k track
	n := uint64(0)
	f := func() {
		s.latency(1000, true)
		k.see(n, int64(n))
		n++
	}
	f()
	if n := testing.AllocsPerRun(1000, f); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestVoid(t *testing.T) {
	r := &run{cfg: Config{Rate: 1000, LateMax: time.Millisecond}, ctx: t.Context()}
	r.result = &Result{Seconds: 10, Generator: Generator{Late: &Distribution{P99: 3000}, WaitSeconds: 4}, Latency: &Distribution{P99: 4000}}
	if v := r.void(); v != "the generator lacked CPU: its sends were late by 3000 µs at p99 through no fault of the broker; its threads waited 4.0 s for a processor" {
		t.Errorf("%q", v)
	}
	r.result.total.sentMeasured = 10_000
	r.result.Latency.P99 = 20_000 // nearly all of it is the broker's
	if v := r.void(); v != "" {
		t.Errorf("%q", v)
	}
	r.result.total.sentMeasured = 5000
	if v := r.void(); v == "" {
		t.Error("half of the messages were not sent")
	}
	r.result.total.held = 5000
	if v := r.void(); v != "" {
		t.Errorf("the broker held them up: %q", v)
	}
}

func TestParseMetrics(t *testing.T) {
	const text = `# TYPE sluice_journal_flush_seconds histogram
sluice_journal_flush_seconds_bucket{le="+Inf"} 7
sluice_journal_flush_seconds_sum 0.5
sluice_journal_flush_seconds_count 7
# TYPE sluice_engine_system_calls_total counter
sluice_engine_system_calls_total{call="read"} 11
sluice_engine_system_calls_total{call="write"} 13
# TYPE sluice_engine_wakeups_total counter
sluice_engine_wakeups_total 17
other 1
`
	s, err := parseMetrics(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	m := s.since(scrape{"sluice_engine_wakeups_total": 7})
	if m.Flushes != 7 || m.FlushSeconds != 0.5 || m.SocketReads != 11 || m.SocketWrites != 13 || m.Wakeups != 10 {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{"", "<html>"} {
		if _, err := parseMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken for metrics", bad)
		}
	}
}

// Connections that stand are all that a part without load has to show.
func TestTrimmed(t *testing.T) {
	idle := []Point{{Second: 0, Connected: 3}, {Second: 1, Connected: 3}, {Second: 2}}
	if got := trimmed(idle); len(got) != 2 {
		t.Errorf("%+v", got)
	}
	load := []Point{{Second: 0, Connected: 3, Sent: 1}, {Second: 1, Connected: 3}}
	if got := trimmed(load); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}
