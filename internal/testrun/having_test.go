package main

import (
	"slices"
	"strings"
	"testing"
)

func TestHaving(t *testing.T) {
	got, err := having("Havin/any", []string{"./..."})
	if err != nil || len(got) != 1 || !strings.HasSuffix(got[0], "internal/testrun") {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := having("NoneIsCalledSo", []string{"."}); err == nil {
		t.Errorf("%v", got)
	}
	if _, err := having("(", []string{"."}); err == nil {
		t.Error("a broken expression is taken")
	}
	all, err := having("Alloc|Budget|Mutant", []string{"../../..."})
	if err != nil || len(all) < 5 || !slices.ContainsFunc(all, func(p string) bool { return strings.HasSuffix(p, "/perf") }) {
		t.Errorf("%v, %v", all, err)
	}
}
