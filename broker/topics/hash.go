package topics

import (
	"hash/maphash"
	"math/bits"
)

// hasher is seeded per index: who chooses filters and topics cannot choose them to collide.
type hasher struct {
	seed maphash.Seed
	salt uint64
}

func newHasher() hasher {
	seed := maphash.MakeSeed()
	return hasher{seed: seed, salt: maphash.String(seed, "salt") | 1}
}

// text hashes bytes of tenant: a filter, a topic, a group.
func (h *hasher) text(tenant uint32, b []byte) uint64 {
	return h.pair(maphash.Bytes(h.seed, b), tenant)
}

// level hashes one level, to be paired with its parent.
func (h *hasher) level(b []byte) uint64 { return maphash.Bytes(h.seed, b) }

// pair hashes a hash and a number.
func (h *hasher) pair(x uint64, n uint32) uint64 { return h.join(x, uint64(n)+h.salt) }

// join hashes two words, of which one is a hash or salted.
func (h *hasher) join(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.salt, b*0x9e3779b97f4a7c15^0xd6e8feb86659fd93)
	return mix(hi ^ lo)
}

// mix is the finaliser of MurmurHash3: each bit of x moves each bit of the answer.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
