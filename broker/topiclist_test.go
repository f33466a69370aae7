package broker

import (
	"fmt"
	"testing"
)

// Every topic that was added comes, and a topic that is added for ever does not fill the memory.
func TestTopicList(t *testing.T) {
	var l topicList
	want := make(map[string]bool)
	for i := range 200_000 {
		topic := fmt.Sprintf("site/%d/%s", i%7, "always the same few topics")
		if i%1000 == 0 {
			topic = fmt.Sprintf("rare/%d", i)
		}
		want[topic] = true
		l.add([]byte(topic))
	}
	if len(l.buf) > 2*topicListTidy {
		t.Errorf("%d bytes for %d topics", len(l.buf), len(want))
	}
	l.each(func(topic []byte) { delete(want, string(topic)) })
	if len(want) != 0 {
		t.Errorf("%d are missing", len(want))
	}
}

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
	if !r.load(b, []byte("c"), []byte(row)) {
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
