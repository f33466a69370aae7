package bridge

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// topics are what the tests' bridges carry.
const topics = `topics: [{filter: "up/#", direction: out, qos: 2, remote_prefix: site/}, {filter: "down/+", direction: in, qos: 2, local_prefix: hq/},
	{filter: "both/#", direction: both, qos: 1}, {direction: out, qos: 1, local_prefix: one, remote_prefix: other/one}, {filter: "fast/#", direction: out}]`

func bridgeTo(b *broker, version string) string {
	return fmt.Sprintf(`[{name: hq, addresses: ["%s"], client_id: plant, version: "%s", keep_alive: 5s, %s}]`, b.addr, version, topics)
}

// TestRoutes: messages go the way that is configured, under their names on the other side, each once; none comes back.
func TestRoutes(t *testing.T) {
	for _, tc := range []struct {
		name, version string
		there         func(*testing.T) *broker
	}{
		{"node 5", "5", plainNode},
		{"node 3.1.1", "3.1.1", plainNode},
		{"mosquitto 5", "5", plainMosquitto},
		{"mosquitto 3.1.1", "3.1.1", plainMosquitto},
	} {
		t.Run(tc.name, func(t *testing.T) {
			there := tc.there(t)
			there.up()
			there.publish("down/kept!", "at hq", 1)
			here := node(t, bridgeTo(there, tc.version))
			here.up()
			connected(here, "hq", "1")
			a, b := here.subscriber("#"), there.subscriber("#")
			want(t, a, "hq/down/kept! at hq 1")
			want(t, b, "down/kept! at hq 1")
			here.publish("up/1", "x", 2)
			here.publish("up/kept!", "y", 1)
			here.publish("both/1", "from here", 2)
			here.publish("one", "z", 1)
			here.publish("fast/1", "f", 1)
			here.publish("down/1", "stays here", 1)
			want(t, b, "site/up/1 x 2", "site/up/kept! y 1", "both/1 from here 1", "other/one z 1", "fast/1 f 0")
			want(t, a, "up/1 x 2", "up/kept! y 1", "both/1 from here 2", "one z 1", "fast/1 f 1", "down/1 stays here 1")
			there.publish("down/2", "x", 2)
			there.publish("down/2/deeper", "stays there", 1)
			there.publish("both/2", "from there", 1)
			there.publish("site/up/2", "stays there", 1)
			want(t, a, "hq/down/2 x 2", "both/2 from there 1")
			want(t, b, "down/2 x 2", "down/2/deeper stays there 1", "both/2 from there 1", "site/up/2 stays there 1")
			if t.Failed() {
				t.Logf("the node says:\n%s\n%s", here.log(), there.log())
			}
		})
	}
}

// TestMosquittosBridge: a bridge of Mosquitto's is one here as well: what it brings does not go back over it, and what is retained stays so.
func TestMosquittosBridge(t *testing.T) {
	for _, version := range []string{"mqttv311", "mqttv50"} {
		t.Run(version, func(t *testing.T) {
			here := node(t, "[]")
			here.up()
			there := mosquitto(t, "connection x", "address "+here.addr, "bridge_protocol_version "+version, "topic both/# both 2", "notifications false")
			there.up()
			a, b := here.subscriber("#"), there.subscriber("#")
			testx.Eventually(t, patience, func() bool { // it is there
				here.publish("both/probe", "p", 0)
				m, err := b.Receive(100 * time.Millisecond)
				return err == nil && string(m.Topic) == "both/probe"
			})
			for m, err := a.Receive(quiet); err == nil; m, err = a.Receive(quiet) {
				if string(m.Topic) != "both/probe" {
					t.Fatalf("%s came", m.Topic)
				}
			}
			for m, err := b.Receive(quiet); err == nil; m, err = b.Receive(quiet) {
				if string(m.Topic) != "both/probe" {
					t.Fatalf("%s came", m.Topic)
				}
			}
			here.publish("both/1!", "from here", 2)
			there.publish("both/2!", "from there", 1)
			want(t, a, "both/1! from here 2", "both/2! from there 1")
			want(t, b, "both/1! from here 2", "both/2! from there 1")
		})
	}
}

// TestSecure: over TLS, by a certificate's authority and a password, at the second address, since nobody is at the first.
func TestSecure(t *testing.T) {
	cert := testx.TempCert(t)
	dir := t.TempDir()
	there := node(t, "[]", "listeners.mqtt.tls="+testx.ClosedAddr(t), "tls.cert="+cert.ServerCertFile, "tls.key="+cert.ServerKeyFile, "auth.password_file="+users(t, dir), "auth.anonymous=loopback")
	there.up()
	secret := filepath.Join(dir, "pw")
	if err := os.WriteFile(secret, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	bridges := fmt.Sprintf(`[{name: hq, addresses: ["mqtts://%s", "mqtts://%s"], ca: %s, user: ada, password: "file:%s", topics: [{filter: "up/#", direction: out, qos: 1}]}]`,
		testx.ClosedAddr(t), there.listener("mqtt.tls"), cert.CAFile, secret)
	here := node(t, bridges)
	here.up()
	testx.Eventually(t, patience, func() bool { return strings.Contains(here.log(), "bad user name or password") }, "it is refused")
	if strings.Contains(here.log(), "wrong") {
		t.Errorf("a password is in the log:\n%s", here.log())
	}
	here.publish("up/1", "while it is refused", 1)
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := there.subscriber("up/#")
	here.hup() // the password is read anew
	want(t, b, "up/1 while it is refused 1")
	connected(here, "hq", "1")
}

// users is a password file with one user, ada, and her password, secret.
func users(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "users")
	cmd := exec.Command(common.Binary(t), "passwd", "--file", file, "ada")
	cmd.Stdin = strings.NewReader("secret\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// TestReload: a bridge that comes into the configuration starts, one that leaves it ends, and the others are left alone.
func TestReload(t *testing.T) {
	there := node(t, "[]")
	there.up()
	one := fmt.Sprintf(`{name: one, addresses: ["%s"], topics: [{filter: "one/#", direction: out, qos: 1}]}`, there.addr)
	two := fmt.Sprintf(`{name: two, addresses: ["%s"], topics: [{filter: "two/#", direction: out, qos: 1}]}`, there.addr)
	here := node(t, "["+one+"]")
	here.up()
	connected(here, "one", "1")
	here.file("[" + one + ", " + two + "]")
	here.hup()
	connected(here, "two", "1")
	b := there.subscriber("#")
	here.publish("one/1", "x", 1)
	here.publish("two/1", "x", 1)
	want(t, b, "one/1 x 1", "two/1 x 1")
	here.file("[" + two + "]")
	here.hup()
	connected(here, "one", "0")
	here.publish("one/2", "x", 1)
	here.publish("two/2", "x", 1)
	want(t, b, "two/2 x 1")
	if n := strings.Count(here.log(), "bridge is connected"); n != 2 {
		t.Errorf("%d connections of bridges:\n%s", n, here.log())
	}
}

// TestProperties: between brokers of MQTT 5 a message keeps what its publisher has said of it.
func TestProperties(t *testing.T) {
	there := node(t, "[]")
	there.up()
	here := node(t, bridgeTo(there, "5"))
	here.up()
	connected(here, "hq", "1")
	b := there.subscriber("#")
	p := here.client("p")
	var forward []byte
	forward = wire.AppendProperty(forward, wire.Property{ID: wire.PropContentType, Data: []byte("text/plain")})
	forward = wire.AppendProperty(forward, wire.Property{ID: wire.PropCorrelationData, Data: []byte{1, 2}})
	forward = wire.AppendUserProperty(forward, []byte("k"), []byte("v"))
	if _, err := p.Publish(&wire.PublishOut{Topic: []byte("up/p"), QoS: 1, Payload: []byte("x"), Forward: forward, HasExpiry: true, Expiry: 1000}); err != nil {
		t.Fatal(err)
	}
	m, err := b.Receive(patience)
	if err != nil {
		t.Fatal(err)
	}
	user := m.Props.User()
	r := user.Read()
	name, value, _ := r.Next()
	if string(m.Props.ContentType()) != "text/plain" || string(m.Props.CorrelationData()) != "\x01\x02" || string(name)+"="+string(value) != "k=v" ||
		!m.Props.HasExpiry || m.Props.Expiry > 1000 || m.Props.Expiry < 900 {
		t.Errorf("properties: %+v", m.Props)
	}
}

// TestNobodyElse: the client ids of bridges are theirs alone.
func TestNobodyElse(t *testing.T) {
	here := node(t, "[]")
	here.up()
	x := common.Exchange{ID: "$bridge/hq"}
	if err := x.Connect(here.url()); err == nil {
		t.Error("a client came in as a bridge")
	}
}

// TestNeverThereYet: what is published before the other broker has been there for the first time goes out when it comes, retained messages too.
func TestNeverThereYet(t *testing.T) {
	there := node(t, "[]")
	here := node(t, bridgeTo(there, "5"))
	here.up()
	here.publish("up/kept!", "retained", 0)
	testx.Eventually(t, patience, func() bool { // the session is there before the first message that has to be kept
		c := here.client("probe")
		defer c.Close()
		reason, err := c.Publish(&wire.PublishOut{Topic: []byte("up/1"), QoS: 1, Payload: []byte("probe")})
		return err == nil && reason == wire.Success
	})
	here.publish("up/2", "kept", 2)
	here.kill()
	here.up()
	there.up()
	b := there.subscriber("site/up/2")
	want(t, b, "site/up/2 kept 2")
	want(t, there.subscriber("site/up/kept"), "site/up/kept! retained 0")
}

// faults kills one side or the other under load, a number of times, and counts.
func faults(t *testing.T, here, there *broker, kills []*broker, senders []*common.Sender, receivers []*common.Receiver, filter string) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	attach := func() {
		for _, r := range receivers {
			if err := r.Attach(there.url(), filter); err != nil {
				t.Fatal(err)
			}
		}
	}
	there.up()
	attach()
	here.up()
	connected(here, "hq", "1")
	for _, victim := range append(kills, nil) {
		stop := make(chan struct{})
		wait := common.Load(t, here.url(), senders, stop)
		<-time.After(time.Duration(100+rng.IntN(400)) * time.Millisecond) // a moment of load is the point
		switch victim {
		case nil:
			close(stop)
			wait()
		case here:
			here.kill()
			close(stop)
			wait()
			here.up()
		default:
			there.kill()
			<-time.After(100 * time.Millisecond)
			close(stop)
			wait()
			there.up()
			attach()
		}
	}
	if !common.AwaitAll(senders, receivers, patience) {
		t.Logf("the node says:\n%s\nthe other broker:\n%s", here.log(), there.log())
	}
	common.Verify(t, senders, receivers)
	for _, r := range receivers {
		r.End()
		r.Wait()
	}
}

func load(topic string) []*common.Sender {
	return []*common.Sender{
		{Exchange: common.Exchange{ID: "p1"}, QoS: 1, Topic: topic + "/1"},
		{Exchange: common.Exchange{ID: "p2"}, QoS: 2, Topic: topic + "/2"},
	}
}

// TestKillsOut: whoever is killed, what was acknowledged here is there in the end, at QoS 2 once, in order.
func TestKillsOut(t *testing.T) {
	there := node(t, "[]")
	here := node(t, bridgeTo(there, "5"))
	faults(t, here, there, []*broker{here, there, here, there}, load("up"), []*common.Receiver{common.NewReceiver("r1", 1), common.NewReceiver("r2", 2)}, "site/up/#")
}

// TestKillsIn is the same of messages that are fetched: the bridge is at the receivers' node.
func TestKillsIn(t *testing.T) {
	from := node(t, "[]")
	to := node(t, fmt.Sprintf(`[{name: hq, addresses: ["%s"], keep_alive: 5s, topics: [{filter: "up/#", direction: in, qos: 2, local_prefix: site/}]}]`, from.addr))
	from.up()
	to.up()
	connected(to, "hq", "1") // the session at the other node is what keeps
	senders, receivers := load("up"), []*common.Receiver{common.NewReceiver("r1", 1), common.NewReceiver("r2", 2)}
	attach := func() {
		for _, r := range receivers {
			if err := r.Attach(to.url(), "site/up/#"); err != nil {
				t.Fatal(err)
			}
		}
	}
	attach()
	for _, victim := range []*broker{to, from, to, from, nil} {
		stop := make(chan struct{})
		wait := common.Load(t, from.url(), senders, stop)
		<-time.After(300 * time.Millisecond) // a moment of load is the point
		if victim != nil {
			victim.kill()
		}
		close(stop)
		wait()
		if victim != nil {
			victim.up()
		}
		if victim == to {
			attach()
		}
	}
	if !common.AwaitAll(senders, receivers, patience) {
		t.Logf("the node with the bridge says:\n%s", to.log())
	}
	common.Verify(t, senders, receivers)
	for _, r := range receivers {
		r.End()
		r.Wait()
	}
}

// TestMosquittoAway: what is published while Mosquitto is gone is there when it has come back.
func TestMosquittoAway(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			there := mosquitto(t)
			here := node(t, bridgeTo(there, version))
			there.up()
			here.up()
			connected(here, "hq", "1")
			there.kill()
			connected(here, "hq", "0")
			const n = 200
			p := here.client("p")
			for i := range n {
				if _, err := p.Publish(&wire.PublishOut{Topic: []byte("up/n"), QoS: byte(1 + i%2), Payload: fmt.Append(nil, i)}); err != nil {
					t.Fatal(err)
				}
			}
			here.kill() // and the node itself
			there.up()
			b := there.subscriber("site/up/#")
			here.up()
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf("site/up/n %d %d", i, 1+i%2))
			}
			want(t, b, list...)
		})
	}
}

// TestKillsMosquitto: the node is killed again and again while messages go out to Mosquitto.
func TestKillsMosquitto(t *testing.T) {
	there := mosquitto(t)
	here := node(t, bridgeTo(there, "5"))
	faults(t, here, there, []*broker{here, here, here}, load("up"), []*common.Receiver{common.NewReceiver("r2", 2)}, "site/up/#")
}
