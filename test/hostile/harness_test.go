// Package hostile attacks the real binary from outside, in numbers and at paces that a test beside the code cannot have, while a
// well-behaved pair of clients measures whether anybody notices. What one bad packet is answered with is in test/e2e.
package hostile

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	// The clients live in this process: as many descriptors as there may be, for the brokers that it starts as well.
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) == nil {
		lim.Cur = lim.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim)
	}
	code := m.Run()
	common.Clean()
	os.Exit(code)
}

// descriptors is how many files this process may open.
func descriptors() int {
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return 1024
	}
	return int(min(lim.Cur, 1<<20))
}

// rss is the resident memory of the broker in bytes.
func rss(t testing.TB, b *common.Broker) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// within fails the test if the broker holds more than most bytes.
func within(t testing.TB, b *common.Broker, most int64) {
	t.Helper()
	now := rss(t, b)
	t.Logf("resident: %d MiB, at most %d", now>>20, most>>20)
	if now > most {
		t.Errorf("%d MiB are resident, at most %d expected", now>>20, most>>20)
	}
}

// pair is a publisher and a subscriber that behave, and how long each message took between them.
type pair struct {
	t        testing.TB
	sub, pub *mqttclient.Client
	calm     time.Duration // 99th percentile before the attack
	ruler    net.Conn      // to an echo in this process: what the machine does to anybody meanwhile
	stop     chan struct{}
	done     sync.WaitGroup
	senders  sync.WaitGroup
	mu       struct {
		sync.Mutex
		took  []time.Duration
		ruled []time.Duration
	}
}

func connect(t testing.TB, url, id string, with ...func(*mqttclient.Options)) *mqttclient.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o := mqttclient.Options{URL: url, Timeout: patience, Connect: wire.Connect{ClientID: []byte(id), CleanStart: true}}
	for _, f := range with {
		f(&o)
	}
	c, _, err := mqttclient.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// watch lets a pair run until end. It is calm for half a second first, which says what this machine can do just now.
func watch(t testing.TB, b *common.Broker) *pair {
	t.Helper()
	p := &pair{t: t, sub: connect(t, b.URL(), "well-behaved-sub"), pub: connect(t, b.URL(), "well-behaved-pub"), stop: make(chan struct{})}
	if _, err := p.sub.Subscribe(wire.FilterRequest{Filter: []byte("pair")}); err != nil {
		t.Fatal(err)
	}
	p.ruler = echo(t)
	p.senders.Go(p.publish)
	p.senders.Go(p.rule)
	p.done.Go(p.receive)
	const calm = 100
	testx.Eventually(t, patience, func() bool { return p.measured() >= calm })
	p.calm, _, _, _ = p.percentile()
	return p
}

const pace = 5 * time.Millisecond

func (p *pair) publish() {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			err := p.pub.SendRaw(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("pair"),
				Payload: binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano()))}))
			if err != nil {
				p.t.Errorf("the well-behaved publisher lost its connection: %v", err)
				return
			}
		}
	}
}

// echo gives a connection whose other end sends back what comes.
func echo(t testing.TB) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(other, other)
		_ = other.Close()
	}()
	return c
}

// rule measures the echo at the pair's pace.
func (p *pair) rule() {
	defer p.ruler.Close()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	b := make([]byte, 16)
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			if _, err := p.ruler.Write(b); err != nil {
				p.t.Error(err)
				return
			}
			if _, err := io.ReadFull(p.ruler, b); err != nil {
				p.t.Error(err)
				return
			}
			p.mu.Lock()
			p.mu.ruled = append(p.mu.ruled, time.Since(now))
			p.mu.Unlock()
		}
	}
}

func (p *pair) receive() {
	for {
		m, err := p.sub.Receive(patience)
		if err != nil {
			return
		}
		took := time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(m.Payload))))
		p.mu.Lock()
		p.mu.took = append(p.mu.took, took)
		p.mu.Unlock()
	}
}

func (p *pair) measured() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.took)
}

// percentile gives the 99th of what was measured since the last call, the worst, and the 99th of the ruler.
func (p *pair) percentile() (p99, worst, ruled time.Duration, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	took, echoes := p.mu.took, p.mu.ruled
	p.mu.took, p.mu.ruled = nil, nil
	if len(took) == 0 || len(echoes) == 0 {
		return 0, 0, 0, 0
	}
	slices.Sort(took)
	slices.Sort(echoes)
	return took[len(took)*99/100], took[len(took)-1], echoes[len(echoes)*99/100], len(took)
}

// crowd is how many want each core just now, at least 1.
func crowd() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 1
	}
	load, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		return 1
	}
	return max(1, load/float64(runtime.NumCPU()))
}

// end checks that the pair did not notice: 150 ms on a machine of its own; where others want the cores as many times that, or a few times
// what the machine did meanwhile to an echo without a broker.
func (p *pair) end() {
	p.t.Helper()
	testx.Eventually(p.t, patience, func() bool { return p.measured() >= 200 }, "too few for a percentile")
	p99, worst, ruled, n := p.percentile()
	close(p.stop)
	p.senders.Wait()
	most := max(time.Duration(crowd()*float64(150*time.Millisecond)), 5*ruled)
	p.t.Logf("well-behaved pair: %d messages, 99th percentile %v (before: %v, echo: %v), worst %v", n, p99, p.calm, ruled, worst)
	if n == 0 || p99 > most {
		p.t.Errorf("the pair's 99th percentile is %v over %d messages, at most %v expected", p99, n, most)
	}
	_, err := p.pub.Publish(&wire.PublishOut{Topic: []byte("pair/end"), QoS: 1})
	if err != nil {
		p.t.Errorf("the pair's publisher: %v", err)
	}
	_ = p.sub.Close()
	_ = p.pub.Close()
	p.done.Wait()
}

// open dials raw connections.
func open(t testing.TB, addr string, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, 0, n)
	t.Cleanup(func() { closeAll(conns) })
	for range n {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			t.Fatalf("connection %d: %v", len(conns), err)
		}
		conns = append(conns, c)
	}
	return conns
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// ended waits until the broker has closed all of these, and tells how many it has not.
func ended(conns []net.Conn, d time.Duration) (left int) {
	deadline := time.Now().Add(d)
	buf := make([]byte, 4096)
	for _, c := range conns {
		_ = c.SetReadDeadline(deadline)
		for {
			if _, err := c.Read(buf); err != nil {
				if os.IsTimeout(err) {
					left++
				}
				break
			}
		}
	}
	return left
}
