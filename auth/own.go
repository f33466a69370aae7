package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluicemq/sluice/broker"
)

// Bounds of the rules that come with one client's credentials.
const (
	ownRulesMax  = 1000
	ownBytesMax  = 64 << 10
	ownDepthMax  = 8
	ownFilterMax = 4096
)

// own is what was said of one client when it came in: by its token, or by who was asked about it. It is immutable, and counts from super users
// on, with the denials of the rule file and of the catalog before it.
type own struct {
	acl   *acl // nil: there are no rules
	exact bool // what acl does not allow is denied; else others are asked
	super bool // it may do everything

	renamed bool   // the client has given itself another name than that of the user whom the server has named
	login   string // this one
}

// ownOf gives what was said of a client; nil: nothing.
func ownOf(id *broker.Identity) *own {
	o, _ := id.Own.(*own)
	return o
}

// Everything is a broker.Identity's Own for who may do everything, whatever the rules say.
func Everything() any { return everything }

var everything = &own{super: true}

// judge is acl.judge for a client's own rules.
func (o *own) judge(id *broker.Identity, action broker.Action, topic []byte) verdict {
	if o.acl == nil {
		return silent
	}
	v := o.acl.judge(id, action, topic)
	if v == silent && o.exact {
		return denied
	}
	return v
}

// parseOwn reads rules in either form that EMQX knows: an object with the lists `pub`, `sub` and `all`, which name everything that is allowed; or
// a list of rules with `permission`, `action` and `topic` or `topics`, of which the first that fits decides. What it does not know is an
// error: a condition that is not understood must not be taken for none.
func parseOwn(data []byte) (*own, error) {
	data = bytes.TrimSpace(data)
	if len(data) > ownBytesMax {
		return nil, fmt.Errorf("want rules of at most %d bytes, found %d", ownBytesMax, len(data))
	}
	if err := shallow(data, ownDepthMax); err != nil {
		return nil, err
	}
	o := &own{acl: &acl{}}
	if bytes.HasPrefix(data, []byte("{")) {
		o.exact = true
		var lists struct{ Pub, Sub, All []string }
		if err := strictJSON(data, &lists); err != nil {
			return nil, err
		}
		for _, l := range []struct {
			filters []string
			r       rule
		}{{lists.Pub, rule{allow: true, publish: true}}, {lists.Sub, rule{allow: true, subscribe: true}}, {lists.All, rule{allow: true, publish: true, subscribe: true}}} {
			for _, f := range l.filters {
				if err := o.add(l.r, f); err != nil {
					return nil, err
				}
			}
		}
		return o, nil
	}
	var list []struct {
		Permission, Action, Topic string
		Topics                    []string
	}
	if err := strictJSON(data, &list); err != nil {
		return nil, err
	}
	for i := range list {
		l := &list[i]
		r, err := ownRule(l.Permission, l.Action)
		if err != nil {
			return nil, err
		}
		filters := l.Topics
		if l.Topic != "" {
			filters = append(filters, l.Topic)
		}
		if len(filters) == 0 {
			return nil, errors.New("a rule names no topic")
		}
		for _, f := range filters {
			if err := o.add(r, f); err != nil {
				return nil, err
			}
		}
	}
	return o, nil
}

func ownRule(permission, action string) (r rule, err error) {
	switch permission {
	case "allow":
		r.allow = true
	case "deny":
	default:
		return r, fmt.Errorf("want permission allow or deny, found %q", permission)
	}
	switch action {
	case "publish":
		r.publish = true
	case "subscribe":
		r.subscribe = true
	case "all", "":
		r.publish, r.subscribe = true, true
	default:
		return r, fmt.Errorf("want action publish, subscribe or all, found %q", action)
	}
	return r, nil
}

var ownNames = strings.NewReplacer("${clientid}", "%c", "${username}", "%u")

func (o *own) add(r rule, text string) (err error) {
	if len(o.acl.rules) >= ownRulesMax {
		return fmt.Errorf("want at most %d rules", ownRulesMax)
	}
	if len(text) > ownFilterMax {
		return fmt.Errorf("want a filter of at most %d bytes, found %d", ownFilterMax, len(text))
	}
	if r.on, err = parseFilter(ownNames.Replace(text)); err == nil {
		o.acl.add(r)
	}
	return err
}

// strictJSON reads one value, all of it, without fields that v has not.
func strictJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the value")
	}
	return nil
}

// shallow refuses JSON that is nested deeper than depth, before anything is made of it.
func shallow(data []byte, depth int) error {
	at, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if at++; at > depth {
				return fmt.Errorf("it is nested deeper than %d", depth)
			}
		case c == '}' || c == ']':
			at--
		}
	}
	return nil
}
