package wire

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	packets3 "github.com/eclipse/paho.mqtt.golang/packets"
	"pgregory.net/rapid"
)

// The oracle is another codec, Eclipse Paho's: a packet that we accept is read and written anew by it, and what comes
// back must say to us what the first said. Paho keeps less in some places, which are taken out before comparing:
// the order among properties, empty strings, all subscription identifiers but the last, and most properties of a will.
var (
	forwardText = regexp.MustCompile(` forward=[0-9a-f]*`)
	emptyText   = regexp.MustCompile(` (type|response|correlation|because|server|assigned|response-info|method|data)=""`)
	willText    = regexp.MustCompile(` (expiry|format)=\d+| (type|response|correlation)="([^"\\]|\\.)*"`)
	subsText    = regexp.MustCompile(`( sub=\d+)+`)
)

func plain(says string) string {
	says = emptyText.ReplaceAllString(forwardText.ReplaceAllString(says, ""), "")
	if strings.HasPrefix(says, "CONNECT ") {
		says = willText.ReplaceAllString(says, "")
	}
	return subsText.ReplaceAllString(says, "$1")
}

// agree sends a packet through an oracle and compares.
func agree(t rapid.TB, packet []byte, version byte, from side, oracle func([]byte) ([]byte, error), lossy func([]byte) bool) {
	t.Helper()
	scanned := version
	if len(packet) > 0 && packet[0]>>4 == byte(CONNECT) {
		scanned = 0
	}
	h, err := Scan(packet, 0, scanned)
	if err != nil {
		return
	}
	says, again, err := describe(h, version, from)
	if err != nil || len(again) == 0 || lossy(again) {
		return
	}
	if h.Type == CONNECT {
		c, _ := DecodeConnect(h.Body)
		version = c.Version
	}
	back, err := oracle(again)
	if err != nil {
		t.Fatalf("%s\n%x\nPaho refuses: %v", says, again, err)
	}
	h2, err := Scan(back, 0, scanned)
	if err != nil || h2.Size != len(back) {
		t.Fatalf("%s\nfrom Paho: %x: %v", says, back, err)
	}
	says2, _, err := describe(h2, version, from)
	if err != nil || plain(says) != plain(says2) {
		t.Fatalf("we say   %s\nPaho says %s\n%x\n%x\n%v", plain(says), plain(says2), again, back, err)
	}
}

// paho5 reads and writes a packet of version 5.
func paho5(packet []byte) ([]byte, error) {
	p, err := packets.ReadPacket(bytes.NewReader(packet))
	if err != nil {
		return nil, err
	}
	flags := p.Flags
	var out bytes.Buffer
	if _, err := p.WriteTo(&out); err != nil {
		return nil, err
	}
	if b := out.Bytes(); PacketType(b[0]>>4) != PUBLISH {
		b[0] = b[0]&0xF0 | flags
	}
	return out.Bytes(), nil
}

// paho3 reads and writes a packet of version 3.1 or 3.1.1.
func paho3(packet []byte) ([]byte, error) {
	p, err := packets3.ReadPacket(bytes.NewReader(packet))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = p.Write(&out)
	return out.Bytes(), err
}

// lossy5 tells packets that Paho has no way to hand back: the short DISCONNECT, which it cannot read, the short AUTH,
// which it writes as a longer one, and an authentication method that is an empty string, which it leaves out.
func lossy5(packet []byte) bool {
	return len(packet) < 3 && packet[0]>>4 >= byte(DISCONNECT) || bytes.Contains(packet, []byte{byte(PropAuthMethod), 0, 0})
}

// lossy3 tells packets that Paho cannot hand back: it stops reading UNSUBSCRIBE at an empty filter, and strings cut it
// reads as shorter.
func lossy3(packet []byte) bool {
	return packet[0]>>4 == byte(UNSUBSCRIBE) && bytes.Contains(packet[4:], []byte{0, 0})
}

func agree5(t rapid.TB, packet []byte, from side) {
	if len(packet) > 0 && packet[0]>>4 == byte(CONNECT) && (len(packet) < 9 || !bytes.Contains(packet[:9], []byte("MQTT\x05"))) {
		return
	}
	agree(t, packet, V5, from, paho5, lossy5)
}

func agree3(t rapid.TB, packet []byte, version byte, from side) {
	if len(packet) > 0 && packet[0]>>4 == byte(CONNECT) && bytes.Contains(packet[:min(9, len(packet))], []byte("MQTT\x05")) {
		return
	}
	agree(t, packet, version, from, paho3, lossy3)
}

func FuzzOracle5(f *testing.F) {
	for _, v := range loadVectors(f) {
		if v.version == V5 {
			f.Add(v.packet, bool(v.from))
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte, server bool) { agree5(t, packet, side(server)) })
}

func FuzzOracle3(f *testing.F) {
	for _, v := range loadVectors(f) {
		if v.version != V5 {
			f.Add(v.packet, v.version, bool(v.from))
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte, version byte, server bool) {
		agree3(t, packet, V31+version%2, side(server))
	})
}

// TestOracle sends packets of every type, made of random values, through the other codec.
func TestOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generator{t}
		version := rapid.SampledFrom([]byte{V31, V311, V5}).Draw(t, "version")
		packet, from := g.packet(version)
		h, err := Scan(packet, 0, map[bool]byte{true: 0, false: version}[packet[0]>>4 == byte(CONNECT)])
		if err != nil {
			t.Fatalf("%x: %v", packet, err)
		}
		if _, _, err := describe(h, version, from); err != nil {
			t.Fatalf("%x: %v", packet, err)
		}
		if version == V5 {
			agree5(t, packet, from)
		} else {
			agree3(t, packet, version, from)
		}
	})
}

// generator draws packets that are within the rules.
type generator struct{ t *rapid.T }

func (g generator) text(name string) []byte {
	return []byte(rapid.SampledFrom([]string{"a", "b/c", "é€😀", "x y", "$SYS/z"}).Draw(g.t, name))
}

func (g generator) maybe(name string) []byte {
	if g.bool(name) {
		return g.text(name)
	}
	return nil
}

func (g generator) bool(name string) bool  { return rapid.Bool().Draw(g.t, name) }
func (g generator) u16(name string) uint16 { return rapid.Uint16().Draw(g.t, name) }
func (g generator) u32(name string) uint32 { return rapid.Uint32().Draw(g.t, name) }
func (g generator) id() uint16             { return rapid.Uint16Range(1, 65535).Draw(g.t, "packet id") }
func (g generator) qos() byte              { return rapid.ByteRange(0, 2).Draw(g.t, "qos") }
func (g generator) data(name string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(g.t, name)
}
func (g generator) code(s reasonSet) ReasonCode {
	var all []ReasonCode
	for c := ReasonCode(0); c < 0xC0; c++ {
		if s.has(c) {
			all = append(all, c)
		}
	}
	return rapid.SampledFrom(all).Draw(g.t, "reason")
}

func (g generator) user() (u UserProperties) {
	for range rapid.IntRange(0, 3).Draw(g.t, "user properties") {
		u = AppendUserProperty(u, g.text("name"), g.text("value"))
	}
	return u
}

func (g generator) forward() (b []byte) {
	if g.bool("format") {
		b = AppendProperty(b, Property{ID: PropPayloadFormat, Int: uint32(g.qos() & 1)})
	}
	for _, id := range []PropertyID{PropContentType, PropResponseTopic, PropCorrelationData} {
		if v := g.maybe("forwarded"); v != nil {
			b = AppendProperty(b, Property{ID: id, Data: v})
		}
	}
	return append(b, g.user()...)
}

func (g generator) packet(version byte) (packet []byte, from side) {
	switch typ := rapid.Custom(func(t *rapid.T) PacketType {
		return PacketType(rapid.IntRange(1, 14).Draw(t, "type"))
	}).Draw(g.t, "type"); typ {
	case CONNECT:
		return g.connect(version), fromClient
	case CONNACK:
		return g.connack(version), fromServer
	case PUBLISH:
		return g.publish(version)
	case PUBACK, PUBREC:
		return AppendAck(nil, version, typ, g.ack(pubackCodes)), fromServer
	case PUBREL, PUBCOMP:
		return AppendAck(nil, version, typ, g.ack(pubrelCodes)), fromServer
	case SUBSCRIBE:
		s := SubscribeOut{PacketID: g.id(), SubscriptionID: g.u32("sub") % (MaxRemainingLength + 1), User: g.user()}
		for range rapid.IntRange(1, 3).Draw(g.t, "filters") {
			s.Filters = append(s.Filters, FilterRequest{Filter: g.text("filter"), QoS: g.qos(), NoLocal: g.bool("no local"),
				RetainAsPublished: g.bool("as published"), RetainHandling: g.qos()})
		}
		return AppendSubscribe(nil, version, &s), fromClient
	case UNSUBSCRIBE:
		return AppendUnsubscribe(nil, version, &UnsubscribeOut{PacketID: g.id(), User: g.user(),
			Filters: [][]byte{g.text("filter"), g.text("filter")}}), fromClient
	case SUBACK:
		return AppendSuback(nil, version, g.suback(subackCodes)), fromServer
	case UNSUBACK:
		return AppendUnsuback(nil, version, g.suback(unsubackCodes)), fromServer
	case PINGREQ:
		return AppendPingreq(nil), fromClient
	case PINGRESP:
		return AppendPingresp(nil), fromServer
	default:
		return AppendDisconnect(nil, version, &Disconnect{Reason: g.code(serverDisconnectCodes),
			ReasonString: g.maybe("reason"), ServerReference: g.maybe("server"), User: g.user()}), fromServer
	}
}

func (g generator) ack(codes reasonSet) *Ack {
	return &Ack{PacketID: g.id(), Reason: g.code(codes), ReasonString: g.maybe("reason"), User: g.user()}
}

func (g generator) suback(codes reasonSet) *Suback {
	return &Suback{PacketID: g.id(), ReasonString: g.maybe("reason"), User: g.user(),
		Codes: []ReasonCode{g.code(codes), g.code(codes)}}
}

func (g generator) publish(version byte) ([]byte, side) {
	p := PublishOut{QoS: g.qos(), Retain: g.bool("retain"), PacketID: g.id(), TopicAlias: g.u16("alias"),
		HasExpiry: g.bool("expires"), Expiry: g.u32("expiry"), Topic: g.text("topic"), Forward: g.forward(),
		Payload: g.data("payload")}
	p.Dup = p.QoS > 0 && g.bool("dup")
	if g.bool("ids") {
		p.SubIDs = []uint32{1 + g.u32("sub")%MaxRemainingLength}
	}
	return AppendPublish(nil, version, &p), fromServer
}

func (g generator) connect(version byte) []byte {
	c := Connect{Version: version, CleanStart: g.bool("clean"), HasWill: g.bool("will"), KeepAlive: g.u16("keep alive"),
		ClientID: g.text("id"), UserName: g.maybe("user"), ReceiveMaximum: g.u16("receive maximum"),
		TopicAliasMaximum: g.u16("alias maximum"), SessionExpiry: g.u32("session expiry"),
		MaximumPacketSize: g.u32("maximum packet"), RequestResponseInfo: g.bool("response info"),
		NoProblemInfo: g.bool("no problem info"), User: g.user(), AuthMethod: g.maybe("method")}
	if version == V5 || c.UserName != nil {
		c.Password = g.maybe("password")
	}
	if c.AuthMethod != nil {
		c.AuthData = g.maybe("data")
	}
	if c.HasWill {
		c.Will = Will{QoS: g.qos(), Retain: g.bool("will retain"), Delay: g.u32("delay"), Topic: g.text("will topic"),
			Payload: g.data("will payload"), Forward: g.forward()}
		c.Will.Props.HasExpiry, c.Will.Props.Expiry = g.bool("will expires"), g.u32("will expiry")
	}
	return AppendConnect(nil, &c)
}

func (g generator) connack(version byte) []byte {
	c := Connack{Reason: g.code(connackCodes), HasSessionExpiry: g.bool("expires"), SessionExpiry: g.u32("expiry"),
		HasMaximumQoS: g.bool("has QoS"), MaximumQoS: g.qos() & 1, HasServerKeepAlive: g.bool("has keep alive"),
		ServerKeepAlive: g.u16("keep alive"), NoRetain: g.bool("no retain"), NoWildcards: g.bool("no wildcards"),
		NoSubscriptionIDs: g.bool("no ids"), NoShared: g.bool("no shared"), ReceiveMaximum: g.u16("receive maximum"),
		TopicAliasMaximum: g.u16("alias maximum"), MaximumPacketSize: g.u32("maximum packet"),
		AssignedClientID: g.maybe("assigned"), ReasonString: g.maybe("reason"), User: g.user(),
		ResponseInfo: g.maybe("response info"), ServerReference: g.maybe("server"), AuthMethod: g.maybe("method")}
	if c.AuthMethod != nil {
		c.AuthData = g.maybe("data")
	}
	if _, ok := c.Reason.ConnackCode(); !ok && version != V5 {
		c.Reason = NotAuthorized
	}
	c.SessionPresent = c.Reason == Success && g.bool("present")
	return AppendConnack(nil, version, &c)
}
