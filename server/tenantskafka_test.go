package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
	kwire "github.com/sluicemq/sluice/proto/kafka/wire"
)

// byInitial lets everybody in: by PLAIN in the tenant that the first letter of the name says, else in the default one. Everybody may do everything there.
type byInitial struct {
	broker.QuickAuthenticator
	authorizer
}

func (byInitial) Quick(c broker.Credentials) (broker.Identity, bool, error) {
	if !c.HasUsername {
		return broker.Identity{Remote: c.Remote.Addr(), Source: "anonymous"}, true, nil
	}
	return broker.Identity{User: c.Username, Remote: c.Remote.Addr(), Tenant: uint32(c.Username[0] - 'a'), Source: "password"}, true, nil
}

func (byInitial) Allows(*broker.Identity, broker.Operation, broker.ResourceType, []byte) bool {
	return true
}
func (byInitial) AllowsAny(*broker.Identity, broker.Operation, broker.ResourceType) bool { return true }

// tenantsNode is a node with the default tenant, whose users' names begin with a, and the tenants beta and gamma.
type tenantsNode struct {
	t    testing.TB
	mem  *vfs.Mem
	n    *node
	addr string // of Kafka
	url  string // of MQTT
}

func newTenantsNode(t testing.TB) *tenantsNode {
	t.Helper()
	w := &tenantsNode{t: t, mem: vfs.NewMem()}
	w.up()
	t.Cleanup(func() {
		if err := stopNode(w.n); err != nil {
			t.Error(err)
		}
	})
	for i, name := range []string{"beta", "gamma"} {
		done := make(chan error, 1)
		w.n.catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.AddTenant(s, meta.Tenant{Name: name}) },
			func(err error) { w.n.tenantsSettled(func() { done <- err }) })
		if err := <-done; err != nil || w.n.catalog.Load().Tenant(name).Number != uint32(i+1) {
			t.Fatal(name, err)
		}
	}
	return w
}

func (w *tenantsNode) up() {
	w.t.Helper()
	cfg := config.Default()
	w.n, w.url = testNode(w.t, w.mem, func(o *nodeOptions) {
		o.kafka.settings = kafkaSettings(&cfg)
		o.limits.Stream.RetentionInterval = time.Second
		o.authn = byInitial{}
		o.authz = byInitial{authorizer: o.authz}
	})
	addr, err := w.n.listen(door{name: "kafka.tcp", network: "tcp", address: "127.0.0.1:0", kafka: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = addr.String()
}

func (w *tenantsNode) restart() {
	w.t.Helper()
	if err := stopNode(w.n); err != nil {
		w.t.Fatal(err)
	}
	w.up()
}

// client is a client of a user.
func (w *tenantsNode) client(user string, opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.addr), kgo.SASL(plain.Auth{User: user, Pass: "-"}.AsMechanism()),
		kgo.MetadataMinAge(100 * time.Millisecond), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

// tenantConn is a connection of a user, on which requests are asked one after the other.
type tenantConn struct {
	t    testing.TB
	conn net.Conn
	next int32

	answer kmsg.Response // the last one
}

func (w *tenantsNode) dial(user string) *tenantConn {
	w.t.Helper()
	c := w.anonymous()
	c.signIn(user)
	return c
}

func (w *tenantsNode) anonymous() *tenantConn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	return &tenantConn{t: w.t, conn: conn}
}

func (c *tenantConn) signIn(user string) {
	c.t.Helper()
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "PLAIN"
	c.ask(hello, 1)
	token := kmsg.NewPtrSASLAuthenticateRequest()
	token.SASLAuthBytes = []byte("\x00" + user + "\x00-")
	if r := c.ask(token, 2).(*kmsg.SASLAuthenticateResponse); r.ErrorCode != 0 {
		c.t.Fatalf("%s: %d", user, r.ErrorCode)
	}
}

// ask sends a request of a version, and reads its answer.
func (c *tenantConn) ask(req kmsg.Request, version int16) kmsg.Response {
	c.t.Helper()
	req.SetVersion(version)
	c.next++
	_, err := c.conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, c.next))
	var size [4]byte
	if err == nil {
		_, err = io.ReadFull(c.conn, size[:])
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if err == nil {
		_, err = io.ReadFull(c.conn, b)
	}
	resp := req.ResponseKind()
	if err == nil {
		if b = b[4:]; resp.IsFlexible() {
			b = b[1:] // no tags
		}
		err = resp.ReadFrom(b)
	}
	if err != nil {
		c.t.Fatalf("%s version %d: %v", kmsg.NameForKey(req.Key()), version, err)
	}
	c.answer = resp
	return resp
}

// topicID finds a topic as its tenant does.
func (c *tenantConn) topicID(name string) [16]byte {
	c.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &name}}
	t := c.ask(req, 12).(*kmsg.MetadataResponse).Topics[0]
	if t.ErrorCode != 0 {
		c.t.Fatalf("topic %s: %d", name, t.ErrorCode)
	}
	return t.TopicID
}

func (c *tenantConn) create(name string, configs ...kmsg.CreateTopicsRequestTopicConfig) (code int16, why string) {
	c.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = []kmsg.CreateTopicsRequestTopic{{Topic: name, NumPartitions: 1, ReplicationFactor: 1, Configs: configs}}
	t := &c.ask(req, 7).(*kmsg.CreateTopicsResponse).Topics[0]
	if t.ErrorMessage != nil {
		why = *t.ErrorMessage
	}
	return t.ErrorCode, why
}

// produce sends a record, by the topic's name, or by its id if there is no name.
func (c *tenantConn) produce(name string, id [16]byte, value string) int16 {
	c.t.Helper()
	var b record.BatchBuilder
	b.Begin(nil, time.Now().UnixMilli())
	b.Append(&record.Input{Value: []byte(value), Timestamp: time.Now().UnixMilli()})
	part := kmsg.ProduceRequestTopicPartition{Records: b.Finish(&record.BatchOptions{})}
	req, version := kmsg.NewPtrProduceRequest(), int16(9)
	if name == "" {
		version = 13
	}
	req.Acks, req.TimeoutMillis = -1, 10000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: name, TopicID: id, Partitions: []kmsg.ProduceRequestTopicPartition{part}}}
	return c.ask(req, version).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode
}

// fetch reads what a topic has, by its name, or by its id if there is no name.
func (c *tenantConn) fetch(name string, id [16]byte) (code int16, records []byte) {
	c.t.Helper()
	req, version := kmsg.NewPtrFetchRequest(), int16(12)
	if name == "" {
		version = 16
	}
	req.ReplicaID, req.MaxBytes, req.SessionEpoch = -1, 1<<20, -1
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 1 << 20
	req.Topics = []kmsg.FetchRequestTopic{{Topic: name, TopicID: id, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
	p := &c.ask(req, version).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	return p.ErrorCode, p.RecordBatches
}

// names are those of a tenant's topics.
func (c *tenantConn) names() (list []string) {
	c.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil
	for _, t := range c.ask(req, 12).(*kmsg.MetadataResponse).Topics {
		list = append(list, *t.Topic)
	}
	return list
}

// three are users of three tenants.
var three = []string{"ann", "bob", "cid"}

// Topics, groups and transactional ids of one name in three tenants are three, by a stock client, and stay so when the node starts anew.
func TestTenantsKafkaNames(t *testing.T) {
	w := newTenantsNode(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	send := func(user string, from, n int) {
		cl := w.client(user, kgo.TransactionalID("x"))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			cl.Produce(ctx, &kgo.Record{Topic: "t", Value: fmt.Append(nil, user, from+i)}, nil)
		}
		if err := cl.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			t.Fatal(user, err)
		}
		cl.Close()
	}
	read := func(user string, from, n int) {
		cl := w.client(user, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		for i := 0; i < n; {
			fs := cl.PollFetches(ctx)
			if err := fs.Err(); err != nil {
				t.Fatalf("%s has read %d: %v", user, i, err)
			}
			for _, r := range fs.Records() {
				if want := fmt.Sprint(user, from+i); string(r.Value) != want {
					t.Fatalf("%s reads %q, want %q", user, r.Value, want)
				}
				i++
			}
		}
		if err := cl.CommitUncommittedOffsets(ctx); err != nil {
			t.Fatal(err)
		}
		cl.Close()
	}
	for i, user := range three {
		send(user, 0, 2+i)
	}
	for i, user := range three {
		read(user, 0, 2+i)
	}
	w.restart()
	for i, user := range three {
		send(user, 2+i, 1)
		read(user, 2+i, 1)
		if names := w.dial(user).names(); !slices.Equal(names, []string{broker.OffsetsTopic, "t"}) {
			t.Errorf("%s sees %q", user, names)
		}
	}
	if n := w.n.broker.TopicCount(); n != 6 {
		t.Errorf("there are %d topics", n)
	}
}

// Who knows the id of another tenant's topic reaches nothing by it.
func TestTenantsKafkaIDs(t *testing.T) {
	w := newTenantsNode(t)
	ann, bob := w.dial("ann"), w.dial("bob")
	for _, c := range []*tenantConn{ann, bob} {
		if code, why := c.create("t"); code != 0 {
			t.Fatal(code, why)
		}
	}
	theirs := ann.topicID("t")
	if ann.produce("", theirs, "ann's") != 0 || bob.produce("t", theirs, "bob's") != 0 {
		t.Fatal("a tenant does not reach its own")
	}
	unknown := int16(kwire.UnknownTopicID)
	if code := bob.produce("", theirs, "evil"); code != unknown {
		t.Errorf("Produce: %d", code)
	}
	if code, b := bob.fetch("", theirs); code != unknown || len(b) > 0 {
		t.Errorf("Fetch: %d, %d bytes", code, len(b))
	}
	if code, b := bob.fetch("t", [16]byte{}); code != 0 || !bytes.Contains(b, []byte("bob's")) || bytes.Contains(b, []byte("ann's")) {
		t.Errorf("Fetch by name: %d, %q", code, b)
	}
	if code, b := ann.fetch("", theirs); code != 0 || !bytes.Contains(b, []byte("ann's")) || bytes.Contains(b, []byte("evil")) {
		t.Errorf("what its own tenant reads: %d, %q", code, b)
	}
	md := kmsg.NewPtrMetadataRequest()
	md.Topics = []kmsg.MetadataRequestTopic{{TopicID: theirs}}
	if got := bob.ask(md, 12).(*kmsg.MetadataResponse).Topics[0]; got.ErrorCode != unknown || got.Topic != nil {
		t.Errorf("Metadata: %+v", got)
	}
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: theirs}}
	if got := bob.ask(del, 6).(*kmsg.DeleteTopicsResponse).Topics[0]; got.ErrorCode != unknown || got.Topic != nil {
		t.Errorf("DeleteTopics: %+v", got)
	}
	foreignOffsets(t, ann, bob, theirs)
	if ann.topicID("t") != theirs {
		t.Error("the topic is another one")
	}
}

// foreignOffsets tries the id of ann's topic t, where ann's group g has a place, in a group of bob's of the same name.
func foreignOffsets(t *testing.T, ann, bob *tenantConn, id [16]byte) {
	t.Helper()
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "g", -1
	part := kmsg.NewOffsetCommitRequestTopicPartition()
	part.Offset = 1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{TopicID: id, Partitions: []kmsg.OffsetCommitRequestTopicPartition{part}}}
	if got := ann.ask(commit, 10).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 {
		t.Fatalf("OffsetCommit: %+v", got)
	}
	if got := bob.ask(commit, 10).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0]; got.ErrorCode != int16(kwire.UnknownTopicID) {
		t.Errorf("OffsetCommit of another tenant's: %+v", got)
	}
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "g", MemberEpoch: -1, Topics: []kmsg.OffsetFetchRequestGroupTopic{{TopicID: id, Partitions: []int32{0}}}}}
	if got := ann.ask(fetch, 10).(*kmsg.OffsetFetchResponse).Groups[0].Topics[0].Partitions[0]; got.ErrorCode != 0 || got.Offset != 1 {
		t.Errorf("OffsetFetch: %+v", got)
	}
	if got := bob.ask(fetch, 10).(*kmsg.OffsetFetchResponse).Groups[0].Topics[0].Partitions[0]; got.ErrorCode != int16(kwire.UnknownTopicID) || got.Offset != -1 {
		t.Errorf("OffsetFetch of another tenant's: %+v", got)
	}
	fetch.Groups[0].Topics = nil
	if got := bob.ask(fetch, 10).(*kmsg.OffsetFetchResponse).Groups[0]; len(got.Topics) != 0 {
		t.Errorf("all of the group's: %+v", got)
	}

	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis, beat.SubscribedTopicNames = "next", "m", 60000, []string{"t"}
	joined := bob.ask(beat, 1).(*kmsg.ConsumerGroupHeartbeatResponse)
	for range 3 { // its own comes with one of the first answers
		if joined.ErrorCode != 0 {
			t.Fatalf("ConsumerGroupHeartbeat: %+v", joined)
		}
		if joined.Assignment != nil && len(joined.Assignment.Topics) > 0 {
			break
		}
		beat.MemberEpoch = joined.MemberEpoch
		joined = bob.ask(beat, 1).(*kmsg.ConsumerGroupHeartbeatResponse)
	}
	if joined.Assignment == nil || len(joined.Assignment.Topics) != 1 || joined.Assignment.Topics[0].TopicID != bob.topicID("t") {
		t.Fatalf("assigned is %+v", joined.Assignment)
	}
	beat.MemberEpoch, beat.SubscribedTopicNames = joined.MemberEpoch, nil
	beat.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: id, Partitions: []int32{0}}} // it says that it reads ann's
	if got := bob.ask(beat, 1).(*kmsg.ConsumerGroupHeartbeatResponse); got.ErrorCode == 0 && got.Assignment != nil && slices.ContainsFunc(got.Assignment.Topics,
		func(t kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic) bool { return t.TopicID == id }) {
		t.Errorf("assigned is another tenant's: %+v", got.Assignment)
	}
}

// Records of a tenant's topics go by their age and their number, and when they are deleted; another tenant's of the same name stay.
func TestTenantsKafkaRetention(t *testing.T) {
	w := newTenantsNode(t)
	ann, bob := w.dial("ann"), w.dial("bob")
	short := "1000"
	ann.create("t")
	bob.create("t")
	ann.create("short")
	bob.create("short", kmsg.CreateTopicsRequestTopicConfig{Name: "retention.ms", Value: &short})
	for _, c := range []*tenantConn{ann, bob} {
		for _, topic := range []string{"t", "short"} {
			for range 5 {
				if code := c.produce(topic, [16]byte{}, "v"); code != 0 {
					t.Fatal(code)
				}
			}
		}
	}
	start := func(c *tenantConn, topic string) int64 {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID = -1
		req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: -2, CurrentLeaderEpoch: -1}}}}
		return c.ask(req, 6).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].Offset
	}
	del := kmsg.NewPtrDeleteRecordsRequest()
	del.TimeoutMillis = 10000
	del.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: 3}}}}
	if got := bob.ask(del, 2).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 || got.LowWatermark != 3 {
		t.Errorf("DeleteRecords: %+v", got)
	}
	testx.Eventually(t, patience, func() bool { return start(bob, "short") == 5 }, "retention.ms of a tenant's topic")
	if a, b := start(ann, "t"), start(bob, "t"); a != 0 || b != 3 {
		t.Errorf("the topics begin at %d and %d", a, b)
	}
	if a := start(ann, "short"); a != 0 {
		t.Errorf("the other tenant's begins at %d", a)
	}
	drop := kmsg.NewPtrDeleteTopicsRequest()
	name := "t"
	drop.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &name}}
	if got := bob.ask(drop, 6).(*kmsg.DeleteTopicsResponse).Topics[0]; got.ErrorCode != 0 {
		t.Errorf("DeleteTopics: %+v", got)
	}
	w.restart()
	ann, bob = w.dial("ann"), w.dial("bob")
	if a, b := ann.names(), bob.names(); !slices.Equal(a, []string{"short", "t"}) || !slices.Equal(b, []string{"short"}) {
		t.Errorf("after a restart the tenants have %q and %q", a, b)
	}
	if code, b := ann.fetch("t", [16]byte{}); code != 0 || len(b) == 0 {
		t.Errorf("the other tenant's records: %d, %d bytes", code, len(b))
	}
}
