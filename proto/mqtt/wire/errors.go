package wire

import "errors"

// ErrShort says that the packet is not whole yet: read more and scan again.
var ErrShort = errors.New("mqtt: more bytes needed")

// ProtocolError is a breach of the specification, with the reason code to answer it by. All of them are package-level
// values: compare with ==, and make no new ones per packet.
type ProtocolError struct {
	Reason ReasonCode
	Detail string // what was wrong, constant text
}

// Error gives the reason's name and the detail.
func (e *ProtocolError) Error() string { return "mqtt: " + e.Reason.String() + ": " + e.Detail }

// ReasonOf gives the reason code that an error of this package stands for; UnspecifiedError for any other error, and
// Success for nil.
func ReasonOf(err error) ReasonCode {
	if err == nil {
		return Success
	}
	if p, ok := errors.AsType[*ProtocolError](err); ok {
		return p.Reason
	}
	return UnspecifiedError
}

// Errors that a connection's state machine answers each in its own way.
var (
	// ErrPacketTooLarge: the packet is larger than the receiver takes. Known before the body has come.
	ErrPacketTooLarge = &ProtocolError{PacketTooLarge, "packet is larger than the limit"}
	// ErrConnectExpected: the first packet of a connection is no CONNECT.
	ErrConnectExpected = &ProtocolError{ProtocolErrorCode, "first packet is not CONNECT"}
	// ErrProtocolName: the peer does not speak MQTT. Close without an answer.
	ErrProtocolName = &ProtocolError{UnsupportedProtocolVersion, "protocol name is neither MQTT nor MQIsdp"}
	// ErrUnsupportedVersion: MQTT, of a version that is not spoken here. Connect.Version tells which.
	ErrUnsupportedVersion = &ProtocolError{UnsupportedProtocolVersion, "protocol level is not 3, 4 or 5"}
	// ErrTopicName: a topic name is empty or holds a wildcard.
	ErrTopicName = &ProtocolError{TopicNameInvalid, "topic name is empty or holds a wildcard"}
	// ErrTopicNameLimit: a topic name has more bytes or levels than allowed.
	ErrTopicNameLimit = &ProtocolError{TopicNameInvalid, "topic name has too many bytes or levels"}
	// ErrTopicFilter: a topic filter is empty or has a wildcard out of place.
	ErrTopicFilter = &ProtocolError{TopicFilterInvalid, "topic filter is empty or has a wildcard out of place"}
	// ErrTopicFilterLimit: a topic filter has more bytes or levels than allowed.
	ErrTopicFilterLimit = &ProtocolError{TopicFilterInvalid, "topic filter has too many bytes or levels"}
	// ErrSharedFilter: a $share filter has no share name or no filter behind it.
	ErrSharedFilter = &ProtocolError{TopicFilterInvalid, "shared subscription is not $share/name/filter"}
	// ErrTopicAliasZero: a topic alias of 0.
	ErrTopicAliasZero = &ProtocolError{TopicAliasInvalid, "topic alias is 0"}
)

// Malformed: the bytes cannot be read as the packet that they claim to be.
var (
	errTypeReserved   = &ProtocolError{MalformedPacket, "packet type is reserved"}
	errFlags          = &ProtocolError{MalformedPacket, "fixed header flags are wrong for the packet type"}
	errPublishQoS     = &ProtocolError{MalformedPacket, "PUBLISH has QoS 3"}
	errDupQoS0        = &ProtocolError{MalformedPacket, "PUBLISH has DUP with QoS 0"}
	errVarint         = &ProtocolError{MalformedPacket, "variable byte integer has more than four bytes"}
	errVarintPadded   = &ProtocolError{MalformedPacket, "variable byte integer has more bytes than it needs"}
	errTooShort       = &ProtocolError{MalformedPacket, "packet ends inside a field"}
	errTrailing       = &ProtocolError{MalformedPacket, "packet has bytes behind its last field"}
	errText           = &ProtocolError{MalformedPacket, "string is not UTF-8 or holds U+0000"}
	errConnectFlags   = &ProtocolError{MalformedPacket, "CONNECT has its reserved flag set"}
	errWillFlags      = &ProtocolError{MalformedPacket, "CONNECT has a will QoS or will retain without a will"}
	errWillQoS        = &ProtocolError{MalformedPacket, "CONNECT has will QoS 3"}
	errPasswordAlone  = &ProtocolError{MalformedPacket, "CONNECT has a password without a user name"}
	errConnackFlags   = &ProtocolError{MalformedPacket, "CONNACK has a reserved flag set"}
	errSessionPresent = &ProtocolError{ProtocolErrorCode, "CONNACK refuses and has session present"}
	errSubOptions     = &ProtocolError{MalformedPacket, "subscription options have a reserved bit set"}
	errPropUnknown    = &ProtocolError{MalformedPacket, "property is unknown"}
	errPropPlace      = &ProtocolError{MalformedPacket, "property may not be in this packet"}
	errPropLength     = &ProtocolError{MalformedPacket, "property length is larger than the packet"}
)

// Protocol errors: readable, and against the rules.
var (
	errPropTwice      = &ProtocolError{ProtocolErrorCode, "property is given twice"}
	errPropBool       = &ProtocolError{ProtocolErrorCode, "property is neither 0 nor 1"}
	errPropZero       = &ProtocolError{ProtocolErrorCode, "property is 0"}
	errResponseTopic  = &ProtocolError{ProtocolErrorCode, "response topic is empty or holds a wildcard"}
	errAuthMethod     = &ProtocolError{ProtocolErrorCode, "authentication method is missing"}
	errPacketID       = &ProtocolError{ProtocolErrorCode, "packet identifier is 0"}
	errNoTopic        = &ProtocolError{ProtocolErrorCode, "PUBLISH has neither topic name nor topic alias"}
	errNoFilter       = &ProtocolError{ProtocolErrorCode, "packet has no topic filter"}
	errNoCode         = &ProtocolError{ProtocolErrorCode, "packet has no reason code"}
	errSubQoS         = &ProtocolError{ProtocolErrorCode, "subscription has QoS 3"}
	errRetainHandling = &ProtocolError{ProtocolErrorCode, "subscription has retain handling 3"}
	errSharedNoLocal  = &ProtocolError{ProtocolErrorCode, "shared subscription has no local"}
	errReason         = &ProtocolError{ProtocolErrorCode, "reason code may not be in this packet"}
	errReturnCode     = &ProtocolError{MalformedPacket, "CONNACK return code is reserved"}
)
