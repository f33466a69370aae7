package wire

import "encoding/base64"

// UUID is the id of a topic or a directory. The zero value stands for none.
type UUID [16]byte

// String gives the id as Kafka writes it: base64 for URLs, without padding.
func (u UUID) String() string { return base64.RawURLEncoding.EncodeToString(u[:]) }

// ParseUUID reads what String gives.
func ParseUUID(s string) (u UUID, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(u) {
		return UUID{}, false
	}
	return UUID(b), true
}
