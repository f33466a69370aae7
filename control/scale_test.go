package control_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

var (
	rows        = flag.Int("rows", 1500, "how many sessions, subscriptions and groups TestListings lists")
	rowsTopics  = flag.Int("rows-topics", 1500, "how many topics TestListings lists")
	rowsClients = flag.Int("rows-clients", 300, "how many connections TestListings lists")
)

// parallel runs fn for 0 to n-1 by some goroutines.
func parallel(n int, fn func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				fn(int(i))
			}
		})
	}
	all.Wait()
}

// fill makes what is to be listed.
func (n *node) fill() {
	n.t.Helper()
	n.create("t", 1)
	parallel(*rows, func(i int) {
		o := mqttclient.Options{URL: n.at["mqtt.tcp"], Connect: wire.Connect{ClientID: fmt.Appendf(nil, "session-%06d", i), SessionExpiry: 3600}}
		c, _, err := mqttclient.Connect(n.t.Context(), o)
		if err == nil {
			_, err = c.Subscribe(wire.FilterRequest{Filter: fmt.Appendf(nil, "plant/%d/+", i), QoS: 1})
			_ = c.Close()
		}
		if err != nil {
			n.t.Error(err)
		}
	})
	parallel(*rowsClients, func(i int) { n.mqtt(fmt.Sprintf("client-%06d", i), 0, wire.V5) })
	cl := n.kafka(kgo.MaxVersions(kversion.V3_7_0())) // topics by name
	parallel(*rows, func(i int) {
		m := kmsg.NewPtrOffsetCommitRequest()
		m.Group, m.Generation = fmt.Sprintf("group-%06d", i), -1
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Offset = 1
		m.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
		if _, err := cl.Request(n.t.Context(), m); err != nil {
			n.t.Error(err)
		}
	})
	parallel((*rowsTopics+499)/500, func(i int) {
		m := kmsg.NewPtrCreateTopicsRequest()
		m.TimeoutMillis = 60_000
		for k := i * 500; k < min((i+1)*500, *rowsTopics); k++ {
			t := kmsg.NewCreateTopicsRequestTopic()
			t.Topic, t.NumPartitions, t.ReplicationFactor = fmt.Sprintf("topic-%06d", k), 1, 1
			m.Topics = append(m.Topics, t)
		}
		if _, err := cl.Request(n.t.Context(), m); err != nil {
			n.t.Error(err)
		}
	})
}

// probes measure how long loops take to answer a ping.
type probes struct {
	n       *node
	longest atomic.Int64
	pings   atomic.Int64
	slow    atomic.Int64 // of them, those that took more than 2 ms
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func (n *node) probe() *probes {
	ctx, cancel := context.WithCancel(n.t.Context())
	p := &probes{n: n, stop: cancel}
	for i := range 2 * runtime.GOMAXPROCS(0) {
		c := n.mqtt(fmt.Sprintf("probe-%d", i), 0, wire.V5)
		p.done.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if err := c.Ping(); err != nil {
					n.t.Error(err)
					return
				}
				took := int64(time.Since(began))
				for old := p.longest.Load(); took > old && !p.longest.CompareAndSwap(old, took); old = p.longest.Load() {
				}
				p.pings.Add(1)
				if took > int64(2*time.Millisecond) {
					p.slow.Add(1)
				}
			}
		})
	}
	return p
}

// end stops the probes and says what they have found.
func (p *probes) end() string {
	p.stop()
	p.done.Wait()
	return fmt.Sprintf("%d of %d pings meanwhile took more than 2ms, the longest %v", p.slow.Load(), p.pings.Load(),
		time.Duration(p.longest.Load()).Round(10*time.Microsecond))
}

// Listings of all kinds come in pages, each row once, whatever there is of them. With -rows 200000 -v it says what they take.
func TestListings(t *testing.T) {
	n := start(t, "journal.segment_size=64MiB")
	n.fill()
	ctx := t.Context()
	for _, l := range []struct {
		what string
		want int
		page func(size int32, token []byte) (ids []string, next []byte, err error)
	}{
		{"session", *rows, func(size int32, token []byte) (ids []string, next []byte, err error) {
			r, err := n.sessions().List(ctx, &api.ListSessionsRequest{PageSize: size, PageToken: token})
			for _, s := range r.GetSessions() {
				ids = append(ids, s.Id)
			}
			return ids, r.GetNextPageToken(), err
		}},
		{"subscription", *rows, func(size int32, token []byte) (ids []string, next []byte, err error) {
			r, err := n.subscriptions().List(ctx, &api.ListSubscriptionsRequest{PageSize: size, PageToken: token})
			for _, s := range r.GetSubscriptions() {
				ids = append(ids, s.Client+" "+s.Filter)
			}
			return ids, r.GetNextPageToken(), err
		}},
		{"client", *rowsClients, func(size int32, token []byte) (ids []string, next []byte, err error) {
			r, err := n.clients().List(ctx, &api.ListClientsRequest{PageSize: size, PageToken: token, Contains: "client-"})
			for _, s := range r.GetClients() {
				ids = append(ids, s.Id)
			}
			return ids, r.GetNextPageToken(), err
		}},
		{"topic", *rowsTopics, func(size int32, token []byte) (ids []string, next []byte, err error) {
			r, err := n.topics().List(ctx, &api.ListTopicsRequest{PageSize: size, PageToken: token, Contains: "topic-"})
			for _, s := range r.GetTopics() {
				ids = append(ids, s.Name)
			}
			return ids, r.GetNextPageToken(), err
		}},
		{"group", *rows, func(size int32, token []byte) (ids []string, next []byte, err error) {
			r, err := n.groups().List(ctx, &api.ListGroupsRequest{PageSize: size, PageToken: token})
			for _, s := range r.GetGroups() {
				ids = append(ids, s.Id)
			}
			return ids, r.GetNextPageToken(), err
		}},
	} {
		p := n.probe()
		seen := make(map[string]bool, l.want)
		var longest time.Duration
		began, pages := time.Now(), 0
		for token := []byte(nil); pages == 0 || token != nil; pages++ {
			from := time.Now()
			ids, next, err := l.page(1000, token)
			if err != nil {
				t.Fatal(l.what, err)
			}
			longest = max(longest, time.Since(from))
			if len(ids) > 1000 {
				t.Fatalf("%s: %d rows in a page", l.what, len(ids))
			}
			for _, id := range ids {
				if seen[id] {
					t.Errorf("%s %s is listed twice", l.what, id)
				}
				seen[id] = true
			}
			if token = next; len(token) == 0 {
				token = nil
			}
		}
		took := time.Since(began)
		pings := p.end()
		if len(seen) != l.want {
			t.Errorf("%s: %d rows of %d", l.what, len(seen), l.want)
		}
		t.Logf("%s: %d rows, %d pages in %v, the longest %v; %s", l.what, len(seen), pages, took.Round(time.Millisecond), longest.Round(10*time.Microsecond), pings)
	}
	p := n.probe()
	r, err := n.kafka().Request(ctx, kmsg.NewPtrListGroupsRequest())
	if err != nil || len(r.(*kmsg.ListGroupsResponse).Groups) != *rows {
		t.Errorf("Kafka's ListGroups: %v", err)
	}
	t.Logf("Kafka's ListGroups: %s", p.end())
	if testing.Verbose() {
		p = n.probe()
		busy := time.Now()
		testx.Eventually(t, time.Minute, func() bool { return time.Since(busy) > time.Second }, "a second")
		t.Logf("with no listing: %s", p.end())
	}
}
