// Command compare runs load scenarios against several brokers in turn, A B A B, and prints a markdown table of medians,
// spread and ratios.
//
// It starts no broker: each peer is given by name, address and process id and runs already, with settings that the caller
// finds fair. Every measurement is one run of sluice bench in a process of its own, so that no run warms the next one's
// generator. Results with a violation are counted out and said.
//
//	go run ./perf/compare --peer ours=127.0.0.1:1883,4711 --peer mosquitto=127.0.0.1:2883,4712 --rounds 3
//	go run ./perf/compare --protocol kafka --peer ours=127.0.0.1:9092,4711 --peer kafka=127.0.0.1:19092,4713 --rounds 5
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluicemq/sluice/bench"
)

// peer is a running broker.
type peer struct {
	name, addr string
	pids       []string
}

// row is one scenario: the arguments of sluice bench mqtt, or kafka.
type row struct {
	name string
	args []string
}

// protocol is what the peers speak.
type protocol struct {
	name      string
	scenarios func() []string
	rows      string // the lines of the table of figures in docs/performance.md
}

var protocols = map[string]protocol{
	"mqtt": {"mqtt", bench.Scenarios, mqttRows}, "kafka": {"kafka", bench.KafkaScenarios, kafkaRows},
}

const mqttRows = `
QoS 0, pipelined: pairs --qos 0 --pipeline 64
QoS 0, 2,000 msg/s: pairs --qos 0 --rate 2000
QoS 1, 20 in flight: pairs --qos 1 --inflight 20
QoS 1, durable sessions: pairs --qos 1 --inflight 20 --durable
QoS 2, 20 in flight: pairs --qos 2 --inflight 20
QoS 2, durable sessions: pairs --qos 2 --inflight 20 --durable
fan-out 1 to 1,000: fanout --subscribers 1000
fan-in 1,000 to 1 at 20,000 msg/s: fanin --publishers 1000 --rate 20000
100,000 wildcard filters: wildcards
absent sessions: queue --messages 200000 --subscribers 8
retained: retained --messages 100000
connect storm: storm --connections 10000
idle connections: idle --connections 15000
`

const kafkaRows = `
produce 1 KiB, batches of 1 MB: produce --batch-bytes 1000000
produce 1 KiB, batches of 16 KiB: produce
produce 100 B, batches of 1 MB: produce --size 100 --batch-bytes 1000000
produce 1 KiB, one record a batch: produce --batch-bytes 1
consume 1 KiB: consume --batch-bytes 1000000
end to end, 2,000 msg/s: e2e --rate 2000
end to end, 20,000 msg/s: e2e --rate 20000
transactions, 20,000 msg/s: transactions --rate 20000 --linger 5ms --partitions 4
groups, 4 of 3 members: groups
1,000 partitions: partitions --partitions 1000
`

func parsePeer(s string) (peer, error) {
	name, rest, ok := strings.Cut(s, "=")
	parts := strings.Split(rest, ",")
	if !ok || name == "" || len(parts) < 2 {
		return peer{}, fmt.Errorf("--peer %q is not NAME=ADDRESS,PID[,PID]", s)
	}
	for _, pid := range parts[1:] {
		if n, err := strconv.Atoi(pid); err != nil || n <= 0 {
			return peer{}, fmt.Errorf("--peer %q: %q is no process id", s, pid)
		}
	}
	return peer{name, parts[0], parts[1:]}, nil
}

// parseRows reads lines "NAME: SCENARIO FLAGS...". Empty lines and those that begin with # are passed over.
func (x protocol) parseRows(r io.Reader) ([]row, error) {
	var rows []row
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, command, ok := strings.Cut(line, ": ")
		args := strings.Fields(command)
		if !ok || len(args) == 0 {
			return nil, fmt.Errorf("line %d: %q is not NAME: SCENARIO FLAGS", n, line)
		}
		if names := x.scenarios(); !slices.Contains(names, args[0]) {
			return nil, fmt.Errorf("line %d: scenario %q is none of %s", n, args[0], strings.Join(names, ", "))
		}
		rows = append(rows, row{name, args})
	}
	return rows, lines.Err()
}

// runner does one measurement.
type runner func(p peer, r row) (*bench.Result, error)

// sluiceRunner runs the given sluice binary. A run whose broker did wrong has a result all the same.
func (x protocol) sluiceRunner(binary, dir string, extra []string) runner {
	return func(p peer, r row) (*bench.Result, error) {
		file := filepath.Join(dir, "result.json")
		_ = os.Remove(file)
		args := append([]string{"bench", x.name}, r.args...)
		url := p.addr
		if !strings.Contains(url, "://") {
			url = x.name + "://" + url
		}
		args = append(args, "--url", url, "--quiet", "--json", file, "--pid", strings.Join(p.pids, ","))
		var said bytes.Buffer
		cmd := exec.Command(binary, append(args, extra...)...)
		cmd.Stderr = &said
		runErr := cmd.Run()
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", runErr, strings.TrimSpace(said.String()))
		}
		res := &bench.Result{}
		return res, json.Unmarshal(text, res)
	}
}

// figure is one number of a result.
type figure struct {
	name string
	of   func(*bench.Result) float64 // 0: the result has none
}

// figures are what a table shows, where a scenario has them.
func figures() []figure {
	server := func(of func(*bench.Server) float64) func(*bench.Result) float64 {
		return func(r *bench.Result) float64 {
			if r.Server == nil {
				return 0
			}
			return of(r.Server)
		}
	}
	latency := func(of func(*bench.Distribution) float64) func(*bench.Result) float64 {
		return func(r *bench.Result) float64 {
			if r.Latency == nil {
				return 0
			}
			return of(r.Latency)
		}
	}
	list := []figure{
		{"CPU µs/message", server(func(s *bench.Server) float64 { return s.CPUPerMessage })},
		{"CPU µs/delivery", server(func(s *bench.Server) float64 { return s.CPUPerDelivery })},
		{"CPU µs/connection", server(func(s *bench.Server) float64 { return s.CPUPerConnection })},
		{"bytes/connection", server(func(s *bench.Server) float64 { return s.BytesPerConnection })},
		{"received/s", func(r *bench.Result) float64 { return r.Rates.ReceivedPerSecond }},
		{"p50 µs", latency(func(d *bench.Distribution) float64 { return d.P50 })},
		{"p99 µs", latency(func(d *bench.Distribution) float64 { return d.P99 })},
		{"p99.9 µs", latency(func(d *bench.Distribution) float64 { return d.P999 })},
	}
	list = append(list, kafkaFigures()...)
	for _, step := range []string{"subscribe", "queue", "drain", "store", "fetch", "connect", "create", "read back"} {
		find := func(of func(*bench.Step) float64) func(*bench.Result) float64 {
			return func(r *bench.Result) float64 {
				for i := range r.Steps {
					if r.Steps[i].Name == step {
						return of(&r.Steps[i])
					}
				}
				return 0
			}
		}
		list = append(list, figure{step + " CPU µs", find(func(s *bench.Step) float64 { return s.CPUEach })},
			figure{step + " /s", find(func(s *bench.Step) float64 { return s.PerSecond })})
		if step == "subscribe" || step == "queue" {
			list = append(list, figure{step + " bytes", find(func(s *bench.Step) float64 { return s.BytesEach })})
		}
	}
	return list
}

// kafkaFigures are those of runs against a Kafka broker.
func kafkaFigures() []figure {
	of := func(of func(*bench.KafkaResult) float64) func(*bench.Result) float64 {
		return func(r *bench.Result) float64 {
			if r.Kafka == nil {
				return 0
			}
			return of(r.Kafka)
		}
	}
	ms := func(d *bench.Distribution, of func(*bench.Distribution) float64) float64 {
		if d == nil {
			return 0
		}
		return of(d) / 1e3
	}
	p50 := func(d *bench.Distribution) float64 { return d.P50 }
	return []figure{
		{"sent MB/s", of(func(k *bench.KafkaResult) float64 { return k.SentMB })},
		{"read MB/s", of(func(k *bench.KafkaResult) float64 { return k.ReceivedMB })},
		{"CPU µs/MB", of(func(k *bench.KafkaResult) float64 { return k.CPUPerMB })},
		{"EndTxn p50 ms", of(func(k *bench.KafkaResult) float64 { return ms(k.Commits, p50) })},
		{"assigned ms", of(func(k *bench.KafkaResult) float64 {
			return ms(k.Assigned, func(d *bench.Distribution) float64 { return d.Max })
		})},
		{"resident MB", func(r *bench.Result) float64 {
			if r.Kafka == nil || r.Server == nil {
				return 0
			}
			return float64(r.Server.RSSAfter) / 1e6
		}},
	}
}

// shows says whether a figure belongs to a row: latency only where messages go by a timetable, since without one it tells
// the length of the queue, and per delivery only where that is not the same as per message.
func shows(f figure, results []*bench.Result) bool {
	for _, r := range results {
		timed := r.Config.Rate > 0
		if strings.HasSuffix(f.name, " µs") && strings.HasPrefix(f.name, "p") && !timed {
			return false
		}
		if f.name == "CPU µs/delivery" && r.Scenario != "fanout" {
			return false
		}
		if f.name == "received/s" && timed {
			return false
		}
	}
	return true
}

// spread is the median of some values, and the lowest and highest.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	v := slices.Clone(values)
	slices.Sort(v)
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func number(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// measure runs each row against the peers in turn.
func measure(w io.Writer, rows []row, peers []peer, rounds int, run runner, progress io.Writer) error {
	var failures []string
	printHeader(w, peers, rounds)
	for _, r := range rows {
		results := make([][]*bench.Result, len(peers))
		for round := range rounds {
			for i, p := range peers {
				fmt.Fprintf(progress, "%s, round %d: %s\n", r.name, round+1, p.name)
				res, err := run(p, r)
				if err != nil {
					failures = append(failures, fmt.Sprintf("%s, %s: no result: %v", r.name, p.name, err))
					continue
				}
				if !res.OK {
					failures = append(failures, fmt.Sprintf("%s, %s: %s", r.name, p.name, strings.Join(res.Violations, "; ")))
					continue
				}
				if b := res.Generator.Bottleneck; b != "" {
					failures = append(failures, fmt.Sprintf("%s, %s, generator: %s", r.name, p.name, b))
				}
				results[i] = append(results[i], res)
			}
		}
		printRow(w, r, results)
	}
	if len(failures) > 0 {
		fmt.Fprintf(w, "\nRuns to be doubted or left out:\n\n")
		for _, f := range failures {
			fmt.Fprintf(w, "- %s\n", f)
		}
		return errors.New("some runs are to be doubted; see below the table")
	}
	return nil
}

func printHeader(w io.Writer, peers []peer, rounds int) {
	fmt.Fprintf(w, "Median of %d interleaved rounds (lowest to highest); the ratio is to %s.\n\n", rounds, peers[0].name)
	fmt.Fprint(w, "| scenario | figure |")
	for i, p := range peers {
		fmt.Fprintf(w, " %s |", p.name)
		if i > 0 {
			fmt.Fprint(w, " ratio |")
		}
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---|", 2*len(peers)-1))
}

func printRow(w io.Writer, r row, results [][]*bench.Result) {
	for _, f := range figures() {
		if !shows(f, slices.Concat(results...)) {
			continue
		}
		cells := make([]spread, len(results))
		any := false
		for i, list := range results {
			var values []float64
			for _, res := range list {
				if v := f.of(res); v != 0 {
					values = append(values, v)
				}
			}
			if len(values) > 0 {
				cells[i] = spreadOf(values)
				any = true
			}
		}
		if !any {
			continue
		}
		fmt.Fprintf(w, "| %s | %s |", r.name, f.name)
		for i, c := range cells {
			if c == (spread{}) {
				fmt.Fprint(w, " – |")
			} else {
				fmt.Fprintf(w, " %s (%s to %s) |", number(c.median), number(c.low), number(c.high))
			}
			switch {
			case i == 0:
			case c.median == 0 || cells[0].median == 0:
				fmt.Fprint(w, " – |")
			default:
				fmt.Fprintf(w, " %.2f |", c.median/cells[0].median)
			}
		}
		fmt.Fprintln(w)
	}
}

// peerFlags collects --peer.
type peerFlags []peer

// String gives the names.
func (p *peerFlags) String() string {
	var names []string
	for _, x := range *p {
		names = append(names, x.name)
	}
	return strings.Join(names, ", ")
}

// Set adds one peer.
func (p *peerFlags) Set(s string) error {
	x, err := parsePeer(s)
	*p = append(*p, x)
	return err
}

func run() error {
	var peers peerFlags
	flag.Var(&peers, "peer", "a running broker, `NAME=ADDRESS,PID[,PID]`; the first one is what the others are compared to")
	binary := flag.String("sluice", "bin/sluice", "the sluice binary whose bench makes the load")
	rounds := flag.Int("rounds", 3, "how often each peer is measured")
	speaks := flag.String("protocol", "mqtt", "mqtt or kafka")
	file := flag.String("rows", "", "file with lines NAME: SCENARIO FLAGS (default: those of docs/performance.md)")
	only := flag.String("only", "", "comma-separated beginnings of row names to run")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "compare --peer NAME=ADDRESS,PID ... [flags] [-- flags for sluice bench]")
		flag.PrintDefaults()
	}
	flag.Parse()
	proto, ok := protocols[*speaks]
	if len(peers) == 0 || *rounds < 1 || !ok {
		flag.Usage()
		os.Exit(2)
	}
	var source io.Reader = strings.NewReader(proto.rows)
	if *file != "" {
		f, err := os.Open(*file)
		if err != nil {
			return err
		}
		defer f.Close()
		source = f
	}
	rows, err := proto.parseRows(source)
	if err != nil {
		return err
	}
	if *only != "" {
		rows = slices.DeleteFunc(rows, func(r row) bool {
			return !slices.ContainsFunc(strings.Split(*only, ","), func(s string) bool { return strings.HasPrefix(r.name, s) })
		})
	}
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		_ = os.RemoveAll(dir)
		os.Exit(1)
	}()
	return measure(os.Stdout, rows, peers, *rounds, proto.sluiceRunner(*binary, dir, flag.Args()), os.Stderr)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}
