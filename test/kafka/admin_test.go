package kafka

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

// What a partition has on the disk is told with the directory that it lies in, and partitions can be moved to no other.
func TestLogDirs(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.topic("big", 2, nil)
	c.topic("empty", 1, nil)
	produce(t, c.client(kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner())),
		&kgo.Record{Topic: "big", Partition: 1, Value: make([]byte, 100_000)})
	dirs, err := c.admin().DescribeAllLogDirs(ctx, nil)
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	var path string
	for _, list := range dirs {
		for _, d := range list {
			if path = d.Dir; !filepath.IsAbs(path) {
				t.Errorf("directory %q", path)
			}
			full, _ := d.Topics.Lookup("big", 1)
			for _, at := range []struct {
				topic     string
				partition int32
			}{{"big", 0}, {"empty", 0}} {
				if p, ok := d.Topics.Lookup(at.topic, at.partition); !ok || p.Size != 0 {
					t.Errorf("%v: %v, %d bytes", at, ok, p.Size)
				}
			}
			if full.Size < 100_000 || full.Size > 110_000 {
				t.Errorf("a partition of 100,000 bytes has %d", full.Size)
			}
		}
	}
	ask := kmsg.NewPtrDescribeLogDirsRequest()
	ask.Version = 4
	if d := c.raw().ask(ask).(*kmsg.DescribeLogDirsResponse).Dirs[0]; d.TotalBytes < d.UsableBytes || d.UsableBytes <= 0 {
		t.Errorf("a volume of %d bytes, %d to be had", d.TotalBytes, d.UsableBytes)
	}
	one, err := c.admin().DescribeBrokerLogDirs(ctx, 1, kadm.TopicsSet{"big": {1: {}}, "none": {0: {}}})
	if d := one[path]; err != nil || len(d.Topics) != 1 || len(d.Topics["big"]) != 1 {
		t.Errorf("of one partition: %v, %v", one, err)
	}
	for dir, want := range map[string]string{path: "[{big 0 0} {big 9 3}]", "/elsewhere": "[{big 0 57} {big 9 57}]"} {
		m := kmsg.NewPtrAlterReplicaLogDirsRequest()
		m.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Dir: dir, Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "big", Partitions: []int32{0, 9}}}}}
		m.Version = 2
		var got []struct {
			topic     string
			partition int32
			code      int16
		}
		for _, topic := range c.raw().ask(m).(*kmsg.AlterReplicaLogDirsResponse).Topics {
			for _, p := range topic.Partitions {
				got = append(got, struct {
					topic     string
					partition int32
					code      int16
				}{topic.Topic, p.Partition, p.ErrorCode})
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("to %s: %v, want %s", dir, got, want)
		}
	}
}

// A node that is alone is its own quorum, takes its features at their one level, and moves no partition.
func TestLoneNode(t *testing.T) {
	c := start(t)
	c.topic("t", 1, nil)
	r := c.raw()
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.Version, versions.ClientSoftwareName, versions.ClientSoftwareVersion = 4, "raw", "1"
	var levels []string
	for _, f := range r.ask(versions).(*kmsg.ApiVersionsResponse).FinalizedFeatures {
		levels = append(levels, fmt.Sprintf("%s=%d", f.Name, f.MaxVersionLevel))
	}
	if want := []string{"group.version=1", "transaction.version=2"}; !slices.Equal(levels, want) {
		t.Errorf("features %v, want %v", levels, want)
	}
	for level, want := range map[int16]int16{2: 0, 1: 95, 3: 95} {
		m := kmsg.NewPtrUpdateFeaturesRequest()
		m.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "transaction.version", MaxVersionLevel: level, UpgradeType: 1}}
		m.Version = 2
		if got := r.ask(m).(*kmsg.UpdateFeaturesResponse).ErrorCode; got != want {
			t.Errorf("level %d: %d, want %d", level, got, want)
		}
	}
	q := kmsg.NewPtrDescribeQuorumRequest()
	q.Version = 2
	q.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: "__cluster_metadata", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}, {Partition: 1}}}}
	quorum := r.ask(q).(*kmsg.DescribeQuorumResponse)
	if p := quorum.Topics[0].Partitions; p[0].LeaderID != 1 || p[0].HighWatermark < 1 || len(p[0].CurrentVoters) != 1 || p[1].ErrorCode != 3 {
		t.Errorf("quorum %+v", p)
	}
	if at := quorum.Nodes[0].Listeners[0]; fmt.Sprintf("%s:%d", at.Host, at.Port) != c.addr || at.Name != "PLAINTEXT" {
		t.Errorf("voter at %+v", at)
	}
	for _, test := range []struct {
		replicas []int32
		want     int16
	}{{[]int32{1}, 0}, {[]int32{1, 2}, 39}, {nil, 85}} {
		m := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		m.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Replicas: test.replicas}}}}
		if got := r.ask(m).(*kmsg.AlterPartitionAssignmentsResponse).Topics[0].Partitions[0].ErrorCode; got != test.want {
			t.Errorf("replicas %v: %d, want %d", test.replicas, got, test.want)
		}
	}
	list := kmsg.NewPtrListConfigResourcesRequest()
	list.Version = 1
	if got := r.ask(list).(*kmsg.ListConfigResourcesResponse).ConfigResources; len(got) != 2 || got[0].Name != "t" || got[1].Name != "1" {
		t.Errorf("resources %v", got)
	}
}

// The topic of groups' offsets is there from the first group on, empty, internal and written to by nobody.
func TestOffsetsTopic(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r := c.admin().FindGroupCoordinators(ctx, "g"); r.Error() != nil {
		t.Fatal(r.Error())
	}
	testx.Eventually(t, patience, func() bool {
		topics, err := c.admin().ListTopicsWithInternal(ctx)
		return err == nil && slices.Equal(topics.Names(), []string{"__consumer_offsets"}) && topics["__consumer_offsets"].IsInternal
	}, "the topic is there")
	err := c.client().ProduceSync(ctx, &kgo.Record{Topic: "__consumer_offsets", Value: []byte("x")}).FirstErr()
	if err == nil {
		t.Error("it was written to")
	}
}

// A transaction that hangs on a partition is ended there by who administers it (KIP-664).
func TestWriteTxnMarkers(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.topic("t", 1, nil)
	cl := c.client(kgo.TransactionalID("x"))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, cl, &kgo.Record{Topic: "t", Value: []byte("x")})
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stable := func() int64 {
		offsets, err := c.admin().ListCommittedOffsets(ctx, "t")
		if err != nil {
			t.Fatal(err)
		}
		o, _ := offsets.Lookup("t", 0)
		return o.Offset
	}
	r := c.raw()
	mark := func(epoch int16) int16 {
		m := kmsg.NewPtrWriteTxnMarkersRequest()
		m.Version = 1
		m.Markers = []kmsg.WriteTxnMarkersRequestMarker{{ProducerID: id, ProducerEpoch: epoch, Topics: []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{0, 7}}}}}
		p := r.ask(m).(*kmsg.WriteTxnMarkersResponse).Markers[0].Topics[0].Partitions
		if p[1].ErrorCode != 3 {
			t.Errorf("a partition that is not there: %d", p[1].ErrorCode)
		}
		return p[0].ErrorCode
	}
	if got := mark(epoch - 1); got != 47 || stable() != 0 {
		t.Errorf("a marker of an earlier epoch: %d, stable up to %d", got, stable())
	}
	if got := mark(epoch); got != 0 || stable() != 2 {
		t.Errorf("a marker: %d, stable up to %d", got, stable())
	}
	if got := mark(epoch); got != 0 || stable() != 2 {
		t.Errorf("a second one: %d, stable up to %d", got, stable())
	}
	_ = cl.EndTransaction(ctx, kgo.TryAbort)
}
