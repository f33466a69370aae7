package auth

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker"
)

// levelKind is what a level of a rule's filter is.
type levelKind uint8

const (
	levelText levelKind = iota // matches itself
	levelPlus                  // one level
	levelHash                  // the parent and everything below; last
	levelVar                   // text with %c or %u in it
)

// level is one level of a rule's filter.
type level struct {
	kind  levelKind
	text  string
	parts []part // of levelVar
}

// part is a piece of a level with variables: text, or the client id ('c') or user name ('u').
type part struct {
	text string
	v    byte
}

// filter is a rule's topic filter. It is immutable.
type filter []level

const filterBytesMax = 65535

// parseFilter reads a filter of a rule: an MQTT filter in which %c and %u stand for client id and user name, %% for a percent sign.
func parseFilter(s string) (filter, error) {
	if s == "" || len(s) > filterBytesMax || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return nil, fmt.Errorf("want a topic filter of 1 to %d bytes of UTF-8", filterBytesMax)
	}
	if strings.HasPrefix(s, "$share/") {
		return nil, errors.New("a rule names the filter without $share/GROUP/: it holds for shared subscriptions too")
	}
	var f filter
	levels := strings.Split(s, "/")
	for i, text := range levels {
		l, err := parseLevel(text)
		if err != nil {
			return nil, err
		}
		if l.kind == levelHash && i != len(levels)-1 {
			return nil, fmt.Errorf("# stands in the middle of filter %q; it is the last level or none", s)
		}
		f = append(f, l)
	}
	if len(f) == 2 && f[0].kind == levelPlus && f[1].kind == levelHash {
		f = f[1:] // +/# and # match the same topics
	}
	return f, nil
}

func parseLevel(s string) (level, error) {
	switch s {
	case "+":
		return level{kind: levelPlus}, nil
	case "#":
		return level{kind: levelHash}, nil
	}
	if strings.ContainsAny(s, "+#") {
		return level{}, fmt.Errorf("a wildcard stands alone in its level, found %q", s)
	}
	if !strings.Contains(s, "%") {
		return level{kind: levelText, text: s}, nil
	}
	parts, err := parseParts(s)
	if err != nil {
		return level{}, err
	}
	l := level{kind: levelVar, parts: parts}
	for _, p := range l.parts {
		if p.v != 0 {
			return l, nil
		}
	}
	var b strings.Builder
	for _, p := range l.parts {
		b.WriteString(p.text)
	}
	return level{kind: levelText, text: b.String()}, nil
}

// parseParts reads text in which %c and %u stand for client id and user name, and %% for a percent sign.
func parseParts(s string) (parts []part, err error) {
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			parts = append(parts, part{text: rest})
			break
		}
		if i > 0 {
			parts = append(parts, part{text: rest[:i]})
		}
		if i+1 == len(rest) {
			return nil, fmt.Errorf("%q ends in a lone %%; want %%c, %%u or %%%%", s)
		}
		switch rest[i+1] {
		case 'c', 'u':
			parts = append(parts, part{v: rest[i+1]})
		case '%':
			parts = append(parts, part{text: "%"})
		default:
			return nil, fmt.Errorf("unknown %%%c in %q; want %%c, %%u or %%%%", rest[i+1], s)
		}
		rest = rest[i+2:]
	}
	return parts, nil
}

func (p part) value(id *broker.Identity) string {
	switch p.v {
	case 'c':
		return id.ClientID
	case 'u':
		return id.User
	}
	return p.text
}

// safe tells whether what stands in for %c and %u is a piece of one level and no wildcard. A client chooses its id: "#", "a/b" or,
// as the first level, "$SYS" must not make a rule say what its author did not.
func (l *level) safe(id *broker.Identity, first bool) bool {
	for i, p := range l.parts {
		v := p.value(id)
		if p.v != 0 && (v == "" || strings.ContainsAny(v, "/+#") || first && i == 0 && v[0] == '$') {
			return false
		}
	}
	return true
}

// equal tells whether the level, variables filled in, is b.
func (l *level) equal(id *broker.Identity, b []byte) bool {
	if l.kind == levelText {
		return l.text == string(b)
	}
	for _, p := range l.parts {
		v := p.value(id)
		if len(b) < len(v) || string(b[:len(v)]) != v {
			return false
		}
		b = b[len(v):]
	}
	return len(b) == 0
}

// relation is how a rule's filter has to stand to what is asked about.
type relation uint8

const (
	relContains relation = iota // the rule's filter matches all that the other one can
	relOverlaps                 // there is a topic that both match
)

// next cuts the first level off rest; last tells that it was the only one.
func nextLevel(rest []byte) (head, tail []byte, last bool) {
	if i := bytes.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i+1:], false
	}
	return rest, nil, true
}

// match tells whether f, variables filled in from id, stands in the relation to other, a filter or topic name as a client sent
// it. A topic name is a filter without wildcards: for one, both relations are "matches". A level of f that cannot be filled in
// safely makes contains say no, and overlaps say yes: a rule that allows then allows nothing, one that denies denies all from
// there on.
func (f filter) match(id *broker.Identity, other []byte, rel relation) bool {
	if rel == relContains && string(other) == "+/#" {
		other = other[2:]
	}
	for i := range f {
		l := &f[i]
		head, tail, last := nextLevel(other)
		dollar := i == 0 && len(head) > 0 && head[0] == '$'
		otherHash := last && string(head) == "#"
		otherPlus := string(head) == "+"
		switch {
		case l.kind == levelVar && !l.safe(id, i == 0):
			return rel == relOverlaps
		case l.kind == levelHash:
			return !dollar
		case otherHash:
			// Other goes on for any number of levels; f does so only by its own #. They meet somewhere unless other's # is the first
			// level and f is below $.
			return rel == relOverlaps && (i > 0 || !l.startsDollar())
		case l.kind == levelPlus:
			if dollar {
				return false
			}
		case otherPlus:
			if rel == relContains || i == 0 && l.startsDollar() {
				return false
			}
		case !l.equal(id, head):
			return false
		}
		if last {
			rest := f[i+1:] // other ends here: f must too, or go on with # alone, which matches its parent
			return len(rest) == 0 || rest[0].kind == levelHash ||
				rel == relOverlaps && rest[0].kind == levelVar && !rest[0].safe(id, false)
		}
		other = tail
	}
	// f ends and other goes on: what both match is the parent of other's #.
	return rel == relOverlaps && string(other) == "#"
}

// startsDollar tells whether a first level is below $, where wildcards do not reach. A variable never is: see safe.
func (l *level) startsDollar() bool {
	if l.kind == levelVar {
		return l.parts[0].v == 0 && strings.HasPrefix(l.parts[0].text, "$")
	}
	return l.kind == levelText && strings.HasPrefix(l.text, "$")
}
