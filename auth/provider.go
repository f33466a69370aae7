package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
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
	Mapping         string   // rules that make a user of that field; see parseMapping. Empty: it is the user
	ACLFile         string   // empty: none
	SuperUsers      []string // may do everything
	ClientIDs       []string // forms that client ids of MQTT may have, with %u for the user and * for any characters; none: all may
	OpenWithoutACL  string   // auto, true or false: whether what no ACL is about is allowed; empty: auto
	CacheTTL        time.Duration
	Concurrency     int // hashes at once; 0: half the cores, at least one
	Queue           int // clients that wait; 0: 4096

	Directory Directory // users beside those of the file; nil: none
	// SaltKey makes the salts that users who are not there are shown in SCRAM: a secret that stays the same, so that they do as well. nil, or
	// nil from it: one of this run.
	SaltKey func() []byte
	// RepeatedNonce accepts in SCRAM what librdkafka before 2.6.1 sends as nonce: its own once more before the whole one.
	RepeatedNonce bool
	JWT           *JWTOptions      // nil: tokens are not taken
	HTTP          *CallbackOptions // nil: no server is asked
	LDAP          *LDAPOptions     // nil: no directory server is asked
	// Order is in which order they are asked who may know a client: certificate, token, file, ldap, http. Those that are not in it come behind,
	// in this order.
	Order []string
	// At are listeners that have rules of their own, by their names.
	At map[string]ListenerOptions

	Bans   *Bans        // nil: nobody is banned
	Logger *slog.Logger // nil: slog.Default

	ClientCAs *x509.CertPool               // authorities in force; nil: certificates are not verified again
	Revoked   func(*x509.Certificate) bool // nil: nothing is

	Now func() time.Time // nil: time.Now
}

// ListenerOptions are the rules of one listener. The zero value has none of its own.
type ListenerOptions struct {
	Anonymous string   // off, loopback or everywhere; empty: Options.Anonymous
	ProxyUser bool     // a proxy's word counts as a certificate of the client: broker.Credentials.ProxyUser
	Ways      []string // who is asked there, in this order, and nobody else; none: all, by Options.Order
	Tenant    string   // whose clients come there, and nobody else's; empty: the default one's, and those who are said to be another one's
}

// ruleSet is everything that a reload replaces. It is immutable but for its cache.
type ruleSet struct {
	o          Options
	generation uint64
	users      *users // nil: no password file
	mapping    mapping
	ids        []idPattern
	tokens     *tokens // nil: none are taken
	order      [ways]way
	at         map[string][]way // of the listeners that have ways of their own
	callback   *callback        // nil: no server is asked
	ldap       *ldapServer      // nil: no directory server is asked
	answers    *answers
	verdicts   *verdicts
	passes     *passes
	dummySalt  string

	scope                     // of the default tenant
	scopes  map[uint32]*scope // of those that are there and not disabled
	tenants tenants
	lines   map[string]*acl // of the rule file that are about other tenants, by the tenant's name
	granted granted
	places  map[string]uint32 // tenants of the listeners that have one: noTenant is one that is not there
	told    *logLines

	changedCAs uint64 // generation in which the authorities became what they are
	// changedLDAP is that in which the directory server, or what is asked of it about clients, did.
	changedLDAP uint64
}

// What vouches for a client beside SASL mechanisms; see broker.Identity.
const (
	sourcePassword    = "password"
	sourceCertificate = "certificate"
	sourceAnonymous   = "anonymous"
	sourceProxy       = "proxy"
)

// Provider answers who a client is and what it may do. It is safe for concurrent use.
type Provider struct {
	rules   atomic.Pointer[ruleSet]
	reload  sync.Mutex // one reload at a time
	sem     chan struct{}
	waiting atomic.Int64
	queue   int64
	refused refusals

	hashes func(h hashed, password []byte) bool // hashed.verify; tests count
	nonce  func() string                        // newNonce; tests know it
}

var (
	_ broker.QuickAuthenticator = (*Provider)(nil)
	_ broker.LaneAuthenticator  = (*Provider)(nil)
	_ broker.SASLAuthenticator  = (*Provider)(nil)
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
	p := &Provider{sem: make(chan struct{}, o.Concurrency), queue: int64(o.Queue), hashes: hashed.verify, nonce: newNonce}
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
	old.passes.forget()
	if old.ldap != nil && old.ldap != rs.ldap {
		old.ldap.close()
	}
	return nil
}

// Close ends connections to others that are idle. Questions that are under way end theirs.
func (p *Provider) Close() {
	if s := p.rules.Load().ldap; s != nil {
		s.close()
	}
}

func load(o Options, old *ruleSet) (rs *ruleSet, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.CertificateUser == "" {
		o.CertificateUser = "off"
	}
	rs = &ruleSet{o: o, generation: 1, answers: &answers{}, passes: &passes{}, told: &logLines{}}
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
		if rs.acl, rs.lines, err = parseACL(o.ACLFile, data); err != nil {
			return nil, fmt.Errorf("rule file: %w", err)
		}
	}
	if rs.mapping, err = parseMapping(o.Mapping); err != nil {
		return nil, fmt.Errorf("auth.certificate_mapping: %w", err)
	}
	if rs.ids, err = parseIDs(o.ClientIDs); err != nil {
		return nil, fmt.Errorf("auth.client_ids: %w", err)
	}
	if rs.order, err = parseOrder(o.Order); err != nil {
		return nil, fmt.Errorf("auth.order: %w", err)
	}
	if rs.at, err = waysAt(o.At); err != nil {
		return nil, err
	}
	if err = rs.reach(old); err != nil {
		return nil, err
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

// reach gets ready to ask those outside of the node, as old did where nothing has changed.
func (rs *ruleSet) reach(old *ruleSet) (err error) {
	o := &rs.o
	if old == nil {
		old = &ruleSet{}
	}
	if o.JWT != nil {
		if rs.tokens, err = loadTokens(o.JWT, o.Now, o.Logger, old.tokens); err != nil {
			return fmt.Errorf("keys of tokens: %w", err)
		}
	}
	if o.HTTP != nil {
		rs.callback = newCallback(o, old.callback)
	}
	if o.LDAP != nil {
		if rs.ldap, err = newLDAP(o, old.ldap); err != nil {
			return fmt.Errorf("auth.ldap: %w", err)
		}
	}
	return nil
}

// follow makes rs the generation behind old and notes what is not as it was.
func (rs *ruleSet) follow(old *ruleSet) {
	rs.generation, rs.granted, rs.tenants = old.generation+1, old.granted, old.tenants
	rs.settle()
	rs.changedCAs = old.changedCAs
	if (rs.o.ClientCAs == nil) != (old.o.ClientCAs == nil) || rs.o.ClientCAs != nil && !rs.o.ClientCAs.Equal(old.o.ClientCAs) {
		rs.changedCAs = rs.generation
	}
	rs.changedLDAP = old.changedLDAP
	if rs.ldap != old.ldap && !sameAnswers(rs.ldap, old.ldap) {
		rs.changedLDAP = rs.generation
	}
}

// Quick answers what needs no hash and no signature: certificates, anonymous clients, pairs of user and password and tokens seen a moment ago.
func (p *Provider) Quick(c broker.Credentials) (id broker.Identity, done bool, err error) {
	rs := p.rules.Load()
	id, done, err = rs.quick(&c)
	if done {
		id, err = rs.named(id, err)
		p.letIn(&id, err)
	}
	return id, done, err
}

// letIn forgets that a server has refused a client which comes again and is let in.
func (p *Provider) letIn(id *broker.Identity, err error) {
	if err == nil && (id.Source == sourceHTTP || id.Source == sourceLDAP) {
		p.refused.forget(id)
	}
}

// quick answers at once if it can.
func (rs *ruleSet) quick(c *broker.Credentials) (id broker.Identity, done bool, err error) {
	id = rs.identity(c)
	if k := rs.early(c); k != 0 {
		return id, true, rs.o.Bans.refusal(k)
	}
	for _, w := range rs.waysOf(c.Listener) {
		switch w {
		case wayCertificate:
			if rs.showsCertificate(c) {
				id, err = rs.byCertificate(c)
				return id, true, err
			}
		case wayToken:
			if rs.showsToken(c) {
				id, done = rs.rememberedPass(c)
				return id, done, nil
			}
		case wayFile:
			if rs.knows(c) {
				return rs.byPassword(c, nil)
			}
		default:
			if !rs.asks(w, c) {
				continue
			}
			if id, known, passed, err := rs.remembered(w, c); !passed {
				return id, known, err
			}
		}
	}
	return rs.byPassword(c, nil)
}

// identity is what a connection itself says of its client, before anything vouches for it. It is in its listener's tenant.
func (rs *ruleSet) identity(c *broker.Credentials) broker.Identity {
	return broker.Identity{ClientID: c.ClientID, Remote: c.Remote.Addr().Unmap(), Tenant: rs.places[c.Listener], Listener: c.Listener, Generation: rs.generation}
}

// byPassword is quick for clients whom nothing but a password, or nothing at all, vouches for. If it cannot answer, and d is there, d is the digest to
// remember the answer under.
func (rs *ruleSet) byPassword(c *broker.Credentials, d *digest) (id broker.Identity, done bool, err error) {
	id = rs.identity(c)
	if c.HasUsername && rs.hasUsersAt(c.Listener) {
		id.Source, id.User = sourcePassword, c.Username
		a, known := rs.account(c.Username)
		id.Secret = a.secret(sourcePassword)
		if known && !a.file {
			id.Tenant = a.Tenant
		}
		sum := rs.verdicts.digest(c.Username, id.Secret, c.Password)
		if d != nil {
			*d = sum
		}
		ok, seen := rs.verdicts.get(sum, rs.o.Now())
		if seen && !ok {
			err = broker.ErrBadCredentials
		}
		return id, seen, err
	}
	// A user name that nothing vouches for is no user: id.User stays empty, so that no rule for that user holds.
	id.Source = sourceAnonymous
	if !rs.anonymousFrom(&id) {
		return id, true, refuse(broker.ErrNotAuthorized, errors.New("credentials are required"))
	}
	return id, true, nil
}

// anonymousFrom says whether a client without credentials may come from there, by the listener's own rule if it has one.
func (rs *ruleSet) anonymousFrom(id *broker.Identity) bool {
	rule := cmp.Or(rs.o.At[id.Listener].Anonymous, rs.o.Anonymous)
	switch rule {
	case "everywhere":
		return true
	case "loopback":
		return !id.Remote.IsValid() || id.Remote.IsLoopback() // a unix socket has no address
	}
	return false
}

func refuse(kind, why error) error { return fmt.Errorf("%w: %w", kind, why) }

// Authenticate answers, after hashing the password if it must. So many hash at once, so many wait, the next are told ErrAuthBusy.
func (p *Provider) Authenticate(ctx context.Context, c broker.Credentials) (broker.Identity, error) {
	for {
		rs := p.rules.Load()
		id, err := p.authenticate(ctx, rs, &c)
		// A reload or a change of the user while the hash was being made: the answer is by what is gone, so ask again.
		if p.rules.Load().verdicts == rs.verdicts && !errors.Is(err, errChanged) || ctx.Err() != nil || errors.Is(err, broker.ErrAuthBusy) {
			id, err = rs.named(id, err)
			p.letIn(&id, err)
			return id, err
		}
	}
}

func (p *Provider) authenticate(ctx context.Context, rs *ruleSet, c *broker.Credentials) (broker.Identity, error) {
	if id, done, err := rs.quick(c); done {
		return id, err
	}
	var refused error // of what looks like a token
	for _, w := range rs.waysOf(c.Listener) {
		switch w {
		case wayCertificate:
			if rs.showsCertificate(c) {
				return rs.byCertificate(c)
			}
		case wayToken:
			if rs.showsToken(c) {
				id, err := rs.byToken(ctx, c)
				if err == nil {
					return id, nil
				}
				refused = err
			}
		case wayFile:
			if rs.knows(c) {
				return p.byHash(ctx, rs, c)
			}
		default:
			if refused != nil || !rs.asks(w, c) { // a token that is none goes to nobody else
				continue
			}
			if id, passed, err := rs.ask(ctx, w, c); !passed {
				return id, err
			}
		}
	}
	if refused != nil && (!c.HasUsername || !rs.hasUsersAt(c.Listener)) {
		return broker.Identity{}, refused
	}
	// What looks like a token may be a password; and who has a user's name has to wait as long for a refusal as ever.
	return p.byHash(ctx, rs, c)
}

// byHash compares the password with what is stored of the user.
func (p *Provider) byHash(ctx context.Context, rs *ruleSet, c *broker.Credentials) (broker.Identity, error) {
	var d digest
	if id, done, err := rs.byPassword(c, &d); done {
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
	id, done, err := rs.byPassword(c, &d)
	if done {
		return id, err
	}
	ok := p.rightPassword(rs, c.Username, c.Password)
	if a, known := rs.account(c.Username); a.secret(sourcePassword) != id.Secret || known && !a.file && a.Tenant != id.Tenant {
		return broker.Identity{}, errChanged
	}
	rs.verdicts.put(d, ok, rs.o.Now())
	if !ok {
		return broker.Identity{}, broker.ErrBadCredentials
	}
	return id, nil
}

// errChanged says that the user was changed while the answer was being found: ask again.
var errChanged = errors.New("the user is being changed")

// Recheck tells whether a client that is in would still come in: nil, or why not; broker.ErrBanned if it was banned. certs are those that it showed.
func (p *Provider) Recheck(id *broker.Identity, certs []*x509.Certificate) error {
	rs := p.rules.Load()
	if err := rs.recheckBans(id); err != nil {
		return err
	}
	if err := rs.checkID(id); err != nil {
		return err
	}
	if err := rs.recheckPlace(id); err != nil {
		return err
	}
	if err := rs.recheckShown(id, certs); err != nil {
		return err
	}
	if w, ok := wayOf(id.Source); ok && !rs.takes(w, id.Listener) {
		return errors.New("the listener does not let clients in this way any more")
	}
	switch id.Source {
	case sourcePassword, SCRAMSHA256, SCRAMSHA512:
		return rs.recheckUser(id)
	case OAuthBearer:
		return rs.recheckToken(id)
	case sourceHTTP:
		return cmp.Or(rs.recheckAnswer(id), p.refused.why(id))
	case sourceLDAP:
		return cmp.Or(rs.recheckDirectory(id), p.refused.why(id))
	case sourceCertificate:
		return rs.recheckCertificate(id, certs)
	case sourceProxy:
		if !rs.o.At[id.Listener].ProxyUser {
			return errors.New("what a proxy tells of certificates is not taken any more")
		}
		return nil
	}
	if !rs.anonymousFrom(id) {
		return errors.New("clients without credentials are not allowed any more")
	}
	return nil
}

func (rs *ruleSet) recheckUser(id *broker.Identity) error {
	a, known := rs.account(id.User)
	switch {
	case !known:
		return errors.New("the user is gone")
	case a.Disabled:
		return errors.New("the user is disabled")
	case a.secret(id.Source) != id.Secret:
		return errors.New("the password was changed")
	case a.file:
		return rs.recheckListener(id)
	case a.Tenant != id.Tenant:
		return errMoved
	}
	return nil
}

func (rs *ruleSet) recheckCertificate(id *broker.Identity, certs []*x509.Certificate) error {
	if rs.o.CertificateUser == "off" || len(certs) == 0 {
		return errors.New("certificates are not taken for users any more")
	}
	if user, err := rs.certificateUser(certs[0]); err != nil || user != id.User {
		return errors.New("the certificate names another user now")
	}
	return nil
}

// recheckShown looks at certificates that a client has shown, whatever vouched for it: TLS would not let it in with one that is not good any more.
func (rs *ruleSet) recheckShown(id *broker.Identity, certs []*x509.Certificate) error {
	if rs.revoked(certs) {
		return errRevoked
	}
	if len(certs) > 0 && rs.o.ClientCAs != nil && rs.changedCAs > id.Generation {
		return verifyChain(certs, rs.o.ClientCAs)
	}
	return nil
}

func (rs *ruleSet) revoked(certs []*x509.Certificate) bool {
	return rs.o.Revoked != nil && slices.ContainsFunc(certs, rs.o.Revoked)
}
