package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/report"
)

// lossy gives the result of a run against a broker that loses, and of one against a sound one.
func results(t *testing.T) (sound, lossy *bench.Result) {
	t.Helper()
	run := func(f brokertest.Faults, rate float64) *bench.Result {
		b := brokertest.Start(t, brokertest.Options{Faults: f})
		res, err := bench.Run(t.Context(), bench.Config{Scenario: "pairs", URL: b.URL(), Publishers: 4, Rate: rate, QoS: 1, Warmup: -1,
			Duration: 1200 * time.Millisecond, Drain: 200 * time.Millisecond, LateMax: time.Hour, PIDs: []int{os.Getpid()}, Tool: "test", Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	return run(brokertest.Faults{}, 1000), run(brokertest.Faults{DropEvery: 50, DoubleEvery: 70}, 2000)
}

const ladder = `{"ladder":"<fleet>","objective":"p99 < 5ms","rule":"objective","reason":"closed in","held":2000,"missed":2100,"rungs":[
{"rate":1000,"verdict":"held","bounds":[{"of":"p99","low":100,"median":120,"high":150}],"runs":[{"verdict":"held"}]},
{"rate":2100,"verdict":"missed","reasons":["p99 was 9ms"],"bounds":[{"of":"p99","low":8000,"median":9000,"high":9500}],"runs":[]}]}`

func TestPage(t *testing.T) {
	sound, lossy := results(t)
	lossy.Name = "<b>bad & evil</b>"
	dir := t.TempDir()
	var items []report.Item
	for name, v := range map[string]any{"sound": sound, "lossy": lossy, "ladder": json.RawMessage(ladder)} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name+".json")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		it, err := report.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		if it.Name != name {
			t.Errorf("%s is called %s", name, it.Name)
		}
		items = append(items, it)
	}
	for _, set := range append([][]report.Item{items}, items[:1], items[1:2], items[2:]) {
		var page bytes.Buffer
		if err := report.WriteHTML(&page, set); err != nil {
			t.Fatal(err)
		}
		text := page.String()
		for _, never := range []string{"<b>bad", "<fleet>", "NaN", "ZgotmplZ", "<script", "http://", "https://", "src="} {
			if strings.Contains(strings.ReplaceAll(text, "mqtt://", ""), never) {
				t.Errorf("%q is in the page of %s", never, set[0].Name)
			}
		}
		if !strings.Contains(text, "<polyline") {
			t.Errorf("no plot in the page of %s", set[0].Name)
		}
		for i, it := range set {
			if it.Name == "lossy" {
				bad := strings.Index(text, `class="banner bad"`)
				if bad < 0 || strings.Contains(text[:bad], `class="banner good"`) || !strings.Contains(text, "LOST: ") {
					t.Errorf("item %d: the loss does not come first", i)
				}
			}
		}
		if alike := !strings.Contains(text, "not alike"); alike != (len(set) == 1) {
			t.Errorf("%d items, alike: %v", len(set), alike)
		}
	}
	if err := report.WriteHTML(&bytes.Buffer{}, nil); err == nil {
		t.Error("a page of nothing")
	}
}

func TestCSV(t *testing.T) {
	_, lossy := results(t)
	var out bytes.Buffer
	if err := report.WriteCSV(&out, lossy); err != nil {
		t.Fatal(err)
	}
	facts, series, _ := strings.Cut(out.String(), "\n\n")
	if !strings.HasPrefix(facts, "name,value\nviolation,LOST: ") {
		t.Errorf("the loss does not come first: %.60s", facts)
	}
	rows, err := csv.NewReader(strings.NewReader(series)).ReadAll()
	if err != nil || len(rows) < 3 || rows[0][7] != "lost" || rows[1][7] == "0" {
		t.Errorf("%v, %q", err, rows)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "text": "hello", "array": "[]", "other": `{"a":1}`, "type": `{"scenario":7}`} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := report.Read(file); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := report.Read(filepath.Join(dir, "absent")); err == nil {
		t.Error("no error for a file that is not there")
	}
}
