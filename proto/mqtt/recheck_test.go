package mqtt

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// revoking is an Authorizer that takes rights away: nobody may subscribe below what it names.
type revoking struct{ prefix string }

func (r *revoking) Authorize(_ *broker.Identity, a broker.Action, topic []byte) bool {
	return a != broker.ActionSubscribe || r.prefix == "" || !strings.HasPrefix(string(topic), r.prefix)
}
func (r *revoking) Generation() uint64 { return uint64(len(r.prefix)) }

// Taking a right away ends subscriptions: of clients that are there, which are closed, and of kept sessions when their client comes back.
func TestRevokedSubscriptions(t *testing.T) {
	kept := func(k *wire.Connect) { k.CleanStart, k.SessionExpiry = false, 1000 }
	rules := &revoking{}
	w := newWorld(t, Options{Authorizer: rules})
	live, durable, away, other := w.connect(wire.V5, "live"), w.connect(wire.V5, "durable", kept), w.connect(wire.V5, "away", kept), w.connect(wire.V5, "other")
	for _, p := range []*peer{live, durable, away} {
		p.subscribe(1, "secret/#", "open", "$share/g/secret/x")
	}
	other.subscribe(1, "open")
	away.k.closed = true
	away.c.onClose(nil)
	w.turn()
	pub := w.connect(wire.V5, "pub")
	rules.prefix = "secret"
	w.h.Recheck()
	w.h.Recheck()
	w.turn()
	for name, p := range map[string]*peer{"live": live, "durable": durable} {
		if why := p.lastDisconnect(); why != wire.NotAuthorized {
			t.Errorf("%s is told %v", name, why)
		}
	}
	if other.k.closed || strings.Contains(other.types(), "DISCONNECT") {
		t.Error("a client that lost nothing is closed")
	}
	if back := w.connect(wire.V5, "away", kept); back.c.state != stateClosing {
		t.Error("the client that was away stays, and does not know that its subscriptions are gone")
	}
	for _, id := range []string{"durable", "away"} {
		again := w.connect(wire.V5, id, kept)
		again.packets()
		pub.publish("secret/x", id, 1, 2)
		pub.publish("open", id, 1, 3)
		arrived := false
		testx.Eventually(t, 5*time.Second, func() bool { // what was queued is read off the loop
			w.turn()
			for _, h := range again.packets() {
				m, err := wire.DecodePublish(h.Flags, h.Body, wire.V5)
				if h.Type != wire.PUBLISH || err != nil || string(m.Topic) != "open" {
					t.Fatalf("%s gets %v of %s: %v", id, h.Type, m.Topic, err)
				}
				arrived = arrived || string(m.Payload) == id
			}
			return arrived
		})
	}
}

// banning is an authenticator that lets everybody in, and then bans.
type banning struct{ why error }

func (b *banning) Authenticate(context.Context, broker.Credentials) (broker.Identity, error) {
	return broker.Identity{User: "ann"}, nil
}
func (b *banning) Recheck(*broker.Identity, []*x509.Certificate) error { return b.why }

// Who is banned, or refused, while the core opens its session does not stay.
func TestRecheckWhileConnecting(t *testing.T) {
	for _, e := range []struct {
		why  error
		told wire.ReasonCode
	}{{broker.ErrBanned, wire.AdministrativeAction}, {errors.New("the user is gone"), wire.NotAuthorized}, {nil, wire.Success}} {
		ban := &banning{}
		w := newWorld(t, Options{Authenticator: ban})
		p := w.dial()
		w.hold = true
		p.send(wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, ClientID: []byte("a"), SessionExpiry: 1000}))
		testx.Eventually(t, 5*time.Second, func() bool {
			w.turn()
			return p.c.state == stateConnecting
		})
		ban.why = e.why
		w.h.Recheck()
		w.turn()
		if p.c.state != stateConnecting {
			t.Fatalf("%v: the session is opened already", e.why)
		}
		w.hold = false
		w.turn()
		if e.why == nil {
			if got := p.types(); got != "CONNACK" || p.c.state != stateUp || p.c.flags&flagRecheck != 0 {
				t.Errorf("who may stay gets %s", got)
			}
			continue
		}
		if told := p.lastDisconnect(); told != e.told || p.c.state == stateUp {
			t.Errorf("%v: told %v", e.why, told)
		}
	}
}
