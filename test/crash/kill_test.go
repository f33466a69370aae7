// Package crash kills the real broker at random times under load, starts it again on its data, and counts: nothing that was
// acknowledged may be lost, nothing at QoS 2 may come twice, sessions and retained messages must be whole. It also gives it data that
// no broker should start on.
package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/test/common"
)

var (
	rounds = flag.Int("kills", 6, "how often the broker is killed; the long form has some hundreds")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the times at which it is killed")
	keep   = flag.String("keep", "", "where the data of a broker that lost something is copied to")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	common.Clean()
	os.Exit(code)
}

// small makes segments, groups and checkpoints come and go within the test.
var small = []string{"journal.checkpoint_interval=200ms", "journal.segment_size=4MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB"}

func TestKill(t *testing.T) { kill(t, small, nil) }

// The same of topics that are bound to a stream, whose records are counted as well.
func TestKillBound(t *testing.T) {
	kill(t, append([]string{`bindings=[{filter: "k/#", topic: k, partitions: 2}]`, "listeners.kafka.tcp=127.0.0.1:0"}, small...), verifyStream)
}

// kill kills a node with these settings now and then. verify, if there is one, looks at what is there at the end.
func kill(t *testing.T, settings []string, verify func(*testing.T, *common.Broker, []*common.Sender)) {
	t.Helper()
	t.Logf("-kills %d -seed %d", *rounds, *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))
	dir := t.TempDir()
	senders := []*common.Sender{
		{Exchange: common.Exchange{ID: "p1"}, QoS: 1, Topic: "k/1"},
		{Exchange: common.Exchange{ID: "p2"}, QoS: 2, Topic: "k/2"},
		{Exchange: common.Exchange{ID: "pr"}, QoS: 1, Topic: "k/r", Retain: true},
	}
	present := []*common.Receiver{common.NewReceiver("s1", 1), common.NewReceiver("s2", 2)}
	absent := common.NewReceiver("s3", 2) // subscribes once, and comes back at the end
	all := append(present[:2:2], absent)
	group := []*common.Receiver{common.NewReceiver("g1", 2), common.NewReceiver("g2", 2), common.NewReceiver("g3", 2)}
	for round := 0; ; round++ {
		b := common.Start(t, dir, settings...)
		last := round == *rounds
		attach(t, b, "k/#", present...)
		if round == 0 || last {
			attach(t, b, "k/#", absent)
		}
		for i, r := range group { // now and then one is away, with what it has begun
			if round == 0 || last || rng.IntN(len(group)) != i {
				attach(t, b, "$share/g/k/#", r)
			}
		}
		if round == 0 {
			_ = absent.C.Close()
		}
		stop := make(chan struct{})
		wait := common.Load(t, b.URL(), senders, stop)
		if last {
			close(stop)
			wait()
			if !common.AwaitAll(senders, all, 30*time.Second) || !common.AwaitGroup(senders, group, 30*time.Second) || t.Failed() {
				t.Logf("the broker says:\n%s", b.Log())
			}
			common.VerifyRetained(t, b.URL(), senders[2])
			if verify != nil {
				verify(t, b, senders)
			}
			b.Kill()
			break
		}
		<-time.After(time.Duration(50+rng.IntN(400)) * time.Millisecond) // the time of the kill is what the test draws
		b.Kill()
		close(stop)
		wait()
	}
	common.Verify(t, senders, all)
	common.VerifyGroup(t, senders, group)
	if t.Failed() && *keep != "" {
		to := filepath.Join(*keep, strconv.FormatUint(*seed, 10))
		t.Logf("its data is in %s: %v", to, os.CopyFS(to, os.DirFS(dir)))
	}
}

// verifyStream reads the stream: what was acknowledged is there, what was sent at QoS 2 once.
func verifyStream(t *testing.T, b *common.Broker, senders []*common.Sender) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Listeners["kafka.tcp"]), kgo.ConsumeTopics("k"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	count := map[string]int{}
	for left > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%d records are missing: %v", left, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			count[string(r.Value)]++
			left--
		})
	}
	for _, s := range senders {
		for _, n := range s.Acked {
			switch c := count[fmt.Sprintf("%s/%d", s.ID, n)]; {
			case c == 0:
				t.Errorf("%s/%d was acknowledged and is not in the stream", s.ID, n)
			case c > 1 && s.QoS == 2:
				t.Errorf("%s/%d is in the stream %d times", s.ID, n, c)
			}
		}
	}
}

func attach(t *testing.T, b *common.Broker, filter string, receivers ...*common.Receiver) {
	t.Helper()
	for _, r := range receivers {
		if err := r.Attach(b.URL(), filter); err != nil {
			t.Fatal(err)
		}
	}
}
