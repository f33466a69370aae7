// Package rewrite puts other topics in the place of those that clients name, by rules.
package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Action is what a topic is named for.
type Action uint8

// The actions, which a rule may join.
const (
	Publish Action = 1 << iota
	Subscribe
)

const (
	wildcardsMost = 9      // as many as $1 to $9 can name
	lengthMost    = 65_535 // bytes of a topic in MQTT
)

var slash = []byte{'/'}

// Rule is one rule. It is immutable.
type Rule struct {
	actions Action
	levels  []level
	parts   []part
}

// level is one level of what a rule matches.
type level struct {
	text string
	wild byte // '+', '#' or 0
}

// part is one part of what a rule writes.
type part struct {
	text string
	ref  int // of a wildcard, from 1 on; 0: text
}

// Rules are tried in their order; the first that matches counts.
type Rules []*Rule

// New makes a rule. from is a topic filter; $1 to $9 in to are what its wildcards stand for, from left to right.
func New(actions Action, from, to string) (*Rule, error) {
	r := &Rule{actions: actions}
	wild, err := r.match(from)
	if err != nil {
		return nil, err
	}
	return r, r.write(to, wild)
}

// match reads what the rule matches; wild is how many wildcards that has.
func (r *Rule) match(from string) (wild int, err error) {
	switch {
	case from == "":
		return 0, errors.New("from: want a topic filter, found nothing")
	case !text(from):
		return 0, errors.New("from: want UTF-8 without U+0000, of at most 65535 bytes")
	case strings.HasPrefix(from, "$share/") || strings.HasPrefix(from, "$exclusive/"):
		return 0, fmt.Errorf("from: %q never comes: rules see what is behind $share/GROUP/ and $exclusive/", from)
	}
	all := strings.Split(from, "/")
	for i, l := range all {
		switch {
		case l == "+", l == "#" && i == len(all)-1:
			wild++
			r.levels = append(r.levels, level{wild: l[0]})
		case strings.ContainsAny(l, "+#"):
			return 0, fmt.Errorf("from: %q: + has to be a whole level, # the last one", from)
		default:
			r.levels = append(r.levels, level{text: l})
		}
	}
	if wild > wildcardsMost {
		return 0, fmt.Errorf("from: %q has more than %d wildcards", from, wildcardsMost)
	}
	return wild, nil
}

// write reads what the rule writes.
func (r *Rule) write(to string, wild int) error {
	switch {
	case to == "":
		return errors.New("to: want a topic, found nothing")
	case !text(to) || strings.ContainsAny(to, "+#"):
		return errors.New("to: want UTF-8 without U+0000, + and #, of at most 65535 bytes")
	}
	for at := 0; at < len(to); {
		next := strings.IndexByte(to[at+1:], '$') + at + 1
		if next == at {
			next = len(to)
		}
		p := part{text: to[at:next]}
		if len(p.text) > 1 && p.text[0] == '$' && p.text[1] >= '0' && p.text[1] <= '9' {
			p.ref = int(p.text[1] - '0')
			if p.ref == 0 || p.ref > wild {
				return fmt.Errorf("to: $%d stands for nothing: from has %d wildcards", p.ref, wild)
			}
			p.text, next = "", at+2
		}
		r.parts = append(r.parts, p)
		at = next
	}
	return nil
}

func text(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 && len(s) <= lengthMost
}

// captured is what a wildcard stands for.
type captured struct {
	text   []byte
	absent bool // of a #: not even an empty level
}

// Apply appends to dst what the first rule that matches makes of topic, which is a topic or, for Subscribe, a filter without its prefix. ok
// false: it stays as it is. What would be empty or too long to be a topic is not made. The answer to a filter may be none that is valid. It
// allocates nothing but what dst has to grow. dst must not overlap topic.
func (rs Rules) Apply(dst, topic []byte, a Action) (out []byte, ok bool) {
	var found [wildcardsMost]captured
	for _, r := range rs {
		if r.actions&a == 0 || !r.matches(topic, &found) {
			continue
		}
		begin := len(dst)
		dst = r.expand(dst, &found)
		if n := len(dst) - begin; n > 0 && n <= lengthMost {
			return dst, true
		}
		return dst[:begin], false
	}
	return dst, false
}

func (r *Rule) matches(topic []byte, found *[wildcardsMost]captured) bool {
	if len(topic) == 0 || topic[0] == '$' && r.levels[0].wild != 0 {
		return false
	}
	rest, more, wild := topic, true, 0
	for i := range r.levels {
		l := &r.levels[i]
		if l.wild == '#' {
			found[wild] = captured{rest, !more}
			return true
		}
		if !more {
			return false
		}
		var here []byte
		here, rest, more = bytes.Cut(rest, slash)
		switch {
		case l.wild == 0:
			if string(here) != l.text {
				return false
			}
		case len(here) == 1 && here[0] == '#':
			return false // a filter that is wider than the rule
		default:
			found[wild] = captured{text: here}
			wild++
		}
	}
	return !more
}

func (r *Rule) expand(dst []byte, found *[wildcardsMost]captured) []byte {
	begin := len(dst)
	for i := range r.parts {
		p := &r.parts[i]
		if p.ref == 0 {
			dst = append(dst, p.text...)
			continue
		}
		c := &found[p.ref-1]
		if c.absent && len(dst) > begin && dst[len(dst)-1] == '/' {
			dst = dst[:len(dst)-1] // a/# matches a, and b/$1 is b then
		}
		dst = append(dst, c.text...)
	}
	return dst
}
