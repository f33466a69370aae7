package broker

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// loopRunner runs a Local on a goroutine of its own, as a server's loop does.
type loopRunner struct {
	l    *Local
	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup
}

func runLoop(l *Local) *loopRunner {
	r := &loopRunner{l: l, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	l.SetWake(func() {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.wake:
			case <-tick.C:
				l.Tick()
			case <-r.stop:
				return
			}
			l.Drain()
			l.EndTurn()
		}
	}()
	return r
}

// lockedLog commits memLog's groups on a goroutine of its own.
type lockedLog struct {
	*memLog
	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup
}

func (g *lockedLog) Wake() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *lockedLog) run() {
	defer g.done.Done()
	for {
		select {
		case <-g.wake:
		case <-g.stop:
			return
		}
		g.awake = true
		g.commit()
	}
}

// racer is a client whose every use is on its loop; it subscribes, publishes one message after the other, acknowledges and comes back.
type racer struct {
	sink
	id     string
	rounds int
	sent   int
	done   func()
	taken  *atomic.Int64
	closed bool
}

func (r *racer) Deliver(m *Message, d *Delivery) (uint16, bool) {
	id, ok := r.sink.Deliver(m, d)
	r.taken.Add(1)
	if !d.Ref.Zero() {
		qos := d.QoS
		r.l.Run(func() {
			if r.closed {
				return
			}
			if qos == 2 {
				if _, err := r.l.Received(r.c, id, 3); err != nil {
					return
				}
			}
			r.l.Acked(r.c, id)
		})
	}
	r.acks = r.acks[:0]
	return id, ok
}

func (r *racer) Connected(res ConnectResult) {
	if res.Err != nil {
		r.again()
		return
	}
	reqs := []SubscribeRequest{{Filter: []byte("race/#"), QoS: 2}, {Filter: fmt.Appendf(nil, "race/%s/+", r.id), QoS: 1, NoLocal: true},
		{Filter: []byte("race/+/1"), Group: []byte("g"), QoS: 2}}
	if out, err := r.l.Subscribe(r.c, reqs, make([]error, 3), 1); err == nil && out != Pending {
		r.Completed(Result{Token: 1})
	}
}

func (r *racer) Completed(res Result) {
	if res.Token == 3 || r.closed {
		return
	}
	if r.sent++; r.sent%20 == 0 {
		r.l.Disconnect(r.c, DisconnectRequest{PublishWill: r.sent%40 == 0})
		r.again()
		return
	}
	m := Message{Topic: fmt.Appendf(nil, "race/%s/%d", r.id, r.sent%3), Payload: []byte("x"), QoS: QoS(r.sent % 3), Retain: r.sent%5 == 0,
		Timestamp: clockStart.UnixMilli()}
	out, err := r.l.Publish(r.c, &m, m.QoS == 2, Token(100+r.sent%60000))
	if err == nil && out == Pending && m.QoS > 0 {
		return
	}
	r.l.Run(func() { r.Completed(Result{Token: 2}) })
}

func (r *racer) Kicked(error) {
	if !r.closed {
		r.l.Disconnect(r.c, DisconnectRequest{PublishWill: true})
		r.again()
	}
}

func (r *racer) again() {
	r.closed = true
	if r.rounds--; r.rounds <= 0 {
		r.done()
		return
	}
	next := *r
	n := &next
	n.closed = false
	n.c = n.l.NewClient(n)
	n.l.Run(func() {
		n.l.Connect(n.c, &ConnectRequest{ClientID: n.id, Expiry: []time.Duration{0, NeverExpires, time.Hour}[n.rounds%3],
			CleanStart: n.rounds%4 == 0, ReceiveMax: 10, Will: &Will{Topic: []byte("race/will"), Payload: []byte("w"), QoS: 1}})
	})
}

// TestLoopsTogether runs loops, committer, fetchers and checkpoints at once; the race detector has the say.
func TestLoopsTogether(t *testing.T) {
	tb := newTestBroker(t, 3, nil)
	log := &lockedLog{memLog: tb.log, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	tb.b.UseLog(log)
	log.done.Add(1)
	go log.run()
	var loops []*loopRunner
	for i := range tb.b.Loops() {
		loops = append(loops, runLoop(tb.b.Local(i)))
	}
	var left, taken atomic.Int64
	for i := range 12 {
		left.Add(1)
		r := &racer{id: fmt.Sprintf("c%d", i%10), rounds: 60, taken: &taken, done: func() { left.Add(-1) }} // two names have two who fight for them
		r.l = tb.b.Local(i % 3)
		r.rounds++
		r.l.Run(r.again)
	}
	points := &memCheckpoints{}
	testx.Eventually(t, time.Minute, func() bool {
		if err := tb.b.Checkpoint(points); err != nil {
			t.Error(err)
		}
		runtime.Gosched()
		return left.Load() == 0
	})
	for _, r := range loops {
		close(r.stop)
		r.done.Wait()
	}
	close(log.stop)
	log.done.Wait()
	st := tb.b.Stats()
	t.Logf("%d delivered, %d journaled", taken.Load(), st.Journaled.Load())
	if taken.Load() == 0 {
		t.Error("nothing was delivered")
	}
}
