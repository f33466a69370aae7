package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// BenchmarkFetchSession is what one partition costs in a request that moves a session of 100 partitions on: decoded, found, noted.
func BenchmarkFetchSession(b *testing.B) {
	const partitions = 100
	r := kmsg.NewPtrFetchRequest()
	r.Version, r.ReplicaID, r.SessionID, r.SessionEpoch = 11, -1, 7, 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = "measurements"
	for i := range int32(partitions) {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = i, int64(1000+i), 1<<20, -1
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	body := r.AppendTo(nil)
	var s fetchSession
	b.ReportAllocs()
	for n := 0; n < b.N; n += partitions {
		m, err := wire.DecodeFetchRequest(body, r.Version)
		if err != nil {
			b.Fatal(err)
		}
		s.update(&m, r.Version)
		if len(s.parts) != partitions || s.parts[partitions-1].offset != 1099 {
			b.Fatalf("%+v", s.parts)
		}
	}
}
