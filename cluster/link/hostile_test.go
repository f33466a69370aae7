package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
)

// intruder is a peer that has the token, and keeps to no rule behind the handshake.
type intruder struct {
	net.Conn
	t *testing.T
}

func knock(t *testing.T, n *node) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// intrude comes in as node id.
func intrude(t *testing.T, n *node, id NodeID) *intruder {
	t.Helper()
	nc := knock(t, n)
	h := &hello{versionMin: 1, versionMax: 1, plaintext: true, from: id, to: n.o.ID, cluster: testCluster, feature: 1, clockMs: time.Now().UnixMilli(), incarnation: uint64(id)}
	for k := range h.windows {
		h.windows[k] = windowLeast
	}
	own := appendHello(nil, h)
	write := func(typ byte, p []byte) {
		if _, err := nc.Write(appendShake(nil, typ, p)); err != nil {
			t.Fatal(err)
		}
	}
	write(shakeHello, own)
	theirs, err := readShake(nc, shakeHello)
	if err != nil {
		t.Fatal(err)
	}
	write(shakeProof, proof(n.o.Token, "dialer", own, theirs, make([]byte, 32)))
	if _, err := readShake(nc, shakeWelcome); err != nil {
		t.Fatal(err)
	}
	return &intruder{nc, t}
}

func (i *intruder) send(h header, p ...[]byte) {
	if _, err := i.Write(appendControl(nil, true, h, p...)); err != nil && !errors.Is(err, net.ErrClosed) {
		return // it was thrown out already: the caller looks why
	}
}

func (i *intruder) open(id uint32, k Kind) {
	i.send(header{channel: id, typ: frameOpen}, []byte{byte(k)})
}

func (i *intruder) data(id uint32, flags uint8, p []byte) {
	i.send(header{channel: id, typ: frameData, flags: flags}, p)
}

// frame reads a frame; the end of the connection is one of type 0.
func (i *intruder) frame() (header, []byte) {
	i.t.Helper()
	_ = i.SetReadDeadline(time.Now().Add(wait))
	var b [headerBytes + crcBytes]byte
	if _, err := io.ReadFull(i, b[:]); err != nil {
		return header{}, nil
	}
	h, err := decodeHeader(b[:])
	if err != nil {
		i.t.Fatal(err)
	}
	p := make([]byte, h.length)
	if _, err := io.ReadFull(i, p); err != nil {
		return header{}, nil
	}
	return h, p
}

// bye reads until the node's goodbye, or the end.
func (i *intruder) bye() *Error {
	i.t.Helper()
	for {
		switch h, p := i.frame(); h.typ {
		case 0:
			return &Error{Reason: ReasonLost}
		case frameBye:
			return decodeReason(p)
		default:
		}
	}
}

// A peer that breaks a rule loses its connection with the reason's name, holds up nobody, and leaves nothing behind.
func TestHostilePeers(t *testing.T) {
	long := func(total uint32, p []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, total), p...) }
	for _, tc := range []struct {
		name string
		do   func(i *intruder)
		want Reason
	}{
		{"noise", func(i *intruder) { _, _ = i.Write(bytes.Repeat([]byte{0xA5}, 64)) }, ReasonMalformed},
		{"length of 4 GiB", func(i *intruder) {
			_, _ = i.Write(append(appendHeader(nil, header{length: 1<<32 - 1, channel: 1, typ: frameData}), 0, 0, 0, 0))
		}, ReasonTooLarge},
		{"frame above the bound", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, 0, make([]byte, FrameMost+1))
		}, ReasonTooLarge},
		{"checksum", func(i *intruder) {
			b := appendControl(nil, true, header{channel: 1, typ: frameOpen}, []byte{byte(KindReplication)})
			b[len(b)-1] ^= 2
			_, _ = i.Write(b)
		}, ReasonChecksum},
		{"channel that is not open", func(i *intruder) { i.data(1, 0, nil) }, ReasonChannel},
		{"channel with our number", func(i *intruder) { i.open(2, KindReplication) }, ReasonChannel},
		{"channel opened twice", func(i *intruder) { i.open(1, KindReplication); i.open(1, KindReplication) }, ReasonChannel},
		{"channel that was closed", func(i *intruder) {
			i.open(1, KindReplication)
			i.send(header{channel: 1, typ: frameClose}, []byte{0})
			i.data(1, 0, nil)
		}, ReasonChannel},
		{"credit for no channel", func(i *intruder) { i.send(header{channel: 9, typ: frameCredit}, []byte{1, 0, 0, 0}) }, ReasonChannel},
		{"credit without end", func(i *intruder) {
			i.open(1, KindReplication)
			for range 3 {
				i.send(header{channel: 1, typ: frameCredit}, []byte{0xff, 0xff, 0xff, 0x7f})
			}
		}, ReasonMalformed},
		{"more than its credit", func(i *intruder) {
			i.open(1, KindTunnel)
			for range kindLimits[KindTunnel].Window/1000 + 1 {
				i.data(1, 0, make([]byte, 1000))
			}
		}, ReasonCredit},
		{"more small frames than its credit", func(i *intruder) {
			i.open(1, KindTunnel)
			for range kindLimits[KindTunnel].Window/frameCost + 1 {
				i.data(1, 0, nil)
			}
		}, ReasonCredit},
		{"long message without its length", func(i *intruder) { i.open(1, KindReplication); i.data(1, flagMore, make([]byte, 9)) }, ReasonMalformed},
		{"long message longer than it said", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagMore|flagLong, long(10, make([]byte, 9)))
			i.data(1, 0, make([]byte, 2))
		}, ReasonMalformed},
		{"long message shorter than it said", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagMore|flagLong, long(10, make([]byte, 5)))
			i.data(1, 0, make([]byte, 2))
		}, ReasonMalformed},
		{"long message in a long message", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagMore|flagLong, long(10, make([]byte, 5)))
			i.data(1, flagMore|flagLong, long(10, make([]byte, 5)))
		}, ReasonMalformed},
		{"long message above the bound", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagMore|flagLong, long(uint32(kindLimits[KindReplication].Message)+1, nil))
		}, ReasonTooLarge},
		{"compressed bomb", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagCompressed, binary.LittleEndian.AppendUint32(nil, 1<<31))
		}, ReasonTooLarge},
		{"compressed lie", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagCompressed, append(binary.LittleEndian.AppendUint32(nil, 1000), 0xff, 0xff, 0xff, 0x0f, 1))
		}, ReasonMalformed},
		{"compressed garbage", func(i *intruder) {
			i.open(1, KindReplication)
			i.data(1, flagCompressed, append(binary.LittleEndian.AppendUint32(nil, 100), 100, 0xff, 0xff))
		}, ReasonMalformed},
		{"no request", func(i *intruder) {
			i.open(1, KindRequest)
			i.data(1, 0, []byte("x"))
			i.send(header{typ: frameBye}, []byte{byte(ReasonClosing)})
		}, ReasonClosing},
		{"channels faster than they can be refused", func(i *intruder) {
			for id := uint32(1); id < 2*channelsMost+5; id += 2 {
				i.open(id, KindSnapshot)
			}
		}, ReasonFlood},
		{"silence", func(*intruder) {}, ReasonDead},
	} {
		t.Run(tc.name, func(t *testing.T) {
			held := &collector{hold: true}
			n := newNode(t, 1, func(o *Options) {
				if tc.name == "silence" {
					o.DeadAfter = 100 * time.Millisecond
				}
			}, collect(held, KindReplication, KindTunnel))
			i := intrude(t, n, 2)
			go tc.do(i)
			said := i.bye()
			testx.Eventually(t, wait, func() bool { return n.events.count("down 2") == 1 }, "it is thrown out")
			_, err := n.events.last()
			if ReasonOf(err) != tc.want {
				t.Errorf("ended with %v, want %v", err, tc.want)
			}
			if said.Reason != tc.want && said.Reason != ReasonLost {
				t.Errorf("told %v", said)
			}
			_ = i.Close()
			held.release()
			testx.Eventually(t, wait, func() bool { return n.Stats().MemoryBytes == 0 }, "memory")
		})
	}
}

// A peer that never reads is thrown out, once its socket's buffers are full, and holds up nobody until then.
func TestPeerThatNeverReads(t *testing.T) {
	var got collector
	n := newNode(t, 1, func(o *Options) { o.WriteTimeout = 300 * time.Millisecond; o.DeadAfter = time.Hour }, collect(&got, KindReplication))
	other := newNode(t, 3, nil, collect(&got, KindReplication))
	i := intrude(t, n, 2)
	testx.Eventually(t, wait, func() bool { return n.events.count("up 2") == 1 }, "in")
	ch, err := n.Open(2, KindReplication, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	i.send(header{channel: 2, typ: frameCredit}, []byte{0, 0, 0, 0x40})
	gone := make(chan error)
	go func() {
		for {
			if err := ch.Send(make([]byte, 100000)); err != nil {
				gone <- err
				return
			}
		}
	}()
	if err := n.SetPeers(map[NodeID]string{3: other.addr}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return n.events.count("up 3") == 1 }, "another comes in")
	for range 100 {
		if err := n.Send(3, KindReplication, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	testx.Eventually(t, wait, func() bool { return got.len() == 100 }, "and is served")
	testx.Eventually(t, wait, func() bool { return n.events.count("down 2") == 1 }, "thrown out")
	if n.Stats().Ends[ReasonNotReading] != 1 {
		t.Errorf("%v", n.Stats().Ends)
	}
	if err := testx.Receive(t, gone, wait); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
}

// What receivers hold is bounded, for a peer and in all: the channel that goes beyond ends, and no other.
func TestMemoryBound(t *testing.T) {
	held := &collector{hold: true}
	var other collector
	small := func(o *Options) { o.Memory = 1 << 20 }
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, small, func(m *Mesh) {
		collect(held, KindReplication)(m)
		collect(&other, KindRaft)(m)
	})
	join(t, a, b)
	var here collector
	ch, err := a.Open(2, KindReplication, nil, &here)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := ch.Send(make([]byte, 60000)); err != nil {
			break
		}
	}
	testx.Eventually(t, wait, here.isClosed, "ended")
	if ReasonOf(here.reason) != ReasonMemory {
		t.Errorf("ended with %v", here.reason)
	}
	if used := b.Stats().MemoryBytes; used > 1<<20 {
		t.Errorf("%d bytes are held", used)
	}
	if err := a.Send(2, KindRaft, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return other.len() == 1 }, "others go on")
	held.release()
	testx.Eventually(t, wait, func() bool { return b.Stats().MemoryBytes == 0 }, "given back")
}

// Strangers that hold places, send slowly, or noise, or nothing, keep no node out and leave nothing behind.
func TestStrangers(t *testing.T) {
	b := newNode(t, 2, func(o *Options) { o.Handshakes = 8; o.HandshakeTimeout = 500 * time.Millisecond }, nil)
	var crowd []net.Conn
	for i := range 100 {
		nc := knock(t, b)
		crowd = append(crowd, nc)
		switch i % 4 {
		case 1:
			_, _ = nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		case 2:
			_, _ = nc.Write([]byte{200, 0})
		case 3:
			_, _ = nc.Write(appendShake(nil, shakeHello, make([]byte, 150)))
		}
	}
	a := newNode(t, 1, nil, nil)
	if err := a.SetPeers(map[NodeID]string{2: b.addr}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 }, "a node comes in")
	testx.Eventually(t, wait, func() bool {
		var seen uint64
		for _, n := range b.Stats().Refusals {
			seen += n
		}
		return seen >= 100
	}, "all strangers are gone")
	if s := b.Stats(); s.Refusals[ReasonBusy] == 0 || s.Refusals[ReasonMalformed] == 0 {
		t.Errorf("%v", s.Refusals)
	}
	for _, nc := range crowd {
		_ = nc.SetReadDeadline(time.Now().Add(wait))
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a stranger is still connected")
		}
	}
}

// The handshake's time is of the clock that the node was given.
func TestSlowloris(t *testing.T) {
	clk := clock.NewManual(time.Now())
	b := newNode(t, 2, func(o *Options) { o.Clock = clk }, nil)
	nc := knock(t, b)
	shaking := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.mu.shaking)
	}
	testx.Eventually(t, wait, func() bool { return shaking() == 1 }, "it is being listened to")
	h := appendShake(nil, shakeHello, appendHello(nil, &hello{versionMin: 1, versionMax: 1, from: 3, plaintext: true}))
	for i := range 4 {
		if _, err := nc.Write(h[i : i+1]); err != nil {
			t.Fatal(err)
		}
		clk.Advance(time.Second)
	}
	if shaking() != 1 {
		t.Fatal("it was thrown out early")
	}
	clk.Advance(2 * time.Second)
	testx.Eventually(t, wait, func() bool { return shaking() == 0 && b.Stats().Refusals[ReasonTimeout] == 1 }, "thrown out")
	if clk.Pending() != 0 {
		t.Errorf("%d timers are left", clk.Pending())
	}
}
