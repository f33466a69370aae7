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
	byKey := map[string][]string{}
	for _, s := range t.listeners {
		key := "tcp"
		switch {
		case s.unix:
			key = "unix"
		case s.ws && s.cert != "":
			key = "wss"
		case s.ws:
			key = "ws"
		case s.cert != "":
			key = "tls"
		}
		byKey[key] = append(byKey[key], quote(s.address))
	}
	for _, key := range []string{"tcp", "tls", "ws", "wss", "unix"} {
		value := "off"
		if list := byKey[key]; len(list) > 0 {
			value = "[" + strings.Join(list, ", ") + "]"
		}
		t.set["listeners.mqtt."+key] = value
	}
	t.ports()
	return local
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
	var first *listener
	for _, s := range t.listeners {
		switch {
		case s.cert == "":
			continue
		case first == nil:
			first = s
		case s.cert != first.cert || s.key != first.key:
			t.note(Lost, s.at, "all TLS listeners show one certificate: that of the first, %s", first.cert)
		case s.required != first.required || s.required && s.ca != first.ca:
			t.note(Lost, s.at, "all TLS listeners ask for certificates in the same way: as the first")
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
	t.set["tls.client_ca"], t.set["tls.client_auth"] = quote(first.ca), "required"
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

// limit sets the bound of connections, which is the same for all listeners.
func (t *translation) limit() {
	var most *int
	for _, s := range t.listeners {
		if s.connections == nil {
			continue
		}
		if most != nil && *most != *s.connections {
			t.note(Lost, s.at, "all listeners have one max_connections: %d", *most)
			continue
		}
		if most = s.connections; len(t.listeners) > 1 {
			t.note(Differs, s.at, "max_connections %d is for each listener of MQTT", *most)
		}
	}
	if most != nil {
		t.set["listeners.mqtt.connections"] = strconv.Itoa(*most)
	}
}

// anonymous sets who comes in without credentials: where one listener lets nobody in so, none does.
func (t *translation) anonymous(local bool) {
	open, shut := false, false
	for _, s := range t.listeners {
		v := s.anonymous
		if v == nil {
			v = t.global.anonymous
		}
		if v != nil && *v || v == nil && local {
			open = true
		} else {
			shut = true
		}
	}
	switch {
	case local:
		t.set["auth.anonymous"] = "loopback"
		if !open {
			t.set["auth.anonymous"] = "off"
		}
	case open && shut:
		t.note(Lost, t.global.at, "some listeners let clients in without credentials and some do not: auth.anonymous is for all, and off")
		fallthrough
	case shut:
		t.set["auth.anonymous"] = "off"
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
