package mqtt

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

const method = "SCRAM-SHA-256"

// saslAuthn knows a mechanism in which a client says `first:USER`, is told `challenge`, says `final` and is told `proof`.
type saslAuthn struct {
	slowAuthn
	recheck error
	gate    chan struct{} // of steps; nil: open
	from    broker.Credentials
}

func (a *saslAuthn) Mechanisms() []string { return []string{method, "OAUTHBEARER"} }

func (a *saslAuthn) Converse(mechanism string, c broker.Credentials) broker.Conversation {
	a.from = c
	return &saidSoFar{a: a, mechanism: mechanism}
}

// saslRechecker is one that can be asked again.
type saslRechecker struct{ *saslAuthn }

func (a saslRechecker) Recheck(*broker.Identity, []*x509.Certificate) error { return a.recheck }

type saidSoFar struct {
	a               *saslAuthn
	mechanism, user string
}

func (s *saidSoFar) Identity() broker.Identity {
	return broker.Identity{User: s.user, Source: s.mechanism}
}

func (s *saidSoFar) Step(ctx context.Context, message []byte) (answer []byte, done bool, err error) {
	if s.a.gate != nil {
		select {
		case <-s.a.gate:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	user, first := strings.CutPrefix(string(message), "first:")
	switch {
	case s.user == "" && first:
		s.user = user
		return []byte("challenge"), false, nil
	case s.user != "" && string(message) == "final":
		return []byte("proof"), true, nil
	}
	return nil, false, fmt.Errorf("%w: no proof", broker.ErrBadCredentials)
}

// says sends bytes, and waits until what they make the server look at has been looked at.
func (p *peer) says(b []byte) {
	p.w.t.Helper()
	p.send(b)
	p.settle()
}

func (p *peer) settle() {
	p.w.t.Helper()
	end := time.Now().Add(10 * time.Second)
	waits := func() bool { t := p.c.talk(); return t != nil && t.busy && p.c.state != stateClosing }
	for waits() {
		if time.Now().After(end) {
			p.w.t.Fatal("nothing comes of a message")
		}
		runtime.Gosched()
		p.w.turn()
		if !waits() {
			p.send(nil) // what has waited behind it
		}
	}
}

// heard is what the server has said since it was asked last.
func (p *peer) heard() string {
	p.w.t.Helper()
	var all []string
	for _, h := range p.packets() {
		text := h.Type.String()
		switch h.Type {
		case wire.AUTH:
			a, err := wire.DecodeServerAuth(h.Body)
			if err != nil || string(a.AuthMethod) != method {
				p.w.t.Fatalf("AUTH %+v %v", a, err)
			}
			text += fmt.Sprintf(" %#x %s", byte(a.Reason), a.AuthData)
		case wire.CONNACK:
			a, err := wire.DecodeConnack(h.Body, wire.V5)
			if err != nil || !a.Reason.Failed() && string(a.AuthMethod) != method {
				p.w.t.Fatalf("CONNACK %+v %v", a, err)
			}
			text += fmt.Sprintf(" %#x %s", byte(a.Reason), a.AuthData)
		case wire.DISCONNECT:
			d, err := wire.DecodeServerDisconnect(h.Body, wire.V5)
			if err != nil {
				p.w.t.Fatal(err)
			}
			text += fmt.Sprintf(" %#x", byte(d.Reason))
		default:
		}
		all = append(all, strings.TrimSpace(text))
	}
	if p.k.closed {
		all = append(all, "closed")
	}
	return strings.Join(all, ", ")
}

func authPacket(reason wire.ReasonCode, method, data string) []byte {
	a := wire.Auth{Reason: reason, AuthMethod: []byte(method)}
	if data != "" {
		a.AuthData = []byte(data)
	}
	return wire.AppendAuth(nil, &a)
}

func hello(id, data string, with ...func(*wire.Connect)) []byte {
	k := wire.Connect{Version: wire.V5, ClientID: []byte(id), CleanStart: true, AuthMethod: []byte(method)}
	if data != "" {
		k.AuthData = []byte(data)
	}
	for _, f := range with {
		f(&k)
	}
	return wire.AppendConnect(nil, &k)
}

// What a client may say, by a letter each.
var saying = map[byte][]byte{
	'F': authPacket(wire.ContinueAuthentication, method, "first:u"),
	'L': authPacket(wire.ContinueAuthentication, method, "final"),
	'W': authPacket(wire.ContinueAuthentication, method, "wrong"),
	'N': authPacket(wire.ContinueAuthentication, method, ""),
	'A': authPacket(wire.ReAuthenticate, method, "first:u"),
	'O': authPacket(wire.ReAuthenticate, method, "first:other"),
	'E': authPacket(wire.ReAuthenticate, method, ""),
	'M': authPacket(wire.ContinueAuthentication, "SCRAM-SHA-512", "first:u"),
	'R': authPacket(wire.ReAuthenticate, "SCRAM-SHA-512", "first:u"),
	'B': {0xF0, 2, 0x18, 0}, // an AUTH without a method
	'P': wire.AppendPingreq(nil),
	'U': wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("t"), QoS: 1, PacketID: 1}),
	'S': wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("x")}}}),
	'D': wire.AppendDisconnect(nil, wire.V5, &wire.Disconnect{}),
	'C': hello("second", "first:u"),
}

// saslModel is what section 4.12 makes of each order of packets.
type saslModel struct {
	up, closed bool
	wants      byte // of the client: F or L of the conversation under way, 0: there is none
	user       string
}

func (m *saslModel) hears(s byte) string {
	if m.closed {
		return "closed"
	}
	fails := func(code wire.ReasonCode) string {
		m.closed = true
		if m.up {
			return fmt.Sprintf("DISCONNECT %#x, closed", byte(code))
		}
		return fmt.Sprintf("CONNACK %#x, closed", byte(code))
	}
	switch {
	case s == 'D':
		m.closed = true
		return "closed"
	case m.up && s == 'P':
		return "PINGRESP"
	case m.up && s == 'U':
		return "PUBACK"
	case m.up && s == 'S':
		return "SUBACK"
	case m.up && m.wants == 0 && s == 'E':
		m.wants = 'F'
		return "AUTH 0x18"
	case m.up && m.wants == 0 && (s == 'A' || s == 'O'), m.wants == 'F' && s == 'F':
		m.wants, m.user = 'L', "u"
		if s == 'O' {
			m.user = "other"
		}
		return "AUTH 0x18 challenge"
	case m.wants == 'L' && s == 'L' && !m.up:
		m.up, m.wants = true, 0
		return "CONNACK 0x0 proof"
	case m.wants == 'L' && s == 'L' && m.user == "u":
		m.wants = 0
		return "AUTH 0x0 proof"
	case m.wants != 0 && strings.IndexByte("FLWN", s) >= 0:
		return fails(wire.NotAuthorized) // also another user
	}
	return fails(wire.ProtocolErrorCode)
}

// TestOrdersOfAuthentication says all that can be said, three packets long, before CONNACK and behind it.
//
// Conformance: MQTT-3.1.4-6 (5.0), MQTT-4.12.0-2 (5.0), MQTT-4.12.0-4 (5.0), MQTT-4.12.0-5 (5.0), MQTT-4.12.1-2 (5.0)
func TestOrdersOfAuthentication(t *testing.T) {
	w := newWorld(t, Options{Authenticator: &saslAuthn{}})
	letters := ""
	for s := range saying {
		letters += string(s)
	}
	n, ups := 0, 0
	for _, begin := range []struct{ data, then string }{{"first:u", ""}, {"", ""}, {"first:u", "L"}} {
		for i := range len(letters) * len(letters) * len(letters) {
			k := len(letters)
			order := begin.then + string([]byte{letters[i%k], letters[i/k%k], letters[i/k/k]})
			m := saslModel{wants: 'F', user: "u"}
			p, want := w.dial(), "AUTH 0x18"
			if begin.data != "" {
				m.wants, want = 'L', "AUTH 0x18 challenge"
			}
			n++
			p.says(hello(fmt.Sprint("c", n), begin.data))
			for at := 0; ; at++ {
				if got := p.heard(); got != want {
					t.Fatalf("CONNECT %q, then %s: %q, expected %q", begin.data, order[:at], got, want)
				}
				if at == len(order) || m.closed {
					break
				}
				want = m.hears(order[at])
				p.says(saying[order[at]])
			}
			if m.up && !m.closed {
				if ups++; p.c.who.user != "u" {
					t.Fatalf("%s: the user is %q", order, p.c.who.user)
				}
			}
			p.c.onClose(nil)
			w.turn()
		}
	}
	if c := w.l.n; ups == 0 || c.Connected != 0 || c.Open != 0 {
		t.Errorf("%d are up at the end of their orders; counted %d connected, %d open", ups, c.Connected, c.Open)
	}
}

func TestAuthenticationMethods(t *testing.T) {
	for name, a := range map[string]broker.Authenticator{"none": nil, "no SASL": &slowAuthn{}, "SASL": &saslAuthn{}} {
		w := newWorld(t, Options{Authenticator: a})
		for _, m := range []string{"SCRAM-SHA-512", "OAUTHBEARER", "PLAIN", "", "scram-sha-256", strings.Repeat("SCRAM-", 9000)} {
			p := w.dial()
			p.says(hello("c", "first:u", func(k *wire.Connect) { k.AuthMethod = []byte(m) }))
			if got := p.heard(); got != "CONNACK 0x8c, closed" {
				t.Errorf("%s, %.20q: %s", name, m, got)
			}
		}
	}
}

// Who the server's rules keep out is told so whether it comes or comes anew, and its name and password in CONNECT do not count.
func TestAuthenticatedByRules(t *testing.T) {
	for _, c := range []struct {
		why        error
		came, anew string
	}{
		{broker.ErrBanned, "CONNACK 0x8a, closed", "DISCONNECT 0x98, closed"},
		{errors.New("gone"), "CONNACK 0x87, closed", "DISCONNECT 0x87, closed"},
	} {
		a := saslRechecker{&saslAuthn{recheck: c.why}}
		w := newWorld(t, Options{Authenticator: a})
		p := w.dial()
		p.says(hello("c", "first:u", func(k *wire.Connect) { k.UserName, k.Password = []byte("root"), []byte("x") }))
		p.heard()
		if p.says(saying['L']); p.heard() != c.came {
			t.Errorf("%v: not %q", c.why, c.came)
		}
		a.recheck = nil
		q := w.dial()
		q.says(append(hello("d", "first:u"), saying['L']...))
		if q.heard() != "AUTH 0x18 challenge, CONNACK 0x0 proof" || q.c.identity().User != "u" || a.from.ClientID != "d" {
			t.Fatalf("%+v, asked for %+v", q.c.identity(), a.from)
		}
		q.says(saying['A'])
		q.heard()
		a.recheck = c.why
		if q.says(saying['L']); q.heard() != c.anew {
			t.Errorf("%v: not %q", c.why, c.anew)
		}
	}
}

// While a message is looked at, nothing is read of who is not in yet, and everything of who is.
func TestAuthenticationOffTheLoop(t *testing.T) {
	a := &saslAuthn{gate: make(chan struct{})}
	w := newWorld(t, Options{Authenticator: a})
	p := w.dial()
	p.send(append(hello("c", "first:u"), saying['L']...))
	if !p.k.paused || p.heard() != "" || p.k.deadline != w.loop.mono+int64(DefaultSettings().ConnectTimeout) {
		t.Fatalf("paused %v, until %d", p.k.paused, p.k.deadline)
	}
	w.loop.mono += int64(time.Second)
	until := p.k.deadline
	a.gate <- struct{}{}
	testx.Eventually(t, 10*time.Second, func() bool { w.turn(); return !p.k.paused })
	p.send(nil)
	if p.k.deadline != until {
		t.Error("who says something has more time to come in")
	}
	a.gate <- struct{}{}
	p.settle()
	if got := p.heard(); got != "AUTH 0x18 challenge, CONNACK 0x0 proof" {
		t.Fatal(got)
	}
	p.send(saying['A'])
	if p.send(saying['P']); p.heard() != "PINGRESP" || p.k.paused {
		t.Error("a client that authenticates again is not served meanwhile")
	}
	if p.send(saying['L']); p.heard() != "DISCONNECT 0x82, closed" {
		t.Error("a second message of a conversation before the first is answered")
	}
	a.gate <- struct{}{} // the answer finds nobody
	q := w.dial()
	q.send(hello("d", "first:u"))
	q.c.onClose(nil)
	a.gate <- struct{}{}
	w.h.pools[broker.LaneHere].close()
	w.turn()
	if c := w.l.n; c.Open != 1 || c.Connected != 0 { // p waits for its last words to leave
		t.Errorf("%d open, %d connected", c.Open, c.Connected)
	}
}

func TestTooManyAuthenticate(t *testing.T) {
	a := &saslAuthn{}
	w := newWorld(t, Options{Authenticator: a, AuthWorkers: 1, AuthWaiting: 1})
	p := w.dial()
	p.says(append(hello("c", "first:u"), saying['L']...))
	p.heard()
	a.gate = make(chan struct{})
	w.dial().send(hello("d", "first:u"))
	pool := &w.h.pools[broker.LaneHere]
	testx.Eventually(t, 10*time.Second, func() bool { return len(pool.jobs) == 0 }) // the worker has it
	w.dial().send(hello("e", "first:u"))
	q := w.dial()
	if q.send(hello("f", "first:u")); q.heard() != "CONNACK 0x89, closed" {
		t.Error("a client waits in a queue that is full")
	}
	if p.send(saying['A']); p.heard() != "DISCONNECT 0x89, closed" {
		t.Error("a client that authenticates again waits in a queue that is full")
	}
}

func TestAuthWithinPacketSize(t *testing.T) {
	w := newWorld(t, Options{Authenticator: &saslAuthn{}})
	p := w.dial()
	p.says(hello("c", "first:u", func(k *wire.Connect) { k.MaximumPacketSize = 30 }))
	if got := p.heard(); got != "CONNACK 0x95, closed" && got != "closed" {
		t.Error(got)
	}
}
