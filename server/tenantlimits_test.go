package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
	kwire "github.com/sluicemq/sluice/proto/kafka/wire"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// limit gives the tenant beta, whose users' names begin with b, these limits and no others.
func (w *tenantsNode) limit(limits map[string]float64) {
	w.t.Helper()
	done := make(chan error, 1)
	w.n.catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		return meta.ChangeTenant(s, "beta", func(t *meta.Tenant) { t.SetLimits(limits) })
	}, func(err error) { w.n.tenantsSettled(func() { done <- err }) })
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

// mqtt connects a user, whose client id is its name.
func (w *tenantsNode) mqtt(user string, version byte, expiry uint32) (*mqttclient.Client, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: w.url, Timeout: patience, Connect: wire.Connect{Version: version, ClientID: []byte(user), UserName: []byte(user),
		CleanStart: expiry == 0, SessionExpiry: expiry}})
	if err == nil {
		w.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (w *tenantsNode) mustMQTT(user string, expiry uint32) *mqttclient.Client {
	w.t.Helper()
	c, err := w.mqtt(user, wire.V5, expiry)
	if err != nil {
		w.t.Fatal(user, err)
	}
	return c
}

// wantRefused connects a user that is told that its tenant is full, in the words of each version.
func (w *tenantsNode) wantRefused(user string, expiry uint32) {
	w.t.Helper()
	for _, version := range []byte{wire.V5, wire.V311} {
		var refused *mqttclient.RefusedError
		_, err := w.mqtt(user, version, expiry)
		if want := map[byte]wire.ReasonCode{wire.V5: wire.QuotaExceeded, wire.V311: wire.ServerUnavailable}[version]; !errors.As(err, &refused) || refused.Reason != want {
			w.t.Errorf("%s, version %d: %v", user, version, err)
		}
	}
}

// wantClosed signs a user in by Kafka whose connection ends without an answer.
func (w *tenantsNode) wantClosed(user string) {
	w.t.Helper()
	c := w.anonymous()
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "PLAIN"
	c.ask(hello, 1)
	token := kmsg.NewPtrSASLAuthenticateRequest()
	token.SASLAuthBytes = []byte("\x00" + user + "\x00-")
	token.SetVersion(2)
	if _, err := c.conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, token, 99)); err != nil {
		w.t.Fatal(err)
	}
	if n, err := c.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		w.t.Errorf("%s: %d bytes, %v; want its connection to end", user, n, err)
	}
}

// A tenant's connections of both protocols are bounded together; who goes makes room. The others do not notice.
func TestTenantConnectionsEndToEnd(t *testing.T) {
	w := newTenantsNode(t)
	w.limit(map[string]float64{meta.TenantConnections: 2})
	kafka, mqtt := w.dial("bob"), w.mustMQTT("bob", 0)
	w.wantRefused("ben", 0)
	w.wantClosed("ben")
	for _, user := range []string{"ann", "cid", "cat", "carl"} {
		w.dial(user).names()
		if err := w.mustMQTT(user, 0).Ping(); err != nil {
			t.Error(user, err)
		}
	}
	if err := mqtt.Ping(); err != nil {
		t.Error(err)
	}
	kafka.names()
	_ = kafka.conn.Close()
	use := w.n.broker.Tenants().Use(1)
	testx.Eventually(t, patience, func() bool { return use.Counts().Connections == 1 }, "the connection's end is counted")
	w.mustMQTT("ben", 0)
	w.limit(map[string]float64{meta.TenantConnectRate: 0.001})
	w.dial("bill") // the first is on credit
	w.wantClosed("bart")
	w.wantRefused("bart", 0)
	w.dial("cid")
	w.mustMQTT("dot", 0) // of no tenant that has an entry
	w.limit(nil)
	w.dial("bart")
	if n := use.Counts(); n.Refused[broker.TenantConnections] != 3 || n.Refused[broker.TenantConnectRate] != 3 {
		t.Errorf("counted %+v", n.Refused)
	}
}

// What a tenant's Kafka clients produce and fetch over its limits they are told to wait for; another tenant's are told nothing.
func TestTenantBytesOfKafka(t *testing.T) {
	w := newTenantsNode(t)
	bob, cid := w.dial("bob"), w.dial("cid")
	for _, c := range []*tenantConn{bob, cid} {
		if code, why := c.create("t"); code != 0 {
			t.Fatal(code, why)
		}
	}
	value := strings.Repeat("x", 2000)
	w.limit(map[string]float64{meta.TenantBytesIn: 1000})
	if ms := bob.produceThrottle("t", value); ms < 1000 {
		t.Errorf("some 2,100 bytes at 1,000 in a second, and it is told to wait %d ms", ms)
	}
	if ms := cid.produceThrottle("t", value); ms != 0 {
		t.Errorf("another tenant's client is told to wait %d ms", ms)
	}
	w.limit(map[string]float64{meta.TenantBytesOut: 1000})
	if ms := bob.fetchThrottle("t"); ms < 1000 {
		t.Errorf("some 2,100 bytes at 1,000 in a second, and it is told to wait %d ms", ms)
	}
	if ms := cid.fetchThrottle("t"); ms != 0 {
		t.Errorf("another tenant's client is told to wait %d ms", ms)
	}
	use := w.n.broker.Tenants().Use(1).Counts()
	if use.BytesIn < 2000 || use.BytesOut < 2000 || use.Refused[broker.TenantBytesIn] == 0 || use.Refused[broker.TenantBytesOut] == 0 {
		t.Errorf("counted %+v", use)
	}
}

// produceThrottle produces, and says how long the answer has it wait.
func (c *tenantConn) produceThrottle(topic, value string) int32 {
	c.t.Helper()
	c.answer = nil
	if code := c.produce(topic, [16]byte{}, value); code != 0 {
		c.t.Fatal(code)
	}
	return c.answer.(*kmsg.ProduceResponse).ThrottleMillis
}

// fetchThrottle fetches, and says how long the answer has it wait.
func (c *tenantConn) fetchThrottle(topic string) int32 {
	c.t.Helper()
	c.answer = nil
	if code, records := c.fetch(topic, [16]byte{}); code != 0 || len(records) == 0 {
		c.t.Fatal(code, len(records))
	}
	return c.answer.(*kmsg.FetchResponse).ThrottleMillis
}

// A tenant makes no more topics than it may, by CreateTopics or by asking for one that is not there, after a restart too.
func TestTenantTopicsEndToEnd(t *testing.T) {
	w := newTenantsNode(t)
	w.limit(map[string]float64{meta.TenantTopics: 2})
	if code, why := w.dial("bob").create("one"); code != 0 {
		t.Fatal(code, why)
	}
	ask := func(name string) int16 { // by asking for it
		t.Helper()
		req := kmsg.NewPtrMetadataRequest()
		req.Topics, req.AllowAutoTopicCreation = []kmsg.MetadataRequestTopic{{Topic: &name}}, true
		return w.dial("bob").ask(req, 12).(*kmsg.MetadataResponse).Topics[0].ErrorCode
	}
	if code := ask("two"); code != 0 {
		t.Fatal(code)
	}
	for _, when := range []string{"at once", "after a restart"} {
		if code, why := w.dial("bob").create("three"); code != int16(kwire.PolicyViolation) || !strings.Contains(why, "tenant") {
			t.Errorf("%s: %d %q", when, code, why)
		}
		if code := ask("three"); code != int16(kwire.PolicyViolation) {
			t.Errorf("%s: made since it was asked for: %d", when, code)
		}
		for _, user := range []string{"ann", "cid"} {
			for _, topic := range []string{"one", "two", "three"} {
				if code, why := w.dial(user).create(topic + when[:2]); code != 0 {
					t.Errorf("%s: %s: %d %q", when, user, code, why)
				}
			}
		}
		if when == "at once" {
			w.restart()
		}
	}
}

// MQTT clients of a tenant that has used up its messages are not read from and not sent to until its limit is raised, and then lose nothing.
func TestTenantMessagesEndToEnd(t *testing.T) {
	w := newTenantsNode(t)
	for _, limit := range []string{meta.TenantMessagesIn, meta.TenantBytesIn, meta.TenantMessagesOut, meta.TenantBytesOut} {
		w.limit(map[string]float64{limit: 0.01})
		kind, _ := broker.TenantLimitOf(limit)
		before := w.n.broker.Tenants().Use(1).Counts()
		for _, user := range []string{"bob", "cid"} {
			sub, pub := w.mustMQTT(user+"-sub", 0), w.mustMQTT(user, 0)
			subscribe(t, sub, "t", 1)
			got := func(want string) {
				t.Helper()
				if m, err := sub.Receive(patience); err != nil || string(m.Payload) != want {
					t.Errorf("%s, %s: %q, %v; want %s", limit, user, m.Payload, err, want)
				}
			}
			for i, payload := range []string{"one", "two"} {
				if err := pub.SendRaw(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("t"), Payload: []byte(payload), QoS: 1, PacketID: uint16(i + 1)})); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					got("one") // on credit
				}
			}
			if user == "bob" {
				testx.Eventually(t, patience, func() bool { return w.n.broker.Tenants().Use(1).Counts().Refused[kind] > before.Refused[kind] }, "somebody waits")
				if m, err := sub.ReadPacket(50 * time.Millisecond); !errors.Is(err, mqttclient.ErrTimeout) {
					t.Errorf("%s: it is sent %v, %v", limit, m, err)
				}
				w.limit(nil)
			}
			got("two")
			_, _ = sub.Close(), pub.Close()
		}
	}
}

// A tenant keeps no more sessions and retained messages than it may, after a restart too.
func TestTenantStateEndToEnd(t *testing.T) {
	w := newTenantsNode(t)
	retain := func(c *mqttclient.Client, topic string) wire.ReasonCode {
		t.Helper()
		code, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte("x"), QoS: 1, Retain: true})
		if err != nil && !code.Failed() {
			t.Fatal(err)
		}
		return code
	}
	w.limit(map[string]float64{meta.TenantSessions: 1, meta.TenantRetained: 1})
	for _, when := range []string{"at once", "after a restart"} {
		bob := w.mustMQTT("bob", 3600)
		w.wantRefusedKept("ben")
		w.mustMQTT("ben", 0)
		cid := w.mustMQTT("cid"+when[:2], 3600)
		if code := retain(bob, "r/1"); code.Failed() {
			t.Errorf("%s: %s", when, code)
		}
		if code := retain(bob, "r/2"); code != wire.QuotaExceeded {
			t.Errorf("%s: one too many is told %s", when, code)
		}
		for _, topic := range []string{"r/1", "r/2", "r/3"} {
			if code := retain(cid, topic); code.Failed() {
				t.Errorf("%s: another tenant is told %s", when, code)
			}
		}
		if when == "at once" {
			w.restart()
		}
	}
}

// wantRefusedKept asks for a session that is kept, which there is no room for.
func (w *tenantsNode) wantRefusedKept(user string) {
	w.t.Helper()
	var refused *mqttclient.RefusedError
	if _, err := w.mqtt(user, wire.V5, 3600); !errors.As(err, &refused) || refused.Reason != wire.QuotaExceeded {
		w.t.Errorf("%s: %v", user, err)
	}
}
