package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"

	"github.com/sluicemq/sluice/bench"
)

// WriteCSV writes a result as two tables with an empty line between them: names and values, the violations first, and the seconds of
// the run. Times are in seconds, latencies in microseconds.
func WriteCSV(w io.Writer, r *bench.Result) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"name", "value"}}
	for _, v := range r.Violations {
		rows = append(rows, []string{"violation", v})
	}
	if r.Void != "" {
		rows = append(rows, []string{"void", r.Void})
	}
	for _, f := range facts(r) {
		rows = append(rows, []string{f.name, f.value})
	}
	if err := c.WriteAll(rows); err != nil {
		return err
	}
	if r.Series == nil {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return c.WriteAll(seriesRows(r.Series))
}

// fact is one figure under its name.
type fact struct{ name, value string }

func facts(r *bench.Result) []fact {
	var out []fact
	add := func(name string, v any) {
		text := fmt.Sprint(v)
		if f, ok := v.(float64); ok {
			text = strconv.FormatFloat(f, 'f', -1, 64)
		}
		out = append(out, fact{name, text})
	}
	add("ok", r.OK)
	add("partial", r.Partial)
	add("name", r.Name)
	add("scenario", r.Scenario)
	add("url", r.URL)
	add("started", r.Started.Format("2006-01-02T15:04:05Z07:00"))
	add("version", r.Tool)
	add("seed", r.Seed)
	add("cpu", r.Hardware.CPU)
	add("cores", r.Hardware.Cores)
	add("memory_bytes", r.Hardware.MemoryBytes)
	add("kernel", r.Hardware.Kernel)
	add("settings", settings(r))
	add("rate", r.Config.Rate)
	add("seconds", r.Seconds)
	c := &r.Counts
	for _, x := range []struct {
		name string
		n    uint64
	}{
		{"lost", c.Lost}, {"duplicates", c.Duplicates}, {"reordered", c.Reordered}, {"corrupt", c.Corrupt}, {"stray", c.Stray},
		{"refused", c.Refused}, {"unacknowledged", c.Unacknowledged}, {"disconnects", c.Disconnects}, {"not_connected", c.NotConnected},
		{"sent", c.Sent}, {"acked", c.Acked}, {"received", c.Received},
	} {
		add(x.name, x.n)
	}
	add("sent_per_second", r.Rates.SentPerSecond)
	add("received_per_second", r.Rates.ReceivedPerSecond)
	for _, d := range []struct {
		name string
		d    *bench.Distribution
	}{{"latency", r.Latency}, {"ack", acks(r)}, {"connect", r.Connects}, {"late", r.Generator.Late}} {
		if d.d == nil {
			continue
		}
		add(d.name+"_p50_us", d.d.P50)
		add(d.name+"_p90_us", d.d.P90)
		add(d.name+"_p99_us", d.d.P99)
		add(d.name+"_p99.9_us", d.d.P999)
		add(d.name+"_p99.99_us", d.d.P9999)
		add(d.name+"_max_us", d.d.Max)
	}
	if v := r.Server; v != nil {
		add("server_cpu_seconds", v.CPUSeconds)
		add("server_cpu_us_per_message", v.CPUPerMessage)
		add("server_cpu_us_per_mb", v.CPUPerMB)
		add("server_rss_before", v.RSSBefore)
		add("server_rss_after", v.RSSAfter)
		add("server_bytes_per_connection", v.BytesPerConnection)
		add("server_disk_bytes_per_message", v.DiskPerMessage)
		add("server_flushes_per_message", v.FlushesPerMessage)
	}
	add("generator_cores", r.Generator.BusyCores)
	add("generator_bottleneck", r.Generator.Bottleneck)
	return out
}

// acks is the latency to the acknowledgement, of either protocol.
func acks(r *bench.Result) *bench.Distribution {
	if r.Kafka != nil {
		return r.Kafka.Acknowledged
	}
	return r.Acks
}

func seriesRows(s *bench.Series) [][]string {
	rows := [][]string{{"second", "measured", "connected", "disconnected", "sent", "acked", "received", "lost", "duplicates", "reordered",
		"corrupt", "stray", "refused", "held_by_broker", "latency_p50_us", "latency_p99_us", "latency_max_us", "ack_p50_us", "ack_p99_us",
		"ack_max_us", "late_p99_us", "late_max_us", "server_cores", "server_rss", "generator_cores"}}
	float := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	for i := range s.Points {
		p := &s.Points[i]
		row := []string{float(p.Second), strconv.FormatBool(p.Second+s.Width > s.From && p.Second < s.Until)}
		for _, n := range []uint64{p.Connected, p.Disconnected, p.Sent, p.Acked, p.Received, p.Lost, p.Duplicates, p.Reordered, p.Corrupt, p.Stray,
			p.Refused, p.Held} {
			row = append(row, strconv.FormatUint(n, 10))
		}
		for _, d := range []*bench.Spread{p.Latency, p.Ack} {
			if d == nil {
				row = append(row, "", "", "")
			} else {
				row = append(row, float(d.P50), float(d.P99), float(d.Max))
			}
		}
		if p.Late == nil {
			row = append(row, "", "")
		} else {
			row = append(row, float(p.Late.P99), float(p.Late.Max))
		}
		rows = append(rows, append(row, float(p.ServerCores), strconv.FormatInt(p.ServerRSS, 10), float(p.GeneratorCores)))
	}
	return rows
}
