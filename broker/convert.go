package broker

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/journal/record"
)

// The headers of a stored MQTT message, each there only where it is not the default (QoS 1, not retained, no properties).
// A client's own user property whose name begins with headerPrefix is stored with escapePrefix before it.
const (
	headerPrefix      = "mqtt."
	escapePrefix      = "mqtt.user."
	headerQoS         = "mqtt.qos"
	headerRetain      = "mqtt.retain"
	headerDeadline    = "mqtt.deadline"
	headerPublisher   = "mqtt.publisher"
	headerTopic       = "mqtt.topic"
	headerFormat      = "mqtt.format"
	headerContentType = "mqtt.content_type"
	headerResponse    = "mqtt.response_topic"
	headerCorrelation = "mqtt.correlation"
)

// Property identifiers of the property block (MQTT 5, section 2.2.2.2).
const (
	propFormat      = 0x01
	propContentType = 0x03
	propResponse    = 0x08
	propCorrelation = 0x09
	propUser        = 0x26
)

// appendMessageHeaders appends m's headers to dst and answers how many they are.
func appendMessageHeaders(dst []byte, m *Message, publisher uint64) (_ []byte, n int) {
	var num [8]byte
	if m.QoS != 1 {
		dst = record.AppendHeaderString(dst, headerQoS, append(num[:0], '0'+m.QoS))
		n++
	}
	if m.Retain {
		dst = record.AppendHeaderString(dst, headerRetain, append(num[:0], '1'))
		n++
	}
	if m.Deadline != 0 {
		binary.BigEndian.PutUint64(num[:], uint64(m.Deadline))
		dst = record.AppendHeaderString(dst, headerDeadline, num[:])
		n++
	}
	if publisher != 0 {
		binary.BigEndian.PutUint64(num[:], publisher)
		dst = record.AppendHeaderString(dst, headerPublisher, num[:])
		n++
	}
	for p := m.Props; len(p) > 0; {
		var k int
		dst, p, k = appendPropertyHeader(dst, p)
		n += k
	}
	return dst, n
}

// appendPropertyHeader turns the first property of block into a header. A block that is not well formed ends there: the
// protocol has checked it.
func appendPropertyHeader(dst, block []byte) (out, rest []byte, n int) {
	id, block := block[0], block[1:]
	if id == propFormat {
		if len(block) < 1 {
			return dst, nil, 0
		}
		return record.AppendHeaderString(dst, headerFormat, block[:1]), block[1:], 1
	}
	first, block, ok := takeString(block)
	if !ok {
		return dst, nil, 0
	}
	switch id {
	case propContentType:
		return record.AppendHeaderString(dst, headerContentType, first), block, 1
	case propResponse:
		return record.AppendHeaderString(dst, headerResponse, first), block, 1
	case propCorrelation:
		return record.AppendHeaderString(dst, headerCorrelation, first), block, 1
	case propUser:
		value, rest, ok := takeString(block)
		if !ok {
			return dst, nil, 0
		}
		if len(first) >= len(headerPrefix) && string(first[:len(headerPrefix)]) == headerPrefix {
			return record.AppendHeaderString(dst, escapePrefix+string(first), value), rest, 1
		}
		return record.AppendHeader(dst, first, value), rest, 1
	}
	return dst, nil, 0
}

func takeString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// messageOf makes m a view of the stored record r. props is scratch that the property block is rebuilt in; it is returned
// for the next call. publisher is the durable number of the session that published it.
func messageOf(m *Message, r *record.Record, props []byte) (_ []byte, publisher uint64) {
	return readMessage(m, r, props, true)
}

// readMessage is messageOf for a record of the broker's own, or one that another client has produced: what MQTT cannot carry of that one's
// headers is left out.
func readMessage(m *Message, r *record.Record, props []byte, own bool) (_ []byte, publisher uint64) {
	*m = Message{Topic: r.Key, Payload: r.Value, Timestamp: r.Timestamp, QoS: 1, Cache: m.Cache}
	if r.Headers.Len() == 0 {
		return props, 0
	}
	props = props[:0]
	seen := uint8(0)
	for h := r.Headers; h.Next(); {
		k, v := h.Key(), h.Value()
		if !own && !carries(k, v, &seen) {
			continue
		}
		if len(k) < len(headerPrefix) || string(k[:len(headerPrefix)]) != headerPrefix {
			props = appendUserProperty(props, k, v)
			continue
		}
		switch string(k) {
		case headerQoS:
			if len(v) == 1 && v[0] >= '0' && v[0] <= '2' {
				m.QoS = v[0] - '0'
			}
		case headerRetain:
			m.Retain = len(v) == 1 && v[0] == '1'
		case headerDeadline:
			m.Deadline = int64(headerUint(v))
		case headerPublisher:
			if len(v) >= 8 {
				publisher = binary.BigEndian.Uint64(v)
			}
		case headerTopic:
			m.Topic = v
		case headerFormat:
			if len(v) == 1 {
				props = append(props, propFormat, v[0])
			}
		case headerContentType:
			props = appendProperty(props, propContentType, v)
		case headerResponse:
			props = appendProperty(props, propResponse, v)
		case headerCorrelation:
			props = appendProperty(props, propCorrelation, v)
		default:
			if len(k) > len(escapePrefix) && string(k[:len(escapePrefix)]) == escapePrefix {
				k = k[len(escapePrefix):]
			}
			props = appendUserProperty(props, k, v)
		}
	}
	if len(props) > 0 {
		m.Props = props
	}
	return props, publisher
}

// carries says whether MQTT can carry a header that another client has set: its strings are well-formed text of at most 65,535 bytes, and what
// a message has once comes once. seen is what the message has already.
func carries(k, v []byte, seen *uint8) bool {
	ok, bit := false, uint8(0)
	switch string(k) {
	case headerQoS, headerRetain, headerDeadline:
		return true
	case headerPublisher, headerTopic:
		return false
	case headerFormat:
		ok, bit = len(v) == 1 && v[0] <= 1, 1
	case headerContentType:
		ok, bit = isText(v), 2
	case headerResponse:
		ok, bit = topics.CheckTopic(v) == nil && utf8.Valid(v), 4
	case headerCorrelation:
		ok, bit = len(v) <= textBytesMax, 8
	default:
		return isText(k) && isText(v)
	}
	if !ok || *seen&bit != 0 {
		return false
	}
	*seen |= bit
	return true
}

// textBytesMax is the longest string of MQTT.
const textBytesMax = 1<<16 - 1

func isText(b []byte) bool {
	return len(b) <= textBytesMax && bytes.IndexByte(b, 0) < 0 && utf8.Valid(b)
}

func headerUint(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func appendProperty(dst []byte, id byte, v []byte) []byte {
	dst = append(dst, id)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(v)))
	return append(dst, v...)
}

func appendUserProperty(dst, k, v []byte) []byte {
	dst = appendProperty(dst, propUser, k)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(v)))
	return append(dst, v...)
}
