package mosquitto

import (
	"bytes"
	"fmt"
	"strings"
)

// aclRule is a line of an acl_file.
type aclRule struct {
	words   string // allow publish, deny all, ...
	subject string
	filter  string
}

// rules makes the rule file. In Mosquitto the rules of a user come before patterns, and a denial before what is allowed; here the first line
// that fits decides, so they are written in that order.
func (t *translation) rules() error {
	at := t.only(func(s *listener) *line { return s.acl })
	if at == nil {
		return nil
	}
	data, err := readFile(at.value)
	if err != nil {
		return fmt.Errorf("%s:%d: %w", at.file, at.at, err)
	}
	var lists [4][]aclRule // denials of users, what they may, and the same of patterns
	subject := "anonymous"
	for i, text := range textLines(data) {
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(text, " ")
		l := &line{file: at.value, at: i + 1, name: name, value: strings.TrimSpace(value)}
		switch name {
		case "user":
			subject = "user " + ruleWord(l.value)
			if strings.Contains(l.value, "*") {
				t.note(Differs, l, "a * in a user's name stands for any characters here")
			}
		case "topic", "pattern":
			r, why := readRule(l, subject)
			if why != "" {
				t.note(Lost, l, "%s", why)
				continue
			}
			place := 0
			if name == "pattern" {
				place = 2
			}
			if strings.HasPrefix(r.words, "allow") {
				place++
			}
			lists[place] = append(lists[place], r)
		default:
			t.note(Lost, l, "want user, topic or pattern")
		}
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Made from %s: the first line that fits decides, and what none names is denied.\n", at.value)
	for _, list := range lists {
		for _, r := range list {
			fmt.Fprintf(&out, "%s by %s on %s\n", r.words, r.subject, ruleWord(r.filter))
			t.out.Rules++
		}
	}
	t.set["auth.acl_file"] = quote(t.file("acl", out.Bytes()))
	t.note(Differs, at, "a subscription is allowed only if all that it can match is: Mosquitto takes every subscription, and leaves out what the client may not read")
	return nil
}

// readRule reads the rest of a topic or pattern line: an access, unless it is left out, and a filter.
func readRule(l *line, subject string) (r aclRule, why string) {
	access, filter, ok := strings.Cut(l.value, " ")
	r = aclRule{words: "allow all", subject: subject, filter: strings.TrimSpace(filter)}
	switch {
	case ok && access == "read":
		r.words = "allow subscribe"
	case ok && access == "write":
		r.words = "allow publish"
	case ok && access == "readwrite":
	case ok && access == "deny":
		r.words = "deny all"
	default:
		r.filter = l.value
	}
	if r.filter == "" {
		return r, "it names no topic"
	}
	if l.name == "topic" {
		r.filter = strings.ReplaceAll(r.filter, "%", "%%")
		return r, ""
	}
	r.subject = "all"
	r.filter = strings.NewReplacer("%c", "%c", "%u", "%u", "%", "%%").Replace(r.filter)
	return r, ""
}

// ruleWord puts a word of a rule in quotes where it needs them.
func ruleWord(s string) string {
	if strings.ContainsAny(s, " \t\"\\") || strings.HasPrefix(s, "#") && s != "#" && !strings.HasPrefix(s, "#/") || s == "on" {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return s
}
