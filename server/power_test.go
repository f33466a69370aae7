package server

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

var (
	powerCuts = flag.Int("powercuts", 10, "how often the power goes; the long form has some hundreds")
	powerSeed = flag.Uint64("powerseed", uint64(time.Now().UnixNano()), "of the moments at which it goes")
)

const patience = 20 * time.Second

// mains is the power of a machine: what its disk holds when it goes is survived, and from that moment on no operation succeeds, those
// under way included, so that nothing can be acknowledged on the ground of a write that the snapshot does not hold.
type mains struct {
	mem   *vfs.Mem
	armed atomic.Bool // the next sync is the last
	off   atomic.Bool

	mu       sync.Mutex
	cut      vfs.Cut
	survived *vfs.Mem
}

var errNoPower = errors.New("no power")

func newMains(mem *vfs.Mem, cut vfs.Cut) *mains {
	m := &mains{mem: mem, cut: cut}
	mem.OnSync = func(string, string) {
		if m.armed.CompareAndSwap(true, false) {
			m.fall()
		}
	}
	return m
}

func (m *mains) fall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.survived == nil {
		m.off.Store(true) // before the snapshot: what ends from here on has failed
		m.survived = m.mem.Crash(m.cut)
	}
}

// end cuts the power if it is still there, and gives what is left.
func (m *mains) end() *vfs.Mem {
	m.fall()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.survived
}

func (m *mains) judge(vfs.Op) vfs.Verdict {
	v := vfs.Verdict{After: func(err *error) {
		if m.off.Load() {
			*err = errNoPower
		}
	}}
	if m.off.Load() {
		v.Err = errNoPower
	}
	return v
}

// testNode builds a node on fsys with small segments and frequent checkpoints, and opens one listener.
func testNode(t testing.TB, fsys vfs.FS, with ...func(*nodeOptions)) (n *node, url string) {
	t.Helper()
	cfg := config.Default()
	gate, err := auth.New(auth.Options{Anonymous: "loopback"})
	if err != nil {
		t.Fatal(err)
	}
	o := nodeOptions{
		logger: slog.New(slog.DiscardHandler), loops: 2, shards: 4, limits: brokerLimits(&cfg), settings: mqttSettings(&cfg),
		authn: gate, authz: gate,
		storage: storageOptions{dir: "data/journal", durability: "sync", segmentBytes: 1 << 20, tailBytes: 1 << 20, groupBytes: 128 << 10,
			checkpointInterval: 50 * time.Millisecond, checkpointBytes: 256 << 10, fs: fsys},
	}
	for _, f := range with {
		f(&o)
	}
	if n, err = newNode(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	addr, err := n.listen(door{name: "mqtt.tcp", network: "tcp", address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return n, "mqtt://" + addr.String()
}

func stopNode(n *node) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.close(ctx)
}

// The power goes at random moments under load; what was on its way to the disk is there in part or not at all.
func TestPowerCut(t *testing.T) { powerCut(t, testNode, nil) }

// powerCut cuts the power of nodes that open makes. verify, if there is one, looks at what is there at the end.
func powerCut(t *testing.T, open func(testing.TB, vfs.FS, ...func(*nodeOptions)) (*node, string), verify func(url string, senders []*common.Sender)) {
	t.Helper()
	t.Logf("-powercuts %d -powerseed %d", *powerCuts, *powerSeed)
	rng := rand.New(rand.NewPCG(*powerSeed, 3))
	senders := []*common.Sender{
		{Exchange: common.Exchange{ID: "p1"}, QoS: 1, Topic: "k/1", MayRefuse: true},
		{Exchange: common.Exchange{ID: "p2"}, QoS: 2, Topic: "k/2", MayRefuse: true},
		{Exchange: common.Exchange{ID: "pr"}, QoS: 1, Topic: "k/r", Retain: true, MayRefuse: true},
	}
	present := []*common.Receiver{common.NewReceiver("s1", 1), common.NewReceiver("s2", 2)}
	absent := common.NewReceiver("s3", 2) // subscribes once, and comes back at the end
	all := append(present[:2:2], absent)
	for _, r := range all {
		r.MayEnd = true // a disk that is gone can store no PUBREC
	}
	disk := vfs.NewMem()
	for round := 0; ; round++ {
		power := newMains(disk, vfs.Cut{Rand: rand.New(rand.NewPCG(*powerSeed, uint64(round)))})
		n, url := open(t, &vfs.Fault{FS: disk, Judge: power.judge})
		last := round == *powerCuts
		attach(t, url, present...)
		if round == 0 || last {
			attach(t, url, absent)
		}
		if round == 0 {
			_ = absent.C.Close()
		}
		stop := make(chan struct{})
		wait := common.Load(t, url, senders, stop)
		if last {
			close(stop)
			wait()
			common.AwaitAll(senders, all, patience)
			common.VerifyRetained(t, url, senders[2])
			if verify != nil {
				verify(url, senders)
			}
			if err := stopNode(n); err != nil {
				t.Error(err)
			}
			break
		}
		pause(time.Duration(20+rng.IntN(200)) * time.Millisecond)
		if rng.IntN(4) > 0 {
			power.armed.Store(true)
			for limit := time.Now().Add(time.Second); !power.off.Load() && time.Now().Before(limit); {
				pause(time.Millisecond)
			}
		}
		disk = power.end()
		close(stop)
		_ = stopNode(n) // the disk is gone: it says so
		wait()
		if t.Failed() {
			break
		}
	}
	for _, r := range all {
		r.Wait()
	}
	common.Verify(t, senders, all)
}

// pause lets the load run: how long is what a test draws, not what it waits for.
func pause(d time.Duration) { <-time.After(d) }

func attach(t *testing.T, url string, receivers ...*common.Receiver) {
	t.Helper()
	for _, r := range receivers {
		if err := r.Attach(url, "k/#"); err != nil {
			t.Fatal(err)
		}
	}
}

// dial opens a clean session.
func dial(t testing.TB, url, id string, expiry uint32) *mqttclient.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: url, Connect: wire.Connect{ClientID: []byte(id), CleanStart: true, SessionExpiry: expiry}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func subscribe(t testing.TB, c *mqttclient.Client, filter string, qos byte) {
	t.Helper()
	codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: qos})
	if err != nil || codes[0].Failed() {
		t.Fatal(codes, err)
	}
}

// logOnly lets a judge see the log's own files, not the checkpoint store's.
func logOnly(judge func(vfs.Op) vfs.Verdict) func(vfs.Op) vfs.Verdict {
	return func(op vfs.Op) vfs.Verdict {
		if strings.Contains(path.Dir(op.Path), "checkpoint") {
			return vfs.Verdict{}
		}
		return judge(op)
	}
}

// A full disk refuses what must be kept, with a reason, and nothing else; when there is room again, so it goes on, and nothing that was
// acknowledged before is lost.
func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	space := vfs.NewSpace(6 << 20)
	n, url := testNode(t, &vfs.Fault{FS: mem, Judge: space.Judge})
	keeper := dial(t, url, "keeper", 3600)
	subscribe(t, keeper, "kept", 1)
	_ = keeper.Close()
	live := dial(t, url, "live", 0)
	subscribe(t, live, "free", 1)
	pub := dial(t, url, "pub", 0)
	payload := make([]byte, 32<<10)
	kept := 0
	publish := func(topic string, qos byte, body []byte) wire.ReasonCode {
		code, err := pub.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: qos, Payload: body})
		if err != nil && !code.Failed() {
			t.Fatal(err)
		}
		return code
	}
	testx.Eventually(t, patience, func() bool {
		code := publish("kept", 1, payload)
		if !code.Failed() {
			kept++
		}
		return code.Failed()
	})
	mem.SetFree(0)
	if code := publish("kept", 2, payload); code != wire.QuotaExceeded && code != wire.ImplementationSpecific {
		t.Errorf("QoS 2 on a full disk: %v", code)
	}
	if code := publish("free", 1, []byte("goes on")); code.Failed() {
		t.Errorf("what nobody keeps: %v", code)
	}
	if m, err := live.Receive(patience); err != nil || string(m.Payload) != "goes on" {
		t.Errorf("%q %v", m.Payload, err)
	}
	if err := n.storage.err(); err != nil {
		t.Errorf("a full disk is no lasting failure: %v", err)
	}
	space.Add(1 << 30)
	mem.SetFree(1 << 30)
	testx.Eventually(t, patience, func() bool {
		code := publish("kept", 1, payload)
		if !code.Failed() {
			kept++
		}
		return !code.Failed()
	}, "the disk has room again")
	if err := stopNode(n); err != nil {
		t.Error(err)
	}
	again, url := testNode(t, mem)
	if got := drainQueue(t, url, "keeper", kept); got != kept {
		t.Errorf("%d kept of %d acknowledged", got, kept)
	}
	if err := stopNode(again); err != nil {
		t.Error(err)
	}
}

// A full disk mends itself: what waits is taken, which is logged in what the log has set aside, its segments become free, and messages are
// taken again. Nobody makes room.
func TestDiskFullDrains(t *testing.T) {
	mem := vfs.NewMem()
	space := vfs.NewSpace(6 << 20)
	full := func(op vfs.Op) vfs.Verdict {
		if op.Kind != vfs.OpAllocate {
			return vfs.Verdict{} // what lies on the disk already takes no more of it
		}
		return space.Judge(op)
	}
	n, url := testNode(t, &vfs.Fault{FS: mem, Judge: full})
	keeper := dial(t, url, "keeper", 3600)
	subscribe(t, keeper, "kept", 1)
	_ = keeper.Close()
	pub := dial(t, url, "pub", 0)
	payload := make([]byte, 16<<10)
	kept := 0
	publish := func() bool {
		code, err := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1, Payload: payload})
		if err != nil && !code.Failed() {
			t.Fatal(err)
		}
		if !code.Failed() {
			kept++
		}
		return !code.Failed()
	}
	for publish() {
		if kept*len(payload) > 6<<20 {
			t.Fatalf("%d messages of %d bytes were taken by a disk of 6 MiB", kept, len(payload))
		}
	}
	late := common.Exchange{ID: "late"}
	if err := late.Connect(url); err == nil {
		t.Error("a new kept session was taken on a full disk")
		_ = late.C.Close()
	}
	got := drainQueue(t, url, "keeper", kept)
	testx.Eventually(t, patience, publish, "what was drained has made no room")
	if got += drainQueue(t, url, "keeper", kept-got); got != kept {
		t.Errorf("%d kept of %d acknowledged", got, kept)
	}
	if err := stopNode(n); err != nil {
		t.Error(err)
	}
}

// drainQueue resumes a session and counts what waits for it: it waits for as many as there should be, and a moment for one too many.
func drainQueue(t *testing.T, url, id string, want int) (got int) {
	t.Helper()
	r := common.Exchange{ID: id}
	if err := r.Connect(url); err != nil {
		t.Fatal(err)
	}
	defer r.C.Close()
	for {
		wait := patience
		if got >= want {
			wait = 200 * time.Millisecond
		}
		if _, err := r.C.Receive(wait); err != nil {
			return got
		}
		got++
	}
}

// A disk that fails acknowledges nothing from then on, and the node says that it is not ready; what was acknowledged is there at the
// next start.
func TestDiskFails(t *testing.T) {
	mem := vfs.NewMem()
	var broken atomic.Bool
	judge := logOnly(func(op vfs.Op) vfs.Verdict {
		if broken.Load() && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync) {
			return vfs.Verdict{Err: syscall.EIO}
		}
		return vfs.Verdict{}
	})
	n, url := testNode(t, &vfs.Fault{FS: mem, Judge: judge})
	s := &Server{node: n}
	s.ready.Store(true)
	if code, _ := s.readiness(); code != 200 {
		t.Errorf("ready: %d", code)
	}
	keeper := dial(t, url, "keeper", 3600)
	subscribe(t, keeper, "kept", 1)
	_ = keeper.Close()
	pub := dial(t, url, "pub", 0)
	kept := 0
	for range 20 {
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		kept++
	}
	broken.Store(true)
	for _, qos := range []byte{1, 2, 1} {
		if code, err := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: qos}); !code.Failed() {
			t.Fatalf("acknowledged what is on no disk: %v %v", code, err)
		}
	}
	if code, text := s.readiness(); code != 503 || !strings.Contains(text, "journal") {
		t.Errorf("readiness: %d %q", code, text)
	}
	if n.storage.err() == nil {
		t.Error("the storage says that all is well")
	}
	broken.Store(false) // it heals, but nothing that was written is trusted until it is read again
	if code, _ := pub.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1}); !code.Failed() {
		t.Errorf("written behind a failed write: %v", code)
	}
	_ = stopNode(n)
	again, url := testNode(t, mem)
	if got := drainQueue(t, url, "keeper", kept); got != kept {
		t.Errorf("%d kept of %d acknowledged", got, kept)
	}
	if err := stopNode(again); err != nil {
		t.Error(err)
	}
}
