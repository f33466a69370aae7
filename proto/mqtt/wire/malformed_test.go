package wire

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// refusal is a packet that must not be accepted.
type refusal struct {
	name    string
	version byte
	from    side
	packet  string // hex
	want    *ProtocolError
	reason  ReasonCode
}

// refuse checks that each packet is refused for the reason given, whatever stands behind it in the stream.
func refuse(t *testing.T, table []refusal) {
	t.Helper()
	for _, r := range table {
		t.Run(r.name, func(t *testing.T) {
			b, err := hex.DecodeString(strings.ReplaceAll(r.packet, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			version := r.version
			if b[0]>>4 == byte(CONNECT) {
				version = 0
			}
			h, err := Scan(b, 0, version)
			if err == nil {
				if h.Size != len(b) {
					t.Fatalf("packet has %d bytes, scanned %d", len(b), h.Size)
				}
				_, _, err = describe(h, r.version, r.from)
			}
			var got *ProtocolError
			if !errors.As(err, &got) || got != r.want {
				t.Fatalf("got %v, want %v", err, r.want)
			}
			if got.Reason != r.reason || ReasonOf(err) != r.reason {
				t.Fatalf("reason %v, want %v", got.Reason, r.reason)
			}
		})
	}
}

// Conformance: MQTT-1.5.3-1 (3.1.1), MQTT-1.5.3-2 (3.1.1), MQTT-1.5.4-1 (5.0), MQTT-1.5.4-2 (5.0)
// Conformance: MQTT-3.1.3-4 (3.1.1), MQTT-3.1.3-4 (5.0), MQTT-3.1.3-10 (3.1.1), MQTT-3.1.3-11 (3.1.1)
// Conformance: MQTT-3.1.3-11 (5.0), MQTT-3.1.3-12 (5.0), MQTT-3.3.2-1 (3.1.1), MQTT-3.3.2-1 (5.0)
// Conformance: MQTT-3.8.3-1 (3.1.1), MQTT-3.8.3-1 (5.0), MQTT-3.10.3-1 (3.1.1), MQTT-3.10.3-1 (5.0)
// Conformance: MQTT-3.3.2-13 (5.0), MQTT-3.3.2-19 (5.0), MQTT-4.7.3-2 (3.1.1), MQTT-4.7.3-2 (5.0)
func TestRefuseText(t *testing.T) {
	const c = MalformedPacket
	refuse(t, []refusal{
		{"surrogate in topic", V311, fromClient, "30 05 0003 EDA080", errText, c},
		{"surrogate in topic, version 5", V5, fromClient, "30 06 0003 EDA080 00", errText, c},
		{"overlong slash", V311, fromClient, "30 04 0002 C0AF", errText, c},
		{"cut sequence", V311, fromClient, "30 04 0002 61C3", errText, c},
		{"beyond U+10FFFF", V5, fromClient, "30 07 0004 F4908080 00", errText, c},
		{"U+0000 in topic", V311, fromClient, "30 05 0003 610062", errText, c},
		{"U+0000 in topic, version 5", V5, fromClient, "30 06 0003 610062 00", errText, c},
		{"client identifier", V311, fromClient, "10 0D 0004 4D515454 04 02 0000 0001 FF", errText, c},
		{"client identifier, version 5", V5, fromClient, "10 0E 0004 4D515454 05 02 0000 00 0001 FF", errText, c},
		{"U+0000 in client identifier", V311, fromClient, "10 0D 0004 4D515454 04 02 0000 0001 00", errText, c},
		{"will topic", V311, fromClient, "10 11 0004 4D515454 04 06 0000 0000 0001 FF 0000", errText, c},
		{"will topic, version 5", V5, fromClient, "10 13 0004 4D515454 05 06 0000 00 0000 00 0001 FF 0000", errText, c},
		{"user name", V311, fromClient, "10 0F 0004 4D515454 04 82 0000 0000 0001 FF", errText, c},
		{"user name, version 5", V5, fromClient, "10 10 0004 4D515454 05 82 0000 00 0000 0001 FF", errText, c},
		{"filter", V311, fromClient, "82 06 0001 0001 FF 00", errText, c},
		{"filter, version 5", V5, fromClient, "82 07 0001 00 0001 FF 00", errText, c},
		{"U+0000 in filter", V311, fromClient, "82 06 0001 0001 00 00", errText, c},
		{"U+0000 in filter, version 5", V5, fromClient, "82 07 0001 00 0001 00 00", errText, c},
		{"unsubscribed filter", V311, fromClient, "A2 05 0001 0001 FF", errText, c},
		{"unsubscribed filter, version 5", V5, fromClient, "A2 06 0001 00 0001 FF", errText, c},
		{"response topic", V5, fromClient, "30 08 0001 61 04 08 0001 FF", errText, c},
		{"content type", V5, fromClient, "30 08 0001 61 04 03 0001 FF", errText, c},
		{"user property's name", V5, fromClient, "30 0A 0001 61 06 26 0001 FF 0000", errText, c},
		{"user property's value", V5, fromClient, "30 0A 0001 61 06 26 0000 0001 00", errText, c},
		{"reason string", V5, fromClient, "40 08 0001 10 04 1F 0001 FF", errText, c},
	})
}

// Conformance: MQTT-2.2.2-2 (3.1.1), MQTT-2.1.3-1 (5.0), MQTT-3.6.1-1 (3.1.1), MQTT-3.6.1-1 (5.0)
// Conformance: MQTT-3.8.1-1 (3.1.1), MQTT-3.8.1-1 (5.0), MQTT-3.10.1-1 (3.1.1), MQTT-3.10.1-1 (5.0)
// Conformance: MQTT-3.14.1-1 (3.1.1), MQTT-3.14.1-1 (5.0), MQTT-3.15.1-1 (5.0), MQTT-3.1.0-1 (3.1.1), MQTT-3.1.0-1 (5.0)
// Conformance: MQTT-3.3.1-2 (3.1.1), MQTT-3.3.1-2 (5.0), MQTT-3.3.1-4 (3.1.1), MQTT-3.3.1-4 (5.0), MQTT-1.5.5-1 (5.0)
func TestRefuseFixedHeader(t *testing.T) {
	const c = MalformedPacket
	table := []refusal{
		{"type 0", V311, fromClient, "00 00", errTypeReserved, c},
		{"type 15 before version 5", V311, fromClient, "F0 00", errTypeReserved, c},
		{"CONNECT flags", V311, fromClient, "11 00", errFlags, c},
		{"CONNACK flags", V5, fromServer, "21 00", errFlags, c},
		{"PUBACK flags", V311, fromClient, "42 02 0001", errFlags, c},
		{"PUBREC flags", V5, fromClient, "51 02 0001", errFlags, c},
		{"PUBREL flags 0", V311, fromClient, "60 02 0001", errFlags, c},
		{"PUBREL flags 0, version 5", V5, fromClient, "60 02 0001", errFlags, c},
		{"PUBREL with DUP", V311, fromClient, "6A 02 0001", errFlags, c},
		{"PUBCOMP flags", V5, fromClient, "74 02 0001", errFlags, c},
		{"SUBSCRIBE flags 0", V311, fromClient, "80 02 0001", errFlags, c},
		{"SUBSCRIBE flags 0, version 5", V5, fromClient, "80 02 0001", errFlags, c},
		{"SUBSCRIBE flags 0, version 3.1", V31, fromClient, "80 02 0001", errFlags, c},
		{"UNSUBSCRIBE flags 3", V311, fromClient, "A3 02 0001", errFlags, c},
		{"UNSUBSCRIBE flags 3, version 5", V5, fromClient, "A3 02 0001", errFlags, c},
		{"PINGREQ flags", V5, fromClient, "C8 00", errFlags, c},
		{"DISCONNECT flags", V311, fromClient, "E1 00", errFlags, c},
		{"DISCONNECT flags, version 5", V5, fromClient, "E1 00", errFlags, c},
		{"AUTH flags", V5, fromClient, "F2 00", errFlags, c},
		{"QoS 3", V311, fromClient, "36 00", errPublishQoS, c},
		{"QoS 3, version 5", V5, fromClient, "37 00", errPublishQoS, c},
		{"DUP at QoS 0", V311, fromClient, "38 00", errDupQoS0, c},
		{"DUP at QoS 0, version 5", V5, fromClient, "39 00", errDupQoS0, c},
		{"length of five bytes", V5, fromClient, "30 FF FF FF FF", errVarint, c},
		{"length of 0 in two bytes", V5, fromClient, "C0 80 00", errVarintPadded, c},
		{"length of 127 in two bytes", V5, fromClient, "30 FF 00", errVarintPadded, c},
		{"length of 5 in four bytes", V311, fromClient, "30 85 80 80 00", errVarintPadded, c},
		{"PINGREQ with a body", V5, fromClient, "C0 01 00", errTrailing, c},
		{"PINGRESP with a body", V5, fromServer, "D0 01 00", errTrailing, c},
		{"DISCONNECT with a body before version 5", V311, fromClient, "E0 01 00", errTrailing, c},
		{"PUBACK with a reason before version 5", V311, fromClient, "40 03 0001 00", errTrailing, c},
		{"PUBACK without an identifier", V5, fromClient, "40 01 00", errTooShort, c},
		{"SUBACK without a code", V311, fromServer, "90 02 0001", errTooShort, c},
	}
	refuse(t, table)
	for _, r := range table {
		b, _ := hex.DecodeString(strings.ReplaceAll(r.packet, " ", "")[:2])
		if r.want != errFlags && r.want != errTypeReserved && r.want != errPublishQoS && r.want != errDupQoS0 {
			continue
		}
		version := r.version
		if b[0]>>4 == byte(CONNECT) {
			version = 0
		}
		if _, err := Scan(b, 0, version); !errors.Is(err, r.want) {
			t.Errorf("%s: one byte: got %v, want %v", r.name, err, r.want)
		}
	}
	for first := range 256 {
		if _, err := Scan([]byte{byte(first)}, 0, 0); first>>4 != int(CONNECT) && !errors.Is(err, ErrConnectExpected) && !errors.Is(err, errTypeReserved) {
			t.Errorf("first byte %02x before CONNECT: %v", first, err)
		}
	}
}

// Conformance: MQTT-3.1.2-1 (3.1.1), MQTT-3.1.2-1 (5.0), MQTT-3.1.2-3 (3.1.1), MQTT-3.1.2-3 (5.0)
// Conformance: MQTT-3.1.2-14 (3.1.1), MQTT-3.1.2-13 (3.1.1), MQTT-3.1.2-15 (3.1.1), MQTT-3.1.2-22 (3.1.1)
// Conformance: MQTT-3.1.2-11 (5.0), MQTT-3.1.2-12 (5.0), MQTT-3.1.2-13 (5.0), MQTT-3.1.2-11 (3.1.1)
// Conformance: MQTT-3.1.3-1 (3.1.1), MQTT-3.1.3-1 (5.0), MQTT-3.1.3-3 (3.1.1), MQTT-3.1.3-3 (5.0)
// Conformance: MQTT-3.1.2-9 (3.1.1), MQTT-3.1.2-9 (5.0), MQTT-3.1.2-18 (3.1.1), MQTT-3.1.2-19 (3.1.1)
// Conformance: MQTT-3.1.2-20 (3.1.1), MQTT-3.1.2-21 (3.1.1), MQTT-3.1.2-16 (5.0), MQTT-3.1.2-17 (5.0)
// Conformance: MQTT-3.1.2-18 (5.0), MQTT-3.1.2-19 (5.0)
func TestRefuseConnect(t *testing.T) {
	const c = MalformedPacket
	refuse(t, []refusal{
		{"another protocol", V311, fromClient, "10 0C 0004 48545450 04 02 0000 0000", ErrProtocolName, UnsupportedProtocolVersion},
		{"name in lower case", V5, fromClient, "10 0D 0004 6D717474 05 02 0000 00 0000", ErrProtocolName, UnsupportedProtocolVersion},
		{"level 6", V5, fromClient, "10 0D 0004 4D515454 06 02 0000 00 0000", ErrUnsupportedVersion, UnsupportedProtocolVersion},
		{"level 3 with the new name", V311, fromClient, "10 0C 0004 4D515454 03 02 0000 0000", ErrUnsupportedVersion, UnsupportedProtocolVersion},
		{"level 4 with the old name", V311, fromClient, "10 0E 0006 4D5149736470 04 02 0000 0000", ErrUnsupportedVersion, UnsupportedProtocolVersion},
		{"a bridge's level of version 3.1", V311, fromClient, "10 0C 0004 4D515454 83 02 0000 0000", ErrUnsupportedVersion, UnsupportedProtocolVersion},
		{"a bridge's level of version 5", V5, fromClient, "10 0D 0004 4D515454 85 02 0000 00 0000", ErrUnsupportedVersion, UnsupportedProtocolVersion},
		{"a bridge's level with the old name", V311, fromClient, "10 0E 0006 4D5149736470 84 02 0000 0000", ErrUnsupportedVersion, UnsupportedProtocolVersion},
		{"reserved flag", V311, fromClient, "10 0C 0004 4D515454 04 03 0000 0000", errConnectFlags, c},
		{"reserved flag, version 5", V5, fromClient, "10 0D 0004 4D515454 05 03 0000 00 0000", errConnectFlags, c},
		{"will QoS without will", V311, fromClient, "10 0C 0004 4D515454 04 0A 0000 0000", errWillFlags, c},
		{"will QoS without will, version 5", V5, fromClient, "10 0D 0004 4D515454 05 0A 0000 00 0000", errWillFlags, c},
		{"will retain without will", V311, fromClient, "10 0C 0004 4D515454 04 22 0000 0000", errWillFlags, c},
		{"will retain without will, version 5", V5, fromClient, "10 0D 0004 4D515454 05 22 0000 00 0000", errWillFlags, c},
		{"will QoS 3", V311, fromClient, "10 11 0004 4D515454 04 1E 0000 0000 0001 77 0000", errWillQoS, c},
		{"will QoS 3, version 5", V5, fromClient, "10 13 0004 4D515454 05 1E 0000 00 0000 00 0001 77 0000", errWillQoS, c},
		{"password without user name", V311, fromClient, "10 0F 0004 4D515454 04 42 0000 0000 0001 70", errPasswordAlone, c},
		{"password without user name, 3.1", V31, fromClient, "10 11 0006 4D5149736470 03 42 0000 0000 0001 70", errPasswordAlone, c},
		{"no client identifier", V5, fromClient, "10 0B 0004 4D515454 05 02 0000 00", errTooShort, c},
		{"property length beyond the packet", V5, fromClient, "10 0D 0004 4D515454 05 02 0000 03 0000", errPropLength, c},
		{"will flag without will", V311, fromClient, "10 0C 0004 4D515454 04 06 0000 0000", errTooShort, c},
		{"will topic without payload", V311, fromClient, "10 0F 0004 4D515454 04 06 0000 0000 0001 77", errTooShort, c},
		{"user name flag without user name", V311, fromClient, "10 0C 0004 4D515454 04 82 0000 0000", errTooShort, c},
		{"password flag without password", V311, fromClient, "10 0F 0004 4D515454 04 C2 0000 0000 0001 75", errTooShort, c},
		{"user name without its flag", V311, fromClient, "10 0F 0004 4D515454 04 02 0000 0000 0001 75", errTrailing, c},
		{"password without its flag", V5, fromClient, "10 13 0004 4D515454 05 82 0000 00 0000 0001 75 0001 70", errTrailing, c},
		{"will without its flag", V5, fromClient, "10 13 0004 4D515454 05 02 0000 00 0000 0001 75 0001 70", errTrailing, c},
		{"fields in another order", V311, fromClient, "10 14 0004 4D515454 04 06 0000 0001 77 0000 0003 616263", ErrTopicName, TopicNameInvalid},
		{"will topic with wildcard", V311, fromClient, "10 11 0004 4D515454 04 06 0000 0000 0001 23 0000", ErrTopicName, TopicNameInvalid},
		{"authentication data without method", V5, fromClient, "10 11 0004 4D515454 05 02 0000 04 16000161 0000", errAuthMethod, ProtocolErrorCode},
		{"receive maximum 0", V5, fromClient, "10 10 0004 4D515454 05 02 0000 03 210000 0000", errPropZero, ProtocolErrorCode},
		{"maximum packet size 0", V5, fromClient, "10 12 0004 4D515454 05 02 0000 05 2700000000 0000", errPropZero, ProtocolErrorCode},
		{"request response information 2", V5, fromClient, "10 0F 0004 4D515454 05 02 0000 02 1902 0000", errPropBool, ProtocolErrorCode},
		{"request problem information 2", V5, fromClient, "10 0F 0004 4D515454 05 02 0000 02 1702 0000", errPropBool, ProtocolErrorCode},
		{"will payload format 2", V5, fromClient, "10 15 0004 4D515454 05 06 0000 00 0000 02 0102 0001 77 0000", errPropBool, ProtocolErrorCode},
		{"topic alias in will", V5, fromClient, "10 16 0004 4D515454 05 06 0000 00 0000 03 230001 0001 77 0000", errPropPlace, c},
		{"will delay outside of will", V5, fromClient, "10 12 0004 4D515454 05 02 0000 05 1800000001 0000", errPropPlace, c},
		{"CONNACK with reserved flag", V311, fromServer, "20 02 02 00", errConnackFlags, c},
		{"CONNACK with reserved flag, version 5", V5, fromServer, "20 03 80 00 00", errConnackFlags, c},
		{"CONNACK code 6", V311, fromServer, "20 02 00 06", errReturnCode, c},
		{"CONNACK refuses a present session", V311, fromServer, "20 02 01 05", errSessionPresent, ProtocolErrorCode},
		{"CONNACK refuses a present session, version 5", V5, fromServer, "20 03 01 87 00", errSessionPresent, ProtocolErrorCode},
		{"CONNACK reason 0x01", V5, fromServer, "20 03 00 01 00", errReason, ProtocolErrorCode},
		{"CONNACK maximum QoS 2", V5, fromServer, "20 05 00 00 02 2402", errPropBool, ProtocolErrorCode},
		{"CONNACK with bytes behind", V5, fromServer, "20 04 00 00 00 00", errTrailing, c},
	})
	for _, level := range []byte{0, 1, 2, 3, 6, 131, 133, 255} {
		c, err := DecodeConnect([]byte{0, 4, 'M', 'Q', 'T', 'T', level, 2, 0, 0, 0, 0})
		if !errors.Is(err, ErrUnsupportedVersion) || c.Version != level {
			t.Errorf("level %d: version %d, %v", level, c.Version, err)
		}
	}
}

// A bridge of version 3.1.1 says so in the protocol level, and is a client like others beside that.
func TestBridgeLevel(t *testing.T) {
	in := Connect{Version: V311, Bridge: true, ClientID: []byte("b"), KeepAlive: 9}
	p := AppendConnect(nil, &in)
	if p[8] != 0x84 {
		t.Errorf("level %#x", p[8])
	}
	h, err := Scan(p, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := DecodeConnect(h.Body); err != nil || out.Version != V311 || !out.Bridge || string(out.ClientID) != "b" || out.KeepAlive != 9 {
		t.Errorf("%+v, %v", out, err)
	}
	if p := AppendConnect(nil, &Connect{Version: V5, Bridge: true}); p[8] != 5 {
		t.Errorf("level %#x of version 5", p[8])
	}
}

// Conformance: MQTT-2.3.1-1 (3.1.1), MQTT-2.3.1-5 (3.1.1), MQTT-2.2.1-2 (5.0), MQTT-2.2.1-3 (5.0)
// Conformance: MQTT-3.3.2-2 (3.1.1), MQTT-3.3.2-2 (5.0), MQTT-3.3.2-8 (5.0), MQTT-3.3.2-14 (5.0)
// Conformance: MQTT-3.3.4-6 (5.0), MQTT-4.7.1-1 (3.1.1), MQTT-4.7.1-1 (5.0), MQTT-4.7.3-1 (3.1.1), MQTT-4.7.3-1 (5.0)
// Conformance: MQTT-4.7.0-1 (5.0)
func TestRefusePublish(t *testing.T) {
	const c = MalformedPacket
	refuse(t, []refusal{
		{"topic is cut", V311, fromClient, "30 03 0003 61", errTooShort, c},
		{"topic is longer than the packet", V5, fromClient, "30 04 FFFF 61 00", errTooShort, c},
		{"empty topic", V311, fromClient, "30 03 0000 61", ErrTopicName, TopicNameInvalid},
		{"empty topic without alias", V5, fromClient, "30 03 0000 00", errNoTopic, ProtocolErrorCode},
		{"+ in topic", V311, fromClient, "30 05 0003 612F2B", ErrTopicName, TopicNameInvalid},
		{"# in topic, version 5", V5, fromClient, "30 04 0001 23 00", ErrTopicName, TopicNameInvalid},
		{"wildcard in a long topic", V5, fromClient, "30 0D 000A 6162636465662B68696A 00", ErrTopicName, TopicNameInvalid},
		{"no packet identifier", V311, fromClient, "32 04 0001 61 00", errTooShort, c},
		{"packet identifier 0", V311, fromClient, "32 05 0001 61 0000", errPacketID, ProtocolErrorCode},
		{"packet identifier 0, version 5", V5, fromClient, "34 06 0001 61 0000 00", errPacketID, ProtocolErrorCode},
		{"no property length", V5, fromClient, "30 03 0001 61", errTooShort, c},
		{"property length beyond the packet", V5, fromClient, "30 05 0001 61 02 01", errPropLength, c},
		{"property length in two bytes", V5, fromClient, "30 05 0001 61 8000", errVarintPadded, c},
		{"property is cut", V5, fromClient, "30 05 0001 61 01 02", errTooShort, c},
		{"property's string beyond the block", V5, fromClient, "30 07 0001 61 03 030001", errTooShort, c},
		{"unknown property", V5, fromClient, "30 06 0001 61 02 0400", errPropUnknown, c},
		{"property 0", V5, fromClient, "30 06 0001 61 02 0000", errPropUnknown, c},
		{"property 127", V5, fromClient, "30 06 0001 61 02 7F00", errPropUnknown, c},
		{"property identifier in two bytes", V5, fromClient, "30 07 0001 61 03 818000", errPropUnknown, c},
		{"another packet's property", V5, fromClient, "30 09 0001 61 05 1100000001", errPropPlace, c},
		{"payload format 2", V5, fromClient, "30 06 0001 61 02 0102", errPropBool, ProtocolErrorCode},
		{"payload format twice", V5, fromClient, "30 08 0001 61 04 0100 0100", errPropTwice, ProtocolErrorCode},
		{"expiry twice", V5, fromClient, "30 0E 0001 61 0A 0200000001 0200000001", errPropTwice, ProtocolErrorCode},
		{"alias twice", V5, fromClient, "30 0A 0001 61 06 230001 230001", errPropTwice, ProtocolErrorCode},
		{"response topic twice", V5, fromClient, "30 0C 0001 61 08 08000162 08000162", errPropTwice, ProtocolErrorCode},
		{"correlation data twice", V5, fromClient, "30 0A 0001 61 06 090000 090000", errPropTwice, ProtocolErrorCode},
		{"content type twice", V5, fromClient, "30 0A 0001 61 06 030000 030000", errPropTwice, ProtocolErrorCode},
		{"alias 0", V5, fromClient, "30 07 0001 61 03 230000", ErrTopicAliasZero, TopicAliasInvalid},
		{"response topic with wildcard", V5, fromClient, "30 08 0001 61 04 0800012B", errResponseTopic, ProtocolErrorCode},
		{"empty response topic", V5, fromClient, "30 07 0001 61 03 080000", errResponseTopic, ProtocolErrorCode},
		{"client's subscription identifier", V5, fromClient, "30 06 0001 61 02 0B01", errPropPlace, c},
		{"subscription identifier 0", V5, fromServer, "30 06 0001 61 02 0B00", errPropZero, ProtocolErrorCode},
		{"subscription identifier of five bytes", V5, fromServer, "30 0A 0001 61 06 0B8080808001", errVarint, c},
		{"PUBACK identifier 0", V311, fromClient, "40 02 0000", errPacketID, ProtocolErrorCode},
		{"PUBREC identifier 0", V5, fromClient, "50 02 0000", errPacketID, ProtocolErrorCode},
		{"PUBREL identifier 0", V311, fromClient, "62 02 0000", errPacketID, ProtocolErrorCode},
		{"PUBCOMP identifier 0", V5, fromClient, "70 02 0000", errPacketID, ProtocolErrorCode},
	})
}

// Conformance: MQTT-3.4.2-1 (5.0), MQTT-3.5.2-1 (5.0), MQTT-3.6.2-1 (5.0), MQTT-3.7.2-1 (5.0)
// Conformance: MQTT-3.14.2-1 (5.0), MQTT-3.15.2-1 (5.0), MQTT-3.14.2-2 (5.0)
func TestRefuseReasons(t *testing.T) {
	const c = ProtocolErrorCode
	refuse(t, []refusal{
		{"PUBACK reason 0x92", V5, fromClient, "40 03 0001 92", errReason, c},
		{"PUBACK reason 0xFF", V5, fromClient, "40 03 0001 FF", errReason, c},
		{"PUBREC reason 0x92", V5, fromClient, "50 03 0001 92", errReason, c},
		{"PUBREL reason 0x10", V5, fromClient, "62 03 0001 10", errReason, c},
		{"PUBCOMP reason 0x80", V5, fromClient, "70 03 0001 80", errReason, c},
		{"PUBACK property of another", V5, fromClient, "40 06 0001 00 02 0100", errPropPlace, MalformedPacket},
		{"PUBACK reason string twice", V5, fromClient, "40 0A 0001 00 06 1F0000 1F0000", errPropTwice, c},
		{"PUBACK with bytes behind", V5, fromClient, "40 05 0001 00 00 00", errTrailing, MalformedPacket},
		{"DISCONNECT reason 0x8B of a client", V5, fromClient, "E0 01 8B", errReason, c},
		{"DISCONNECT reason 0x04 of a server", V5, fromServer, "E0 01 04", errReason, c},
		{"DISCONNECT server reference of a client", V5, fromClient, "E0 06 00 04 1C000161", errPropPlace, MalformedPacket},
		{"DISCONNECT session expiry of a server", V5, fromServer, "E0 07 00 05 1100000001", errPropPlace, MalformedPacket},
		{"DISCONNECT with bytes behind", V5, fromClient, "E0 03 00 00 00", errTrailing, MalformedPacket},
		{"AUTH success of a client", V5, fromClient, "F0 00", errReason, c},
		{"AUTH reason 0x19 of a server", V5, fromServer, "F0 06 19 04 15000161", errReason, c},
		{"AUTH without properties", V5, fromClient, "F0 01 18", errTooShort, MalformedPacket},
		{"AUTH without method", V5, fromClient, "F0 02 18 00", errAuthMethod, c},
		{"AUTH with bytes behind", V5, fromClient, "F0 07 18 04 15000161 00", errTrailing, MalformedPacket},
	})
}

// Conformance: MQTT-3.8.3-3 (3.1.1), MQTT-3.8.3-4 (3.1.1), MQTT-3.8.3-2 (5.0), MQTT-3.8.3-4 (5.0), MQTT-3.8.3-5 (5.0)
// Conformance: MQTT-3.10.3-2 (3.1.1), MQTT-3.10.3-2 (5.0), MQTT-3.9.3-2 (3.1.1), MQTT-3.9.3-2 (5.0)
// Conformance: MQTT-3.11.3-2 (5.0)
func TestRefuseSubscribe(t *testing.T) {
	const c = ProtocolErrorCode
	refuse(t, []refusal{
		{"no packet identifier", V311, fromClient, "82 01 00", errTooShort, MalformedPacket},
		{"packet identifier 0", V311, fromClient, "82 06 0000 0001 61 00", errPacketID, c},
		{"packet identifier 0, version 5", V5, fromClient, "82 07 0000 00 0001 61 00", errPacketID, c},
		{"no filter", V311, fromClient, "82 02 0001", errNoFilter, c},
		{"no filter, version 5", V5, fromClient, "82 03 0001 00", errNoFilter, c},
		{"no property length", V5, fromClient, "82 02 0001", errTooShort, MalformedPacket},
		{"filter is cut", V311, fromClient, "82 05 0001 0002 61", errTooShort, MalformedPacket},
		{"filter's length is cut", V311, fromClient, "82 07 0001 0001 61 00 00", errTooShort, MalformedPacket},
		{"no options", V311, fromClient, "82 05 0001 0001 61", errTooShort, MalformedPacket},
		{"no options behind the second filter", V5, fromClient, "82 0A 0001 00 0001 61 00 0001 62", errTooShort, MalformedPacket},
		{"QoS 3", V311, fromClient, "82 06 0001 0001 61 03", errSubQoS, c},
		{"QoS 3, version 5", V5, fromClient, "82 07 0001 00 0001 61 03", errSubQoS, c},
		{"options of version 5 in 3.1.1", V311, fromClient, "82 06 0001 0001 61 04", errSubOptions, MalformedPacket},
		{"reserved bit 6", V5, fromClient, "82 07 0001 00 0001 61 40", errSubOptions, MalformedPacket},
		{"reserved bit 7", V5, fromClient, "82 07 0001 00 0001 61 80", errSubOptions, MalformedPacket},
		{"retain handling 3", V5, fromClient, "82 07 0001 00 0001 61 30", errRetainHandling, c},
		{"no local on a shared one", V5, fromClient, "82 10 0001 00 000A 2473686172652F672F61 04", errSharedNoLocal, c},
		{"subscription identifier 0", V5, fromClient, "82 09 0001 02 0B00 0001 61 00", errPropZero, c},
		{"subscription identifier twice", V5, fromClient, "82 0B 0001 04 0B01 0B02 0001 61 00", errPropTwice, c},
		{"property of another", V5, fromClient, "82 0B 0001 04 1F000161 0001 61 00", errPropPlace, MalformedPacket},
		{"UNSUBSCRIBE without filter", V311, fromClient, "A2 02 0001", errNoFilter, c},
		{"UNSUBSCRIBE without filter, version 5", V5, fromClient, "A2 03 0001 00", errNoFilter, c},
		{"UNSUBSCRIBE identifier 0", V311, fromClient, "A2 05 0000 0001 61", errPacketID, c},
		{"UNSUBSCRIBE filter is cut", V5, fromClient, "A2 06 0001 00 0002 61", errTooShort, MalformedPacket},
		{"UNSUBSCRIBE with subscription identifier", V5, fromClient, "A2 08 0001 02 0B01 0001 61", errPropPlace, MalformedPacket},
		{"SUBACK code 3", V311, fromServer, "90 03 0001 03", errReason, c},
		{"SUBACK code 0x87 before version 5", V311, fromServer, "90 03 0001 87", errReason, c},
		{"SUBACK code 0x11", V5, fromServer, "90 04 0001 00 11", errReason, c},
		{"SUBACK without a code", V5, fromServer, "90 06 0001 03 1F0000", errNoCode, c},
		{"UNSUBACK code 1", V5, fromServer, "B0 04 0001 00 01", errReason, c},
		{"UNSUBACK with bytes behind", V311, fromServer, "B0 03 0001 00", errTrailing, MalformedPacket},
	})
}

// TestPacketTooLarge: the limit is applied when the length is known, without the body, and counts the fixed header.
func TestPacketTooLarge(t *testing.T) {
	announced := []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F} // 256 MiB, none of which has come
	h, err := Scan(announced, 1<<20, V5)
	if !errors.Is(err, ErrPacketTooLarge) || h.Type != PUBLISH || ReasonOf(err) != PacketTooLarge {
		t.Errorf("announced 256 MiB: %v %v", h.Type, err)
	}
	if h, err = Scan(announced, 0, V5); !errors.Is(err, ErrShort) || h.Size != 5+MaxRemainingLength {
		t.Errorf("without a limit: %d, %v", h.Size, err)
	}
	if h, err = Scan(announced[:4], 1<<20, V5); !errors.Is(err, ErrShort) || h.Size != 5 {
		t.Errorf("cut in the length: %d, %v", h.Size, err)
	}
	packet := []byte{0x30, 0x04, 0, 1, 'a', 0}
	if _, err = Scan(packet, 6, V5); err != nil {
		t.Errorf("packet of the limit: %v", err)
	}
	if _, err = Scan(packet, 5, V5); !errors.Is(err, ErrPacketTooLarge) {
		t.Errorf("packet above the limit: %v", err)
	}
}

// TestPropertyPlaces puts each property into each packet, twice in one and once in another: the specification's table.
func TestPropertyPlaces(t *testing.T) {
	places := map[string]place{"CONNECT": inConnect, "will": inWill, "CONNACK": inConnack, "PUBLISH": inPublish,
		"server's PUBLISH": inServerPublish, "ack": inAck, "SUBSCRIBE": inSubscribe, "SUBACK": inSuback,
		"UNSUBSCRIBE": inUnsubscribe, "DISCONNECT": inDisconnect, "server's DISCONNECT": inServerDisconnect, "AUTH": inAuth}
	for id := range properties {
		for name, at := range places {
			one := AppendProperty(nil, Property{ID: PropertyID(id), Int: 1, Data: []byte("d"), Value: []byte("v")})
			if properties[id].kind == kindNone {
				one = []byte{byte(id), 0}
			}
			r := propReader{rest: append(one, one...), at: at}
			var p Property
			first := r.next(&p)
			switch {
			case properties[id].kind == kindNone:
				if !errors.Is(first, errPropUnknown) {
					t.Errorf("%#02x in %s: %v", id, name, first)
				}
				continue
			case properties[id].places&at == 0:
				if !errors.Is(first, errPropPlace) {
					t.Errorf("%#02x in %s: %v", id, name, first)
				}
				continue
			case first != nil:
				t.Errorf("%#02x in %s: %v", id, name, first)
				continue
			}
			want := error(errPropTwice)
			if id == int(PropUser) || (id == int(PropSubscriptionID) && at == inServerPublish) {
				want = nil
			}
			if second := r.next(&p); !errors.Is(second, want) {
				t.Errorf("%#02x twice in %s: %v", id, name, second)
			}
		}
	}
}

// TestErrorText: what a log line says of a breach.
func TestErrorText(t *testing.T) {
	if got, want := errText.Error(), "mqtt: malformed packet: string is not UTF-8 or holds U+0000"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if ReasonOf(nil) != Success || ReasonOf(ErrShort) != UnspecifiedError {
		t.Error("reasons of other errors")
	}
	if got := ReasonCode(0x42).String(); got != "reason code 0x42" {
		t.Errorf("unknown code: %q", got)
	}
	if PINGRESP.String() != "PINGRESP" || PacketType(99).String() != "PacketType(99)" {
		t.Error("packet type names")
	}
}

// TestConnackCodes: the return codes of 3.1.1 come back as the reasons that they were made of.
//
// Conformance: MQTT-3.2.2-4 (3.1.1), MQTT-3.2.2-1 (5.0), MQTT-3.2.2-6 (5.0), MQTT-3.2.2-8 (5.0)
func TestConnackCodes(t *testing.T) {
	for _, r := range []ReasonCode{Success, UnspecifiedError, NotAuthorized, ServerBusy} {
		b := AppendConnack(nil, V5, &Connack{Reason: r, SessionPresent: true})
		if want := byte(1); r.Failed() && b[2] != 0 || !r.Failed() && b[2] != want {
			t.Errorf("%v: flags %02x", r, b[2])
		}
	}
	for r := ReasonCode(0); r < 0xFF; r++ {
		code, ok := r.ConnackCode()
		b := AppendConnack(nil, V311, &Connack{Reason: r, SessionPresent: true})
		if !ok {
			if len(b) != 0 {
				t.Errorf("%v has no return code, but was sent as %x", r, b)
			}
			continue
		}
		if !connackCodes.has(r) && r != ServerShuttingDown {
			t.Errorf("%v has a return code, but is no CONNACK reason", r)
		}
		c, err := DecodeConnack(b[2:], V311)
		if err != nil || c.Reason.Failed() != r.Failed() || c.SessionPresent == r.Failed() {
			t.Errorf("%v: sent %x, read %v, %v", r, b, c.Reason, err)
		}
		if back, _ := c.Reason.ConnackCode(); back != code {
			t.Errorf("%v: return code %d comes back as %d", r, code, back)
		}
	}
}
