package kafka

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

const (
	leaderAt   = 0 // places of nodes
	followerAt = 1
)

// ledTrio has node 1 lead and node 2 follow, and the topic "t" of two partitions.
func ledTrio(t *testing.T) *trio {
	t.Helper()
	tr := newTrio(t, 2, 0)
	tr.lead(leaderAt)
	tr.topic("t", 2)
	return tr
}

func expect(t *testing.T, what string, got int16, want wire.ErrorCode) {
	t.Helper()
	if wire.ErrorCode(got) != want {
		t.Errorf("%s: %s, want %s", what, wire.ErrorCode(got), want)
	}
}

// TestReplicasAreNamed: every node names all of them that are up, and who leads.
func TestReplicasAreNamed(t *testing.T) {
	tr := ledTrio(t)
	epoch := tr.nodes[0].View().All.Epoch
	for i := range tr.nodes {
		for _, version := range []int16{1, 5, 9, 13} {
			m := kmsg.NewPtrMetadataRequest()
			m.Version = version
			resp := tr.raw(i).ask(m).(*kmsg.MetadataResponse)
			if len(resp.Brokers) != 2 || resp.Brokers[0].NodeID != 1 || resp.Brokers[1].Port != tr.nodes[1].addr.Port || *resp.Brokers[1].Rack != "r1" || resp.ControllerID != 1 {
				t.Errorf("node %d, version %d: %+v, controller %d", i+1, version, resp.Brokers, resp.ControllerID)
			}
			at := slices.IndexFunc(resp.Topics, func(t kmsg.MetadataResponseTopic) bool { return *t.Topic == "t" })
			p := resp.Topics[at].Partitions[1]
			if p.Leader != 1 || version >= 7 && p.LeaderEpoch != epoch || !slices.Equal(p.Replicas, []int32{1, 2, 3}) || !slices.Equal(p.ISR, []int32{1, 2}) || version >= 5 && !slices.Equal(p.OfflineReplicas, []int32{3}) {
				t.Errorf("node %d, version %d: %+v", i+1, version, p)
			}
		}
		dc := tr.raw(i).ask(kmsg.NewPtrDescribeClusterRequest()).(*kmsg.DescribeClusterResponse)
		if len(dc.Brokers) != 2 || dc.ControllerID != 1 || dc.Brokers[1].NodeID != 2 {
			t.Errorf("node %d: %+v", i+1, dc)
		}
		all := &kmsg.DescribeClusterRequest{Version: 2, EndpointType: 1, IncludeFencedBrokers: true}
		if dc = tr.raw(i).ask(all).(*kmsg.DescribeClusterResponse); len(dc.Brokers) != 3 || dc.Brokers[1].IsFenced || !dc.Brokers[2].IsFenced || dc.Brokers[2].NodeID != 3 {
			t.Errorf("node %d: %+v", i+1, dc)
		}
		dp := kmsg.NewPtrDescribeTopicPartitionsRequest()
		dp.ResponsePartitionLimit = 10
		dp.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "t"}}
		p := tr.raw(i).ask(dp).(*kmsg.DescribeTopicPartitionsResponse).Topics[0].Partitions[1]
		if p.LeaderID != 1 || p.LeaderEpoch != epoch || !slices.Equal(p.ISR, []int32{1, 2}) || !slices.Equal(p.OfflineReplicas, []int32{3}) {
			t.Errorf("node %d: %+v", i+1, p)
		}
		for _, version := range []int16{2, 4} {
			c := coordinator(tr, i, version)
			if c.NodeID != 1 || c.Port != tr.nodes[0].addr.Port || c.ErrorCode != 0 {
				t.Errorf("node %d, version %d: %+v", i+1, version, c)
			}
		}
	}
	tr.resign()
	for i := range tr.nodes {
		resp := tr.raw(i).ask(kmsg.NewPtrMetadataRequest()).(*kmsg.MetadataResponse)
		at := slices.IndexFunc(resp.Topics, func(t kmsg.MetadataResponseTopic) bool { return *t.Topic == "t" })
		p := resp.Topics[at].Partitions[0]
		expect(t, "a partition without a leader", p.ErrorCode, wire.LeaderNotAvailable)
		if p.Leader != -1 || resp.ControllerID != -1 || len(resp.Brokers) != 2 {
			t.Errorf("node %d without a leader: %+v, controller %d", i+1, p, resp.ControllerID)
		}
		expect(t, "a coordinator that is not there", coordinator(tr, i, 4).ErrorCode, wire.CoordinatorNotAvailable)
	}
}

func coordinator(tr *trio, i int, version int16) kmsg.FindCoordinatorResponseCoordinator {
	m := kmsg.NewPtrFindCoordinatorRequest()
	m.Version, m.CoordinatorKey, m.CoordinatorKeys = version, "g", []string{"g"}
	resp := tr.raw(i).ask(m).(*kmsg.FindCoordinatorResponse)
	if version < 4 {
		return kmsg.FindCoordinatorResponseCoordinator{NodeID: resp.NodeID, Host: resp.Host, Port: resp.Port, ErrorCode: resp.ErrorCode}
	}
	return resp.Coordinators[0]
}

// oneBatch is a batch of one record, of an idempotent producer if id is not -1.
func oneBatch(value string, id int64, epoch int16, sequence int32) []byte {
	var b record.BatchBuilder
	b.Begin(nil, time.Now().UnixMilli())
	b.Append(&record.Input{Value: []byte(value), Timestamp: time.Now().UnixMilli()})
	o := record.BatchOptions{}
	if id >= 0 {
		o.Producer = record.Producer{Known: true, ID: id, Epoch: epoch, Sequence: sequence}
	}
	return b.Finish(&o)
}

func produceTo(tr *trio, version, acks int16, timeout time.Duration, records []byte) *kmsg.ProduceRequest {
	m := kmsg.NewPtrProduceRequest()
	m.Version, m.Acks, m.TimeoutMillis = version, acks, int32(timeout.Milliseconds())
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = records
	m.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", TopicID: tr.nodes[0].b.Topic(0, "t").ID(), Partitions: []kmsg.ProduceRequestTopicPartition{p}}}
	return m
}

func produced(r *raw, m *kmsg.ProduceRequest) (kmsg.ProduceResponseTopicPartition, *kmsg.ProduceResponse) {
	resp := r.ask(m).(*kmsg.ProduceResponse)
	return resp.Topics[0].Partitions[0], resp
}

func fetchFrom(tr *trio, version int16, offset int64, epoch int32, wait time.Duration) *kmsg.FetchRequest {
	m := kmsg.NewPtrFetchRequest()
	m.Version, m.MaxWaitMillis, m.MinBytes, m.MaxBytes, m.SessionEpoch = version, int32(wait.Milliseconds()), 1, 1<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = offset, epoch, 1<<20
	m.Topics = []kmsg.FetchRequestTopic{{Topic: "t", TopicID: tr.nodes[0].b.Topic(0, "t").ID(), Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return m
}

func fetched(r *raw, m *kmsg.FetchRequest) (kmsg.FetchResponseTopicPartition, *kmsg.FetchResponse) {
	resp := r.ask(m).(*kmsg.FetchResponse)
	return resp.Topics[0].Partitions[0], resp
}

// TestFollowerSendsAway: who asks a node that does not lead for a partition is told where the leader is.
func TestFollowerSendsAway(t *testing.T) {
	tr := ledTrio(t)
	epoch := tr.nodes[0].View().All.Epoch
	r := tr.raw(followerAt)
	for _, version := range []int16{3, 9, 10, 12, 13} {
		p, resp := produced(r, produceTo(tr, version, -1, time.Second, oneBatch("a", -1, 0, 0)))
		expect(t, "produce", p.ErrorCode, wire.NotLeaderOrFollower)
		if version >= 10 && (p.CurrentLeader.LeaderID != 1 || p.CurrentLeader.LeaderEpoch != epoch || len(resp.Brokers) != 1 || resp.Brokers[0].Port != tr.nodes[0].addr.Port) {
			t.Errorf("produce, version %d: %+v %+v", version, p.CurrentLeader, resp.Brokers)
		}
	}
	for _, version := range []int16{4, 11, 12, 16, 18} {
		p, resp := fetched(r, fetchFrom(tr, version, 0, -1, 0))
		expect(t, "fetch", p.ErrorCode, wire.NotLeaderOrFollower)
		if version >= 12 && (p.CurrentLeader.LeaderID != 1 || p.CurrentLeader.LeaderEpoch != epoch) || version >= 16 && (len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 1) {
			t.Errorf("fetch, version %d: %+v %+v", version, p.CurrentLeader, resp.Brokers)
		}
	}
	expect(t, "list offsets", listed(r, "t", -1, -1).ErrorCode, wire.NotLeaderOrFollower)
	expect(t, "offset for leader epoch", epochEnd(r, "t", 0, -1).ErrorCode, wire.NotLeaderOrFollower)

	dp := kmsg.NewPtrDescribeProducersRequest()
	dp.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	expect(t, "describe producers", r.ask(dp).(*kmsg.DescribeProducersResponse).Topics[0].Partitions[0].ErrorCode, wire.NotLeaderOrFollower)
	dr := kmsg.NewPtrDeleteRecordsRequest()
	dr.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{}}}}
	expect(t, "delete records", r.ask(dr).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode, wire.NotLeaderOrFollower)

	if err := r.send(produceTo(tr, 9, 0, time.Second, oneBatch("a", -1, 0, 0))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.receive(kmsg.NewPtrProduceRequest(), patience); err == nil {
		t.Error("acks=0 at a follower is answered")
	}
}

func listed(r *raw, topic string, at int64, epoch int32) kmsg.ListOffsetsResponseTopicPartition {
	m := kmsg.NewPtrListOffsetsRequest()
	m.Version = 7
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp, p.CurrentLeaderEpoch = at, epoch
	m.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
	return r.ask(m).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
}

func epochEnd(r *raw, topic string, epoch, current int32) kmsg.OffsetForLeaderEpochResponseTopicPartition {
	m := kmsg.NewPtrOffsetForLeaderEpochRequest()
	m.Version = 3
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.LeaderEpoch, p.CurrentLeaderEpoch = epoch, current
	m.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}}}
	return r.ask(m).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
}

// TestFollowerCoordinatesNothing: who asks a node that does not lead for a group, a transaction or a change of topics is told that it has none.
func TestFollowerCoordinatesNothing(t *testing.T) {
	tr := ledTrio(t)
	r := tr.raw(followerAt)
	parts := []int32{0}
	offsets := []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{}}}}
	txn := "x"
	change := "1"
	for _, ask := range []struct {
		req  kmsg.Request
		want wire.ErrorCode
	}{
		{&kmsg.JoinGroupRequest{Version: 5, Group: "g", SessionTimeoutMillis: 10000, RebalanceTimeoutMillis: 10000, ProtocolType: "consumer", Protocols: []kmsg.JoinGroupRequestProtocol{{Name: "range"}}}, wire.NotCoordinator},
		{&kmsg.SyncGroupRequest{Version: 3, Group: "g", MemberID: "m"}, wire.NotCoordinator},
		{&kmsg.HeartbeatRequest{Version: 3, Group: "g", MemberID: "m"}, wire.NotCoordinator},
		{&kmsg.LeaveGroupRequest{Version: 4, Group: "g", Members: []kmsg.LeaveGroupRequestMember{{MemberID: "m"}}}, wire.NotCoordinator},
		{&kmsg.OffsetCommitRequest{Version: 8, Group: "g", Generation: -1, Topics: offsets}, wire.NotCoordinator},
		{&kmsg.OffsetFetchRequest{Version: 5, Group: "g"}, wire.NotCoordinator},
		{&kmsg.OffsetFetchRequest{Version: 8, Groups: []kmsg.OffsetFetchRequestGroup{{Group: "g"}}}, wire.NotCoordinator},
		{&kmsg.DescribeGroupsRequest{Version: 5, Groups: []string{"g"}}, wire.NotCoordinator},
		{&kmsg.DeleteGroupsRequest{Version: 2, Groups: []string{"g"}}, wire.NotCoordinator},
		{&kmsg.OffsetDeleteRequest{Group: "g", Topics: []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}}}, wire.NotCoordinator},
		{&kmsg.ConsumerGroupHeartbeatRequest{Group: "g", MemberID: "m", SubscribedTopicNames: []string{"t"}, RebalanceTimeoutMillis: 10000, Topics: []kmsg.ConsumerGroupHeartbeatRequestTopic{}}, wire.NotCoordinator},
		{&kmsg.ConsumerGroupDescribeRequest{Groups: []string{"g"}}, wire.NotCoordinator},
		{&kmsg.InitProducerIDRequest{Version: 4, TransactionalID: &txn, TransactionTimeoutMillis: 10000, ProducerID: -1, ProducerEpoch: -1}, wire.NotCoordinator},
		{&kmsg.AddPartitionsToTxnRequest{Version: 3, TransactionalID: txn, Topics: []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "t", Partitions: parts}}}, wire.NotCoordinator},
		{&kmsg.AddOffsetsToTxnRequest{Version: 3, TransactionalID: txn, Group: "g"}, wire.NotCoordinator},
		{&kmsg.EndTxnRequest{Version: 3, TransactionalID: txn}, wire.NotCoordinator},
		{&kmsg.TxnOffsetCommitRequest{Version: 3, TransactionalID: txn, Group: "g", Generation: -1, Topics: []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{}}}}}, wire.NotCoordinator},
		{&kmsg.DescribeTransactionsRequest{TransactionalIDs: []string{txn}}, wire.NotCoordinator},
		{&kmsg.CreateTopicsRequest{Version: 5, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "u", NumPartitions: 1, ReplicationFactor: 1}}}, wire.NotController},
		{&kmsg.DeleteTopicsRequest{Version: 4, TopicNames: []string{"t"}}, wire.NotController},
		{&kmsg.CreatePartitionsRequest{Version: 2, Topics: []kmsg.CreatePartitionsRequestTopic{{Topic: "t", Count: 9}}}, wire.NotController},
	} {
		got := make(map[int16]bool)
		codes(reflect.ValueOf(r.ask(ask.req)), got)
		if len(got) != 1 || !got[int16(ask.want)] {
			t.Errorf("%s version %d: %v, want %s", kmsg.Key(ask.req.Key()).Name(), ask.req.GetVersion(), got, ask.want)
		}
	}
	for i, req := range []kmsg.Request{ // the leader is asked for these: Kafka's tools do not go on to another node
		&kmsg.AlterConfigsRequest{Version: 1, Resources: []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: &change}}}}},
		&kmsg.IncrementalAlterConfigsRequest{Resources: []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: &change}}}}},
	} {
		got := make(map[int16]bool)
		codes(reflect.ValueOf(r.ask(req)), got)
		if asked := tr.altered.Load(); len(got) != 0 || asked != int32(i+1) {
			t.Errorf("%s: %v, and the leader was asked %d times", kmsg.Key(req.Key()).Name(), got, asked)
		}
	}
	groups := r.ask(kmsg.NewPtrListGroupsRequest()).(*kmsg.ListGroupsResponse)
	if groups.ErrorCode != 0 || len(groups.Groups) != 0 {
		t.Errorf("groups of a follower: %+v", groups)
	}
	if tr.nodes[1].b.Topic(0, "t") == nil || tr.nodes[0].b.Topic(0, "u") != nil {
		t.Error("a follower has changed topics")
	}
}

// TestLeaderEpochs: who believes in another leader's epoch is told so; where an epoch's records end, the leader knows of all that were before it; batches
// bear the epoch in which they were written.
func TestLeaderEpochs(t *testing.T) {
	tr := ledTrio(t)
	var ends []int64 // of epochs 1, 2, 3, of which the second has no records
	for e := range 3 {
		if e > 0 {
			tr.lead(e % 2)
		}
		r := tr.raw(e % 2)
		for range e * 5 % 3 {
			if p, _ := produced(r, produceTo(tr, 9, -1, patience, oneBatch("a", -1, 0, 0))); p.ErrorCode != 0 {
				t.Fatal(wire.ErrorCode(p.ErrorCode))
			}
		}
		ends = append(ends, listed(r, "t", -1, -1).Offset)
	}
	if !slices.Equal(ends, []int64{0, 2, 3}) {
		t.Fatalf("ends %v", ends)
	}
	r := tr.raw(0)
	for _, c := range []struct {
		epoch int32
		want  wire.ErrorCode
	}{{-1, 0}, {3, 0}, {2, wire.FencedLeaderEpoch}, {4, wire.UnknownLeaderEpoch}} {
		p, _ := fetched(r, fetchFrom(tr, 12, 0, c.epoch, 0))
		expect(t, "fetch", p.ErrorCode, c.want)
		if known := p.CurrentLeader.LeaderID == 1; known != (c.want == wire.FencedLeaderEpoch) {
			t.Errorf("epoch %d: the leader is told: %v", c.epoch, known)
		}
		expect(t, "list offsets", listed(r, "t", -1, c.epoch).ErrorCode, c.want)
		expect(t, "offset for leader epoch", epochEnd(r, "t", 1, c.epoch).ErrorCode, c.want)
	}
	for _, c := range []struct {
		epoch, of int32
		end       int64
	}{{1, 1, 0}, {2, 2, 2}, {3, 3, 3}, {4, -1, -1}, {-1, -1, -1}, {0, 0, 0}} {
		if p := epochEnd(r, "t", c.epoch, 3); p.LeaderEpoch != c.of || p.EndOffset != c.end {
			t.Errorf("epoch %d ends with %d at %d, want %d at %d", c.epoch, p.LeaderEpoch, p.EndOffset, c.of, c.end)
		}
	}
	if p := listed(r, "t", -1, 3); p.LeaderEpoch != 3 {
		t.Errorf("the end is of epoch %d", p.LeaderEpoch)
	}
	p, _ := fetched(r, fetchFrom(tr, 12, 0, 3, 0))
	var epochs []record.Epoch
	for b := p.RecordBatches; len(b) > 0; {
		batch, n, err := record.ParseBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		epochs, b = append(epochs, batch.LeaderEpoch()), b[n:]
	}
	if !slices.Equal(epochs, []record.Epoch{2, 2, 3}) {
		t.Errorf("batches of epochs %v", epochs)
	}
}

// TestAcksOfReplicas: acks=1 waits for the leader alone, acks=all for all that are in sync, and for no longer than the client says; nobody reads what
// they do not have; what is sent again is stored once.
func TestAcksOfReplicas(t *testing.T) {
	tr := ledTrio(t)
	r := tr.raw(leaderAt)
	tr.hold(true)
	if p, _ := produced(r, produceTo(tr, 9, 1, patience, oneBatch("a", -1, 0, 0))); p.ErrorCode != 0 || p.BaseOffset != 0 {
		t.Fatalf("acks=1: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
	}
	p, _ := produced(r, produceTo(tr, 9, -1, 50*time.Millisecond, oneBatch("b", 77, 0, 0)))
	expect(t, "acks=all without a follower", p.ErrorCode, wire.RequestTimedOut)
	f, _ := fetched(r, fetchFrom(tr, 12, 0, -1, 0))
	if f.HighWatermark != 0 || f.LastStableOffset != 0 || len(f.RecordBatches) != 0 || f.ErrorCode != 0 {
		t.Errorf("what is not committed is shown: %+v", f)
	}
	if end := listed(r, "t", -1, -1).Offset; end != 0 {
		t.Errorf("it ends at %d", end)
	}
	tr.hold(false)
	if p, _ = produced(r, produceTo(tr, 9, -1, patience, oneBatch("b", 77, 0, 0))); p.ErrorCode != 0 || p.BaseOffset != 1 {
		t.Errorf("sent again: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
	}
	// The next leader knows it, too.
	tr.lead(followerAt)
	r = tr.raw(followerAt)
	if p, _ = produced(r, produceTo(tr, 9, -1, patience, oneBatch("b", 77, 0, 0))); p.ErrorCode != 0 || p.BaseOffset != 1 {
		t.Errorf("sent again to the next leader: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
	}
	if p, _ = produced(r, produceTo(tr, 9, -1, patience, oneBatch("c", 77, 0, 1))); p.ErrorCode != 0 || p.BaseOffset != 2 {
		t.Errorf("the next: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
	}
	expectCode, _ := produced(r, produceTo(tr, 9, -1, patience, oneBatch("e", 77, 0, 5)))
	expect(t, "a gap in the sequence", expectCode.ErrorCode, wire.OutOfOrderSequenceNumber)
}

// TestRequestsAwaitALeader: while nobody leads, and while the next leader begins, requests for a leader wait, and then are answered by it, or with where
// it is; those that any node answers do not wait.
func TestRequestsAwaitALeader(t *testing.T) {
	tr := newTrio(t, 2, patience)
	tr.lead(leaderAt)
	tr.topic("t", 1)
	tr.resign()
	m := produceTo(tr, 10, -1, patience, oneBatch("a", -1, 0, 0))
	old, next := tr.raw(leaderAt), tr.raw(followerAt)
	for _, r := range []*raw{old, next} {
		if err := r.send(m); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "a coordinator while nobody leads", coordinator(tr, followerAt, 4).ErrorCode, wire.CoordinatorNotAvailable)
	tr.lead(followerAt)
	got, err := next.receive(m, patience)
	if err != nil {
		t.Fatal(err)
	}
	if p := got.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != 0 {
		t.Errorf("the next leader: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
	}
	if got, err = old.receive(m, patience); err != nil {
		t.Fatal(err)
	}
	if p := got.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; wire.ErrorCode(p.ErrorCode) != wire.NotLeaderOrFollower || p.CurrentLeader.LeaderID != 2 {
		t.Errorf("the old leader: %s, %+v", wire.ErrorCode(p.ErrorCode), p.CurrentLeader)
	}
}

// TestTooFewInSync: with fewer replicas in sync than the cluster or the topic wants, acks=all is refused before anything is stored, and so is what a
// coordinator would have to store; acks=1 is not.
func TestTooFewInSync(t *testing.T) {
	tr := ledTrio(t)
	r := tr.raw(leaderAt)
	commit := &kmsg.OffsetCommitRequest{Version: 8, Group: "g", Generation: -1, Topics: []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 0}}}}}
	txn := "x"
	begin := &kmsg.InitProducerIDRequest{Version: 4, TransactionalID: &txn, TransactionTimeoutMillis: 10000, ProducerID: -1, ProducerEpoch: -1}
	try := func(what string, produce, coordinator wire.ErrorCode) {
		t.Helper()
		p, _ := produced(r, produceTo(tr, 9, -1, patience, oneBatch("a", -1, 0, 0)))
		expect(t, what+": acks=all", p.ErrorCode, produce)
		expect(t, what+": commit", r.ask(commit).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode, coordinator)
		expect(t, what+": begin", r.ask(begin).(*kmsg.InitProducerIDResponse).ErrorCode, coordinator)
	}
	try("two of three", wire.None, wire.None)
	tr.inSync(1)
	try("one of three", wire.NotEnoughReplicas, wire.CoordinatorNotAvailable)
	if p, _ := produced(r, produceTo(tr, 9, 1, patience, oneBatch("a", -1, 0, 0))); p.ErrorCode != 0 || p.BaseOffset != 1 {
		t.Errorf("acks=1: %s at %d: what was refused is stored", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
	}
	tr.inSync(2)
	configured := make(chan error, 1)
	tr.leading().b.ConfigureTopic(tr.leading().b.Topic(0, "t"), func([]broker.Setting) ([]broker.Setting, error) {
		return []broker.Setting{{Key: "min.insync.replicas", Value: "3"}}, nil
	}, func(_ *broker.TopicSpec, err error) { configured <- err })
	if err := <-configured; err != nil {
		t.Fatal(err)
	}
	try("a topic that wants three", wire.NotEnoughReplicas, wire.None)
}

// TestTooFewInSyncSince: what is stored and waits for replicas is answered when there are too few of them, and so is what is committed by fewer than its topic
// wants; what is sent again is stored once. acks=1 and topics that want fewer wait for what they wait for.
func TestTooFewInSyncSince(t *testing.T) {
	tr := ledTrio(t)
	r, other := tr.raw(leaderAt), tr.raw(leaderAt)
	configured := make(chan error, 1)
	tr.leading().b.ConfigureTopic(tr.leading().b.Topic(0, "t"), func([]broker.Setting) ([]broker.Setting, error) {
		return []broker.Setting{{Key: "min.insync.replicas", Value: "2"}}, nil
	}, func(_ *broker.TopicSpec, err error) { configured <- err })
	if err := <-configured; err != nil {
		t.Fatal(err)
	}
	stored := func(n record.Offset) {
		t.Helper()
		p := tr.leading().b.Topic(0, "t").Partition(0).ID()
		testx.Eventually(t, patience, func() bool { return tr.leading().log.log.LogEnd(p) >= n }, "the leader's log has it")
	}
	send := func(r *raw, m kmsg.Request) {
		t.Helper()
		if err := r.send(m); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(r *raw, m kmsg.Request) kmsg.ProduceResponseTopicPartition {
		t.Helper()
		got, err := r.receive(m, patience)
		if err != nil {
			t.Fatal(err)
		}
		return got.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	}
	first, second := produceTo(tr, 9, -1, patience, oneBatch("a", 77, 0, 0)), produceTo(tr, 9, -1, patience, oneBatch("b", 77, 0, 1))
	tr.hold(true)
	send(r, first)
	send(r, second)
	stored(2)
	tr.inSync(1)
	for _, m := range []*kmsg.ProduceRequest{first, second} {
		if p := answer(r, m); wire.ErrorCode(p.ErrorCode) != wire.NotEnoughReplicasAfterAppend || p.BaseOffset != -1 {
			t.Errorf("fewer than it waits for: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
		}
	}
	tr.inSync(2)
	send(r, first)
	last := produceTo(tr, 9, -1, patience, oneBatch("c", -1, 0, 0))
	send(other, last)
	stored(3)
	n := tr.leading()
	v := *n.View()
	v.All.ISR = v.All.ISR[:1]
	n.view.Store(&v) // and nobody has told the door
	tr.hold(false)
	expect(t, "committed by fewer than the topic wants", answer(other, last).ErrorCode, wire.NotEnoughReplicasAfterAppend)
	expect(t, "sent again, by fewer yet", answer(r, first).ErrorCode, wire.NotEnoughReplicasAfterAppend)
	tr.inSync(2)
	for i, m := range []*kmsg.ProduceRequest{first, second} {
		send(r, m)
		if p := answer(r, m); p.ErrorCode != 0 || p.BaseOffset != int64(i) {
			t.Errorf("sent again: %s at %d", wire.ErrorCode(p.ErrorCode), p.BaseOffset)
		}
	}
}

// TestWaitersAreSentAway: when leadership goes, what waits is answered at once, and sessions of fetches are forgotten.
func TestWaitersAreSentAway(t *testing.T) {
	tr := ledTrio(t)
	tr.hold(true) // what is produced waits
	r, j, w := tr.raw(leaderAt), tr.raw(leaderAt), tr.raw(leaderAt)
	m := fetchFrom(tr, 12, 0, -1, time.Hour)
	if err := r.send(m); err != nil {
		t.Fatal(err)
	}
	join := &kmsg.JoinGroupRequest{Version: 3, Group: "g", SessionTimeoutMillis: 60000, RebalanceTimeoutMillis: 60000, ProtocolType: "consumer", Protocols: []kmsg.JoinGroupRequestProtocol{{Name: "range"}}}
	if err := j.send(join); err != nil {
		t.Fatal(err)
	}
	produce := produceTo(tr, 10, -1, time.Hour, oneBatch("a", -1, 0, 0))
	if err := w.send(produce); err != nil {
		t.Fatal(err)
	}
	s := tr.raw(leaderAt)
	in := fetchFrom(tr, 12, 0, -1, 0)
	in.SessionEpoch = 0
	_, first := fetched(s, in)
	if first.SessionID == 0 {
		t.Fatal("there is no session")
	}
	testx.Eventually(t, patience, func() bool {
		return tr.nodes[0].b.Replica(tr.shardOf("t")).Durable > tr.nodes[1].b.Replica(tr.shardOf("t")).Last
	}, "the batch in the leader's log")
	tr.resign()
	tr.hold(false)
	tr.lead(followerAt)
	got, err := r.receive(m, patience)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "a fetch that waits", got.(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode, wire.NotLeaderOrFollower)
	if got, err = j.receive(join, patience); err != nil {
		t.Fatal(err)
	}
	expect(t, "a member that waits", got.(*kmsg.JoinGroupResponse).ErrorCode, wire.NotCoordinator)
	if got, err = w.receive(produce, patience); err != nil {
		t.Fatal(err)
	}
	expect(t, "a batch that waits", got.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode, wire.NotLeaderOrFollower)
	in.SessionID, in.SessionEpoch, in.Topics = first.SessionID, 1, nil
	expect(t, "a session of before", s.ask(in).(*kmsg.FetchResponse).ErrorCode, wire.FetchSessionIDNotFound)
}

func (tr *trio) shardOf(topic string) record.ShardID {
	return tr.nodes[0].b.Topic(0, topic).Spec().Partitions[0].Shard
}
