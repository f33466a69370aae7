package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// quotaFor sets quotas of a user, a client id, both, or an address; * is the default, "" is not said, a rate below 0 removes.
func quotaFor(user, client string, rates map[string]float64) *kmsg.AlterClientQuotasRequest {
	m := kmsg.NewPtrAlterClientQuotasRequest()
	m.Version = 1
	e := kmsg.NewAlterClientQuotasRequestEntry()
	part := func(kind, name string) {
		p := kmsg.NewAlterClientQuotasRequestEntryEntity()
		p.Type = kind
		if name != "*" {
			p.Name = &name
		}
		if name != "" {
			e.Entity = append(e.Entity, p)
		}
	}
	if ip, ok := strings.CutPrefix(user, "ip "); ok {
		part("ip", ip)
	} else {
		part("user", user)
		part("client-id", client)
	}
	for key, rate := range rates {
		op := kmsg.NewAlterClientQuotasRequestEntryOp()
		op.Key, op.Value, op.Remove = key, max(rate, 0), rate < 0
		e.Ops = append(e.Ops, op)
	}
	m.Entries = append(m.Entries, e)
	return m
}

// throttleHook notes what the client is told to wait.
type throttleHook struct{ longest, times atomic.Int64 }

func (h *throttleHook) OnBrokerThrottle(_ kgo.BrokerMetadata, d time.Duration, _ bool) {
	h.times.Add(1)
	for {
		was := h.longest.Load()
		if int64(d) <= was || h.longest.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

func near(t *testing.T, what string, bytes int, took time.Duration, rate float64) {
	t.Helper()
	// What was saved up, one second, is not counted.
	got := (float64(bytes) - rate) / took.Seconds()
	t.Logf("%s: %d bytes in %v, %.0f in a second of %.0f", what, bytes, took, got, rate)
	if got < rate*0.85 || got > rate*1.15 {
		t.Errorf("%s: %.0f bytes in a second, want %.0f", what, got, rate)
	}
}

// Producers and consumers get the rate that their quota says, and are told to wait.
func TestByteRates(t *testing.T) {
	c := start(t)
	c.topic("t", 1, nil)
	const rate = 1 << 20
	change(t, c.client(), quotaFor("", "slow", map[string]float64{"producer_byte_rate": rate, "consumer_byte_rate": rate}))
	var told throttleHook
	cl := c.client(kgo.ClientID("slow"), kgo.WithHooks(&told), kgo.DefaultProduceTopic("t"), kgo.ProducerBatchMaxBytes(100<<10), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	value := make([]byte, 10<<10)
	began, bytes := time.Now(), 0
	for time.Since(began) < 3*time.Second {
		records := make([]*kgo.Record, 9)
		for i := range records {
			records[i] = &kgo.Record{Value: value}
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		bytes += len(records) * len(value)
	}
	near(t, "produce", bytes, time.Since(began), rate)
	if told.times.Load() == 0 {
		t.Error("the producer was never told to wait")
	}
	produce(t, c.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchMaxBytes(100<<10), kgo.ProducerBatchCompression(kgo.NoCompression())), many(1000, value)...) // another client has no quota
	told.times.Store(0)
	began, bytes = time.Now(), 0
	cl = c.client(kgo.ClientID("slow"), kgo.WithHooks(&told), kgo.ConsumeTopics("t"), // it begins to fetch now
		kgo.FetchMaxBytes(100<<10), kgo.FetchMaxPartitionBytes(100<<10)) // not a whole second's worth at once
	for bytes < 5<<20 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fs.Records() {
			bytes += len(r.Value)
		}
	}
	near(t, "fetch", bytes, time.Since(began), rate)
	if told.times.Load() == 0 {
		t.Error("the consumer was never told to wait")
	}
	metrics := c.metrics()
	for _, quota := range []string{"producer_byte_rate", "consumer_byte_rate"} {
		if !strings.Contains(metrics, fmt.Sprintf("sluice_broker_throttles_total{quota=%q}", quota)) || strings.Contains(metrics, fmt.Sprintf("sluice_broker_throttles_total{quota=%q} 0\n", quota)) {
			t.Errorf("throttles by %s are not counted", quota)
		}
	}
}

func (c *cluster) metrics() string {
	c.t.Helper()
	cl := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := cl.Get("http://" + c.node.Listeners["http"] + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func many(n int, value []byte) (records []*kgo.Record) {
	for range n {
		records = append(records, &kgo.Record{Value: value})
	}
	return records
}

// A client that does not wait as it is told is made to: it is not read from.
func TestThrottledIsNotReadFrom(t *testing.T) {
	c := start(t)
	c.topic("t", 1, nil)
	change(t, c.client(), quotaFor("*", "", map[string]float64{"request_percentage": 0.0001}))
	r := c.raw()
	began := time.Now()
	for range 4 {
		r.ask(at(kmsg.NewPtrMetadataRequest(), 9)) // takes more than the 1 µs that is saved up
	}
	resp := r.ask(at(kmsg.NewPtrMetadataRequest(), 9)).(*kmsg.MetadataResponse)
	r.ask(at(kmsg.NewPtrMetadataRequest(), 9))
	if took := time.Since(began); resp.ThrottleMillis == 0 || took < 300*time.Millisecond {
		t.Errorf("told to wait %d ms, six requests took %v", resp.ThrottleMillis, took)
	}
}

// Changes of topics: who knows the error is told to come again, the others are made to wait.
func TestMutationRate(t *testing.T) {
	c := start(t)
	change(t, c.client(), quotaFor("ANONYMOUS", "", map[string]float64{"controller_mutation_rate": 1}))
	r := c.raw()
	create := func(v int16, name string, partitions int32) *kmsg.CreateTopicsResponse {
		m := createOf(name)(nil, 0).(*kmsg.CreateTopicsRequest)
		m.Topics[0].NumPartitions = partitions
		return r.ask(at(m, v)).(*kmsg.CreateTopicsResponse)
	}
	if resp := create(7, "a", 12); resp.Topics[0].ErrorCode != 0 || resp.ThrottleMillis < 500 {
		t.Errorf("11 are saved up: code %d, told to wait %d ms", resp.Topics[0].ErrorCode, resp.ThrottleMillis)
	}
	r = c.raw() // the first one is not read from now
	resp := create(7, "b", 1)
	if resp.Topics[0].ErrorCode != kerr.ThrottlingQuotaExceeded.Code || resp.ThrottleMillis == 0 {
		t.Errorf("over the quota: code %d, told to wait %d ms", resp.Topics[0].ErrorCode, resp.ThrottleMillis)
	}
	r = c.raw()
	if resp := create(5, "c", 1); resp.Topics[0].ErrorCode != 0 || resp.ThrottleMillis == 0 {
		t.Errorf("an old client: code %d, told to wait %d ms", resp.Topics[0].ErrorCode, resp.ThrottleMillis)
	}
	r = c.raw()
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: kmsg.StringPtr("a-0")}}
	if resp := r.ask(at(del, 6)).(*kmsg.DeleteTopicsResponse); resp.Topics[0].ErrorCode != kerr.ThrottlingQuotaExceeded.Code {
		t.Errorf("a deletion: code %d", resp.Topics[0].ErrorCode)
	}
	r = c.raw()
	more := kmsg.NewPtrCreatePartitionsRequest()
	more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "a-0", Count: 20}}
	if resp := r.ask(at(more, 3)).(*kmsg.CreatePartitionsResponse); resp.Topics[0].ErrorCode != kerr.ThrottlingQuotaExceeded.Code {
		t.Errorf("more partitions: code %d", resp.Topics[0].ErrorCode)
	}
}

// Connections of one address that come too often are closed unread, MQTT's are refused by name.
func TestConnectionRate(t *testing.T) {
	c := start(t)
	admin := c.client()
	change(t, admin, quotaFor("ip 127.0.0.1", "", map[string]float64{"connection_creation_rate": 2}))
	refused := 0
	for range 6 {
		r := c.raw()
		if _, err := r.try(at(kmsg.NewPtrApiVersionsRequest(), 3)); errors.Is(err, io.EOF) || err != nil {
			refused++
		}
	}
	if refused < 2 || refused > 5 {
		t.Errorf("%d of 6 connections were refused at 2 a second", refused)
	}
	change(t, admin, quotaFor("ip 127.0.0.1", "", map[string]float64{"connection_creation_rate": 1}))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	told := 0
	for range 6 {
		cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: c.node.URL(), Connect: wire.Connect{ClientID: []byte("m"), CleanStart: true}})
		if err == nil {
			_ = cl.Close()
		} else if strings.Contains(err.Error(), "connection rate") {
			told++
		}
	}
	if told < 3 {
		t.Errorf("MQTT at 1 a second: %d of 6 connections were told that they are too many", told)
	}
	change(t, admin, quotaFor("ip 127.0.0.1", "", map[string]float64{"connection_creation_rate": -1}))
	c.serves("after")
}

// MQTT clients have the quotas of their user and client id.
func TestPublishRate(t *testing.T) {
	c := start(t)
	const rate = 200 << 10
	change(t, c.client(), quotaFor("*", "slow", map[string]float64{"producer_byte_rate": rate}))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	publish := func(id string, most time.Duration, bytes int) (sent int, took time.Duration) {
		cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: c.node.URL(), Connect: wire.Connect{ClientID: []byte(id), CleanStart: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		began := time.Now()
		for payload := make([]byte, 10<<10); sent < bytes && time.Since(began) < most; sent += len(payload) {
			if _, err := cl.Publish(&wire.PublishOut{Topic: []byte("x"), QoS: 1, Payload: payload}); err != nil {
				t.Fatal(err)
			}
		}
		return sent, time.Since(began)
	}
	sent, took := publish("slow", 3*time.Second, math.MaxInt)
	near(t, "publish", sent, took, rate)
	if _, took := publish("fast", patience, 5*rate); took > 3*time.Second {
		t.Errorf("a client without a quota took %v", took)
	}
}

// A subscriber by MQTT gets the rate of its quota: later, and all of it.
func TestDeliveryRate(t *testing.T) {
	for _, transport := range []string{"epoll", "netpoll"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			c := start(t, "listeners.mqtt.transport="+transport)
			const rate, messages = 200 << 10, 70
			change(t, c.client(), quotaFor("*", "old", map[string]float64{"consumer_byte_rate": rate}))
			change(t, c.client(), quotaFor("*", "new", map[string]float64{"consumer_byte_rate": rate}))
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			connect := func(id string, version byte) *mqttclient.Client {
				cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: c.node.URL(), Connect: wire.Connect{ClientID: []byte(id), CleanStart: true, Version: version}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = cl.Close() })
				return cl
			}
			subscribers := map[string]*mqttclient.Client{"old": connect("old", wire.V311), "new": connect("new", wire.V5), "free": connect("free", wire.V5)}
			for id, cl := range subscribers {
				if _, err := cl.Subscribe(wire.FilterRequest{Filter: []byte("x"), QoS: 1}); err != nil {
					t.Fatal(id, err)
				}
			}
			publisher, payload := connect("publisher", wire.V5), make([]byte, 10<<10)
			var all sync.WaitGroup
			began := time.Now()
			for id, cl := range subscribers {
				all.Go(func() {
					for i := range messages {
						m, err := cl.Receive(patience)
						if err != nil || int(m.Payload[0]) != i {
							t.Errorf("%s: message %d: %v", id, i, err)
							return
						}
					}
					took := time.Since(began)
					if id != "free" {
						near(t, id, messages*len(payload), took, rate)
					} else if took > 2*time.Second {
						t.Errorf("a client without a quota took %v", took)
					}
				})
			}
			for i := range messages {
				payload[0] = byte(i)
				if _, err := publisher.Publish(&wire.PublishOut{Topic: []byte("x"), QoS: 1, Payload: payload}); err != nil {
					t.Fatal(err)
				}
			}
			all.Wait()
		})
	}
}

// Quotas are set, shown, removed and kept; what is wrong is refused.
func TestQuotaRequests(t *testing.T) {
	c := start(t)
	admin := c.client()
	change(t, admin, quotaFor("a", "", map[string]float64{"producer_byte_rate": 1000, "request_percentage": 12.5}))
	change(t, admin, quotaFor("a", "c", map[string]float64{"producer_byte_rate": 2000}))
	change(t, admin, quotaFor("*", "", map[string]float64{"consumer_byte_rate": 3000}))
	change(t, admin, quotaFor("ip *", "", map[string]float64{"connection_creation_rate": 4000}))
	only := quotaFor("a", "", map[string]float64{"consumer_byte_rate": 1})
	only.ValidateOnly = true
	change(t, admin, only)
	show := func(strict bool, components ...kmsg.DescribeClientQuotasRequestComponent) map[string]string {
		return shownQuotas(t, admin, strict, components...)
	}
	a, ac := "producer_byte_rate=1000 request_percentage=12.5", "producer_byte_rate=2000"
	check := func() {
		t.Helper()
		for i, tt := range []struct {
			got  map[string]string
			want map[string]string
		}{
			{show(false), map[string]string{"user a": a, "user a client-id c": ac, "user *": "consumer_byte_rate=3000", "ip *": "connection_creation_rate=4000"}},
			{show(false, component("user", 0, "a")), map[string]string{"user a": a, "user a client-id c": ac}},
			{show(true, component("user", 0, "a")), map[string]string{"user a": a}},
			{show(true, component("user", 2, "")), map[string]string{"user a": a, "user *": "consumer_byte_rate=3000"}},
			{show(false, component("user", 1, "")), map[string]string{"user *": "consumer_byte_rate=3000"}},
			{show(true, component("user", 2, ""), component("client-id", 0, "c")), map[string]string{"user a client-id c": ac}},
			{show(false, component("ip", 2, "")), map[string]string{"ip *": "connection_creation_rate=4000"}},
		} {
			if !reflect.DeepEqual(tt.got, tt.want) {
				t.Errorf("%d: %v, want %v", i, tt.got, tt.want)
			}
		}
	}
	check()
	c.crash()
	admin = c.client()
	check()
	change(t, admin, quotaFor("a", "", map[string]float64{"producer_byte_rate": -1}))
	change(t, admin, quotaFor("a", "c", map[string]float64{"producer_byte_rate": -1}))
	a = "request_percentage=12.5"
	if got := show(false, component("user", 0, "a")); !reflect.DeepEqual(got, map[string]string{"user a": a}) {
		t.Errorf("after removal: %v", got)
	}
}

// shownQuotas are entities and their quotas, in words; a filter picks them.
func shownQuotas(t *testing.T, admin *kgo.Client, strict bool, components ...kmsg.DescribeClientQuotasRequestComponent) map[string]string {
	t.Helper()
	m := kmsg.NewPtrDescribeClientQuotasRequest()
	m.Components, m.Strict = components, strict
	all := make(map[string]string)
	for _, e := range change(t, admin, m).(*kmsg.DescribeClientQuotasResponse).Entries {
		var name, values []string
		for _, p := range e.Entity {
			if p.Name == nil {
				p.Name = kmsg.StringPtr("*")
			}
			name = append(name, p.Type+" "+*p.Name)
		}
		for _, v := range e.Values {
			values = append(values, fmt.Sprint(v.Key, "=", v.Value))
		}
		all[strings.Join(name, " ")] = strings.Join(values, " ")
	}
	return all
}

// component is one of a filter: how is 0 for exactly name, 1 for the default, 2 for any.
func component(kind string, how int8, name string) (k kmsg.DescribeClientQuotasRequestComponent) {
	k.EntityType, k.MatchType = kind, kmsg.QuotasMatchType(how)
	if how == 0 {
		k.Match = &name
	}
	return k
}

// What is wrong with a quota is refused as Apache Kafka refuses it, and changes nothing.
func TestQuotaFaults(t *testing.T) {
	c := start(t)
	admin := c.client()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for what, m := range map[string]*kmsg.AlterClientQuotasRequest{
		"nobody":          quotaFor("", "", map[string]float64{"producer_byte_rate": 1}),
		"unknown key":     quotaFor("a", "", map[string]float64{"bytes": 1}),
		"a connection":    quotaFor("a", "", map[string]float64{"connection_creation_rate": 1}),
		"bytes of an ip":  quotaFor("ip ::1", "", map[string]float64{"producer_byte_rate": 1}),
		"no address":      quotaFor("ip example.org", "", map[string]float64{"connection_creation_rate": 1}),
		"no bytes":        quotaFor("a", "", map[string]float64{"producer_byte_rate": 0}),
		"no connections":  quotaFor("ip ::1", "", map[string]float64{"connection_creation_rate": 0}),
		"half a byte":     quotaFor("a", "", map[string]float64{"producer_byte_rate": 1.5}),
		"not a number":    quotaFor("a", "", map[string]float64{"request_percentage": math.NaN()}),
		"without end":     quotaFor("a", "", map[string]float64{"request_percentage": math.Inf(1)}),
		"an endless name": quotaFor(strings.Repeat("x", 5000), "", map[string]float64{"request_percentage": 1}),
	} {
		resp, err := admin.Request(ctx, m)
		if err != nil {
			t.Fatal(what, err)
		}
		if code := resp.(*kmsg.AlterClientQuotasResponse).Entries[0].ErrorCode; code != kerr.InvalidRequest.Code {
			t.Errorf("%s: code %d", what, code)
		}
	}
	if got := shownQuotas(t, admin, false); len(got) > 0 {
		t.Errorf("quotas were made: %v", got)
	}
	r := c.raw()
	for what, tt := range map[string]struct {
		list []kmsg.DescribeClientQuotasRequestComponent
		code int16
	}{
		"another type":        {[]kmsg.DescribeClientQuotasRequestComponent{component("group", 2, "")}, kerr.UnsupportedVersion.Code},
		"no type":             {[]kmsg.DescribeClientQuotasRequestComponent{component("", 2, "")}, kerr.InvalidRequest.Code},
		"twice":               {[]kmsg.DescribeClientQuotasRequestComponent{component("user", 2, ""), component("user", 2, "")}, kerr.InvalidRequest.Code},
		"an ip's user":        {[]kmsg.DescribeClientQuotasRequestComponent{component("ip", 2, ""), component("user", 2, "")}, kerr.InvalidRequest.Code},
		"another way":         {[]kmsg.DescribeClientQuotasRequestComponent{component("user", 7, "")}, kerr.InvalidRequest.Code},
		"any of a name":       {[]kmsg.DescribeClientQuotasRequestComponent{{EntityType: "user", MatchType: 2, Match: kmsg.StringPtr("a")}}, kerr.InvalidRequest.Code},
		"exactly without one": {[]kmsg.DescribeClientQuotasRequestComponent{{EntityType: "user"}}, kerr.InvalidRequest.Code},
	} {
		m := kmsg.NewPtrDescribeClientQuotasRequest()
		m.Components = tt.list
		if code := r.ask(at(m, 1)).(*kmsg.DescribeClientQuotasResponse).ErrorCode; code != tt.code {
			t.Errorf("%s: code %d, want %d", what, code, tt.code)
		}
	}
}
