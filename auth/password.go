package auth

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Params are the costs of one argon2id hash.
type Params struct {
	MemoryKiB uint32
	Time      uint32
	Threads   uint8

	rounds uint32 // of PBKDF2 with HMAC-SHA-512 in place of argon2id, which hashes of Mosquitto's come with; 0: argon2id
}

// DefaultParams are what new hashes are made with: 19 MiB and two passes, about 30 ms of one core.
var DefaultParams = Params{MemoryKiB: 19 << 10, Time: 2, Threads: 1}

// Bounds of what a file may ask for: a line must not be able to take the node's memory or minutes of a core.
const (
	memoryKiBMax   = 1 << 20
	timeMax        = 64
	threadsMax     = 64
	saltMin        = 8
	saltMax        = 64
	hashMin        = 16
	hashMax        = 64
	newSaltBytes   = 16
	newHashBytes   = 32
	phcPrefix      = "$argon2id$v=19$"
	pbkdf2Prefix   = "$pbkdf2-sha512$i="
	roundsMax      = 1 << 20 // about a second
	phcBytesMax    = 512
	passwordMax    = 65535 // MQTT's own bound
	workFactorsMax = 8 << 20
)

// hashed is one stored password.
type hashed struct {
	params     Params
	salt, hash string
}

// Hash returns the PHC string of password with a new salt: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
func Hash(password []byte, p Params) (string, error) {
	if len(password) == 0 || len(password) > passwordMax {
		return "", fmt.Errorf("want a password of 1 to %d bytes, found %d", passwordMax, len(password))
	}
	if err := p.check(); err != nil {
		return "", err
	}
	salt := make([]byte, newSaltBytes)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	sum := argon2.IDKey(password, salt, p.Time, p.MemoryKiB, p.Threads, newHashBytes)
	return hashed{p, string(salt), string(sum)}.String(), nil
}

// String gives the PHC form.
func (h hashed) String() string {
	b64 := base64.RawStdEncoding
	if h.params.rounds > 0 {
		return fmt.Sprintf("%s%d$%s$%s", pbkdf2Prefix, h.params.rounds, b64.EncodeToString([]byte(h.salt)), b64.EncodeToString([]byte(h.hash)))
	}
	return fmt.Sprintf("%sm=%d,t=%d,p=%d$%s$%s", phcPrefix, h.params.MemoryKiB, h.params.Time, h.params.Threads,
		b64.EncodeToString([]byte(h.salt)), b64.EncodeToString([]byte(h.hash)))
}

// verify takes as long as the hash's costs say, whatever the password.
func (h hashed) verify(password []byte) bool {
	if h.params.rounds > 0 {
		sum, err := pbkdf2.Key(sha512.New, string(password), []byte(h.salt), int(h.params.rounds), len(h.hash))
		return err == nil && subtle.ConstantTimeCompare(sum, []byte(h.hash)) == 1
	}
	sum := argon2.IDKey(password, []byte(h.salt), h.params.Time, h.params.MemoryKiB, h.params.Threads, uint32(len(h.hash)))
	return subtle.ConstantTimeCompare(sum, []byte(h.hash)) == 1
}

func (p Params) check() error {
	switch {
	case p.Time < 1 || p.Time > timeMax:
		return fmt.Errorf("want t from 1 to %d, found %d", timeMax, p.Time)
	case p.Threads < 1 || p.Threads > threadsMax:
		return fmt.Errorf("want p from 1 to %d, found %d", threadsMax, p.Threads)
	case p.MemoryKiB < 8*uint32(p.Threads) || p.MemoryKiB > memoryKiBMax:
		return fmt.Errorf("want m from 8 times p to %d, found %d", memoryKiBMax, p.MemoryKiB)
	case uint64(p.MemoryKiB)*uint64(p.Time) > workFactorsMax:
		return fmt.Errorf("want m times t of at most %d, found %d", workFactorsMax, uint64(p.MemoryKiB)*uint64(p.Time))
	}
	return nil
}

var errPHC = errors.New("want $argon2id$v=19$m=MEMORY,t=TIME,p=THREADS$SALT$HASH")

// parsePHC reads the form that Hash writes, and that of PBKDF2: `$pbkdf2-sha512$i=ROUNDS$SALT$HASH`.
func parsePHC(s string) (hashed, error) {
	var h hashed
	if len(s) > phcBytesMax {
		return h, errPHC
	}
	if rest, ok := strings.CutPrefix(s, pbkdf2Prefix); ok {
		return parsePBKDF2(rest)
	}
	rest, ok := strings.CutPrefix(s, phcPrefix)
	if !ok {
		return h, errPHC
	}
	fields := strings.Split(rest, "$")
	if len(fields) != 3 {
		return h, errPHC
	}
	costs := strings.Split(fields[0], ",")
	if len(costs) != 3 {
		return h, errPHC
	}
	var n [3]uint64
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(costs[i], name)
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || strconv.FormatUint(v, 10) != digits {
			return h, errPHC
		}
		n[i] = v
	}
	if n[2] > threadsMax {
		return h, fmt.Errorf("want p from 1 to %d, found %d", threadsMax, n[2])
	}
	h.params = Params{MemoryKiB: uint32(n[0]), Time: uint32(n[1]), Threads: uint8(n[2])}
	if err := h.params.check(); err != nil {
		return h, err
	}
	err := h.setSums(fields[1], fields[2])
	return h, err
}

// parsePBKDF2 reads what comes behind its prefix.
func parsePBKDF2(rest string) (h hashed, err error) {
	fields := strings.Split(rest, "$")
	if len(fields) != 3 {
		return h, errors.New("want $pbkdf2-sha512$i=ROUNDS$SALT$HASH")
	}
	n, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil || n < 1 || n > roundsMax || strconv.FormatUint(n, 10) != fields[0] {
		return h, fmt.Errorf("want i from 1 to %d, found %q", roundsMax, fields[0])
	}
	h.params.rounds = uint32(n)
	err = h.setSums(fields[1], fields[2])
	return h, err
}

// setSums reads salt and hash.
func (h *hashed) setSums(saltText, sumText string) error {
	b64 := base64.RawStdEncoding.Strict()
	salt, err := b64.DecodeString(saltText)
	if err != nil || len(salt) < saltMin || len(salt) > saltMax {
		return fmt.Errorf("want a salt of %d to %d bytes in base64 without padding", saltMin, saltMax)
	}
	sum, err := b64.DecodeString(sumText)
	if err != nil || len(sum) < hashMin || len(sum) > hashMax {
		return fmt.Errorf("want a hash of %d to %d bytes in base64 without padding", hashMin, hashMax)
	}
	h.salt, h.hash = string(salt), string(sum)
	return nil
}

// CheckHash says what is wrong with a stored password, which Hash makes.
func CheckHash(phc string) error {
	_, err := parsePHC(phc)
	return err
}
