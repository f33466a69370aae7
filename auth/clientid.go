package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sluicemq/sluice/broker"
)

// idPattern is a form that client ids may have: text with %u for the user, in which * stands for any characters.
type idPattern []part

// parseIDs reads patterns of client ids.
func parseIDs(list []string) (ids []idPattern, err error) {
	for _, text := range list {
		p, err := parseParts(text)
		if err != nil {
			return nil, err
		}
		if len(p) == 0 {
			return nil, errors.New("want a pattern, found nothing")
		}
		for i := range p {
			if p[i].v == 'c' {
				return nil, fmt.Errorf("%%c is the client id itself, in %q", text)
			}
		}
		ids = append(ids, p)
	}
	return ids, nil
}

// fits says whether id's client id has the form. A client without a user, or with a star in its name, fits no pattern with %u.
func (p idPattern) fits(id *broker.Identity) bool {
	var b strings.Builder
	for i := range p {
		if p[i].v == 'u' && (id.User == "" || strings.ContainsRune(id.User, '*')) {
			return false
		}
		b.WriteString(p[i].value(id))
	}
	return glob(b.String(), id.ClientID)
}

var errClientID = errors.New("the user may not have this client id")

// checkID says whether a client may have its id. Kafka's clients have none.
func (rs *ruleSet) checkID(id *broker.Identity) error {
	if len(rs.ids) == 0 || id.ClientID == "" {
		return nil
	}
	for _, p := range rs.ids {
		if p.fits(id) {
			return nil
		}
	}
	return errClientID
}

// named takes an answer over if the client may be in its tenant and have its id, and is not banned.
func (rs *ruleSet) named(id broker.Identity, err error) (broker.Identity, error) {
	if err != nil {
		return id, err
	}
	if err := rs.misplaced(id); err != nil {
		return broker.Identity{}, err
	}
	if len(rs.ids) == 0 && !rs.o.Bans.any() {
		return id, nil
	}
	who := id // on the heap only here: there is something to ask
	if err := rs.checkID(&who); err != nil {
		return broker.Identity{}, refuse(broker.ErrNotAuthorized, err)
	}
	if err := rs.keptOut(&who); err != nil {
		return broker.Identity{}, err
	}
	return id, nil
}
