package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/broker"
)

// way is one who may know a client.
type way uint8

// The ways, in the order in which they are asked if nobody says otherwise.
const (
	wayCertificate way = iota
	wayToken
	wayFile // users of the password file and of the catalog
	wayLDAP
	wayHTTP
	ways = 5
)

var wayNames = [ways]string{"certificate", "token", "file", "ldap", "http"}

// parseOrder reads the names of ways, each at most once. Those that are not named come behind.
func parseOrder(list []string) (order [ways]way, err error) {
	n := 0
	for _, name := range list {
		w := way(slices.Index(wayNames[:], name)) // 255 for -1
		if int(w) >= ways {
			return order, fmt.Errorf("want certificate, token, file, ldap or http, found %q", name)
		}
		if slices.Contains(order[:n], w) {
			return order, fmt.Errorf("%s is there twice", name)
		}
		order[n] = w
		n++
	}
	for w := range way(ways) {
		if !slices.Contains(order[:n], w) {
			order[n] = w
			n++
		}
	}
	return order, nil
}

// waysAt reads the ways of listeners that have their own.
func waysAt(list map[string]ListenerOptions) (at map[string][]way, err error) {
	for name, o := range list {
		if len(o.Ways) == 0 {
			continue
		}
		order, err := parseOrder(o.Ways)
		if err != nil {
			return nil, fmt.Errorf("auth of listener %s: %w", name, err)
		}
		if at == nil {
			at = make(map[string][]way)
		}
		at[name] = order[:len(o.Ways)]
	}
	return at, nil
}

// waysOf are those who are asked about clients of a listener, in their order.
func (rs *ruleSet) waysOf(listener string) []way {
	if own, ok := rs.at[listener]; ok {
		return own
	}
	return rs.order[:]
}

func (rs *ruleSet) takes(w way, listener string) bool { return slices.Contains(rs.waysOf(listener), w) }

// hasUsersAt says whether a name that a client gives at a listener means anything: there are users, and it asks for them.
func (rs *ruleSet) hasUsersAt(listener string) bool {
	return rs.hasUsers() && rs.takes(wayFile, listener)
}

// wayOf is the way by which a client came in; false: by none of them.
func wayOf(source string) (w way, ok bool) {
	switch source {
	case sourceCertificate, sourceProxy:
		return wayCertificate, true
	case OAuthBearer:
		return wayToken, true
	case sourcePassword, SCRAMSHA256, SCRAMSHA512:
		return wayFile, true
	case sourceLDAP:
		return wayLDAP, true
	case sourceHTTP:
		return wayHTTP, true
	}
	return 0, false
}

func (rs *ruleSet) showsCertificate(c *broker.Credentials) bool {
	return rs.showsOwn(c) || c.ProxyUser != "" && rs.o.At[c.Listener].ProxyUser
}

// showsOwn says whether the node has seen the certificate, and not a proxy in front.
func (rs *ruleSet) showsOwn(c *broker.Credentials) bool {
	return rs.o.CertificateUser != "off" && len(c.PeerCertificates) > 0
}

func (rs *ruleSet) showsToken(c *broker.Credentials) bool {
	return rs.tokens != nil && tokenLike(c.Password)
}

// knows says whether the client names a user of the password file or the catalog.
func (rs *ruleSet) knows(c *broker.Credentials) bool {
	if !c.HasUsername {
		return false
	}
	_, known := rs.account(c.Username)
	return known
}

// byCertificate is the user whom the client's certificate names.
func (rs *ruleSet) byCertificate(c *broker.Credentials) (id broker.Identity, err error) {
	id = rs.identity(c)
	if !rs.showsOwn(c) {
		id.Source = sourceProxy
		if id.User, err = rs.mapping.apply(c.ProxyUser); err != nil {
			return id, refuse(broker.ErrNotAuthorized, err)
		}
		return id, nil
	}
	id.Source = sourceCertificate
	if rs.revoked(c.PeerCertificates) {
		return id, refuse(broker.ErrNotAuthorized, errRevoked)
	}
	if id.User, err = rs.certificateUser(c.PeerCertificates[0]); err != nil {
		return id, refuse(broker.ErrNotAuthorized, err)
	}
	return id, nil
}

// asks says whether a server is asked about a client.
func (rs *ruleSet) asks(w way, c *broker.Credentials) bool {
	if w == wayLDAP {
		return rs.ldap != nil && c.HasUsername && c.Username != ""
	}
	return w == wayHTTP && rs.callback != nil
}

// remembered is what is known of a client from an earlier answer of a server; passed: the server does not know the client.
func (rs *ruleSet) remembered(w way, c *broker.Credentials) (id broker.Identity, known, passed bool, err error) {
	var d digest
	source := sourceHTTP
	if w == wayLDAP {
		if err := checkLDAP(c); err != nil {
			return rs.identity(c), true, false, err
		}
		source, d = sourceLDAP, rs.ldapDigest(c)
	} else {
		q := questionOf(c)
		d = rs.questionDigest(q)
		clear(q)
	}
	a, known := rs.answers.get(d, rs.o.Now())
	if !known {
		return broker.Identity{}, false, false, nil
	}
	id, passed, err = rs.answered(c, &a, source)
	return id, true, passed, err
}

// ask asks a server about a client; passed: it does not know the client.
func (rs *ruleSet) ask(ctx context.Context, w way, c *broker.Credentials) (id broker.Identity, passed bool, err error) {
	if w == wayLDAP {
		return rs.byLDAP(ctx, c)
	}
	return rs.byServer(ctx, c)
}

// Lane says by whom a client is kept waiting: who asks others waits apart, so that one that is slow delays nobody else.
func (p *Provider) Lane(c broker.Credentials) int {
	rs := p.rules.Load()
	for _, w := range rs.waysOf(c.Listener) {
		switch {
		case w == wayCertificate && rs.showsCertificate(&c), w == wayFile && rs.knows(&c):
			return broker.LaneHere
		case w == wayToken && rs.showsToken(&c):
			if _, fetched := rs.tokens.source.(*fetchedKeys); fetched {
				return broker.LaneKeys
			}
			return broker.LaneHere
		case rs.asks(w, &c):
			if _, _, passed, _ := rs.remembered(w, &c); passed {
				continue
			}
			if w == wayLDAP {
				return broker.LaneDirectory
			}
			return broker.LaneServer
		}
	}
	return broker.LaneHere
}

var errNoPassword = errors.New("a password is required")
