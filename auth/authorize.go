package auth

import (
	"bytes"
	"strings"

	"github.com/sluicemq/sluice/broker"
)

// What may be done is asked in this order, of the client's tenant alone, and the first that has something to say decides: super users may do everything; the
// client's own rules, unless one of the next ones denies it; the rule file speaks of topics; then the catalog's ACLs, of which one that denies counts before all that allow; then openness.

// openness says what is allowed that no rule is about. A rule file leaves no topic open, and not the cluster's own affairs, by which
// clients could give themselves rights.
type openness struct {
	topics, cluster, others bool
	all                     bool // nothing is ever refused: there is nobody to ask

	// gentle: an ACL for the cluster closes the operations that it names and no others. Where there are no super users somebody who allows
	// a producer IDEMPOTENT_WRITE would else have locked out everybody, himself included, from changing ACLs.
	gentle bool
}

// settle works out what follows from the options, the files, the ACLs and the tenants.
func (rs *ruleSet) settle() {
	rs.super = make(map[string]struct{}, len(rs.o.SuperUsers))
	for _, name := range rs.o.SuperUsers {
		rs.super[strings.TrimPrefix(name, userPrefix)] = struct{}{}
	}
	rs.grants = rs.granted.of(0)
	sure := rs.o.OpenWithoutACL == "true"
	open := sure || rs.o.OpenWithoutACL != "false" && len(rs.super) == 0
	rs.open = openWithout(open, sure, &rs.scope)
	rs.divide(open, sure)
}

// openWithout says what is open to the clients of a tenant if there is openness at all; sure: it was asked for by name.
func openWithout(open, sure bool, s *scope) (o openness) {
	o.topics, o.others = open && s.acl == nil, open
	o.cluster = open && (s.acl == nil || sure)
	o.gentle = o.cluster && !sure
	o.all = o.topics && o.cluster && o.others && s.grants.count == 0
	return o
}

// Generation moves with each reload and each change of the ACLs and of the tenants.
func (p *Provider) Generation() uint64 { return p.rules.Load().generation }

// SetACLs takes over the catalog's ACLs, all of them.
func (p *Provider) SetACLs(list []broker.ACL) {
	g := compileTenants(list)
	p.change(func(rs *ruleSet) { rs.granted = g })
}

// change takes over what set writes into a copy of the rules.
func (p *Provider) change(set func(rs *ruleSet)) {
	p.reload.Lock()
	defer p.reload.Unlock()
	rs := *p.rules.Load()
	rs.generation++
	set(&rs)
	rs.settle()
	p.rules.Store(&rs)
}

// Authorize answers what MQTT asks: to publish is to write to the topic, to subscribe is to read it.
func (p *Provider) Authorize(id *broker.Identity, action broker.Action, topic []byte) bool {
	ok, _ := p.rules.Load().scopeOf(id.Tenant).authorize(id, action, topic)
	return ok
}

func (s *scope) authorize(id *broker.Identity, action broker.Action, topic []byte) (ok bool, by Decider) {
	if s == nil {
		return false, ByTenant
	}
	mine := ownOf(id)
	if s.open.all && mine == nil {
		return true, ByOpenness
	}
	if s.isSuper(id) {
		return true, BySuperUsers
	}
	say := silent
	if mine != nil {
		if say = mine.judge(id, action, topic); say == denied {
			return false, ByClient
		}
	}
	v, by := s.said(id, action, topic, say == silent)
	switch {
	case v == denied:
		return false, by
	case say == allowed:
		return true, ByClient
	case v == silent:
		return s.open.topics, ByOpenness
	}
	return v == allowed, by
}

// said is what the rule file says, else the ACLs. A client with rules of its own is not let in by the file, only kept out: first is false, and what the
// file allows is asked of the ACLs too.
func (s *scope) said(id *broker.Identity, action broker.Action, topic []byte, first bool) (verdict, Decider) {
	if s.acl != nil {
		if v := s.acl.judge(id, action, topic); v == denied || v != silent && first {
			return v, ByFile
		}
	}
	if s.grants.count == 0 {
		return silent, ByOpenness
	}
	if v := s.aclsSay(id, action, topic); v != silent {
		return v, ByCatalog
	}
	return silent, ByOpenness
}

// aclsSay asks the ACLs about an MQTT topic or filter.
func (s *scope) aclsSay(id *broker.Identity, action broker.Action, topic []byte) verdict {
	if action == broker.ActionPublish {
		return s.grants.judgeTopic(id, broker.OperationWrite, topic)
	}
	f, ok := withoutShare(topic)
	switch {
	case !ok:
		return denied
	case bytes.ContainsAny(f, "+#"):
		return s.grants.judgeFilter(id, broker.OperationRead, f)
	}
	return s.grants.judgeTopic(id, broker.OperationRead, f)
}

// Allows answers what Kafka's protocol asks.
func (p *Provider) Allows(id *broker.Identity, op broker.Operation, t broker.ResourceType, name []byte) bool {
	ok, _ := p.rules.Load().scopeOf(id.Tenant).allows(id, op, t, name)
	return ok
}

func (s *scope) allows(id *broker.Identity, op broker.Operation, t broker.ResourceType, name []byte) (ok bool, by Decider) {
	if s == nil {
		return false, ByTenant
	}
	mine := ownOf(id)
	if s.open.all && mine == nil {
		return true, ByOpenness
	}
	if s.isSuper(id) {
		return true, BySuperUsers
	}
	say := silent
	if mine != nil && t == broker.ResourceTopic {
		if say = listSays(mine.judge, id, op, name); say == denied {
			return false, ByClient
		}
	}
	if s.acl != nil && t == broker.ResourceTopic {
		if v := listSays(s.acl.judge, id, op, name); v == denied || v != silent && say == silent {
			return v == allowed, ByFile
		}
	}
	v := silent
	if s.grants.count > 0 && t <= broker.ResourceUser {
		v = s.grants.judge(id, op, t, name)
		if v == closed && t == broker.ResourceCluster && s.open.gentle && s.grants.types[t].named&bit(op) == 0 {
			v = silent
		}
	}
	switch {
	case say == allowed && v != denied:
		return true, ByClient
	case v == silent:
		return s.openFor(t), ByOpenness
	}
	return v == allowed, ByCatalog
}

// AllowsAny says whether there can be a resource of the type that the client may do op with.
func (p *Provider) AllowsAny(id *broker.Identity, op broker.Operation, t broker.ResourceType) bool {
	s := p.rules.Load().scopeOf(id.Tenant)
	if s == nil {
		return false
	}
	mine := ownOf(id)
	if s.open.all && mine == nil || s.isSuper(id) {
		return true
	}
	if mine != nil && mine.acl != nil && t == broker.ResourceTopic {
		if some := mine.acl.allowsSome(id); some || mine.exact {
			return some
		}
	}
	if s.acl != nil && t == broker.ResourceTopic && s.acl.allowsSome(id) {
		return true
	}
	return s.grants.allowsAny(id, op, t) || s.openFor(t) && !s.grants.deniesAll(id, op, t)
}

func (s *scope) isSuper(id *broker.Identity) bool {
	if mine := ownOf(id); mine != nil && mine.super {
		return true
	}
	if len(s.super) == 0 {
		return false
	}
	_, ok := s.super[id.Principal()]
	return ok
}

func (s *scope) openFor(t broker.ResourceType) bool {
	switch t {
	case broker.ResourceTopic:
		return s.open.topics
	case broker.ResourceGroup, broker.ResourceTransactionalID:
		return s.open.others
	default:
		return s.open.cluster
	}
}

// listSays asks a list of rules, which knows two actions, about a topic: who may read it may subscribe, who may do anything else that
// changes it or what is in it may publish, and who may do either may know that it is there.
func listSays(judge func(*broker.Identity, broker.Action, []byte) verdict, id *broker.Identity, op broker.Operation, name []byte) verdict {
	switch op {
	case broker.OperationRead:
		return judge(id, broker.ActionSubscribe, name)
	case broker.OperationDescribe, broker.OperationDescribeConfigs:
		sub, pub := judge(id, broker.ActionSubscribe, name), judge(id, broker.ActionPublish, name)
		switch {
		case sub == allowed || pub == allowed:
			return allowed
		case sub == denied && pub == denied:
			return denied
		}
		return silent
	default:
		return judge(id, broker.ActionPublish, name)
	}
}
