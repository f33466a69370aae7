package server

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// known are the metrics of docs/operate/metrics.md, which TestMetricsUpToDate holds against the program, with their labels.
func known(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{"up": nil, "process_cpu_seconds_total": nil, "process_resident_memory_bytes": nil}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(cells[1], " `sluice_") {
			continue
		}
		name := strings.Trim(cells[1], " `")
		all[name] = strings.FieldsFunc(cells[3], func(r rune) bool { return strings.ContainsRune(" `,", r) })
		if strings.TrimSpace(cells[2]) == "histogram" {
			all[name+"_bucket"] = append(slices.Clone(all[name]), "le")
		}
	}
	return all
}

var (
	metricName  = regexp.MustCompile(`\b(sluice_[a-z_]+|process_[a-z_]+|up)\b`)
	groupedBy   = regexp.MustCompile(`by \(([a-z_, ]+)\)`)
	labelShown  = regexp.MustCompile(`\{\{ *(?:\$labels\.)?([a-z_]+) *\}\}`)
	everyTarget = []string{"instance", "job"} // what Prometheus adds
)

// checkQuery says what a query or its texts name that no node exports.
func checkQuery(t *testing.T, where, query string, metrics map[string][]string, texts ...string) {
	t.Helper()
	var labels []string
	names := metricName.FindAllString(query, -1)
	if len(names) == 0 {
		t.Errorf("%s: no metric in %q", where, query)
	}
	for _, name := range names {
		own, ok := metrics[name]
		if !ok {
			t.Errorf("%s: no node exports %s", where, name)
		}
		labels = append(labels, own...)
	}
	labels = append(labels, everyTarget...)
	var used []string
	for _, m := range groupedBy.FindAllStringSubmatch(query, -1) {
		used = append(used, strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	for _, s := range texts {
		for _, m := range labelShown.FindAllStringSubmatch(s, -1) {
			used = append(used, m[1])
			if by := groupedBy.FindStringSubmatch(query); by != nil && !strings.Contains(by[1], m[1]) {
				t.Errorf("%s: %s is shown, and %q leaves it out", where, m[1], query)
			}
		}
	}
	for _, l := range used {
		if !slices.Contains(labels, l) {
			t.Errorf("%s: no metric of %q has the label %s", where, query, l)
		}
	}
	if strings.Count(query, "(") != strings.Count(query, ")") || strings.Count(query, "{") != strings.Count(query, "}") {
		t.Errorf("%s: brackets of %q", where, query)
	}
}

// The alert rules name what nodes export.
func TestAlertRules(t *testing.T) {
	b, err := os.ReadFile("../deploy/prometheus/sluice.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	metrics, seen := known(t), make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] || r.Annotations["summary"] == "" || !slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("alert %q of %s: want a name of its own, a summary, and a severity", r.Alert, g.Name)
			}
			seen[r.Alert] = true
			checkQuery(t, r.Alert, r.Expr, metrics, r.Annotations["summary"])
		}
	}
	if len(seen) < 15 {
		t.Errorf("%d alerts", len(seen))
	}
}

// The dashboard shows what nodes export.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("../deploy/grafana/sluice.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID    string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	metrics, ids := known(t), make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d, %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			checkQuery(t, p.Title, q.Expr, metrics, q.LegendFormat)
		}
	}
	if d.UID != "sluice" || len(ids) < 20 {
		t.Errorf("%s has %d panels", d.UID, len(ids))
	}
}
