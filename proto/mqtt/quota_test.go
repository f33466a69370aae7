package mqtt

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// publishQuota bounds what a client id, or without one every client, publishes in a second.
func publishQuota(client string, rate float64) (q broker.Quota) {
	q.Entity.ClientID = broker.QuotaPart{Said: true, Default: client == "", Name: client}
	q.Set[broker.QuotaProduce], q.Rate[broker.QuotaProduce] = true, rate
	return q
}

// generous are quotas that are counted and never reached.
func generous() *broker.Quotas {
	q := &broker.Quotas{}
	all := publishQuota("", 1e15)
	for _, k := range []broker.QuotaKind{broker.QuotaConsume, broker.QuotaRequest} {
		all.Set[k], all.Rate[k] = true, 1e15
	}
	q.Set([]broker.Quota{all})
	return q
}

// A publisher gets its rate however fast it is and whatever it sends at once; meanwhile nothing of it is read, and it is not idle.
func TestPublishQuota(t *testing.T) {
	for _, size := range []int{50, 400, 5000} {
		quotas := &broker.Quotas{}
		quotas.Set([]broker.Quota{publishQuota("slow", 1000)})
		clk := clock.NewManual(time.Unix(1_700_000_000, 0))
		w := newWorldAt(t, Options{Quotas: quotas}, clk)
		slow := w.connect(wire.V5, "slow", func(k *wire.Connect) { k.KeepAlive = 1 })
		fast := w.connect(wire.V5, "fast")
		payload := string(make([]byte, size))
		published, muted := 0, 0
		const end = 120 * time.Second
		for now := time.Duration(0); now < end; now += 10 * time.Millisecond {
			if slow.k.paused {
				muted++
			} else {
				for !slow.k.paused {
					slow.publish("t", payload, 0, 0)
					published += size
				}
			}
			fast.publish("t", payload, 0, 0)
			if fast.k.paused {
				t.Fatal("a client without a quota is paused")
			}
			clk.Advance(10 * time.Millisecond)
			w.loop.mono += int64(10 * time.Millisecond)
			w.turn()
		}
		if rate := float64(published) / end.Seconds(); rate < 850 || rate > 1150 || muted == 0 {
			t.Errorf("messages of %d bytes: %.0f bytes in a second, want 1000", size, rate)
		}
		slow.send(wire.AppendPingreq(nil))
		if got := slow.types(); slow.k.paused && got != "" {
			t.Errorf("while it is not read from it is answered %s", got)
		}
		if slow.k.closed {
			t.Error("a client that waits for its quota is closed")
		}
		// When its quota is gone it goes on as soon as what it owes is paid for.
		quotas.Set(nil)
		for range 1000 {
			clk.Advance(10 * time.Millisecond)
			w.loop.mono += int64(10 * time.Millisecond)
			w.turn()
		}
		if slow.k.paused {
			t.Error("it is still paused")
		}
		slow.c.onClose(nil)
		w.turn()
	}
}

// A client that may not connect again yet is told so, in the words of its version.
func TestConnectQuota(t *testing.T) {
	quotas := &broker.Quotas{}
	var q broker.Quota
	q.Entity.IP = broker.QuotaPart{Said: true, Default: true}
	q.Set[broker.QuotaConnect] = true
	quotas.Set([]broker.Quota{q})
	w := newWorld(t, Options{Quotas: quotas})
	for version, want := range map[byte]byte{wire.V311: 3, wire.V5: byte(wire.ConnectionRateExceeded)} {
		p := w.dial()
		p.send(wire.AppendConnect(nil, &wire.Connect{Version: version, ClientID: []byte("c"), CleanStart: true}))
		got := p.packets()
		if len(got) != 1 || got[0].Type != wire.CONNACK || got[0].Body[1] != want {
			t.Errorf("version %d: %v", version, got)
		}
	}
}

// clientQuota bounds one kind for a client id.
func clientQuota(client string, k broker.QuotaKind, rate float64) (q broker.Quota) {
	q.Entity.ClientID = broker.QuotaPart{Said: true, Name: client}
	q.Set[k], q.Rate[k] = true, rate
	return q
}

// A subscriber gets its rate. What it is owed at QoS 1 and 2 comes later, in order, all of it, whether its session is kept or not; at QoS 0 what
// is over the rate is dropped and counted.
func TestDeliveryQuota(t *testing.T) {
	for _, version := range []byte{wire.V311, wire.V5} {
		for _, qos := range []byte{0, 1, 2} {
			for _, kept := range []bool{false, true} {
				t.Run(fmt.Sprintf("version %d QoS %d kept %v", version, qos, kept), func(t *testing.T) { deliveryQuota(t, version, qos, kept) })
			}
		}
	}
}

func deliveryQuota(t *testing.T, version, qos byte, kept bool) {
	t.Helper()
	quotas := &broker.Quotas{}
	quotas.Set([]broker.Quota{clientQuota("slow", broker.QuotaConsume, 1000)})
	clk := clock.NewManual(time.Unix(1_700_000_000, 0))
	w := newWorldAt(t, Options{Quotas: quotas}, clk)
	slow := w.connect(version, "slow", func(k *wire.Connect) {
		k.CleanStart = !kept
		if kept {
			k.SessionExpiry = 3600
		}
	})
	fast := w.connect(wire.V5, "fast")
	publisher := w.connect(wire.V5, "publisher")
	slow.subscribe(qos, "t")
	fast.subscribe(1, "t")
	const messages, size = 100, 400
	for i := range messages { // all at once: some 400 bytes each
		publisher.publish("t", fmt.Sprintf("%0*d", size, i), max(qos, 1), uint16(i+1))
		if qos == 2 {
			publisher.send(wire.AppendShortAck(nil, wire.PUBREL, uint16(i+1)))
		}
	}
	if n := strings.Count(fast.types(), "PUBLISH"); n < 30 {
		t.Errorf("the other one has got %d", n)
	}
	first := slow.publishes(t, qos)
	if n := len(first); n == 0 || n > 4 {
		t.Errorf("%d messages at once", n)
	}
	all := first
	const step = 100 * time.Millisecond
	took := time.Duration(0)
	for ; took < 80*time.Second && len(all)+int(w.l.n.Dropped[DropQuota]) < messages; took += step {
		clk.Advance(step)
		w.loop.mono += int64(step)
		w.turn()
		if slow.c.flags&flagOverQuota != 0 {
			continue
		}
		testx.Eventually(t, 10*time.Second, func() bool { // records of a kept session are read off the loop
			w.turn()
			more := slow.publishes(t, qos)
			all = append(all, more...)
			return len(more) > 0 || len(all)+int(w.l.n.Dropped[DropQuota]) == messages
		}, "the next message")
	}
	dropped := int(w.l.n.Dropped[DropQuota])
	if qos == 0 {
		if len(all)+dropped != messages || dropped == 0 {
			t.Errorf("%d messages came, %d are counted as dropped", len(all), dropped)
		}
		return
	}
	for i, p := range all {
		if p != i {
			t.Fatalf("message %d is %d", i, p)
		}
	}
	if rate := float64(messages*size) / took.Seconds(); len(all) != messages || dropped != 0 || rate < 800 || rate > 1100 {
		t.Errorf("%d messages in %v, %.0f bytes in a second; %d dropped", len(all), took, rate, dropped)
	}
}

// publishes acknowledges what has come, and gives the numbers that the payloads are.
func (p *peer) publishes(t *testing.T, qos byte) (numbers []int) {
	t.Helper()
	for range 3 { // PUBREL follows
		for _, h := range p.packets() {
			switch h.Type {
			case wire.PUBREL:
				p.send(wire.AppendShortAck(nil, wire.PUBCOMP, binary.BigEndian.Uint16(h.Body)))
				continue
			case wire.PUBLISH:
			default:
				continue
			}
			m, err := wire.DecodePublish(h.Flags, h.Body, p.version)
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(string(m.Payload))
			if err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, n)
			switch m.QoS {
			case 1:
				p.send(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
			case 2:
				p.send(wire.AppendShortAck(nil, wire.PUBREC, m.PacketID))
			}
		}
	}
	return numbers
}

// A client that asks more of the loop than its part is read from later, by a second at most, and answered in the end.
func TestRequestQuota(t *testing.T) {
	quotas := &broker.Quotas{}
	quotas.Set([]broker.Quota{clientQuota("busy", broker.QuotaRequest, 1e-6)}) // 10 ns in a second
	clk := clock.NewManual(time.Unix(1_700_000_000, 0))
	w := newWorldAt(t, Options{Quotas: quotas}, clk)
	for _, version := range []byte{wire.V311, wire.V5} {
		busy, other := w.connect(version, "busy"), w.connect(version, "other")
		other.send(wire.AppendPingreq(nil))
		if other.k.paused {
			t.Error("a client without a quota is paused")
		}
		busy.send(wire.AppendPingreq(nil))
		if !busy.k.paused || busy.types() != "PINGRESP" {
			t.Error("a client that is over its quota is read from")
		}
		clk.Advance(1001 * time.Millisecond)
		w.loop.mono += int64(1001 * time.Millisecond)
		w.turn()
		busy.send(wire.AppendPingreq(nil))
		if got := busy.types(); got != "PINGRESP" {
			t.Errorf("a second later it is answered %q", got)
		}
		busy.c.onClose(nil)
		w.turn()
	}
	if n, _ := quotas.Throttled(broker.QuotaRequest); n < 2 {
		t.Errorf("%d throttles are counted", n)
	}
}

// Clients without a quota keep nothing for those that have one; they get one when there is one for them.
func TestQuotaStateIsMadeForItsClient(t *testing.T) {
	quotas := &broker.Quotas{}
	quotas.Set([]broker.Quota{clientQuota("other", broker.QuotaConsume, 1000)})
	w := newWorld(t, Options{Quotas: quotas})
	p := w.connect(wire.V5, "p")
	p.subscribe(0, "t")
	p.publish("t", "1", 0, 0)
	if p.c.extra != nil && p.c.extra.quota != nil {
		t.Error("a client without a quota has state for one")
	}
	quotas.Set([]broker.Quota{clientQuota("p", broker.QuotaConsume, 1000)})
	w.turn()
	p.publish("t", "2", 0, 0)
	if p.c.extra == nil || p.c.extra.quota == nil {
		t.Error("a quota that was set later is not counted")
	}
	w.l.n.Dropped[DropQuota] = 0
	quotas.Set(nil)
	w.turn()
	for range 10 {
		p.publish("t", string(make([]byte, 500)), 0, 0)
	}
	if n := w.l.n.Dropped[DropQuota]; n != 0 {
		t.Errorf("%d messages are dropped for a quota that is gone", n)
	}
}
