package perf

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// TestBudgetIdle measures what an idle connection of each kind holds, over the whole stack, and that it makes no system calls.
func TestBudgetIdle(t *testing.T) {
	plainBuild(t)
	cert := testx.TempCert(t)
	secure := func(o *mqttclient.Options) { o.TLS = &tls.Config{RootCAs: cert.Pool, ClientSessionCache: nil} }
	tlsSet := []string{"tls.cert=" + cert.ServerCertFile, "tls.key=file:" + cert.ServerKeyFile}
	for _, tc := range []struct {
		kind, scheme, door string
		count              int
		with               []func(*mqttclient.Options)
		set                []string
	}{
		{"plain", "mqtt://", "mqtt.tcp", 2000, nil, nil},
		{"tls", "mqtts://", "mqtt.tls", 200, []func(*mqttclient.Options){secure}, append(tlsSet, "listeners.mqtt.tls=127.0.0.1:0")},
		{"websocket", "ws://", "mqtt.ws", 500, nil, []string{"listeners.mqtt.ws=127.0.0.1:0"}},
		{"netpoll", "mqtt://", "mqtt.tcp", 500, nil, []string{"listeners.mqtt.transport=netpoll"}},
		{"kafka", "kafka", "kafka.tcp", 2000, nil, []string{"listeners.kafka.tcp=127.0.0.1:0"}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			n := start(t, append([]string{"journal.durability=memory"}, tc.set...)...)
			open := func(id string) {
				if tc.scheme == "kafka" {
					dialKafka(t, n).apiVersions()
					return
				}
				connect(t, tc.scheme+n.ready.Listeners[tc.door], id, tc.with...)
			}
			open("first") // what the first one builds is not its own
			before := n.settled()
			for i := range tc.count {
				open(fmt.Sprintf("idle%05d", i))
			}
			after := n.settled()
			spend(t, "idle_connection."+tc.kind+"_heap_bytes", float64(after.Heap-before.Heap)/float64(tc.count))
			spend(t, "idle_connection."+tc.kind+"_goroutines", float64(after.Goroutines-before.Goroutines)/float64(tc.count))
			calls := n.used(func() { <-time.After(time.Second) })
			spend(t, "idle_connection."+tc.kind+"_calls_a_second", (calls.socket+calls.loop)/float64(tc.count))
		})
	}
}

// TestBudgetPing measures what a keep-alive costs.
func TestBudgetPing(t *testing.T) {
	plainBuild(t)
	n := start(t, "journal.durability=memory")
	c := connect(t, "mqtt://"+n.ready.Listeners["mqtt.tcp"], "c")
	pings := func(count int) {
		for range count {
			if err := ping(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	pings(500)
	const count = 2000
	u := n.used(func() { pings(count) })
	spendMessage(t, "ping", u, count)
}

// TestBudgetConnect measures what a connection costs from its accept to its end.
func TestBudgetConnect(t *testing.T) {
	plainBuild(t)
	n := start(t, "journal.durability=memory")
	comeAndGo(t, n, 200)
	const count = 1000
	u := n.used(func() { comeAndGo(t, n, count) })
	spendMessage(t, "connect", u, count)
}

// comeAndGo opens connections one after the other, waits for CONNACK, says DISCONNECT and waits for the node's end.
func comeAndGo(t *testing.T, n *node, count int) {
	t.Helper()
	hello := wire.AppendConnect(nil, &wire.Connect{Version: wire.V311, ClientID: []byte("comes-and-goes"), CleanStart: true, KeepAlive: 600})
	bye := []byte{byte(wire.DISCONNECT) << 4, 0}
	for range count {
		c, err := net.Dial("tcp", n.ready.Listeners["mqtt.tcp"])
		if err != nil {
			t.Fatal(err)
		}
		var answer [4]byte
		_, err = c.Write(hello)
		if err == nil {
			_, err = io.ReadFull(c, answer[:])
		}
		if err == nil && (answer[0] != byte(wire.CONNACK)<<4 || answer[3] != 0) {
			err = fmt.Errorf("the answer is % x", answer)
		}
		if err == nil {
			_, err = c.Write(bye)
		}
		if err == nil { // the node ends its side when it has let the session go
			if _, err = c.Read(answer[:]); errors.Is(err, io.EOF) {
				err = nil
			}
		}
		if err = errors.Join(err, c.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
