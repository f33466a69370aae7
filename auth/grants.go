package auth

import (
	"bytes"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/sluicemq/sluice/broker"
)

// grants are ACLs, compiled for questions. They are immutable; their zero value has none.
type grants struct {
	types [broker.ResourceUser + 1]typeGrants
	count int
}

// granted are the ACLs of all tenants.
type granted map[uint32]*grants

var noGrants = &grants{}

// of are those of one tenant.
func (m granted) of(tenant uint32) *grants {
	if g := m[tenant]; g != nil {
		return g
	}
	return noGrants
}

// compileTenants makes grants of a list, for each tenant of which it has any.
func compileTenants(list []broker.ACL) granted {
	lists := make(map[uint32][]broker.ACL)
	if slices.ContainsFunc(list, func(a broker.ACL) bool { return a.Tenant != 0 }) {
		for i := range list {
			lists[list[i].Tenant] = append(lists[list[i].Tenant], list[i])
		}
	} else {
		lists[0] = list
	}
	m := make(granted, len(lists))
	for tenant, l := range lists {
		m[tenant] = compileACLs(l)
	}
	return m
}

// typeGrants are those for one type of resources.
type typeGrants struct {
	all     *pattern              // for every name
	literal map[string]*pattern   // by name
	heads   map[string][]*pattern // prefixed ones, and filters with wildcards, by the text that they begin with
	lengths []int                 // of the heads, ascending
	every   []*pattern
	denying []*pattern
	allowed map[string][]*pattern // by principal, those that allow it something
	named   uint16                // bits of the operations that ACLs name
}

// pattern is a pattern of names with what is granted on it.
type pattern struct {
	name     string
	prefixed bool
	filter   filter // of a literal name, as MQTT reads it
	wild     bool   // filter has wildcards
	users    map[string][]grant
	everyone []grant
	deny     bool // there is a grant that denies
}

// grant is what one ACL, or several for the same host, allow and deny.
type grant struct {
	anyHost     bool
	host        netip.Addr // the zero value of a host that is no address: no client comes from there
	allow, deny uint16     // bits of operations
}

const userPrefix = "User:"

func bit(op broker.Operation) uint16 { return 1 << op }

// opBits are the operations that op stands for.
func opBits(op broker.Operation) uint16 {
	if op == broker.OperationAll {
		return ^uint16(0)
	}
	return bit(op)
}

// implied are the operations that allowing op allows.
func implied(op broker.Operation) uint16 {
	switch op {
	case broker.OperationRead, broker.OperationWrite, broker.OperationDelete, broker.OperationAlter:
		return bit(op) | bit(broker.OperationDescribe)
	case broker.OperationAlterConfigs:
		return bit(op) | bit(broker.OperationDescribeConfigs)
	default:
		return opBits(op)
	}
}

// compileACLs makes grants of a list. What it does not know it leaves out: the catalog lets nothing of the kind in.
func compileACLs(list []broker.ACL) *grants {
	g := &grants{}
	for i := range list {
		a := &list[i]
		if a.Resource < broker.ResourceTopic || a.Resource > broker.ResourceUser || a.Name == "" {
			continue
		}
		p := g.types[a.Resource].pattern(a)
		g.types[a.Resource].named |= opBits(a.Operation)
		g.count++
		if strings.HasPrefix(a.Principal, userPrefix) { // there are no other principals
			p.add(a)
		}
	}
	for i := range g.types {
		g.types[i].finish()
	}
	return g
}

// pattern finds the pattern of a, or makes it.
func (t *typeGrants) pattern(a *broker.ACL) *pattern {
	prefixed := a.Pattern == broker.PatternPrefixed
	if !prefixed && a.Name == broker.AnyName {
		if t.all == nil {
			t.all = t.newPattern(a.Name, false)
		}
		return t.all
	}
	if !prefixed {
		if p := t.literal[a.Name]; p != nil {
			return p
		}
		p := t.newPattern(a.Name, false)
		if t.literal == nil {
			t.literal = make(map[string]*pattern)
		}
		t.literal[a.Name] = p
		if a.Resource == broker.ResourceTopic {
			p.filter, p.wild = literalFilter(a.Name)
		}
		if p.wild {
			t.addHead(p, a.Name[:literalBytes(a.Name)])
		}
		return p
	}
	head := strings.TrimSuffix(a.Name, "/")
	for _, p := range t.heads[head] {
		if p.prefixed && p.name == a.Name {
			return p
		}
	}
	p := t.newPattern(a.Name, true)
	t.addHead(p, head)
	return p
}

func (t *typeGrants) newPattern(name string, prefixed bool) *pattern {
	p := &pattern{name: name, prefixed: prefixed}
	t.every = append(t.every, p)
	return p
}

func (t *typeGrants) addHead(p *pattern, head string) {
	if t.heads == nil {
		t.heads = make(map[string][]*pattern)
	}
	if len(t.heads[head]) == 0 {
		t.lengths = append(t.lengths, len(head))
	}
	t.heads[head] = append(t.heads[head], p)
}

// literalFilter reads a literal name as MQTT does. A name that is no filter matches itself alone.
func literalFilter(name string) (f filter, wild bool) {
	f, err := parseFilter(strings.ReplaceAll(name, "%", "%%"))
	if err != nil {
		return filter{{kind: levelText, text: name}}, false
	}
	for i := range f {
		wild = wild || f[i].kind == levelPlus || f[i].kind == levelHash
	}
	return f, wild
}

// literalBytes is how long the part of a filter before its first wildcard is; a # that stands for its parent too takes the separator
// with it.
func literalBytes[T string | []byte](f T) int {
	for i := range len(f) {
		if f[i] == '#' {
			return max(i-1, 0)
		}
		if f[i] == '+' {
			return i
		}
	}
	return len(f)
}

// add takes an ACL of the pattern.
func (p *pattern) add(a *broker.ACL) {
	n := grant{anyHost: a.Host == "*"}
	if !n.anyHost {
		addr, _ := netip.ParseAddr(a.Host)
		n.host = addr.Unmap().WithZone("")
	}
	list := p.everyone
	user := a.Principal[len(userPrefix):]
	if user != "*" {
		list = p.users[user]
	}
	at := -1
	for i := range list {
		if list[i].anyHost == n.anyHost && list[i].host == n.host {
			at = i
		}
	}
	if at < 0 {
		at = len(list)
		list = append(list, n)
	}
	if a.Permission == broker.PermissionAllow {
		list[at].allow |= implied(a.Operation)
	} else {
		p.deny = true
		list[at].deny |= opBits(a.Operation)
	}
	switch {
	case user == "*":
		p.everyone = list
	case p.users == nil:
		p.users = map[string][]grant{user: list}
	default:
		p.users[user] = list
	}
}

// finish sorts what compileACLs has gathered.
func (t *typeGrants) finish() {
	sort.Ints(t.lengths)
	n := 0
	for i, l := range t.lengths {
		if i == 0 || l != t.lengths[n-1] {
			t.lengths[n] = l
			n++
		}
	}
	t.lengths = t.lengths[:n]
	note := func(user string, p *pattern, list []grant) {
		for i := range list {
			if list[i].allow != 0 {
				if t.allowed == nil {
					t.allowed = make(map[string][]*pattern)
				}
				t.allowed[user] = append(t.allowed[user], p)
				return
			}
		}
	}
	for _, p := range t.every {
		if p.deny {
			t.denying = append(t.denying, p)
		}
		note("*", p, p.everyone)
		for user, list := range p.users {
			note(user, p, list)
		}
	}
}

func (n *grant) from(id *broker.Identity) bool {
	return n.anyHost || n.host.IsValid() && n.host == id.Remote.Unmap().WithZone("")
}

// bits are what the pattern's grants allow and deny a client.
func (p *pattern) bits(id *broker.Identity) (allow, deny uint16) {
	for _, list := range [2][]grant{p.users[id.Principal()], p.everyone} {
		for i := range list {
			if n := &list[i]; n.from(id) {
				allow, deny = allow|n.allow, deny|n.deny
			}
		}
	}
	return allow, deny
}

// tally gathers what the patterns that are about a name say.
type tally struct {
	id          *broker.Identity
	allow, deny uint16
	some        bool
}

func (c *tally) count(p *pattern) {
	allow, deny := p.bits(c.id)
	c.allow, c.deny, c.some = c.allow|allow, c.deny|deny, true
}

func (c *tally) verdict(op broker.Operation) verdict {
	switch {
	case c.deny&bit(op) != 0:
		return denied
	case c.allow&bit(op) != 0:
		return allowed
	case c.some:
		return closed
	}
	return silent
}

// judge answers for the resource called name, as Kafka does: a deny counts before any allow.
func (g *grants) judge(id *broker.Identity, op broker.Operation, rt broker.ResourceType, name []byte) verdict {
	t := &g.types[rt]
	c := tally{id: id}
	if t.all != nil {
		c.count(t.all)
	}
	if p := t.literal[string(name)]; p != nil {
		c.count(p)
	}
	for _, n := range t.lengths {
		if n > len(name) {
			break
		}
		for _, p := range t.heads[string(name[:n])] {
			if p.prefixed && len(p.name) <= len(name) && (len(p.name) == n || name[n] == '/') {
				c.count(p)
			}
		}
	}
	return c.verdict(op)
}

// judgeTopic answers for an MQTT topic name: literal names are filters, and a prefix that ends in a separator takes in the level before
// it, as "a/#" does.
func (g *grants) judgeTopic(id *broker.Identity, op broker.Operation, topic []byte) verdict {
	t := &g.types[broker.ResourceTopic]
	c := tally{id: id}
	if t.all != nil {
		c.count(t.all)
	}
	if p := t.literal[string(topic)]; p != nil {
		c.count(p)
	}
	for _, n := range t.lengths {
		if n > len(topic) {
			break
		}
		for _, p := range t.heads[string(topic[:n])] {
			if p.contains(id, topic) {
				c.count(p)
			}
		}
	}
	return c.verdict(op)
}

// judgeFilter answers for a filter with wildcards: it is denied if it can match anything that is denied, and allowed if one pattern
// that allows has all that it can match. It is silent only if no pattern is about any of that.
func (g *grants) judgeFilter(id *broker.Identity, op broker.Operation, f []byte) verdict {
	t := &g.types[broker.ResourceTopic]
	for _, p := range t.denying {
		if _, deny := p.bits(id); deny&bit(op) != 0 && p.overlaps(id, f) {
			return denied
		}
	}
	c := tally{id: id}
	if t.all != nil {
		c.count(t.all)
	}
	if p := t.literal[string(f)]; p != nil {
		c.count(p)
	}
	for _, n := range t.lengths {
		if n > len(f) {
			break
		}
		for _, p := range t.heads[string(f[:n])] {
			if p.contains(id, f) {
				c.count(p)
			}
		}
	}
	if c.allow&bit(op) != 0 {
		return allowed
	}
	for _, p := range t.every {
		if p.overlaps(id, f) {
			return closed
		}
	}
	return silent
}

// contains says whether everything that an MQTT topic or filter can match is the pattern's. The pattern's head is known to begin f.
func (p *pattern) contains(id *broker.Identity, f []byte) bool {
	if !p.prefixed {
		return p.filter.match(id, f, relContains)
	}
	fixed := literalBytes(f)
	head, isParent := strings.CutSuffix(p.name, "/")
	if isParent {
		// All below head, and head itself. What f says must be head and end there or go on with a separator.
		return len(f) == len(head) || len(f) > len(head) && f[len(head)] == '/' && fixed >= len(head)
	}
	return fixed >= len(p.name)
}

// overlaps says whether a filter can match something of the pattern's.
func (p *pattern) overlaps(id *broker.Identity, f []byte) bool {
	switch {
	case p.prefixed:
		return prefixOverlaps(p.name, f)
	case p.name == broker.AnyName:
		return true
	}
	return p.filter.match(id, f, relOverlaps)
}

// prefixOverlaps says whether a filter matches some topic that begins with prefix, or the level before it if it ends in a separator.
func prefixOverlaps(prefix string, f []byte) bool {
	dollar := prefix[0] == '$'
	for first := true; ; first = false {
		want, rest, more := strings.Cut(prefix, "/")
		head, tail, last := nextLevel(f)
		switch wild := len(head) == 1 && (head[0] == '+' || head[0] == '#'); {
		case wild && first && dollar:
			return false // wildcards do not reach below $
		case wild && head[0] == '#':
			return true
		case !more:
			return wild || bytes.HasPrefix(head, []byte(want))
		case !wild && string(head) != want:
			return false
		}
		if last {
			return rest == "" // f ends at the level before the prefix's last separator
		}
		prefix, f = rest, tail
	}
}

// allowsAny says whether id may do op with some resource of the type, those aside that every pattern leaves to the default.
func (g *grants) allowsAny(id *broker.Identity, op broker.Operation, rt broker.ResourceType) bool {
	t := &g.types[rt]
	for _, list := range [2][]*pattern{t.allowed[id.Principal()], t.allowed["*"]} {
		for _, p := range list {
			if allow, _ := p.bits(id); allow&bit(op) != 0 && g.judge(id, op, rt, []byte(p.name)) == allowed {
				return true
			}
		}
	}
	return false
}

// deniesAll says whether id is denied op for every resource of the type.
func (g *grants) deniesAll(id *broker.Identity, op broker.Operation, rt broker.ResourceType) bool {
	p := g.types[rt].all
	if p == nil {
		return false
	}
	allow, deny := p.bits(id)
	return deny&bit(op) != 0 || allow&bit(op) == 0
}
