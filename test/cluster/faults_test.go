package cluster

import (
	"math/rand/v2"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/test/common"
)

// A fault is something that happens to a node, or to what lies between it and the others, and its end.
type fault struct {
	name string
	do   func(l *load, n *common.Node, rnd *rand.Rand)
}

var faults = []fault{
	{"kill", func(_ *load, n *common.Node, rnd *rand.Rand) {
		n.Kill()
		between(rnd, 0, 1500)
		n.Start()
	}},
	{"restart", func(_ *load, n *common.Node, _ *rand.Rand) {
		n.Stop()
		n.Start()
	}},
	{"pause", func(_ *load, n *common.Node, rnd *rand.Rand) {
		_ = n.Broker().Signal(syscall.SIGSTOP)
		between(rnd, 100, 2500)
		_ = n.Broker().Signal(syscall.SIGCONT)
	}},
	{"two kills", func(l *load, n *common.Node, rnd *rand.Rand) {
		other := l.c.Nodes[n.ID%len(l.c.Nodes)]
		n.Kill()
		between(rnd, 0, 300)
		other.Kill()
		between(rnd, 0, 1500)
		var both sync.WaitGroup // neither leads without the other
		both.Go(n.Start)
		both.Go(other.Start)
		both.Wait()
	}},
	{"another clock", func(_ *load, n *common.Node, rnd *rand.Rand) {
		n.Stop()
		n.Skew(time.Duration(rnd.IntN(7200)-3600) * time.Second)
		n.Start()
	}},
	{"a new disk", func(l *load, n *common.Node, _ *rand.Rand) {
		n.Kill()
		l.c.Replace(n)
	}},
	{"a slow network", func(l *load, n *common.Node, rnd *rand.Rand) {
		w := common.Way{Delay: time.Duration(10+rnd.IntN(200)) * time.Millisecond}
		l.around(n, w, w)
		between(rnd, 500, 3000)
		l.net.Heal()
	}},
	{"a narrow network", func(l *load, n *common.Node, rnd *rand.Rand) {
		w := common.Way{Rate: 4<<10 + rnd.IntN(128<<10)}
		l.around(n, w, w)
		between(rnd, 500, 3000)
		l.net.Heal()
	}},
	{"cut connections", func(l *load, n *common.Node, rnd *rand.Rand) {
		for range 1 + rnd.IntN(5) {
			l.net.Cut(n.ID, 1+rnd.IntN(20000))
			between(rnd, 10, 400)
		}
		l.net.Heal()
	}},
	{"half-open connections", func(l *load, n *common.Node, rnd *rand.Rand) {
		l.net.HalfOpen(n.ID)
		between(rnd, 100, 4000)
		l.net.Heal()
	}},
	{"nothing is heard", func(l *load, n *common.Node, rnd *rand.Rand) {
		l.around(n, common.Way{}, common.Way{Silent: true})
		between(rnd, 100, 3000)
		l.net.Heal()
	}},
	{"nothing is said", func(l *load, n *common.Node, rnd *rand.Rand) {
		l.around(n, common.Way{Silent: true}, common.Way{})
		between(rnd, 100, 3000)
		l.net.Heal()
	}},
	{"cut off", func(l *load, n *common.Node, rnd *rand.Rand) {
		l.around(n, common.Way{Silent: true}, common.Way{Silent: true})
		between(rnd, 100, 3000)
		l.net.Heal()
	}},
}

// around sets how bytes go from a node to all others, and from them to it.
func (l *load) around(n *common.Node, out, in common.Way) {
	for _, o := range l.c.Nodes {
		l.net.Set(n.ID, o.ID, out)
		l.net.Set(o.ID, n.ID, in)
	}
}

// between waits as long as the test draws.
func between(rnd *rand.Rand, low, high int) {
	<-time.After(time.Duration(low+rnd.IntN(high-low)) * time.Millisecond)
}

// deck gives all faults that -chaos.only names in some order, and then in another one.
type deck struct {
	rnd  *rand.Rand
	all  []fault
	left []int
}

func newDeck(t *testing.T, rnd *rand.Rand) *deck {
	t.Helper()
	only, err := regexp.Compile(*chaosOnly)
	if err != nil {
		t.Fatal(err)
	}
	d := &deck{rnd: rnd}
	for _, f := range faults {
		if only.MatchString(f.name) {
			d.all = append(d.all, f)
		}
	}
	if len(d.all) == 0 {
		t.Fatalf("no fault is named %q", *chaosOnly)
	}
	return d
}

func (d *deck) draw() (f fault) {
	if len(d.left) == 0 {
		d.left = d.rnd.Perm(len(d.all))
	}
	f, d.left = d.all[d.left[0]], d.left[1:]
	return f
}
