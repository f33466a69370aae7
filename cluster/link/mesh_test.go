package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/testx"
)

// pattern is n bytes that say where they are.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], seed+uint64(i)*0x9E3779B97F4A7C15)
	}
	return b[:n]
}

// ways are the ways in which bytes go: all must give the same.
func ways(t *testing.T, f func(t *testing.T, with func(*Options))) {
	t.Helper()
	c := newCerts(t, 1, 2, 3)
	packed := map[Kind]Limits{}
	for _, k := range Kinds() {
		packed[k] = Limits{Compress: true}
	}
	for name, with := range map[string]func(*Options){
		"plain":      func(*Options) {},
		"tls":        func(o *Options) { o.TLS = c.source(t, uint32(o.ID)) },
		"compressed": func(o *Options) { o.Limits = packed },
		"tls and compressed": func(o *Options) {
			o.TLS = c.source(t, uint32(o.ID))
			o.Limits = packed
		},
	} {
		t.Run(name, func(t *testing.T) { f(t, with) })
	}
}

func TestMessagesOfAllSizesAndKinds(t *testing.T) {
	ways(t, func(t *testing.T, with func(*Options)) {
		kinds := []Kind{KindRaft, KindSnapshot, KindReplication, KindTunnel}
		var got collector
		a := newNode(t, 1, with, nil)
		b := newNode(t, 2, with, collect(&got, kinds...))
		join(t, a, b)
		sent := 0
		for _, k := range kinds {
			for i, n := range []int{0, 1, 255, 256, 257, 2048, 2049, 16384, 65536, 100000, FrameMost - 1, FrameMost, FrameMost + 1, 700000, 1 << 20} {
				got.mu.Lock()
				got.got = got.got[:0]
				got.mu.Unlock()
				for _, p := range [][]byte{pattern(n, uint64(i)), make([]byte, n)} {
					if err := a.Send(2, k, p); err != nil {
						t.Fatal(err)
					}
				}
				sent += 2
				testx.Eventually(t, wait, func() bool { return got.len() == 2 }, k, n)
				if !bytes.Equal(got.got[0], pattern(n, uint64(i))) || !bytes.Equal(got.got[1], make([]byte, n)) {
					t.Fatalf("%v of %d bytes: not the same", k, n)
				}
			}
		}
		testx.Eventually(t, wait, func() bool { return b.Stats().MemoryBytes == 0 }, "memory is given back")
		out, in := a.Stats(), b.Stats()
		var messages uint64
		for _, k := range kinds {
			messages += in.Kinds[k].MessagesIn
			if out.Kinds[k].BytesOut != in.Kinds[k].BytesIn {
				t.Errorf("%v: %d bytes out, %d in", k, out.Kinds[k].BytesOut, in.Kinds[k].BytesIn)
			}
		}
		if messages != uint64(sent) {
			t.Errorf("%d messages counted, %d sent", messages, sent)
		}
		if a.o.Limits != nil && out.Kinds[KindSnapshot].BytesOut >= out.Kinds[KindSnapshot].RawOut*2/3 {
			t.Errorf("zeros were not compressed: %+v", out.Kinds[KindSnapshot])
		}
	})
}

func TestMessageBound(t *testing.T) {
	var got collector
	a := newNode(t, 1, func(o *Options) { o.Limits = map[Kind]Limits{KindRaft: {Message: 1000}} }, nil)
	b := newNode(t, 2, nil, collect(&got, KindRaft))
	join(t, a, b)
	if err := a.Send(2, KindRaft, make([]byte, 1001)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := a.Send(2, KindRaft, make([]byte, 1000)); err != nil {
		t.Error(err)
	}
	if err := a.Send(3, KindRaft, nil); !errors.Is(err, ErrDown) {
		t.Error(err)
	}
	testx.Eventually(t, wait, func() bool { return got.len() == 1 }, "received")
}

// Many goroutines on many channels: order within each, nothing lost, with windows that are far too small for all. Length:
// what is sent and what is compared share all of its variables.
func TestOrderUnderLoad(t *testing.T) {
	ways(t, func(t *testing.T, with func(*Options)) {
		const channels, messages = 12, 400
		small := func(o *Options) {
			with(o)
			pack := o.Limits != nil
			o.Limits = map[Kind]Limits{}
			for _, k := range Kinds() {
				o.Limits[k] = Limits{Window: windowLeast, Queue: 8 << 10, Compress: pack}
			}
		}
		type stream struct {
			collector
			id byte
		}
		var mu sync.Mutex
		got := map[byte]*stream{}
		accept := func(_ *Channel, head []byte) (Receiver, error) {
			mu.Lock()
			defer mu.Unlock()
			s := &stream{id: head[0]}
			got[s.id] = s
			return s, nil
		}
		a := newNode(t, 1, small, nil)
		b := newNode(t, 2, small, func(m *Mesh) {
			for _, k := range []Kind{KindRaft, KindSnapshot, KindReplication, KindTunnel} {
				m.Handle(k, accept)
			}
		})
		join(t, a, b)
		var wg sync.WaitGroup
		for i := range channels {
			ch, err := a.Open(2, []Kind{KindRaft, KindSnapshot, KindReplication, KindTunnel}[i%4], []byte{byte(i)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(1, uint64(i)))
				for n := range messages {
					p := pattern(4+r.IntN(3000)*r.IntN(20)/(1+r.IntN(20)), uint64(n))
					binary.LittleEndian.PutUint32(p, uint32(n))
					if err := ch.Send(p); err != nil {
						t.Error(err)
						return
					}
				}
				ch.Close()
			}()
		}
		wg.Wait()
		testx.Eventually(t, wait, func() bool {
			mu.Lock()
			defer mu.Unlock()
			closed := 0
			for _, s := range got {
				if s.isClosed() {
					closed++
				}
			}
			return closed == channels
		}, "all channels closed")
		for id, s := range got {
			if len(s.got) != messages || s.reason != nil || s.closings != 1 {
				t.Fatalf("channel %d: %d messages, %v", id, len(s.got), s.reason)
			}
			for n, p := range s.got {
				want := pattern(len(p), uint64(n))
				binary.LittleEndian.PutUint32(want, uint32(n))
				if !bytes.Equal(p, want) {
					t.Fatalf("channel %d: message %d is another", id, n)
				}
			}
		}
		testx.Eventually(t, wait, func() bool {
			c := a.conn(2)
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.mu.channels) == 0 && c.mu.queued == 0
		}, "channels are forgotten")
	})
}

// A channel whose receiver stands still holds up its own sender, and nobody else.
func TestStalledChannel(t *testing.T) {
	stalled := &collector{hold: true}
	var other collector
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, func(m *Mesh) {
		collect(stalled, KindTunnel)(m)
		collect(&other, KindReplication, KindRaft)(m)
	})
	join(t, a, b)
	var room collector
	ch, err := a.Open(2, KindTunnel, nil, &room)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for {
		err := ch.TrySend(make([]byte, 1000))
		if errors.Is(err, ErrBusy) && a.Stats().Kinds[KindTunnel].Stalls > 0 {
			break
		}
		if err == nil {
			sent++
		}
	}
	for i := range 2000 {
		if err := a.Send(2, KindReplication, pattern(10000, uint64(i))); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(2, KindRaft, pattern(100, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	testx.Eventually(t, wait, func() bool { return other.len() == 4000 }, "others go on")
	if n := stalled.len() * 1000; n > kindLimits[KindTunnel].Window {
		t.Errorf("%d bytes came, the window has %d", n, kindLimits[KindTunnel].Window)
	}
	stalled.release()
	testx.Eventually(t, wait, func() bool { return stalled.len() == sent }, "it goes on")
	testx.Eventually(t, wait, func() bool { room.mu.Lock(); defer room.mu.Unlock(); return room.rooms >= 1 }, "room")
}

// Close sends what is queued; Abort does not, and says why; both ends hear once.
func TestCloseAndAbort(t *testing.T) {
	var there, here, here2 collector
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, collect(&there, KindReplication))
	join(t, a, b)
	ch, err := a.Open(2, KindReplication, nil, &here)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := ch.TrySend(make([]byte, 20000)); err != nil {
			t.Fatal(err)
		}
	}
	ch.Close()
	ch.Close()
	if err := ch.Send(nil); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
	testx.Eventually(t, wait, func() bool { return there.isClosed() && here.isClosed() }, "closed")
	if there.len() != 100 || there.reason != nil || here.reason != nil {
		t.Errorf("%d messages, %v, %v", there.len(), there.reason, here.reason)
	}
	there.mu.Lock()
	there.hold, there.closed = true, false
	there.mu.Unlock()
	if ch, err = a.Open(2, KindReplication, nil, &here2); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := ch.TrySend(make([]byte, 100000)); err != nil && !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
	}
	ch.Abort("enough")
	testx.Eventually(t, wait, func() bool { return there.isClosed() && here2.isClosed() }, "closed")
	if e := asError(there.reason); e == nil || e.Reason != ReasonClosing || e.Text != "enough" || !e.Peer {
		t.Errorf("there: %v", there.reason)
	}
	if e := asError(here2.reason); e == nil || e.Reason != ReasonClosing || e.Peer {
		t.Errorf("here: %v", here2.reason)
	}
	there.release()
}

// What is sent by reference is released once, sent or not.
func TestSendRef(t *testing.T) {
	there := &collector{hold: true}
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, collect(there, KindReplication))
	join(t, a, b)
	ch, err := a.Open(2, KindReplication, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	block := alloc.NewBlock(100000)
	for i := range block.Bytes() {
		block.Bytes()[i] = byte(i)
	}
	kept := 0
	for {
		block.Retain()
		if err := ch.SendRef(block, block.Bytes()[:90000]); err != nil {
			block.Release()
			if !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
			break
		}
		kept++
	}
	testx.Eventually(t, wait, func() bool { return there.len() > 10 }, "some came")
	a.Disconnect(2, "test")
	testx.Eventually(t, wait, func() bool { return block.Refs() == 1 }, "all are released")
	if err := ch.SendRef(block, nil); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
	block.Release()
	there.release()
	there.mu.Lock()
	defer there.mu.Unlock()
	if !bytes.Equal(there.got[0], block0(90000)) {
		t.Error("other bytes")
	}
}

func block0(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// A sender that waits for room is let go when the connection ends.
func TestBlockedSenderIsLetGo(t *testing.T) {
	there := &collector{hold: true}
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, collect(there, KindTunnel))
	join(t, a, b)
	ch, err := a.Open(2, KindTunnel, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for {
			if err := ch.Send(make([]byte, 5000)); err != nil {
				done <- err
				return
			}
		}
	}()
	testx.Eventually(t, wait, func() bool {
		ch.c.mu.Lock()
		defer ch.c.mu.Unlock()
		return ch.c.mu.waiting == 1
	}, "it waits")
	b.Close()
	if err := testx.Receive(t, done, wait); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
	there.release()
}

// Channels that nobody serves, or too many, or that the owner does not want are refused by name and hurt nobody.
func TestRefusedChannels(t *testing.T) {
	var got collector
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, func(o *Options) { o.Limits = map[Kind]Limits{KindReplication: {Channels: 2}} }, func(m *Mesh) {
		collect(&got, KindReplication)(m)
		m.Handle(KindTunnel, func(*Channel, []byte) (Receiver, error) { return nil, errors.New("no such client") })
	})
	join(t, a, b)
	open := func(k Kind) *collector {
		var r collector
		ch, err := a.Open(2, k, []byte("x"), &r)
		if err != nil {
			t.Fatal(err)
		}
		_ = ch.TrySend(make([]byte, 3000)) // may have ended by now
		return &r
	}
	ended := func(r *collector, want Reason, text string) {
		t.Helper()
		testx.Eventually(t, wait, r.isClosed, "closed")
		if ReasonOf(r.reason) != want || !strings.Contains(fmt.Sprint(r.reason), text) {
			t.Errorf("%v, want %v %q", r.reason, want, text)
		}
	}
	ended(open(KindSnapshot), ReasonKind, "no snapshot channels here")
	ended(open(KindTunnel), ReasonNotAdmitted, "no such client")
	one, two := open(KindReplication), open(KindReplication)
	ended(open(KindReplication), ReasonBusy, "2 replication channels are open")
	testx.Eventually(t, wait, func() bool { return got.len() == 2 }, "those that are open work")
	if one.isClosed() || two.isClosed() {
		t.Error("one that was open was ended")
	}
	if _, err := a.Open(2, 9, nil, nil); err == nil {
		t.Error("kind 9 was opened")
	}
	for range 100 {
		ended(open(KindTunnel), ReasonNotAdmitted, "no such client")
	}
	if len(a.Connected()) != 1 {
		t.Error("not connected any more")
	}
}

func TestReconnect(t *testing.T) {
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, nil)
	join(t, a, b)
	for i := 1; i <= 5; i++ {
		b.Disconnect(1, "once more")
		testx.Eventually(t, wait, func() bool {
			return a.events.count("up 2") == i+1 && b.events.count("up 1") == i+1 && len(a.Connected()) == 1 && len(b.Connected()) == 1
		}, "up again", i)
	}
	if a.events.count("down 2") != 5 {
		t.Errorf("%v", a.events.list)
	}
	a.events.mu.Lock()
	defer a.events.mu.Unlock()
	for i, s := range a.events.list {
		if want := []string{"up 2", "down 2"}[i%2]; s != want {
			t.Fatalf("event %d: %s in %v", i, s, a.events.list)
		}
		if s == "down 2" && (ReasonOf(a.events.errs[i]) != ReasonClosing || !strings.Contains(a.events.errs[i].Error(), "once more")) {
			t.Errorf("down with %v", a.events.errs[i])
		}
	}
}

// Both dial at the same moment, again and again: one connection comes of it, the same at both ends.
func TestBothDial(t *testing.T) {
	for range 40 {
		a := newNode(t, 1, func(o *Options) { o.BackoffMin = time.Microsecond }, nil)
		b := newNode(t, 2, func(o *Options) { o.BackoffMin = time.Microsecond }, nil)
		join(t, a, b)
		same := func() bool {
			ca, cb := a.conn(2), b.conn(1)
			return ca != nil && cb != nil && ca.peer.Dialed != cb.peer.Dialed && ca.raw.LocalAddr().String() == cb.raw.RemoteAddr().String()
		}
		testx.Eventually(t, wait, same, "one connection")
		a.Close()
		b.Close()
		for _, n := range []*node{a, b} {
			up, down := 0, 0
			for _, s := range n.events.list {
				if strings.HasPrefix(s, "up") {
					up++
				} else {
					down++
				}
				if up-down != 0 && up-down != 1 {
					t.Fatalf("events: %v", n.events.list)
				}
			}
		}
	}
}

// A node that comes back as another process is taken once the old one is gone, and refused while it lives.
func TestNodeInUse(t *testing.T) {
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, nil)
	join(t, a, b)
	twin := newNode(t, 2, nil, nil)
	_, err := twin.Dial(t.Context(), a.addr)
	if ReasonOf(err) != ReasonNodeInUse {
		t.Fatalf("twin: %v", err)
	}
	if len(a.Connected()) != 1 || a.events.count("down 2") != 0 {
		t.Error("the twin has harmed the node")
	}
	b.Close()
	testx.Eventually(t, wait, func() bool { return a.events.count("down 2") == 1 }, "down")
	if err := a.SetPeers(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := twin.Dial(t.Context(), a.addr); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 }, "the new one is taken")
}

// A peer that falls silent is dead after DeadAfter; one that is idle is not.
func TestKeepalive(t *testing.T) {
	short := func(o *Options) { o.DeadAfter = 200 * time.Millisecond }
	var dead sync.Map
	a := newNode(t, 1, func(o *Options) {
		short(o)
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := dialTCP(ctx, addr)
			if err != nil {
				return nil, err
			}
			m := &muteConn{Conn: nc}
			dead.Store(m, true)
			return m, nil
		}
	}, nil)
	b := newNode(t, 2, short, nil)
	if err := a.SetPeers(map[NodeID]string{2: b.addr}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 && len(b.Connected()) == 1 }, "up")
	testx.Eventually(t, wait, func() bool { return a.Stats().RTT[2] > 0 && a.Stats().FramesIn > 10 }, "pings are answered")
	if a.events.count("down 2") != 0 || b.events.count("down 1") != 0 {
		t.Fatal("an idle peer was taken for dead")
	}
	began := time.Now()
	dead.Range(func(k, _ any) bool { k.(*muteConn).mute.Store(true); return true })
	testx.Eventually(t, wait, func() bool { return b.events.count("down 1") == 1 }, "found dead")
	b.events.mu.Lock()
	err := b.events.errs[1]
	b.events.mu.Unlock()
	if ReasonOf(err) != ReasonDead {
		t.Errorf("down with %v", err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("dead after %v", took)
	}
	testx.Eventually(t, wait, func() bool { return b.events.count("up 1") == 2 }, "up again")
}

func TestSetPeersRefusesWhatNobodyCanCall(t *testing.T) {
	a := newNode(t, 1, nil, nil)
	for _, addr := range []string{"0.0.0.0:1", "[::]:1", ":1", "x", ""} {
		if err := a.SetPeers(map[NodeID]string{2: addr}); err == nil {
			t.Errorf("%q was taken", addr)
		}
	}
	if err := a.SetPeers(map[NodeID]string{0: "127.0.0.1:1"}); err == nil {
		t.Error("node 0 was taken")
	}
}

// An address that has changed is dialed without a restart.
func TestAddressChanges(t *testing.T) {
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, nil)
	if err := a.SetPeers(map[NodeID]string{2: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return a.Stats().Dials > 1 }, "dials")
	if err := a.SetPeers(map[NodeID]string{2: b.addr}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 }, "connected")
}

// However many clients of tunnels stand still, half of what may wait for a peer is left for the rest; and each of them hears when there is room.
func TestTunnelsLeaveRoom(t *testing.T) {
	const memory = 256 << 10
	still, rest := &collector{hold: true}, &collector{}
	a := newNode(t, 1, func(o *Options) {
		o.PeerMemory = memory
		o.Limits = map[Kind]Limits{KindTunnel: {Window: windowLeast, Queue: 16 << 10}}
	}, nil)
	b := newNode(t, 2, func(o *Options) { o.Limits = map[Kind]Limits{KindTunnel: {Window: windowLeast}} }, func(m *Mesh) {
		collect(still, KindTunnel)(m)
		collect(rest, KindReplication)(m)
	})
	join(t, a, b)
	part := make([]byte, 8<<10)
	var tunnels []*collector
	for range 60 {
		r := &collector{}
		ch, err := a.Open(2, KindTunnel, nil, r)
		if err != nil {
			t.Fatal(err)
		}
		for {
			err := ch.TrySend(part)
			if errors.Is(err, ErrBusy) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		tunnels = append(tunnels, r)
	}
	if n := a.Stats().Queued[2]; n > memory/2+len(part) {
		t.Errorf("%d bytes of tunnels wait", n)
	}
	ch, err := a.Open(2, KindReplication, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.TrySend(make([]byte, memory/4)); err != nil {
		t.Errorf("a frame of the log: %v", err)
	}
	testx.Eventually(t, wait, func() bool { return rest.len() == 1 }, "it comes")
	still.release()
	for i, r := range tunnels {
		testx.Eventually(t, wait, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.rooms > 0
		}, "tunnel", i, "hears of room")
	}
}

// Tunnels whose messages are not let go of are ended when they have half of the memory; what else comes is not.
func TestTunnelsAreEndedAlone(t *testing.T) {
	still, rest := &collector{hold: true}, &collector{}
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, func(o *Options) {
		o.PeerMemory = 256 << 10
		o.Limits = map[Kind]Limits{KindTunnel: {Window: windowLeast}}
	}, func(m *Mesh) {
		collect(still, KindTunnel)(m)
		collect(rest, KindReplication)(m)
	})
	join(t, a, b)
	ended := &collector{}
	for range 40 {
		ch, err := a.Open(2, KindTunnel, nil, ended)
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.TrySend(make([]byte, 8<<10)); err != nil {
			t.Fatal(err)
		}
	}
	testx.Eventually(t, wait, func() bool {
		ended.mu.Lock()
		defer ended.mu.Unlock()
		return ended.closings > 0 && ReasonOf(ended.reason) == ReasonMemory
	}, "one too many is ended")
	ch, err := a.Open(2, KindReplication, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.TrySend(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return rest.len() == 1 }, "a frame of the log comes")
	if n := b.Stats().MemoryBytes; n > 160<<10 {
		t.Errorf("%d bytes are pinned", n)
	}
	still.release()
	testx.Eventually(t, wait, func() bool { return b.Stats().MemoryBytes == 0 && b.tunnels.Load() == 0 }, "all is counted back")
}
