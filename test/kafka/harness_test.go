// Package kafka drives a node with a stock Kafka client, end to end.
package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(common.CleanExit))
}

// patience bounds whatever a test waits for.
const patience = 30 * time.Second

type cluster struct {
	t    testing.TB
	dir  string
	set  []string
	node *common.Broker
	addr string
}

// start runs one node.
func start(t testing.TB, set ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), set: append([]string{"listeners.kafka.tcp=127.0.0.1:0"}, set...)}
	c.up()
	return c
}

func (c *cluster) up() {
	c.t.Helper()
	c.node = common.Start(c.t, c.dir, c.set...)
	if c.addr == "" { // the next start is to be found at the same place, which clients under way read
		c.addr = c.node.Listeners["kafka.tcp"]
		c.set[0] = "listeners.kafka.tcp=" + c.addr
	}
}

// crash kills the node and starts it again on what it has left.
func (c *cluster) crash() {
	c.t.Helper()
	c.node.Kill()
	c.up()
}

func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.addr), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

func (c *cluster) admin() *kadm.Client { return kadm.NewClient(c.client()) }

func (c *cluster) topic(name string, partitions int32, configs map[string]*string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := c.admin().CreateTopic(ctx, partitions, 1, configs, name)
	if err != nil || res.Err != nil {
		c.t.Fatal("create topic", name, err, res.Err)
	}
}

// produce sends records and waits for all of them.
func produce(t testing.TB, cl *kgo.Client, records ...*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal("produce:", err)
	}
}

// consume reads until it has n records.
func consume(t testing.TB, cl *kgo.Client, n int) (got []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(got) < n {
		fs := cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			t.Fatalf("fetch of %s/%d: %v, after %d records of %d", e.Topic, e.Partition, e.Err, len(got), n)
		}
		got = append(got, fs.Records()...)
	}
	return got
}

func numbered(topic string, n int) (records []*kgo.Record) {
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "key-%d", i%10), Value: fmt.Appendf(nil, "value-%d", i)})
	}
	return records
}
