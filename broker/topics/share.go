package topics

import (
	"fmt"
	"sync/atomic"
)

// Strategy chooses the member of a shared group that gets a message.
type Strategy uint8

// The strategies, by their names in the configuration.
const (
	RoundRobin    Strategy = iota // round_robin: each in turn
	Sticky                        // sticky: the same one while it is available
	HashTopic                     // hash_topic: by the topic, so that its order holds
	HashClient                    // hash_client: by the publisher
	LeastInflight                 // least_inflight: who has the fewest unacknowledged
)

var strategyNames = [...]string{"round_robin", "sticky", "hash_topic", "hash_client", "least_inflight"}

// String is the name in the configuration.
func (s Strategy) String() string {
	if int(s) < len(strategyNames) {
		return strategyNames[s]
	}
	return fmt.Sprintf("strategy(%d)", uint8(s))
}

// ParseStrategy reads a name of the configuration.
func ParseStrategy(name string) (Strategy, error) {
	for i, n := range strategyNames {
		if n == name {
			return Strategy(i), nil
		}
	}
	return 0, fmt.Errorf("topics: unknown share strategy %q", name)
}

// Members tells the state of a group's members. Pick calls it for some of the candidates, on the caller's goroutine.
type Members interface {
	Available(subscriber uint32) bool // can be given a message now
	Inflight(subscriber uint32) int   // messages sent and not acknowledged
}

// Message is what the hash strategies look at.
type Message struct {
	Topic  []byte
	Client []byte // the publisher's client id
}

// Picker is the memory of one shared group: one word, without pointers, for any number of goroutines. The zero value is ready.
type Picker struct{ state atomic.Uint64 }

// Pick chooses among candidates (a MatchedFilter's Entries) by strategy s, and answers the place of the chosen one, or -1 if no member is
// available. The hash strategies are rendezvous hashes: their choice does not depend on the order of the candidates, and a member
// that comes or goes moves only its own share. After a failed delivery the caller makes that member unavailable and picks again.
func (p *Picker) Pick(s Strategy, candidates []Entry, msg Message, members Members) int {
	if len(candidates) == 0 {
		return -1
	}
	switch s {
	case HashTopic:
		return rendezvous(candidates, hashBytes(msg.Topic), members)
	case HashClient:
		return rendezvous(candidates, hashBytes(msg.Client), members)
	case LeastInflight:
		return leastInflight(candidates, p.turn(len(candidates)), members)
	case Sticky:
		return p.sticky(candidates, msg, members)
	default:
		return firstAvailable(candidates, p.turn(len(candidates)), members)
	}
}

// turn answers the place at which the next round begins.
func (p *Picker) turn(n int) int { return int((p.state.Add(1) - 1) % uint64(n)) }

// sticky keeps the member in state, as subscriber + 1, so that 0 is nobody. Two goroutines that find no member may choose two; the
// one that stores last is kept.
func (p *Picker) sticky(candidates []Entry, msg Message, members Members) int {
	if held := p.state.Load(); held != 0 {
		for i := range candidates {
			if uint64(candidates[i].Subscriber)+1 == held {
				if members.Available(candidates[i].Subscriber) {
					return i
				}
				break
			}
		}
	}
	// The topic decides where a group begins, so that many groups do not begin with the same member.
	i := rendezvous(candidates, hashBytes(msg.Topic), members)
	if i >= 0 {
		p.state.Store(uint64(candidates[i].Subscriber) + 1)
	}
	return i
}

// firstAvailable looks once around, from start on.
func firstAvailable(candidates []Entry, start int, members Members) int {
	for i := range candidates {
		at := start + i
		if at >= len(candidates) {
			at -= len(candidates)
		}
		if members.Available(candidates[at].Subscriber) {
			return at
		}
	}
	return -1
}

// leastInflight takes the first of the least loaded, from start on, so that equals take turns.
func leastInflight(candidates []Entry, start int, members Members) int {
	best, least := -1, 0
	for i := range candidates {
		at := start + i
		if at >= len(candidates) {
			at -= len(candidates)
		}
		s := candidates[at].Subscriber
		if n := members.Inflight(s); (best < 0 || n < least) && members.Available(s) {
			best, least = at, n
		}
	}
	return best
}

// rendezvous takes the available member with the highest weight for key.
func rendezvous(candidates []Entry, key uint64, members Members) int {
	best, most := -1, uint64(0)
	for i := range candidates {
		s := candidates[i].Subscriber
		w := mix(key ^ uint64(s)*0x9e3779b97f4a7c15)
		if (best < 0 || w > most) && members.Available(s) {
			best, most = i, w
		}
	}
	return best
}

// hashBytes is FNV-1a, not seeded: a choice must be the same on each node and after a restart.
func hashBytes(b []byte) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, c := range b {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return h
}
