package auth

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sluicemq/sluice/broker"
)

// Standing is a client that is in, as a server is asked about it again. Its identity and certificates are not changed.
type Standing struct {
	Identity     broker.Identity
	Certificates []*x509.Certificate
	Listener     string
}

// Outcome is what came of asking again.
type Outcome uint8

// The outcomes. Who is refused has to go: Recheck says so from then on, and why.
const (
	Unanswered Outcome = iota // nobody knows: the client stays
	Allowed
	Refused
	Outcomes = 3
)

// String is a label of metrics.
func (o Outcome) String() string { return [Outcomes]string{"unanswered", "allowed", "refused"}[o] }

// Sources whose clients can be asked about again.
const (
	SourceHTTP = sourceHTTP
	SourceLDAP = sourceLDAP
)

const (
	againMax    = 1 << 16 // refusals that are kept
	againKept   = time.Minute
	againShared = 1 << 14 // answers of one Again about users of a directory
)

// refusals are clients whom a server has refused after it had let them in, for as long as it takes to close them.
type refusals struct {
	n    atomic.Int64 // of kept: most of the time there are none
	mu   sync.Mutex
	kept map[againKey]refusal
}

type againKey struct {
	source, user, client string
	tenant               uint32
	remote               netip.Addr
}

type refusal struct {
	why error
	at  time.Time
}

func keyOf(id *broker.Identity) againKey {
	return againKey{id.Source, id.User, id.ClientID, id.Tenant, id.Remote}
}

// why says why a client has to go; nil: it may stay.
func (r *refusals) why(id *broker.Identity) error {
	if r.n.Load() == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept[keyOf(id)].why
}

func (r *refusals) add(id *broker.Identity, why error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil {
		r.kept = make(map[againKey]refusal)
	}
	if len(r.kept) < againMax { // the others are found the next time
		r.kept[keyOf(id)] = refusal{why, now}
	}
	r.n.Store(int64(len(r.kept)))
}

// forget lets a client stay: it has come again and was let in, or the server has another opinion.
func (r *refusals) forget(id *broker.Identity) {
	if r.n.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, keyOf(id))
	r.n.Store(int64(len(r.kept)))
}

// expire forgets who has been closed long since.
func (r *refusals) expire(now time.Time) {
	if r.n.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, v := range r.kept {
		if now.Sub(v.at) > againKept {
			delete(r.kept, k)
		}
	}
	r.n.Store(int64(len(r.kept)))
}

// Again asks one server anew about clients that it has let in. It is for one goroutine at a time.
type Again struct {
	p      *Provider
	mu     sync.Mutex
	shared map[string]answer // of a directory, by the name that was searched for
}

// NewAgain begins a round: what is answered about a user of a directory counts for all of its clients.
func (p *Provider) NewAgain() *Again {
	rs := p.rules.Load()
	p.refused.expire(rs.o.Now())
	return &Again{p: p, shared: make(map[string]answer)}
}

// Ask asks about a client, within the server's time-out and its number of questions at once. It is safe for concurrent use.
func (g *Again) Ask(ctx context.Context, s *Standing) Outcome {
	rs, id := g.p.rules.Load(), &s.Identity
	var a answer
	var err error
	switch {
	case id.Source == sourceHTTP && rs.callback != nil:
		q := rs.questionAgain(s)
		a, err = rs.callback.ask(ctx, q)
	case id.Source == sourceLDAP && rs.ldap != nil && rs.ldap.o.BindDN == "":
		a, err = g.directory(ctx, rs, loginOf(id))
	default:
		return Unanswered
	}
	if err != nil {
		return Unanswered
	}
	if why := rs.unlike(id, s.Listener, &a); why != nil {
		rs.answers.forget() // with what was answered before it would come in again
		g.p.refused.add(id, why, rs.o.Now())
		return Refused
	}
	g.p.refused.forget(id)
	return Allowed
}

// directory asks about a user, once in a round.
func (g *Again) directory(ctx context.Context, rs *ruleSet, login string) (a answer, err error) {
	g.mu.Lock()
	a, known := g.shared[login]
	g.mu.Unlock()
	if known {
		return a, nil
	}
	err = rs.ldap.try(ctx, func(ctx context.Context) (err error) {
		a, err = rs.ldap.ask(ctx, func(c *ldap.Conn) (answer, error) { return rs.ldap.lookUp(c, login) })
		return err
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && len(g.shared) < againShared {
		g.shared[login] = a
	}
	return a, err
}

// lookUp is converse without a password: whether the user is there still, under the same name, and in the groups.
func (s *ldapServer) lookUp(c *ldap.Conn, user string) (a answer, err error) {
	if err := s.bindSearcher(c); err != nil {
		return a, err
	}
	found, verdict, err := s.find(c, user)
	if err != nil || found == nil {
		return answer{verdict: verdict}, err
	}
	name := user
	if s.o.UserAttribute != "" {
		name = named(found, s.o.UserAttribute)
	}
	if found.DN == "" || name == "" {
		return answer{verdict: denied}, nil
	}
	return s.inGroups(c, found.DN, name)
}

// questionAgain is the question about a client that is in. Its password is not known any more, and recheck says so.
func (rs *ruleSet) questionAgain(s *Standing) []byte {
	q := question{ClientID: s.Identity.ClientID, Username: loginOf(&s.Identity), Listener: s.Listener, Recheck: true}
	if a := s.Identity.Remote; a.IsValid() {
		q.Address = a.Unmap().String()
	}
	if len(s.Certificates) > 0 {
		q.CommonName, q.Subject = s.Certificates[0].Subject.CommonName, subjectOf(s.Certificates[0])
	}
	data, _ := json.Marshal(&q) // of strings: it does not fail
	return data
}

// unlike says why an answer is not the one that a client was let in by; nil: it is.
func (rs *ruleSet) unlike(id *broker.Identity, listener string, a *answer) error {
	who := "the server that is asked about clients"
	if id.Source == sourceLDAP {
		who = "the directory server"
	}
	user := a.user
	if user == "" {
		user = loginOf(id)
	}
	tenant := rs.places[listener]
	if a.tenant != "" {
		tenant = rs.numberOf(a.tenant)
	}
	switch {
	case a.verdict == silent:
		return errors.New(who + " does not know the client any more")
	case a.verdict != allowed:
		return errors.New(who + " refuses the client now")
	case a.expires != 0 && rs.o.Now().UnixMilli() >= a.expires:
		return errors.New("what " + who + " has allowed is over")
	case user != id.User:
		return errors.New(who + " says that the client is another user now")
	case tenant != id.Tenant:
		return errors.New(who + " says that the client is in another tenant now")
	case !sameOwn(ownOf(id), a.own):
		return errors.New(who + " says that the client may do something else now")
	}
	return nil
}

// sameOwn says whether the same was said of what a client may do.
func sameOwn(x, y *own) bool {
	if x == nil {
		x = &own{}
	}
	if y == nil {
		y = &own{}
	}
	return x.super == y.super && x.exact == y.exact && (x.acl == y.acl || reflect.DeepEqual(x.acl, y.acl))
}

// loginOf is the name that a client has given itself.
func loginOf(id *broker.Identity) string {
	if o := ownOf(id); o != nil && o.renamed {
		return o.login
	}
	return id.User
}
