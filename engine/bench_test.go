package engine

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// The server under load is a child, so that what is measured is the server's alone.

// serverStat is what the child says of itself.
type serverStat struct {
	CPU        time.Duration
	Heap, RSS  int64
	Goroutines int
	Mallocs    uint64
	Stats      Stats
}

// TestServe is the child's main; by itself it is skipped.
func TestServe(t *testing.T) {
	what := os.Getenv("ENGINE_BENCH_SERVE")
	if what == "" {
		t.Skip("it is the server of the benchmarks")
	}
	transport, layer, _ := strings.Cut(what, "/")
	debug.SetGCPercent(400) // as the product sets it
	s := start(t, way{transport, layer}, echo(), func(o *Options, l *ListenerOptions) {
		o.Loops, _ = strconv.Atoi(os.Getenv("ENGINE_BENCH_LOOPS"))
		if addr := os.Getenv("ENGINE_BENCH_ADDR"); addr != "" {
			l.Address = addr
		}
	})
	fmt.Fprintf(os.Stdout, "addr %s\n", s.addr)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "gc" {
			runtime.GC()
			debug.FreeOSMemory()
		}
		var ru syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		st := serverStat{
			CPU:  time.Duration(ru.Utime.Nano() + ru.Stime.Nano()),
			Heap: int64(ms.HeapAlloc), RSS: rss(), Goroutines: runtime.NumGoroutine(), Mallocs: ms.Mallocs, Stats: s.e.Stats(),
		}
		b, _ := json.Marshal(st)
		fmt.Fprintf(os.Stdout, "stat %s\n", b)
	}
}

func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// server is the child from outside.
type server struct {
	t    testing.TB
	addr string
	in   io.WriteCloser
	out  *bufio.Scanner
}

func serve(t testing.TB, w way, env ...string) *server {
	t.Helper()
	child := testx.StartChild(t, []string{os.Args[0], "-test.run", "^TestServe$"}, append([]string{"ENGINE_BENCH_SERVE=" + w.name()}, env...)...)
	s := &server{t: t, in: child.In, out: bufio.NewScanner(child.Out)}
	s.addr = s.line("addr ")
	return s
}

func (s *server) line(prefix string) string {
	for s.out.Scan() {
		if rest, ok := strings.CutPrefix(s.out.Text(), prefix); ok {
			return rest
		}
	}
	s.t.Fatal("the server is gone")
	return ""
}

func (s *server) stat(cmd string) (st serverStat) {
	fmt.Fprintln(s.in, cmd)
	if err := json.Unmarshal([]byte(s.line("stat ")), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// BenchmarkEcho reports the server's CPU per message of 64 bytes: conns connections, each with depth messages under way.
func BenchmarkEcho(b *testing.B) {
	for _, w := range ways() {
		if w.layer != "tcp" && w.layer != "tls" && w.layer != "ws" {
			continue
		}
		for _, load := range []struct{ conns, depth int }{{1, 1}, {64, 1}, {64, 64}, {1000, 1}, {8, 512}} {
			b.Run(fmt.Sprintf("%s/%dx%d", w.name(), load.conns, load.depth), func(b *testing.B) { benchEcho(b, w, load.conns, load.depth) })
		}
	}
}

func benchEcho(b *testing.B, w way, conns, depth int) {
	b.Helper()
	const size = 64
	srv := serve(b, w)
	cs := make([]net.Conn, conns)
	local := &setup{t: b, o: ListenerOptions{WebSocket: w.layer == "ws"}}
	for i := range cs {
		local.addr = tcpAddr(srv.addr)
		cs[i] = local.dial2(w)
		defer cs[i].Close()
	}
	run := func(total int) {
		// As many goroutines as cores drive the connections, so that the client's scheduling is not what is measured.
		const drivers = 4
		per := max(total/(depth*len(cs)), 1)
		done := make(chan error, drivers)
		for d := range drivers {
			go func() {
				bufs := make([]byte, size*depth)
				for range per {
					for i := d; i < len(cs); i += drivers {
						if _, err := cs[i].Write(bufs); err != nil {
							done <- err
							return
						}
					}
					for i := d; i < len(cs); i += drivers {
						if _, err := io.ReadFull(cs[i], bufs); err != nil {
							done <- err
							return
						}
					}
				}
				done <- nil
			}()
		}
		for range drivers {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	}
	run(conns * depth * 10)
	before := srv.stat("stat")
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	after := srv.stat("stat")
	n := float64(max(b.N/(depth*conns), 1) * depth * conns)
	b.ReportMetric(float64(after.CPU-before.CPU)/n, "cpu-ns/msg")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/msg")
	b.ReportMetric(float64(after.Stats.Reads+after.Stats.Writes-before.Stats.Reads-before.Stats.Writes)/n, "rw-calls/msg")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPaced reports the server's CPU per message when there is nothing to batch: 2,000 messages a second, each by itself.
func BenchmarkPaced(b *testing.B) {
	for _, w := range ways() {
		if w.layer != "tcp" {
			continue
		}
		b.Run(w.name(), func(b *testing.B) {
			srv := serve(b, w)
			local := &setup{t: b, addr: tcpAddr(srv.addr)}
			cs := make([]net.Conn, 64)
			for i := range cs {
				cs[i] = local.dial2(w)
				defer cs[i].Close()
			}
			tick := time.NewTicker(500 * time.Microsecond)
			defer tick.Stop()
			msg := make([]byte, 64)
			before := srv.stat("stat")
			b.ResetTimer()
			for i := range b.N {
				<-tick.C
				c := cs[i%len(cs)]
				write(b, c, msg)
				if _, err := io.ReadFull(c, msg); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			after := srv.stat("stat")
			b.ReportMetric(float64(after.CPU-before.CPU)/float64(b.N), "cpu-ns/msg")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func tcpAddr(s string) net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", s)
	return a
}

// BenchmarkIdle reports what an idle connection costs the server, after it has echoed 64 bytes.
func BenchmarkIdle(b *testing.B) {
	for _, w := range ways() {
		if w.layer == "unix" {
			continue
		}
		b.Run(w.name(), func(b *testing.B) {
			conns := 4000
			srv := serve(b, w)
			before := srv.stat("gc")
			local := &setup{t: b, addr: tcpAddr(srv.addr), o: ListenerOptions{WebSocket: w.layer == "ws" || w.layer == "wss"}}
			if w.layer == "tls" || w.layer == "wss" {
				conns = 1000
			}
			for range conns {
				c := local.dial2(w)
				defer c.Close()
				write(b, c, make([]byte, 64))
				read(b, c, 64)
			}
			srv.stat("gc")
			after := srv.stat("gc")
			n := float64(conns)
			b.ReportMetric(float64(after.Heap-before.Heap)/n, "heap-B/conn")
			b.ReportMetric(float64(after.RSS-before.RSS)/n, "rss-B/conn")
			b.ReportMetric(float64(after.Goroutines-before.Goroutines), "goroutines")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestIdleConnection holds the figures that the design promises: no goroutine, and at most 200 bytes of heap on epoll.
func TestIdleConnection(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	for _, w := range ways() {
		if w.layer == "unix" || w.layer == "wss" || w.layer == "fed" { // what feeds it here has goroutines and buffers of its own
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			t.Parallel()
			const conns = 500
			srv := serve(t, w)
			local := &setup{t: t, addr: tcpAddr(srv.addr), o: ListenerOptions{WebSocket: w.layer == "ws"}}
			talk := func(n int) {
				for range n {
					c := local.dial2(w)
					write(t, c, make([]byte, 64))
					read(t, c, 64)
				}
			}
			talk(100) // what is grown once is grown
			srv.stat("gc")
			before := srv.stat("gc")
			talk(conns)
			srv.stat("gc")
			after := srv.stat("gc")
			heap := (after.Heap - before.Heap) / conns
			t.Logf("%d bytes of heap per idle connection", heap)
			limit := map[string]int64{"epoll/tcp": 200, "epoll/ws": 450, "epoll/tls": 20_000, "netpoll/tcp": 4600, "netpoll/ws": 4900, "netpoll/tls": 25_000}[w.name()]
			if heap > limit {
				t.Errorf("%d bytes of heap per idle connection, want %d at most", heap, limit)
			}
			if n := after.Goroutines - before.Goroutines; n > 10 {
				t.Errorf("%d goroutines more for %d idle connections", n, conns)
			}
		})
	}
}

// TestEchoAllocs guards the hot path: in steady state a message costs no allocation.
func TestEchoAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, layer := range []string{"tcp", "ws", "tls", "unix"} {
		w := way{ways()[0].transport, layer}
		if w.transport != "epoll" {
			t.Skip("netpoll allocates")
		}
		t.Run(layer, func(t *testing.T) {
			s := start(t, w, echo())
			c := s.dialRaw()
			msg := make([]byte, 64)
			switch layer {
			case "ws":
				_ = dialWS(t, c)
				msg = clientFrame(0x82, true, make([]byte, 56))
			case "tls":
				t.Skip("crypto/tls in the same process allocates on the client's side; BenchmarkEcho shows the server's")
			}
			answer := make([]byte, 64)
			if layer == "ws" {
				answer = answer[:58]
			}
			round := func() {
				_, _ = c.Write(msg)
				if _, err := io.ReadFull(c, answer); err != nil {
					t.Fatal(err)
				}
			}
			for range 1000 {
				round()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			const n = 10_000
			for range n {
				round()
			}
			runtime.ReadMemStats(&after)
			if got := float64(after.Mallocs-before.Mallocs) / n; got > 0.02 { // the runtime's own now and then
				t.Errorf("%v allocations per message", got)
			}
		})
	}
}
