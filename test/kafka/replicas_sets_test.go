package kafka

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	door "github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// participants reaches other nodes' partitions for a node's coordinators, by calls.
type participants struct {
	tr *trio
	n  *replicaNode
}

// at is the leader of a partition's set, as the node knows it, with its partition.
func (p *participants) at(part *broker.Partition) (*broker.Broker, *broker.Partition, record.Epoch) {
	pl := placed(p.n.View(), 1+(int(part.Shard())-replicaShards)/broker.SetShards)
	if pl.Leader < 0 {
		return nil, nil, 0
	}
	b := p.tr.nodes[pl.Leader-1].b
	return b, b.Topic(0, part.Topic().Name()).Partition(part.Index()), record.Epoch(pl.Epoch)
}

func (p *participants) AnnounceTxn(part *broker.Partition, who broker.ProducerIdentity, serial uint64, done func(error)) {
	b, there, epoch := p.at(part)
	if b == nil {
		done(broker.ErrNotLeader)
		return
	}
	done(b.TxnAnnounced(there, epoch, who, serial))
}

func (p *participants) EndTxn(part *broker.Partition, who broker.ProducerIdentity, serial uint64, commit bool, done func(error)) {
	b, there, epoch := p.at(part)
	if b == nil {
		done(broker.ErrNotLeader)
		return
	}
	b.TxnEnded(there, epoch, who, serial, commit, done)
}

// Partitions of "s" in the sets of setsTrio, and what lies in the first set.
const (
	home   = "t" // a topic of one partition in the first set, which node 2 leads
	spread = "s" // one of two partitions: in set 1, which node 1 leads, and in set 2, which node 2 does
)

// setsTrio has the second node lead the first set and set 2, each in another epoch, and the first one set 1.
func setsTrio(t *testing.T, wait time.Duration) *trio {
	t.Helper()
	tr := newSets(t, 2, 2, wait)
	tr.lead(followerAt)
	tr.topic(home, 1)
	tr.topic(spread, 2, broker.Setting{Key: "leader.spread", Value: "true"})
	tr.leadSet(1, leaderAt)
	for range 2 {
		tr.leadSet(2, followerAt)
	}
	return tr
}

// in is the partition of the spread topic that lies in a set; in the first one it is that of the other topic.
func (tr *trio) in(set int) (topic string, partition int32) {
	tr.t.Helper()
	if set == 0 {
		return home, 0
	}
	for _, p := range tr.nodes[0].b.Topic(0, spread).Partitions() {
		if slices.Contains(shardsOf(set), p.Shard()) {
			return spread, p.Index()
		}
	}
	tr.t.Fatal("no partition in set ", set)
	return "", 0
}

func (tr *trio) topicID(name string) [16]byte { return tr.nodes[0].b.Topic(0, name).ID() }

// produceSets is a request with a batch for one partition of each of the sets.
func produceSets(tr *trio, version, acks int16, timeout time.Duration, records []byte, sets ...int) *kmsg.ProduceRequest {
	m := kmsg.NewPtrProduceRequest()
	m.Version, m.Acks, m.TimeoutMillis = version, acks, int32(timeout.Milliseconds())
	for _, set := range sets {
		p := kmsg.NewProduceRequestTopicPartition()
		t := kmsg.NewProduceRequestTopic()
		t.Topic, p.Partition = tr.in(set)
		t.TopicID, p.Records = tr.topicID(t.Topic), records
		t.Partitions = append(t.Partitions, p)
		m.Topics = append(m.Topics, t)
	}
	return m
}

func fetchSets(tr *trio, version int16, offset int64, wait time.Duration, sets ...int) *kmsg.FetchRequest {
	m := kmsg.NewPtrFetchRequest()
	m.Version, m.MaxWaitMillis, m.MinBytes, m.MaxBytes, m.SessionEpoch = version, int32(wait.Milliseconds()), 1, 1<<20, -1
	for _, set := range sets {
		p := kmsg.NewFetchRequestTopicPartition()
		t := kmsg.NewFetchRequestTopic()
		t.Topic, p.Partition = tr.in(set)
		t.TopicID, p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = tr.topicID(t.Topic), offset, -1, 1<<20
		t.Partitions = append(t.Partitions, p)
		m.Topics = append(m.Topics, t)
	}
	return m
}

// answers are those of a produce request, in its order.
func answers(resp kmsg.Response) (list []kmsg.ProduceResponseTopicPartition) {
	for _, t := range resp.(*kmsg.ProduceResponse).Topics {
		list = append(list, t.Partitions...)
	}
	return list
}

func fetchedFrom(resp kmsg.Response) (list []kmsg.FetchResponseTopicPartition) {
	for _, t := range resp.(*kmsg.FetchResponse).Topics {
		list = append(list, t.Partitions...)
	}
	return list
}

func (r *raw) begin(m kmsg.Request) {
	r.t.Helper()
	if err := r.send(m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) end(m kmsg.Request) kmsg.Response {
	r.t.Helper()
	resp, err := r.receive(m, patience)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

// TestSetsAreServed: a node that leads one set of shards, and not the first, serves its partitions, and sends others to who leads them: each leader is named by
// itself, each node once.
func TestSetsAreServed(t *testing.T) {
	tr := setsTrio(t, 0)
	r := tr.raw(leaderAt)
	v := tr.nodes[leaderAt].View()
	want := []wire.ErrorCode{wire.NotLeaderOrFollower, wire.None, wire.NotLeaderOrFollower}
	if v.All.Epoch == v.Sets[1].Epoch {
		t.Fatal("two sets are in the same epoch")
	}
	moved := func(what string, set int, leader, epoch int32, told bool) {
		t.Helper()
		if pl := placed(v, set); want[set] != wire.None && told && (leader != pl.Leader || epoch != pl.Epoch) || want[set] == wire.None && leader != -1 {
			t.Errorf("%s, set %d: the leader is told to be %d in epoch %d, it is %d in %d", what, set, leader, epoch, pl.Leader, pl.Epoch)
		}
	}
	for _, version := range []int16{9, 10, 13} {
		resp := r.ask(produceSets(tr, version, -1, patience, oneBatch("a", -1, 0, 0), 0, 1, 2)).(*kmsg.ProduceResponse)
		for set, p := range answers(resp) {
			expect(t, fmt.Sprint("produce, set ", set), p.ErrorCode, want[set])
			moved("produce", set, p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch, version >= 10)
		}
		if version >= 10 && (len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 || resp.Brokers[0].Port != tr.nodes[1].addr.Port) {
			t.Errorf("produce, version %d: nodes %+v", version, resp.Brokers)
		}
	}
	for _, version := range []int16{11, 12, 16, 18} {
		resp := r.ask(fetchSets(tr, version, 0, 0, 0, 1, 2)).(*kmsg.FetchResponse)
		for set, p := range fetchedFrom(resp) {
			expect(t, fmt.Sprint("fetch, set ", set), p.ErrorCode, want[set])
			moved("fetch", set, p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch, version >= 12)
			if got := len(p.RecordBatches) > 0; got != (set == 1) {
				t.Errorf("fetch, set %d: records %v", set, got)
			}
		}
		if version >= 16 && (len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2) {
			t.Errorf("fetch, version %d: nodes %+v", version, resp.Brokers)
		}
	}
	for set := range 3 {
		topic, i := tr.in(set)
		for what, code := range setsRequests(r, topic, i) {
			expect(t, fmt.Sprint(what, ", set ", set), code, want[set])
		}
	}
	for _, req := range []kmsg.Request{
		&kmsg.HeartbeatRequest{Version: 3, Group: "g", MemberID: "m"},
		&kmsg.CreateTopicsRequest{Version: 5, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "u", NumPartitions: 1, ReplicationFactor: 1}}},
		&kmsg.EndTxnRequest{Version: 3, TransactionalID: "x"},
	} {
		got := make(map[int16]bool)
		codes(reflect.ValueOf(r.ask(req)), got)
		if len(got) != 1 || !got[int16(wire.NotCoordinator)] && !got[int16(wire.NotController)] {
			t.Errorf("%s: %v", kmsg.Key(req.Key()).Name(), got)
		}
	}
	if c := coordinator(tr, leaderAt, 4); c.NodeID != 2 {
		t.Errorf("the coordinator is %+v", c)
	}
	if id := r.ask(&kmsg.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse); id.ErrorCode != 0 || id.ProducerID < 0 {
		t.Errorf("a producer's id: %+v", id)
	}
}

// setsRequests asks for a partition by all requests but produce and fetch, and gives the codes of the answers.
func setsRequests(r *raw, topic string, i int32) map[string]int16 {
	r.t.Helper()
	got := make(map[string]int16)
	lo := kmsg.NewPtrListOffsetsRequest()
	lo.Version = 7
	lp := kmsg.NewListOffsetsRequestTopicPartition()
	lp.Partition, lp.Timestamp, lp.CurrentLeaderEpoch = i, -1, -1
	lo.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{lp}}}
	got["list offsets"] = r.ask(lo).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode
	oe := kmsg.NewPtrOffsetForLeaderEpochRequest()
	oe.Version = 3
	ep := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	ep.Partition, ep.LeaderEpoch, ep.CurrentLeaderEpoch = i, 0, -1
	oe.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{ep}}}
	got["offset for leader epoch"] = r.ask(oe).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0].ErrorCode
	dp := kmsg.NewPtrDescribeProducersRequest()
	dp.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: topic, Partitions: []int32{i}}}
	got["describe producers"] = r.ask(dp).(*kmsg.DescribeProducersResponse).Topics[0].Partitions[0].ErrorCode
	dr := kmsg.NewPtrDeleteRecordsRequest()
	dr.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: i}}}}
	got["delete records"] = r.ask(dr).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode
	wm := kmsg.NewPtrWriteTxnMarkersRequest()
	wm.Version = 1
	wm.Markers = []kmsg.WriteTxnMarkersRequestMarker{{ProducerID: 77, Topics: []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: topic, Partitions: []int32{i}}}}}
	got["write markers"] = r.ask(wm).(*kmsg.WriteTxnMarkersResponse).Markers[0].Topics[0].Partitions[0].ErrorCode
	return got
}

// TestSetsAreNamed: every node names for each partition who leads it, in which epoch, and who is in sync; a set without a leader is that of its partitions alone.
func TestSetsAreNamed(t *testing.T) {
	tr := setsTrio(t, 0)
	tr.inSyncSet(1, 1)
	tr.mu.Lock()
	tr.mu.view.Sets[1].Eligible = []int32{3}
	tr.mu.Unlock()
	tr.resignSet(2)
	for i := range tr.nodes {
		v := tr.nodes[i].View()
		resp := tr.raw(i).ask(&kmsg.MetadataRequest{Version: 10}).(*kmsg.MetadataResponse)
		dp := kmsg.NewPtrDescribeTopicPartitionsRequest()
		dp.ResponsePartitionLimit, dp.Topics = 10, []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: spread}, {Topic: home}}
		described := tr.raw(i).ask(dp).(*kmsg.DescribeTopicPartitionsResponse)
		for set := range 3 {
			pl := placed(v, set)
			code := wire.None
			if pl.Leader < 0 {
				code = wire.LeaderNotAvailable
			}
			topic, k := tr.in(set)
			at := slices.IndexFunc(resp.Topics, func(t kmsg.MetadataResponseTopic) bool { return *t.Topic == topic })
			p := resp.Topics[at].Partitions[k]
			if expect(t, "metadata", p.ErrorCode, code); p.Leader != pl.Leader || p.LeaderEpoch != pl.Epoch || !slices.Equal(p.ISR, pl.ISR) || !slices.Equal(p.Replicas, pl.Replicas) || !slices.Equal(p.OfflineReplicas, []int32{3}) {
				t.Errorf("node %d, set %d: %+v, want %+v", i+1, set, p, pl)
			}
			at = slices.IndexFunc(described.Topics, func(t kmsg.DescribeTopicPartitionsResponseTopic) bool { return *t.Topic == topic })
			d := described.Topics[at].Partitions[k]
			if expect(t, "describe", d.ErrorCode, code); d.LeaderID != pl.Leader || d.LeaderEpoch != pl.Epoch || !slices.Equal(d.ISR, pl.ISR) || !slices.Equal(d.EligibleLeaderReplicas, pl.Eligible) || !slices.Equal(d.OfflineReplicas, []int32{3}) {
				t.Errorf("node %d, set %d: %+v, want %+v", i+1, set, d, pl)
			}
		}
		if resp.ControllerID != 2 {
			t.Errorf("node %d: the controller is %d", i+1, resp.ControllerID)
		}
	}
}

// TestSetsMoveAlone: who waits at the leader of a set, or has a session of fetches there, is not concerned by what becomes of other sets.
func TestSetsMoveAlone(t *testing.T) {
	tr := setsTrio(t, time.Millisecond)
	waiter, s := tr.raw(leaderAt), tr.raw(leaderAt)
	waits := fetchSets(tr, 12, 0, time.Hour, 1)
	waiter.begin(waits)
	in := fetchSets(tr, 12, 0, 0, 1)
	in.SessionEpoch = 0
	session := s.ask(in).(*kmsg.FetchResponse).SessionID
	if session == 0 {
		t.Fatal("there is no session")
	}
	next := func() wire.ErrorCode {
		t.Helper()
		in.SessionID, in.SessionEpoch, in.Topics = session, in.SessionEpoch+1, nil
		return wire.ErrorCode(s.ask(in).(*kmsg.FetchResponse).ErrorCode)
	}
	tr.leadSet(2, leaderAt)
	tr.lead(leaderAt)
	tr.resign()
	tr.resignSet(2)
	tr.lead(followerAt)
	if code := next(); code != wire.None {
		t.Errorf("the session of a set that stays: %s", code)
	}
	p := answers(tr.raw(leaderAt).ask(produceSets(tr, 9, -1, patience, oneBatch("a", -1, 0, 0), 1)))[0]
	expect(t, "produce", p.ErrorCode, wire.None)
	if f := fetchedFrom(waiter.end(waits))[0]; f.ErrorCode != 0 || len(f.RecordBatches) == 0 {
		t.Errorf("a fetch that waits: %s, %d bytes", wire.ErrorCode(f.ErrorCode), len(f.RecordBatches))
	}
	waits = fetchSets(tr, 12, 1, time.Hour, 1)
	waiter.begin(waits)
	tr.leadSet(1, followerAt)
	f := fetchedFrom(waiter.end(waits))[0]
	if expect(t, "a fetch that waits where the set has gone", f.ErrorCode, wire.NotLeaderOrFollower); f.CurrentLeader.LeaderID != 2 && f.CurrentLeader.LeaderID != -1 {
		t.Errorf("it is told that %+v leads", f.CurrentLeader)
	}
	if code := next(); code != wire.FetchSessionIDNotFound {
		t.Errorf("the session of a set that has gone: %s", code)
	}
}

// heard waits until the doors have heard of the last change.
func (tr *trio) heard() {
	for i := range tr.nodes {
		for range 2 { // the first may be answered in the turn in which the door hears of it
			coordinator(tr, i, 4)
		}
	}
}

// TestSetsAwaitLeaders: what is produced to a set that is led, and read from it, is not held up while another one has no leader; what needs that one waits for it.
func TestSetsAwaitLeaders(t *testing.T) {
	tr := setsTrio(t, patience)
	tr.resign()
	tr.heard()
	expectProduced := func(what string, resp kmsg.Response) {
		t.Helper()
		for _, p := range answers(resp) {
			expect(t, what, p.ErrorCode, wire.None)
		}
	}
	batch := oneBatch("a", -1, 0, 0)
	r, waiter, group := tr.raw(leaderAt), tr.raw(followerAt), tr.raw(followerAt)
	both := produceSets(tr, 9, -1, patience, batch, 2, 0)
	waiter.begin(both) // its first batch is taken
	heartbeat := &kmsg.HeartbeatRequest{Version: 3, Group: "g", MemberID: "m"}
	group.begin(heartbeat)
	expectProduced("a set that is led", r.ask(produceSets(tr, 9, -1, patience, batch, 1)))
	if f := fetchedFrom(r.ask(fetchSets(tr, 12, 0, 0, 1)))[0]; f.ErrorCode != 0 || len(f.RecordBatches) == 0 {
		t.Errorf("a fetch from a set that is led: %s, %d bytes", wire.ErrorCode(f.ErrorCode), len(f.RecordBatches))
	}
	mixed := fetchedFrom(tr.raw(leaderAt).ask(fetchSets(tr, 12, 0, 0, 0, 1)))
	expect(t, "of two sets, that without a leader", mixed[0].ErrorCode, wire.NotLeaderOrFollower)
	if len(mixed[1].RecordBatches) == 0 {
		t.Error("of two sets, that with a leader gives nothing")
	}
	reader := tr.raw(followerAt)
	waits := fetchSets(tr, 12, 0, 0, 0)
	reader.begin(waits)
	tr.lead(followerAt)
	expectProduced("the one and the other", waiter.end(both))
	expect(t, "a fetch that has waited", fetchedFrom(reader.end(waits))[0].ErrorCode, wire.None)
	expect(t, "a group's member that has waited", group.end(heartbeat).(*kmsg.HeartbeatResponse).ErrorCode, wire.UnknownMemberID)

	tr.resignSet(1)
	tr.heard()
	m := produceSets(tr, 9, -1, patience, batch, 1)
	waiter.begin(m)
	expectProduced("the first set while another one has no leader", tr.raw(followerAt).ask(produceSets(tr, 9, -1, patience, batch, 0, 2)))
	expect(t, "a group while another set has no leader", tr.raw(followerAt).ask(heartbeat).(*kmsg.HeartbeatResponse).ErrorCode, wire.UnknownMemberID)
	tr.leadSet(1, followerAt)
	expectProduced("a set that is led again", waiter.end(m))
}

// TestSetsTooFewInSync: acks=all is refused for the partitions of the set of which too few replicas are in sync, and so is what waits there; not for others.
func TestSetsTooFewInSync(t *testing.T) {
	tr := setsTrio(t, 0)
	batch := oneBatch("a", -1, 0, 0)
	tr.leadSet(1, followerAt) // node 2 leads all
	r, first, other := tr.raw(followerAt), tr.raw(followerAt), tr.raw(followerAt)
	tr.hold(true)
	waits, stays := produceSets(tr, 9, -1, patience, batch, 1), produceSets(tr, 9, -1, patience, batch, 2)
	first.begin(waits)
	other.begin(stays)
	n := tr.nodes[followerAt]
	for _, set := range []int{1, 2} {
		topic, i := tr.in(set)
		id := n.b.Topic(0, topic).Partition(i).ID()
		testx.Eventually(t, patience, func() bool { return n.log.log.LogEnd(id) == 1 }, "the leader's log has it")
	}
	tr.mu.Lock()
	tr.mu.view.Sets[0].ISR = []int32{2}
	tr.mu.Unlock()
	tr.tellSet(1, followerAt)
	expect(t, "what waits for replicas of this set", answers(first.end(waits))[0].ErrorCode, wire.NotEnoughReplicasAfterAppend)
	tr.hold(false)
	expect(t, "what waits for those of another", answers(other.end(stays))[0].ErrorCode, wire.None)
	got := answers(r.ask(produceSets(tr, 9, -1, patience, batch, 0, 1, 2)))
	for set, want := range []wire.ErrorCode{wire.None, wire.NotEnoughReplicas, wire.None} {
		expect(t, fmt.Sprint("acks=all, set ", set), got[set].ErrorCode, want)
	}
	expect(t, "a commit", r.ask(&kmsg.OffsetCommitRequest{Version: 8, Group: "g", Generation: -1, Topics: []kmsg.OffsetCommitRequestTopic{{Topic: home, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{}}}}}).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode, wire.None)
}

// TestSetsNearest: who reads in its rack is sent to a follower by who leads the set, served by a follower of it, and sent back by others.
func TestSetsNearest(t *testing.T) {
	tr := setsTrio(t, 0)
	set := door.DefaultSettings()
	set.NearestReplica = true
	for _, n := range tr.nodes {
		n.door.Set(set)
	}
	for k, at := range []int{followerAt, leaderAt, followerAt} {
		expect(t, "produce", answers(tr.raw(at).ask(produceSets(tr, 9, -1, patience, oneBatch("a", -1, 0, 0), k)))[0].ErrorCode, wire.None)
		topic, i := tr.in(k)
		for _, n := range tr.nodes {
			testx.Eventually(t, patience, func() bool { return n.b.Topic(0, topic).Partition(i).HighWatermark() == 1 }, "the record on all nodes")
		}
	}
	far := fetchedFrom(tr.raw(leaderAt).ask(inRack(fetchSets(tr, 12, 0, 0, 0, 1, 2), "r1"))) // node 2's rack
	sent(t, "a set that node 2 leads", &far[0], 2, -1)
	sent(t, "a set that node 2 follows", &far[1], 2, 1)
	sent(t, "another one that it leads", &far[2], 2, -1)
	for _, p := range fetchedFrom(tr.raw(followerAt).ask(inRack(fetchSets(tr, 12, 0, 0, 0, 1, 2), "r1"))) {
		served(t, "at node 2", &p)
	}
	near := fetchedFrom(tr.raw(leaderAt).ask(inRack(fetchSets(tr, 12, 0, 0, 0, 1, 2), "r0")))
	for _, p := range near {
		served(t, "at node 1", &p)
	}
}

// TestSetsClients: an idempotent producer and a group's consumer lose nothing, repeat nothing and keep the order while the leaders of sets change, one at a time.
func TestSetsClients(t *testing.T) {
	tr := setsTrio(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	p := tr.client(leaderAt, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(spread))
	c := tr.client(followerAt, kgo.ConsumeTopics(spread), kgo.ConsumerGroup("g"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	const each, rounds = 100, 6
	var out sync.WaitGroup
	for round := range rounds {
		for i := range each {
			out.Add(1)
			p.Produce(ctx, &kgo.Record{Partition: int32(i % 2), Value: []byte(strconv.Itoa(round*each + i))}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
				out.Done()
			})
		}
		tr.leadSet(round%3, round/3%2)
	}
	out.Wait()
	var got [2][]int
	for len(got[0])+len(got[1]) < each*rounds {
		fs := c.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			n, _ := strconv.Atoi(string(r.Value))
			got[r.Partition] = append(got[r.Partition], n)
		})
	}
	for part, list := range got {
		for i, n := range list {
			if n != 2*i+part {
				t.Fatalf("partition %d: %d at place %d", part, n, i)
			}
		}
	}
}

// txnBatch is a batch of one record of a producer's transaction.
func txnBatch(value string, who broker.ProducerIdentity, sequence int32) []byte {
	var b record.BatchBuilder
	now := time.Now().UnixMilli()
	b.Begin(nil, now)
	b.Append(&record.Input{Value: []byte(value), Timestamp: now})
	return b.Finish(&record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: who.ID, Epoch: who.Epoch, Sequence: sequence}})
}

// TestSetsJoinTransactions: who leads a set anew, and has not heard of a transaction, asks its coordinator, which may be another node: whether the partition is part of it,
// or, of clients that know of it, to make it so. A coordinator that cannot be asked is a reason to come again.
func TestSetsJoinTransactions(t *testing.T) {
	tr := setsTrio(t, time.Millisecond)
	txn := "x"
	init := tr.raw(followerAt).ask(&kmsg.InitProducerIDRequest{Version: 4, TransactionalID: &txn, TransactionTimeoutMillis: 60000, ProducerID: -1, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse)
	expect(t, "begin", init.ErrorCode, wire.None)
	who := broker.ProducerIdentity{ID: init.ProducerID, Epoch: init.ProducerEpoch}
	topic, i := tr.in(1)
	add := tr.raw(followerAt).ask(&kmsg.AddPartitionsToTxnRequest{Version: 3, TransactionalID: txn, ProducerID: who.ID, ProducerEpoch: who.Epoch, Topics: []kmsg.AddPartitionsToTxnRequestTopic{{Topic: topic, Partitions: []int32{i}}}}).(*kmsg.AddPartitionsToTxnResponse)
	expect(t, "add", add.Topics[0].Partitions[0].ErrorCode, wire.None)
	produce := func(what string, at int, version int16, sequence int32, joins int32, want wire.ErrorCode, sets ...int) {
		t.Helper()
		m := produceSets(tr, version, -1, patience, txnBatch(what, who, sequence), sets...)
		m.TransactionID = &txn
		before := tr.joined.Load()
		for k, p := range answers(tr.raw(at).ask(m)) {
			expect(t, fmt.Sprint(what, ", set ", sets[k]), p.ErrorCode, want)
		}
		if n := tr.joined.Load() - before; n != joins {
			t.Errorf("%s: the coordinator was asked %d times, want %d", what, n, joins)
		}
	}
	produce("a partition that was added", leaderAt, 9, 0, 0, wire.None, 1)
	tr.leadSet(1, followerAt)
	tr.leadSet(1, leaderAt)
	produce("its leader is new", leaderAt, 9, 1, 1, wire.None, 1)
	produce("and has heard of it", leaderAt, 9, 2, 0, wire.None, 1)
	produce("a partition that was not added, by an older client", followerAt, 9, 0, 1, wire.InvalidTxnState, 2)
	produce("by one that adds it so", followerAt, 12, 0, 1, wire.None, 2)
	tr.leadSet(1, leaderAt)
	tr.resign()
	tr.heard()
	for _, version := range []int16{9, 12} {
		produce("the coordinator is nowhere", leaderAt, version, 3, 0, wire.NotEnoughReplicas, 1)
	}
	tr.lead(leaderAt)
	produce("it is back, elsewhere", leaderAt, 12, 3, 1, wire.None, 1)
	end := tr.raw(leaderAt).ask(&kmsg.EndTxnRequest{Version: 3, TransactionalID: txn, ProducerID: who.ID, ProducerEpoch: who.Epoch, Commit: true}).(*kmsg.EndTxnResponse)
	expect(t, "commit", end.ErrorCode, wire.None)
	for set, want := range map[int]int64{1: 5, 2: 2} { // with the marker
		topic, i := tr.in(set)
		leader := tr.nodes[placed(tr.nodes[0].View(), set).Leader-1].b
		testx.Eventually(t, patience, func() bool { return int64(leader.Topic(0, topic).Partition(i).LastStable()) == want }, "the transaction's end in set ", set)
	}
}

// TestSetsTransactions: what a transaction has written to several sets is seen as a whole or not at all, while the leaders of sets and the coordinator change.
func TestSetsTransactions(t *testing.T) {
	tr := setsTrio(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	p := tr.client(leaderAt, kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var want []string
	for round := range 6 {
		if err := p.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for k := range 6 {
			value := fmt.Sprint(round, ".", k)
			topic, i := tr.in(k % 3)
			if err := p.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: i, Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(round, k, err)
			}
			if k == 2 {
				tr.leadSet(round%3, round/2%2)
			}
			if round%2 == 0 {
				want = append(want, value)
			}
		}
		tr.leadSet((round+1)%3, round%2)
		if err := p.EndTransaction(ctx, kgo.TransactionEndTry(round%2 == 0)); err != nil {
			t.Fatal(round, err)
		}
	}
	c := tr.client(followerAt, kgo.ConsumeTopics(home, spread), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var got []string
	for _, r := range consume(t, c, len(want)) {
		got = append(got, string(r.Value))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
