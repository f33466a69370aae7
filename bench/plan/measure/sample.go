package measure

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sample is how the server was at one moment.
type sample struct {
	at       time.Time // when CPU time was read first
	ended    time.Time // and last
	first    time.Duration
	last     time.Duration      // CPU time once its metrics had been read
	memory   float64            // resident, but for shared mappings
	mapped   float64            // resident of those: the log's pages, which are the kernel's to take back
	counters map[string]float64 // by metric name, labels in braces; nil: no metrics address
}

// observer looks at the server.
type observer struct {
	pid     int
	metrics string
	client  *http.Client
	samples []sample
	err     error
	settle  map[int]time.Duration // how long to wait before sample n
}

// take adds a sample. What the reading of the metrics costs the server lies between first and last.
func (o *observer) take(ctx context.Context) {
	if wait := o.settle[len(o.samples)]; wait > 0 {
		pause(ctx, wait)
	}
	s := sample{at: time.Now()}
	var err error
	if s.first, err = processCPU(o.pid); err != nil && o.err == nil {
		o.err = err
	}
	if s.memory, s.mapped, err = processMemory(o.pid); err != nil && o.err == nil {
		o.err = err
	}
	if o.metrics != "" {
		if s.counters, err = o.scrape(ctx); err != nil && o.err == nil {
			o.err = err
		}
	}
	s.last, _ = processCPU(o.pid)
	s.ended = time.Now()
	o.samples = append(o.samples, s)
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const scrapeMax = 8 << 20

func (o *observer) scrape(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, o.metrics, nil)
	if err != nil {
		return nil, err
	}
	p, err := o.client.Do(q)
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	defer p.Body.Close()
	if p.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the metrics: %s answers %s", o.metrics, p.Status)
	}
	return parseMetrics(io.LimitReader(p.Body, scrapeMax))
}

// parseMetrics reads the text format of Prometheus: NAME{LABELS} VALUE a line.
func parseMetrics(r io.Reader) (map[string]float64, error) {
	m := map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read the metrics: %q is no number", line[at+1:])
		}
		m[line[:at]] = v
	}
	return m, lines.Err()
}

// processCPU is the CPU time of a process, to the nanosecond where the kernel counts so.
func processCPU(pid int) (time.Duration, error) {
	files, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("there is no process %d, or its kernel does not say what it used", pid)
	}
	var sum time.Duration
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		text, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %q", name, b)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// processMemory gives resident bytes of private mappings and of shared ones.
func processMemory(pid int) (private, shared float64, err error) {
	name := "/proc/" + strconv.Itoa(pid) + "/smaps"
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return parseSmaps(f, name)
}

// parseSmaps reads mappings: a line with the addresses and the permissions, the fourth of which tells whether it is shared, then a line
// for each figure.
func parseSmaps(r io.Reader, name string) (private, shared float64, err error) {
	to, any := &private, false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		switch {
		case len(fields) >= 5 && len(fields[1]) == 4:
			if to = &private; fields[1][3] == 's' {
				to = &shared
			}
		case len(fields) == 3 && string(fields[0]) == "Rss:":
			kb, err := strconv.ParseFloat(string(fields[1]), 64)
			if err != nil {
				return 0, 0, fmt.Errorf("%s: %w", name, err)
			}
			*to += kb * 1024
			any = true
		}
	}
	if err == nil && !any {
		err = fmt.Errorf("%s: no Rss", name)
	}
	return private, shared, errors.Join(err, lines.Err())
}
