package auth

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// Options are what a Provider answers by. Concurrency and Queue are fixed at New.
type Options struct {
	Anonymous       string   // off, loopback or everywhere
	PasswordFile    string   // empty: none
	CertificateUser string   // off, cn, san_dns, san_email, san_uri or subject
	ACLFile         string   // empty: none
	SuperUsers      []string // may do everything
	OpenWithoutACL  string   // auto, true or false: whether what no ACL is about is allowed; empty: auto
	CacheTTL        time.Duration
	Concurrency     int // hashes at once; 0: half the cores, at least one
	Queue           int // clients that wait; 0: 4096

	ClientCAs *x509.CertPool               // authorities in force; nil: certificates are not verified again
	Revoked   func(*x509.Certificate) bool // nil: nothing is

	Now func() time.Time // nil: time.Now
}

// ruleSet is everything that a reload replaces. It is immutable but for its cache.
type ruleSet struct {
	o          Options
	generation uint64
	users      *users // nil: no password file
	acl        *acl   // nil: no rule file
	grants     *grants
	super      map[string]struct{}
	open       openness
	verdicts   *verdicts
	dummySalt  string

	changedUsers map[string]uint64 // generation in which a user's hash became what it is; absent: the first one
	changedCAs   uint64            // generation in which the authorities became what they are
}

// Provider answers who a client is and what it may do. It is safe for concurrent use.
type Provider struct {
	rules   atomic.Pointer[ruleSet]
	reload  sync.Mutex // one reload at a time
	sem     chan struct{}
	waiting atomic.Int64
	queue   int64

	hashes func(h hashed, password []byte) bool // hashed.verify; tests count
}

var (
	_ broker.QuickAuthenticator = (*Provider)(nil)
	_ broker.Authorizer         = (*Provider)(nil)
	_ broker.ResourceAuthorizer = (*Provider)(nil)
)

// New reads the files.
func New(o Options) (*Provider, error) {
	if o.Concurrency <= 0 {
		o.Concurrency = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if o.Queue <= 0 {
		o.Queue = 4096
	}
	p := &Provider{sem: make(chan struct{}, o.Concurrency), queue: int64(o.Queue), hashes: hashed.verify}
	rs, err := load(o, nil)
	if err != nil {
		return nil, err
	}
	p.rules.Store(rs)
	return p, nil
}

// Reload reads the files again and takes them over together; on error nothing has changed. What was remembered of passwords is
// forgotten. Connections are to be asked about by Recheck afterwards.
func (p *Provider) Reload(o Options) error {
	p.reload.Lock()
	defer p.reload.Unlock()
	old := p.rules.Load()
	rs, err := load(o, old)
	if err != nil {
		return err
	}
	p.rules.Store(rs)
	old.verdicts.zeroize()
	return nil
}

func load(o Options, old *ruleSet) (rs *ruleSet, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CertificateUser == "" {
		o.CertificateUser = "off"
	}
	rs = &ruleSet{o: o, generation: 1, grants: &grants{}}
	if o.PasswordFile != "" {
		if rs.users, err = loadUsers(o.PasswordFile); err != nil {
			return nil, fmt.Errorf("password file: %w", err)
		}
	}
	if o.ACLFile != "" {
		data, err := readFile(o.ACLFile)
		if err != nil {
			return nil, fmt.Errorf("rule file: %w", err)
		}
		if rs.acl, err = parseACL(o.ACLFile, data); err != nil {
			return nil, fmt.Errorf("rule file: %w", err)
		}
	}
	rs.settle()
	if rs.verdicts, err = newVerdicts(o.CacheTTL); err != nil {
		return nil, err
	}
	salt := make([]byte, newSaltBytes)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	rs.dummySalt = string(salt)
	if old != nil {
		rs.follow(old)
	}
	return rs, nil
}

// follow makes rs the generation behind old and notes what is not as it was.
func (rs *ruleSet) follow(old *ruleSet) {
	rs.generation, rs.grants = old.generation+1, old.grants
	rs.settle()
	rs.changedCAs = old.changedCAs
	if (rs.o.ClientCAs == nil) != (old.o.ClientCAs == nil) || rs.o.ClientCAs != nil && !rs.o.ClientCAs.Equal(old.o.ClientCAs) {
		rs.changedCAs = rs.generation
	}
	if rs.users == nil {
		return
	}
	rs.changedUsers = make(map[string]uint64)
	for name, h := range rs.users.byName {
		if old.users != nil {
			if was, found := old.users.byName[name]; found && was == h {
				if g := old.changedUsers[name]; g != 0 {
					rs.changedUsers[name] = g
				}
				continue
			}
		}
		rs.changedUsers[name] = rs.generation
	}
}

// Quick answers what needs no hash: certificates, anonymous clients, pairs of user and password seen a moment ago.
func (p *Provider) Quick(c broker.Credentials) (broker.Identity, bool, error) {
	rs := p.rules.Load()
	return rs.quick(&c, nil)
}

// quick answers at once if it can. If not, and d is there, d is the digest to remember the answer under.
func (rs *ruleSet) quick(c *broker.Credentials, d *digest) (id broker.Identity, done bool, err error) {
	id = broker.Identity{ClientID: c.ClientID, Remote: c.Remote.Addr().Unmap(), Generation: rs.generation}
	switch {
	case rs.o.CertificateUser != "off" && len(c.PeerCertificates) > 0:
		id.Source = "certificate"
		if rs.o.Revoked != nil && rs.o.Revoked(c.PeerCertificates[0]) {
			return id, true, refuse(broker.ErrNotAuthorized, errRevoked)
		}
		if id.User, err = certificateUser(rs.o.CertificateUser, c.PeerCertificates[0]); err != nil {
			return id, true, refuse(broker.ErrNotAuthorized, err)
		}
		return id, true, nil
	case rs.users != nil && c.HasUsername:
		id.Source, id.User = "password", c.Username
		sum := rs.verdicts.digest(c.Username, c.Password)
		if d != nil {
			*d = sum
		}
		ok, known := rs.verdicts.get(sum, rs.o.Now())
		if known && !ok {
			err = broker.ErrBadCredentials
		}
		return id, known, err
	}
	// A user name that nothing vouches for is no user: id.User stays empty, so that no rule for that user holds.
	id.Source = "anonymous"
	if !rs.anonymousFrom(id.Remote.IsValid(), id.Remote.IsLoopback()) {
		return id, true, refuse(broker.ErrNotAuthorized, errors.New("credentials are required"))
	}
	return id, true, nil
}

func (rs *ruleSet) anonymousFrom(hasAddress, loopback bool) bool {
	switch rs.o.Anonymous {
	case "everywhere":
		return true
	case "loopback":
		return !hasAddress || loopback // a unix socket has no address
	}
	return false
}

func refuse(kind, why error) error { return fmt.Errorf("%w: %w", kind, why) }

// Authenticate answers, after hashing the password if it must. So many hash at once, so many wait, the next are told ErrAuthBusy.
func (p *Provider) Authenticate(ctx context.Context, c broker.Credentials) (broker.Identity, error) {
	for {
		rs := p.rules.Load()
		id, err := p.authenticate(ctx, rs, &c)
		// A reload while the hash was being made: the answer is by files that are gone, so ask the new ones.
		if p.rules.Load().verdicts == rs.verdicts || ctx.Err() != nil || errors.Is(err, broker.ErrAuthBusy) {
			return id, err
		}
	}
}

func (p *Provider) authenticate(ctx context.Context, rs *ruleSet, c *broker.Credentials) (broker.Identity, error) {
	var d digest
	if id, done, err := rs.quick(c, &d); done {
		return id, err
	}
	if p.waiting.Add(1) > p.queue+int64(cap(p.sem)) {
		p.waiting.Add(-1)
		return broker.Identity{}, broker.ErrAuthBusy
	}
	defer p.waiting.Add(-1)
	select {
	case p.sem <- struct{}{}:
		defer func() { <-p.sem }()
	case <-ctx.Done():
		return broker.Identity{}, ctx.Err()
	}
	// The same client may have come twice and have been answered while this one waited.
	id, done, err := rs.quick(c, nil)
	if done {
		return id, err
	}
	h, known := rs.lookup(c.Username, d)
	ok := p.hashes(h, c.Password) && known
	rs.verdicts.put(d, ok, rs.o.Now())
	if !ok {
		return broker.Identity{}, broker.ErrBadCredentials
	}
	return id, nil
}

// lookup finds the hash of a user. An unknown user gets one that no password fits, at the costs of some user of the file, the same
// one each time: how long an answer takes tells nothing about who is there.
func (rs *ruleSet) lookup(user string, d digest) (h hashed, known bool) {
	if h, known = rs.users.byName[user]; known {
		return h, true
	}
	h = hashed{params: DefaultParams, salt: rs.dummySalt, hash: rs.dummySalt + rs.dummySalt}
	if n := len(rs.users.list); n > 0 {
		pick := rs.verdicts.digest(user, nil) // by the name alone: two guesses for one name cost the same
		like := rs.users.byName[rs.users.list[binary.LittleEndian.Uint64(pick[:])%uint64(n)]]
		h.params = like.params
	}
	return h, false
}

// Recheck tells whether a client that is in would still come in: nil, or why not. certs are those that it showed.
func (p *Provider) Recheck(id *broker.Identity, certs []*x509.Certificate) error {
	rs := p.rules.Load()
	switch id.Source {
	case "password":
		if rs.users == nil {
			return errors.New("there is no password file any more")
		}
		if _, found := rs.users.byName[id.User]; !found {
			return errors.New("the user is gone")
		}
		if rs.changedUsers[id.User] > id.Generation {
			return errors.New("the password was changed")
		}
		return nil
	case "certificate":
		return rs.recheckCertificate(id, certs)
	}
	if !rs.anonymousFrom(id.Remote.IsValid(), id.Remote.IsLoopback()) {
		return errors.New("clients without credentials are not allowed any more")
	}
	return nil
}

func (rs *ruleSet) recheckCertificate(id *broker.Identity, certs []*x509.Certificate) error {
	if rs.o.CertificateUser == "off" || len(certs) == 0 {
		return errors.New("certificates are not taken for users any more")
	}
	if rs.o.Revoked != nil && rs.o.Revoked(certs[0]) {
		return errRevoked
	}
	if user, err := certificateUser(rs.o.CertificateUser, certs[0]); err != nil || user != id.User {
		return errors.New("the certificate names another user now")
	}
	if rs.o.ClientCAs != nil && rs.changedCAs > id.Generation {
		return verifyChain(certs, rs.o.ClientCAs)
	}
	return nil
}
