package mosquitto

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// finish puts together what the lines have said.
func (t *translation) finish() error {
	local := t.doors()
	t.certificates()
	t.limit()
	t.anonymous(local)
	if err := t.users(); err != nil {
		return err
	}
	if err := t.rules(); err != nil {
		return err
	}
	t.finishBridges()
	if !t.sizeSet {
		t.note(Differs, nil, "Mosquitto takes messages of up to 256 MB where nothing is said of it; limits.packet_size is 1MiB unless it is set")
	}
	return nil
}

// doors sets the addresses. local: nothing was said of any, so that Mosquitto listens on loopback alone.
func (t *translation) doors() (local bool) {
	g := t.global
	if g.port != "" || g.bind != "" || len(t.listeners) == 0 {
		port, host := g.port, g.bind
		if port == "" {
			port = "1883"
		}
		if local = g.port == "" && g.bind == ""; local {
			host = "127.0.0.1"
		}
		g.address = net.JoinHostPort(host, port)
		t.listeners = append([]*listener{g}, t.listeners...)
	} else if g.cert != "" || g.ws {
		t.note(Lost, nil, "options of a default listener, which does not open beside others: they come after `listener`")
	}
	if t.apart(local) {
		t.unlike(local)
	} else {
		t.alike()
	}
	t.ports()
	return local
}

// kind is a listener's among those of listeners.mqtt.
func (s *listener) kind() string {
	switch {
	case s.unix:
		return "unix"
	case s.ws && s.cert != "":
		return "wss"
	case s.ws:
		return "ws"
	case s.cert != "":
		return "tls"
	}
	return "tcp"
}

const namedKey = "listeners.mqtt.named"

// kinds are all that there are.
var kinds = []string{"tcp", "tls", "ws", "wss", "unix"}

// alike sets the addresses of listeners that differ in nothing else.
func (t *translation) alike() {
	byKey := map[string][]string{}
	for _, s := range t.listeners {
		byKey[s.kind()] = append(byKey[s.kind()], quote(s.address))
	}
	for _, key := range kinds {
		value := "off"
		if list := byKey[key]; len(list) > 0 {
			value = "[" + strings.Join(list, ", ") + "]"
		}
		t.set["listeners.mqtt."+key] = value
	}
}

// opens says whether clients without credentials come in by s.
func (t *translation) opens(s *listener, local bool) bool {
	v := s.anonymous
	if v == nil {
		v = t.global.anonymous
	}
	return v != nil && *v || v == nil && local
}

// apart says whether listeners have to have names, since they differ in what the others have in common.
func (t *translation) apart(local bool) bool {
	first := t.listeners[0]
	var tls *listener
	for _, s := range t.listeners {
		switch {
		case s.mount != nil, t.opens(s, local) != t.opens(first, local), s.most() != first.most():
			return true
		case s.cert == "":
		case tls == nil:
			tls = s
		case s.required != tls.required:
			return true
		}
	}
	return false
}

// most is how many connections there may be, 0 for any number.
func (s *listener) most() int {
	if s.connections == nil {
		return 0
	}
	return *s.connections
}

// unlike makes a listener with a name of each.
func (t *translation) unlike(local bool) {
	t.set[namedKey] = ""
	for _, key := range kinds {
		t.set["listeners.mqtt."+key] = "off"
	}
	seen := map[string]int{}
	for _, s := range t.listeners {
		name := "unix"
		if _, port, _ := net.SplitHostPort(s.address); !s.unix {
			name = port
		}
		seen[name]++
		if name = "port-" + name; s.unix {
			name = "socket"
		}
		if n := seen[strings.TrimPrefix(name, "port-")]; n > 1 {
			name += "-" + strconv.Itoa(n)
		}
		t.named = append(t.named, "{name: "+name+", protocol: "+s.kind()+", address: "+quote(s.address)+t.own(s, local)+"}")
	}
	t.note(Differs, t.listeners[0].at, "listeners differ, so they have names: clients come by mqtt.port-PORT")
}

// own is what a listener has of its own.
func (t *translation) own(s *listener, local bool) (text string) {
	text = ", anonymous: off"
	if t.opens(s, local) {
		text = ", anonymous: everywhere"
		if local {
			text = ", anonymous: loopback"
		}
	}
	text += ", connections: " + strconv.Itoa(s.most())
	switch {
	case s.cert == "":
	case !s.required:
		text += ", client_auth: off"
	case s.ca != "":
		text += ", client_auth: required"
	default:
		t.note(Lost, s.at, "require_certificate needs one file of authorities, cafile: nobody comes in without credentials instead")
		text = strings.Replace(text, "everywhere", "off", 1)
	}
	if s.mount == nil {
		return text
	}
	if m := s.mount.value; strings.HasSuffix(m, "/") && m != "/" && !strings.HasPrefix(m, "$") && !strings.ContainsAny(m, "+#%") && len(m) <= 1024 {
		return text + ", mountpoint: " + quote(m)
	}
	t.note(Lost, s.mount, "a mountpoint is whole levels with a / behind them, without $ before them, wildcards and %%")
	return text
}

// ports takes the node's own listeners out of the way of Mosquitto's.
func (t *translation) ports() {
	for _, own := range []struct{ key, port, other string }{
		{"listeners.http", "8080", "127.0.0.1:18080"}, {"listeners.kafka.tcp", "9092", "127.0.0.1:19092"}, {"listeners.grpc", "1228", "127.0.0.1:11228"},
	} {
		for _, s := range t.listeners {
			if _, port, _ := net.SplitHostPort(s.address); !s.unix && port == own.port {
				t.set[own.key] = quote(own.other)
				t.note(Differs, s.at, "the port is the one of %s, which is %s now", own.key, own.other)
			}
		}
	}
}

// certificates sets what TLS shows and asks for, which is the same for all listeners.
func (t *translation) certificates() {
	var first *listener // of those that ask for certificates, if there are any
	for _, s := range t.listeners {
		if s.cert != "" && (first == nil || s.required && !first.required) {
			first = s
		}
	}
	for _, s := range t.listeners {
		switch {
		case s.cert == "" || s == first:
			continue
		case s.cert != first.cert || s.key != first.key:
			t.note(Lost, s.at, "all TLS listeners show one certificate: that of %s", first.cert)
		case s.required && s.ca != first.ca:
			t.note(Lost, s.at, "all TLS listeners have the same authorities: those of the first that asks for certificates, %s", first.ca)
		}
	}
	if first == nil {
		return
	}
	t.set["tls.cert"], t.set["tls.key"] = quote(first.cert), quote(first.key)
	if first.version != "" {
		t.set["tls.min_version"] = quote(first.version)
	}
	if !first.required {
		if first.identity || first.subject {
			t.note(Lost, first.at, "certificates name users only where they are required")
		}
		return
	}
	if first.ca == "" {
		t.note(Lost, first.at, "require_certificate needs one file of authorities, cafile")
		return
	}
	t.set["tls.client_ca"] = quote(first.ca)
	if t.named == nil {
		t.set["tls.client_auth"] = "required"
	}
	if first.crl != "" {
		t.set["tls.crl"] = quote(first.crl)
	}
	switch {
	case first.identity:
		t.set["auth.certificate_user"] = "cn"
	case first.subject:
		t.set["auth.certificate_user"] = "subject"
		t.note(Differs, first.at, "use_subject_as_username: look whether rules name subjects as `subject` of auth.certificate_user writes them")
	}
}

// limit sets the bound of connections that all listeners have, or each of them its own.
func (t *translation) limit() {
	if most := t.listeners[0].connections; most != nil && t.named == nil {
		t.set["listeners.mqtt.connections"] = strconv.Itoa(*most)
	}
}

// anonymous sets who comes in without credentials where a listener does not say it itself.
func (t *translation) anonymous(local bool) {
	switch {
	case t.named != nil || !t.opens(t.listeners[0], local):
		t.set["auth.anonymous"] = "off"
	case local:
		t.set["auth.anonymous"] = "loopback"
	default:
		t.set["auth.anonymous"] = "everywhere"
	}
}

// only gives the file that counts of those that listeners have, each of which may have its own in Mosquitto.
func (t *translation) only(pick func(*listener) *line) *line {
	first := pick(t.global)
	for _, s := range t.listeners {
		l := pick(s)
		switch {
		case l == nil || first != nil && l.value == first.value:
		case first == nil:
			if first = l; len(t.listeners) > 1 {
				t.note(Differs, l, "it counts for all listeners")
			}
		default:
			t.note(Lost, l, "there is one such file for all listeners: %s", first.value)
		}
	}
	return first
}

// file takes in what is to be written, and gives the path that it will have.
func (t *translation) file(name string, data []byte) string {
	t.out.Files[name] = data
	return filepath.Join(t.dir, name)
}
