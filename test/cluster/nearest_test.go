package cluster

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// A consumer reads from the follower in its rack, as that says itself, each record once and in order, while that one is stopped, comes back, and another node leads.
func TestNearestReplica(t *testing.T) {
	const selector = "kafka.replica_selector=rack"
	c := common.StartCluster(t, 1, selector, "node.rack=a")
	for _, rack := range []string{"b", "c"} {
		at := testx.ClosedAddr(t)
		c.AddNode(at, selector, "node.rack="+rack, "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)
	}
	c.AwaitSynced()
	lead(t, c, c.Nodes[0])
	ctx, cancel := context.WithTimeout(context.Background(), 3*longest)
	defer cancel()
	opts := []kgo.Opt{kgo.SeedBrokers(c.KafkaAddrs()...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.RecordRetries(1 << 20), kgo.RequestRetries(1 << 20), kgo.RetryTimeout(longest)}
	p, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic("t"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := kadm.NewClient(p).CreateTopic(ctx, 1, -1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	var made atomic.Int64
	stop := count(ctx, t, p, &made)
	// Its client stays with a node that is gone until it checks again.
	r, err := kgo.NewClient(append(opts, kgo.ConsumeTopics("t"), kgo.Rack("c"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.RecheckPreferredReplicaInterval(500*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	poll := func() {
		few, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		r.PollFetches(few).EachRecord(func(r *kgo.Record) {
			if string(r.Value) != strconv.Itoa(n) {
				t.Fatalf("record %d is %q", n, r.Value)
			}
			n++
		})
	}
	reads := func(what string, until func() bool) {
		t.Helper()
		testx.Eventually(t, longest, func() bool { poll(); return until() }, what)
	}
	more := func(what string) {
		t.Helper()
		to := made.Load() + 50
		reads(what, func() bool { return int64(n) >= to })
	}
	third := c.Nodes[2]
	reads("the follower serves", func() bool { return followed(third) > 0 })
	third.Stop()
	more("the follower is gone")
	third.Start()
	c.AwaitSynced()
	lead(t, c, c.Nodes[1])
	more("another node leads")
	reads("the follower serves again", func() bool { return followed(third) > 0 })
	stop()
	reads("all records", func() bool { return int64(n) >= made.Load() })
	if int64(n) != made.Load() {
		t.Errorf("%d records of %d", n, made.Load())
	}
}

// count produces 0, 1, 2 and so on, one after the other, until it is told to stop; made is how many are acknowledged.
func count(ctx context.Context, t *testing.T, p *kgo.Client, made *atomic.Int64) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var over atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !over.Load() {
			if err := p.ProduceSync(ctx, kgo.StringRecord(strconv.FormatInt(made.Load(), 10))).FirstErr(); err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			made.Add(1)
		}
	}()
	stop = func() {
		over.Store(true)
		<-ended
	}
	t.Cleanup(func() {
		cancel() // of a test that has failed
		<-ended
	})
	return stop
}

var followedLine = regexp.MustCompile(`(?m)^sluice_kafka_followed_bytes_total (\S+)$`)

// followed is how many bytes a node has served while another one led.
func followed(n *common.Node) float64 {
	resp, err := http.Get("http://" + n.Broker().Listeners["http"] + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	m := followedLine.FindSubmatch(b)
	if err != nil || m == nil {
		return 0
	}
	bytes, _ := strconv.ParseFloat(string(m[1]), 64)
	return bytes
}
