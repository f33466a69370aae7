package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// oneLeads says who leads, for all nodes of a test; 0: nobody.
type oneLeads struct{ who atomic.Uint32 }

// knows is what one node knows of it.
type knows struct {
	*oneLeads
	self link.NodeID
}

func (k knows) Leader() (node link.NodeID, here, known bool) {
	n := link.NodeID(k.who.Load())
	return n, n == k.self, n != 0
}

// linkGroup is a catalog's group of one node's own, with a link to others.
type linkGroup struct {
	fakeGroup
	catalog *meta.Catalog
	index   uint64
	l       net.Listener
}

func (g *linkGroup) Start(_ context.Context, c *meta.Catalog) error {
	g.catalog = c
	return errors.Join(c.Recovered(), g.mesh.Serving(g.l))
}
func (g *linkGroup) Cluster() string { return "a cluster" }
func (g *linkGroup) Close() error    { g.mesh.Close(); return nil }
func (g *linkGroup) Propose(_ uint64, changes []meta.Entry, done func(error)) {
	g.index++
	g.catalog.Apply(g.index, changes)
	done(nil)
}

// carryNode starts a node of a cluster whose MQTT clients are carried to who leads.
func carryNode(t *testing.T, id link.NodeID, r *oneLeads, with ...func(*nodeOptions)) (n *node, url, at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := link.New(link.Options{ID: id, Token: []byte("a token"), DeadAfter: 5 * time.Second, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	n, url = testNode(t, vfs.NewMem(), append(with, func(o *nodeOptions) {
		o.leader, o.election = knows{r, id}, 500*time.Millisecond
		o.cluster = func([]meta.Entry, func(*link.Mesh)) (ClusterGroup, error) {
			return &linkGroup{fakeGroup: fakeGroup{mesh: m}, l: l}, nil
		}
	})...)
	t.Cleanup(func() {
		if err := stopNode(n); err != nil {
			t.Error(err)
		}
	})
	return n, url, l.Addr().String()
}

// carryPair is a node that leads, and one that carries to it.
func carryPair(t *testing.T, with ...func(*nodeOptions)) (leads, carries *node, leadsURL, carriesURL string, r *oneLeads) {
	t.Helper()
	r = &oneLeads{}
	r.who.Store(1)
	leads, leadsURL, _ = carryNode(t, 1, r, with...)
	var at string
	carries, carriesURL, at = carryNode(t, 2, r, with...)
	if err := leads.cluster.Mesh().SetPeers(map[link.NodeID]string{2: at}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, patience, func() bool { return carries.cluster.Mesh().Reaches(1) && leads.cluster.Mesh().Reaches(2) }, "connected")
	return leads, carries, leadsURL, carriesURL, r
}

// MQTT clients of both nodes are one broker's, in every version and QoS: messages, sessions that are kept, takeover, and who they are.
func TestMQTTCarried(t *testing.T) {
	leads, carries, here, there, _ := carryPair(t)
	for _, version := range []byte{wire.V31, wire.V311, wire.V5} {
		for _, urls := range [][2]string{{here, there}, {there, here}, {there, there}} {
			sub, pub := dialAs(t, urls[0], version, "sub", 0), dialAs(t, urls[1], version, "pub", 0)
			subscribe(t, sub, "t/#", 2)
			for qos := range byte(3) {
				want := bytes.Repeat([]byte{'0' + qos}, 1<<(4*qos+4))
				if code, err := pub.Publish(&wire.PublishOut{Topic: []byte("t/x"), QoS: qos, Payload: want}); err != nil || code.Failed() {
					t.Fatal(code, err)
				}
				m, err := sub.Receive(patience)
				if err != nil || !bytes.Equal(m.Payload, want) || m.QoS != qos {
					t.Fatalf("version %d, QoS %d: %d bytes at QoS %d, %v", version, qos, len(m.Payload), m.QoS, err)
				}
			}
			_, _ = sub.Close(), pub.Close()
		}
	}
	old := dial(t, there, "same", 100)
	subscribe(t, old, "kept", 1)
	next, back, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: here, Connect: wire.Connect{ClientID: []byte("same"), SessionExpiry: 100}})
	if err != nil || !back.SessionPresent {
		t.Fatalf("the session of a carried client: %+v, %v", back, err)
	}
	defer next.Close()
	packets, err := old.WaitClosed(patience)
	if err != nil || len(packets) != 1 || packets[0].Type != wire.DISCONNECT {
		t.Errorf("the one that was taken over got %v, %v", packets, err)
	}
	known := dial(t, there, "known", 0)
	infos := make(chan broker.ClientInfo, 10)
	describe := func(state any) {
		if d, ok := state.(interface {
			Describe() (broker.ClientInfo, bool)
		}); ok {
			if info, ok := d.Describe(); ok && info.ClientID == "known" {
				infos <- info
			}
		}
	}
	eachConnection(leads, describe)
	if info := testx.Receive(t, infos, patience); info.Remote.String() != known.Conn().LocalAddr().String() || info.Listener != "mqtt.tcp" {
		t.Errorf("the leader knows %+v", info)
	}
	if s := carries.mqtt.Snapshot(); s.Open != 0 {
		t.Errorf("%d clients are served by the node that carries", s.Open)
	}
}

// dialAs is dial for one version.
func dialAs(t *testing.T, url string, version byte, id string, expiry uint32) *mqttclient.Client {
	t.Helper()
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: url, Connect: wire.Connect{Version: version, ClientID: []byte(id), CleanStart: true, SessionExpiry: expiry}})
	if err != nil {
		t.Fatalf("version %d: %v", version, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A client that breaks the rules, is silent for too long or is refused hears of it from the leader, as it would there.
func TestMQTTCarriedErrors(t *testing.T) {
	leads, _, _, there, _ := carryPair(t)
	c := dial(t, there, "rude", 0)
	if err := c.SendRaw([]byte{0x30, 0x02, 0x00, 0x00}); err != nil { // a PUBLISH without topic
		t.Fatal(err)
	}
	packets, err := c.WaitClosed(patience)
	if err != nil || len(packets) != 1 || packets[0].Type != wire.DISCONNECT {
		t.Errorf("got %v, %v", packets, err)
	}
	if a, err := refusedConnect(t, there, wire.Connect{Version: wire.V5, ClientID: []byte("x"), AuthMethod: []byte("strange")}); err != nil || a.Reason != wire.BadAuthenticationMethod {
		t.Errorf("%+v, %v", a, err)
	}
	silent, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: there, Connect: wire.Connect{ClientID: []byte("silent"), CleanStart: true, KeepAlive: 1,
		HasWill: true, Will: wire.Will{Topic: []byte("will"), Payload: []byte("gone")}}})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	watch := dial(t, there, "watch", 0)
	subscribe(t, watch, "will", 1)
	if m, err := watch.Receive(patience); err != nil || string(m.Payload) != "gone" {
		t.Errorf("the will of one that is silent: %q, %v", m.Payload, err)
	}
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "\x10\xff\xff\xff\xff\xff", "\x10\x0c\x00\x04MQTT\x09\x02\x00\x3c\x00\x00"} {
		raw, err := net.Dial("tcp", there[len("mqtt://"):])
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(raw, garbage)
		if b, err := io.ReadAll(raw); err != nil || len(b) > 5 {
			t.Errorf("%q is answered %q, %v", garbage, b, err)
		}
		_ = raw.Close()
	}
	testx.Eventually(t, patience, func() bool { return leads.carry.Stats().Brought == 1 }, "the last one alone is there")
}

// refusedConnect is the CONNACK of a CONNECT that is refused.
func refusedConnect(t *testing.T, url string, k wire.Connect) (wire.Connack, error) {
	t.Helper()
	c, err := mqttclient.Dial(t.Context(), mqttclient.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendRaw(wire.AppendConnect(nil, &k)); err != nil {
		t.Fatal(err)
	}
	p, err := c.Expect(wire.CONNACK)
	if err != nil {
		return wire.Connack{}, err
	}
	return wire.DecodeConnack(p.Body, k.Version)
}

// While nobody leads a CONNECT waits, and then is answered that the server is unavailable; a client whose leader goes loses its connection without a
// packet, and is served by the next leader when it comes back to the same place.
func TestMQTTLeaderGoes(t *testing.T) {
	leads, carries, _, there, r := carryPair(t)
	c := dial(t, there, "c", 0)
	leads.cluster.Mesh().Disconnect(2, "cut")
	if packets, err := c.WaitClosed(patience); err != nil || len(packets) != 0 {
		t.Errorf("got %v, %v", packets, err)
	}
	_ = dial(t, there, "c", 0)
	r.who.Store(0)
	for _, version := range []byte{wire.V31, wire.V311, wire.V5} {
		if a, err := refusedConnect(t, there, wire.Connect{Version: version, ClientID: []byte("x"), CleanStart: true}); err != nil || a.Reason != wire.ServerUnavailable {
			t.Errorf("version %d: %+v, %v", version, a, err)
		}
	}
	r.who.Store(2)
	_ = dial(t, there, "c", 0)
	if s := carries.carry.Stats(); s.RefusedNobody != 3 || s.Lost != 1 {
		t.Errorf("%+v", s)
	}
	testx.Eventually(t, patience, func() bool { return carries.mqtt.Snapshot().Connected == 1 }, "the new leader serves it")
}

// Who is let in by a certificate, over WebSocket, is the same at the leader.
func TestMQTTCarriedCertificate(t *testing.T) {
	cert := testx.TempCert(t)
	secure := cert.ServerConfig()
	secure.ClientAuth, secure.ClientCAs = tls.RequireAndVerifyClientCert, cert.ClientConfig(true).RootCAs
	gate, err := auth.New(auth.Options{CertificateUser: "cn"})
	if err != nil {
		t.Fatal(err)
	}
	leads, carries, _, _, _ := carryPair(t, func(o *nodeOptions) { o.authn, o.door.tls = gate, secure })
	addr, err := carries.listen(door{name: "mqtt.wss", network: "tcp", address: "127.0.0.1:0", tls: true, ws: true})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: fmt.Sprintf("wss://%s/mqtt", addr), TLS: cert.ClientConfig(true),
		Connect: wire.Connect{ClientID: []byte("c"), CleanStart: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	infos := make(chan broker.ClientInfo, 1)
	eachConnection(leads, func(state any) {
		if d, ok := state.(interface {
			Describe() (broker.ClientInfo, bool)
		}); ok {
			if info, ok := d.Describe(); ok {
				infos <- info
			}
		}
	})
	info := testx.Receive(t, infos, patience)
	if info.User == "" || info.Source != "certificate" || !info.TLS || info.Listener != "mqtt.wss" || info.Protocol != "MQTT 5 over WebSocket" {
		t.Errorf("%+v", info)
	}
}

// oneUser is a directory of one user, ann.
type oneUser struct{ a auth.Account }

func (u oneUser) Account(name string) (auth.Account, bool) { return u.a, name == "ann" }
func (u oneUser) Accounts() int                            { return 1 }

// What a carried client and its server say to each other in SCRAM is between the two.
func TestMQTTCarriedSCRAM(t *testing.T) {
	v, err := auth.NewVerifier(auth.SCRAMSHA256, []byte("secret"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	gate, err := auth.New(auth.Options{Directory: oneUser{auth.Account{SHA256: &v}}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, there, _ := carryPair(t, func(o *nodeOptions) { o.authn = gate })
	for password, want := range map[string]wire.ReasonCode{"secret": wire.Success, "wrong": wire.NotAuthorized} {
		session, first, err := scram.Auth{User: "ann", Pass: password}.AsSha256Mechanism().Authenticate(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		c, err := mqttclient.Dial(t.Context(), mqttclient.Options{URL: there, Connect: wire.Connect{Version: wire.V5}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		method := []byte(auth.SCRAMSHA256)
		err = c.SendRaw(wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, ClientID: []byte("c"), CleanStart: true, AuthMethod: method, AuthData: first}))
		p, err2 := c.Expect(wire.AUTH)
		a, err3 := wire.DecodeServerAuth(p.Body)
		_, final, err4 := session.Challenge(a.AuthData)
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		err = c.SendRaw(wire.AppendAuth(nil, &wire.Auth{Reason: wire.ContinueAuthentication, AuthMethod: method, AuthData: final}))
		p, err2 = c.Expect(wire.CONNACK)
		k, err3 := p.Connack()
		if err := errors.Join(err, err2, err3); err != nil || k.Reason != want {
			t.Fatalf("%s: %+v %v", password, k, err)
		}
		if done, _, err := session.Challenge(k.AuthData); want == wire.Success && (!done || err != nil) {
			t.Errorf("the server's last word %q: %v", k.AuthData, err)
		}
	}
}

// eachConnection shows the state of each connection of a node, on its loop.
func eachConnection(n *node, visit func(state any)) {
	for _, l := range n.engine.Loops() {
		l.Post(engine.TaskFunc(func(l *engine.Loop) { l.States(0, 1<<20, visit) }))
	}
}

// Nodes that give a listener of one name to different tenants do not serve each other's clients of it; one without a tenant is as nodes know it that know no tenants.
func TestCarriedListenersOfTenants(t *testing.T) {
	rules := func(tenant string) string {
		var n node
		n.ruleNamed(config.NamedListeners{{Name: "a", Protocol: "tcp", Tenant: tenant}})
		l, ok := n.namedListener("mqtt.a")
		if !ok {
			t.Fatal("it is not there")
		}
		return l.Rules
	}
	if got := rules(""); got != "ec1eff818e936fee" { // what it has been before there were tenants
		t.Errorf("without a tenant: %s", got)
	}
	if plant := rules("plant"); plant != rules("plant") || plant == rules("") || plant == rules("lab") || plant == rules("default") {
		t.Error("the rules do not tell tenants apart")
	}
}
