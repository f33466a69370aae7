package mqtt

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// publishQuota bounds what a client id, or without one every client, publishes in a second.
func publishQuota(client string, rate float64) (q broker.Quota) {
	q.Entity.ClientID = broker.QuotaPart{Said: true, Default: client == "", Name: client}
	q.Set[broker.QuotaProduce], q.Rate[broker.QuotaProduce] = true, rate
	return q
}

// generous is a quota that is counted and never reached.
func generous() *broker.Quotas {
	q := &broker.Quotas{}
	q.Set([]broker.Quota{publishQuota("", 1e15)})
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
