package config

import (
	"strings"
	"testing"
)

// What makes a node one of a cluster goes together, and nothing of it is taken and ignored.
func TestCluster(t *testing.T) {
	const listen = "listeners.cluster=127.0.0.1:7000"
	for _, c := range []struct {
		set  []string
		want string // part of the error; empty: none
	}{
		{nil, ""},
		{[]string{listen}, ""},
		{[]string{"listeners.cluster=127.0.0.1:0"}, ""},
		{[]string{listen, "cluster.peers=[127.0.0.1:7001, localhost:7002]", "cluster.advertised=localhost:7000"}, ""},
		{[]string{"listeners.cluster=:7000", "cluster.advertised=a.example:7000", "cluster.cert=c", "cluster.key=k", "cluster.ca=a"}, ""},
		{[]string{"listeners.cluster=10.0.0.1:7000", "cluster.plaintext=true", "cluster.token=a secret"}, ""},
		{[]string{"listeners.cluster=10.0.0.1:7000", "cluster.plaintext=true"}, "cluster.token"},
		{[]string{"listeners.cluster=10.0.0.1:7000", "cluster.token=a secret"}, "cluster.plaintext"},
		{[]string{listen, "cluster.catchup_rate=64KiB"}, ""},
		{[]string{listen, "cluster.catchup_rate=63KiB"}, "want 0 or at least 64KiB"},
		{[]string{"cluster.token=a secret"}, "needs listeners.cluster"},
		{[]string{"cluster.peers=127.0.0.1:7001"}, "cluster.peers"},
		{[]string{"cluster.advertised=h:1"}, "needs listeners.cluster"},
		{[]string{"cluster.cert=c"}, "needs listeners.cluster"},
		{[]string{"listeners.cluster=[127.0.0.1:7000, 127.0.0.1:7001]"}, "want one address"},
		{[]string{"listeners.cluster=127.0.0.1:1883"}, "is the address of listeners.mqtt.tcp"},
		{[]string{"listeners.cluster=:7000", "cluster.plaintext=true"}, "cluster.advertised"},
		{[]string{listen, "cluster.advertised=0.0.0.0:7000"}, "stands for all addresses"},
		{[]string{listen, "listeners.kafka.advertised=a:1", "listeners.kafka.advertised_tls=a:2"}, ""},
		{[]string{listen, "listeners.kafka.advertised=0.0.0.0:9092"}, "listeners.kafka.advertised"},
		{[]string{listen, "listeners.kafka.advertised_tls=0.0.0.0:9093"}, "listeners.kafka.advertised_tls"},
		{[]string{"listeners.kafka.advertised_tls=9093"}, "listeners.kafka.advertised_tls"},
		{[]string{listen, "cluster.peers=[::]:7000"}, "cluster.peers"},
		{[]string{listen, "cluster.peers=host"}, "want HOST:PORT"},
		{[]string{"listeners.cluster=10.0.0.1:7000"}, "cluster.plaintext"},
		{[]string{listen, "cluster.peers=10.0.0.2:7000"}, "cluster.plaintext"},
		{[]string{listen, "cluster.cert=c"}, "go together"},
		{[]string{listen, "journal.durability=memory"}, "journal.durability is memory"},
		{[]string{listen, "node.rack=" + strings.Repeat("a", 255)}, ""},
		{[]string{listen, "node.rack=" + strings.Repeat("a", 256)}, "node.rack"},
		{[]string{listen, "tier.store=local", "tier.settings={dir: /tmp/x}"}, ""},
	} {
		l, err := Load(LoadOptions{Set: c.set})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%v: %v", c.set, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%v: %v, want %q", c.set, err, c.want)
		case err == nil && l.Config.Clustered() != (c.set != nil):
			t.Errorf("%v: clustered: %v", c.set, l.Config.Clustered())
		}
	}
}
