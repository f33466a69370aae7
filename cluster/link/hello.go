package link

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// A handshake is four messages, each {length u16, type u8, payload}: the dialer's hello, the acceptor's hello, the dialer's proof, the
// acceptor's welcome with its own proof. In place of each of its own the acceptor may answer with a refusal. The token itself is never sent: a
// proof is an HMAC, with the token as its key, over both hellos as they were on the wire and, with TLS, what only these two ends know of it.
const (
	magic = "SLUICELK"
	// VersionMin is the first version of the protocol that is spoken here.
	VersionMin = 1
	// VersionMax is the last one.
	VersionMax = 1

	shakeHead  = 3
	shakeMost  = 1024
	nonceBytes = 32
	proofBytes = sha256.Size

	shakeHello   = 1
	shakeProof   = 2
	shakeWelcome = 3
	shakeRefusal = 4
)

// Compressions that a node can open, as bits in its hello.
const compressS2 = 1

// hello is what a node says of itself.
type hello struct {
	versionMin, versionMax uint8
	plaintext              bool
	from, to               NodeID // to: whom it calls, 0 in the acceptor's
	cluster                [16]byte
	identity               [16]byte
	incarnation            uint64
	feature, featureMin    uint32
	clockMs                int64
	opens                  uint8 // compressions
	windows                [numKinds]uint32
	nonce                  [nonceBytes]byte
}

const helloFixed = len(magic) + 4 + 8 + 16 + 16 + 8 + 8 + 8 + nonceBytes + 1

const helloPlaintext = 1

// appendHello appends a hello's payload.
func appendHello(dst []byte, h *hello) []byte {
	dst = append(dst, magic...)
	var flags byte
	if h.plaintext {
		flags = helloPlaintext
	}
	dst = append(dst, h.versionMin, h.versionMax, flags, h.opens)
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, uint32(h.from))
	dst = le.AppendUint32(dst, uint32(h.to))
	dst = append(dst, h.cluster[:]...)
	dst = append(dst, h.identity[:]...)
	dst = le.AppendUint64(dst, h.incarnation)
	dst = le.AppendUint32(dst, h.feature)
	dst = le.AppendUint32(dst, h.featureMin)
	dst = le.AppendUint64(dst, uint64(h.clockMs))
	dst = append(dst, h.nonce[:]...)
	dst = append(dst, numKinds-1)
	for k := Kind(1); k < numKinds; k++ {
		dst = append(dst, byte(k))
		dst = le.AppendUint32(dst, h.windows[k])
	}
	return dst
}

// decodeHello reads a hello's payload. A newer version may append what this one does not know, and have kinds that it does not know.
func decodeHello(b []byte) (h hello, err error) {
	if len(b) < len(magic)+2 || string(b[:len(magic)]) != magic {
		return h, failure(ReasonMalformed, "no hello of a node")
	}
	b = b[len(magic):]
	h.versionMin, h.versionMax = b[0], b[1]
	if h.versionMin > h.versionMax {
		return h, failure(ReasonMalformed, "versions %d to %d", h.versionMin, h.versionMax)
	}
	if h.versionMin > VersionMax || h.versionMax < VersionMin {
		return h, failure(ReasonVersion, "peer speaks %d to %d, this node %d to %d", h.versionMin, h.versionMax, VersionMin, VersionMax)
	}
	if len(b) < helloFixed-len(magic) {
		return h, failure(ReasonMalformed, "hello of %d bytes", len(b)+len(magic))
	}
	h.plaintext, h.opens = b[2]&helloPlaintext != 0, b[3]
	le := binary.LittleEndian
	h.from, h.to = NodeID(le.Uint32(b[4:])), NodeID(le.Uint32(b[8:]))
	b = b[12:]
	b = b[copy(h.cluster[:], b):]
	b = b[copy(h.identity[:], b):]
	h.incarnation, h.feature, h.featureMin = le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
	h.clockMs = int64(le.Uint64(b[16:]))
	b = b[24:]
	b = b[copy(h.nonce[:], b):]
	n := int(b[0])
	b = b[1:]
	if len(b) < 5*n {
		return h, failure(ReasonMalformed, "hello with %d kinds in %d bytes", n, len(b))
	}
	if h.from == 0 || h.from > nodeIDMost {
		return h, failure(ReasonMalformed, "node id %d", h.from)
	}
	for range n {
		k, w := Kind(b[0]), le.Uint32(b[1:])
		b = b[5:]
		if k == 0 || k >= numKinds {
			continue
		}
		if w < windowLeast || bits.Len32(w) > 30 {
			return h, failure(ReasonMalformed, "window of %d bytes for %v", w, k)
		}
		h.windows[k] = w
	}
	return h, nil
}

const nodeIDMost = 65535

// proof is what shows that an end knows the token. role keeps one end's from being sent back to it as the other's.
func proof(token []byte, role string, dialer, acceptor, binding []byte) []byte {
	m := hmac.New(sha256.New, token)
	for _, part := range [...][]byte{[]byte("sluice link 1 "), []byte(role), dialer, acceptor, binding} {
		var n [4]byte
		binary.LittleEndian.PutUint32(n[:], uint32(len(part)))
		m.Write(n[:])
		m.Write(part)
	}
	return m.Sum(nil)
}

// appendShake appends a message of the handshake.
func appendShake(dst []byte, typ byte, payload []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(payload)))
	dst = append(dst, typ)
	return append(dst, payload...)
}

// decodeShakeHead reads the head of a message of the handshake.
func decodeShakeHead(b [shakeHead]byte) (typ byte, n int, err error) {
	n, typ = int(binary.LittleEndian.Uint16(b[:])), b[2]
	switch {
	case typ < shakeHello || typ > shakeRefusal:
		return 0, 0, failure(ReasonMalformed, "handshake message of type %d", typ)
	case n > shakeMost:
		return 0, 0, failure(ReasonTooLarge, "handshake message of %d bytes, at most %d", n, shakeMost)
	}
	return typ, n, nil
}
