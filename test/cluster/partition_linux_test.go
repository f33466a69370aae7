package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// hosts are network namespaces on one bridge, by which clients reach them.
type hosts struct {
	t    *testing.T
	name string
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (h *hosts) host(i int) string { return fmt.Sprintf("%s%d", h.name, i) }

func address(i int) string { return fmt.Sprintf("10.97.31.%d", i) }

// newHosts makes three, or skips the test where that is not allowed.
func newHosts(t *testing.T) *hosts {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil || os.Getuid() != 0 {
		t.Skip("network namespaces want root and the command ip")
	}
	h := &hosts{t, fmt.Sprintf("slc%d", os.Getpid()%100000)}
	t.Cleanup(func() {
		for i := 1; i <= 3; i++ {
			_ = ip("netns", "del", h.host(i))
		}
		_ = ip("link", "del", h.name+"b")
	})
	steps := [][]string{{"link", "add", h.name + "b", "type", "bridge"}, {"addr", "add", address(254) + "/24", "dev", h.name + "b"}, {"link", "set", h.name + "b", "up"}}
	for i := 1; i <= 3; i++ {
		n, in := h.host(i), []string{"netns", "exec", h.host(i), "ip"}
		steps = append(steps, []string{"netns", "add", n}, []string{"link", "add", n + "v", "type", "veth", "peer", "name", "eth", "netns", n},
			[]string{"link", "set", n + "v", "master", h.name + "b", "up"}, append(in[:4:4], "addr", "add", address(i)+"/24", "dev", "eth"),
			append(in[:4:4], "link", "set", "eth", "up"), append(in[:4:4], "link", "set", "lo", "up"))
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			t.Skip("network namespaces cannot be made here: ", err)
		}
	}
	return h
}

// isolate cuts a host off from the two others, or no more; clients reach it all the time.
func (h *hosts) isolate(i int, do string) {
	h.t.Helper()
	for j := 1; j <= 3; j++ {
		if j == i {
			continue
		}
		for _, way := range [][2]int{{i, j}, {j, i}} {
			if err := ip("netns", "exec", h.host(way[0]), "ip", "route", do, "blackhole", address(way[1])+"/32"); err != nil {
				h.t.Fatal(err)
			}
		}
	}
}

// The node that leads both the catalog's group and the shards is cut off from the others, and lives on: it lets go of its clients, another one leads, and when
// the network is whole again everything that was acknowledged at either side is there, once.
func TestLeaderCutOff(t *testing.T) {
	h := newHosts(t)
	t.Setenv("SLUICE_TEST_CLUSTER_TOKEN", "a token of the test")
	c := common.StartClusterBy(t, 3, func(i int) (by []string, at string) { return []string{"ip", "netns", "exec", h.host(i)}, address(i) },
		"cluster.plaintext=true", "cluster.token=env:SLUICE_TEST_CLUSTER_TOKEN", "auth.anonymous=everywhere")
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, "mqtt://"+n.MQTT)
	}
	stop, over := make(chan struct{}), make(chan struct{})
	var sending, receiving sync.WaitGroup
	r := common.NewReceiver("receiver", 2)
	r.MayEnd = true
	subscribed := make(chan struct{})
	receiving.Go(func() { common.KeepReceiving(t, r, "cut/#", urls, over, func() { close(subscribed) }) })
	<-subscribed
	var senders []*common.Sender
	for i := range 3 {
		s := &common.Sender{Exchange: common.Exchange{ID: fmt.Sprint("sender-", i)}, QoS: byte(1 + i%2), Topic: fmt.Sprint("cut/", i)}
		senders = append(senders, s)
		sending.Go(func() { common.KeepSending(t, s, turned(urls, i), stop) })
	}
	was := c.Leader()
	testx.Eventually(t, longest, func() bool { return r.Seen() > 100 }, "messages come")
	h.isolate(was.ID, "add")
	began := time.Now()
	others := &common.Cluster{}
	for _, n := range c.Nodes {
		if n != was {
			others.Nodes = append(others.Nodes, n)
		}
	}
	testx.Eventually(t, longest, func() bool {
		for _, n := range others.Nodes {
			if s, ok := n.Status(); ok && s.Leader == n.ID && s.Open {
				return true
			}
		}
		return false
	}, "another node leads")
	t.Logf("another node leads after %v", time.Since(began).Round(10*time.Millisecond))
	if s, ok := was.Status(); ok && s.Leader == was.ID {
		t.Error("the node that is cut off leads as well")
	}
	seen := r.Seen()
	testx.Eventually(t, longest, func() bool { return r.Seen() > seen+100 }, "messages come again")
	h.isolate(was.ID, "del")
	c.AwaitSynced()
	close(stop)
	sending.Wait()
	common.AwaitAll(senders, []*common.Receiver{r}, 20*time.Second)
	close(over)
	receiving.Wait()
	common.Verify(t, senders, []*common.Receiver{r})
}
