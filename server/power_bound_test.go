package server

import (
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// boundNode is testNode with the topics below "k" bound to a stream.
func boundNode(t testing.TB, fsys vfs.FS, with ...func(*nodeOptions)) (*node, string) {
	t.Helper()
	n, url := testNode(t, fsys, with...)
	b, err := newBinder(t.Context(), n, config.Bindings{{Filter: "k/#", Topic: "k", Partitions: 2}}, func() int { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	b.close() // nobody changes them
	return n, url
}

// stream gives how often the stream has each payload. It asks by a subscription that starts in the past.
func stream(t testing.TB, url string, enough func(map[string]int) bool) map[string]int {
	t.Helper()
	c := dial(t, url, "from-the-past", 0)
	defer c.Close()
	codes, err := c.SubscribeWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("k/#"), QoS: 1, RetainHandling: 2}},
		User: wire.AppendUserProperty(nil, []byte("from"), []byte("earliest"))})
	if err != nil || codes[0].Failed() {
		t.Fatal(codes, err)
	}
	seen := map[string]int{}
	for !enough(seen) {
		m, err := c.Receive(patience)
		if err != nil {
			t.Errorf("the stream ends after %d messages: %v", len(seen), err)
			break
		}
		seen[string(m.Payload)]++
	}
	return seen
}

// The same of topics that are bound to a stream: what was acknowledged is in it, and has reached all sessions.
func TestPowerCutBound(t *testing.T) {
	powerCut(t, boundNode, func(url string, senders []*common.Sender) {
		seen := stream(t, url, func(seen map[string]int) bool {
			for _, s := range senders {
				if n := len(s.Acked); n > 0 && seen[fmt.Sprintf("%s/%d", s.ID, s.Acked[n-1])] == 0 {
					return false
				}
			}
			return true
		})
		for _, s := range senders {
			for _, n := range s.Acked {
				if k := seen[fmt.Sprintf("%s/%d", s.ID, n)]; k == 0 || k > 1 && s.QoS == 2 {
					t.Errorf("the stream has %s/%d %d times", s.ID, n, k)
				}
			}
		}
	})
}

// boundLoad publishes to a bound topic, and counts what was acknowledged.
type boundLoad struct {
	t     testing.TB
	pub   *mqttclient.Client
	acked []string
	next  int
	size  int
}

func (l *boundLoad) publish(qos byte) wire.ReasonCode {
	l.t.Helper()
	payload := string(append(fmt.Appendf(nil, "%d ", l.next), make([]byte, l.size)...))
	l.next++
	code, err := l.pub.Publish(&wire.PublishOut{Topic: fmt.Appendf(nil, "k/%d", l.next%3), QoS: qos, Payload: []byte(payload)})
	if err != nil && !code.Failed() {
		l.t.Fatal(err)
	}
	if !code.Failed() {
		l.acked = append(l.acked, payload)
	}
	return code
}

// all says whether what was acknowledged is among what was seen.
func (l *boundLoad) all(seen map[string]int) bool {
	return !slices.ContainsFunc(l.acked, func(p string) bool { return seen[p] == 0 })
}

// check looks for what was acknowledged in the stream, and has the session "keeper" come back for it.
func (l *boundLoad) check(url string) {
	l.t.Helper()
	seen := stream(l.t, url, l.all)
	r := common.Exchange{ID: "keeper"}
	if err := r.Connect(url); err != nil {
		l.t.Fatal(err)
	}
	defer r.C.Close()
	came := map[string]int{}
	for !l.all(came) {
		m, err := r.C.Receive(patience)
		if err != nil {
			l.t.Errorf("the session got %d: %v", len(came), err)
			break
		}
		came[string(m.Payload)]++
	}
	for _, p := range l.acked {
		if seen[p] != 1 || came[p] != 1 {
			l.t.Errorf("message %.5q is in the stream %d times, and reached the session %d times", p, seen[p], came[p])
		}
	}
}

func startBoundLoad(t testing.TB, url string, size int) *boundLoad {
	t.Helper()
	keeper := dial(t, url, "keeper", 3600)
	subscribe(t, keeper, "k/#", 2)
	_ = keeper.Close()
	return &boundLoad{t: t, pub: dial(t, url, "pub", 0), size: size}
}

// A full disk refuses messages to a bound topic with a reason; what it has taken is in the stream and reaches the absent session, and when there
// is room again, so does the rest.
func TestDiskFullBound(t *testing.T) {
	mem := vfs.NewMem()
	space := vfs.NewSpace(6 << 20)
	n, url := boundNode(t, &vfs.Fault{FS: mem, Judge: space.Judge})
	l := startBoundLoad(t, url, 32<<10)
	testx.Eventually(t, patience, func() bool { return l.publish(1).Failed() }, "the disk has room for ever")
	mem.SetFree(0)
	if code := l.publish(2); code != wire.QuotaExceeded && code != wire.ImplementationSpecific {
		t.Errorf("QoS 2 on a full disk: %v", code)
	}
	if err := n.storage.err(); err != nil {
		t.Errorf("a full disk is no lasting failure: %v", err)
	}
	space.Add(1 << 30)
	mem.SetFree(1 << 30)
	testx.Eventually(t, patience, func() bool { return !l.publish(1).Failed() }, "the disk has room again")
	if err := stopNode(n); err != nil {
		t.Error(err)
	}
	again, url := boundNode(t, mem)
	l.check(url)
	if err := stopNode(again); err != nil {
		t.Error(err)
	}
}

// A disk that fails acknowledges nothing from then on, in whichever step of a bound message's way it fails: the batch or its links. What was acknowledged is there at the next start.
func TestDiskFailsBound(t *testing.T) {
	for after := range 6 { // syncs of the log
		mem := vfs.NewMem()
		var broken atomic.Bool
		var count atomic.Int64
		judge := logOnly(func(op vfs.Op) vfs.Verdict {
			if broken.Load() && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync) && count.Add(1) > int64(after) {
				return vfs.Verdict{Err: syscall.EIO}
			}
			return vfs.Verdict{}
		})
		n, url := boundNode(t, &vfs.Fault{FS: mem, Judge: judge})
		l := startBoundLoad(t, url, 10)
		for i := range 20 {
			l.publish(byte(1 + i%2))
		}
		broken.Store(true)
		failed := false
		for range 20 {
			failed = l.publish(1).Failed() || failed
		}
		if !failed {
			t.Fatalf("after %d syncs: acknowledged what is on no disk", after)
		}
		_ = stopNode(n)
		again, url := boundNode(t, mem)
		l.check(url)
		if err := stopNode(again); err != nil {
			t.Error(err)
		}
	}
}
