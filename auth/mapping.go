package auth

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Bounds of the rules.
const (
	mappingBytesMax = 64 << 10
	mappingRulesMax = 1000
)

// mappingRule makes a user's name of what a certificate says, if its pattern fits all of it.
type mappingRule struct {
	pattern     *regexp.Regexp // nil: the name stays as it is
	replacement string
	letters     byte // 'L', 'U' or 0
}

// mapping are the rules of auth.certificate_mapping; the first that fits decides.
type mapping []mappingRule

// parseMapping reads rules as in Kafka's ssl.principal.mapping.rules: RULE:PATTERN/REPLACEMENT/[L|U] and DEFAULT, with commas between them. A pattern
// is one of Go's regular expressions. Within a pattern and a replacement, a backslash takes the meaning from what follows: \/ is a slash.
func parseMapping(text string) (rules mapping, err error) {
	if len(text) > mappingBytesMax {
		return nil, fmt.Errorf("want at most %d bytes of rules", mappingBytesMax)
	}
	for rest := strings.TrimSpace(text); rest != ""; {
		var r mappingRule
		if r, rest, err = parseMappingRule(rest); err != nil {
			return nil, err
		}
		if rules = append(rules, r); len(rules) > mappingRulesMax {
			return nil, fmt.Errorf("want at most %d rules", mappingRulesMax)
		}
		rest = strings.TrimSpace(rest)
		next, comma := strings.CutPrefix(rest, ",")
		if rest != "" && !comma || comma && strings.TrimSpace(next) == "" {
			return nil, fmt.Errorf("want a comma and a further rule, or the end, found %q", rest)
		}
		rest = strings.TrimSpace(next)
	}
	return rules, nil
}

func parseMappingRule(s string) (r mappingRule, rest string, err error) {
	if rest, ok := strings.CutPrefix(s, "DEFAULT"); ok {
		return r, rest, nil
	}
	body, ok := strings.CutPrefix(s, "RULE:")
	if !ok {
		return r, "", fmt.Errorf("want RULE:PATTERN/REPLACEMENT/[L|U] or DEFAULT, found %q", s)
	}
	pattern, body, ok := untilSlash(body)
	replacement, body, ok2 := untilSlash(body)
	if !ok || !ok2 {
		return r, "", fmt.Errorf("want two slashes, behind the pattern and behind the replacement, found %q", s)
	}
	if r.pattern, err = regexp.Compile(`\A(?:` + pattern + `)\z`); err != nil {
		return r, "", fmt.Errorf("pattern %q: %w", pattern, err)
	}
	r.replacement = replacement
	if body != "" && (body[0] == 'L' || body[0] == 'U') {
		r.letters, body = body[0], body[1:]
	}
	return r, body, nil
}

// untilSlash cuts at the first slash that has its meaning.
func untilSlash(s string) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '/':
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}

var errNoRule = errors.New("no rule of auth.certificate_mapping fits the certificate")

// apply gives the user's name. Without rules it is what the certificate says.
func (m mapping) apply(name string) (string, error) {
	if len(m) == 0 {
		return name, nil
	}
	for i := range m {
		r := &m[i]
		if r.pattern == nil {
			return name, nil
		}
		groups := r.pattern.FindStringSubmatch(name)
		if groups == nil {
			continue
		}
		user := r.expand(groups)
		switch r.letters {
		case 'L':
			user = strings.ToLower(user)
		case 'U':
			user = strings.ToUpper(user)
		}
		if user == "" {
			return "", errors.New("a rule of auth.certificate_mapping makes an empty name of the certificate")
		}
		return user, nil
	}
	return "", errNoRule
}

// expand puts groups into the replacement: $1 is one, as many digits as name a group count; a $ that names none stands for itself.
func (r *mappingRule) expand(groups []string) string {
	var b strings.Builder
	s := r.replacement
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '$':
			n, end := 0, i+1
			for ; end < len(s) && s[end] >= '0' && s[end] <= '9'; end++ {
				next := n*10 + int(s[end]-'0')
				if next >= len(groups) {
					break
				}
				n = next
			}
			if end == i+1 {
				b.WriteByte(c)
				continue
			}
			b.WriteString(groups[n])
			i = end - 1
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
