package kafka

import (
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// A session knows what the client has named and not taken back, with a map of its partitions or without one.
func TestFetchSessionParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b"}
	type key struct {
		topic string
		index int32
	}
	model := make(map[key]int64)
	var s fetchSession
	for round := range 300 {
		req := kmsg.NewPtrFetchRequest()
		req.Version = 12
		most := 5 + round%4*20
		topics := make([]kmsg.FetchRequestTopic, len(names))
		forgotten := make([]kmsg.FetchRequestForgottenTopic, len(names))
		for i, name := range names {
			topics[i], forgotten[i] = kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestForgottenTopic()
			topics[i].Topic, forgotten[i].Topic = name, name
			for index := range int32(40) {
				k := key{name, index}
				switch _, has := model[k]; {
				case has && rng.IntN(100) < most: // what is forgotten is not named
					forgotten[i].Partitions = append(forgotten[i].Partitions, index)
					delete(model, k)
				case rng.IntN(100) < 15:
					p := kmsg.NewFetchRequestTopicPartition()
					p.Partition, p.FetchOffset, p.PartitionMaxBytes = index, rng.Int64N(1000), 1
					topics[i].Partitions = append(topics[i].Partitions, p)
					model[k] = p.FetchOffset
				}
			}
		}
		req.Topics, req.ForgottenTopics = topics, forgotten
		m, err := wire.DecodeFetchRequest(req.AppendTo(nil), 12)
		if err != nil {
			t.Fatal(err)
		}
		s.forget(&m)
		s.update(&m, 12)
		if len(s.parts) != len(model) {
			t.Fatalf("round %d: %d partitions, want %d", round, len(s.parts), len(model))
		}
		if (s.place != nil) != (len(s.parts) > placesMin) && len(s.place) != len(s.parts) {
			t.Fatalf("round %d: %d partitions, a map of %d", round, len(s.parts), len(s.place))
		}
		for i := range s.parts {
			p := &s.parts[i]
			if at, ok := model[key{p.name, p.index}]; !ok || at != p.offset || s.find(&p.partKey) != i {
				t.Fatalf("round %d: %s/%d at %d, want %d, %v; found at %d of %d", round, p.name, p.index, p.offset, at, ok, s.find(&p.partKey), i)
			}
		}
	}
}
