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
)

// classify says what b holds. It is the one pass over a topic on the way of a publish.
func classify(b []byte) (class uint8) {
	var nul, wild, high uint64
	if len(b) >= 8 {
		i := 0
		for ; i+8 <= len(b); i += 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			nul |= (w - ones) &^ w
			p, s := w^('+'*ones), w^('#'*ones)
			wild |= (p-ones)&^p | (s-ones)&^s
			high |= w
		}
		w := binary.LittleEndian.Uint64(b[len(b)-8:]) // the last eight again, so that no tail is left
		nul |= (w - ones) &^ w
		p, s := w^('+'*ones), w^('#'*ones)
		wild |= (p-ones)&^p | (s-ones)&^s
		high |= w
	} else {
		for _, c := range b {
			if c == 0 {
				nul = highs
			}
			if c == '+' || c == '#' {
				wild = highs
			}
			high |= uint64(c)
		}
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

// ValidText says whether b is a string that MQTT allows: well-formed UTF-8, hence without surrogates, and without
// U+0000. Length is not looked at. Control characters and non-characters, which a receiver may refuse, are let through.
func ValidText(b []byte) bool {
	class := classify(b)
	return class&textNUL == 0 && (class&textHigh == 0 || utf8.Valid(b))
}

// ValidPayload says whether b is the UTF-8 that payload format indicator 1 claims. U+0000 is allowed in it.
func ValidPayload(b []byte) bool { return utf8.Valid(b) }
