//go:build blockcheck

package alloc

import (
	"fmt"
	"strings"
	"testing"
)

type recorder struct{ failed string }

func (*recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) { r.failed += fmt.Sprintf(format, args...) }

func TestLeakReport(t *testing.T) {
	b := NewBlock(10)
	var r recorder
	CheckLeaks(&r)
	if !strings.Contains(r.failed, "alloc.TestLeakReport") || !strings.Contains(r.failed, "leak_test.go") {
		t.Errorf("the report does not name the maker:\n%s", r.failed)
	}
	b.Release()
	r.failed = ""
	if CheckLeaks(&r); r.failed != "" || LiveBlocks() != 0 {
		t.Errorf("%d blocks live after release: %s", LiveBlocks(), r.failed)
	}
}

func TestPoison(t *testing.T) {
	b := NewBlock(10)
	view := b.Bytes()
	b.Release()
	if view[0] != poison {
		t.Errorf("a view of a released block reads %#x", view[0])
	}
	mustPanic(t, "was used", func() { b.Bytes() })
	view[3] = 1
	mustPanic(t, "byte 3 of a released block was written", func() { b.check.reused(b) })
	view[3] = poison
}
