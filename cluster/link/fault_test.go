package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

var faultRounds = flag.Int("fault-rounds", 6, "rounds of TestFaults for each way")

// muteConn swallows what is written once it is muted: the peer is there, and hears nothing.
type muteConn struct {
	net.Conn
	mute atomic.Bool
}

func (c *muteConn) Write(p []byte) (int, error) {
	if c.mute.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// faultConn is a wire that delays, cuts, changes or doubles what is written on it, once it has carried some bytes. It is a wire: what it
// does to bytes it does without saying so.
type faultConn struct {
	net.Conn
	mu    sync.Mutex
	r     *rand.Rand
	after int // bytes until the fault
	fault string
}

var faults = []string{"cut", "change", "double", "drop", "delay", "none"}

func (c *faultConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after -= len(p); c.after > 0 {
		return c.Conn.Write(p)
	}
	n := len(p)
	at := c.r.IntN(n)
	switch c.fault {
	case "cut":
		_, _ = c.Conn.Write(p[:at])
		_ = c.Close()
		return 0, net.ErrClosed
	case "change":
		p = bytes.Clone(p)
		p[at] ^= 1 << c.r.IntN(8)
	case "double":
		p = append(bytes.Clone(p[:at]), p...)
	case "drop":
		p = append(bytes.Clone(p[:at]), p[min(at+1+c.r.IntN(50), n):]...)
	case "delay":
		wait := time.NewTimer(time.Duration(c.r.IntN(20)) * time.Millisecond)
		<-wait.C
	}
	c.after = 50000 + c.r.IntN(1000000)
	if _, err := c.Conn.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}

// inOrder is a Receiver that checks that every message is the next of its channel, whole.
type inOrder struct {
	name   string
	mu     sync.Mutex
	next   uint32
	wrong  string
	closed bool
	clean  bool
}

func (o *inOrder) Receive(_ *Channel, m Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer m.Release()
	b := m.Bytes()
	if len(b) < 4 {
		o.wrong = fmt.Sprintf("%s: message of %d bytes", o.name, len(b))
		return
	}
	n := binary.LittleEndian.Uint32(b)
	want := pattern(len(b), uint64(n))
	binary.LittleEndian.PutUint32(want, n)
	if n != o.next || o.closed || !bytes.Equal(b, want) {
		o.wrong = fmt.Sprintf("%s: message %d of %d bytes where %d should come, or other bytes", o.name, n, len(b), o.next)
	}
	o.next = n + 1
}

func (o *inOrder) Closed(_ *Channel, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.clean = true, err == nil
}

// Over wires that do what wires do, every message of a channel arrives once, whole and in order, or the channel ends at both ends; and the
// nodes find together again.
func TestFaults(t *testing.T) {
	ways(t, func(t *testing.T, with func(*Options)) {
		for round := range *faultRounds {
			seed := uint64(round)
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { faultRound(t, seed, with) })
		}
	})
}

// faultRound is one round. Length: what is sent, what is taken and what is compared share all of its variables.
func faultRound(t *testing.T, seed uint64, with func(*Options)) {
	t.Helper()
	fault := faults[seed%uint64(len(faults))]
	var dials atomic.Uint64
	wire := func(o *Options) {
		with(o)
		o.DeadAfter = 2 * time.Second
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := dialTCP(ctx, addr)
			if err != nil {
				return nil, err
			}
			r := rand.New(rand.NewPCG(seed, dials.Add(1)))
			return &faultConn{Conn: nc, r: r, after: 3000 + r.IntN(400000), fault: fault}, nil
		}
	}
	var mu sync.Mutex
	var all []*inOrder
	accept := func(_ *Channel, head []byte) (Receiver, error) {
		o := &inOrder{name: string(head)}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, o)
		return o, nil
	}
	kinds := []Kind{KindRaft, KindReplication, KindSnapshot, KindTunnel}
	handle := func(m *Mesh) {
		for _, k := range kinds {
			m.Handle(k, accept)
		}
	}
	a, b := newNode(t, 1, wire, handle), newNode(t, 2, wire, handle)
	join(t, a, b)
	var wg sync.WaitGroup
	whole := make(map[string]uint32) // what was sent of channels that were closed in order
	for i, k := range kinds {
		for _, way := range []struct {
			from *node
			to   NodeID
		}{{a, 2}, {b, 1}} {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				for try := range 4 {
					name := fmt.Sprintf("%v %d from %d", k, try, way.from.o.ID)
					end := &inOrder{}
					ch, err := way.from.Open(way.to, k, []byte(name), end)
					for n := uint32(0); err == nil && n < 40; n++ {
						p := pattern(4+r.IntN(1<<r.IntN(18)), uint64(n))
						binary.LittleEndian.PutUint32(p, n)
						err = ch.Send(p)
					}
					if err != nil {
						testx.Eventually(t, wait, func() bool { return len(way.from.Connected()) == 1 }, "together again")
						continue
					}
					ch.Close()
					testx.Eventually(t, wait, func() bool { end.mu.Lock(); defer end.mu.Unlock(); return end.closed }, "closed")
					if end.clean {
						mu.Lock()
						whole[name] = 40
						mu.Unlock()
					}
				}
			}()
		}
	}
	wg.Wait()
	a.Close()
	b.Close()
	for _, o := range all {
		if o.wrong != "" {
			t.Errorf("%s: %s", fault, o.wrong)
		}
		if want := whole[o.name]; want != 0 && o.next != want || !o.closed {
			t.Errorf("%s: %s: %d of %d messages, closed %v", fault, o.name, o.next, want, o.closed)
		}
	}
	if fault == "none" && len(whole) != 32 {
		t.Errorf("%d channels were whole", len(whole))
	}
	t.Logf("%s: %d of %d channels were whole; ends %v %v; refusals %v", fault, len(whole), len(all), a.Stats().Ends, b.Stats().Ends, b.Stats().Refusals)
	if a.Stats().MemoryBytes != 0 || b.Stats().MemoryBytes != 0 {
		t.Errorf("memory: %d, %d", a.Stats().MemoryBytes, b.Stats().MemoryBytes)
	}
}
