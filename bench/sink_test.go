package bench_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// sinkVariable has the test binary be a sink: a server that takes every CONNECT and throws away what comes. It is a process of its own,
// so that the generator's CPU time is the generator's.
const sinkVariable = "SLUICE_TEST_SINK"

// TestSinkProcess is no test: it is the sink, when startSink runs it.
func TestSinkProcess(t *testing.T) {
	if os.Getenv(sinkVariable) == "" {
		t.Skip("only as a process of its own")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(os.Stdout, "sink at", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go sink(c)
	}
}

func sink(c net.Conn) {
	defer c.Close()
	first := make([]byte, 1024)
	if _, err := c.Read(first); err != nil {
		return
	}
	if _, err := c.Write(wire.AppendConnack(nil, wire.V5, &wire.Connack{})); err != nil {
		return
	}
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
}

// startSink gives the address of a sink that lasts until the test ends.
func startSink(t testing.TB) string {
	t.Helper()
	child := testx.StartChild(t, []string{os.Args[0], "-test.run=^TestSinkProcess$"}, sinkVariable+"=1")
	lines := bufio.NewScanner(child.Out)
	for lines.Scan() {
		if addr, ok := strings.CutPrefix(lines.Text(), "sink at "); ok {
			go func() { _, _ = io.Copy(io.Discard, child.Out) }()
			return "mqtt://" + addr
		}
	}
	t.Fatal("the sink does not start")
	return ""
}

// TestGeneratorAgainstASink: a message at QoS 0 costs the generator so little that one core makes a million a second. The bound is on
// CPU time and has room, since a busy machine makes that longer too; BenchmarkGenerator gives the figure.
func TestGeneratorAgainstASink(t *testing.T) {
	res, err := bench.Run(t.Context(), bench.Config{Scenario: "publish", URL: startSink(t), Publishers: 16, Duration: 300 * time.Millisecond, Warmup: 50 * time.Millisecond})
	if err != nil || !res.OK {
		t.Fatalf("%v, %+v", err, res)
	}
	if each := res.Generator.CPUSeconds / float64(res.Counts.Sent) * 1e9; each > 10_000 {
		t.Errorf("%.0f ns of CPU for a message", each)
	}
}

// BenchmarkGenerator measures the generator itself: messages a second of one thread against a sink, connections in one process, and
// how late sends by a timetable go out. Run it on a quiet machine.
func BenchmarkGenerator(b *testing.B) {
	url := startSink(b)
	run := func(b *testing.B, cfg bench.Config) *bench.Result {
		b.Helper()
		cfg.URL, cfg.LateMax = url, time.Hour
		res, err := bench.Run(b.Context(), cfg)
		if err != nil || len(res.Violations) > 0 {
			b.Fatalf("%v, %+v", err, res)
		}
		return res
	}
	b.Run("messages", func(b *testing.B) {
		for b.Loop() {
			res := run(b, bench.Config{Scenario: "publish", Publishers: 16, Duration: 3 * time.Second})
			b.ReportMetric(res.Rates.SentPerSecond, "msg/s")
			b.ReportMetric(res.Generator.CPUSeconds/float64(res.Counts.Sent)*1e9, "cpu-ns/msg")
		}
	})
	b.Run("connections", func(b *testing.B) {
		for b.Loop() {
			res := run(b, bench.Config{Scenario: "storm", Conns: 15_000})
			b.ReportMetric(res.Steps[0].PerSecond, "conn/s")
		}
	})
	b.Run("timetable", func(b *testing.B) {
		for b.Loop() {
			res := run(b, bench.Config{Scenario: "publish", Publishers: 16, Rate: 20_000, Duration: 3 * time.Second})
			b.ReportMetric(res.Generator.Late.P50, "late-p50-us")
			b.ReportMetric(res.Generator.Late.P99, "late-p99-us")
		}
	})
}

// TestNoResultWhereTheGeneratorFallsShort: a timetable that no thread can keep is no failure of the broker, and no result.
func TestNoResultWhereTheGeneratorFallsShort(t *testing.T) {
	res, err := bench.Run(t.Context(), bench.Config{Scenario: "publish", URL: startSink(t), Publishers: 4, Rate: 15e6, Payload: 64,
		Duration: 100 * time.Millisecond, Warmup: 20 * time.Millisecond, Drain: 100 * time.Millisecond})
	if err != nil || res.Void == "" || res.OK || len(res.Violations) > 0 || !strings.Contains(res.Void, "the generator lacked CPU") {
		t.Fatalf("%v, void %q, %q", err, res.Void, res.Violations)
	}
	var table bytes.Buffer
	if err := res.WriteTable(&table); err != nil || !strings.HasPrefix(table.String(), "NO RESULT: ") {
		t.Errorf("%v\n%s", err, table.String())
	}
}
