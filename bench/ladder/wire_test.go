package ladder_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/ladder"
)

// narrow is a way to a broker that lets no more than so many bytes a second come back: what a broker behind it can deliver is known.
type narrow struct {
	net.Listener
	to   string
	rate float64 // bytes a second
	all  sync.WaitGroup
}

func startNarrow(t *testing.T, to string, rate float64) *narrow {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &narrow{Listener: l, to: to, rate: rate}
	n.all.Go(n.accept)
	t.Cleanup(func() {
		_ = l.Close()
		n.all.Wait()
	})
	return n
}

func (n *narrow) accept() {
	for {
		c, err := n.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", n.to)
		if err != nil {
			_ = c.Close()
			return
		}
		n.all.Go(func() {
			_, _ = io.Copy(b, c)
			_ = b.Close()
		})
		n.all.Go(func() {
			defer c.Close()
			n.carry(c, b)
		})
	}
}

// carry copies at the rate: each part is on its way for as long as its bytes take, one behind the other.
func (n *narrow) carry(c io.Writer, b io.Reader) {
	buf := make([]byte, 512)
	free := time.Now()
	for {
		k, err := b.Read(buf)
		if now := time.Now(); free.Before(now) {
			free = now
		}
		free = free.Add(time.Duration(float64(k) / n.rate * 1e9))
		<-time.After(time.Until(free))
		if _, werr := c.Write(buf[:k]); err != nil || werr != nil {
			return
		}
	}
}

// TestKneeOnTheWire climbs against a broker whose deliveries go through a narrow way: 500,000 bytes a second are some 5,000 messages
// of 100 bytes.
func TestKneeOnTheWire(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	b := brokertest.Start(t, brokertest.Options{})
	const size = 100 // of a PUBLISH on the wire, about
	const most = 5000
	n := startNarrow(t, b.URL()[len("mqtt://"):], size*most)
	objective, err := bench.ParseObjective("p90 < 50ms")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ladder.Climb(t.Context(), ladder.Options{
		Scenario: "narrow", Objective: objective, From: 1000, To: 100_000, Growth: 2.5, Precision: 0.25, Repeats: 1, MaxTime: time.Minute,
		Run: func(ctx context.Context, rate float64) (*bench.Result, error) {
			return bench.Run(ctx, bench.Config{Scenario: "pairs", URL: "mqtt://" + n.Addr().String(), Publishers: 1, Payload: 68, Rate: rate,
				Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond, LateMax: time.Hour})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	// A busy machine may end it early, so that too little is no error here: TestKneeIsInTheInterval has no machine in the way.
	if a.Held > 1.3*most || a.Rule != ladder.RuleGenerator && a.Missed == 0 {
		t.Errorf("%.0f to %.0f, and %d is what goes through: %s (%s)", a.Held, a.Missed, most, a.Rule, a.Reason)
	}
	t.Logf("%.0f to %.0f, %s (%s)", a.Held, a.Missed, a.Rule, a.Reason)
}
