package mosquitto

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// bridge is a connection of Mosquitto's.
type bridge struct {
	at        *line
	name      string
	addresses []string
	version   string
	id, user  string
	password  string
	keepAlive string
	ca        string
	cert, key string
	secure    bool
	insecure  bool
	topics    []string // in YAML
}

// bridgeOptions stand behind a `connection`.
var bridgeOptions = map[string]func(*translation, *bridge, *line){
	"address": bridgeAddresses, "addresses": bridgeAddresses, "topic": bridgeTopic,
	"remote_clientid": func(_ *translation, b *bridge, l *line) { b.id = l.value }, "clientid": func(_ *translation, b *bridge, l *line) { b.id = l.value },
	"remote_username": func(_ *translation, b *bridge, l *line) { b.user = l.value }, "username": func(_ *translation, b *bridge, l *line) { b.user = l.value },
	"remote_password": func(_ *translation, b *bridge, l *line) { b.password = l.value }, "password": func(_ *translation, b *bridge, l *line) { b.password = l.value },
	"keepalive_interval": func(t *translation, b *bridge, l *line) {
		if _, ok := t.number(l, 1, 65535); ok {
			b.keepAlive = l.value + "s"
		}
	},
	"bridge_protocol_version": func(t *translation, b *bridge, l *line) {
		switch l.value {
		case "mqttv50":
			b.version = "5"
		case "mqttv311":
		default:
			t.note(Differs, l, "the version is 3.1.1")
		}
	},
	"bridge_cafile":   func(_ *translation, b *bridge, l *line) { b.ca, b.secure = l.value, true },
	"bridge_certfile": func(_ *translation, b *bridge, l *line) { b.cert, b.secure = l.value, true },
	"bridge_keyfile":  func(_ *translation, b *bridge, l *line) { b.key, b.secure = l.value, true },
	"bridge_insecure": func(t *translation, b *bridge, l *line) {
		if b.insecure = t.flag(l); b.insecure {
			t.note(Differs, l, "the other broker's certificate is not checked at all, not its name alone")
		}
	},
	"bridge_capath": func(t *translation, b *bridge, l *line) {
		b.secure = true
		t.note(Lost, l, "the authorities are the system's: name a file, ca, if they are others")
	},
	"bridge_tls_version":         bridgeUnused("the highest that both know is used, 1.2 at least"),
	"bridge_alpn":                bridgeLost("bridges do not use ALPN"),
	"bridge_psk":                 bridgeLost("there is no TLS by pre-shared keys"),
	"bridge_identity":            bridgeLost("there is no TLS by pre-shared keys"),
	"bridge_bind_address":        bridgeLost("bridges connect from whatever address the machine chooses"),
	"bridge_outgoing_retain":     bridgeFalse("retained messages go out with their flag"),
	"bridge_max_packet_size":     bridgeUnused("the other broker says how much it takes"),
	"bridge_attempt_unsubscribe": bridgeUnused("nothing is unsubscribed from"),
	"bridge_require_ocsp":        bridgeLost("bridges do not use OCSP"),
	"cleansession":               bridgeTrue("the session at the other broker is kept, and with it what comes while the bridge is away"),
	"local_cleansession":         bridgeTrue("the session here is kept, and with it what is to go out"),
	"local_clientid":             bridgeUnused("the client id here is $bridge/NAME"),
	"local_username":             bridgeUnused("a bridge needs no user here"), "local_password": bridgeUnused("a bridge needs no user here"),
	"notifications": bridgeUnused("$SYS/broker/connection/NAME/state says here whether the bridge is connected"),
	"notifications_local_only": func(t *translation, _ *bridge, l *line) {
		if !t.flag(l) {
			t.note(Lost, l, "the state is published here alone")
		}
	},
	"notification_topic": bridgeLost("the state is at $SYS/broker/connection/NAME/state"),
	"restart_timeout":    bridgeUnused("it tries again at growing intervals"),
	"round_robin":        bridgeTrue("addresses are tried in order"),
	"start_type": func(t *translation, _ *bridge, l *line) {
		if l.value != "automatic" {
			t.note(Lost, l, "a bridge is always connected")
		}
	},
	"threshold": bridgeUnused("a bridge is always connected"), "idle_timeout": bridgeUnused("a bridge is always connected"),
	"try_private": bridgeFalse("the other broker is always told that this is a bridge, and asked without that if it refuses"),
}

func bridgeUnused(why string) func(*translation, *bridge, *line) {
	return func(t *translation, _ *bridge, l *line) { t.note(Unused, l, "%s", why) }
}

func bridgeLost(why string) func(*translation, *bridge, *line) {
	return func(t *translation, _ *bridge, l *line) { t.note(Lost, l, "%s", why) }
}

// bridgeTrue and bridgeFalse are options of which one value is what happens here anyway.
func bridgeTrue(why string) func(*translation, *bridge, *line) { return bridgeUnless(false, why) }

func bridgeFalse(why string) func(*translation, *bridge, *line) { return bridgeUnless(true, why) }

func bridgeUnless(same bool, why string) func(*translation, *bridge, *line) {
	return func(t *translation, _ *bridge, l *line) {
		if t.flag(l) != same {
			t.note(Differs, l, "%s", why)
		}
	}
}

func bridgeAddresses(t *translation, b *bridge, l *line) {
	for _, a := range l.words() {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = a, "1883"
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" {
			t.note(Lost, l, "%q is no address", a)
			continue
		}
		b.addresses = append(b.addresses, net.JoinHostPort(host, port))
	}
}

// bridgeTopic reads `topic PATTERN [[[out|in|both] QOS] LOCAL REMOTE]`.
func bridgeTopic(t *translation, b *bridge, l *line) {
	w := l.words()
	for i := range w {
		if w[i] == `""` {
			w[i] = ""
		}
	}
	word := func(i int, missing string) string {
		if i < len(w) {
			return w[i]
		}
		return missing
	}
	filter, direction, qos := word(0, ""), word(1, "out"), word(2, "0")
	local, remote := word(3, ""), word(4, "")
	switch {
	case direction != "out" && direction != "in" && direction != "both", qos != "0" && qos != "1" && qos != "2", len(w) == 0 || len(w) > 5:
		t.note(Lost, l, "it cannot be read")
		return
	case filter == "" && (local == "" || remote == ""):
		t.note(Lost, l, "it names no topic")
		return
	}
	text := fmt.Sprintf("{filter: %s, direction: %s, qos: %s", quote(filter), direction, qos)
	if local != "" {
		text += ", local_prefix: " + quote(local)
	}
	if remote != "" {
		text += ", remote_prefix: " + quote(remote)
	}
	b.topics = append(b.topics, text+"}")
}

// finishBridges names the bridges as they may be named here, and leaves out those that are none.
func (t *translation) finishBridges() {
	var whole []*bridge
	seen := map[string]bool{}
	for _, b := range t.bridges {
		name := bridgeName(b.name)
		switch {
		case len(b.addresses) == 0:
			t.note(Lost, b.at, "the bridge has no address")
			continue
		case len(b.topics) == 0:
			t.note(Lost, b.at, "the bridge has no topics")
			continue
		case name == "" || seen[name]:
			t.note(Lost, b.at, "the bridge needs a name of its own")
			continue
		case b.password != "" && b.user == "":
			t.note(Lost, b.at, "the password of the bridge has no user")
			b.password = ""
		}
		if name != b.name {
			t.note(Differs, b.at, "the bridge is named %s", name)
		}
		if b.id == "" {
			t.note(Differs, b.at, "the bridge has the client id %s at the other broker, where Mosquitto would add the machine's name", name)
		}
		if b.password != "" {
			b.password = "file:" + t.file("bridge-"+name+".password", []byte(b.password+"\n"))
		}
		seen[name], b.name = true, name
		whole = append(whole, b)
	}
	t.bridges = whole
}

// bridgeName leaves of a name what a name may have.
func bridgeName(s string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, s)
	name = strings.TrimLeft(name, "._-")
	return name[:min(len(name), 64)]
}

func (b *bridge) yaml(w *strings.Builder) {
	scheme := "mqtt://"
	if b.secure {
		scheme = "mqtts://"
	}
	list := make([]string, len(b.addresses))
	for i, a := range b.addresses {
		list[i] = quote(scheme + a)
	}
	version := b.version
	if version == "" {
		version = "3.1.1" // Mosquitto's default
	}
	fmt.Fprintf(w, "  - name: %s\n    addresses: [%s]\n    version: %s\n", quote(b.name), strings.Join(list, ", "), quote(version))
	for _, f := range []struct{ key, value string }{{"client_id", b.id}, {"user", b.user}, {"password", b.password}, {"ca", b.ca}, {"cert", b.cert}, {"key", b.key}} {
		if f.value != "" {
			fmt.Fprintf(w, "    %s: %s\n", f.key, quote(f.value))
		}
	}
	if b.keepAlive != "" {
		fmt.Fprintf(w, "    keep_alive: %s\n", b.keepAlive)
	}
	if b.insecure {
		w.WriteString("    insecure: true\n")
	}
	fmt.Fprintf(w, "    topics:\n")
	for _, topic := range b.topics {
		fmt.Fprintf(w, "      - %s\n", topic)
	}
}
