package bridge

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// TestCluster: the node that leads runs the bridge; when it is killed the next one goes on with the same sessions, and nothing is lost or doubled.
func TestCluster(t *testing.T) {
	there := node(t, "[]")
	there.up()
	receivers := []*common.Receiver{common.NewReceiver("r1", 1), common.NewReceiver("r2", 2)}
	for _, r := range receivers {
		if err := r.Attach(there.url(), "site/up/#"); err != nil {
			t.Fatal(err)
		}
	}
	c := common.StartCluster(t, 3, fmt.Sprintf(`bridges=[{name: hq, addresses: ["%s"], topics: [{filter: "up/#", direction: out, qos: 2, remote_prefix: site/}]}]`, there.addr))
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, "mqtt://"+n.MQTT)
	}
	leader := func() *broker {
		n := c.Leader()
		return &broker{T: t, addr: n.MQTT, log: n.Broker().Log}
	}
	connected(leader(), "hq", "1")
	senders := load("up")
	var run sync.WaitGroup
	stop := make(chan struct{})
	for _, s := range senders {
		run.Go(func() { common.KeepSending(t, s, urls, stop) })
	}
	for range 2 {
		seen := receivers[1].Seen()
		testx.Eventually(t, patience, func() bool { return receivers[1].Seen() > seen+200 }, "messages go over")
		lost := c.Leader()
		lost.Kill()
		connected(leader(), "hq", "1")
		lost.Start()
		c.AwaitSynced()
	}
	<-time.After(quiet) // a moment of load is the point
	close(stop)
	run.Wait()
	if !common.AwaitAll(senders, receivers, patience) {
		t.Logf("the nodes say:\n%s", c.Logs())
	}
	common.Verify(t, senders, receivers)
	for _, r := range receivers {
		r.End()
		r.Wait()
	}
}
