package wire

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// An answer that is built in parts is the one that is built at once, in every version.
func TestCreatedTopicsInParts(t *testing.T) {
	first, last := apis[CreateTopics].min, apis[CreateTopics].max
	for version := first; version <= last; version++ {
		for _, topics := range []int{0, 1, 130, 20_000} { // counts of one byte to three
			whole := kmsg.NewPtrCreateTopicsResponse()
			whole.ThrottleMillis = 77
			for i := range topics {
				topic := kmsg.NewCreateTopicsResponseTopic()
				topic.Topic, topic.ErrorCode, topic.NumPartitions = fmt.Sprint("topic-", i), int16(i%3), int32(i)
				if i%2 == 0 {
					topic.ErrorMessage = kmsg.StringPtr("no")
					topic.Configs = []kmsg.CreateTopicsResponseTopicConfig{{Name: "a", Value: kmsg.StringPtr("b")}}
				}
				whole.Topics = append(whole.Topics, topic)
			}
			c := Call{Key: CreateTopics, Version: version, CorrelationID: 9}
			before := []byte("before")
			var b CreatedTopics
			b.Begin(before, c, topics)
			for at, n := 0, 1; at < topics; at, n = at+n, n*7 {
				n = min(n, topics-at)
				b.Append(whole.Topics[at : at+n])
			}
			if got, want := b.Finish(77), AppendMessage(before, c, whole); !bytes.Equal(got, want) {
				t.Errorf("version %d, %d topics: %d bytes, want %d", version, topics, len(got), len(want))
			}
		}
	}
}
