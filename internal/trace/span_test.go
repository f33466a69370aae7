package trace

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const parentText = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestContext(t *testing.T) {
	c, ok := ParseContext([]byte(parentText))
	if !ok || !c.Sampled || c.Trace[0] != 0x4b || c.Trace[15] != 0x36 || c.Span[7] != 0xb7 || string(c.Append(nil)) != parentText {
		t.Errorf("%v, %v", c, ok)
	}
	for text, want := range map[string]bool{
		strings.TrimSuffix(parentText, "01") + "00":                              true,
		strings.Replace(parentText, "00-", "01-", 1) + "-more":                   true, // of a version to come
		strings.Replace(parentText, "00-", "ff-", 1):                             false,
		strings.Replace(parentText, "00-", "01-", 1) + "more":                    false,
		parentText + "-more":                                                     false,
		parentText[:54]:                                                          false,
		strings.Replace(parentText, "4bf", "4BF", 1):                             false,
		strings.Replace(parentText, "4bf", "4xf", 1):                             false,
		"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01":                 false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-" + strings.Repeat("0", 16) + "-01": false,
		strings.ReplaceAll(parentText, "-", "_"):                                 false,
		"":                                                                       false,
	} {
		c, ok := ParseContext([]byte(text))
		if ok != want || !ok && c != (Context{}) {
			t.Errorf("%q: %v, %v", text, c, ok)
		}
	}
}

func FuzzContext(f *testing.F) {
	f.Add([]byte(parentText))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := ParseContext(b); ok {
			if again, ok := ParseContext(c.Append(nil)); !ok || again != c {
				t.Errorf("%q: %v, then %v", b, c, again)
			}
		}
	})
}

// spansAt is a Spans whose clock stands still.
func spansAt(o SpanOptions) (*Spans, *time.Time) {
	at := time.Unix(1000, 0)
	o.Now, o.Counts = func() time.Time { return at }, &SpanCounts{}
	return NewSpans(o), &at
}

func TestSampling(t *testing.T) {
	parent, _ := ParseContext([]byte(parentText))
	s, at := spansAt(SpanOptions{Ratio: 1, PerSecond: 3, Queue: 100})
	begun := func(parent Context) (n int) {
		for range 10 {
			if sp := s.Begin(parent); sp != nil {
				sp.Drop()
				n++
			}
		}
		return n
	}
	if a, b := begun(parent), begun(Context{}); a != 3 || b != 3 {
		t.Errorf("in a second: %d whose publisher asks for it, %d others", a, b)
	}
	if got := s.Counts().Limited.Load(); got != 14 {
		t.Errorf("%d counted", got)
	}
	*at = at.Add(334 * time.Millisecond)
	if a := begun(parent); a != 1 {
		t.Errorf("a third of a second later: %d", a)
	}
	*at = at.Add(time.Hour)
	if a := begun(parent); a != 3 {
		t.Errorf("after an hour: %d", a)
	}
	unsampled := parent
	unsampled.Sampled = false
	if begun(unsampled) != 0 || s.Deliver(unsampled) != nil || s.Deliver(Context{}) != nil {
		t.Error("what is not sampled is traced")
	}
	given := 0
	for range 100 {
		if sp := s.Deliver(parent); sp != nil {
			given++
			sp.Drop()
		}
	}
	if given != 3*deliveriesFor {
		t.Errorf("%d deliveries", given)
	}
	if none, _ := spansAt(SpanOptions{Ratio: 0, PerSecond: 1000, Queue: 1}); none.Begin(Context{}) != nil {
		t.Error("a ratio of 0")
	}
	some, _ := spansAt(SpanOptions{Ratio: 0.5, PerSecond: 100_000, Queue: 1})
	n := 0
	for range 1000 {
		if sp := some.Begin(Context{}); sp != nil {
			sp.Drop()
			n++
		}
	}
	if n < 300 || n > 700 {
		t.Errorf("a ratio of 0.5: %d of 1000", n)
	}
}

func TestSpanIDs(t *testing.T) {
	parent, _ := ParseContext([]byte(parentText))
	s, _ := spansAt(SpanOptions{Ratio: 1, PerSecond: 10, Queue: 10})
	child, root := s.Begin(parent), s.Begin(Context{})
	if child.Trace != parent.Trace || child.Parent != parent.Span || child.Span == parent.Span || !child.Sampled {
		t.Errorf("%+v", child)
	}
	if root.Trace == (ID{}) || root.Trace == parent.Trace || root.Parent != (SpanID{}) || root.Span == (SpanID{}) {
		t.Errorf("%+v", root)
	}
}

func TestSpanBounds(t *testing.T) {
	s, _ := spansAt(SpanOptions{Ratio: 1, PerSecond: 1000, Queue: 2})
	a, b := s.Begin(Context{}), s.Begin(Context{})
	if s.Begin(Context{}) != nil || s.Counts().Full.Load() != 1 {
		t.Error("one more is open than may be")
	}
	a.Finish("")
	b.Finish(strings.Repeat("x", 1000))
	if s.Begin(Context{}) != nil {
		t.Error("one more waits than may")
	}
	if s.Waiting() != 2 || s.Counts().Full.Load() != 2 {
		t.Errorf("%d wait, %d lost", s.Waiting(), s.Counts().Full.Load())
	}
	if got := s.Take(nil, 1); len(got) != 1 || got[0] != a {
		t.Errorf("%v", got)
	}
	if got := s.Take(nil, 10); len(got) != 1 || got[0] != b || len(b.Failed) > textMax+len("…") {
		t.Errorf("%v", got)
	}
	s.Close()
	if d := s.Begin(Context{}); d == nil {
		t.Error("no room after all have ended")
	} else if d.Finish(""); s.Waiting() != 0 {
		t.Error("it is closed, and something waits")
	}
}

// TestExport: loops hear of spans as they do of probes, and with them a message that no probe is about has a number.
func TestExport(t *testing.T) {
	l := newLoops(2)
	s, _ := spansAt(SpanOptions{Ratio: 1, PerSecond: 1, Queue: 1})
	l.t.Export(s)
	if l.have[0].Spans() != s || l.have[1].Spans() != s {
		t.Fatal("a loop has not heard of it")
	}
	a := l.have[0].Number(0)
	if a.Number() == 0 || a.Asked() || l.have[0].Number(a) != a || l.have[1].Number(0) == a {
		t.Errorf("%x", a)
	}
	stream, err := l.t.Open(Probe{Client: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if m := l.have[0].Mark(0, l.have[0].Wants(0, "c", netip.Addr{}, nil, nil), a); m.Number() != a.Number() || !m.Asked() || l.have[0].Spans() != s {
		t.Errorf("%x with a probe", m)
	}
	l.t.Export(nil)
	if l.have[0] == nil || l.have[0].Spans() != nil {
		t.Error("a probe is left, and no spans")
	}
	stream.Close()
	if l.have[0] != nil {
		t.Error("nobody asks any more")
	}
}
