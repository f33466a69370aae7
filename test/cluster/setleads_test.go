package cluster

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

var leadsMoved = flag.Int("cluster.leads", 12, "how many times TestLeadsMove has another node lead all sets, and looks whether anything grows by that")

const (
	leadsSets       = 3
	leadsPartitions = 3
)

// Nodes are killed in the middle of commands that move leads: each one ends, or says why not; done again it comes to its end, the leads lie evenly then, and what was acknowledged
// meanwhile is there. Then the leads of all sets move again and again, and no node has more goroutines, open files or memory by that.
func TestLeadsMove(t *testing.T) {
	t.Parallel()
	often := func(int) ([]string, string) { return []string{"env", "GOGC=20"}, "" } // so that the heap is what lives
	c := common.StartClusterBy(t, 3, often)
	ctx, cancel := context.WithTimeout(context.Background(), 10*longest+time.Duration(*leadsMoved)*longest/4)
	defer cancel()
	for _, n := range c.Nodes { // from when they are killed; one that gets a copy listens anew
		n.Set("listeners.http=" + testx.ClosedAddr(t))
	}
	l := &load{t: t, c: c, ctx: ctx}
	c.Must("shard", "sets", fmt.Sprint(leadsSets), "--wait")
	spreadTopic(ctx, t, l, "spread", leadsPartitions)
	m := &leadMoves{c: c, w: keepNumbering(ctx, l, "spread", leadsPartitions)}
	m.w.progress("before")

	m.cutShort(t, "the node that is to lead all is killed", 1, 2, 2, "shard", "move", "--to", "2", "--all", "--wait")
	m.cutShort(t, "the node that leads all is killed", 1, 3, 1, "shard", "move", "--to", "3", "--all", "--wait")
	m.cutShort(t, "who leads all is killed while it is balanced", 2, 0, 2, "shard", "balance", "--wait")
	m.cutShort(t, "one that drains is killed", 3, 0, 3, "node", "drain", "3", "--wait")
	m.grows(t, *leadsMoved)
	least, most := m.w.least(), m.w.stop()
	wantNumbers(t, l.readWhole(ctx, "spread", leadsPartitions), least, most)
}

type leadMoves struct {
	c *common.Cluster
	w *numbered
}

// lead has a node lead all sets.
func (m *leadMoves) lead(t *testing.T, id int) {
	t.Helper()
	awaitSets(t, m.c, fmt.Sprintf("node %d leads all", id), func(list []shardSet) bool {
		if ledAll(id)(list) {
			return true
		}
		_, _ = m.c.Nodes[id-1].Run("shard", "move", "--to", fmt.Sprint(id), "--all")
		return false
	})
}

// cutShort has one node lead all, begins a command at a node that is not the victim, and kills the victim once a lead has moved, so to a node if to is none of 0. When the victim is back the
// command, or a balancing, comes to its end.
func (m *leadMoves) cutShort(t *testing.T, what string, from, to, victim int, command ...string) {
	t.Helper()
	began := time.Now()
	m.lead(t, from)
	at, v := m.c.Nodes[victim%3], m.c.Nodes[victim-1]
	was, err := setsAt(at)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := at.Run(command...)
		ended <- err
	}()
	var over error
	testx.Eventually(t, longest, func() bool {
		now, _ := setsAt(at)
		for i := range now {
			if now[i].Leader != was[i].Leader {
				return true
			}
		}
		select {
		case over = <-ended:
			ended <- over
			return over != nil
		default:
			return false
		}
	}, what, "a lead has moved")
	moved, _ := setsAt(at)
	v.Kill()
	killed := time.Now()
	m.w.progress(what)
	away := time.Since(killed)
	v.Start()
	back := time.Now()
	err = testx.Receive(t, ended, longest)
	if since := time.Since(back); since > longest/3 { // what was asked for and is forgotten ends after half of longest
		t.Errorf("%s: the command ends %v after the node is back", what, since)
	}
	t.Logf("%s: %s lead then; clients go on after %v; it ends after %v with: %v", what, leadsText(moved), away.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond), err)
	if err != nil && !strings.Contains(err.Error(), "node") {
		t.Errorf("%s: it does not say why: %v", what, err)
	}
	if to != 0 {
		m.c.Must(command...)
		awaitSets(t, m.c, "the command once more comes to its end", ledAll(to))
	}
	awaitSets(t, m.c, "all are in sync", syncedIn(3))
	m.c.Must("shard", "balance", "--wait")
	awaitSets(t, m.c, "leads lie evenly", evenly)
	m.w.progress(what + ", and it was balanced")
	t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
}

// evenly says whether each node leads as many sets beside the first, those that prefer it.
func evenly(list []shardSet) bool {
	leads := make(map[int]int)
	for _, s := range list[1:] {
		if s.Leader == 0 || s.Leader != s.Replicas[0] || len(s.InSync) != 3 || len(s.Target) > 0 {
			return false
		}
		leads[s.Leader]++
	}
	return len(leads) == 3 && leads[1] == leads[2] && leads[2] == leads[3]
}

func leadsText(list []shardSet) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprint(&b, s.Leader)
	}
	return b.String()
}

// size is what a node takes.
type size struct{ goroutines, files, heap, memory float64 }

func sizeOf(t *testing.T, n *common.Node) (s size) {
	t.Helper()
	r, err := http.Get("http://" + n.Broker().Listeners["http"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	into := map[string]*float64{"go_goroutines": &s.goroutines, "process_open_fds": &s.files, "go_memstats_next_gc_bytes": &s.heap, "process_resident_memory_bytes": &s.memory}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		var v float64
		name, rest, _ := strings.Cut(lines.Text(), " ")
		if at := into[name]; at != nil {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			*at = v
		}
	}
	return s
}

// grows has another node lead all sets, so many times, and compares what each node takes half way, the first one leading all, with what it takes at the end.
func (m *leadMoves) grows(t *testing.T, moves int) {
	t.Helper()
	half := (moves + 5) / 6 * 3
	round := func() (list [3]size) {
		began := time.Now()
		for i := range half {
			m.lead(t, (i+1)%3+1) // 2, 3, 1
		}
		t.Logf("%d times another node has led all %d sets, in %v", half, leadsSets+1, time.Since(began).Round(time.Millisecond))
		for k := range 10 { // of several moments, as requests come and go
			for i, n := range m.c.Nodes {
				s := sizeOf(t, n)
				if k == 0 {
					list[i] = s
				}
				list[i] = size{min(list[i].goroutines, s.goroutines), min(list[i].files, s.files), min(list[i].heap, s.heap), min(list[i].memory, s.memory)}
			}
			<-time.After(50 * time.Millisecond)
		}
		return list
	}
	m.lead(t, 1)
	before := round()
	after := round()
	for i, n := range m.c.Nodes {
		b, a := before[i], after[i]
		t.Logf("node %d: %v goroutines, %v then; %v open files, %v; heap %.1f MiB, %.1f; resident %.1f MiB, %.1f", n.ID, b.goroutines, a.goroutines, b.files, a.files, b.heap/(1<<20), a.heap/(1<<20), b.memory/(1<<20), a.memory/(1<<20))
		if a.goroutines > b.goroutines+10 || a.files > b.files+10 || half >= 30 && a.heap > 1.2*b.heap+2<<20 { // before that the collector has not seen it all
			t.Errorf("node %d takes more, and more", n.ID)
		}
	}
}
