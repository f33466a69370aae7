package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTick = 10 * time.Millisecond

// soon bounds what elections, joins and catching up take on a machine that others use too.
const soon = 30 * time.Second

// nodes is a cluster in one process.
type nodes struct {
	t     *testing.T
	dir   string
	list  map[meta.NodeID]*testNode
	tweak func(*Options)
}

type testNode struct {
	g       *Group
	c       *meta.Catalog
	net     *cutNet
	address string
}

// cutNet is TCP that can be cut off.
type cutNet struct {
	*TCP
	cut   atomic.Bool
	mu    sync.Mutex
	conns []net.Conn
}

var errCut = errors.New("the network is cut")

func (n *cutNet) track(c net.Conn) {
	n.mu.Lock()
	n.conns = append(n.conns, c)
	n.mu.Unlock()
}

func (n *cutNet) Open(ctx context.Context, address string) (net.Conn, error) {
	if n.cut.Load() {
		return nil, errCut
	}
	c, err := n.TCP.Open(ctx, address)
	if err == nil {
		n.track(c)
	}
	return c, err
}

func (n *cutNet) Serve(accept func(net.Conn)) {
	n.TCP.Serve(func(c net.Conn) {
		if n.cut.Load() {
			_ = c.Close()
			return
		}
		n.track(c)
		accept(c)
	})
}

func (n *cutNet) set(cut bool) {
	n.cut.Store(cut)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

func newNodes(t *testing.T) *nodes {
	t.Helper()
	ns := &nodes{t: t, dir: t.TempDir(), list: make(map[meta.NodeID]*testNode)}
	t.Cleanup(func() {
		for id := range ns.list {
			ns.stop(id)
		}
	})
	return ns
}

// open builds a node without starting it. address is where it was before, or empty.
func (ns *nodes) open(id meta.NodeID, address string, join ...string) *testNode {
	ns.t.Helper()
	listen := address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	tcp, err := ListenTCP(listen)
	if err != nil {
		ns.t.Fatal(err)
	}
	n := &testNode{net: &cutNet{TCP: tcp}, address: tcp.Addr().String()}
	o := Options{Dir: filepath.Join(ns.dir, fmt.Sprint(id)), Node: id, Address: n.address, Shards: 4, Network: n.net, Join: join,
		Logger: slog.New(slog.DiscardHandler), Tick: testTick, AnswerWait: 3 * time.Second, JoinWait: soon}
	if id == 1 && len(join) == 0 {
		o.Cluster, o.Form = "cluster-a", &Form{}
	}
	if ns.tweak != nil {
		ns.tweak(&o)
	}
	n.g = New(o)
	n.c = meta.New(n.g)
	return n
}

func (ns *nodes) start(id meta.NodeID, address string, join ...string) *testNode {
	ns.t.Helper()
	n := ns.open(id, address, join...)
	ns.list[id] = n
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	if err := n.g.Start(ctx, n.c); err != nil {
		ns.t.Fatalf("node %d: %v", id, err)
	}
	return n
}

func (ns *nodes) stop(id meta.NodeID) {
	if n := ns.list[id]; n != nil {
		delete(ns.list, id)
		if err := n.g.Close(); err != nil {
			ns.t.Errorf("close node %d: %v", id, err)
		}
	}
}

// three forms a cluster of three that vote.
func three(t *testing.T, tweak func(*Options)) *nodes {
	t.Helper()
	ns := newNodes(t)
	ns.tweak = tweak
	ns.start(1, "")
	ns.add(2)
	ns.add(3)
	return ns
}

// add adds a node and waits until it votes.
func (ns *nodes) add(id meta.NodeID) *testNode {
	ns.t.Helper()
	first := ns.list[1]
	n := ns.open(id, "", first.address)
	if err := first.g.Add(within(ns.t), meta.Node{ID: id, Roles: meta.RolesAll, Address: n.address}); err != nil {
		ns.t.Fatal(err)
	}
	ns.list[id] = n
	if err := n.g.Start(within(ns.t), n.c); err != nil {
		ns.t.Fatalf("node %d: %v", id, err)
	}
	ns.active(id)
	return n
}

// active waits until a node votes and knows it.
func (ns *nodes) active(id meta.NodeID) {
	ns.t.Helper()
	n := ns.list[id]
	testx.Eventually(ns.t, soon, func() bool {
		me := n.c.Load().Node(id)
		return me != nil && me.State == meta.NodeActive
	}, "node", id, "votes")
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return ctx
}

// set changes the catalog by a node and waits for the answer.
func (n *testNode) set(e ...meta.Entry) error {
	done := make(chan error, 1)
	n.c.Update(func(*meta.Snapshot) ([]meta.Entry, error) { return e, nil }, func(err error) { done <- err })
	return <-done
}

func (n *testNode) mustSet(t *testing.T, e ...meta.Entry) {
	t.Helper()
	testx.Eventually(t, soon, func() bool {
		err := n.set(e...)
		if err != nil && !errors.Is(err, meta.ErrNoMajority) && !errors.Is(err, meta.ErrUnknown) {
			t.Fatal(err)
		}
		return err == nil
	}, "a change is made")
}

func user(name string) meta.Entry { return (&meta.User{Name: name}).Entry() }

// sees waits until a node has a user.
func (n *testNode) sees(t *testing.T, name string) {
	t.Helper()
	testx.Eventually(t, soon, func() bool { return n.c.Load().User(name) != nil }, "user", name, "is seen")
}

func (ns *nodes) leader() *testNode {
	ns.t.Helper()
	var found *testNode
	testx.Eventually(ns.t, soon, func() bool {
		for id, n := range ns.list {
			if l, ok := n.g.Leader(); ok && l == id {
				found = n
				return true
			}
		}
		return false
	}, "somebody leads")
	return found
}

// Changes of any node are seen on all, in one order; one that is down comes back and has all of it; the answer of a change means that the node
// that made it sees it.
func TestThreeNodes(t *testing.T) {
	ns := three(t, nil)
	for id, n := range ns.list {
		name := fmt.Sprint("by", id)
		n.mustSet(t, user(name))
		if n.c.Load().User(name) == nil {
			t.Errorf("node %d does not see what it was told is made", id)
		}
		for _, other := range ns.list {
			other.sees(t, name)
		}
	}
	members, err := ns.list[2].g.Members(within(t))
	if err != nil || len(members) != 3 {
		t.Errorf("%v %v", members, err)
	}
	for _, m := range members {
		if !m.Votes || m.Replica != 1 {
			t.Errorf("%+v", m)
		}
	}

	address := ns.list[3].address
	ns.stop(3)
	for i := range 20 {
		ns.list[meta.NodeID(1+i%2)].mustSet(t, user(fmt.Sprint("away", i)))
	}
	back := ns.start(3, address)
	back.sees(t, "away19")
	if got, want := back.c.Load().UserCount(), ns.list[1].c.Load().UserCount(); got != want {
		t.Errorf("%d users on node 3, %d on node 1", got, want)
	}
	back.mustSet(t, user("again"))
	ns.list[2].sees(t, "again")
}

// Where clients reach a node is seen on all, at every start anew; a cluster that was made by an older program is raised when all can do more, and not
// before.
func TestAdvertise(t *testing.T) {
	ns := three(t, func(o *Options) { o.Rack = fmt.Sprint("r", o.Node) })
	at := meta.Endpoints{Plain: "k2:9092", TLS: "k2:9093"}
	sees := func(what meta.Endpoints) {
		t.Helper()
		for id, n := range ns.list {
			testx.Eventually(t, soon, func() bool {
				return n.c.Load().Node(2).Kafka == what && n.c.Load().Node(2).MQTT.WS == "m2:8083" && n.c.Load().Node(2).Rack == "r2"
			}, "node", id, "knows where node 2 is reached")
		}
	}
	ns.list[2].g.Advertise(at, meta.Doors{WS: "m2:8083"})
	sees(at)
	if rack := ns.list[2].c.Load().Node(1).Rack; rack != "r1" {
		t.Errorf("who formed the cluster is in rack %q", rack)
	}
	address := ns.list[2].address
	ns.stop(2)
	ns.start(2, address)
	ns.list[2].g.Advertise(meta.Endpoints{Plain: "k2:19092"}, meta.Doors{WS: "m2:8083"})
	sees(meta.Endpoints{Plain: "k2:19092"})

	old := *ns.list[1].c.Load().Cluster()
	old.Level = meta.LevelFirst
	ns.list[1].mustSet(t, old.Entry())
	for id, n := range ns.list {
		testx.Eventually(t, soon, func() bool { return n.c.Load().Cluster().Level == meta.Level }, "node", id, "has the level that all can do")
	}
}

// With the majority gone, changes are refused by name within their time, reads go on, and it all goes on when the majority is back.
func TestMajorityLost(t *testing.T) {
	ns := three(t, func(o *Options) { o.AnswerWait = time.Second })
	one := ns.list[1]
	one.mustSet(t, user("before"))
	addresses := map[meta.NodeID]string{2: ns.list[2].address, 3: ns.list[3].address}
	ns.stop(2)
	ns.stop(3)
	testx.Eventually(t, soon, func() bool {
		start := time.Now()
		err := one.set(user("lost"))
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("the answer took %v", took)
		}
		return errors.Is(err, meta.ErrNoMajority)
	}, "changes are refused by name")
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := one.g.Barrier(ctx); !errors.Is(err, meta.ErrNoMajority) {
		t.Errorf("barrier: %v", err)
	}
	if one.c.Load().User("before") == nil {
		t.Error("reads have ended")
	}
	// A node that starts alone serves what it had.
	address := one.address
	ns.stop(1)
	one = ns.start(1, address)
	if one.c.Load().User("before") == nil {
		t.Error("a node that starts without the others has nothing")
	}
	ns.start(2, addresses[2])
	one.mustSet(t, user("after"))
	ns.list[2].sees(t, "after")
	ns.start(3, addresses[3]).sees(t, "after")
}

// The loss of the leader is healed by an election; the node that was cut off is refused, and follows when it is back.
func TestLeaderCutOff(t *testing.T) {
	ns := three(t, nil)
	old := ns.leader()
	old.net.set(true)
	var other *testNode
	for _, n := range ns.list {
		if n != old {
			other = n
		}
	}
	start := time.Now()
	other.mustSet(t, user("meanwhile"))
	t.Logf("a change after the loss of the leader took %v at a tick of %v", time.Since(start), testTick)
	if err := old.set(user("alone")); err == nil {
		t.Error("a node that is cut off has made a change")
	}
	old.net.set(false)
	old.sees(t, "meanwhile")
	old.mustSet(t, user("back"))
	other.sees(t, "back")
}

// A change that was made of an older catalog is made again of the new one: two nodes that change the same entry lose nothing of each other.
func TestConcurrentChanges(t *testing.T) {
	ns := three(t, nil)
	ns.list[1].mustSet(t, (&meta.User{Name: "counter", Password: "p"}).Entry())
	for _, n := range ns.list {
		n.sees(t, "counter")
	}
	const each = 20
	var wg sync.WaitGroup
	for _, n := range ns.list {
		wg.Go(func() {
			for range each {
				done := make(chan error, 1)
				n.c.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
					u := *s.User("counter")
					u.Password += "x"
					return []meta.Entry{u.Entry()}, nil
				}, func(err error) { done <- err })
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := ns.list[1].g.Barrier(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := len(ns.list[1].c.Load().User("counter").Password); got != 1+3*each {
		t.Errorf("%d changes of %d are there", got-1, 3*each)
	}
}

// A node that joins late gets what is not in the log any more as a snapshot. Its directory is tied to it from then on.
func TestSnapshotToNewNode(t *testing.T) {
	ns := newNodes(t)
	ns.tweak = func(o *Options) { o.SnapshotEntries = 20 }
	first := ns.start(1, "")
	for i := range 100 {
		first.mustSet(t, user(fmt.Sprint("u", i)))
	}
	first.mustSet(t, meta.DeleteUser("u7"))
	second := ns.add(2)
	if n := second.c.Load().UserCount(); n != 99 || second.c.Load().User("u7") != nil || second.c.Load().User("u99") == nil {
		t.Errorf("%d users came", n)
	}
	// Once more, over what it has: far enough behind that the log does not reach.
	address := second.address
	ns.add(3)
	ns.stop(2)
	for i := range 100 {
		first.mustSet(t, user(fmt.Sprint("v", i)))
	}
	first.mustSet(t, meta.DeleteUser("u8"))
	second = ns.start(2, address)
	second.sees(t, "v99")
	testx.Eventually(t, soon, func() bool { return second.c.Load().User("u8") == nil }, "what was deleted meanwhile goes")
	// It votes after a restart too, though its log begins with a snapshot.
	ns.stop(3)
	first.mustSet(t, user("with node 2"))
	ns.stop(2)
	second = ns.start(2, address)
	first.mustSet(t, user("with node 2 again"))
	second.sees(t, "with node 2 again")
}

func TestRemoveAndReplace(t *testing.T) {
	ns := three(t, nil)
	one := ns.list[1]
	if err := one.g.Remove(within(t), 1); !errors.Is(err, ErrSelf) {
		t.Errorf("itself: %v", err)
	}
	// Node 3 has lost its disk: another directory is refused until the node is replaced.
	address := ns.list[3].address
	ns.stop(3)
	dir := ns.dir
	ns.dir = t.TempDir()
	n := ns.open(3, address, one.address)
	if err := n.g.Start(within(t), n.c); !errors.Is(err, ErrOtherNode) {
		t.Fatalf("another directory: %v", err)
	}
	_ = n.g.Close()
	if err := one.g.Replace(within(t), 3); err != nil {
		t.Fatal(err)
	}
	back := ns.start(3, address, one.address)
	ns.active(3)
	if me := back.c.Load().Node(3); me.Replica != 2 {
		t.Errorf("%+v", me)
	}
	// The old directory comes back: its copy is none any more.
	ns.stop(3)
	empty := ns.dir
	ns.dir = dir
	old := ns.start(3, address)
	testx.Eventually(t, soon, func() bool { return errors.Is(old.g.Refused(), ErrRemoved) || errors.Is(old.g.Refused(), ErrOtherNode) }, "the old copy is refused")
	ns.stop(3)
	ns.dir = empty
	ns.start(3, address).mustSet(t, user("replaced"))
	one.sees(t, "replaced")

	if err := one.g.Remove(within(t), 2); err != nil {
		t.Fatal(err)
	}
	members, err := one.g.Members(within(t))
	if err != nil || len(members) != 2 {
		t.Errorf("%v %v", members, err)
	}
	gone := ns.list[2]
	if err := gone.set(user("gone")); err == nil {
		t.Error("a node that was removed has changed the catalog")
	}
	address = gone.address
	ns.stop(2)
	fresh := t.TempDir()
	ns.dir = fresh
	n = ns.open(2, address, one.address)
	if err := n.g.Start(within(t), n.c); !errors.Is(err, ErrRemoved) {
		t.Errorf("a removed number: %v", err)
	}
	_ = n.g.Close()
	ns.dir = empty
	one.mustSet(t, user("two are left"))
}
