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

// Whoever has waited longest is next, however many partitions an answer has room for, and whether a client leaves out those whose records it has
// buffered and names them again, as Kafka's does, or keeps all: none starves.
func TestFetchSessionTurns(t *testing.T) {
	const partitions = 40
	for _, room := range []int{1, 3, 7, 39} { // partitions that have records in an answer
		for name, away := range map[string]int{"all stay": 0, "left out once": 1, "left out thrice": 3} {
			var s fetchSession
			add := make([]int32, 0, partitions)
			for i := range int32(partitions) {
				add = append(add, i)
			}
			served := make([]int, partitions) // the round before which each had its last turn
			back := map[int][]int32{}         // round -> those that are named again
			for round := 1; round < 400; round++ {
				add = append(add, back[round]...)
				s.update(named(t, add, nil), 12)
				add = add[:0]
				var had []int32
				for k := range min(room, len(s.parts)) {
					p := &s.parts[(s.first%len(s.parts)+k)%len(s.parts)]
					had = append(had, p.index)
				}
				for _, index := range had {
					// It waits for all others, and is away itself.
					if waited := round - served[index]; waited > partitions/room+2+away {
						t.Fatalf("%s, room for %d: in round %d partition %d has waited for %d rounds", name, room, round, index, waited)
					}
					served[index] = round
					part := &fetchPart{sessionPart: &s.parts[s.find(&partKey{"t", wire.UUID{}, index})], place: int32(s.find(&partKey{"t", wire.UUID{}, index}))}
					part.read.Bytes = 1
					s.answered(part)
				}
				if away > 0 {
					s.forget(named(t, nil, had))
					back[round+away] = had
				}
			}
			for index, last := range served {
				if 400-last > partitions/room+3+away {
					t.Errorf("%s, room for %d: partition %d had its last turn in round %d of 400", name, room, index, last)
				}
			}
		}
	}
}

// named is a request that names partitions of t, and forgets some.
func named(t *testing.T, parts, forgotten []int32) *wire.FetchRequest {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version = 12
	if len(parts) > 0 {
		topic := kmsg.NewFetchRequestTopic()
		topic.Topic = "t"
		for _, index := range parts {
			p := kmsg.NewFetchRequestTopicPartition()
			p.Partition, p.PartitionMaxBytes = index, 1
			topic.Partitions = append(topic.Partitions, p)
		}
		req.Topics = append(req.Topics, topic)
	}
	if len(forgotten) > 0 {
		topic := kmsg.NewFetchRequestForgottenTopic()
		topic.Topic, topic.Partitions = "t", forgotten
		req.ForgottenTopics = append(req.ForgottenTopics, topic)
	}
	m, err := wire.DecodeFetchRequest(req.AppendTo(nil), 12)
	if err != nil {
		t.Fatal(err)
	}
	return &m
}
