package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
)

// The SCRAM mechanisms, by their names in SASL.
const (
	SCRAMSHA256 = "SCRAM-SHA-256"
	SCRAMSHA512 = "SCRAM-SHA-512"
)

const iterationsMin = 4096

// Verifier is what a server keeps of a password to answer SCRAM (RFC 5802). The password cannot be had from it.
type Verifier struct {
	Iterations           int
	Salt                 string
	StoredKey, ServerKey string // 32 or 64 bytes
}

// scramHash gives the hash of a mechanism, nil if there is none.
func scramHash(mechanism string) func() hash.Hash {
	switch mechanism {
	case SCRAMSHA256:
		return sha256.New
	case SCRAMSHA512:
		return sha512.New
	}
	return nil
}

// NewVerifier makes what is stored of a password, with a new salt. The password counts as it is, as with Kafka's own tools.
func NewVerifier(mechanism string, password []byte, iterations int) (Verifier, error) {
	h := scramHash(mechanism)
	if h == nil {
		return Verifier{}, fmt.Errorf("there is no mechanism %q", mechanism)
	}
	if len(password) == 0 || len(password) > passwordMax {
		return Verifier{}, fmt.Errorf("want a password of 1 to %d bytes, found %d", passwordMax, len(password))
	}
	salt := make([]byte, newSaltBytes)
	if _, err := rand.Read(salt); err != nil {
		return Verifier{}, err
	}
	v := Verifier{Iterations: iterations, Salt: string(salt)}
	err := v.derive(h, password)
	return v, err
}

// derive fills in the keys.
func (v *Verifier) derive(h func() hash.Hash, password []byte) error {
	salted, err := pbkdf2.Key(h, string(password), []byte(v.Salt), v.Iterations, h().Size())
	if err != nil {
		return err
	}
	v.keys(h, salted)
	return nil
}

// keys fills in the keys that follow from a salted password.
func (v *Verifier) keys(h func() hash.Hash, salted []byte) {
	stored := h()
	stored.Write(mac(h, salted, []byte("Client Key")))
	v.StoredKey, v.ServerKey = string(stored.Sum(nil)), string(mac(h, salted, []byte("Server Key")))
}

// SaltedVerifier makes what is stored of a password that was salted elsewhere. mechanism is one of those that there are.
func SaltedVerifier(mechanism string, salted, salt []byte, iterations int) Verifier {
	v := Verifier{Iterations: iterations, Salt: string(salt)}
	v.keys(scramHash(mechanism), salted)
	return v
}

// verify compares a password with what is stored of it.
func (v *Verifier) verify(password []byte) bool {
	h := sha256.New
	if len(v.StoredKey) == sha512.Size {
		h = sha512.New
	}
	got := Verifier{Iterations: v.Iterations, Salt: v.Salt}
	return got.derive(h, password) == nil && subtle.ConstantTimeCompare([]byte(got.StoredKey), []byte(v.StoredKey)) == 1
}

func mac(h func() hash.Hash, key, message []byte) []byte {
	m := hmac.New(h, key)
	m.Write(message)
	return m.Sum(nil)
}
