package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The places that are no times: each from the version on that brought it, as Apache Kafka 4 has them; any other is refused for its partition alone.
func TestListOffsetsSpecs(t *testing.T) {
	c := start(t)
	c.topic("t", 1, nil)
	produce(t, c.client(kgo.DefaultProduceTopic("t")), many(5, []byte("v"))...)
	r := c.raw()
	unsupported, invalid := kerr.UnsupportedVersion.Code, kerr.InvalidRequest.Code
	for _, tt := range []struct {
		version int16
		at      int64
		code    int16
		offset  int64
	}{
		{1, -1, 0, 5}, {11, -1, 0, 5}, {1, -2, 0, 0}, {11, -2, 0, 0},
		{6, -3, unsupported, -1}, {7, -3, 0, 0}, {11, -3, 0, 0},
		{7, -4, unsupported, -1}, {8, -4, 0, 0},
		{8, -5, unsupported, -1}, {9, -5, 0, -1},
		{10, -6, unsupported, -1}, {11, -6, 0, -1},
		{11, -7, unsupported, -1}, {11, 0, 0, 0},
	} {
		m := kmsg.NewPtrListOffsetsRequest()
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Timestamp, p.CurrentLeaderEpoch = tt.at, -1
		m.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
		got := r.ask(at(m, tt.version)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
		if got.ErrorCode != tt.code || got.Offset != tt.offset && tt.at != -3 || tt.at == -3 && tt.code == 0 && got.Timestamp <= 0 {
			t.Errorf("version %d, %d: code %d, offset %d, time %d; want code %d, offset %d", tt.version, tt.at, got.ErrorCode, got.Offset, got.Timestamp, tt.code,
				tt.offset)
		}
	}
	m := kmsg.NewPtrListOffsetsRequest()
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp, p.CurrentLeaderEpoch = -1, -1
	m.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{p, p}}}
	for _, got := range r.ask(at(m, 11)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
		if got.ErrorCode != invalid {
			t.Errorf("a partition that is asked for twice: code %d", got.ErrorCode)
		}
	}
}

// From version 1 on a member of a consumer group names itself.
func TestMembersNameThemselves(t *testing.T) {
	c := start(t)
	c.topic("t", 1, nil)
	r := c.raw()
	for version, want := range map[int16]int16{0: 0, 1: kerr.InvalidRequest.Code} {
		m := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		m.Group, m.RebalanceTimeoutMillis, m.SubscribedTopicNames, m.Topics = "g", 1000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if got := r.ask(at(m, version)).(*kmsg.ConsumerGroupHeartbeatResponse); got.ErrorCode != want {
			t.Errorf("version %d without a member id: code %d, want %d", version, got.ErrorCode, want)
		}
	}
}
