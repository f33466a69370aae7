// Command compare runs load scenarios against several brokers in turn, A B A B, and prints a markdown table of medians, spread and ratios.
//
// It starts the brokers itself, ours and those it knows, each anew and alone for one run (Kafka: once for all, since a Java broker is slow before it
// is warm, and ours beside it then), with settings in which they do the same: see start.go. Or it is given running ones by name, address and
// process id, with settings that the caller finds fair. Every measurement is one run of sluice bench in a process of its own, so that no run warms
// the next one's generator. A ratio is that of two runs of the same round. Results with a violation are counted out and said. A round in which the
// machine had other work to do is void, said, and run again.
//
//	go run ./perf/compare --start ours --start mosquitto --only 'QoS 0'
//	go run ./perf/compare --start ours --start other='/opt/other/bin/other --port {port} --dir {dir}'
//	go run ./perf/compare --protocol kafka --peer ours=127.0.0.1:9092,4711 --peer kafka=127.0.0.1:19092,4713 --rounds 5
package main

import (
	"bytes"
	"context"
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
	"time"

	"github.com/sluicemq/sluice/bench"
)

// peer is a running broker.
type peer struct {
	name, addr string
	pids       []string
}

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

// runner does one measurement.
type runner func(ctx context.Context, p peer, r row) (*bench.Result, error)

// sluiceRunner runs the given sluice binary. A run whose broker did wrong has a result all the same.
func (x protocol) sluiceRunner(binary, dir string, extra []string) runner {
	return func(ctx context.Context, p peer, r row) (*bench.Result, error) {
		file := filepath.Join(dir, "result.json")
		_ = os.Remove(file)
		args := append([]string{"bench", x.name}, r.args...)
		url := p.addr
		if !strings.Contains(url, "://") {
			url = x.name + "://" + url
		}
		args = append(args, "--url", url, "--quiet", "--json", file, "--pid", strings.Join(p.pids, ","))
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, binary, append(args, extra...)...)
		cmd.Stderr = &said
		cmd.SysProcAttr = ownGroup()
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 5 * time.Second
		runErr := cmd.Run()
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", runErr, strings.TrimSpace(said.String()))
		}
		res := &bench.Result{}
		return res, json.Unmarshal(text, res)
	}
}

// settings are what the flags say.
type settings struct {
	sources    []*source // the first one is what the others are compared to
	protocol   string
	binary     string
	durability string
	rounds     int
	retries    int
	loud       float64
	rows, only string
	keep       bool
}

// split takes a list apart, so that a make variable can have several: "a,b", or "a;b=/bin/b --port {port}" where there is a command.
func split(list string) []string {
	by := ";"
	if !strings.Contains(list, "=") {
		by = ";, "
	}
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(by, r) })
}

// sourceFlag adds a source for each use of a flag.
func (s *settings) sourceFlag(name, usage string, parse func(string) (*source, error)) {
	flag.Func(name, usage, func(v string) error {
		for _, v := range split(v) {
			x, err := parse(v)
			if err != nil {
				return err
			}
			s.sources = append(s.sources, x)
		}
		return nil
	})
}

func parseFlags() *settings {
	s := &settings{}
	s.sourceFlag("peer", "a running broker, `NAME=ADDRESS,PID[,PID]`", func(v string) (*source, error) {
		p, err := parsePeer(v)
		return &source{name: p.name, running: &p}, err
	})
	s.sourceFlag("start", "a broker to start: `NAME`, one of "+starterNames()+", or NAME=COMMAND with {port} and {dir} in it", func(v string) (*source, error) {
		name, _, _ := strings.Cut(v, "=")
		return &source{name: name, starter: starter{name: v}}, nil // --protocol may follow
	})
	flag.StringVar(&s.binary, "sluice", "bin/sluice", "the sluice binary: ours, and the bench that makes the load")
	flag.StringVar(&s.protocol, "protocol", "mqtt", "mqtt or kafka")
	flag.StringVar(&s.durability, "durability", "", "journal.durability of ours (default: memory for mqtt, as the peers do it; sync for kafka, which has more)")
	flag.IntVar(&s.rounds, "rounds", 3, "how often each peer is measured")
	flag.IntVar(&s.retries, "retries", 3, "how many void rounds of a row are run again")
	flag.Float64Var(&s.loud, "max-other", 0.1, "the part of the machine that other work may have in a round; 1: any")
	flag.StringVar(&s.rows, "rows", "", "file with lines NAME: SCENARIO FLAGS (default: those of docs/performance.md)")
	flag.StringVar(&s.only, "only", "", "beginnings of the names of the rows to run, with ; between them")
	flag.BoolVar(&s.keep, "keep", false, "start each broker once, not anew for each run")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "compare --start NAME ... | --peer NAME=ADDRESS,PID ... [flags] [-- flags for sluice bench]")
		flag.PrintDefaults()
	}
	flag.Parse()
	return s
}

// prepare finds how each broker is started, and says it of all that are missing before anything has run.
func (s *settings) prepare(dir string) error {
	var missing []error
	for _, x := range s.sources {
		if x.running != nil {
			continue
		}
		var err error
		if x.starter, err = findStarter(x.starter.name, s.protocol); err != nil {
			missing = append(missing, err)
			continue
		}
		x.keep = s.keep || s.protocol == "kafka"
		x.place = place{dir: dir, protocol: s.protocol, binary: s.binary, durability: s.durability}
		if x.place.durability == "" {
			x.place.durability = map[string]string{"mqtt": "memory", "kafka": "sync"}[s.protocol]
		}
		if err := x.starter.check(x.place); err != nil {
			missing = append(missing, err)
		}
	}
	return errors.Join(missing...)
}

// choose gives the rows to run.
func (s *settings) choose(proto protocol) ([]row, error) {
	var from io.Reader = strings.NewReader(proto.rows)
	if s.rows != "" {
		f, err := os.Open(s.rows)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	rows, err := proto.parseRows(from)
	if err != nil || s.only == "" {
		return rows, err
	}
	rows = slices.DeleteFunc(rows, func(r row) bool {
		return !slices.ContainsFunc(strings.Split(s.only, ";"), func(b string) bool { return strings.HasPrefix(r.name, b) })
	})
	if len(rows) == 0 {
		return nil, fmt.Errorf("no row begins with %q", s.only)
	}
	return rows, nil
}

func run() error {
	s := parseFlags()
	proto, ok := protocols[s.protocol]
	if len(s.sources) == 0 || s.rounds < 1 || !ok {
		flag.Usage()
		os.Exit(2)
	}
	rows, err := s.choose(proto)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := s.prepare(dir); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := &measurement{out: os.Stdout, progress: os.Stderr, sources: s.sources, rounds: s.rounds, retries: s.retries, loud: s.loud,
		run: proto.sluiceRunner(s.binary, dir, flag.Args()), listen: listen}
	defer m.stop()
	return m.measure(ctx, rows)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}
