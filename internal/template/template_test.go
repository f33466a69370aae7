package template

import (
	"strings"
	"testing"
)

func TestTemplate(t *testing.T) {
	for text, want := range map[string]string{"%c": "id", "a%cb%%%u/%t": "aidb%me/x/y", "plain": "plain", "%%c": "%c", "%c%c": "idid"} {
		tp, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, whole := tp.Append([]byte("before"), "id", "me", []byte("x/y")); string(got) != "before"+want || !whole {
			t.Errorf("%q makes %q, %t", text, got, whole)
		}
	}
	for _, text := range []string{"", "%", "a%", "%x", "%C", "a\x00", "\xff", strings.Repeat("x", MaxBytes+1)} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%.10q is taken", text)
		}
	}
	for _, text := range []string{"%u", "x%u", "%c%u"} {
		tp, _ := Parse(text)
		if got, whole := tp.Append(nil, "id", "", nil); whole {
			t.Errorf("%q makes %q of a client without a user", text, got)
		}
	}
	tp, _ := Parse("%c%c")
	if _, whole := tp.Append(nil, strings.Repeat("x", MaxBytes/2+1), "", nil); whole {
		t.Error("a text is as long as it likes")
	}
	buf := make([]byte, 0, 100)
	if n := testing.AllocsPerRun(100, func() { buf, _ = tp.Append(buf[:0], "id", "me", nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
