package auth

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker"
)

// rule is one line of a rule file. What is not said about the subject is not looked at.
type rule struct {
	allow              bool
	publish, subscribe bool
	tenant             string // whose clients it is about; "" the default one's
	user, client       string // patterns; "" is not said
	anonymous          bool
	addr               netip.Prefix // the zero value is not said
	on                 filter
	line               int
	text               string // as the file has it
}

// acl is a rule file. Rules that name one user or one client exactly are found by that name, so that a file with a rule per
// device is not read from the top for each question.
type acl struct {
	rules    []rule
	byUser   map[string][]int32
	byClient map[string][]int32
	others   []int32
}

// lineBytesMax bounds a line of a rule file.
const lineBytesMax = 256 << 10

// parseACL reads a rule file:
//
//	allow|deny  publish|subscribe|all  by SUBJECT  on FILTER
//
// SUBJECT is `all`, or one or more of `tenant NAME`, `user NAME`, `client NAME`, `addr CIDR`, `anonymous`, all of which must hold. A * in a
// NAME stands for any characters, but in a tenant's. Words with spaces, # or quotes are put in double quotes. name is for messages.
//
// a has the lines that are about the default tenant: those that name no other. of has the others', by their tenants' names.
func parseACL(name string, data []byte) (a *acl, of map[string]*acl, err error) {
	a = newACL()
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if len(text) > lineBytesMax || !utf8.Valid(text) {
			return nil, nil, fmt.Errorf("%s:%d: want a line of UTF-8 of at most %d bytes", name, line, lineBytesMax)
		}
		words, err := splitWords(string(text))
		if err != nil {
			return nil, nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		if len(words) == 0 {
			continue
		}
		r, col, err := parseRule(words)
		if err != nil {
			return nil, nil, fmt.Errorf("%s:%d:%d: %w", name, line, col, err)
		}
		r.line, r.text = line, strings.TrimSpace(string(text))
		to := a
		if r.tenant != "" && r.tenant != defaultTenant {
			if of == nil {
				of = make(map[string]*acl)
			}
			if to = of[r.tenant]; to == nil {
				to = newACL()
				of[r.tenant] = to
			}
		}
		to.add(r)
	}
	return a, of, nil
}

func newACL() *acl {
	return &acl{byUser: make(map[string][]int32), byClient: make(map[string][]int32)}
}

func (a *acl) add(r rule) {
	i := int32(len(a.rules))
	a.rules = append(a.rules, r)
	switch {
	case r.user != "" && !strings.Contains(r.user, "*"):
		a.byUser[r.user] = append(a.byUser[r.user], i)
	case r.client != "" && !strings.Contains(r.client, "*"):
		a.byClient[r.client] = append(a.byClient[r.client], i)
	default:
		a.others = append(a.others, i)
	}
}

// word is a word of a line and the column it begins in.
type word struct {
	text string
	col  int
}

// splitWords splits a line at spaces. Double quotes hold a word together; \" and \\ stand for themselves in them. A # that
// begins a word begins a comment, unless it is the filter: the word behind `on`.
func splitWords(s string) ([]word, error) {
	var out []word
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			i++
			continue
		case c == '#' && (len(out) == 0 || out[len(out)-1].text != "on"):
			return out, nil
		case c == '"':
			text, n, err := unquote(s[i:])
			if err != nil {
				return nil, err
			}
			out = append(out, word{text, i + 1})
			i += n
			if i < len(s) && !strings.ContainsRune(" \t\r\n", rune(s[i])) {
				return nil, errors.New("want a space behind the closing quote")
			}
		default:
			n := strings.IndexAny(s[i:], " \t\r\n")
			if n < 0 {
				n = len(s) - i
			}
			out = append(out, word{s[i : i+n], i + 1})
			i += n
		}
	}
	return out, nil
}

// unquote reads a quoted word at the start of s and says how long it was.
func unquote(s string) (text string, n int, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), i + 1, nil
		case '\\':
			if i+1 >= len(s) || s[i+1] != '"' && s[i+1] != '\\' {
				return "", 0, errors.New(`in quotes \ stands before " or \ only`)
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return "", 0, errors.New("a quote is not closed")
}

// parseRule reads the words of a line; on error col says where.
func parseRule(words []word) (r rule, col int, err error) {
	at := func(i int) word {
		if i < len(words) {
			return words[i]
		}
		last := words[len(words)-1]
		return word{"", last.col + len(last.text)}
	}
	switch w := at(0); w.text {
	case "allow":
		r.allow = true
	case "deny":
	default:
		return r, w.col, fmt.Errorf("want allow or deny, found %q", w.text)
	}
	switch w := at(1); w.text {
	case "publish":
		r.publish = true
	case "subscribe":
		r.subscribe = true
	case "all":
		r.publish, r.subscribe = true, true
	default:
		return r, w.col, fmt.Errorf("want publish, subscribe or all, found %q", w.text)
	}
	if w := at(2); w.text != "by" {
		return r, w.col, fmt.Errorf("want by, found %q", w.text)
	}
	i := 3
	for ; at(i).text != "on" || i == 3; i++ {
		w, value := at(i), at(i+1)
		takes, err := r.subject(w.text, value.text, i == 3 && value.text == "on")
		if err != nil {
			return r, w.col, err
		}
		if takes {
			i++
		}
		if i+1 >= len(words) {
			return r, at(i + 1).col, errors.New("want on FILTER at the end of the rule")
		}
	}
	w := at(i + 1)
	if r.on, err = parseFilter(w.text); err != nil {
		return r, w.col, err
	}
	if extra := at(i + 2); extra.text != "" && !strings.HasPrefix(extra.text, "#") {
		return r, extra.col, fmt.Errorf("want nothing behind the filter, found %q; put a filter with spaces in quotes", extra.text)
	}
	return r, 0, nil
}

// subject takes one condition; takes tells that it used the value. alone tells that it is the only one.
func (r *rule) subject(kind, value string, alone bool) (takes bool, err error) {
	set := func(to *string) error {
		if *to != "" {
			return fmt.Errorf("%s is said twice", kind)
		}
		if value == "" {
			return fmt.Errorf("want a name behind %s", kind)
		}
		*to = value
		return nil
	}
	switch kind {
	case "all":
		if !alone {
			return false, errors.New("all stands alone: want `by all on FILTER`, or `by tenant NAME on FILTER` for all clients of a tenant")
		}
		return false, nil
	case "tenant":
		if err := set(&r.tenant); err != nil {
			return true, err
		}
		return true, checkTenantName(value)
	case "user":
		return true, set(&r.user)
	case "client":
		return true, set(&r.client)
	case "anonymous":
		r.anonymous = true
		return false, nil
	case "addr":
		if r.addr.IsValid() {
			return false, errors.New("addr is said twice")
		}
		p, err := netip.ParsePrefix(value)
		if err != nil {
			a, err := netip.ParseAddr(value)
			if err != nil || a.Zone() != "" {
				return true, fmt.Errorf("want an address or a network such as 10.1.0.0/16 behind addr, found %q", value)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4In6() {
			return true, fmt.Errorf("want %q without ::ffff: before it", value)
		}
		r.addr = p.Masked()
		return true, nil
	}
	return false, fmt.Errorf("want tenant, user, client, addr, anonymous or all, found %q", kind)
}

// holds tells whether the rule is about id.
func (r *rule) holds(id *broker.Identity) bool {
	if r.user != "" && (id.User == "" || !glob(r.user, id.User)) {
		return false
	}
	if r.client != "" && !glob(r.client, id.ClientID) {
		return false
	}
	if r.anonymous && id.User != "" {
		return false
	}
	return !r.addr.IsValid() || r.addr.Contains(id.Remote.Unmap().WithZone(""))
}

// glob matches s against a pattern in which * stands for any characters. It goes back to the last star only: time is bounded by
// the product of the lengths.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// verdict is what one source of rules says of a question.
type verdict uint8

const (
	silent  verdict = iota // no rule is about it
	closed                 // there are ACLs for the resource, none of them for this client and operation
	allowed                // a rule allows it
	denied                 // a rule denies it
)

// decide says whether a rule allows it: what none names is denied.
func (a *acl) decide(id *broker.Identity, action broker.Action, topic []byte) bool {
	return a.judge(id, action, topic) == allowed
}

// judge finds the first rule that decides. For a publish that is the first whose filter matches. For a subscribe, where one
// filter stands for many topics, a deny decides as soon as any of them is denied, an allow only if it allows them all.
func (a *acl) judge(id *broker.Identity, action broker.Action, topic []byte) verdict {
	if action == broker.ActionSubscribe {
		var ok bool
		if topic, ok = withoutShare(topic); !ok {
			return denied
		}
	}
	lists := [3][]int32{a.byUser[id.User], a.byClient[id.ClientID], a.others}
	for {
		k := -1
		for j := range lists {
			if len(lists[j]) > 0 && (k < 0 || lists[j][0] < lists[k][0]) {
				k = j
			}
		}
		if k < 0 {
			return silent
		}
		r := &a.rules[lists[k][0]]
		lists[k] = lists[k][1:]
		if action == broker.ActionPublish && !r.publish || action == broker.ActionSubscribe && !r.subscribe || !r.holds(id) {
			continue
		}
		if r.allow && r.on.match(id, topic, relContains) {
			return allowed
		}
		if !r.allow && r.on.match(id, topic, relOverlaps) {
			return denied
		}
	}
}

// allowsSome says whether there is a rule that allows id to publish somewhere.
func (a *acl) allowsSome(id *broker.Identity) bool {
	for _, list := range [3][]int32{a.byUser[id.User], a.byClient[id.ClientID], a.others} {
		for _, i := range list {
			if r := &a.rules[i]; r.allow && r.publish && r.holds(id) {
				return true
			}
		}
	}
	return false
}

// withoutShare takes $share/GROUP/ off a filter.
func withoutShare(f []byte) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(f, []byte("$share/"))
	if !ok {
		return f, len(f) > 0
	}
	_, rest, ok = bytes.Cut(rest, []byte("/"))
	return rest, ok && len(rest) > 0
}
