//go:build spike

package raftgroup

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// cluster is three processes of this test binary, and what their clients were promised.
type cluster struct {
	t     *testing.T
	cfg   nodeConfig
	nodes [4]*process // by node id
	mu    sync.Mutex
	acked map[ack]bool
}

type ack struct{ group, proposer, seq uint64 }

type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	events chan event // all but acks
	done   chan struct{}
}

func newCluster(t *testing.T, cfg nodeConfig) *cluster {
	t.Helper()
	c := &cluster{t: t, cfg: cfg, acked: make(map[ack]bool)}
	c.cfg.Dir = t.TempDir()
	c.cfg.Addrs = make(map[uint64]string)
	var held []net.Listener
	for id := uint64(1); id <= 3; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		c.cfg.Addrs[id] = l.Addr().String()
	}
	for _, l := range held {
		l.Close()
	}
	t.Cleanup(func() {
		for id := range c.nodes {
			c.kill(uint64(id))
		}
	})
	return c
}

func (c *cluster) start(ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		cfg := c.cfg
		cfg.Node, cfg.Dir = id, filepath.Join(c.cfg.Dir, strconv.FormatUint(id, 10))
		env, err := json.Marshal(&cfg)
		if err != nil {
			c.t.Fatal(err)
		}
		p := &process{cmd: exec.Command(os.Args[0]), events: make(chan event, 16), done: make(chan struct{})}
		p.cmd.Env = append(os.Environ(), nodeEnv+"="+string(env))
		p.cmd.Stderr = os.Stderr
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			c.t.Fatal(err)
		}
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			c.t.Fatal(err)
		}
		if err := p.cmd.Start(); err != nil {
			c.t.Fatal(err)
		}
		c.nodes[id] = p
		go c.listen(p, out)
	}
}

// listen takes a node's events until it is gone. A cut line is the last one of a killed node: it was not heard.
func (c *cluster) listen(p *process, out io.Reader) {
	defer close(p.done)
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			c.t.Errorf("a node said %q", line)
			return
		}
		if e.Event == "ack" {
			c.mu.Lock()
			c.acked[ack{e.Group, e.Proposer, e.Seq}] = true
			c.mu.Unlock()
			continue
		}
		p.events <- e
	}
}

func (c *cluster) kill(id uint64) {
	if p := c.nodes[id]; p != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = p.cmd.Wait()
		c.nodes[id] = nil
	}
}

func (c *cluster) tell(id uint64, cmd command) {
	c.t.Helper()
	if err := json.NewEncoder(c.nodes[id].in).Encode(&cmd); err != nil {
		c.t.Fatalf("node %d: %v", id, err)
	}
}

func (c *cluster) hear(id uint64, what string) event {
	c.t.Helper()
	wait := time.NewTimer(90 * time.Second)
	defer wait.Stop()
	select {
	case e := <-c.nodes[id].events:
		if e.Event != what {
			c.t.Fatalf("node %d said %q, %q was asked for", id, e.Event, what)
		}
		return e
	case <-c.nodes[id].done:
		c.t.Fatalf("node %d ended", id)
	case <-wait.C:
		c.t.Fatalf("node %d does not say %q", id, what)
	}
	panic("unreachable")
}

func (c *cluster) ackedCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acked)
}

// loadFor has all nodes propose until more acknowledgements have come, or the time is over.
func (c *cluster) waitAcks(more int, d time.Duration) {
	c.t.Helper()
	want := c.ackedCount() + more
	deadline := time.Now().Add(d)
	for c.ackedCount() < want {
		if time.Now().After(deadline) {
			c.t.Fatalf("%d acknowledgements of %d after %v", c.ackedCount()-want+more, more, d)
		}
		pause(5 * time.Millisecond)
	}
}

var all = []uint64{1, 2, 3}

func (c *cluster) ready(ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		c.hear(id, "ready")
	}
}

func (c *cluster) load(size, window int, ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		c.tell(id, command{Op: "load", Size: size, Window: window})
	}
}

func (c *cluster) halt(ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		c.tell(id, command{Op: "halt"})
	}
	for _, id := range ids {
		c.hear(id, "halted")
	}
}

// verify reads all groups on all nodes: every acknowledged proposal was applied, none twice, and all replicas agree.
func (c *cluster) verify() (applied int) {
	c.t.Helper()
	var dumps [4]map[uint64]dump
	for _, id := range all {
		c.tell(id, command{Op: "dump"})
		dumps[id] = c.hear(id, "dump").Dumps
	}
	have := make(map[ack]int)
	for g, d := range dumps[1] {
		for _, id := range all[1:] {
			if o := dumps[id][g]; o.Index != d.Index || o.Hash != d.Hash {
				c.t.Errorf("group %d: node 1 is at %d (%08x), node %d at %d (%08x)", g, d.Index, d.Hash, id, o.Index, o.Hash)
			}
		}
		for p, seqs := range d.Seqs {
			for _, s := range seqs {
				have[ack{g, p, s}]++
			}
		}
	}
	lost, twice := 0, 0
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.acked {
		if have[a] == 0 {
			lost++
		}
	}
	for _, n := range have {
		if n > 1 {
			twice++
		}
	}
	if lost > 0 || twice > 0 {
		c.t.Errorf("of %d acknowledged proposals %d are lost; of %d applied %d are there twice", len(c.acked), lost, len(have), twice)
	}
	return len(have)
}

func envInt(name string, def int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return def
}

// TestSpikeKill kills nodes under load: one, then all at once, then all and one again while it starts.
func TestSpikeKill(t *testing.T) {
	size := envInt("SPIKE_SIZE", 64<<10)
	c := newCluster(t, nodeConfig{
		Groups: uint64(envInt("SPIKE_GROUPS", 64)), Log: "journal", Exec: uint64(envInt("SPIKE_EXEC", 1)), Snapshots: 40,
	})
	c.start(all...)
	c.ready(all...)
	c.load(size, 2, all...)
	c.waitAcks(500, 60*time.Second)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range envInt("SPIKE_ROUNDS", 6) {
		pause(time.Duration(rng.IntN(300)) * time.Millisecond)
		victims := all
		if round%3 == 0 {
			victims = []uint64{1 + rng.Uint64N(3)}
		}
		for _, id := range victims {
			c.kill(id)
		}
		killed := time.Now()
		c.start(victims...)
		if round%3 == 2 {
			pause(time.Duration(rng.IntN(1500)) * time.Millisecond)
			c.kill(2)
			c.start(2)
		}
		c.ready(victims...)
		up := time.Since(killed)
		var stats []string
		for _, id := range victims {
			c.tell(id, command{Op: "stat"})
			s := c.hear(id, "stat").Stat
			stats = append(stats, fmt.Sprintf("%v (%d frames)", s.Replay.Round(time.Millisecond), s.ReplayFrames))
		}
		before := c.ackedCount()
		c.load(size, 2, victims...)
		c.waitAcks(300, 90*time.Second)
		t.Logf("round %d: killed %v with %d acknowledged; replay %v; all started after %v; 300 more acknowledged after %v", round, victims,
			before, stats, up.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
		if round%3 != 0 { // a node that was not killed goes on with its load; all are halted here
			c.halt(all...)
			applied := c.verify()
			t.Logf("round %d: %d acknowledged, %d applied", round, c.ackedCount(), applied)
			c.load(size, 2, all...)
			c.waitAcks(100, 60*time.Second)
		}
	}
	c.halt(all...)
	applied := c.verify()
	t.Logf("at the end: %d acknowledged, %d applied", c.ackedCount(), applied)
}

// TestSpikeThroughput measures the same load on our log and on Dragonboat's own log stores, one after the other.
func TestSpikeThroughput(t *testing.T) {
	kinds := []struct {
		log  string
		exec uint64
	}{{"journal", 1}, {"journal", 16}, {"file", 1}, {"pebble", 1}, {"tan", 1}}
	groups := uint64(envInt("SPIKE_GROUPS", 64))
	for _, size := range []int{envInt("SPIKE_SIZE", 64<<10), 1 << 10} {
		for _, k := range kinds {
			t.Run(fmt.Sprintf("%s-%d/%d", k.log, k.exec, size), func(t *testing.T) {
				c := newCluster(t, nodeConfig{Groups: groups, Log: k.log, Exec: k.exec})
				c.start(all...)
				c.ready(all...)
				c.load(size, 2, all...)
				c.waitAcks(int(groups), 90*time.Second) // every group has, on average, answered
				c.halt(all...)
				var before, after [4]stat
				c.stats(&before)
				c.load(size, 2, all...)
				start := time.Now()
				pause(time.Duration(envInt("SPIKE_SECONDS", 8)) * time.Second)
				c.halt(all...)
				took := time.Since(start)
				c.stats(&after)
				report(t, took, size, &before, &after)
				c.verify()
			})
		}
	}
}

func (c *cluster) stats(s *[4]stat) {
	c.t.Helper()
	for _, id := range all {
		c.tell(id, command{Op: "stat"})
		s[id] = c.hear(id, "stat").Stat
	}
}

func report(t *testing.T, took time.Duration, size int, before, after *[4]stat) {
	t.Helper()
	var n, refused, groups, frames, saves, skipped, written, rss int64
	var cpu time.Duration
	var p50, p99 []time.Duration
	for _, id := range all {
		a, b := after[id], before[id]
		n += a.Proposals // counted from the last load on
		refused += a.Refused
		groups += a.Groups - b.Groups
		frames += a.Frames - b.Frames
		saves += a.Saves - b.Saves
		skipped += a.Skipped - b.Skipped
		written += a.WrittenBytes - b.WrittenBytes
		cpu += a.CPU - b.CPU
		rss += a.RSS
		if a.Proposals > 0 {
			p50, p99 = append(p50, a.P50), append(p99, a.P99)
		}
	}
	if n == 0 {
		t.Fatal("nothing was acknowledged")
	}
	t.Logf("%.0f proposals/s (%.1f MB/s), %d refused, p50 %v, p99 %v, CPU %v per proposal on all nodes, %.2f bytes written per byte and node, RSS %d MB",
		float64(n)/took.Seconds(), float64(n)*float64(size)/took.Seconds()/1e6, refused, slices.Max(p50).Round(10*time.Microsecond),
		slices.Max(p99).Round(10*time.Microsecond), (cpu / time.Duration(n)).Round(time.Microsecond), float64(written)/3/float64(n)/float64(size), rss/3>>20)
	if groups > 0 {
		t.Logf("%d log groups (%.1f proposals, %.1f frames and %.1f saves each), %d saves needed no flush", groups,
			float64(n)*3/float64(groups), float64(frames)/float64(groups), float64(saves)/float64(groups), skipped)
	}
}
