package link

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

func FuzzHeader(f *testing.F) {
	for _, h := range []header{{typ: frameData, channel: 1, length: 9}, {typ: frameOpen, channel: 3, length: 1}, {typ: frameBye, length: 1},
		{typ: frameData, channel: 1, length: FrameMost + longBytes, flags: flagLong | flagMore}, {typ: frameData, channel: 7, length: 4, flags: flagCompressed}} {
		f.Add(appendHeader(nil, h))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerBytes {
			return
		}
		h, err := decodeHeader(b)
		if err != nil {
			if asError(err) == nil {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		if h.length > FrameMost+8 {
			t.Fatalf("%d bytes were let through", h.length)
		}
		if !bytes.Equal(appendHeader(nil, h), b[:headerBytes]) {
			t.Fatalf("%x became %+v", b[:headerBytes], h)
		}
	})
}

func FuzzHello(f *testing.F) {
	h := hello{versionMin: 1, versionMax: 1, from: 1, to: 2, cluster: testCluster, opens: compressS2}
	for k := range h.windows {
		h.windows[k] = windowLeast
	}
	f.Add(appendHello(nil, &h))
	f.Add(appendHello(nil, &h)[:100])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			if asError(err) == nil {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		again, err := decodeHello(appendHello(nil, &h))
		all := true
		for k := 1; k < numKinds; k++ {
			all = all && h.windows[k] != 0
		}
		if all && (err != nil || again != h) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

// FuzzFrames gives a connection arbitrary frames behind a good handshake: it ends with a reason or goes on, and holds nothing in the end.
func FuzzFrames(f *testing.F) {
	open := appendControl(nil, true, header{channel: 1, typ: frameOpen}, []byte{byte(KindReplication)})
	f.Add(open)
	f.Add(appendControl(bytes.Clone(open), true, header{channel: 1, typ: frameData}, []byte("message")))
	f.Add(appendControl(bytes.Clone(open), true, header{channel: 1, typ: frameData, flags: flagLong | flagMore}, binary.LittleEndian.AppendUint32(nil, 100)))
	f.Add(appendControl(bytes.Clone(open), true, header{channel: 1, typ: frameClose}, []byte{0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := New(Options{ID: 1, Token: []byte("x"), DeadAfter: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		m.Handle(KindReplication, Messages(func(_ NodeID, m Message) { m.Release() }))
		here, there := net.Pipe()
		s := &session{nc: here, raw: here}
		s.peer.ID = 2
		for k := range s.windows {
			s.windows[k] = windowLeast
		}
		c := m.newConn(s)
		if _, err := m.register(c); err != nil {
			t.Fatal(err)
		}
		go func() { defer m.wg.Done(); c.begin(nil) }()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		// Sums are put right, or no input would get far.
		for len(b) >= headerBytes+crcBytes {
			h := header{length: binary.LittleEndian.Uint32(b), channel: binary.LittleEndian.Uint32(b[4:]), typ: frameType(b[8]), flags: b[9]}
			n := min(int(h.length), len(b)-headerBytes-crcBytes)
			if _, err := there.Write(appendControl(nil, true, h, b[headerBytes+crcBytes:][:n])); err != nil {
				break
			}
			b = b[headerBytes+crcBytes+n:]
		}
		_, _ = there.Write(b)
		_ = there.Close()
		testx.Eventually(t, wait, func() bool {
			select {
			case <-c.done:
				return true
			default:
				return false
			}
		}, "ended")
		m.Close()
		if n := m.Stats().MemoryBytes; n != 0 {
			t.Fatalf("%d bytes are held", n)
		}
	})
}

// What no version has sent ends with a reason at any cut and with any bit changed.
func TestHandshakeBytes(t *testing.T) {
	h := hello{versionMin: 1, versionMax: 1, from: 1, plaintext: true, cluster: testCluster}
	for k := range h.windows {
		h.windows[k] = windowLeast
	}
	good := appendHello(nil, &h)
	for n := range good {
		if _, err := decodeHello(good[:n]); asError(err) == nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		b := bytes.Clone(good)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		if _, err := decodeHello(b); err != nil && asError(err) == nil {
			t.Fatalf("%x: %v", b, err)
		}
	}
	for _, head := range [][shakeHead]byte{{0, 0, 0}, {0, 0, 5}, {1, 4, shakeHello}, {255, 255, shakeProof}} {
		if _, _, err := decodeShakeHead(head); asError(err) == nil {
			t.Errorf("%v: %v", head, err)
		}
	}
}
