package trace

import "encoding/hex"

// The names under which a message carries its context: user properties of MQTT 5 and headers of Kafka (W3C Trace Context, level 1).
const (
	Traceparent = "traceparent"
	Tracestate  = "tracestate"
)

// ID names a trace. It is not all zeros in a Context.
type ID [16]byte

// SpanID names a span of a trace. It is not all zeros in a Context.
type SpanID [8]byte

// Context is what a message carries of the span that it comes from.
type Context struct {
	Trace   ID
	Span    SpanID
	Sampled bool
}

const (
	contextSize  = 55 // of version 00
	flagsSampled = 1
)

// ParseContext reads a traceparent as the specification has it: of version 00 to the byte, of a later one as far as 00 goes. false: it is none, and
// is to be taken as if it were not there.
func ParseContext(b []byte) (c Context, ok bool) {
	if len(b) < contextSize || b[2] != '-' || b[35] != '-' || b[52] != '-' {
		return c, false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], b[:2]) || !lowerHex(c.Trace[:], b[3:35]) || !lowerHex(c.Span[:], b[36:52]) || !lowerHex(flags[:], b[53:55]) {
		return Context{}, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(b) != contextSize, len(b) > contextSize && b[contextSize] != '-',
		c.Trace == ID{}, c.Span == SpanID{}:
		return Context{}, false
	}
	c.Sampled = flags[0]&flagsSampled != 0
	return c, true
}

// lowerHex decodes hexadecimal digits, of which the specification allows no capitals.
func lowerHex(dst, src []byte) bool {
	for _, d := range src {
		if d >= 'A' && d <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(dst, src)
	return err == nil
}

// Append appends the traceparent of c.
func (c Context) Append(dst []byte) []byte {
	dst = append(dst, "00-"...)
	dst = hex.AppendEncode(dst, c.Trace[:])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, c.Span[:])
	if c.Sampled {
		return append(dst, "-01"...)
	}
	return append(dst, "-00"...)
}
