package control_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func (n *node) clients() api.ClientsClient             { return api.NewClientsClient(n.conn) }
func (n *node) sessions() api.SessionsClient           { return api.NewSessionsClient(n.conn) }
func (n *node) subscriptions() api.SubscriptionsClient { return api.NewSubscriptionsClient(n.conn) }

// mqtt connects a client; expiry above 0 keeps its session.
func (n *node) mqtt(id string, expiry uint32, version byte) *mqttclient.Client {
	n.t.Helper()
	c, _, err := mqttclient.Connect(n.t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"],
		Connect: wire.Connect{Version: version, ClientID: []byte(id), CleanStart: expiry == 0, SessionExpiry: expiry}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (n *node) subscribe(c *mqttclient.Client, filters ...string) {
	n.t.Helper()
	var reqs []wire.FilterRequest
	for _, f := range filters {
		reqs = append(reqs, wire.FilterRequest{Filter: []byte(f), QoS: 1})
	}
	if _, err := c.Subscribe(reqs...); err != nil {
		n.t.Fatal(err)
	}
}

func TestClients(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	pump, v3 := n.mqtt("pump", 3600, 5), n.mqtt("old", 0, 4)
	n.subscribe(pump, "plant/+", "$share/g/jobs")
	k := n.kafka(kgo.ClientID("pipeline"))
	if err := k.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := n.clients().List(ctx, &api.ListClientsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]*api.Client{}
	for _, c := range list.Clients {
		by[c.Id] = c
		if c.Connection == 0 || c.BytesIn == 0 || c.BytesOut == 0 || !strings.HasPrefix(c.Remote, "127.0.0.1:") || time.Since(time.UnixMilli(c.SinceMs)) > time.Minute ||
			time.UnixMilli(c.SinceMs).After(time.Now().Add(time.Second)) {
			t.Errorf("%v", c)
		}
	}
	if by["pump"] == nil || by["pump"].Protocol != "MQTT 5" || !by["pump"].Kept || by["pump"].Listener != "mqtt.tcp" || by["pump"].Source != "anonymous" ||
		by["old"] == nil || by["old"].Protocol != "MQTT 3.1.1" || by["old"].Kept || by["pipeline"] == nil || by["pipeline"].Protocol != "Kafka" {
		t.Fatalf("%v", list)
	}
	for _, tt := range []struct {
		r    *api.ListClientsRequest
		want int
	}{
		{&api.ListClientsRequest{Protocol: "mqtt"}, 2},
		{&api.ListClientsRequest{Protocol: "mqtt 5"}, 1},
		{&api.ListClientsRequest{Protocol: "mqtt", Contains: "um"}, 1},
		{&api.ListClientsRequest{User: "nobody"}, 0},
		{&api.ListClientsRequest{Protocol: "mqtt", Remote: "127.0.0.1"}, 2},
		{&api.ListClientsRequest{Remote: "10.0.0.1"}, 0},
	} {
		if r, err := n.clients().List(ctx, tt.r); err != nil || len(r.Clients) != tt.want {
			t.Errorf("%v: %v, %v", tt.r, r, err)
		}
	}
	d, err := n.clients().Describe(ctx, &api.DescribeClientRequest{Id: "pump"})
	if err != nil || len(d.Clients) != 1 || d.Session == nil || d.Session.Subscriptions != 2 || len(d.Subscriptions) != 2 {
		t.Errorf("%v, %v", d, err)
	}
	_, err = n.clients().Describe(ctx, &api.DescribeClientRequest{Id: "absent"})
	wants(t, err, codes.NotFound, "it is not connected; sluice client list")
	_, err = n.clients().Describe(ctx, &api.DescribeClientRequest{})
	wants(t, err, codes.InvalidArgument, "want an id or the number")
	kicked, err := n.clients().Kick(ctx, &api.KickClientRequest{Connection: by["old"].Connection})
	if err != nil || kicked.Kicked != 1 {
		t.Errorf("%v, %v", kicked, err)
	}
	if _, err := v3.Receive(10 * time.Second); err == nil || errors.Is(err, mqttclient.ErrTimeout) {
		t.Errorf("kicked: %v", err)
	}
	if _, err := n.clients().Kick(ctx, &api.KickClientRequest{Id: "pump"}); err != nil {
		t.Error(err)
	}
	if _, err := pump.Receive(10 * time.Second); err == nil || !strings.Contains(err.Error(), "dministrative") {
		t.Errorf("kicked: %v", err)
	}
	if _, err := n.clients().Kick(ctx, &api.KickClientRequest{Id: "pipeline"}); err != nil {
		t.Error(err)
	}
	_, err = n.clients().Kick(ctx, &api.KickClientRequest{Id: "old"})
	wants(t, err, codes.NotFound, "it is not connected")
	testx.Eventually(t, 10*time.Second, func() bool {
		s, err := n.sessions().Describe(ctx, &api.DescribeSessionRequest{Id: "pump"})
		return err == nil && !s.Session.Connected
	}, "the kicked client's session is kept")
}

func TestSessions(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	if r, err := n.sessions().List(ctx, &api.ListSessionsRequest{}); err != nil || len(r.Sessions) != 0 {
		t.Errorf("%v, %v", r, err)
	}
	c := n.mqtt("away", 3600, 5)
	n.subscribe(c, "a/#", "b/+")
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	pub := n.mqtt("pub", 0, 5)
	for i := range 10 {
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte(fmt.Sprintf("a/%d", i)), Payload: make([]byte, 100), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	here := n.mqtt("here", 60, 5)
	n.subscribe(here, "a/#")
	var s *api.Session
	testx.Eventually(t, 10*time.Second, func() bool {
		r, err := n.sessions().List(ctx, &api.ListSessionsRequest{State: api.ListSessionsRequest_STATE_ABSENT})
		if err != nil || len(r.Sessions) != 1 {
			return false
		}
		s = r.Sessions[0]
		return s.Queued == 10
	}, "the absent session has ten messages queued")
	if s.Id != "away" || s.Connected || s.ExpiryMs != 3_600_000 || s.EndsMs < time.Now().UnixMilli() || s.Subscriptions != 2 || s.QueuedBytes < 1000 || s.OldestMs == 0 {
		t.Errorf("%v", s)
	}
	for _, tt := range []struct {
		r    *api.ListSessionsRequest
		want int
	}{
		{&api.ListSessionsRequest{}, 2}, {&api.ListSessionsRequest{Queued: 5}, 1}, {&api.ListSessionsRequest{Queued: 11}, 0},
		{&api.ListSessionsRequest{State: api.ListSessionsRequest_STATE_CONNECTED}, 1}, {&api.ListSessionsRequest{Contains: "er"}, 1},
	} {
		if r, err := n.sessions().List(ctx, tt.r); err != nil || len(r.Sessions) != tt.want {
			t.Errorf("%v: %v, %v", tt.r, r, err)
		}
	}
	d, err := n.sessions().Describe(ctx, &api.DescribeSessionRequest{Id: "away"})
	if err != nil || len(d.Subscriptions) != 2 || len(d.Positions) == 0 {
		t.Fatalf("%v, %v", d, err)
	}
	sum := int64(0)
	for _, p := range d.Positions {
		sum += p.Queued
		if p.Behind < p.Queued {
			t.Errorf("%v", p)
		}
	}
	if sum != 10 {
		t.Errorf("%d messages in the positions", sum)
	}
	// One that nobody is connected to, and one that somebody is.
	for _, id := range []string{"away", "here"} {
		if _, err := n.sessions().Delete(ctx, &api.DeleteSessionRequest{Id: id}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := here.Receive(10 * time.Second); err == nil || errors.Is(err, mqttclient.ErrTimeout) {
		t.Errorf("its session was deleted: %v", err)
	}
	for _, id := range []string{"away", "here", "pub", "never", strings.Repeat("x", 100_000)} {
		_, err := n.sessions().Delete(ctx, &api.DeleteSessionRequest{Id: id})
		wants(t, err, codes.NotFound, "none that outlives its connection")
		_, err = n.sessions().Describe(ctx, &api.DescribeSessionRequest{Id: id})
		wants(t, err, codes.NotFound, "sluice session list")
	}
	if r, err := n.subscriptions().List(ctx, &api.ListSubscriptionsRequest{}); err != nil || len(r.Subscriptions) != 0 {
		t.Errorf("deleted sessions have left %v, %v", r, err)
	}
}

func TestSubscriptions(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	kept, live := n.mqtt("kept", 3600, 5), n.mqtt("live", 0, 5)
	n.subscribe(kept, "plant/+/temp", "$share/workers/plant/#")
	n.subscribe(live, "plant/1/temp", "other")
	if _, err := live.Subscribe(wire.FilterRequest{Filter: []byte("plant/#"), QoS: 2, NoLocal: true, RetainAsPublished: true}); err != nil {
		t.Fatal(err)
	}
	if err := kept.Disconnect(); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, 10*time.Second, func() bool {
		s, err := n.sessions().Describe(ctx, &api.DescribeSessionRequest{Id: "kept"})
		return err == nil && !s.Session.Connected
	})
	r, err := n.subscriptions().List(ctx, &api.ListSubscriptionsRequest{})
	if err != nil || len(r.Subscriptions) != 5 {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := n.subscriptions().List(ctx, &api.ListSubscriptionsRequest{Client: "live", Contains: "plant"}); err != nil || len(r.Subscriptions) != 2 {
		t.Errorf("%v, %v", r, err)
	}
	f, err := n.subscriptions().Find(ctx, &api.FindSubscriptionsRequest{Topic: "plant/1/temp"})
	if err != nil || len(f.Subscriptions) != 4 || f.Filters != 4 || f.Subscribers != 4 {
		t.Fatalf("%v, %v", f, err)
	}
	for _, s := range f.Subscriptions {
		if s.Kept != (s.Client == "kept") || s.Connected != (s.Client == "live") || (s.Group == "workers") != (s.Client == "kept" && s.Filter == "plant/#") {
			t.Errorf("%v", s)
		}
		if s.Client == "live" && s.Filter == "plant/#" && (s.Qos != 2 || !s.NoLocal || !s.RetainAsPublished) {
			t.Errorf("%v", s)
		}
	}
	for _, topic := range []string{"", "a/+", "#", strings.Repeat("t", 1<<16)} {
		_, err := n.subscriptions().Find(ctx, &api.FindSubscriptionsRequest{Topic: topic})
		wants(t, err, codes.InvalidArgument, "a topic has")
	}
	if f, err := n.subscriptions().Find(ctx, &api.FindSubscriptionsRequest{Topic: "nobody"}); err != nil || len(f.Subscriptions) != 0 {
		t.Errorf("%v, %v", f, err)
	}
}

// crowd connects clients with kept sessions and two subscriptions each.
func (n *node) crowd(count int) (clients []*mqttclient.Client) {
	n.t.Helper()
	for i := range count {
		c := n.mqtt(fmt.Sprintf("c%02d", i), 3600, 5)
		n.subscribe(c, "all", fmt.Sprintf("own/%d", i))
		clients = append(clients, c)
	}
	return clients
}

// Every client, session and subscription is listed once in small pages, with others that come and go.
func TestPagesOfRows(t *testing.T) {
	n := start(t, "engine.loops=2")
	ctx := t.Context()
	clients := n.crowd(60)
	page := 0
	come := func() { // one goes and one comes
		page++
		if page < 8 {
			_ = clients[60-page].Disconnect()
			n.subscribe(n.mqtt(fmt.Sprintf("n%02d", page), 0, 5), "all")
		}
	}
	seen := map[string]int{}
	eachPage(t, func(token []byte) []byte {
		r, err := n.clients().List(ctx, &api.ListClientsRequest{PageSize: 7, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Clients {
			seen["client "+c.Id]++
		}
		come()
		return r.NextPageToken
	})
	eachPage(t, func(token []byte) []byte {
		r, err := n.sessions().List(ctx, &api.ListSessionsRequest{PageSize: 7, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Sessions {
			seen["session "+s.Id]++
		}
		come()
		return r.NextPageToken
	})
	eachPage(t, func(token []byte) []byte {
		r, err := n.subscriptions().List(ctx, &api.ListSubscriptionsRequest{PageSize: 7, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Subscriptions {
			seen[s.Filter+" "+s.Client]++
		}
		return r.NextPageToken
	})
	eachPage(t, func(token []byte) []byte {
		r, err := n.subscriptions().Find(ctx, &api.FindSubscriptionsRequest{Topic: "all", PageSize: 7, PageToken: token})
		if err != nil || r.Filters != 1 || r.Subscribers < 60 {
			t.Fatalf("%v, %v", r, err)
		}
		for _, s := range r.Subscriptions {
			seen["found "+s.Client]++
		}
		return r.NextPageToken
	})
	for i := range 60 {
		id := fmt.Sprintf("c%02d", i)
		for _, what := range []string{"session " + id, "all " + id, fmt.Sprintf("own/%d %s", i, id), "found " + id} {
			if seen[what] != 1 {
				t.Errorf("%s: %d times", what, seen[what])
			}
		}
		if seen["client "+id] != 1 && i < 53 {
			t.Errorf("client %s: %d times", id, seen["client "+id])
		}
	}
}

// eachPage asks for page after page.
func eachPage(t *testing.T, ask func(token []byte) []byte) {
	t.Helper()
	token := ask(nil)
	for pages := 1; len(token) > 0; pages++ {
		if pages > 1000 {
			t.Fatal("the pages do not end")
		}
		token = ask(token)
	}
}
