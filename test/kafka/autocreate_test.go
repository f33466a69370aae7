package kafka

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/test/common"
)

// Who names more topics than a node makes at once has the first ones, and is told to ask again for the others.
func TestTopicsAreMadeInTurns(t *testing.T) {
	const most, named = 1000, 2300
	b := common.Start(t, t.TempDir(), "listeners.kafka.tcp=127.0.0.1:0")
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Listeners["kafka.tcp"]))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, want := range []int{most, 2 * most, named} {
		req := kmsg.NewPtrMetadataRequest()
		req.AllowAutoTopicCreation = true
		for i := range named {
			topic := kmsg.NewMetadataRequestTopic()
			topic.Topic = kmsg.StringPtr(fmt.Sprint("t", i))
			req.Topics = append(req.Topics, topic)
		}
		answer, err := cl.SeedBrokers()[0].Request(t.Context(), req) // once: the client itself asks again
		if err != nil {
			t.Fatal(err)
		}
		resp := answer.(*kmsg.MetadataResponse)
		made := 0
		for _, topic := range resp.Topics {
			switch topic.ErrorCode {
			case 0:
				made++
			case kerr.LeaderNotAvailable.Code:
			default:
				t.Fatalf("%s: %v", *topic.Topic, kerr.ErrorForCode(topic.ErrorCode))
			}
		}
		if made != want || len(resp.Topics) != named {
			t.Fatalf("%d of %d topics are there, want %d of %d", made, len(resp.Topics), want, named)
		}
	}
}
