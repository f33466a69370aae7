package mosquitto

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Result is what Translate has made.
type Result struct {
	// Files are to be written into the directory that Translate was told, by their names there; sluice.yaml is the configuration. All but
	// that one may hold secrets.
	Files map[string][]byte
	Notes []Note
	Users int // that can log in as before
	Rules int
}

// Translate reads a mosquitto.conf, with all files that it names. dir is where the result will lie: the configuration has its path in it. The
// error is about files that cannot be read; what cannot be carried over is a note.
func Translate(path, dir string) (*Result, error) {
	lines, err := readConf(path)
	if err != nil {
		return nil, err
	}
	t := &translation{dir: dir, path: path, set: map[string]string{}, out: Result{Files: map[string][]byte{}}}
	t.global = &listener{}
	t.now = t.global
	for i := range lines {
		t.option(&lines[i])
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	t.out.Files["sluice.yaml"] = t.yaml()
	return &t.out, nil
}

// translation is one of them under way.
type translation struct {
	dir, path string
	out       Result
	set       map[string]string // keys of the configuration and their values in YAML

	global      *listener // what stands before the first listener, and for all of them
	now         *listener
	listeners   []*listener
	bridges     []*bridge
	bridge      *bridge // whose options follow; nil: none
	perListener bool
	persistence *line
	sizeSet     bool
	named       []string // listeners with names and settings of their own, in YAML
}

// listener is a door of Mosquitto's, with what may be said for each of them.
type listener struct {
	at         *line
	address    string // host:port; empty: the default listener, if it opens
	unix, ws   bool
	port, bind string // of the default listener

	cert, key, ca, crl, version string
	required, identity, subject bool
	anonymous                   *bool
	passwords, acl              *line
	connections                 *int
	mount                       *line // nil: no prefix
}

func (t *translation) note(k Kind, l *line, why string, args ...any) {
	n := Note{Kind: k, File: t.path, Why: fmt.Sprintf(why, args...)}
	if l != nil {
		n.File, n.Line, n.Text = l.file, l.at, l.text()
	}
	if strings.Contains(n.Text, "password ") { // of a bridge
		n.Text, _, _ = strings.Cut(n.Text, " ")
	}
	t.out.Notes = append(t.out.Notes, n)
}

// unused are options that nothing here is needed for.
var unused = map[string]string{
	"user": "the service manager says as whom a node runs", "pid_file": "the service manager knows it", "persistence_location": "node.data is the node's own directory",
	"persistence_file": "node.data is the node's own directory", "autosave_interval": "what is acknowledged is in the journal", "autosave_on_changes": "what is acknowledged is in the journal",
	"log_dest": "the node writes to standard error", "log_facility": "the node writes to standard error", "log_timestamp": "log lines have a time",
	"log_timestamp_format": "log lines have a time", "connection_messages": "log.level says how much is written", "websockets_log_level": "log.level says how much is written",
	"set_tcp_nodelay": "it is always set", "websockets_headers_size": "headers have a bound of their own", "socket_domain": "an address says which protocol it is of",
	"retry_interval": "nothing is sent again while a connection lasts", "store_clean_interval": "nothing has to be cleaned", "dhparamfile": "TLS is as Go has it",
	"ciphers": "TLS is as Go has it", "ciphers_tls1.3": "TLS is as Go has it", "upgrade_outgoing_qos": "false is how it is here", "allow_duplicate_messages": "a message that several filters match comes once",
}

// without are options that have no counterpart, and why, or what there is in its place.
var without = map[string]string{
	"capath": "want one file of authorities: tls.client_ca", "psk_file": "there is no TLS by pre-shared keys: give clients certificates, or passwords over TLS",
	"psk_hint": "there is no TLS by pre-shared keys", "plugin": "plugins of Mosquitto do not run here: see tokens, auth.http and users in docs/security.md",
	"auth_plugin":                    "plugins of Mosquitto do not run here: see tokens, auth.http and users in docs/security.md",
	"auth_plugin_deny_special_chars": "plugins of Mosquitto do not run here",
	"http_dir":                       "the node serves no files", "use_username_as_clientid": "client ids are the clients' own: auth.client_ids can bind them to users, as in [\"%u\", \"%u-*\"]",
	"bind_interface": "want an address of the interface", "tls_engine": "TLS engines are not used", "tls_engine_kpass_sha1": "TLS engines are not used",
	"tls_keyform": "keys are PEM files", "queue_qos0_messages": "QoS 0 is not queued for absent sessions", "memory_limit": "limits.memory is what the process may use; see docs/operate/running.md",
	"auto_id_prefix": "the ids that clients get begin with sluice-", "max_inflight_bytes": "limits.inflight counts messages",
}

// option takes one line.
func (t *translation) option(l *line) {
	if l.name == "connection" {
		t.bridge = &bridge{at: l, name: l.value}
		t.bridges = append(t.bridges, t.bridge)
		return
	}
	if fn := bridgeOptions[l.name]; fn != nil {
		if t.bridge == nil {
			t.note(Lost, l, "it stands behind no connection")
			return
		}
		fn(t, t.bridge, l)
		return
	}
	if l.name == "listener" {
		t.listener(l)
		return
	}
	if fn := listenerOptions[l.name]; fn != nil {
		fn(t, t.now, l)
		return
	}
	if fn := authOptions[l.name]; fn != nil {
		where := t.global
		if t.perListener {
			where = t.now
		}
		fn(t, where, l)
		return
	}
	if fn := globalOptions[l.name]; fn != nil {
		fn(t, l)
		return
	}
	if why, ok := unused[l.name]; ok {
		t.note(Unused, l, "%s", why)
		return
	}
	if why, ok := without[l.name]; ok {
		t.note(Lost, l, "%s", why)
		return
	}
	switch {
	case strings.HasPrefix(l.name, "auth_opt_"), strings.HasPrefix(l.name, "plugin_opt_"):
		t.note(Lost, l, "plugins of Mosquitto do not run here")
	case strings.HasPrefix(l.name, "bridge_"):
		t.note(Lost, l, "bridges have no such option")
	default:
		t.note(Lost, l, "the option is not known")
	}
}

// listener begins one.
func (t *translation) listener(l *line) {
	t.bridge = nil
	w := l.words()
	t.now = &listener{at: l}
	if len(w) == 0 {
		t.note(Lost, l, "it names no port")
		return
	}
	host := ""
	if len(w) > 1 {
		host = strings.Join(w[1:], " ")
	}
	if w[0] == "0" && host != "" {
		t.now.address, t.now.unix = host, true
	} else {
		t.now.address = net.JoinHostPort(host, w[0])
	}
	t.listeners = append(t.listeners, t.now)
}

// flag reads true or false.
func (t *translation) flag(l *line) bool {
	switch l.value {
	case "true", "1":
		return true
	case "false", "0":
		return false
	}
	t.note(Lost, l, "want true or false")
	return false
}

// number reads one from lo to hi, which the configuration takes; ok false: a note says why not.
func (t *translation) number(l *line, lo, hi int64) (n int64, ok bool) {
	n, err := strconv.ParseInt(l.value, 10, 64)
	if err != nil || n < lo || n > hi {
		t.note(Lost, l, "want a number from %d to %d", lo, hi)
		return 0, false
	}
	return n, true
}

// listenerOptions stand for the listener that was named last, or for the default one.
var listenerOptions = map[string]func(*translation, *listener, *line){
	"port":         func(_ *translation, s *listener, l *line) { s.port = l.value },
	"bind_address": func(_ *translation, s *listener, l *line) { s.bind = l.value },
	"protocol": func(t *translation, s *listener, l *line) {
		switch l.value {
		case "websockets":
			s.ws = true
		case "mqtt":
		default:
			t.note(Lost, l, "there is no such protocol")
		}
	},
	"certfile": func(_ *translation, s *listener, l *line) { s.cert = l.value }, "keyfile": func(_ *translation, s *listener, l *line) { s.key = l.value },
	"cafile": func(_ *translation, s *listener, l *line) { s.ca = l.value }, "crlfile": func(_ *translation, s *listener, l *line) { s.crl = l.value },
	"require_certificate":      func(t *translation, s *listener, l *line) { s.required = t.flag(l) },
	"use_identity_as_username": func(t *translation, s *listener, l *line) { s.identity = t.flag(l) },
	"use_subject_as_username":  func(t *translation, s *listener, l *line) { s.subject = t.flag(l) },
	"tls_version": func(t *translation, s *listener, l *line) {
		switch l.value {
		case "tlsv1.2", "tlsv1.3":
			s.version = strings.TrimPrefix(l.value, "tlsv")
		default:
			s.version = "1.2"
			t.note(Differs, l, "the lowest version is 1.2")
		}
	},
	"mount_point": func(_ *translation, s *listener, l *line) { s.mount = l },
	"max_connections": func(t *translation, s *listener, l *line) {
		if l.value == "-1" {
			return
		}
		if n, ok := t.number(l, 0, 1<<30); ok {
			v := int(n)
			s.connections = &v
		}
	},
	"max_qos": func(t *translation, _ *listener, l *line) {
		if _, ok := t.number(l, 0, 2); ok {
			t.shared(l, "mqtt.max_qos", l.value)
		}
	},
	"max_topic_alias": func(t *translation, _ *listener, l *line) {
		if _, ok := t.number(l, 0, 65535); ok {
			t.shared(l, "mqtt.topic_alias_maximum", l.value)
		}
	},
}

// shared sets what Mosquitto has for each listener, and the node for all of them: what was said first counts.
func (t *translation) shared(l *line, key, value string) {
	if was, ok := t.set[key]; ok && was != value {
		t.note(Lost, l, "%s is the same for all listeners, and %s already", key, was)
		return
	}
	t.set[key] = value
	if len(t.listeners) > 1 {
		t.note(Differs, l, "%s is the same for all listeners", key)
	}
}

// authOptions are global, or each listener's with per_listener_settings.
var authOptions = map[string]func(*translation, *listener, *line){
	"allow_anonymous": func(t *translation, s *listener, l *line) {
		v := t.flag(l)
		s.anonymous = &v
	},
	"password_file": func(_ *translation, s *listener, l *line) { s.passwords = l },
	"acl_file":      func(_ *translation, s *listener, l *line) { s.acl = l },
	"allow_zero_length_clientid": func(t *translation, _ *listener, l *line) {
		if !t.flag(l) {
			t.note(Lost, l, "clients without an id get one")
		}
	},
}

// globalOptions stand for the whole broker.
var globalOptions = map[string]func(*translation, *line){
	"per_listener_settings": func(t *translation, l *line) { t.perListener = t.flag(l) },
	"persistence": func(t *translation, l *line) {
		if t.persistence = l; !t.flag(l) {
			t.note(Differs, l, "sessions, retained and queued messages are kept all the same; journal.durability: memory would keep nothing")
		}
	},
	"max_inflight_messages": func(t *translation, l *line) {
		if n, ok := t.number(l, 0, 65535); ok && n > 0 {
			t.set["limits.inflight"] = l.value
		} else if ok {
			t.set["limits.inflight"] = "65535"
		}
	},
	"max_queued_messages": func(t *translation, l *line) {
		if _, ok := t.number(l, 0, 1<<31-1); ok {
			t.set["limits.session_messages"] = l.value
		}
	},
	"max_queued_bytes": func(t *translation, l *line) {
		if _, ok := t.number(l, 0, 1<<50); ok {
			t.set["limits.session_bytes"] = l.value
		}
	},
	"message_size_limit": func(t *translation, l *line) {
		const most = 268435455
		n, ok := t.number(l, 0, most)
		if !ok {
			return
		}
		t.sizeSet = true
		if n == 0 {
			n = most
		}
		t.set["limits.packet_size"] = strconv.FormatInt(min(n+64*1024, 268435460), 10)
		t.note(Differs, l, "limits.packet_size counts the whole packet: 64 KiB more, for topic and properties")
	},
	"max_packet_size": func(t *translation, l *line) {
		if n, ok := t.number(l, 20, 268435460); ok {
			t.sizeSet = true
			t.set["limits.packet_size"] = strconv.FormatInt(max(n, 1024), 10)
		}
	},
	"max_keepalive": func(t *translation, l *line) {
		if _, ok := t.number(l, 0, 65535); ok {
			t.set["mqtt.keep_alive_max"] = l.value + "s"
		}
	},
	"persistent_client_expiration": func(t *translation, l *line) {
		if d, ok := duration(l.value); ok {
			t.set["mqtt.session_expiry_max"], t.set["mqtt.session_expiry_v3"] = d, d
		} else {
			t.note(Lost, l, "want a number and one of h, d, w, m, y")
		}
	},
	"retain_available": func(t *translation, l *line) {
		if !t.flag(l) {
			t.set["mqtt.retain"] = "false"
		}
	},
	"sys_interval": func(t *translation, l *line) {
		if _, ok := t.number(l, 0, 86400); ok {
			t.set["mqtt.sys_interval"] = l.value + "s"
		}
	},
	"clientid_prefixes": func(t *translation, l *line) { t.set["auth.client_ids"] = "[" + quote(l.value+"*") + "]" },
	"log_type": func(t *translation, l *line) {
		switch l.value {
		case "debug", "all":
			t.set["log.level"] = "debug"
		case "none":
			t.set["log.level"] = "error"
		default:
			t.note(Unused, l, "log.level says how much is written")
		}
	},
	"check_retain_source": func(t *translation, l *line) {
		if t.flag(l) {
			t.note(Lost, l, "retained messages stay when their publisher loses its rights")
		}
	},
}

// duration reads Mosquitto's, such as 14d.
func duration(text string) (string, bool) {
	if text == "" {
		return "", false
	}
	n, err := strconv.Atoi(text[:len(text)-1])
	hours := map[byte]int{'h': 1, 'd': 24, 'w': 7 * 24, 'm': 30 * 24, 'y': 365 * 24}[text[len(text)-1]]
	if err != nil || n < 1 || n > 1000 || hours == 0 {
		return "", false
	}
	return strconv.Itoa(n*hours) + "h", true
}

// yaml writes the configuration.
func (t *translation) yaml() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made from %s by `sluice import mosquitto`.\n", t.path)
	var open []string
	for _, key := range slices.Sorted(maps.Keys(t.set)) {
		parts := strings.Split(key, ".")
		same := 0
		for same < len(open) && same < len(parts)-1 && open[same] == parts[same] {
			same++
		}
		for depth := same; depth < len(parts)-1; depth++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", depth), parts[depth])
		}
		open = parts[:len(parts)-1]
		indent, value := strings.Repeat("  ", len(parts)-1), " "+t.set[key]
		if key == namedKey { // one listener a line
			value = ""
			for _, l := range t.named {
				value += "\n" + indent + "  - " + l
			}
		}
		fmt.Fprintf(&b, "%s%s:%s\n", indent, parts[len(parts)-1], value)
	}
	if len(t.bridges) > 0 {
		b.WriteString("bridges:\n")
		for _, x := range t.bridges {
			x.yaml(&b)
		}
	}
	return []byte(b.String())
}

// quote writes a text as YAML reads it in any place.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '\\' || r == '"':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
