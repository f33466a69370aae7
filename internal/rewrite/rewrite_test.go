package rewrite

import (
	"strings"
	"testing"
)

func rules(t *testing.T, list ...[2]string) (rs Rules) {
	t.Helper()
	for _, l := range list {
		r, err := New(Publish|Subscribe, l[0], l[1])
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func TestApply(t *testing.T) {
	rs := rules(t, [2]string{"x/+/y/#", "z/$1/$2"}, [2]string{"x/#", "other/$1"}, [2]string{"swap/+/+", "swapped/$2-$1/$$1/$"},
		[2]string{"plain", "to/plain"}, [2]string{"gone/+", "$1"}, [2]string{"+/all/#", "$2/$1"})
	for topic, want := range map[string]string{
		"x/1/y/2":    "z/1/2",
		"x/1/y/2/3":  "z/1/2/3",
		"x/1/y":      "z/1", // # is not there, and neither is its separator
		"x/1/y/":     "z/1/",
		"x//y/2":     "z//2",
		"x/+/y/#":    "z/+/#", // of a filter
		"x/1/z":      "other/1/z",
		"x":          "other",
		"x/#":        "other/#",
		"swap/a/b":   "swapped/b-a/$a/$",
		"swap/a/#":   "", // wider than the rule
		"swap/a":     "",
		"swap/a/b/c": "",
		"plain":      "to/plain",
		"plain/":     "",
		"gone/a":     "a",
		"gone/":      "", // would be empty
		"a/all/b":    "b/a",
		"a/all":      "/a",
		"$a/all/b":   "", // + does not stand for what begins with $
		"":           "",
		"y":          "",
	} {
		got, ok := rs.Apply([]byte("kept"), []byte(topic), Publish)
		if !ok {
			if want != "" || string(got) != "kept" {
				t.Errorf("%s stays, behind %q, want %q", topic, got, want)
			}
		} else if string(got) != "kept"+want {
			t.Errorf("%s becomes %q, want %q", topic, got, want)
		}
	}
	if _, ok := rs.Apply(nil, []byte("x/"+strings.Repeat("a", lengthMost-2)), Publish); ok {
		t.Error("longer than a topic can be")
	}
	one, err := New(Subscribe, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := (Rules{one}).Apply(nil, []byte("a"), Publish); ok {
		t.Error("a rule for filters rewrites a topic")
	}
}

func TestRefuse(t *testing.T) {
	for _, l := range [][2]string{{"", "a"}, {"a", ""}, {"a/b+", "a"}, {"#/a", "a"}, {"a/##", "a"}, {"a", "a/$1"}, {"+", "$2"}, {"+", "$0"},
		{"+", "a/+"}, {"a", "#"}, {"a\x00", "b"}, {"a", "\xff"}, {"$share/g/a", "b"}, {"$exclusive/a", "b"}, {strings.Repeat("+/", 10), "a"}} {
		if _, err := New(Publish, l[0], l[1]); err == nil {
			t.Errorf("%q to %q is taken", l[0], l[1])
		}
	}
}

func TestNoAllocation(t *testing.T) {
	rs := rules(t, [2]string{"a", "b"}, [2]string{"x/+/y/#", "z/$1/$2"})
	dst, topic := make([]byte, 0, 64), []byte("x/1/y/2/3")
	if n := testing.AllocsPerRun(100, func() { dst, _ = rs.Apply(dst[:0], topic, Publish) }); n != 0 || string(dst) != "z/1/2/3" {
		t.Errorf("%v allocations, %s", n, dst)
	}
}
