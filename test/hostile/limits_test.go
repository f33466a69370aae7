package hostile

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// limited is a node whose limits change while it runs.
type limited struct {
	t    *testing.T
	b    *common.Broker
	file string
	said int // reloads that the log tells of
}

// set writes a configuration that has these settings alone, lines of YAML, and has the node take it.
func (n *limited) set(settings string) {
	n.t.Helper()
	if err := os.WriteFile(n.file, []byte(settings), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := n.b.Signal(syscall.SIGHUP); err != nil {
		n.t.Fatal(err)
	}
	n.said++
	testx.Eventually(n.t, patience, func() bool { return strings.Count(n.b.Log(), "users and rules read again") == n.said }, "the node does not reload")
}

// try is a client's CONNECT, and the reason if it was refused.
func (n *limited) try(id string, with ...func(*wire.Connect)) (*mqttclient.Client, wire.ReasonCode) {
	n.t.Helper()
	o := mqttclient.Options{URL: n.b.URL(), Timeout: patience, Connect: wire.Connect{ClientID: []byte(id), CleanStart: true}}
	for _, f := range with {
		f(&o.Connect)
	}
	c, _, err := mqttclient.Connect(n.t.Context(), o)
	var refused *mqttclient.RefusedError
	if errors.As(err, &refused) {
		return nil, refused.Reason
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c, wire.Success
}

func (n *limited) connect(id string, with ...func(*wire.Connect)) *mqttclient.Client {
	n.t.Helper()
	c, reason := n.try(id, with...)
	if c == nil {
		n.t.Fatalf("CONNECT: %v", reason)
	}
	return c
}

func keep(k *wire.Connect)   { k.SessionExpiry = 3600 }
func resume(k *wire.Connect) { k.CleanStart, k.SessionExpiry = false, 3600 }

func (n *limited) subscribe(c *mqttclient.Client, qos byte, filter string) wire.ReasonCode {
	n.t.Helper()
	codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: qos})
	if err != nil {
		n.t.Fatal(err)
	}
	return codes[0]
}

func (n *limited) wants(what string, got, want wire.ReasonCode) {
	n.t.Helper()
	if got != want {
		n.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// publish sends at QoS 1 and gives the reason of the acknowledgement.
func publish(c *mqttclient.Client, topic string, payload []byte, retain bool) wire.ReasonCode {
	reason, _ := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: payload, QoS: 1, Retain: retain})
	return reason
}

// absent lets messages of 1,000 bytes wait for a session without a connection until so many of them were dropped, then gives the first bytes of those that it still gets.
func (n *limited) absent(messages, dropped int) (got string) {
	n.t.Helper()
	s := n.connect("s", keep)
	n.subscribe(s, 1, "q")
	_ = s.DisconnectWith(&wire.Disconnect{})
	p, before := n.connect("p"), n.dropped()
	for i := range messages {
		n.wants("PUBLISH", publish(p, "q", append([]byte{byte('0' + i)}, make([]byte, 999)...), false), wire.Success)
	}
	testx.Eventually(n.t, patience, func() bool { return n.dropped() >= before+dropped }, "too little is dropped")
	s = n.connect("s", resume)
	n.wants("PUBLISH", publish(p, "q", []byte("."), false), wire.Success)
	for {
		m, err := s.Receive(patience)
		if err != nil {
			n.t.Fatal(err)
		}
		if m.Payload[0] == '.' {
			break
		}
		got += string(m.Payload[:1])
	}
	_ = s.DisconnectWith(&wire.Disconnect{HasSessionExpiry: true})
	return got
}

// delays has so many messages wait for their time, and one more refused until they are taken back.
func (n *limited) delays(most int, payload []byte) {
	n.t.Helper()
	c := n.connect("d")
	for range most {
		n.wants("PUBLISH", publish(c, "$delayed/3600/limits/delayed", payload, false), wire.Success)
	}
	n.wants("one more", publish(c, "$delayed/3600/limits/delayed", payload, false), wire.QuotaExceeded)
	n.wants("cancel", publish(c, "$delayed/cancel/limits/delayed", nil, false), wire.Success)
	n.wants("when there is room", publish(c, "$delayed/3600/limits/delayed", payload, false), wire.Success)
	n.wants("cancel", publish(c, "$delayed/cancel/limits/delayed", nil, false), wire.Success)
}

// dropped is how many messages of queues the node has dropped, by its metrics.
func (n *limited) dropped() (total int) {
	n.t.Helper()
	resp, err := http.Get("http://" + n.b.Listeners["http"] + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		n.t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^sluice_broker_queue_dropped_total\{reason="session_[a-z]+"\} (\d+)`).FindAllSubmatch(text, -1) {
		v, _ := strconv.Atoi(string(m[1]))
		total += v
	}
	return total
}

// flood sends 48 messages of 512 KiB, more than the sockets take, to a client that does not read, and gives that client.
func (n *limited) flood() *mqttclient.Client {
	n.t.Helper()
	s, p := n.connect("deaf"), n.connect("p")
	n.subscribe(s, 1, "flood")
	for range 48 {
		if reason := publish(p, "flood", make([]byte, 512<<10), false); reason.Failed() {
			n.t.Fatalf("PUBLISH: %v", reason)
		}
	}
	return s
}

// goodbye reads until the node closes the connection, and gives the reason of its DISCONNECT.
func (n *limited) goodbye(c *mqttclient.Client) wire.ReasonCode {
	n.t.Helper()
	seen, err := c.WaitClosed(patience)
	if err != nil || len(seen) == 0 || seen[len(seen)-1].Type != wire.DISCONNECT {
		n.t.Errorf("%d packets and no DISCONNECT at the end: %v", len(seen), err)
		return wire.Success
	}
	d, err := seen[len(seen)-1].Disconnect()
	if err != nil {
		n.t.Error(err)
	}
	return d.Reason
}

var limitCases = map[string]struct {
	settings string
	try      func(n *limited)
}{
	"delayed_messages": {"limits: {delayed_messages: 2}", func(n *limited) {
		n.delays(2, []byte("x"))
	}},
	"delayed_client_messages": {"limits: {delayed_client_messages: 2}", func(n *limited) {
		n.delays(2, []byte("x"))
		c := n.connect("another")
		n.wants("of another client", publish(c, "$delayed/3600/limits/delayed", []byte("x"), false), wire.Success)
		n.wants("cancel", publish(c, "$delayed/cancel/limits/delayed", nil, false), wire.Success)
	}},
	"delayed_bytes": {"limits: {delayed_bytes: 10KiB}", func(n *limited) {
		n.delays(2, make([]byte, 4<<10))
	}},
	"memory": {"limits: {memory: 1MiB}", func(n *limited) {
		testx.Eventually(n.t, patience, func() bool {
			c, reason := n.try("m")
			if c != nil {
				_ = c.Close()
			}
			return reason == wire.ServerBusy
		}, "CONNECT is not refused")
		n.set("")
		testx.Eventually(n.t, patience, func() bool { _, reason := n.try("m"); return reason == wire.Success }, "CONNECT is refused for ever")
	}},
	"connections": {"limits: {connections: 2}", func(n *limited) {
		n.connect("a")
		b := n.connect("b")
		c, err := mqttclient.Dial(n.t.Context(), mqttclient.Options{URL: "ws://" + n.b.Listeners["mqtt.ws"] + "/mqtt"})
		if err == nil {
			_ = c.Close()
			n.t.Error("a third connection comes in by another listener")
		}
		_ = b.Disconnect()
		testx.Eventually(n.t, patience, func() bool {
			c, err := mqttclient.Dial(n.t.Context(), mqttclient.Options{URL: "ws://" + n.b.Listeners["mqtt.ws"] + "/mqtt"})
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		}, "a place is free, and nobody comes in")
	}},
	"packet_size": {"limits: {packet_size: 1KiB}", func(n *limited) {
		c := n.connect("c")
		_ = publish(c, "t", make([]byte, 900), false)
		_ = c.SendRaw(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("t"), Payload: make([]byte, 1100)}))
		n.wants("a larger packet", n.goodbye(c), wire.PacketTooLarge)
	}},
	"queue_bytes": {"limits: {queue_bytes: 64KiB}", func(n *limited) {
		n.wants("a client that does not read", n.goodbye(n.flood()), wire.QuotaExceeded)
	}},
	"on_full": {"limits: {queue_bytes: 64KiB, on_full: drop}", func(n *limited) {
		s := n.flood()
		n.wants("PUBLISH", publish(n.connect("p"), "flood", []byte("a little one"), false), wire.Success)
		if err := s.Ping(); err != nil {
			n.t.Errorf("the client was to be kept: %v", err)
		}
	}},
	"inflight": {"limits: {inflight: 3}", func(n *limited) {
		s, p := n.connect("s"), n.connect("p")
		n.subscribe(s, 1, "w")
		for range 5 {
			publish(p, "w", nil, false)
		}
		for range 3 {
			if _, err := s.Expect(wire.PUBLISH); err != nil {
				n.t.Fatal(err)
			}
		}
		if err := s.SendRaw(wire.AppendPingreq(nil)); err != nil {
			n.t.Fatal(err)
		}
		if _, err := s.Expect(wire.PINGRESP); err != nil {
			n.t.Errorf("over three unacknowledged: %v", err)
		}
	}},
	"session_messages": {"limits: {session_messages: 3}", func(n *limited) {
		if got := n.absent(8, 5); got != "567" {
			n.t.Errorf("of 0 to 7 the session gets %q", got)
		}
	}},
	"session_bytes": {"limits: {session_bytes: 4KiB}", func(n *limited) {
		if got := n.absent(8, 4); len(got) < 2 || len(got) > 4 || !strings.HasSuffix("01234567", got) {
			n.t.Errorf("of 0 to 7 the session gets %q", got)
		}
	}},
	"session_age": {"limits: {session_age: 1s}", func(n *limited) {
		if got := n.absent(3, 3); got != "" {
			n.t.Errorf("after a second the session gets %q", got)
		}
	}},
	"sessions": {"limits: {sessions: 2}", func(n *limited) {
		a := n.connect("a", keep)
		n.connect("b", keep)
		_, reason := n.try("c", keep)
		n.wants("a third kept session", reason, wire.QuotaExceeded)
		n.connect("d") // one that is not kept
		_ = a.DisconnectWith(&wire.Disconnect{HasSessionExpiry: true})
		testx.Eventually(n.t, patience, func() bool { _, reason := n.try("c", keep); return reason == wire.Success }, "a place is free, and nobody comes in")
	}},
	"subscriptions": {"limits: {subscriptions: 2}", func(n *limited) {
		for _, with := range []func(*wire.Connect){keep, func(*wire.Connect) {}} {
			c := n.connect("c", with)
			n.wants("first", n.subscribe(c, 1, "a"), wire.GrantedQoS1)
			n.wants("second", n.subscribe(c, 1, "b"), wire.GrantedQoS1)
			n.wants("third", n.subscribe(c, 1, "c"), wire.QuotaExceeded)
			n.wants("first again", n.subscribe(c, 0, "a"), wire.Success)
		}
	}},
	"topic_levels": {"limits: {topic_levels: 3}", func(n *limited) {
		c := n.connect("c")
		n.wants("three levels", n.subscribe(c, 1, "a/b/#"), wire.GrantedQoS1)
		n.wants("four levels", n.subscribe(c, 1, "a/b/c/#"), wire.TopicFilterInvalid)
		n.wants("three levels", publish(c, "a/b/c", nil, false), wire.Success)
		n.wants("four levels", publish(c, "a/b/c/d", nil, false), wire.TopicNameInvalid)
		n.set("limits: {topic_levels: 1000}")
		n.wants("a thousand levels", n.subscribe(c, 1, strings.Repeat("a/", 999)+"#"), wire.GrantedQoS1)
	}},
	"topic_bytes": {"limits: {topic_bytes: 8}", func(n *limited) {
		c := n.connect("c")
		n.wants("eight bytes", n.subscribe(c, 1, "12345678"), wire.GrantedQoS1)
		n.wants("nine bytes", n.subscribe(c, 1, "123456789"), wire.TopicFilterInvalid)
		n.wants("nine bytes", publish(c, "123456789", nil, false), wire.TopicNameInvalid)
	}},
	"client_id_bytes": {"limits: {client_id_bytes: 23}", func(n *limited) {
		n.connect(strings.Repeat("i", 23))
		_, reason := n.try(strings.Repeat("i", 24))
		n.wants("24 bytes", reason, wire.ClientIdentifierNotValid)
	}},
	"retained_messages": {"limits: {retained_messages: 1}", func(n *limited) {
		c := n.connect("c")
		n.wants("first", publish(c, "r/1", []byte("1"), true), wire.Success)
		n.wants("second", publish(c, "r/2", []byte("2"), true), wire.QuotaExceeded)
		n.wants("first again", publish(c, "r/1", []byte("3"), true), wire.Success)
		n.wants("first away", publish(c, "r/1", nil, true), wire.Success)
		n.wants("second", publish(c, "r/2", []byte("2"), true), wire.Success)
		publish(c, "r/2", nil, true)
	}},
}

// Every limit of the reference is taken while the node runs, is enforced, is answered with the protocol's own reason, and ends.
func TestEveryLimit(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b, said := common.Start(t, dir), 0
	keys := regexp.MustCompile("(?m)^### `limits\\.([a-z_]+)`$").FindAllSubmatch(text, -1)
	if len(keys) < len(limitCases) {
		t.Fatalf("the reference has %d limits", len(keys))
	}
	for _, key := range keys {
		t.Run(string(key[1]), func(t *testing.T) {
			c, ok := limitCases[string(key[1])]
			if !ok {
				t.Fatal("no case for this limit")
			}
			n := &limited{t: t, b: b, file: file, said: said}
			defer func() { said = n.said }()
			n.set(c.settings)
			c.try(n)
			n.set("")
		})
	}
	if strings.Contains(b.Log(), "panic") {
		t.Error(b.Log())
	}
}

// What the reference calls live is taken over while the node runs, where no limit's case shows it.
func TestLiveSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(file, []byte("mqtt: {sys_interval: 0s, shared_strategy: sticky}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &limited{t: t, b: common.Start(t, dir), file: file}
	a, b, p := n.connect("a"), n.connect("b"), n.connect("p")
	n.subscribe(a, 0, "$share/g/t")
	n.subscribe(b, 0, "$share/g/t")
	counts := func() (got [2]int) {
		for range 20 {
			publish(p, "t", nil, false)
		}
		testx.Eventually(t, patience, func() bool {
			for i, c := range []*mqttclient.Client{a, b} {
				if _, err := c.Receive(10 * time.Millisecond); err == nil {
					got[i]++
				}
			}
			return got[0]+got[1] == 20
		}, "the group does not get 20 messages")
		return got
	}
	if got := counts(); max(got[0], got[1]) != 20 {
		t.Errorf("sticky: %v", got)
	}
	n.set("mqtt: {sys_interval: 1s, shared_strategy: round_robin}\nlisteners: {mqtt: {accept_rate: 5}}")
	if got := counts(); got != [2]int{10, 10} {
		t.Errorf("round robin: %v", got)
	}
	c := n.connect("c")
	n.subscribe(c, 0, "$SYS/broker/uptime")
	for range 3 {
		if _, err := c.Receive(patience); err != nil {
			t.Errorf("$SYS: %v", err)
		}
	}
	began := time.Now()
	for range 5 {
		n.connect("d")
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("5 connections at 5 a second take %v", took)
	}
}
