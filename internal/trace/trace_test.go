package trace

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// loops is what a node's loops would have.
type loops struct {
	t    *Tracer
	at   time.Time
	have []*Loop
}

func newLoops(n int) *loops {
	l := &loops{at: time.Unix(1000, 0), have: make([]*Loop, n)}
	l.t = New(n, func() time.Time { l.at = l.at.Add(time.Microsecond); return l.at })
	for i := range n {
		l.t.Attach(i, func(to *Loop) { l.have[i] = to })
	}
	return l
}

// publishes is what a protocol does with a message.
func (l *Loop) publishes(ms int64, client string, at netip.Addr, topic, label []byte) Mark {
	if probes := l.Wants(0, client, at, topic, label); probes != 0 {
		return l.Mark(ms, probes, 0)
	}
	return 0
}

func TestProbes(t *testing.T) {
	l := newLoops(1)
	if l.have[0] != nil {
		t.Fatal("a loop has something though nobody asks")
	}
	open := func(p Probe) *Stream {
		t.Helper()
		s, err := l.t.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	client, topic := open(Probe{Client: "c"}), open(Probe{Topic: func(b []byte) bool { return string(b) == "t" }})
	address, label := open(Probe{Address: netip.MustParsePrefix("10.0.0.0/8")}), open(Probe{Label: "x"})
	streams := []*Stream{client, topic, address, label}
	near, far := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("11.1.2.3")
	for _, tt := range []struct {
		client, topic, label string
		addr                 netip.Addr
		want                 string // a letter for each stream
	}{
		{"c", "u", "", far, "y..."}, {"d", "t", "", far, ".y.."}, {"d", "u", "", near, "..y."}, {"d", "u", "x", far, "...y"}, {"c", "t", "x", near, "yyyy"},
		{"d", "u", "y", far, "...."}, {"", "", "", netip.Addr{}, "...."},
	} {
		m := l.have[0].publishes(0, tt.client, tt.addr, []byte(tt.topic), []byte(tt.label))
		l.have[0].Add(m, Event{Kind: Received, Text: Text(tt.topic)})
		got := ""
		for _, s := range streams {
			if list, _ := s.Read(); len(list) == 1 && list[0].Text == tt.topic && list[0].Mark.Number() != 0 {
				got += "y"
			} else if len(list) == 0 {
				got += "."
			} else {
				t.Errorf("%v", list)
			}
		}
		if got != tt.want {
			t.Errorf("%+v: %s, want %s", tt, got, tt.want)
		}
	}
	one := l.have[0].publishes(0, "d", far, []byte("t"), nil)
	both := l.have[0].Mark(0, l.have[0].Wants(0, "c", far, nil, nil), one)
	if one.Number() != both.Number() || one.probes() != 1<<1 || both.probes() != 1<<1|1 {
		t.Errorf("%x, %x", one, both)
	}
	for range ProbesMax - 1 - len(streams) {
		streams = append(streams, open(Probe{Client: "x"}))
	}
	if _, err := l.t.Open(Probe{Client: "c"}); err == nil {
		t.Error("one probe too many")
	}
	for _, s := range streams {
		s.Close()
	}
	if l.have[0] != nil || l.t.Armed() != 0 {
		t.Error("nobody asks any more, and a loop has something")
	}
}

func TestOrderOfLoops(t *testing.T) {
	l := newLoops(3)
	s, err := l.t.Open(Probe{Client: "c"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := l.have[0].publishes(0, "c", netip.Addr{}, nil, nil)
	for i := range 30 {
		l.have[i%3].Add(m, Event{Kind: Sent, Seq: uint64(i)})
	}
	list, lost := s.Read()
	for i := range list {
		if list[i].Seq != uint64(i) {
			t.Fatalf("%d is at %d", list[i].Seq, i)
		}
	}
	if len(list) != 30 || lost != 0 {
		t.Errorf("%d, %d lost", len(list), lost)
	}
	if list, _ := s.Read(); len(list) != 0 {
		t.Errorf("again: %v", list)
	}
}

func TestBounds(t *testing.T) {
	l := newLoops(1)
	s, err := l.t.Open(Probe{Client: "c"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := l.have[0].publishes(0, "c", netip.Addr{}, nil, nil)
	l.at = time.Unix(2000, 0)
	for range eventsPerSecond + 10 {
		l.have[0].Add(m, Event{Kind: Sent})
	}
	if list, lost := s.Read(); len(list) != eventsPerSecond || lost != 10 {
		t.Errorf("a second: %d, %d lost", len(list), lost)
	}
	if m := l.have[0].publishes(2000_500, "c", netip.Addr{}, nil, nil); m != 0 {
		t.Errorf("a message in a second that has had its events: %x", m)
	}
	if _, lost := s.Read(); lost != 1 {
		t.Errorf("a message: %d lost", lost)
	}
	if m := l.have[0].publishes(2001_000, "c", netip.Addr{}, nil, nil); m == 0 {
		t.Error("the next second")
	}
	for i := range 3 { // a reader that comes too late
		l.at = time.Unix(int64(3000+i), 0)
		for range eventsPerSecond {
			l.have[0].Add(m, Event{Kind: Sent})
		}
	}
	if list, lost := s.Read(); len(list) != ringEvents || lost != 3*eventsPerSecond-ringEvents {
		t.Errorf("too late: %d, %d lost", len(list), lost)
	}
	if got := Text(strings.Repeat("x", 1000)); len(got) != textMax+len("…") {
		t.Errorf("a text of %d bytes", len(got))
	}
}

func TestFindByLabel(t *testing.T) {
	l := newLoops(2)
	l.t.Standing(true)
	l.t.Standing(true)
	if l.t.Armed() != 1 {
		t.Fatal(l.t.Armed())
	}
	a, b := l.have[0].publishes(0, "p", netip.Addr{}, []byte("t"), []byte("a")), l.have[0].publishes(0, "p", netip.Addr{}, []byte("t"), []byte("b"))
	if none := l.have[0].publishes(0, "p", netip.Addr{}, []byte("t"), nil); none != 0 {
		t.Errorf("without the property: %x", none)
	}
	l.have[0].Add(a, Event{Kind: Received, Label: "a"})
	l.have[0].Add(b, Event{Kind: Received, Label: "b"})
	l.have[1].Add(a, Event{Kind: Sent})
	l.have[0].Remember(a, 3, 77)
	if l.have[1].Of(3, 77) != a || l.have[1].Of(3, 78) != 0 || l.have[1].Of(4, 77) != 0 {
		t.Error("by its place in the log")
	}
	l.t.Standing(false)
	if l.have[0] != nil {
		t.Error("nobody asks any more")
	}
	list, n := l.t.Find(func(e *Event) bool { return e.Label == "a" })
	if n != 1 || len(list) != 2 || list[0].Kind != Received || list[1].Kind != Sent {
		t.Errorf("%d: %v", n, list)
	}
}

// TestConcurrent is for the race detector, and counts.
func TestConcurrent(t *testing.T) {
	tr := New(2, time.Now)
	var mu sync.Mutex
	var have [2]*Loop
	for i := range have {
		tr.Attach(i, func(l *Loop) { mu.Lock(); have[i] = l; mu.Unlock() })
	}
	s, err := tr.Open(Probe{Client: "c"})
	if err != nil {
		t.Fatal(err)
	}
	var w sync.WaitGroup
	for i := range have {
		l := have[i]
		w.Go(func() {
			for range 500 {
				l.Add(l.publishes(0, "c", netip.Addr{}, nil, nil), Event{Kind: Sent})
			}
		})
	}
	got := 0
	for range 10 {
		list, _ := s.Read()
		got += len(list)
	}
	w.Wait()
	list, lost := s.Read()
	if got += len(list); got != 1000 || lost != 0 {
		t.Errorf("%d, %d lost", got, lost)
	}
	s.Close()
}

// TestPlaceOfAnother: a trace that has the place of one that is gone sees nothing of the messages which that one was about, others see theirs.
func TestPlaceOfAnother(t *testing.T) {
	l := newLoops(1)
	open := func(client string) *Stream {
		t.Helper()
		s, err := l.t.Open(Probe{Client: client})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, stays := open("a"), open("b")
	defer stays.Close()
	before := l.have[0]
	m := before.Mark(0, first.bit()|stays.bit(), 0)
	mine := before.Mark(0, first.bit(), 0)
	before.Remember(m, 1, 10)
	before.Remember(mine, 1, 11)
	epoch := before.Epoch()
	first.Close()
	if l.have[0].Epoch() == epoch {
		t.Error("what is in flight is still taken for known")
	}
	before.Remember(mine, 1, 12) // it has not heard of it
	second := open("c")
	for second.probe != first.probe {
		second.Close()
		second = open("c")
	}
	defer second.Close()
	for seq, want := range map[uint64]uint8{10: stays.bit(), 11: 0, 12: 0} {
		if got := l.have[0].Of(1, seq); got.probes() != want || (want != 0) != (got.Number() == m.Number()) {
			t.Errorf("%d: %x, want probes %b", seq, got, want)
		}
	}
}

func (s *Stream) bit() uint8 { return 1 << s.probe }

// TestLastFree: the place that became free last is taken last.
func TestLastFree(t *testing.T) {
	l := newLoops(1)
	seen := make(map[int]bool)
	for range ProbesMax - 1 {
		s, err := l.t.Open(Probe{Client: "c"})
		if err != nil || seen[s.probe] {
			t.Fatal(s, err)
		}
		seen[s.probe] = true
		s.Close()
	}
}
