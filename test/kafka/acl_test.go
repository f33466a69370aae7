package kafka

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// guarded starts a node on which user admin, password admin, may do everything, and clients without credentials come in.
func guarded(t testing.TB, set ...string) *cluster {
	t.Helper()
	return start(t, append([]string{"auth.password_file=" + passwordFile(t, "admin", "admin"), "auth.anonymous=loopback", "auth.super_users=admin"}, set...)...)
}

func asAdmin() kgo.Opt { return kgo.SASL(plain.Auth{User: "admin", Pass: "admin"}.AsMechanism()) }

// raw is a connection on which requests are sent one by one at versions of the test's choice.
type raw struct {
	t    testing.TB
	conn net.Conn
	next int32
}

func (c *cluster) raw() *raw { return &raw{t: c.t, conn: c.dial()} }

// ask sends one request and reads its answer.
func (r *raw) ask(req kmsg.Request) kmsg.Response {
	r.t.Helper()
	resp, err := r.try(req)
	if err != nil {
		r.t.Fatalf("%s version %d: %v", kmsg.Key(req.Key()).Name(), req.GetVersion(), err)
	}
	return resp
}

func (r *raw) try(req kmsg.Request) (kmsg.Response, error) {
	if err := r.send(req); err != nil {
		return nil, err
	}
	return r.receive(req, patience)
}

func (r *raw) send(req kmsg.Request) error {
	r.next++
	_ = r.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := r.conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, r.next))
	return err
}

// receive reads the next answer, which is to req.
func (r *raw) receive(req kmsg.Request, within time.Duration) (kmsg.Response, error) {
	_ = r.conn.SetReadDeadline(time.Now().Add(within))
	head := make([]byte, 4)
	if _, err := io.ReadFull(r.conn, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(r.conn, body); err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	body = body[4:]
	if resp.IsFlexible() && req.Key() != 18 {
		body = body[1:] // no tags
	}
	return resp, resp.ReadFrom(body)
}

// versions are those that the node advertises.
func (c *cluster) versions() map[int16][2]int16 {
	c.t.Helper()
	req := kmsg.NewPtrApiVersionsRequest()
	all := make(map[int16][2]int16)
	for _, k := range c.raw().ask(req).(*kmsg.ApiVersionsResponse).ApiKeys {
		all[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
	}
	return all
}

// codes gathers the error codes of an answer.
func codes(v reflect.Value, into map[int16]bool) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			codes(v.Elem(), into)
		}
	case reflect.Slice:
		for i := range v.Len() {
			codes(v.Index(i), into)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "ErrorCode" && v.Field(i).Int() != 0 {
				into[int16(v.Field(i).Int())] = true
			} else {
				codes(v.Field(i), into)
			}
		}
	default:
	}
}

const (
	topicRefused   = 29
	groupRefused   = 30
	clusterRefused = 31
	txnRefused     = 53
)

// guard is what an API needs.
type guard struct {
	// need are the ACLs, all of which it takes, as "operation type name".
	need []string
	// code is how it is refused; 0: it is not, and shows tells that it is answered in full.
	code int16
	// ask makes a request; v is the version that it will be sent at.
	ask   func(e *guardEnv, v int16) kmsg.Request
	shows func(e *guardEnv, resp kmsg.Response) bool
	// open: everybody may.
	open bool
	// from and to bound the versions that this is about; others stand beside it under the same key.
	from, to int16
}

type guardEnv struct {
	topic [16]byte // the id of topic t
}

func name(s string, v int16) string { return fmt.Sprintf("%s-%d", s, v) }

// guards has an entry for every API that is advertised, and for every way in which one is guarded.
var guards = map[int16][]guard{
	0: {{need: []string{"write topic t"}, code: topicRefused, ask: produceOf(""), from: 3}, {need: []string{"write txn x", "write topic t"}, code: txnRefused, ask: produceOf("x"), from: 3}},
	1: {{need: []string{"read topic t"}, code: topicRefused, ask: func(e *guardEnv, _ int16) kmsg.Request {
		m := kmsg.NewPtrFetchRequest()
		m.MaxWaitMillis, m.MinBytes, m.MaxBytes, m.SessionEpoch = 1, 1, 1000, -1
		p := kmsg.NewFetchRequestTopicPartition()
		p.PartitionMaxBytes = 1000
		m.Topics = []kmsg.FetchRequestTopic{{Topic: "t", TopicID: e.topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
		return m
	}}},
	2: {{need: []string{"describe topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrListOffsetsRequest()
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Timestamp = -2
		m.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
		return m
	}}},
	3: {
		{need: []string{"describe topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
			m := kmsg.NewPtrMetadataRequest()
			m.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("t")}}
			return m
		}},
		{need: []string{"create topic auto", "describe topic auto"}, code: topicRefused, ask: func(_ *guardEnv, v int16) kmsg.Request {
			m := kmsg.NewPtrMetadataRequest()
			m.Topics, m.AllowAutoTopicCreation = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(name("auto", v))}}, true
			return m
		}},
		{need: []string{"describe topic t"}, ask: func(_ *guardEnv, v int16) kmsg.Request {
			m := kmsg.NewPtrMetadataRequest()
			if v == 0 {
				m.Topics = []kmsg.MetadataRequestTopic{}
			}
			return m
		}, shows: func(_ *guardEnv, resp kmsg.Response) bool {
			return slices.ContainsFunc(resp.(*kmsg.MetadataResponse).Topics, func(t kmsg.MetadataResponseTopic) bool { return *t.Topic == "t" })
		}},
	},
	8: {
		{need: []string{"read group g", "read topic t"}, code: groupRefused, ask: commitOf},
		{need: []string{"read topic t"}, code: topicRefused, ask: commitOf},
	},
	9: {
		{need: []string{"describe group g", "describe topic t"}, code: groupRefused, ask: func(e *guardEnv, _ int16) kmsg.Request {
			m := kmsg.NewPtrOffsetFetchRequest()
			m.Group = "g"
			m.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
			g := kmsg.NewOffsetFetchRequestGroup()
			g.Group, g.Topics = "g", []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", TopicID: e.topic, Partitions: []int32{0}}}
			m.Groups = []kmsg.OffsetFetchRequestGroup{g}
			return m
		}},
	},
	10: {
		{need: []string{"describe group g"}, code: groupRefused, ask: coordinatorOf(0, "g")},
		{need: []string{"describe txn x"}, code: txnRefused, ask: coordinatorOf(1, "x"), from: 1},
	},
	11: {{need: []string{"read group j"}, code: groupRefused, ask: func(_ *guardEnv, v int16) kmsg.Request {
		m := kmsg.NewPtrJoinGroupRequest()
		m.Group, m.ProtocolType, m.SessionTimeoutMillis, m.RebalanceTimeoutMillis = name("j", v), "consumer", 6000, 6000
		m.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte{}}}
		return m
	}}},
	12: {{need: []string{"read group g"}, code: groupRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrHeartbeatRequest()
		m.Group = "g"
		return m
	}}},
	13: {{need: []string{"read group g"}, code: groupRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrLeaveGroupRequest()
		m.Group, m.Members = "g", []kmsg.LeaveGroupRequestMember{{MemberID: "nobody"}}
		return m
	}}},
	14: {{need: []string{"read group g"}, code: groupRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrSyncGroupRequest()
		m.Group, m.ProtocolType, m.Protocol = "g", kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
		return m
	}}},
	15: {{need: []string{"describe group g"}, code: groupRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeGroupsRequest()
		m.Groups = []string{"g"}
		return m
	}}},
	16: {
		{need: []string{"describe group g"}, ask: func(*guardEnv, int16) kmsg.Request { return kmsg.NewPtrListGroupsRequest() }, shows: showsGroup},
		{need: []string{"describe cluster kafka-cluster"}, ask: func(*guardEnv, int16) kmsg.Request { return kmsg.NewPtrListGroupsRequest() }, shows: showsGroup},
	},
	17: {{open: true}},
	18: {{open: true}},
	19: {
		{need: []string{"create topic made"}, code: topicRefused, ask: createOf("made")},
		{need: []string{"create cluster kafka-cluster"}, code: topicRefused, ask: createOf("built")},
	},
	20: {{need: []string{"delete topic doomed"}, code: topicRefused, ask: func(_ *guardEnv, v int16) kmsg.Request {
		m := kmsg.NewPtrDeleteTopicsRequest()
		m.TopicNames, m.Topics = []string{"doomed"}, []kmsg.DeleteTopicsRequestTopic{{Topic: kmsg.StringPtr("doomed")}}
		return m
	}}},
	21: {{need: []string{"delete topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDeleteRecordsRequest()
		m.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{}}}}
		return m
	}}},
	22: {
		{need: []string{"idempotent_write cluster kafka-cluster"}, code: clusterRefused, ask: producerOf("")},
		{need: []string{"write topic anything"}, code: clusterRefused, ask: producerOf("")},
		{need: []string{"write txn x"}, code: txnRefused, ask: producerOf("x")},
	},
	23: {{need: []string{"describe topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrOffsetForLeaderEpochRequest()
		m.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{{CurrentLeaderEpoch: -1}}}}
		return m
	}}},
	24: {
		{need: []string{"write txn x", "write topic t"}, code: txnRefused, ask: addPartitionsOf, to: 3},
		{need: []string{"write topic t"}, code: topicRefused, ask: addPartitionsOf, to: 3},
		{need: []string{"cluster_action cluster kafka-cluster"}, code: clusterRefused, ask: addPartitionsOf, from: 4},
	},
	25: {
		{need: []string{"write txn x", "read group g"}, code: txnRefused, ask: addOffsetsOf},
		{need: []string{"read group g"}, code: groupRefused, ask: addOffsetsOf},
	},
	26: {{need: []string{"write txn x"}, code: txnRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrEndTxnRequest()
		m.TransactionalID = "x"
		return m
	}}},
	27: {
		{need: []string{"cluster_action cluster kafka-cluster"}, code: clusterRefused, ask: markerOf},
		{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: markerOf},
	},
	28: {
		{need: []string{"write txn x", "read group g", "read topic t"}, code: txnRefused, ask: txnCommitOf},
		{need: []string{"read group g", "read topic t"}, code: groupRefused, ask: txnCommitOf},
	},
	29: {{need: []string{"describe cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeACLsRequest()
		m.ResourceType, m.ResourcePatternType, m.Operation, m.PermissionType = 1, 1, 1, 1
		return m
	}}},
	30: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrCreateACLsRequest()
		m.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: 2, ResourcePatternType: 3, ResourceName: "n", Principal: "User:n", Host: "*", Operation: 3, PermissionType: 3}}
		return m
	}}},
	31: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDeleteACLsRequest()
		m.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 2, ResourcePatternType: 3, ResourceName: kmsg.StringPtr("n"), Operation: 1, PermissionType: 1}}
		return m
	}}},
	32: {
		{need: []string{"describe_configs topic t"}, code: topicRefused, ask: describeConfigsOf(2, "t")},
		{need: []string{"describe_configs cluster kafka-cluster"}, code: clusterRefused, ask: describeConfigsOf(4, "")},
	},
	33: {
		{need: []string{"alter_configs topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
			m := kmsg.NewPtrAlterConfigsRequest()
			m.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: 2, ResourceName: "t"}}
			return m
		}},
		{need: []string{"alter_configs cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
			m := kmsg.NewPtrAlterConfigsRequest()
			m.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: 4, ResourceName: "1"}}
			return m
		}},
	},
	34: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrAlterReplicaLogDirsRequest()
		m.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Dir: "/", Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "t", Partitions: []int32{0}}}}}
		return m
	}}},
	35: {
		{need: []string{"describe cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.DescribeLogDirsRequest], from: 3},
		{need: []string{"describe cluster kafka-cluster"}, ask: askOf[kmsg.DescribeLogDirsRequest], to: 2, shows: func(_ *guardEnv, resp kmsg.Response) bool {
			return len(resp.(*kmsg.DescribeLogDirsResponse).Dirs) > 0
		}},
	},
	36: {{open: true}},
	37: {{need: []string{"alter topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrCreatePartitionsRequest()
		m.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "t", Count: 1}}
		return m
	}}},
	42: {{need: []string{"delete group g"}, code: groupRefused, ask: func(_ *guardEnv, v int16) kmsg.Request {
		m := kmsg.NewPtrDeleteGroupsRequest()
		m.Groups = []string{name("g", v)}
		return m
	}}},
	43: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrElectLeadersRequest()
		m.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		return m
	}}},
	44: {{need: []string{"alter_configs topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrIncrementalAlterConfigsRequest()
		m.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: 2, ResourceName: "t"}}
		return m
	}}},
	45: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.AlterPartitionAssignmentsRequest]}},
	46: {{need: []string{"describe cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.ListPartitionReassignmentsRequest]}},
	47: {
		{need: []string{"delete group g", "read topic t"}, code: groupRefused, ask: offsetDeleteOf},
		{need: []string{"read topic t"}, code: topicRefused, ask: offsetDeleteOf},
	},
	38: {{open: true}},
	39: {{open: true}},
	40: {{open: true}},
	41: {{open: true}},
	50: {{need: []string{"describe cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
		m.Users = []kmsg.DescribeUserSCRAMCredentialsRequestUser{{Name: "nobody"}}
		return m
	}}},
	51: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		m.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{{Name: "made", Mechanism: 1, Iterations: 4096, Salt: []byte("s"), SaltedPassword: []byte("p")}}
		return m
	}}},
	48: {{need: []string{"describe_configs cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		return kmsg.NewPtrDescribeClientQuotasRequest()
	}}},
	49: {{need: []string{"alter_configs cluster kafka-cluster"}, code: clusterRefused, ask: func(*guardEnv, int16) kmsg.Request {
		return quotaFor("nobody", "", map[string]float64{"producer_byte_rate": 1e12})
	}}},
	55: {{need: []string{"describe cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.DescribeQuorumRequest]}},
	57: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.UpdateFeaturesRequest]}},
	60: {{open: true}},
	61: {{need: []string{"read topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeProducersRequest()
		m.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		return m
	}}},
	64: {{need: []string{"alter cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.UnregisterBrokerRequest]}},
	65: {{need: []string{"describe txn x"}, code: txnRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeTransactionsRequest()
		m.TransactionalIDs = []string{"x"}
		return m
	}}},
	66: {{need: []string{"describe txn x"}, ask: func(*guardEnv, int16) kmsg.Request { return kmsg.NewPtrListTransactionsRequest() },
		shows: func(_ *guardEnv, resp kmsg.Response) bool {
			return len(resp.(*kmsg.ListTransactionsResponse).TransactionStates) > 0
		}}},
	68: {
		{need: []string{"read group c", "describe topic t"}, code: groupRefused, ask: consumerOf},
		{need: []string{"describe topic t"}, code: topicRefused, ask: consumerOf},
	},
	69: {{need: []string{"describe group g"}, code: groupRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrConsumerGroupDescribeRequest()
		m.Groups = []string{"g"}
		return m
	}}},
	74: {{need: []string{"describe_configs cluster kafka-cluster"}, code: clusterRefused, ask: askOf[kmsg.ListConfigResourcesRequest]}},
	75: {{need: []string{"describe topic t"}, code: topicRefused, ask: func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeTopicPartitionsRequest()
		m.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "t"}}
		return m
	}}},
}

// askOf is a request of which nothing is set.
func askOf[T any, P interface {
	*T
	kmsg.Request
}](*guardEnv, int16) kmsg.Request {
	return P(new(T))
}

func markerOf(*guardEnv, int16) kmsg.Request {
	m := kmsg.NewPtrWriteTxnMarkersRequest()
	m.Markers = []kmsg.WriteTxnMarkersRequestMarker{{ProducerID: 99, Topics: []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{0}}}}}
	return m
}

func produceOf(txn string) func(*guardEnv, int16) kmsg.Request {
	return func(e *guardEnv, _ int16) kmsg.Request {
		m := kmsg.NewPtrProduceRequest()
		m.Acks, m.TimeoutMillis = -1, 1000
		b := kmsg.RecordBatch{Magic: 2, PartitionLeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Length: 49 + 10, Records: make([]byte, 10)}
		if txn != "" {
			m.TransactionID = &txn
			b.Attributes, b.ProducerID, b.ProducerEpoch, b.FirstSequence = 1<<4, 1, 0, 0
		}
		m.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", TopicID: e.topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: b.AppendTo(nil)}}}}
		return m
	}
}

func commitOf(e *guardEnv, _ int16) kmsg.Request {
	m := kmsg.NewPtrOffsetCommitRequest()
	m.Group = "g"
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	m.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", TopicID: e.topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	return m
}

func coordinatorOf(kind int8, key string) func(*guardEnv, int16) kmsg.Request {
	return func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrFindCoordinatorRequest()
		m.CoordinatorType, m.CoordinatorKey, m.CoordinatorKeys = kind, key, []string{key}
		return m
	}
}

func showsGroup(_ *guardEnv, resp kmsg.Response) bool {
	return slices.ContainsFunc(resp.(*kmsg.ListGroupsResponse).Groups, func(g kmsg.ListGroupsResponseGroup) bool { return g.Group == "g" })
}

func createOf(topic string) func(*guardEnv, int16) kmsg.Request {
	return func(_ *guardEnv, v int16) kmsg.Request {
		m := kmsg.NewPtrCreateTopicsRequest()
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name(topic, v), 1, 1
		m.Topics = []kmsg.CreateTopicsRequestTopic{t}
		return m
	}
}

func producerOf(txn string) func(*guardEnv, int16) kmsg.Request {
	return func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrInitProducerIDRequest()
		m.TransactionTimeoutMillis = 1000
		if txn != "" {
			m.TransactionalID = &txn
		}
		return m
	}
}

func addPartitionsOf(*guardEnv, int16) kmsg.Request {
	m := kmsg.NewPtrAddPartitionsToTxnRequest()
	m.TransactionalID, m.Topics = "x", []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	t := kmsg.NewAddPartitionsToTxnRequestTransaction()
	t.TransactionalID, t.Topics = "x", []kmsg.AddPartitionsToTxnRequestTransactionTopic{{Topic: "t", Partitions: []int32{0}}}
	m.Transactions = []kmsg.AddPartitionsToTxnRequestTransaction{t}
	return m
}

func addOffsetsOf(*guardEnv, int16) kmsg.Request {
	m := kmsg.NewPtrAddOffsetsToTxnRequest()
	m.TransactionalID, m.Group = "x", "g"
	return m
}

func txnCommitOf(*guardEnv, int16) kmsg.Request {
	m := kmsg.NewPtrTxnOffsetCommitRequest()
	m.TransactionalID, m.Group = "x", "g"
	m.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{}}}}
	return m
}

func describeConfigsOf(kind kmsg.ConfigResourceType, name string) func(*guardEnv, int16) kmsg.Request {
	return func(*guardEnv, int16) kmsg.Request {
		m := kmsg.NewPtrDescribeConfigsRequest()
		m.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name}}
		return m
	}
}

func offsetDeleteOf(*guardEnv, int16) kmsg.Request {
	m := kmsg.NewPtrOffsetDeleteRequest()
	m.Group, m.Topics = "g", []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}}
	return m
}

func consumerOf(_ *guardEnv, v int16) kmsg.Request {
	m := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	m.Group, m.MemberID, m.RebalanceTimeoutMillis, m.SubscribedTopicNames, m.Topics = name("c", v), "m", 6000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	return m
}

var aclWords = map[string]int8{"topic": 2, "group": 3, "cluster": 4, "txn": 5, "all": 2, "read": 3, "write": 4, "create": 5, "delete": 6, "alter": 7, "describe": 8, "cluster_action": 9,
	"describe_configs": 10, "alter_configs": 11, "idempotent_write": 12}

// acls makes ACLs of "operation type name"; names stand for all that begin with them, but for the cluster's.
func acls(principal string, permission int8, list ...string) *kmsg.CreateACLsRequest {
	m := kmsg.NewPtrCreateACLsRequest()
	m.Version = 3
	for _, s := range list {
		w := strings.Fields(s)
		k := kmsg.NewCreateACLsRequestCreation()
		k.Operation, k.ResourceType, k.ResourceName = kmsg.ACLOperation(aclWords[w[0]]), kmsg.ACLResourceType(aclWords[w[1]]), w[2]
		k.ResourcePatternType, k.Principal, k.Host, k.PermissionType = 4, principal, "*", kmsg.ACLPermissionType(permission)
		if w[1] == "cluster" {
			k.ResourcePatternType = 3
		}
		m.Creations = append(m.Creations, k)
	}
	return m
}

const (
	denies = 2
	allows = 3
)

// change has the admin do something that must work.
func change(t testing.TB, admin *kgo.Client, req kmsg.Request) kmsg.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := admin.Request(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int16]bool{}
	if codes(reflect.ValueOf(resp), all); len(all) > 0 {
		t.Fatalf("%T: %v", req, all)
	}
	return resp
}

// noACLs deletes all there are.
func noACLs(t testing.TB, admin *kgo.Client) {
	t.Helper()
	m := kmsg.NewPtrDeleteACLsRequest()
	m.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 1, ResourcePatternType: 1, Operation: 1, PermissionType: 1}}
	change(t, admin, m)
}

// TestEveryAPIIsGuarded: each API, at each version, is refused as Kafka refuses it to who has no right, and lets in who has. One that is
// advertised and is not in the table fails.
func TestEveryAPIIsGuarded(t *testing.T) {
	c := guarded(t)
	admin := c.client(asAdmin())
	who := &guest{principal: "User:ANONYMOUS", dial: func(t testing.TB) *raw {
		t.Helper()
		r := c.raw()
		r.t = t
		return r
	}}
	everyAPI(t, admin, who, c.versions())
	for key := range guards {
		if _, ok := c.versions()[key]; !ok {
			t.Errorf("API %d is in the table and not advertised", key)
		}
	}
}

// guest is who has no rights but those that are given to it.
type guest struct {
	principal string
	dial      func(t testing.TB) *raw
}

func everyAPI(t *testing.T, admin *kgo.Client, who *guest, versions map[int16][2]int16) {
	t.Helper()
	env := guardedState(t, admin)
	for key, v := range versions {
		list := guards[key]
		if len(list) == 0 {
			t.Errorf("%s (%d) is advertised, and nothing says which right it needs", kmsg.Key(key).Name(), key)
		}
		for i := range list {
			g := &list[i]
			if g.open {
				continue
			}
			from, to := max(v[0], g.from), v[1]
			if g.to > 0 {
				to = min(to, g.to)
			}
			t.Run(fmt.Sprintf("%s/%s", kmsg.Key(key).Name(), strings.ReplaceAll(g.need[0], " ", "_")), func(t *testing.T) {
				g.check(t, who, admin, env, from, to)
			})
		}
	}
}

var peer = flag.String("peer", "", "HOST:PORT,HOST:PORT of an Apache Kafka that TestGuardsOfKafka asks: where the client without credentials is a super user, and where alice logs in by PLAIN")

// TestGuardsOfKafka: the table says what Apache Kafka does.
func TestGuardsOfKafka(t *testing.T) {
	super, login, ok := strings.Cut(*peer, ",")
	if !ok {
		t.Skip("no -peer")
	}
	c := &cluster{t: t, addr: super}
	versions := c.versions()
	for key, v := range versions {
		ours, known := wire.APIKey(key).Versions()
		if len(guards[key]) == 0 || !known {
			delete(versions, key)
			continue
		}
		versions[key] = [2]int16{max(v[0], ours.Min), min(v[1], ours.Max)}
	}
	who := &guest{principal: "User:alice", dial: func(t testing.TB) *raw {
		t.Helper()
		r := (&cluster{t: t, addr: login}).raw()
		hello := kmsg.NewPtrSASLHandshakeRequest()
		hello.Mechanism = "PLAIN"
		r.ask(at(hello, 1))
		token := kmsg.NewPtrSASLAuthenticateRequest()
		token.SASLAuthBytes = []byte("\x00alice\x00alice-secret")
		if resp := r.ask(at(token, 1)).(*kmsg.SASLAuthenticateResponse); resp.ErrorCode != 0 {
			t.Fatal("alice does not come in:", resp.ErrorCode)
		}
		return r
	}}
	forgetTopics(t, c.client())
	everyAPI(t, c.client(), who, versions)
}

// forgetTopics deletes what an earlier run has left.
func forgetTopics(t *testing.T, admin *kgo.Client) {
	t.Helper()
	m := kmsg.NewPtrDeleteTopicsRequest()
	for _, topic := range change(t, admin, kmsg.NewPtrMetadataRequest()).(*kmsg.MetadataResponse).Topics {
		if !topic.IsInternal {
			m.Topics = append(m.Topics, kmsg.DeleteTopicsRequestTopic{Topic: topic.Topic})
		}
	}
	change(t, admin, m)
	testx.Eventually(t, patience, func() bool {
		for _, topic := range change(t, admin, kmsg.NewPtrMetadataRequest()).(*kmsg.MetadataResponse).Topics {
			if !topic.IsInternal {
				return false
			}
		}
		return true
	})
}

// guardedState makes what requests are about: topic t, group g, transactional id x.
func guardedState(t *testing.T, admin *kgo.Client) *guardEnv {
	t.Helper()
	create := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 1, 1
	create.Topics = []kmsg.CreateTopicsRequestTopic{topic}
	env := &guardEnv{topic: change(t, admin, create).(*kmsg.CreateTopicsResponse).Topics[0].TopicID}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "g", -1
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = 0
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", TopicID: env.topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	change(t, admin, commit)
	change(t, admin, producerOf("x")(env, 0))
	return env
}

var everyRefusal = []int16{topicRefused, groupRefused, clusterRefused, txnRefused, 58, 65}

func (g *guard) check(t *testing.T, who *guest, admin *kgo.Client, env *guardEnv, from, to int16) {
	t.Helper()
	noACLs(t, admin)
	// What comes behind the right that is asked about is there from the start.
	first := slices.Clone(g.need[1:])
	switch g.code {
	case topicRefused:
		first = append(first, "all group g", "all group c", "all txn x")
	case groupRefused:
		first = append(first, "all topic t", "all txn x")
	}
	change(t, admin, acls(who.principal, allows, first...))
	r := who.dial(t)
	for v := from; v <= to; v++ {
		resp := r.ask(at(g.ask(env, v), v))
		if g.shows != nil {
			if g.shows(env, resp) {
				t.Errorf("version %d shows what it should not", v)
			}
			continue
		}
		got := map[int16]bool{}
		if codes(reflect.ValueOf(resp), got); !got[g.code] || len(got) > 1 {
			t.Errorf("version %d, without the right: %v, want %v", v, got, kerr.ErrorForCode(g.code))
		}
	}
	change(t, admin, acls(who.principal, allows, g.need...))
	for v := from; v <= to; v++ {
		resp := r.ask(at(g.ask(env, v), v))
		got := map[int16]bool{}
		codes(reflect.ValueOf(resp), got)
		for _, code := range everyRefusal {
			if got[code] {
				t.Errorf("version %d, with the right: %v", v, kerr.ErrorForCode(code))
			}
		}
		if g.shows != nil && !g.shows(env, resp) {
			t.Errorf("version %d does not show what it should", v)
		}
	}
}

func at(req kmsg.Request, v int16) kmsg.Request {
	req.SetVersion(v)
	return req
}
