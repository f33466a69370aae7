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
		l.add(0, []byte(topic))
	}
	if len(l.buf) > 2*topicListTidy {
		t.Errorf("%d bytes for %d topics", len(l.buf), len(want))
	}
	l.each(func(_ uint32, topic []byte) { delete(want, string(topic)) })
	if len(want) != 0 {
		t.Errorf("%d are missing", len(want))
	}
}
