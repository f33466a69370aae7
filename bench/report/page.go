package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/bench"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// itemsMax bounds a report: more lines cannot be told apart.
const itemsMax = 8

// banner is what a page says first of an item.
type banner struct {
	Class string // bad, void, partial, good
	Name  string
	Lines []string
}

// table is a table with a column for each item.
type table struct {
	Title string
	Heads []string
	Rows  []row
}

type row struct {
	Name  string
	Cells []string
}

type pageData struct {
	Title    string
	Written  string
	Banners  []banner
	Warnings []string
	Plots    []template.HTML
	Tables   []table
}

// WriteHTML writes a page about the items, of which there may be eight: one alone in full, several side by side.
func WriteHTML(w io.Writer, items []Item) error {
	if len(items) == 0 || len(items) > itemsMax {
		return fmt.Errorf("a report is of 1 to %d results, not of %d", itemsMax, len(items))
	}
	items = slices.Clone(items)
	for i := range items {
		if items[i].Name == "" {
			items[i].Name = fmt.Sprintf("run %d", i+1)
		}
	}
	d := pageData{Title: title(items), Written: time.Now().UTC().Format("2006-01-02 15:04 MST"), Warnings: Warnings(items)}
	for _, it := range items {
		d.Banners = append(d.Banners, it.banners()...)
	}
	slices.SortStableFunc(d.Banners, func(a, b banner) int { return bannerRank[a.Class] - bannerRank[b.Class] })
	plots := append([]template.HTML{ladderPlot(items), curvePlot(items), latencyPlot(items), ratePlot(items), cpuPlot(items), memoryPlot(items),
		connectionPlot(items)}, partPlots(items)...)
	for _, p := range plots {
		if p != "" {
			d.Plots = append(d.Plots, p)
		}
	}
	d.Tables = tables(items)
	return page.Execute(w, &d)
}

var bannerRank = map[string]int{"bad": 0, "void": 1, "partial": 2, "good": 3}

func title(items []Item) string {
	names := make([]string, len(items))
	for i, it := range items {
		names[i] = it.Name
	}
	what := ""
	if r := items[0].first(); r != nil {
		what = strings.TrimSpace(r.Name)
		if what == "" {
			what = r.Scenario
		}
	}
	if items[0].Ladder != nil {
		what = "ladder of " + items[0].Ladder.Name
	}
	if len(items) == 1 {
		return what
	}
	return what + ": " + strings.Join(names, ", ")
}

// banners are what must be seen before any figure.
func (it *Item) banners() []banner {
	if l := it.Ladder; l != nil {
		return []banner{it.ladderBanner(l)}
	}
	r := it.Result
	b := banner{Name: it.Name}
	switch {
	case len(r.Violations) > 0:
		b.Class, b.Lines = "bad", r.Violations
	case r.Void != "":
		b.Class, b.Lines = "void", []string{"No result: " + r.Void}
	case r.Partial:
		b.Class, b.Lines = "partial", []string{"Partial: the run was interrupted."}
	default:
		text := "Nothing was lost, doubled, reordered or corrupted."
		if r.Counts.Sent == 0 {
			text = "Nothing is wrong."
		}
		b.Class, b.Lines = "good", []string{text}
	}
	if r.Void != "" && b.Class == "bad" {
		b.Lines = append(slices.Clone(b.Lines), "No result: "+r.Void)
	}
	if r.Generator.Bottleneck != "" && r.Void == "" {
		b.Lines = append(slices.Clone(b.Lines), "Generator: "+r.Generator.Bottleneck)
	}
	return []banner{b}
}

func (it *Item) ladderBanner(l *Ladder) banner {
	b := banner{Class: "good", Name: it.Name}
	switch {
	case l.Held == 0:
		b.Class, b.Lines = "bad", []string{fmt.Sprintf("No rate held to %s.", l.Objective)}
	case l.Missed > 0:
		b.Lines = []string{fmt.Sprintf("%s messages a second hold to %s; %s do not.", amount(l.Held), l.Objective, amount(l.Missed))}
	default:
		b.Lines = []string{fmt.Sprintf("%s messages a second hold to %s; no rate was found that does not.", amount(l.Held), l.Objective)}
	}
	if l.Rule == "violation" {
		b.Class = "bad"
	}
	if l.Partial && b.Class == "good" {
		b.Class = "partial"
	}
	b.Lines = append(b.Lines, fmt.Sprintf("The ladder ended by the rule %q: %s", l.Rule, l.Reason))
	return b
}

// tables are the figures side by side.
func tables(items []Item) []table {
	var heads []string
	for _, it := range items {
		if len(items) > 1 {
			heads = append(heads, it.Name)
		}
	}
	var out []table
	for _, t := range []struct {
		title string
		rows  func(*bench.Result) []fact
	}{
		{"Latency", latencyFacts}, {"Counts and rates", countFacts}, {"Server", serverFacts}, {"Events of the measured part", eventFacts},
		{"Generator", generatorFacts}, {"Where and how", whereFacts},
	} {
		x := table{Title: t.title, Heads: heads}
		for i, it := range items {
			if it.Result == nil {
				continue
			}
			for _, f := range t.rows(it.Result) {
				x.set(f, i, len(items))
			}
		}
		if len(x.Rows) > 0 {
			out = append(out, x)
		}
	}
	for _, it := range items {
		if it.Ladder != nil {
			out = append(out, rungTable(it))
		} else {
			out = append(out, stepTables(it)...)
		}
	}
	return out
}

func (t *table) set(f fact, column, columns int) {
	at := slices.IndexFunc(t.Rows, func(r row) bool { return r.Name == f.name })
	if at < 0 {
		at = len(t.Rows)
		t.Rows = append(t.Rows, row{f.name, make([]string, columns)})
	}
	t.Rows[at].Cells[column] = f.value
}

func rungTable(it Item) table {
	t := table{Title: it.Name + ": rungs", Heads: []string{"verdict", "runs", "figures", "reasons"}}
	for _, r := range it.Ladder.Rungs {
		var bounds []string
		for _, b := range r.Bounds {
			bounds = append(bounds, fmt.Sprintf("%s %s (%s to %s)", b.Of, micros(b.Median), micros(b.Low), micros(b.High)))
		}
		t.Rows = append(t.Rows, row{amount(r.Rate) + "/s", []string{r.Verdict, fmt.Sprint(len(r.Runs)), strings.Join(bounds, ", "), strings.Join(r.Reasons, "; ")}})
	}
	return t
}

func stepTables(it Item) []table {
	var out []table
	if r := it.Result; len(r.Steps) > 0 {
		t := table{Title: it.Name + ": steps", Heads: []string{"count", "seconds", "a second", "server CPU each", "server bytes each"}}
		for _, s := range r.Steps {
			t.Rows = append(t.Rows, row{s.Name, []string{amount(float64(s.Count)), trim(s.Seconds), amount(s.PerSecond), micros(s.CPUEach), amount(s.BytesEach)}})
		}
		out = append(out, t)
	}
	if r := it.Result; len(r.Parts) > 0 {
		t := table{Title: it.Name + ": parts", Heads: []string{"sent", "received", "lost", "p50", "p99", "p99.9"}}
		for _, p := range r.Parts {
			cells := []string{amount(float64(p.Counts.Sent)), amount(float64(p.Counts.Received)), amount(float64(p.Counts.Lost)), "", "", ""}
			if d := p.Latency; d != nil {
				cells[3], cells[4], cells[5] = micros(d.P50), micros(d.P99), micros(d.P999)
			}
			t.Rows = append(t.Rows, row{p.Name, cells})
		}
		out = append(out, t)
	}
	if r := it.Result; len(r.Notes) > 0 {
		t := table{Title: it.Name + ": notes", Heads: []string{"times", "what"}}
		for _, n := range r.Notes {
			t.Rows = append(t.Rows, row{fmt.Sprintf("second %.1f", n.Second), []string{fmt.Sprint(n.Count), n.Text}})
		}
		out = append(out, t)
	}
	return out
}

func latencyFacts(r *bench.Result) (out []fact) {
	for _, x := range []struct {
		name string
		d    *bench.Distribution
	}{{"delivery", r.Latency}, {"acknowledgement", acks(r)}, {"connect", r.Connects}} {
		if x.d == nil {
			continue
		}
		for _, p := range []struct {
			name string
			v    float64
		}{{"p50", x.d.P50}, {"p90", x.d.P90}, {"p99", x.d.P99}, {"p99.9", x.d.P999}, {"p99.99", x.d.P9999}, {"max", x.d.Max}} {
			out = append(out, fact{x.name + " " + p.name, micros(p.v)})
		}
	}
	return out
}

func countFacts(r *bench.Result) (out []fact) {
	c := &r.Counts
	always := map[string]bool{"sent": true, "received": true, "lost": true, "duplicates": true, "reordered": true, "corrupt": true}
	for _, x := range []struct {
		name string
		n    uint64
	}{
		{"lost", c.Lost}, {"duplicates", c.Duplicates}, {"reordered", c.Reordered}, {"corrupt", c.Corrupt}, {"stray", c.Stray}, {"refused", c.Refused},
		{"never acknowledged", c.Unacknowledged}, {"undecided", c.Undecided}, {"connections ended", c.Disconnects},
		{"connections that could not be had", c.NotConnected}, {"sent", c.Sent}, {"acknowledged", c.Acked}, {"received", c.Received},
		{"with the DUP flag", c.Redelivered},
	} {
		if x.n > 0 || always[x.name] {
			out = append(out, fact{x.name, fmt.Sprint(x.n)})
		}
	}
	if r.Seconds > 0 {
		out = append(out, fact{"measured", trim(r.Seconds) + " s"})
	}
	if r.Rates.SentPerSecond > 0 {
		out = append(out, fact{"sent a second", amount(r.Rates.SentPerSecond)}, fact{"received a second", amount(r.Rates.ReceivedPerSecond)})
	}
	return out
}

func serverFacts(r *bench.Result) (out []fact) {
	v := r.Server
	if v == nil {
		return nil
	}
	add := func(name string, n float64, text string) {
		if n != 0 {
			out = append(out, fact{name, text})
		}
	}
	add("CPU a message", v.CPUPerMessage, micros(v.CPUPerMessage))
	add("CPU a delivery", v.CPUPerDelivery, micros(v.CPUPerDelivery))
	add("CPU a connection", v.CPUPerConnection, micros(v.CPUPerConnection))
	add("CPU a MB on the wire", v.CPUPerMB, micros(v.CPUPerMB))
	add("cores", v.BusyCores, trim(v.BusyCores))
	add("memory before", float64(v.RSSBefore), amount(float64(v.RSSBefore))+"B")
	add("memory after", float64(v.RSSAfter), amount(float64(v.RSSAfter))+"B")
	add("bytes a connection", v.BytesPerConnection, amount(v.BytesPerConnection))
	add("disk bytes a message", v.DiskPerMessage, trim(v.DiskPerMessage))
	add("flushes a message", v.FlushesPerMessage, trim(v.FlushesPerMessage))
	add("context switches a 1000 messages", v.SwitchesPerThousand, trim(v.SwitchesPerThousand))
	if m, e := v.Metrics, r.Events; m != nil && e != nil && e.Messages > 0 {
		n := float64(e.Messages)
		add("wake-ups a message", m.Wakeups, trim(m.Wakeups/n))
		add("socket reads a message", m.SocketReads, trim(m.SocketReads/n))
		add("socket writes a message", m.SocketWrites, trim(m.SocketWrites/n))
		add("allocations a message", m.Allocations, trim(m.Allocations/n))
		add("CPU of collections", m.GCCPUSeconds, trim(m.GCCPUSeconds)+" s")
	}
	return out
}

func eventFacts(r *bench.Result) (out []fact) {
	e := r.Events
	if e == nil {
		return nil
	}
	for _, x := range []struct {
		name string
		n    uint64
	}{
		{"connects", e.Connects}, {"PUBLISH in at QoS 0", e.PublishesIn[0]}, {"PUBLISH in at QoS 1", e.PublishesIn[1]}, {"PUBLISH in at QoS 2", e.PublishesIn[2]},
		{"PUBLISH out at QoS 0", e.PublishOut[0]}, {"PUBLISH out at QoS 1", e.PublishOut[1]}, {"PUBLISH out at QoS 2", e.PublishOut[2]},
		{"acknowledgements in", e.AcksIn}, {"acknowledgements out", e.AcksOut}, {"pings", e.Pings}, {"filters subscribed to", e.Filters}, {"retained", e.Retained},
		{"requests", e.Requests}, {"produce requests", e.Produces}, {"batches in", e.Batches}, {"fetches", e.Fetches}, {"batches out", e.BatchesOut},
		{"transactions ended", e.EndTxns},
	} {
		if x.n > 0 {
			out = append(out, fact{x.name, fmt.Sprint(x.n)})
		}
	}
	return append(out, fact{"bytes in on the wire", amount(float64(e.WireIn)) + "B"}, fact{"bytes out on the wire", amount(float64(e.WireOut)) + "B"})
}

func generatorFacts(r *bench.Result) (out []fact) {
	g := &r.Generator
	out = append(out, fact{"cores", trim(g.BusyCores)}, fact{"time without a processor", trim(g.WaitSeconds) + " s"}, fact{"sends held up by the broker", fmt.Sprint(g.Held)})
	if d := g.Late; d != nil {
		out = append(out, fact{"late sends p50", micros(d.P50)}, fact{"late sends p99", micros(d.P99)}, fact{"late sends max", micros(d.Max)})
	}
	return out
}

func whereFacts(r *bench.Result) []fact {
	h := &r.Hardware
	out := []fact{
		{"scenario", strings.TrimSpace(r.Name + " " + r.Scenario)}, {"address", r.URL}, {"settings", settings(r)},
		{"started", r.Started.Format("2006-01-02 15:04:05 MST")}, {"generator's version", r.Tool}, {"seed", fmt.Sprint(r.Seed)}, {"processor", h.CPU}, {"cores", fmt.Sprint(h.Cores)},
		{"memory", amount(float64(h.MemoryBytes)) + "B"}, {"kernel", h.Kernel}, {"load average before", trim(h.LoadAverage)},
	}
	if r.Config.Rate > 0 {
		out = append(out, fact{"rate asked for", amount(r.Config.Rate) + "/s"})
	}
	return out
}
