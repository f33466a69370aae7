package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultIsValid(t *testing.T) {
	l, err := Load(LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if !reflect.DeepEqual(c, Default()) {
		t.Error("Load of nothing is not Default")
	}
	if c.Node.Data != "./data" || c.Listeners.MQTT.TCP.String() != "127.0.0.1:1883" || len(c.Listeners.MQTT.TLS) != 2 ||
		!c.Listeners.MQTT.Unix.Off() || c.Journal.SegmentSize != 256*MiB || c.Journal.FlushInterval != 5*time.Millisecond ||
		c.Journal.Durability != "sync" || c.Cluster.Shards != 64 || c.Anonymous() != "loopback" || c.MQTT.SessionExpiryMax != Never {
		t.Errorf("defaults are not those of the contract: %+v", c)
	}
}

// Every key has what the parser and the reference need, and its environment variable is its own.
func TestKeysAreDefined(t *testing.T) {
	env := map[string]string{}
	for _, k := range Keys() {
		if strings.Contains(k.Name, "..") || strings.HasSuffix(k.Name, ".") || k.Name != strings.ToLower(k.Name) {
			t.Errorf("key %q", k.Name)
		}
		if other := env[k.Env]; other != "" {
			t.Errorf("%s and %s share %s", k.Name, other, k.Env)
		}
		env[k.Env] = k.Name
		if foreign.MatchString(k.Env) {
			t.Errorf("%s is taken for a variable of somebody else", k.Env)
		}
	}
}

func TestProblemsSayWhereAndWhat(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"unknown key", "node:\n  idd: 3\n", "c.yaml:2:3: node.idd: unknown key; the nearest known one is node.id"},
		{"unknown section", "listeners:\n  mqqt:\n    tcp: off\n", "c.yaml:2:3: listeners.mqqt: unknown key; the nearest known one is listeners.mqtt"},
		{"nothing near", "xyzzy_and_more: 1\n", "c.yaml:1:1: xyzzy_and_more: unknown key; docs/configuration.md"},
		{"later key", "listeners:\n  amqp: 127.0.0.1:5672\n", "c.yaml:2:3: listeners.amqp: unknown key"},
		{"Kafka's address", "listeners: {kafka: {advertised: here}}\n", `listeners.kafka.advertised: want HOST:PORT such as 127.0.0.1:1883 or [::1]:1883, found "here"`},
		{"binding without a topic", "bindings:\n  - filter: a\n", "c.yaml:2:5: bindings: a binding needs a topic"},
		{"binding's unknown key", "bindings:\n  - {filter: a, topic: b, from: x}\n", `c.yaml:2:27: bindings: a binding has no key "from"`},
		{"binding's partitions", "bindings: [{filter: a, topic: b, partitions: none}]\n", "c.yaml:1:46: bindings: partitions: want a number from 1 to 10000"},
		{"bindings that are none", "bindings: {filter: a, topic: b}\n", "c.yaml:1:11: bindings: want a list of bindings"},
		{"rule's unknown key", "mqtt:\n  rewrite:\n    - {from: a, to: b, with: c}\n", `c.yaml:3:24: mqtt.rewrite: a rule has no key "with"`},
		{"rule's action", "mqtt: {rewrite: [{from: a, to: b, action: none}]}\n", "mqtt.rewrite: action: want publish, subscribe or all"},
		{"rule that is none", "mqtt: {rewrite: [{from: a, to: b/$1}]}\n", "mqtt.rewrite: to: $1 stands for nothing"},
		{"subscription's unknown key", "mqtt:\n  auto_subscribe:\n    - {topic: a, level: 1}\n", `c.yaml:3:18: mqtt.auto_subscribe: a subscription has no key "level"`},
		{"subscription's qos", "mqtt: {auto_subscribe: [{topic: a, qos: 3}]}\n", "mqtt.auto_subscribe: qos: want 0, 1 or 2"},
		{"subscription's topic", "mqtt: {auto_subscribe: [{topic: a/b+}]}\n", "mqtt.auto_subscribe: topic: \"a/b+\": + has to be a whole level"},
		{"subscription without a topic", "mqtt: {auto_subscribe: [{qos: 1}]}\n", "mqtt.auto_subscribe: a subscription needs a topic"},
		{"property rule's key", "mqtt: {user_properties: [{topic: a, put: {a: b}}]}\n", `mqtt.user_properties: a rule has no key "put"`},
		{"property rule's topic", "mqtt: {user_properties: [{topic: a/b#, remove: [x]}]}\n", `mqtt.user_properties: topic: "a/b#"`},
		{"property rule's value", "mqtt:\n  user_properties:\n    - {set: {a: x, b: '%x'}}\n", `c.yaml:3:23: mqtt.user_properties: set: b: "%x" stands for nothing`},
		{"property rule for nothing", "mqtt: {user_properties: [{topic: a}]}\n", "mqtt.user_properties: a rule needs set or remove"},
		{"property rule's names", "mqtt: {user_properties: [{remove: x}]}\n", "mqtt.user_properties: remove: want a list of names"},
		{"rules that are none", "mqtt: {rewrite: {from: a, to: b}}\n", "mqtt.rewrite: want a list of rules"},
		{"bindings in memory", "journal: {durability: memory}\nbindings: [{filter: a, topic: b}]\n", "c.yaml:2:11: bindings: journal.durability is memory"},
		{"number", "node:\n  id: one\n", `c.yaml:2:7: node.id: want a number, found "one"`},
		{"too low", "node: {id: 0}\n", `c.yaml:1:12: node.id: want at least 1, found "0"`},
		{"too high", "node: {id: 65536}\n", `want at most 65535, found "65536"`},
		{"size", "journal: {segment_size: 64MX}\n", `c.yaml:1:25: journal.segment_size: want a size such as 64MiB, found "64MX"`},
		{"duration without unit", "journal: {flush_interval: 5}\n", `want a duration such as 5s, 1h30m or 7d, found "5"`},
		{"enum", "log: {level: loud}\n", `c.yaml:1:14: log.level: want debug, info, warn or error, found "loud"`},
		{"bool", "mqtt: {retain: maybe}\n", `mqtt.retain: want true or false, found "maybe"`},
		{"proxy protocol", "listeners: {mqtt: {proxy_protocol: v2}}\n", `both versions are read; want off, or the listeners that get a header, such as [tcp, wss]; found "v2"`},
		{"proxy protocol and off", "listeners: {mqtt: {proxy_protocol: [off, tcp]}}\n", "want off or names of listeners, found both"},
		{"proxies unnamed", "listeners: {mqtt: {proxy_protocol: tcp}}\n", "needs listeners.mqtt.proxy_trusted"},
		{"proxies that are no addresses", "listeners: {kafka: {proxy_trusted: [lb.example]}}\n", `listeners.kafka.proxy_trusted: want addresses such as 10.0.0.7 or 10.0.0.0/24, found "lb.example"`},
		{"role", "node: {roles: [broker, journal]}\n", "every node votes on the catalog in this version: meta is missing"},
		{"alone without a role", "node: {roles: [broker, meta]}\n", "a node that is alone does everything"},
		{"first without journal", "node: {roles: [broker, meta]}\nlisteners: {cluster: '127.0.0.1:7000'}\n", "the first node of a cluster keeps its journal"},
		{"listener without broker", "node: {roles: [journal, meta]}\nlisteners: {cluster: '127.0.0.1:7000', kafka: {tcp: '127.0.0.1:9'}}\n", "listeners.kafka.tcp: a node without the role broker takes no clients"},
		{"listener's unknown key", "listeners:\n  mqtt:\n    named:\n      - {name: a, address: 127.0.0.1:1, prefix: x}\n", `c.yaml:4:41: listeners.mqtt.named: a listener has no key "prefix"`},
		{"listener without an address", "listeners: {mqtt: {named: [{name: a}]}}\n", "listeners.mqtt.named: a listener needs an address"},
		{"listener's name", "listeners: {mqtt: {named: [{name: A b, address: 127.0.0.1:1}]}}\n", "name: want a-z, then up to 31 of"},
		{"listener of another key's name", "listeners: {mqtt: {named: [{name: wss, address: 127.0.0.1:1}]}}\n", "wss is the name of listeners.mqtt.wss"},
		{"listeners of one name", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1}, {name: a, address: 127.0.0.1:2}]}}\n", "there are two listeners of the name a"},
		{"listener at another's address", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1883}]}}\n", "127.0.0.1:1883 is the address of listeners.mqtt"},
		{"listener's TLS", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, protocol: tls}]}}\n", "a needs tls.cert and tls.key"},
		{"listener's proxies", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, proxy_protocol: true}]}}\n", "a: proxy_protocol needs listeners.mqtt.proxy_trusted"},
		{"listener of a node of a cluster", "listeners: {cluster: 127.0.0.1:7000, mqtt: {named: [{name: a, address: 127.0.0.1:1, proxy_protocol: true, proxy_user: cn}]}}\n", "listeners.mqtt.named: a: listeners.cluster is set"},
		{"listener open to a network", "listeners: {mqtt: {named: [{name: a, address: 0.0.0.0:1}]}}\n", "0.0.0.0:1 can be reached from a network and no authentication is set for it"},
		{"listener's anonymous", "listeners: {mqtt: {named: [{name: a, address: 0.0.0.0:1, anonymous: nobody}]}}\n", `anonymous: want off, loopback or everywhere, found "nobody"`},
		{"listener's way", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, auth: [file, kerberos]}]}}\n", `auth: want certificate, token, file, ldap or http, found "kerberos"`},
		{"listener's way twice", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, auth: [file, file]}]}}\n", "auth: file is there twice"},
		{"listener's ways are none", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, auth: []}]}}\n", "auth: want at least one of"},
		{"listener's way that is not set up", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, auth: ldap}]}}\n", "a: auth: ldap needs auth.ldap.url"},
		{"listener's certificates without TLS", "auth: {certificate_user: cn}\nlisteners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, auth: certificate}]}}\n", "a: auth: certificate needs protocol tls or wss"},
		{"listener that asks for certificates without TLS", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, client_auth: required}]}}\n", "a: client_auth is for protocol tls and wss"},
		{"listener's tenant that is no name", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, tenant: Plant}]}}\n", "tenant: want the name of a tenant"},
		{"listener's prefix without an end", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, mountpoint: plant}]}}\n", "mountpoint: want whole levels with a / behind them"},
		{"listener's prefix with wildcards", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, mountpoint: '+/'}]}}\n", "without + and #"},
		{"listener's prefix of the server's", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, mountpoint: '$SYS/'}]}}\n", "mountpoint: topics that begin with $"},
		{"listener's names of proxies", "listeners: {mqtt: {named: [{name: a, address: 127.0.0.1:1, proxy_user: cn}]}}\n", "a: proxy_user: cn needs proxy_protocol: true"},
		{"listener's bound", "listeners: {mqtt: {named: [{name: a, address: 0.0.0.0:1, connections: -1}]}}\n", "connections: want a number from 0"},
		{"role twice", "node: {roles: [broker, journal, meta, meta]}\n", "a role is named twice"},
		{"list for one", "log: {level: [info]}\n", "c.yaml:1:14: log.level: want one value (text), found a list"},
		{"map for one", "log: {level: {a: b}}\n", "log.level: want a value, found keys and values"},
		{"one for map", "log: info\n", `c.yaml:1:6: log: want keys below it, found "info"`},
		{"no value", "log: {level: }\n", "log.level: has no value; leave the key out"},
		{"nested list", "node: {roles: [[broker]]}\n", "want plain values in the list, found a list"},
		{"twice", "log:\n  level: info\n  level: warn\n", "c.yaml:3:3: log.level: is set twice, first in line 2"},
		{"not YAML", "log: [\n", "not YAML:"},
		{"tab", "log:\n\tlevel: info\n", "c.yaml:2:"},
		{"two documents", "log: {level: info}\n---\nlog: {level: warn}\n", "one YAML document, found a second"},
		{"top is a list", "- a\n", "c.yaml:1:1: want keys and values, found a list"},
		{"address", "listeners: {mqtt: {tcp: localhost}}\n", `want HOST:PORT such as 127.0.0.1:1883 or [::1]:1883, found "localhost"`},
		{"port", "listeners: {mqtt: {tcp: \"localhost:http\"}}\n", `want a port from 0 to 65535, found "http"`},
		{"address twice", "listeners: {mqtt: {ws: 127.0.0.1:1883}}\n", "127.0.0.1:1883 is the address of listeners.mqtt.tcp already"},
		{"empty list", "listeners: {mqtt: {tcp: []}}\n", "found an empty list"},
		{"off in list", "listeners: {mqtt: {tcp: [off, 127.0.0.1:1]}}\n", `found "off" in the list`},
		{"all off", "listeners: {http: off, grpc: off, kafka: {tcp: off}, mqtt: {tcp: off, ws: off}}\n", "every listener is off"},
		{"TLS without certificate", "listeners: {mqtt: {tls: 127.0.0.1:8884}}\n", "listeners.mqtt.tls: needs tls.cert and tls.key"},
		{"half TLS", "tls: {cert: x.pem}\n", "tls.cert: is set and tls.key is not"},
		{"client auth without CA", "tls: {client_auth: required}\n", "required needs tls.client_ca"},
		{"CRL without CA", "tls: {crl: x}\n", "tls.crl: needs tls.client_ca"},
		{"certificate users without CA", "auth: {certificate_user: cn}\n", "needs tls.client_ca"},
		{"key file absent", "tls: {cert: a, key: absent.pem}\n", "tls.key: open absent.pem"},
		{"packet larger than a group", "limits: {packet_size: 200MiB}\n", "a packet must fit into one group"},
		{"log of less than four segments", "journal: {max_bytes: 1000MiB}\n", "at least four times journal.segment_size"},
		{"group larger than half a segment", "journal: {segment_size: 4MiB}\n", "at most half of journal.segment_size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("c.yaml", []byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := Parse("c.yaml", []byte("node: {id: x, idd: 1}\nlog: {level: y}\n"))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 3 {
		t.Errorf("got %d problems, want 3: %v", len(ps), err)
	}
}

func TestExposure(t *testing.T) {
	users := write(t, "users", "")
	tests := []struct{ in, want string }{
		{"listeners: {mqtt: {tcp: \":1883\"}}", "listeners.mqtt.tcp: :1883 can be reached from a network and no authentication is set for it: set auth.password_file"},
		{"listeners: {mqtt: {tcp: 0.0.0.0:1883}}", "auth.anonymous: everywhere"},
		{"listeners: {mqtt: {tcp: \"[::]:1883\"}}", "can be reached from a network"},
		{"listeners: {mqtt: {ws: broker.example:8083}}", "can be reached from a network"},
		{"listeners: {mqtt: {tcp: 0.0.0.0:1883}}\nauth: {anonymous: loopback}", "can be reached from a network"},
		{"listeners: {mqtt: {tcp: 0.0.0.0:1883}}\nauth: {anonymous: everywhere}", ""},
		{"listeners: {mqtt: {tcp: 0.0.0.0:1883}}\nauth: {password_file: " + users + "}", ""},
		{"listeners: {mqtt: {tcp: [\"[::1]:1883\", localhost:1884, 127.8.0.1:1885], unix: [/tmp/s.sock]}}", ""},
		{"listeners: {http: 0.0.0.0:8080}", "listeners.http: 0.0.0.0:8080 can be reached from a network and HTTP asks for no credentials: set auth.anonymous_http"},
		{"listeners: {http: 0.0.0.0:8080}\nauth: {anonymous_http: everywhere}", ""},
		{"listeners: {grpc: 0.0.0.0:1228}", "listeners.grpc: 0.0.0.0:1228 can be reached from a network and the control plane changes everything: set auth.control_token"},
		{"listeners: {grpc: 0.0.0.0:1228}\nauth: {control_token: secret}", ""},
		{"auth: {allow_everyone_if_no_acl_found: false}", "false needs auth.super_users"},
		{"auth: {allow_everyone_if_no_acl_found: false, super_users: [admin]}", ""},
	}
	for _, tt := range tests {
		_, err := Parse("c.yaml", []byte(tt.in))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s\ngot  %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

// A certificate is credentials on a TLS listener and none on a plain one.
func TestExposureWithCertificates(t *testing.T) {
	key := write(t, "key.pem", "k")
	base := "tls: {cert: c.pem, key: " + key + ", client_ca: ca.pem}\nauth: {certificate_user: cn}\n"
	if _, err := Parse("c.yaml", []byte(base+"listeners: {mqtt: {tls: 0.0.0.0:8883}}")); err != nil {
		t.Errorf("TLS: %v", err)
	}
	if _, err := Parse("c.yaml", []byte(base+"listeners: {mqtt: {tcp: 0.0.0.0:1883}}")); err == nil {
		t.Error("plain TCP was opened to a network without credentials")
	}
}

func TestAnonymousAuto(t *testing.T) {
	l, err := Parse("c.yaml", []byte("auth: {password_file: users}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Config.Anonymous(); got != "off" {
		t.Errorf("with a password file anonymity is %s, want off", got)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "c.yaml", "node: {id: 2, data: /file}\nlog: {level: warn}\ncluster: {shards: 8}\n")
	l, err := Load(LoadOptions{
		File:    file,
		Environ: []string{"SLUICE_NODE_DATA=/env", "SLUICE_LOG_LEVEL=error", "SLUICE_LISTENERS_MQTT_TCP=127.0.0.1:1, 127.0.0.1:2", "HOME=/x"},
		Flags:   []Flag{{Name: "--data", Key: "node.data", Value: "/flag"}},
		Set:     []string{"log.level=debug", "listeners.mqtt.ws=off", "log.level=info"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.Node.ID != 2 || c.Node.Data != "/flag" || c.Log.Level != "info" || c.Cluster.Shards != 8 ||
		c.Listeners.MQTT.TCP.String() != "[127.0.0.1:1, 127.0.0.1:2]" || !c.Listeners.MQTT.WS.Off() {
		t.Errorf("got %+v", c)
	}
	for key, want := range map[string]string{"node.id": file + ":1:12", "node.data": "--data", "log.level": "--set log.level",
		"listeners.mqtt.tcp": "SLUICE_LISTENERS_MQTT_TCP", "node.roles": "default"} {
		if got := l.Source(key).String(); got != want {
			t.Errorf("source of %s is %s, want %s", key, got, want)
		}
	}
}

func TestFlagsAndEnvironmentAreChecked(t *testing.T) {
	for _, tt := range []struct {
		o    LoadOptions
		want string
	}{
		{LoadOptions{Set: []string{"node.idd=1"}}, "--set: node.idd: unknown key; the nearest known one is node.id"},
		{LoadOptions{Set: []string{"node.id"}}, "want KEY=VALUE"},
		{LoadOptions{Set: []string{"node.id=x"}}, `--set node.id: node.id: want a number, found "x"`},
		{LoadOptions{Environ: []string{"SLUICE_LOG_LEVL=info"}}, "SLUICE_LOG_LEVL: names no key; the nearest known variable is SLUICE_LOG_LEVEL"},
		{LoadOptions{Environ: []string{"SLUICE_LOG_LEVEL=loud"}}, "SLUICE_LOG_LEVEL: log.level: want debug"},
		{LoadOptions{File: "absent.yaml"}, "absent.yaml"},
	} {
		if _, err := Load(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %s", tt.o, err, tt.want)
		}
	}
	// A Kubernetes service named sluice sets these in every pod.
	if _, err := Load(LoadOptions{Environ: []string{"SLUICE_SERVICE_HOST=10.0.0.1", "SLUICE_PORT=tcp://10.0.0.1:1883",
		"SLUICE_PORT_1883_TCP_ADDR=10.0.0.1", "SLUICE_SERVICE_PORT_MQTT=1883", "SLUICE_MQTT_SERVICE_HOST=10.0.0.2"}}); err != nil {
		t.Errorf("service variables: %v", err)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	const hidden = "do-not-show"
	file := write(t, "key.pem", hidden+"\n")
	for _, ref := range []string{"file:" + file, file, "env:KEY"} {
		l, err := Load(LoadOptions{Set: []string{"tls.cert=c.pem", "tls.key=" + ref}, Environ: []string{"KEY=" + hidden}})
		if err != nil {
			t.Fatal(err)
		}
		s := l.Config.TLS.Key
		if s.Reveal() != hidden {
			t.Errorf("%s revealed %q", ref, s.Reveal())
		}
		var b strings.Builder
		if err := l.Print(&b); err != nil {
			t.Fatal(err)
		}
		j, err := yaml.Marshal(map[string]any{"k": s})
		if err != nil {
			t.Fatal(err)
		}
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", s, "config", l.Config)
		all := fmt.Sprintf("%s %v %+v %#v %q %x %s", b.String(), l.Config, l.Config, l.Config.TLS, s, s, j)
		if strings.Contains(all, hidden) || strings.Contains(all, fmt.Sprintf("%x", hidden)) {
			t.Errorf("%s: the secret is shown in %s", ref, all)
		}
	}
	if s := (Secret{value: hidden}).String(); s != mask {
		t.Errorf("a literal secret prints as %q", s)
	}
	if _, err := Load(LoadOptions{Set: []string{"tls.cert=c", "tls.key=env:ABSENT"}}); err == nil || !strings.Contains(err.Error(), "ABSENT is not set") {
		t.Errorf("got %v", err)
	}
}

// What Print writes is a configuration that means the same.
func TestPrintIsReadBack(t *testing.T) {
	in, err := Load(LoadOptions{Set: []string{"listeners.mqtt.tcp=[:0, 127.0.0.1:7]", "auth.anonymous=everywhere",
		"mqtt.response_information=a: b # \"c\" \\ %c", "journal.flush_interval=1500us", "mqtt.session_expiry_max=7d", "limits.memory=3GiB",
		"node.data=/with space"}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := in.Print(&b); err != nil {
		t.Fatal(err)
	}
	out, err := Parse("printed.yaml", []byte(b.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if d := Diff(&in.Config, &out.Config); len(d) != 0 {
		t.Errorf("read back differently: %v", d)
	}
}

func TestDiffAndTakeLive(t *testing.T) {
	a, b := Default(), Default()
	b.Log.Level, b.Node.Data, b.Limits.QueueBytes = "debug", "/other", 2*MiB
	d := Diff(&a, &b)
	want := []Change{{"node.data", "./data", "/other", false}, {"limits.queue_bytes", "1MiB", "2MiB", true}, {"log.level", "info", "debug", true}}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got %v, want %v", d, want)
	}
	TakeLive(&a, &b)
	if d := Diff(&a, &b); len(d) != 1 || d[0].Key != "node.data" {
		t.Errorf("left after TakeLive: %v", d)
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]Size{"0": 0, "1": 1, "64MiB": 64 * MiB, "1.5GiB": GiB + 512*MiB, "10MB": 10e6, "3 KiB": 3 * KiB, "7B": 7} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1e3", "NaN", "inf", "0x10", "99999999TiB", "9223372036854775808", "1 MiBB", "1_000"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q was taken as %d", in, got)
		}
	}
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{"0": 0, "5s": 5 * time.Second, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "never": Never} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "5", "-1s", "d", "1d-1s", "1.5d", "99999d999999h", "7 d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q was taken as %v", in, got)
		}
	}
}

func TestValuesAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"))
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Fatalf("%d printed as %s, read as %d, %v", s, s, got, err)
		}
		d := time.Duration(rapid.Int64Range(0, int64(65535*24*time.Hour)).Draw(t, "duration"))
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%d printed as %s, read as %d, %v", d, FormatDuration(d), got, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("node: {id: 1}\nlisteners:\n  mqtt:\n    tcp: [127.0.0.1:1, 127.0.0.1:2]\n"))
	f.Add([]byte("a: &a [x]\nnode: {roles: *a}\n"))
	f.Add([]byte("? {a: b}\n: c\n<<: {node: {id: 2}}\n"))
	f.Add([]byte("log:\n  level: info\n  level: warn\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse("f.yaml", data)
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error is no Problems: %v", err)
			}
			for _, p := range ps {
				if p.At.Kind == "file" && (p.At.Line < 1 || p.At.Col < 0) {
					t.Errorf("no place: %v", p)
				}
			}
			return
		}
		if err := l.Print(&strings.Builder{}); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzSize(f *testing.F) {
	f.Add("1.5GiB")
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseSize(s); err == nil && v < 0 {
			t.Errorf("%q gave %d", s, v)
		}
		if d, err := ParseDuration(s); err == nil && d < 0 {
			t.Errorf("%q gave %d", s, d)
		}
	})
}

// What tests of other packages put off is every listener that there is, so that no default port opens unasked.
func TestListenersForTests(t *testing.T) {
	off := testx.Listeners()
	for _, k := range Keys() {
		listener := reflect.TypeFor[Config]().FieldByIndex(k.index).Type == typeAddrs
		if listener != slices.Contains(off, k.Name+"=off") {
			t.Errorf("%s is a listener: %v, and testx.Listeners has it: %v", k.Name, listener, !listener)
		}
	}
}

// Who asks for it by name opens a listener to a network, or to users of the catalog alone, though the other listeners are as they are.
func TestNamedListeners(t *testing.T) {
	for _, anonymous := range []string{"everywhere", "off"} {
		text := "[{name: plant, address: ':1999', anonymous: " + anonymous + ", auth: [file], tenant: plant-2, mountpoint: 'p/%u/', connections: 7}, {name: local, protocol: unix, address: /run/x.sock, proxy_protocol: true}]"
		l, err := Load(LoadOptions{Set: []string{"listeners.mqtt.named=" + text}})
		if err != nil {
			t.Fatal(err)
		}
		list := l.Config.Listeners.MQTT.Named
		want := NamedListeners{{Name: "plant", Protocol: "tcp", Address: ":1999", Anonymous: anonymous, Auth: []string{"file"}, Tenant: "plant-2", Mountpoint: "p/%u/", Connections: 7, AcceptRate: -1},
			{Name: "local", Protocol: "unix", Address: "/run/x.sock", Connections: -1, AcceptRate: -1, ProxyProtocol: true}}
		if !reflect.DeepEqual(list, want) {
			t.Errorf("%+v", list)
		}
		if again, err := parseNamedText(list.String()); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s is read as %+v, %v", list, again, err)
		}
	}
}

// The listeners of the guide are those that there are.
func TestNamedListenersOfTheGuide(t *testing.T) {
	page, err := os.ReadFile("../docs/mqtt.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## Listeners of their own\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := strings.Split(section, "```yaml\n")[1:]
	if !found || len(blocks) < 3 {
		t.Fatalf("%d examples", len(blocks))
	}
	dir := t.TempDir()
	key := filepath.Join(dir, "server.key")
	if err := os.WriteFile(key, []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, b := range blocks {
		text, _, _ := strings.Cut(b, "```")
		text = strings.ReplaceAll(text, "file:server.key", "file:"+key)
		file := filepath.Join(dir, "sluice.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Load(LoadOptions{File: file, Set: []string{"tls.cert=server.pem", "tls.key=file:" + key, "auth.password_file=users"}})
		if err != nil || len(l.Config.Listeners.MQTT.Named) < 2 {
			t.Errorf("example %d: %v", i+1, err)
		}
	}
}
