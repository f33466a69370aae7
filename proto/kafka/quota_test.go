package kafka

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// pausing is a link that only knows whether it is read from.
type pausing struct {
	link
	paused bool
}

func (p *pausing) PauseRead()        { p.paused = true }
func (p *pausing) ResumeRead()       { p.paused = false }
func (p *pausing) SetDeadline(int64) {}

func metered(t *testing.T, quotas ...broker.Quota) (*conn, *pausing) {
	t.Helper()
	b := broker.New(broker.Options{Shards: 1, Loops: 1})
	t.Cleanup(b.Close)
	h := &Handler{alone: aloneView(0), broker: b, quotas: &broker.Quotas{}}
	h.quotas.Set(quotas)
	h.Set(DefaultSettings())
	k := &pausing{}
	l := newLoopState(h, new(engine.Loop), b.Local(0))
	c := &conn{link: k, l: l, id: &broker.Identity{User: "u"}}
	t.Cleanup(c.endQuota)
	return c, k
}

func rateOf(kind broker.QuotaKind, rate float64) (q broker.Quota) {
	q.Entity.User = broker.QuotaPart{Said: true, Name: "u"}
	q.Set[kind], q.Rate[kind] = true, rate
	return q
}

// Counting a request costs no memory, with a quota and without one.
func TestMeterTakesNoMemory(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, quotas := range [][]broker.Quota{nil, {rateOf(broker.QuotaProduce, 1e15), rateOf(broker.QuotaRequest, 100)}} {
		c, k := metered(t, quotas...)
		r := &request{c: c}
		q := &wire.Request{ClientID: []byte("client"), Size: 1000}
		q.Key = wire.Produce
		if n := testing.AllocsPerRun(100, func() {
			w := c.startWatch()
			if c.l.h.quotas.Any() {
				c.meter(r, q)
			}
			w.stop(c)
		}); n != 0 {
			t.Errorf("%d quotas: %v allocations", len(quotas), n)
		}
		if k.paused {
			t.Error("it is paused below its quota")
		}
	}
}

// Another client id on the same connection has quotas of its own, and the longer of two waits counts.
func TestMeterByClient(t *testing.T) {
	first := rateOf(broker.QuotaProduce, 1000)
	first.Entity.ClientID = broker.QuotaPart{Said: true, Name: "a"}
	c, k := metered(t, first)
	ask := func(client string, size int) time.Duration {
		r := &request{c: c}
		q := &wire.Request{ClientID: []byte(client), Size: size}
		q.Key = wire.Produce
		c.meter(r, q)
		return r.throttle
	}
	if d := ask("b", 1e6); d != 0 || k.paused {
		t.Errorf("without a quota it is to wait %v", d)
	}
	if d := ask("a", 11_000); d != 10*time.Second || !k.paused {
		t.Errorf("it is to wait %v", d)
	}
	until := c.quota.until
	r := &request{c: c}
	r.wait(time.Second)
	if c.quota.until != until || r.throttleMS() != 1000 {
		t.Errorf("a shorter wait moved the end from %d to %d", until, c.quota.until)
	}
	r.wait(1500 * time.Microsecond)
	if r.throttleMS() != 1000 {
		t.Error("the longer wait is told")
	}
}
