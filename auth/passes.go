package auth

import (
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
)

const (
	// passBytesMax bounds the cache of passes, by the tokens that they were made from: what is kept of a token is about as large.
	passBytesMax = 32 << 20
	// passTokenMax is how long a token may be that is remembered.
	passTokenMax = 4 << 10
	// passOverhead is what an entry takes beside that.
	passOverhead = 160
	// tokenSecret keeps digests of tokens apart from those of passwords.
	tokenSecret = ^uint64(0)
)

// passes remember for a short time which tokens were good and what they gave, so that a fleet that reconnects costs no signature each, and nobody's
// answer has to go through another goroutine. A token is known by its digest (see verdicts); it is not kept itself. They die with the rules that they were
// made under. A key that a set has lost meanwhile opens to whom it has signed for no longer than auth.cache_ttl.
type passes struct {
	mu struct {
		sync.Mutex
		all   map[digest]kept
		bytes int
	}
}

// kept is a pass that is remembered.
type kept struct {
	pass
	until time.Time
	size  int
}

// passDigest names a token, and who shows it if the claims that it has to have are about that.
func (rs *ruleSet) passDigest(c *broker.Credentials) digest {
	who := ""
	if len(rs.tokens.must) > 0 {
		who = c.ClientID
	}
	return rs.verdicts.digest(who, tokenSecret, c.Password)
}

// rememberedPass is the identity of a client whose token was good a moment ago and still is. false: look again.
func (rs *ruleSet) rememberedPass(c *broker.Credentials) (id broker.Identity, ok bool) {
	if rs.verdicts.ttl == 0 || len(c.Password) > passTokenMax {
		return id, false
	}
	now := rs.o.Now()
	p, ok := rs.passes.get(rs.passDigest(c), now)
	if !ok || now.UnixMilli() >= p.expires+rs.tokens.o.ClockSkew.Milliseconds() || rs.mayShow(c, &p) != nil {
		return id, false
	}
	id = rs.identity(c)
	rs.take(&p, &id)
	return id, true
}

func (rs *ruleSet) rememberPass(c *broker.Credentials, p *pass) {
	if rs.verdicts.ttl == 0 || len(c.Password) > passTokenMax {
		return
	}
	now := rs.o.Now()
	rs.passes.put(rs.passDigest(c), kept{*p, now.Add(rs.verdicts.ttl), len(c.Password) + passOverhead})
}

func (s *passes) get(d digest, now time.Time) (p pass, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.mu.all[d]
	return k.pass, ok && now.Before(k.until)
}

func (s *passes) put(d digest, k kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.all == nil {
		s.mu.all = make(map[digest]kept)
	}
	s.mu.bytes += k.size - s.mu.all[d].size
	s.mu.all[d] = k
	for s.mu.bytes > passBytesMax {
		for other, o := range s.mu.all { // whichever the map's random order brings up
			s.mu.bytes -= o.size
			delete(s.mu.all, other)
			break
		}
	}
}

// forget drops all.
func (s *passes) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.mu.all)
	s.mu.bytes = 0
}
