// Package migrate proves what docs/migrate says: what another broker held and went by is there afterwards, in a real node.
package migrate

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(common.CleanExit)) }

const patience = time.Minute

func connect(t *testing.T, url, user, password string) (*mqttclient.Client, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: url, Timeout: patience, Connect: wire.Connect{CleanStart: true, UserName: []byte(user), Password: []byte(password)}})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// retained are the messages that a broker has, as `topic payload qos`.
func retained(t *testing.T, url, user, password string) (list []string) {
	t.Helper()
	c, err := connect(t, url, user, password)
	if err != nil {
		t.Fatal(err)
	}
	if codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte("plant/#"), QoS: 2}); err != nil || codes[0].Failed() {
		t.Fatal(codes, err)
	}
	for {
		m, err := c.Receive(300 * time.Millisecond)
		if err != nil {
			if err := c.Ping(); err != nil {
				t.Fatal(err)
			}
			if !c.Buffered() {
				slices.Sort(list)
				return list
			}
			continue
		}
		list = append(list, fmt.Sprintf("%s %x %d %v", m.Topic, m.Payload, m.QoS, m.Retain))
	}
}

// sluice runs the command, which has to succeed, and gives what it says.
func sluice(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(common.Binary(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("sluice %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestFromMosquitto: a user of the old broker comes in by the old password, may do what it might, and finds the retained messages that were there.
func TestFromMosquitto(t *testing.T) {
	conf := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(conf, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	passwords := file("passwords", "")
	// Of a password file by mosquitto_passwd -b FILE ada secret.
	if err := os.WriteFile(passwords, []byte("ada:$7$101$u1HnVOCUE3yunvPa$mFUONaGxfEW8XrPrxuZ7eeG01Lqzk/mmU9eZMN9ULh5Ki5bZq/gf/4B8bDo9/ODiuN58r+G10qhIbXIYYavDjQ==\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	acl := file("acl", "user ada\ntopic readwrite plant/#\ntopic readwrite closed/#\ntopic deny closed/secret/#\n")
	// A queue that is shorter than what is retained, as it is by default where there are more than a thousand.
	m := common.NewMosquitto(t, "max_inflight_messages 5", "max_queued_messages 10", "allow_anonymous false", "password_file "+passwords, "acl_file "+acl)
	m.Start()
	old := "mqtt://" + m.Address
	p, err := connect(t, old, "ada", "secret")
	if err != nil {
		t.Fatalf("%v\n%s", err, m.Log())
	}
	const n = 100
	var was []string
	for i := range n {
		out := wire.PublishOut{Topic: fmt.Appendf(nil, "plant/%d/temp", i), Payload: bytes.Repeat([]byte{byte(i)}, 1+i*50), QoS: byte(i % 3), Retain: true}
		if _, err := p.Publish(&out); err != nil {
			t.Fatal(err)
		}
		was = append(was, fmt.Sprintf("%s %x %d true", out.Topic, out.Payload, out.QoS))
	}
	slices.Sort(was)
	if _, err := p.Publish(&wire.PublishOut{Topic: []byte("plant/live"), QoS: 1, Payload: []byte("not retained")}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "node")
	said := sluice(t, "import", "mosquitto", "--config", m.File, "--out", dir)
	if !strings.Contains(said, "1 users, 3 rules") || !strings.Contains(said, "acl_file") {
		t.Errorf("it says:\n%s", said)
	}
	if out, err := exec.Command(common.Binary(t), "import", "mosquitto", "--config", m.File, "--out", dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "--force") {
		t.Errorf("files were written over: %s", out)
	}
	b := common.Start(t, dir, "node.data="+filepath.Join(dir, "data"))
	password := file("pw", "secret\n")
	said = sluice(t, "import", "mosquitto", "--from", old, "--user", "ada", "--password-file", password, "--to", b.URL(), "--to-user", "ada", "--to-password-file", password, "--topic", "plant/#")
	if !strings.Contains(said, fmt.Sprint(n, " retained messages")) {
		t.Errorf("it says: %s", said)
	}
	if is := retained(t, b.URL(), "ada", "secret"); !slices.Equal(was, is) {
		t.Errorf("%d retained messages were there, %d are", len(was), len(is))
	}
	for _, pair := range [][2]string{{"ada", "wrong"}, {"eve", "secret"}} {
		if _, err := connect(t, b.URL(), pair[0], pair[1]); err == nil {
			t.Errorf("%s came in by %q", pair[0], pair[1])
		}
	}
	c, err := connect(t, b.URL(), "ada", "secret")
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]bool{"plant/1/temp": true, "closed/x": true, "closed/secret/x": false, "elsewhere": false} {
		reason, _ := c.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: 1})
		if reason.Failed() == want {
			t.Errorf("publish to %s: %v", topic, reason)
		}
	}
}

// TestListenersFromMosquitto: listeners that differ are there with what each of them had: its prefix, its bound, and whether it asks for credentials.
func TestListenersFromMosquitto(t *testing.T) {
	plain, plant := testx.ClosedAddr(t), testx.ClosedAddr(t)
	listener := func(addr string) string {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return "listener " + port + " " + host
	}
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := strings.Join([]string{"per_listener_settings true", listener(plain), "allow_anonymous true", "max_connections 1", listener(plant), "allow_anonymous true", "mount_point plant/"}, "\n")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "node")
	if said := sluice(t, "import", "mosquitto", "--config", conf, "--out", dir); strings.Contains(said, "not carried over:") {
		t.Errorf("it says:\n%s", said)
	}
	common.Start(t, dir, "node.data="+filepath.Join(dir, "data"), "listeners.mqtt.tcp=off", "listeners.mqtt.ws=off")
	all, err := connect(t, "mqtt://"+plain, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, "mqtt://"+plain, "", ""); err == nil {
		t.Error("a second client came in where one may be")
	}
	in, err := connect(t, "mqtt://"+plant, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for c, filter := range map[*mqttclient.Client]string{all: "plant/#", in: "#"} {
		if codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 1}); err != nil || codes[0].Failed() {
			t.Fatal(codes, err)
		}
	}
	if _, err := in.Publish(&wire.PublishOut{Topic: []byte("pump"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	for c, topic := range map[*mqttclient.Client]string{all: "plant/pump", in: "pump"} {
		if m, err := c.Receive(patience); err != nil || string(m.Topic) != topic {
			t.Errorf("%q, %v, want %s", m.Topic, err, topic)
		}
	}
}
