package wire

import (
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// sink keeps what the guards decode from being optimised away.
var sink int

// roundTrips are the ways through the codec that must not allocate, by packet.
func roundTrips(tb testing.TB) map[string]func() {
	tb.Helper()
	buf, scratch := make([]byte, 0, 4096), make([]byte, 0, 1024)
	all := map[string]func(){}
	for _, v := range loadVectors(tb) {
		all[v.file+"/"+v.name] = func() {
			h, err := Scan(v.packet, 1<<20, v.scanVersion())
			if err != nil {
				panic(err)
			}
			buf = roundTrip(buf[:0], scratch, h, v.version, v.from)
			sink += len(buf)
		}
	}
	return all
}

var places = map[side]place{fromClient: inPublish, fromServer: inServerPublish}

// roundTrip decodes a packet and encodes it where one value serves both.
func roundTrip(dst, scratch []byte, h Header, version byte, from side) []byte {
	switch h.Type {
	case CONNECT:
		c, _ := DecodeConnect(h.Body)
		return AppendConnect(dst, &c)
	case CONNACK:
		c, _ := DecodeConnack(h.Body, version)
		c.Fit(version, 64)
		return AppendConnack(dst, version, &c)
	case PUBLISH:
		p, _ := decodePublish(h.Flags, h.Body, version, places[from])
		var ids [4]uint32
		forward, _ := p.Props.Forward(scratch)
		out := PublishOut{QoS: p.QoS, PacketID: p.PacketID, Topic: p.Topic, Payload: p.Payload, Forward: forward,
			SubIDs: p.Props.SubscriptionIDs(ids[:0]), HasExpiry: p.Props.HasExpiry, Expiry: p.Props.Expiry}
		return AppendPublish(dst, version, &out)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		a, _ := DecodeAck(h.Type, h.Body, version)
		a.Fit(version, 8)
		return AppendAck(dst, version, h.Type, &a)
	case SUBSCRIBE:
		s, _ := DecodeSubscribe(h.Body, version)
		for r := s.Filters(); ; {
			f, ok := r.Next()
			if !ok {
				return dst
			}
			filter, _ := ParseFilter(f.Filter)
			sink += len(filter.Topic)
		}
	case UNSUBSCRIBE:
		u, _ := DecodeUnsubscribe(h.Body, version)
		sink += u.Count
	case SUBACK, UNSUBACK:
		s, _ := decodeSuback(h.Body, version, &subackCodes)
		s.Fit(version, 8)
		return AppendSuback(dst, version, &s)
	case DISCONNECT:
		d, _ := decodeDisconnect(h.Body, version, inDisconnect, &clientDisconnectCodes)
		d.Fit(version, 8)
		return AppendDisconnect(dst, version, &d)
	case AUTH:
		a, _ := decodeAuth(h.Body, &clientAuthCodes)
		a.Fit(8)
		return AppendAuth(dst, &a)
	default: // nothing to say
	}
	return dst
}

func TestAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	for name, f := range roundTrips(t) {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	refused := [][]byte{{0x30, 0x05, 0, 3, 'a', '/', '+'}, {0x30, 5, 0, 3, 0xFF, 0, 0}, {0x30, 6, 0, 1, 'a', 2, 4, 0}}
	n := testing.AllocsPerRun(100, func() {
		for _, b := range refused {
			h, err := Scan(b, 0, V5)
			if err == nil {
				_, err = DecodePublish(h.Flags, h.Body, V5)
			}
			sink += int(ReasonOf(err))
		}
	})
	if n != 0 {
		t.Errorf("refusing: %v allocations", n)
	}
}

// TestFit: what explains a failure is dropped when the client takes no packet of that size, and only then.
//
// Conformance: MQTT-3.2.2-19 (5.0), MQTT-3.2.2-20 (5.0), MQTT-3.4.2-2 (5.0), MQTT-3.4.2-3 (5.0), MQTT-3.5.2-2 (5.0)
// Conformance: MQTT-3.5.2-3 (5.0), MQTT-3.6.2-2 (5.0), MQTT-3.6.2-3 (5.0), MQTT-3.7.2-2 (5.0), MQTT-3.7.2-3 (5.0)
// Conformance: MQTT-3.9.2-1 (5.0), MQTT-3.9.2-2 (5.0), MQTT-3.11.2-1 (5.0), MQTT-3.11.2-2 (5.0)
// Conformance: MQTT-3.14.2-3 (5.0), MQTT-3.14.2-4 (5.0), MQTT-3.15.2-2 (5.0), MQTT-3.15.2-3 (5.0)
func TestFit(t *testing.T) {
	reason, user := []byte("because"), UserProperties(AppendUserProperty(nil, []byte("name"), []byte("value")))
	for _, c := range []struct {
		name string
		size func(max uint32) (size int, reason []byte, user UserProperties)
	}{
		{"CONNACK", func(max uint32) (int, []byte, UserProperties) {
			p := Connack{Reason: NotAuthorized, ReasonString: reason, User: user}
			p.Fit(V5, max)
			return len(AppendConnack(nil, V5, &p)), p.ReasonString, p.User
		}},
		{"PUBACK", func(max uint32) (int, []byte, UserProperties) {
			p := Ack{PacketID: 1, Reason: NotAuthorized, ReasonString: reason, User: user}
			p.Fit(V5, max)
			return len(AppendAck(nil, V5, PUBACK, &p)), p.ReasonString, p.User
		}},
		{"SUBACK", func(max uint32) (int, []byte, UserProperties) {
			p := Suback{PacketID: 1, Codes: []ReasonCode{NotAuthorized}, ReasonString: reason, User: user}
			p.Fit(V5, max)
			return len(AppendSuback(nil, V5, &p)), p.ReasonString, p.User
		}},
		{"DISCONNECT", func(max uint32) (int, []byte, UserProperties) {
			p := Disconnect{Reason: NotAuthorized, ReasonString: reason, User: user}
			p.Fit(V5, max)
			return len(AppendDisconnect(nil, V5, &p)), p.ReasonString, p.User
		}},
		{"AUTH", func(max uint32) (int, []byte, UserProperties) {
			p := Auth{Reason: ContinueAuthentication, ReasonString: reason, User: user}
			p.Fit(max)
			return len(AppendAuth(nil, &p)), p.ReasonString, p.User
		}},
	} {
		whole, r, u := c.size(0)
		if r == nil || u == nil {
			t.Errorf("%s: dropped without a limit", c.name)
		}
		if size, r, u := c.size(uint32(whole)); size != whole || r == nil || u == nil {
			t.Errorf("%s: dropped at its very size", c.name)
		}
		size, r, u := c.size(uint32(whole - 1))
		if size >= whole || r == nil || u != nil {
			t.Errorf("%s: one byte too large: %d of %d bytes, reason %q, user %q", c.name, size, whole, r, u)
		}
		if smallest, r, u := c.size(uint32(size - 1)); smallest >= size || r != nil || u != nil {
			t.Errorf("%s: reason string too large: %d bytes, reason %q, user %q", c.name, smallest, r, u)
		}
	}
}

func benchmarkPublish(b *testing.B, version byte, out PublishOut) {
	b.Helper()
	out.Topic, out.Payload = []byte("plant/7/line/3/temp"), make([]byte, 64)
	packet := AppendPublish(nil, version, &out)
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	b.SetBytes(int64(len(packet)))
	for b.Loop() {
		h, err := Scan(packet, 1<<20, version)
		if err != nil {
			b.Fatal(err)
		}
		p, err := DecodePublish(h.Flags, h.Body, version)
		if err != nil {
			b.Fatal(err)
		}
		forward, _ := p.Props.Forward(nil)
		buf = AppendPublish(buf[:0], version, &PublishOut{QoS: p.QoS, PacketID: p.PacketID, Topic: p.Topic,
			Forward: forward, Payload: p.Payload})
	}
	sink += len(buf)
}

func BenchmarkPublish311(b *testing.B) { benchmarkPublish(b, V311, PublishOut{}) }

func BenchmarkPublish5(b *testing.B) { benchmarkPublish(b, V5, PublishOut{QoS: 1, PacketID: 7}) }

func BenchmarkPublish5Properties(b *testing.B) {
	forward := AppendProperty(nil, Property{ID: PropContentType, Data: []byte("application/json")})
	forward = AppendUserProperty(forward, []byte("trace"), []byte("0123456789abcdef"))
	benchmarkPublish(b, V5, PublishOut{QoS: 1, PacketID: 7, Forward: forward})
}

func BenchmarkScan(b *testing.B) {
	packet := AppendPublish(nil, V311, &PublishOut{Topic: []byte("plant/7/line/3/temp"), Payload: make([]byte, 64)})
	for b.Loop() {
		h, _ := Scan(packet, 1<<20, V311)
		sink += h.Size
	}
}

func BenchmarkCheckTopicName(b *testing.B) {
	topic := []byte("plant/7/line/3/temp")
	for b.Loop() {
		if CheckTopicName(topic) != nil {
			b.Fatal("refused")
		}
	}
}
