package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// What a string holds, found eight bytes at a time.
const (
	textNUL  = 1 << iota // U+0000
	textWild             // + or #
	textHigh             // a byte beyond ASCII: not known to be UTF-8 yet
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080

	wildBit = ('+' ^ '#') * ones
)

// classify says what b holds. It is the one pass over a topic on the way of a publish. (w-ones)&^w has the high bit of
// some byte set if and only if a byte of w is 0; + and # differ in one bit, so that one such test finds both.
func classify(b []byte) (class uint8) {
	if len(b) < 8 {
		return classifyShort(b)
	}
	var nul, wild, high uint64
	for i := 0; i < len(b)-8; i += 8 {
		w := binary.LittleEndian.Uint64(b[i : i+8])
		x := (w | wildBit) ^ '+'*ones
		nul |= (w - ones) &^ w
		wild |= (x - ones) &^ x
		high |= w
	}
	w := binary.LittleEndian.Uint64(b[len(b)-8:]) // the last eight, some for the second time, so that no tail is left
	x := (w | wildBit) ^ '+'*ones
	nul |= (w - ones) &^ w
	wild |= (x - ones) &^ x
	high |= w
	if (nul|wild|high)&highs == 0 {
		return 0
	}
	if nul&highs != 0 {
		class |= textNUL
	}
	if wild&highs != 0 {
		class |= textWild
	}
	if high&highs != 0 {
		class |= textHigh
	}
	return class
}

func classifyShort(b []byte) (class uint8) {
	for _, c := range b {
		switch {
		case c == 0:
			class |= textNUL
		case c == '+' || c == '#':
			class |= textWild
		case c >= 0x80:
			class |= textHigh
		}
	}
	return class
}

// ValidText says whether b is a string that MQTT allows: well-formed UTF-8, hence without surrogates, and without
// U+0000. Length is not looked at. Control characters and non-characters, which a receiver may refuse, are let through.
func ValidText(b []byte) bool {
	class := classify(b)
	return class&textNUL == 0 && (class&textHigh == 0 || utf8.Valid(b))
}

// ValidPayload says whether b is the UTF-8 that payload format indicator 1 claims. U+0000 is allowed in it.
func ValidPayload(b []byte) bool { return utf8.Valid(b) }
