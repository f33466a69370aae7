package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// verdictsMax bounds each half of the cache; an entry takes about 60 bytes.
const verdictsMax = 1 << 16

type digest [sha256.Size]byte

// verdicts remember for a short time which pairs of user and password were right and which were wrong, so that a fleet that
// reconnects does not cost an argon2 each. A pair is known by its HMAC under a key that lives as long as the cache and never
// leaves the process; neither name nor password is kept. Wrong pairs are kept apart, so that guessing cannot push out the right.
type verdicts struct {
	ttl  time.Duration
	size int
	mu   struct {
		sync.Mutex
		key   [32]byte
		gone  bool // zeroized: nothing is taken or told any more
		right map[digest]time.Time
		wrong map[digest]time.Time
	}
}

func newVerdicts(ttl time.Duration) (*verdicts, error) {
	v := &verdicts{ttl: ttl, size: verdictsMax}
	v.mu.right, v.mu.wrong = make(map[digest]time.Time), make(map[digest]time.Time)
	_, err := rand.Read(v.mu.key[:])
	return v, err
}

// digest names the pair, and what the password was compared with: when that changes, nothing is known. The length goes first: without it
// "ab"+"c" were "a"+"bc".
func (v *verdicts) digest(user string, secret uint64, password []byte) (d digest) {
	v.mu.Lock()
	key := v.mu.key
	v.mu.Unlock()
	mac := hmac.New(sha256.New, key[:])
	clear(key[:])
	var n [12]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(user)))
	binary.LittleEndian.PutUint64(n[4:], secret)
	mac.Write(n[:])
	mac.Write([]byte(user))
	mac.Write(password)
	mac.Sum(d[:0])
	return d
}

// get tells what is known of d at now.
func (v *verdicts) get(d digest, now time.Time) (ok, known bool) {
	if v.ttl == 0 {
		return false, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if until, found := v.mu.right[d]; found && now.Before(until) {
		return true, true
	}
	until, found := v.mu.wrong[d]
	return false, found && now.Before(until)
}

func (v *verdicts) put(d digest, ok bool, now time.Time) {
	if v.ttl == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.gone {
		return
	}
	m, until := v.mu.right, now.Add(v.ttl)
	if !ok {
		m, until = v.mu.wrong, now.Add(v.ttl/10)
	}
	if len(m) >= v.size {
		makeRoom(m, now)
	}
	m[d] = until
}

// makeRoom drops an entry or more: of a few that the map's random order brings up, those that have expired, else the first.
func makeRoom(m map[digest]time.Time, now time.Time) {
	looked, dropped := 0, 0
	for d, until := range m {
		if looked++; looked > 16 {
			break
		}
		if !now.Before(until) {
			delete(m, d)
			dropped++
		}
	}
	if dropped > 0 {
		return
	}
	for d := range m {
		delete(m, d)
		return
	}
}

// zeroize forgets everything for good. A digest made afterwards is under a key of zeros and finds nothing.
func (v *verdicts) zeroize() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.gone = true
	clear(v.mu.key[:])
	clear(v.mu.right)
	clear(v.mu.wrong)
}
