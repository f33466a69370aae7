package auth

import (
	"bytes"
	"iter"

	"github.com/sluicemq/sluice/broker"
)

// Decider is what has decided a question.
type Decider uint8

// The deciders, in the order in which they are asked.
const (
	ByTenant Decider = iota + 1 // there is no such tenant, or it is disabled: nothing is allowed
	BySuperUsers
	ByClient // rules that came with the client's own credentials
	ByFile
	ByCatalog
	ByOpenness // nothing was said: openness decides
)

// ExplainMQTT is Authorize with what has decided.
func (p *Provider) ExplainMQTT(id *broker.Identity, action broker.Action, topic []byte) (ok bool, by Decider) {
	return p.rules.Load().scopeOf(id.Tenant).authorize(id, action, topic)
}

// ExplainKafka is Allows with what has decided.
func (p *Provider) ExplainKafka(id *broker.Identity, op broker.Operation, t broker.ResourceType, name []byte) (ok bool, by Decider) {
	return p.rules.Load().scopeOf(id.Tenant).allows(id, op, t, name)
}

// FileRules are the lines of the rule file that hold a rule of a tenant, with their numbers.
func (p *Provider) FileRules(tenant uint32) iter.Seq2[int, string] {
	s := p.rules.Load().scopeOf(tenant)
	return func(yield func(int, string) bool) {
		if s == nil || s.acl == nil {
			return
		}
		for i := range s.acl.rules {
			if r := &s.acl.rules[i]; !yield(r.line, r.text) {
				return
			}
		}
	}
}

// About says whether an ACL's pattern is about a resource of its type: one that is called name, or for a topic, what the MQTT filter name
// may match.
func About(a *broker.ACL, name []byte) bool {
	p := &pattern{name: a.Name, prefixed: a.Pattern == broker.PatternPrefixed}
	switch {
	case !p.prefixed && a.Name == broker.AnyName:
		return true
	case a.Resource == broker.ResourceTopic:
		if !p.prefixed {
			p.filter, p.wild = literalFilter(a.Name)
		}
		if f, ok := withoutShare(name); ok {
			name = f
		}
		return p.overlaps(&broker.Identity{}, name)
	case p.prefixed:
		return bytes.HasPrefix(name, []byte(a.Name))
	}
	return a.Name == string(name)
}
