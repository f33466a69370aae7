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
	BySuperUsers Decider = iota + 1
	ByClient             // rules that came with the client's own credentials
	ByFile
	ByCatalog
	ByOpenness // nothing was said: openness decides
)

// ExplainMQTT is Authorize with what has decided.
func (p *Provider) ExplainMQTT(id *broker.Identity, action broker.Action, topic []byte) (ok bool, by Decider) {
	return p.rules.Load().authorize(id, action, topic)
}

// ExplainKafka is Allows with what has decided.
func (p *Provider) ExplainKafka(id *broker.Identity, op broker.Operation, t broker.ResourceType, name []byte) (ok bool, by Decider) {
	return p.rules.Load().allows(id, op, t, name)
}

// FileRules are the lines of the rule file that hold a rule, with their numbers.
func (p *Provider) FileRules() iter.Seq2[int, string] {
	acl := p.rules.Load().acl
	return func(yield func(int, string) bool) {
		if acl == nil {
			return
		}
		for i := range acl.rules {
			if r := &acl.rules[i]; !yield(r.line, r.text) {
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
