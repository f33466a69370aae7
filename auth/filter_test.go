package auth

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/broker"
)

// slowMatch is MQTT's matching, written as the specification says it.
func slowMatch(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i := range f {
		if f[i] == "#" {
			return true
		}
		if i >= len(t) || f[i] != "+" && f[i] != t[i] {
			return false
		}
		if i == len(t)-1 && i == len(f)-2 && f[i+1] == "#" {
			return true
		}
	}
	return len(f) == len(t)
}

// someTopics are all topics of up to four levels over an alphabet with a name that no filter has.
func someTopics() []string {
	var out []string
	names := []string{"a", "b", "z"}
	level := []string{"a", "b", "z", "$S"}
	for range 4 {
		out = append(out, level...)
		var next []string
		for _, t := range level {
			for _, n := range names {
				next = append(next, t+"/"+n)
			}
		}
		level = next
	}
	return out
}

// drawFilter draws a filter of up to three levels.
func drawFilter(t *rapid.T, label string) string {
	n := rapid.IntRange(1, 3).Draw(t, label+" levels")
	var levels []string
	for i := range n {
		names := []string{"a", "b", "+"}
		if i == 0 {
			names = append(names, "$S")
		}
		if i == n-1 {
			names = append(names, "#")
		}
		levels = append(levels, rapid.SampledFrom(names).Draw(t, label))
	}
	return strings.Join(levels, "/")
}

func TestContainmentAndOverlapAreExact(t *testing.T) {
	topics := someTopics()
	id := &broker.Identity{}
	rapid.Check(t, func(t *rapid.T) {
		rf, of := drawFilter(t, "rule"), drawFilter(t, "other")
		f, err := parseFilter(rf)
		if err != nil {
			t.Fatal(err)
		}
		contains, overlaps := true, false
		for _, topic := range topics {
			inRule, inOther := slowMatch(rf, topic), slowMatch(of, topic)
			contains = contains && (!inOther || inRule)
			overlaps = overlaps || inOther && inRule
			if got := f.match(id, []byte(topic), relContains); got != inRule {
				t.Fatalf("%s on topic %s: %v, want %v", rf, topic, got, inRule)
			}
		}
		if got := f.match(id, []byte(of), relContains); got != contains {
			t.Fatalf("%s contains %s: %v, want %v", rf, of, got, contains)
		}
		if got := f.match(id, []byte(of), relOverlaps); got != overlaps {
			t.Fatalf("%s overlaps %s: %v, want %v", rf, of, got, overlaps)
		}
	})
}

// A subscription that is allowed never shows a topic that the same rules deny for the same client.
func TestAllowedSubscriptionMatchesNothingDenied(t *testing.T) {
	topics := someTopics()
	clients := []string{"a", "b", "#", "+", "a/b", "$S", "z"}
	rapid.Check(t, func(t *rapid.T) {
		var file strings.Builder
		for range rapid.IntRange(1, 5).Draw(t, "rules") {
			verb := rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "verb")
			on := drawFilter(t, "on")
			if rapid.Bool().Draw(t, "with client") {
				on = strings.Replace(on, "a", "%c", 1)
			}
			file.WriteString(verb + " all by all on " + on + "\n")
		}
		a, _, err := parseACL("acl", []byte(file.String()))
		if err != nil {
			t.Fatal(err)
		}
		id := &broker.Identity{ClientID: rapid.SampledFrom(clients).Draw(t, "client")}
		f := drawFilter(t, "subscribe")
		if !a.decide(id, broker.ActionSubscribe, []byte(f)) {
			return
		}
		for _, topic := range topics {
			if slowMatch(f, topic) && !a.decide(id, broker.ActionPublish, []byte(topic)) {
				t.Fatalf("client %q may subscribe to %s but not have %s under\n%s", id.ClientID, f, topic, file.String())
			}
		}
	})
}

func TestParseFilterRefuses(t *testing.T) {
	for _, s := range []string{"", "a/#/b", "a+", "a#", "x/%", "x/%d", "a\x00", "$share/g/a", "\xff"} {
		if f, err := parseFilter(s); err == nil {
			t.Errorf("%q was taken as %v", s, f)
		}
	}
}
