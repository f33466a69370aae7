package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/sluicemq/sluice/broker"
)

// sourceLDAP vouches for clients whose password a directory server has taken.
const sourceLDAP = "ldap"

// LDAPOptions say which directory server is asked about clients, and how.
type LDAPOptions struct {
	URL      string // ldap://HOST:PORT or ldaps://HOST:PORT
	StartTLS bool
	CAFile   string // authorities of the server's certificate, PEM; empty: the system's

	BindDN         string // whose password is tried, with %u for the user; empty: it is searched for
	SearchBase     string
	SearchFilter   string // with %u for the user
	SearchDN       string // who searches; empty: nobody by name
	SearchPassword string
	UserAttribute  string // of the entry, names the user; empty: the name that the client gives

	GroupBase   string
	GroupFilter string   // with %d for the DN of the user's entry, and %u for the user
	GroupName   string   // attribute that names a group
	Groups      []string // one of which the user has to be in; none: any user comes in
	SuperGroups []string // whose users may do everything

	Timeout     time.Duration // of one question
	Concurrency int           // questions at once, and connections that are kept
	CacheTTL    time.Duration // how long a right password counts; other answers a tenth of it; 0: not at all
}

// Bounds of a directory server.
const (
	ldapAnswerMax  = 1 << 20 // bytes of one message
	ldapGroupsMax  = 1000    // of one user that are looked at
	ldapIdleFor    = time.Minute
	ldapBindsMax   = 2 // entries that a search for a user may find, and one is too many
	ldapPlainPort  = "389"
	ldapSecurePort = "636"

	ldapNameMax     = 1 << 10 // bytes of a name and of a password that a server is asked about
	ldapPasswordMax = 4 << 10
)

func init() { ber.MaxPacketLengthBytes = ldapAnswerMax }

// ldapServer asks a directory server. Its state outlives reloads that change none of its options, nor the authorities.
type ldapServer struct {
	asking
	o       LDAPOptions
	address string
	secure  *tls.Config // nil: without TLS
	ldaps   bool
	lines   logLines

	pool struct {
		sync.Mutex
		closed bool
		idle   []*ldapConn
	}
}

// ldapConn is a connection, for one question at a time.
type ldapConn struct {
	*ldap.Conn
	raw   net.Conn
	since time.Time // idle since then
	used  bool      // it has answered a question before
}

func newLDAP(o *Options, old *ldapServer) (*ldapServer, error) {
	s := &ldapServer{o: *o.LDAP}
	s.begin(o, "the directory server", s.o.Timeout, s.o.Concurrency)
	u, err := url.Parse(s.o.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" {
		return nil, fmt.Errorf("want a URL such as ldaps://ldap.example, found %q", s.o.URL)
	}
	s.ldaps = u.Scheme == "ldaps"
	port := u.Port()
	if port == "" {
		if port = ldapPlainPort; s.ldaps {
			port = ldapSecurePort
		}
	}
	s.address = net.JoinHostPort(u.Hostname(), port)
	if s.ldaps || s.o.StartTLS {
		s.secure = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		if s.o.CAFile != "" {
			pem, err := readFile(s.o.CAFile)
			if err != nil {
				return nil, err
			}
			if s.secure.RootCAs = x509.NewCertPool(); !s.secure.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s has no certificate", s.o.CAFile)
			}
		}
	}
	if err := s.checkTemplates(); err != nil {
		return nil, err
	}
	if old != nil && reflect.DeepEqual(old.o, s.o) && sameRoots(old.secure, s.secure) {
		return old, nil
	}
	return s, nil
}

// checkTemplates finds what no server could read.
func (s *ldapServer) checkTemplates() error {
	if _, err := ldap.ParseDN(expandLDAP(s.o.BindDN, "u", "")); err != nil {
		return fmt.Errorf("bind_dn %q is no DN: %w", s.o.BindDN, err)
	}
	for _, filter := range []string{s.o.SearchFilter, s.o.GroupFilter} {
		if filter == "" {
			continue
		}
		if _, err := ldap.CompileFilter(expandLDAP(filter, "u", "cn=d")); err != nil {
			return fmt.Errorf("filter %q cannot be read: %w", filter, err)
		}
	}
	return nil
}

func sameRoots(a, b *tls.Config) bool {
	if a == nil || b == nil || a.RootCAs == nil || b.RootCAs == nil {
		return (a == nil) == (b == nil) && (a == nil || a.RootCAs == nil && b.RootCAs == nil)
	}
	return a.RootCAs.Equal(b.RootCAs)
}

// expandLDAP puts values in place of %u and %d, escaped for DNs and filters alike.
func expandLDAP(template, user, dn string) string {
	return strings.NewReplacer("%%", "%", "%u", escapeLDAP(user), "%d", escapeLDAP(dn)).Replace(template)
}

// escapeLDAP writes everything but letters, digits and a few harmless characters as a backslash and two digits, which DNs (RFC 4514) and filters (RFC 4515) both
// read as that byte: whatever a client calls itself, it is one value.
func escapeLDAP(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '@' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('\\')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// checkLDAP refuses what no server is asked about. Servers end a connection on which a message is too long, which is no answer: whoever sends such
// names would have nobody asked about anybody. With an empty password a bind succeeds for whoever's name is given (RFC 4513, unauthenticated).
func checkLDAP(c *broker.Credentials) error {
	switch {
	case len(c.Password) == 0:
		return refuse(broker.ErrBadCredentials, errNoPassword)
	case len(c.Username) > ldapNameMax || !utf8.ValidString(c.Username):
		return refuse(broker.ErrBadCredentials, errors.New("no user of a directory can have this name"))
	case len(c.Password) > ldapPasswordMax:
		return refuse(broker.ErrBadCredentials, errors.New("no user of a directory can have a password this long"))
	}
	return nil
}

func (rs *ruleSet) ldapDigest(c *broker.Credentials) digest {
	return rs.verdicts.digest("\x00"+sourceLDAP+"\x00"+c.Username, 0, c.Password)
}

// byLDAP asks the directory server about a client; passed: it does not know the client.
func (rs *ruleSet) byLDAP(ctx context.Context, c *broker.Credentials) (id broker.Identity, passed bool, err error) {
	if err := checkLDAP(c); err != nil {
		return id, false, err
	}
	d := rs.ldapDigest(c)
	a, known := rs.answers.get(d, rs.o.Now())
	if !known {
		err := rs.ldap.try(ctx, func(ctx context.Context) (err error) {
			a, err = rs.ldap.question(ctx, c.Username, string(c.Password))
			return err
		})
		if err != nil {
			return id, false, err
		}
		ttl := rs.ldap.o.CacheTTL
		if a.verdict == silent {
			ttl /= 10
		}
		a.small = true
		rs.answers.put(d, a, ttl, rs.o.Now())
	}
	return rs.answered(c, &a, sourceLDAP)
}

// recheckDirectory says whether a client whose password a directory server has taken may stay.
func (rs *ruleSet) recheckDirectory(id *broker.Identity) error {
	switch {
	case rs.ldap == nil:
		return errors.New("no directory server is asked any more")
	case rs.changedLDAP > id.Generation:
		return errors.New("another directory server is asked, or it is asked something else")
	}
	return nil
}

// sameAnswers says whether two servers are asked the same about clients: it does not matter then over what connection, or how fast.
func sameAnswers(a, b *ldapServer) bool {
	if a == nil || b == nil {
		return a == b
	}
	question := func(o LDAPOptions) LDAPOptions {
		o.StartTLS, o.CAFile, o.SearchPassword, o.Timeout, o.Concurrency, o.CacheTTL = false, "", "", 0, 0, 0
		return o
	}
	return reflect.DeepEqual(question(a.o), question(b.o))
}

// refused writes one. Whoever connects says what the name is, so there are not many, and they are short.
func (s *ldapServer) refused(why, user string, more ...any) {
	if s.lines.room(s.now()) {
		s.log.Warn("a user of the directory is refused", append([]any{"why", why, "user", shownName(user)}, more...)...)
	}
}

// question finds out about a user.
func (s *ldapServer) question(ctx context.Context, user, password string) (answer, error) {
	return s.ask(ctx, func(c *ldap.Conn) (answer, error) { return s.converse(c, user, password) })
}

// ask has a conversation on a connection that is kept; one that has broken meanwhile is made anew once.
func (s *ldapServer) ask(ctx context.Context, converse func(*ldap.Conn) (answer, error)) (a answer, err error) {
	for {
		c, err := s.take(ctx)
		if err != nil {
			return a, err
		}
		stop := context.AfterFunc(ctx, func() { _ = c.raw.SetDeadline(time.Unix(1, 0)) })
		a, err = converse(c.Conn)
		if whole := stop(); err == nil && whole {
			s.put(c)
			return a, nil
		}
		_ = c.Close()
		if err == nil || !c.used || ctx.Err() != nil || answered(err) {
			return a, err
		}
	}
}

// answered says whether an error is what the server has said, rather than that it said nothing.
func answered(err error) bool {
	var e *ldap.Error
	return errors.As(err, &e) && e.ResultCode < ldap.ErrorNetwork
}

// take gives a connection that is idle, or a new one. All of a question has to be over when ctx is.
func (s *ldapServer) take(ctx context.Context) (*ldapConn, error) {
	deadline, _ := ctx.Deadline() // try has set it
	if c := s.takeIdle(); c != nil {
		_ = c.raw.SetDeadline(deadline)
		return c, nil
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(deadline)
	conn := raw
	if s.ldaps {
		t := tls.Client(raw, s.secure)
		if err := t.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		conn = t
	}
	c := &ldapConn{Conn: ldap.NewConn(conn, s.ldaps), raw: raw}
	c.SetTimeout(s.o.Timeout)
	c.Start()
	if s.o.StartTLS && !s.ldaps {
		if err := c.StartTLS(s.secure); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (s *ldapServer) takeIdle() *ldapConn {
	s.pool.Lock()
	defer s.pool.Unlock()
	now := s.now()
	for n := len(s.pool.idle); n > 0; n = len(s.pool.idle) {
		c := s.pool.idle[n-1]
		s.pool.idle = s.pool.idle[:n-1]
		if !c.IsClosing() && now.Sub(c.since) < ldapIdleFor {
			return c
		}
		go func() { _ = c.Close() }()
	}
	return nil
}

func (s *ldapServer) put(c *ldapConn) {
	_ = c.raw.SetDeadline(time.Time{})
	s.pool.Lock()
	defer s.pool.Unlock()
	if s.pool.closed {
		go func() { _ = c.Close() }()
		return
	}
	c.since, c.used = s.now(), true
	s.pool.idle = append(s.pool.idle, c)
}

// close ends what is idle now, and what is in use after its question.
func (s *ldapServer) close() {
	s.pool.Lock()
	defer s.pool.Unlock()
	s.pool.closed = true
	for _, c := range s.pool.idle {
		go func() { _ = c.Close() }()
	}
	s.pool.idle = nil
}

// converse finds the user's entry, tries the password and looks at its groups. An error says that the server does not answer, or not as it should.
func (s *ldapServer) converse(c *ldap.Conn, user, password string) (a answer, err error) {
	name, dn := user, expandLDAP(s.o.BindDN, user, "")
	if s.o.BindDN == "" {
		if err := s.bindSearcher(c); err != nil {
			return a, err
		}
		found, verdict, err := s.find(c, user)
		if err != nil || found == nil {
			return answer{verdict: verdict}, err
		}
		if dn = found.DN; s.o.UserAttribute != "" {
			if name = named(found, s.o.UserAttribute); name == "" {
				s.refused("auth.ldap.user_attribute of an entry of the directory server names nobody: it is refused", user)
			}
		}
	}
	if dn == "" || name == "" { // with an empty DN everybody is let in as nobody
		return answer{verdict: denied}, nil
	}
	switch err := c.Bind(dn, password); {
	case err == nil:
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return a, nil
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultInsufficientAccessRights,
		ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultInvalidDNSyntax, ldap.LDAPResultConstraintViolation):
		return answer{verdict: denied}, nil
	case answered(err) && !ldap.IsErrorAnyOf(err, ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultOperationsError):
		// It is there and says no: one client's trouble is not to keep all others out.
		s.refused("the directory server answers a user's bind with an error: it is refused", user, "err", err)
		return answer{verdict: denied}, nil
	default:
		return a, fmt.Errorf("bind as a client: %w", err)
	}
	if s.o.BindDN != "" && s.o.UserAttribute != "" {
		if name, err = s.ownName(c, dn, user); err != nil || name == "" {
			return answer{verdict: denied}, err
		}
	}
	return s.inGroups(c, dn, name)
}

// bindSearcher makes the connection that of who searches.
func (s *ldapServer) bindSearcher(c *ldap.Conn) error {
	var err error
	if s.o.SearchDN == "" {
		err = c.UnauthenticatedBind("")
	} else {
		err = c.Bind(s.o.SearchDN, s.o.SearchPassword)
	}
	if err != nil {
		return fmt.Errorf("bind as auth.ldap.search_dn: %w", err)
	}
	return nil
}

// find looks for a user's entry; nil: the verdict says why. If there are two, nobody knows whose password it is.
func (s *ldapServer) find(c *ldap.Conn, user string) (*ldap.Entry, verdict, error) {
	res, err := c.Search(s.search(s.o.SearchBase, ldap.ScopeWholeSubtree, ldapBindsMax, expandLDAP(s.o.SearchFilter, user, ""), s.o.UserAttribute))
	if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
		return nil, silent, fmt.Errorf("search for a client: %w", err)
	}
	switch {
	case err != nil || len(res.Entries) > 1:
		s.refused("several entries of the directory server are one user's: it is refused", user)
		return nil, denied, nil
	case len(res.Entries) == 0:
		return nil, silent, nil
	}
	return res.Entries[0], silent, nil
}

func (s *ldapServer) search(base string, scope, most int, filter, attribute string) *ldap.SearchRequest {
	attributes := []string{"1.1"} // none
	if attribute != "" {
		attributes = []string{attribute}
	}
	seconds := max(1, int(s.o.Timeout/time.Second))
	return ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, most, seconds, false, filter, attributes, nil)
}

// named is the user's name as the directory has it: it may not care for case, and rules, quotas and bans do. Of several it is the one that the entry's DN
// begins with, whatever the client has written: nobody leaves a ban by another name of his. Empty: there is none that can be.
func named(e *ldap.Entry, attribute string) string {
	values := slices.DeleteFunc(e.GetEqualFoldAttributeValues(attribute), func(v string) bool {
		return v == "" || len(v) > userBytesMax || !utf8.ValidString(v)
	})
	switch len(values) {
	case 0:
		return ""
	case 1:
		return values[0]
	}
	dn, err := ldap.ParseDN(e.DN)
	if err != nil || len(dn.RDNs) == 0 {
		return ""
	}
	var own []string
	for _, a := range dn.RDNs[0].Attributes {
		if strings.EqualFold(a.Type, attribute) {
			own = append(own, a.Value)
		}
	}
	if len(own) != 1 {
		return ""
	}
	if at := slices.IndexFunc(values, func(v string) bool { return strings.EqualFold(v, own[0]) }); at >= 0 {
		return values[at]
	}
	return ""
}

// ownName reads the user's name in its own entry, as the user.
func (s *ldapServer) ownName(c *ldap.Conn, dn, user string) (string, error) {
	res, err := c.Search(s.search(dn, ldap.ScopeBaseObject, 1, "(objectClass=*)", s.o.UserAttribute))
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInsufficientAccessRights):
	case err != nil:
		return "", fmt.Errorf("read a client's entry: %w", err)
	case len(res.Entries) == 1:
		if name := named(res.Entries[0], s.o.UserAttribute); name != "" {
			return name, nil
		}
	}
	s.refused("a user of the directory server cannot read auth.ldap.user_attribute in its own entry, or it names nobody there: it is refused", user)
	return "", nil
}

// inGroups is the answer about a user whose password is right.
func (s *ldapServer) inGroups(c *ldap.Conn, dn, name string) (a answer, err error) {
	a = answer{verdict: allowed, user: name}
	if len(s.o.Groups)+len(s.o.SuperGroups) == 0 {
		return a, nil
	}
	if s.o.SearchDN != "" {
		if err := s.bindSearcher(c); err != nil {
			return a, err
		}
	}
	res, err := c.Search(s.search(s.o.GroupBase, ldap.ScopeWholeSubtree, ldapGroupsMax, expandLDAP(s.o.GroupFilter, name, dn), s.o.GroupName))
	if err != nil && (!ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || res == nil) { // of too many, those that came count
		return a, fmt.Errorf("search for a client's groups: %w", err)
	}
	has := func(list []string) bool {
		for _, e := range res.Entries {
			for _, group := range e.GetEqualFoldAttributeValues(s.o.GroupName) {
				if slices.ContainsFunc(list, func(g string) bool { return strings.EqualFold(g, group) }) {
					return true
				}
			}
		}
		return false
	}
	if has(s.o.SuperGroups) {
		a.own = &own{super: true}
		return a, nil
	}
	if len(s.o.Groups) > 0 && !has(s.o.Groups) {
		return answer{verdict: denied}, nil
	}
	return a, nil
}
