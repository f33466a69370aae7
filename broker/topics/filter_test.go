package topics

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// rules are the examples of MQTT 4.7, and the corners between them.
var rules = []struct {
	filter, topic string
	match         bool
}{
	{"sport/tennis/player1/#", "sport/tennis/player1", true},
	{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
	{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
	{"sport/tennis/player1/#", "sport/tennis/player10", false},
	{"sport/#", "sport", true},
	{"sport/#", "sport/", true},
	{"sport/#", "sports", false},
	{"#", "a", true},
	{"#", "/", true},
	{"#", "a/b/c", true},
	{"sport/tennis/+", "sport/tennis/player1", true},
	{"sport/tennis/+", "sport/tennis/player1/ranking", false},
	{"sport/+", "sport", false},
	{"sport/+", "sport/", true},
	{"+", "a", true},
	{"+", "/finance", false},
	{"+/+", "/finance", true},
	{"/+", "/finance", true},
	{"+/tennis/#", "sport/tennis", true},
	{"+/tennis/#", "/tennis/x", true},
	{"sport/+/player1", "sport/tennis/player1", true},
	{"sport/+/player1", "sport//player1", true},
	{"sport/+/player1", "sport/tennis/player2", false},
	{"+/#", "a", true},
	{"+/#", "a/b", true},
	{"#", "$SYS/x", false},
	{"+/monitor/Clients", "$SYS/monitor/Clients", false},
	{"+/#", "$SYS/x", false},
	{"$SYS/#", "$SYS/", true},
	{"$SYS/#", "$SYS", true},
	{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
	{"$SYS/a", "$SYS/a", true},
	{"a/+", "a/$b", true},
	{"a/#", "a/$b", true},
	{"ACCOUNTS", "Accounts", false},
	{"Accounts payable", "Accounts payable", true},
	{"/", "/", true},
	{"a", "/a", false},
	{"/a", "a", false},
	{"a/", "a", false},
	{"a//b", "a/b", false},
	{"a/b", "a/b", true},
	{"a/b", "a/b/c", false},
	{"\u00c5/+", "A\u030a/x", false},
	{"\u00c5", "A\u030a", false},
	{"\ufeffa", "a", false},
}

// TestRules asks the pure function, the index and the retained index the same.
//
// Conformance: MQTT-4.7.2-1 (3.1.1, 5.0), MQTT-4.7.3-4 (3.1.1, 5.0).
func TestRules(t *testing.T) {
	for _, r := range rules {
		filter, topic := []byte(r.filter), []byte(r.topic)
		if got := FilterMatches(filter, topic); got != r.match {
			t.Errorf("FilterMatches(%q, %q) = %v", filter, topic, got)
		}
		x := New(Options{})
		if _, _, err := x.Subscribe(1, nil, filter, Entry{Subscriber: 1}); err != nil {
			t.Fatalf("%q: %v", filter, err)
		}
		var m Matches
		if x.Match(1, topic, &m); (len(m.Filters) == 1) != r.match {
			t.Errorf("index: %q, %q: %v", filter, topic, m.Filters)
		}
		if x.Match(2, topic, &m); len(m.Filters) != 0 {
			t.Errorf("index: %q matched for another tenant", filter)
		}
		p := NewRetained(RetainedOptions{})
		if _, err := p.Put(1, topic, 7); err != nil {
			t.Fatalf("%q: %v", topic, err)
		}
		for tenant, want := range map[uint32]bool{0: false, 1: r.match, 2: false} {
			if got := matchAll(p, tenant, r.filter, 10); (len(got) == 1) != want {
				t.Errorf("retained: tenant %d: %q, %q: %v", tenant, filter, topic, got)
			}
		}
	}
}

// TestCheckTopic refuses what is no topic name.
//
// Conformance: MQTT-4.7.1-1 (3.1.1), MQTT-4.7.0-1 (5.0), MQTT-4.7.3-1 (3.1.1, 5.0), MQTT-4.7.3-2 (3.1.1, 5.0),
// Conformance: MQTT-4.7.3-3 (3.1.1, 5.0).
func TestCheckTopic(t *testing.T) {
	for topic, want := range map[string]error{
		"a": nil, "/": nil, " ": nil, "$SYS/a": nil, strings.Repeat("a", 65535): nil,
		"": ErrEmpty, strings.Repeat("a", 65536): ErrTooLong, "a\x00": ErrNull, "a/+": ErrWildcard, "a+": ErrWildcard,
		"#": ErrWildcard, "a/b#": ErrWildcard,
	} {
		if got := CheckTopic([]byte(topic)); !errors.Is(got, want) {
			t.Errorf("%.20q: %v, want %v", topic, got, want)
		}
		if _, err := NewRetained(RetainedOptions{}).Put(0, []byte(topic), 1); !errors.Is(err, want) {
			t.Errorf("Put %.20q: %v, want %v", topic, err, want)
		}
	}
}

// TestCheckFilter refuses what is no topic filter.
//
// Conformance: MQTT-4.7.1-2 (3.1.1), MQTT-4.7.1-1 (5.0), MQTT-4.7.1-3 (3.1.1), MQTT-4.7.1-2 (5.0)
// Conformance: MQTT-4.7.3-1 (3.1.1, 5.0), MQTT-4.7.3-2 (3.1.1, 5.0), MQTT-4.7.3-3 (3.1.1, 5.0).
func TestCheckFilter(t *testing.T) {
	for filter, want := range map[string]error{
		"a": nil, "/": nil, "+": nil, "#": nil, "+/+": nil, "/+/": nil, "+/#": nil, "a/+/b/#": nil, "/#": nil,
		"": ErrEmpty, strings.Repeat("a", 65536): ErrTooLong, "a\x00": ErrNull,
		"a#": ErrWildcardPlace, "#/a": ErrWildcardPlace, "a/#/b": ErrWildcardPlace, "##": ErrWildcardPlace, "a+": ErrWildcardPlace,
		"+a": ErrWildcardPlace, "a/+b/c": ErrWildcardPlace, "++": ErrWildcardPlace, "+#": ErrWildcardPlace, "#/": ErrWildcardPlace,
		"sport/tennis#": ErrWildcardPlace, "sport/tennis/#/ranking": ErrWildcardPlace, "sport+": ErrWildcardPlace,
	} {
		if got := CheckFilter([]byte(filter)); !errors.Is(got, want) {
			t.Errorf("%.20q: %v, want %v", filter, got, want)
		}
		if _, _, err := New(Options{}).Subscribe(0, nil, []byte(filter), Entry{}); !errors.Is(err, want) {
			t.Errorf("Subscribe %.20q: %v, want %v", filter, err, want)
		}
	}
}

// TestSplitShared cuts $share/{group}/{filter}.
//
// Conformance: MQTT-4.8.2-1 (5.0), MQTT-4.8.2-2 (5.0)
func TestSplitShared(t *testing.T) {
	for full, want := range map[string]struct {
		group, filter string
		err           error
	}{
		"$share/g/a/b":  {"g", "a/b", nil},
		"$share/g//":    {"g", "/", nil},
		"$share/g/#":    {"g", "#", nil},
		"a/b":           {"", "a/b", nil},
		"$sharex/g/a":   {"", "$sharex/g/a", nil},
		"$share":        {"", "$share", nil},
		"$share/":       {"", "", ErrShare},
		"$share//a":     {"", "", ErrShare},
		"$share/g":      {"", "", ErrShare},
		"$share/g/":     {"", "", ErrShare},
		"$share/g+/a":   {"", "", ErrShare},
		"$share/#/a":    {"", "", ErrShare},
		"$share/g/$S/#": {"g", "$S/#", nil},
	} {
		group, filter, err := SplitShared([]byte(full))
		if string(group) != want.group || string(filter) != want.filter || !errors.Is(err, want.err) {
			t.Errorf("%q: %q, %q, %v", full, group, filter, err)
		}
		if err == nil && (group == nil) != (want.group == "") {
			t.Errorf("%q: group %v", full, group)
		}
	}
}

func TestLimits(t *testing.T) {
	x := New(Options{MaxLevels: 4, MaxLength: 10})
	for filter, want := range map[string]error{
		"a/b/c/d": nil, "+/+/+/+": nil, "a/b/c/d/e": ErrTooManyLevels, "////": ErrTooManyLevels, "aaaaaaaaaa": nil,
		"aaaaaaaaaaa": ErrTooLong,
	} {
		if _, _, err := x.Subscribe(0, nil, []byte(filter), Entry{}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", filter, err, want)
		}
	}
	if _, err := NewRetained(RetainedOptions{MaxLevels: 2}).Put(0, []byte("a/b/c"), 1); !errors.Is(err, ErrTooManyLevels) {
		t.Errorf("Put: %v", err)
	}
	deep := bytes.Repeat([]byte("/"), 32000)
	if _, _, err := New(Options{}).Subscribe(0, nil, deep, Entry{}); !errors.Is(err, ErrTooManyLevels) {
		t.Errorf("32,000 levels: %v", err)
	}
}

// FuzzFilter compares the three ways to match on any filter and topic.
func FuzzFilter(f *testing.F) {
	for _, r := range rules {
		f.Add([]byte(r.filter), []byte(r.topic))
	}
	f.Add([]byte("a/+b"), []byte("a\x00"))
	f.Fuzz(func(t *testing.T, filter, topic []byte) {
		x := New(Options{})
		id, _, err := x.Subscribe(3, nil, filter, Entry{Subscriber: 9})
		p := NewRetained(RetainedOptions{})
		_, topicErr := p.Put(3, topic, 1)
		if err == nil {
			if _, _, back := x.Filter(id); !bytes.Equal(back, filter) {
				t.Fatalf("%q came back as %q", filter, back)
			}
		}
		if err != nil || topicErr != nil {
			return
		}
		want := FilterMatches(filter, topic)
		var m Matches
		if x.Match(3, topic, &m); (len(m.Filters) == 1) != want {
			t.Errorf("index: %q, %q: %v", filter, topic, !want)
		}
		if got := matchAll(p, 3, string(filter), 1); (len(got) == 1) != want {
			t.Errorf("retained: %q, %q: %v", filter, topic, !want)
		}
		if _, ok := x.Unsubscribe(3, nil, filter, 9); !ok {
			t.Errorf("%q is lost", filter)
		}
		checkEmpty(t, x)
	})
}
