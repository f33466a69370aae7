package crash

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// TestKillAmidRetained kills the broker again and again while a kept session is sent what is retained. Each message comes, what was not
// finished under its identifier, and at QoS 2 once; those for which there was no room yet come too.
func TestKillAmidRetained(t *testing.T) {
	dir := t.TempDir()
	b := common.Start(t, dir, small...)
	pub := common.Exchange{ID: "pub"}
	if err := pub.Connect(b.URL()); err != nil {
		t.Fatal(err)
	}
	const n = 100 // the receive maximum is 50
	for i := range n {
		m := wire.PublishOut{Topic: fmt.Appendf(nil, "r/%03d", i), Payload: fmt.Append(nil, i), QoS: byte(1 + i%2), Retain: true}
		if _, err := pub.C.Publish(&m); err != nil {
			t.Fatal(err)
		}
	}
	r := &resumed{sub: common.Exchange{ID: "sub"}, n: n, got: map[string]int{}, open: map[uint16]string{}}
	for round := 0; ; round++ {
		if err := r.sub.Connect(b.URL()); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if _, err := r.sub.C.Subscribe(wire.FilterRequest{Filter: []byte("r/+"), QoS: 2}); err != nil {
				t.Fatal(err)
			}
		}
		r.round(t, 60)
		if len(r.got) == n && len(r.open) == 0 {
			break
		}
		if round == 20 {
			t.Fatalf("%d of %d came", len(r.got), n)
		}
		if err := r.sub.C.Ping(); err != nil { // what it has answered is known
			t.Fatal(err)
		}
		<-time.After(1100 * time.Millisecond) // and in the log: the ends of exchanges go there once a second
		b.Kill()
		b = common.Start(t, dir, small...)
	}
	_ = r.sub.C.Close()
	b.Kill()
}

// resumed is a subscriber that does not answer all that it gets.
type resumed struct {
	sub  common.Exchange
	n    int // messages in all
	got  map[string]int
	open map[uint16]string // sent, and not finished
}

// round takes so many messages, or what comes until all were there.
func (r *resumed) round(t *testing.T, left int) {
	t.Helper()
	unanswered := 0
	for left > 0 && (len(r.got) < r.n || len(r.open) > unanswered) {
		p, err := r.sub.C.ReadPacket(10 * time.Second)
		if err != nil {
			t.Fatalf("%d came, %d open: %v", len(r.got), len(r.open), err)
		}
		id := p.ID()
		switch p.Type {
		case wire.PUBLISH:
			m, err := p.Publish()
			if err != nil {
				t.Fatal(err)
			}
			payload := string(m.Payload)
			if was, begun := r.open[id]; begun {
				if was != payload || !m.Dup {
					t.Fatalf("identifier %d brings %s, dup %v, and is open for %s", id, payload, m.Dup, was)
				}
			} else if r.got[payload]++; r.got[payload] > 1 && m.QoS == 2 {
				t.Fatalf("%s came again, as %d", payload, id)
			}
			r.open[id] = payload
			if left--; left%5 == 0 && len(r.got) < r.n {
				unanswered++
				continue // until it comes again
			}
			typ := wire.PUBREC
			if m.QoS == 1 {
				typ = wire.PUBACK
				delete(r.open, id)
			}
			_ = r.sub.C.SendRaw(wire.AppendShortAck(nil, typ, id))
		case wire.PUBREL:
			delete(r.open, id)
			_ = r.sub.C.SendRaw(wire.AppendShortAck(nil, wire.PUBCOMP, id))
		default: // nothing to do
		}
	}
}
