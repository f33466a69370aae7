package wire

import (
	"bytes"
	"errors"
	"testing"
)

// versionOf makes a protocol version of a fuzzed byte.
func versionOf(b byte) byte { return V31 + b%3 }

// checkBody decodes a body, and what it accepts it encodes and decodes again: both say the same, and the second encoding
// has the bytes of the first. Anything else than a packet or a *ProtocolError fails.
func checkBody(t *testing.T, typ PacketType, flags byte, body []byte, version byte, from side) {
	t.Helper()
	before := bytes.Clone(body)
	h := Header{Type: typ, Flags: flags, Body: body}
	says, again, err := describe(h, version, from)
	if !bytes.Equal(before, body) {
		t.Fatal("decoding changed the body")
	}
	if err != nil {
		var p *ProtocolError
		if !errors.As(err, &p) || !p.Reason.Failed() {
			t.Fatalf("%v", err)
		}
		return
	}
	scanned := version
	if typ == CONNECT {
		scanned = 0
	}
	h2, err := Scan(again, 0, scanned)
	if err != nil || h2.Size != len(again) {
		t.Fatalf("%s\nencoded as %x, scanned as %d bytes: %v", says, again, h2.Size, err)
	}
	says2, again2, err := describe(h2, version, from)
	if err != nil || says2 != says || !bytes.Equal(again, again2) {
		t.Fatalf("decoded %s\nagain   %s\nencoded %x\nagain   %x\n%v", says, says2, again, again2, err)
	}
}

// seed gives the bodies of the vectors that have one of the types.
func seed(f *testing.F, add func(v vector, h Header), types ...PacketType) {
	f.Helper()
	for _, v := range loadVectors(f) {
		h, err := Scan(v.packet, 0, v.scanVersion())
		if err != nil {
			f.Fatal(err)
		}
		for _, typ := range types {
			if h.Type == typ {
				add(v, h)
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, v := range loadVectors(f) {
		f.Add(v.packet, uint32(0), v.scanVersion())
	}
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, uint32(100), V5)
	f.Fuzz(func(t *testing.T, b []byte, limit uint32, version byte) {
		if version != 0 {
			version = versionOf(version)
		}
		h, err := Scan(b, limit, version)
		if err == nil {
			if h.Size > len(b) || h.Size < 2 || len(h.Body) > h.Size-2 || (limit > 0 && h.Size > int(limit)) {
				t.Fatalf("size %d, body %d of %d bytes", h.Size, len(h.Body), len(b))
			}
			_, _, _ = describe(h, version, fromClient)
			_, _, _ = describe(h, version, fromServer)
		}
		// Whatever the split, the answer is the same in the end, and comes no later.
		for n := range b {
			p, perr := Scan(b[:n], limit, version)
			switch {
			case errors.Is(perr, ErrShort):
				if p.Size <= n {
					t.Fatalf("%d bytes: asks for %d", n, p.Size)
				}
			case !errors.Is(perr, err) || p.Size != h.Size:
				t.Fatalf("%d bytes: %v, %d bytes: %v", n, perr, len(b), err)
			}
			if perr == nil || n > 64 {
				break
			}
		}
	})
}

func FuzzConnect(f *testing.F) {
	seed(f, func(_ vector, h Header) { f.Add(h.Body) }, CONNECT)
	f.Fuzz(func(t *testing.T, body []byte) {
		checkBody(t, CONNECT, 0, body, 0, fromClient)
	})
}

func FuzzConnack(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Body, v.version) }, CONNACK)
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		checkBody(t, CONNACK, 0, body, versionOf(version), fromServer)
	})
}

func FuzzPublish(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Flags, h.Body, v.version, bool(v.from)) }, PUBLISH)
	f.Fuzz(func(t *testing.T, flags byte, body []byte, version byte, server bool) {
		checkBody(t, PUBLISH, flags&0x0F, body, versionOf(version), side(server))
	})
}

func FuzzAck(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(byte(h.Type), h.Body, v.version) }, PUBACK, PUBREC, PUBREL, PUBCOMP)
	f.Fuzz(func(t *testing.T, typ byte, body []byte, version byte) {
		checkBody(t, PUBACK+PacketType(typ%4), 0, body, versionOf(version), fromClient)
	})
}

func FuzzSubscribe(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Body, v.version) }, SUBSCRIBE)
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		checkBody(t, SUBSCRIBE, 2, body, versionOf(version), fromClient)
	})
}

func FuzzUnsubscribe(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Body, v.version) }, UNSUBSCRIBE)
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		checkBody(t, UNSUBSCRIBE, 2, body, versionOf(version), fromClient)
	})
}

func FuzzSuback(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Body, v.version, h.Type == UNSUBACK) }, SUBACK, UNSUBACK)
	f.Fuzz(func(t *testing.T, body []byte, version byte, un bool) {
		typ := SUBACK
		if un {
			typ = UNSUBACK
		}
		checkBody(t, typ, 0, body, versionOf(version), fromServer)
	})
}

func FuzzDisconnect(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Body, v.version, bool(v.from)) }, DISCONNECT)
	f.Fuzz(func(t *testing.T, body []byte, version byte, server bool) {
		checkBody(t, DISCONNECT, 0, body, versionOf(version), side(server))
	})
}

func FuzzAuth(f *testing.F) {
	seed(f, func(v vector, h Header) { f.Add(h.Body, bool(v.from)) }, AUTH)
	f.Fuzz(func(t *testing.T, body []byte, server bool) {
		checkBody(t, AUTH, 0, body, V5, side(server))
	})
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"a/b", "+/#", "$share/g/a/#", "a+", "", "$share//a", "é/\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		filter, err := ParseFilter(b)
		if err == nil && len(filter.Share) == 0 != bytes.Equal(filter.Topic, b) {
			t.Fatalf("%q: share %q, filter %q", b, filter.Share, filter.Topic)
		}
		if got, want := CheckTopicFilter(b) == nil, slowFilter(string(b)); got != want {
			t.Fatalf("CheckTopicFilter(%q) = %v", b, got)
		}
	})
}

// FuzzProperties reads arbitrary bytes as a block that is said to have been checked before, and wasn't.
func FuzzProperties(f *testing.F) {
	f.Add([]byte{0x01, 1, 0x26, 0, 1, 'a', 0, 1, 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		var again []byte
		for r := ReadProperties(b); ; n++ {
			p, ok := r.Next()
			if !ok {
				break
			}
			again = AppendProperty(again, p)
		}
		if n > len(b) || !bytes.HasPrefix(b, again) {
			t.Fatalf("%d properties, %x read from %x", n, again, b)
		}
	})
}
