package broker

import (
	"fmt"
	"testing"
)

// A retained message is noted for the checkpoint once until that has it, however often it changes; what was loaded or is not kept never is.
func TestRetainedIsNotedOnce(t *testing.T) {
	b := New(Options{})
	defer b.Close()
	r := b.retained
	say := func(topic, payload string) bool {
		return r.keep(0, &Message{Topic: []byte(topic), Payload: []byte(payload)}, b)
	}
	save := func(topic string) string { return string(r.encode(nil, 0, []byte(topic))) }
	var got []bool
	got = append(got, say("a", "1"), say("a", "2"), say("b", "1")) // new, changed, new
	row := save("a")
	got = append(got, say("a", "3"), say("a", "4")) // changed since, again
	got = append(got, say("a", ""), say("a", ""))   // cleared while it is noted; cleared when nothing is there: the checkpoint may have it
	if !r.load(b, 0, []byte("c"), []byte(row)) {
		t.Fatal("a row does not load")
	}
	got = append(got, say("c", "5")) // loaded, changed
	save("c")
	got = append(got, say("c", "")) // cleared
	r.put(0, &Message{Topic: []byte("d"), Payload: []byte("x")}, b)
	got = append(got, say("d", "1"))
	want := []bool{true, false, true, true, false, false, true, true, true, true}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A live subscription whose filter matches no retained message leaves nothing behind; one whose match is far away gets it all the same.
func TestRetainedIsLookedForFirst(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, live("p")), tb.connect(0, live("s"))
	for i := range 100 {
		p.retain(1, fmt.Sprintf("x/%03d/y", i), "no")
	}
	p.retain(1, "x/099/z", "far")
	p.retain(1, "plain", "near")
	errs := make([]error, 1)
	for _, filter := range []string{"none", "none/+/a", "y/#", "x/+/+/+"} {
		if _, err := s.l.Subscribe(s.c, []SubscribeRequest{{Filter: []byte(filter)}}, errs, 1); err != nil || errs[0] != nil {
			t.Fatal(err, errs)
		}
		if filter != "x/+/+/+" && len(s.c.jobs()) != 0 { // whether that one matches takes more than a look
			t.Errorf("%s leaves a job", filter)
		}
	}
	tb.pump()
	check(t, "nothing matches", s.payloads(), []string(nil))
	s.subscribe(1, "x/+/z", "plain")
	check(t, "far and near", s.payloads(), []string{"far", "near"})
}
