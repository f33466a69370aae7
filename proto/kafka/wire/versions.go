package wire

import "strconv"

// APIKey names an API.
type APIKey int16

// The APIs of a broker of Apache Kafka 4.3.
const (
	Produce                      APIKey = 0
	Fetch                        APIKey = 1
	ListOffsets                  APIKey = 2
	Metadata                     APIKey = 3
	OffsetCommit                 APIKey = 8
	OffsetFetch                  APIKey = 9
	FindCoordinator              APIKey = 10
	JoinGroup                    APIKey = 11
	Heartbeat                    APIKey = 12
	LeaveGroup                   APIKey = 13
	SyncGroup                    APIKey = 14
	DescribeGroups               APIKey = 15
	ListGroups                   APIKey = 16
	SASLHandshake                APIKey = 17
	APIVersions                  APIKey = 18
	CreateTopics                 APIKey = 19
	DeleteTopics                 APIKey = 20
	DeleteRecords                APIKey = 21
	InitProducerID               APIKey = 22
	OffsetForLeaderEpoch         APIKey = 23
	AddPartitionsToTxn           APIKey = 24
	AddOffsetsToTxn              APIKey = 25
	EndTxn                       APIKey = 26
	WriteTxnMarkers              APIKey = 27
	TxnOffsetCommit              APIKey = 28
	DescribeACLs                 APIKey = 29
	CreateACLs                   APIKey = 30
	DeleteACLs                   APIKey = 31
	DescribeConfigs              APIKey = 32
	AlterConfigs                 APIKey = 33
	AlterReplicaLogDirs          APIKey = 34
	DescribeLogDirs              APIKey = 35
	SASLAuthenticate             APIKey = 36
	CreatePartitions             APIKey = 37
	CreateDelegationToken        APIKey = 38
	RenewDelegationToken         APIKey = 39
	ExpireDelegationToken        APIKey = 40
	DescribeDelegationToken      APIKey = 41
	DeleteGroups                 APIKey = 42
	ElectLeaders                 APIKey = 43
	IncrementalAlterConfigs      APIKey = 44
	AlterPartitionReassignments  APIKey = 45
	ListPartitionReassignments   APIKey = 46
	OffsetDelete                 APIKey = 47
	DescribeClientQuotas         APIKey = 48
	AlterClientQuotas            APIKey = 49
	DescribeUserScramCredentials APIKey = 50
	AlterUserScramCredentials    APIKey = 51
	DescribeQuorum               APIKey = 55
	UpdateFeatures               APIKey = 57
	DescribeCluster              APIKey = 60
	DescribeProducers            APIKey = 61
	UnregisterBroker             APIKey = 64
	DescribeTransactions         APIKey = 65
	ListTransactions             APIKey = 66
	ConsumerGroupHeartbeat       APIKey = 68
	ConsumerGroupDescribe        APIKey = 69
	GetTelemetrySubscriptions    APIKey = 71
	PushTelemetry                APIKey = 72
	ListConfigResources          APIKey = 74
	DescribeTopicPartitions      APIKey = 75
	ShareGroupHeartbeat          APIKey = 76
	ShareGroupDescribe           APIKey = 77
	ShareFetch                   APIKey = 78
	ShareAcknowledge             APIKey = 79
	AddRaftVoter                 APIKey = 80
	RemoveRaftVoter              APIKey = 81
	InitializeShareGroupState    APIKey = 83
	ReadShareGroupState          APIKey = 84
	WriteShareGroupState         APIKey = 85
	DeleteShareGroupState        APIKey = 86
	ReadShareGroupStateSummary   APIKey = 87
	StreamsGroupHeartbeat        APIKey = 88
	StreamsGroupDescribe         APIKey = 89
	DescribeShareGroupOffsets    APIKey = 90
	AlterShareGroupOffsets       APIKey = 91
	DeleteShareGroupOffsets      APIKey = 92
)

// never is the first flexible version of an API that has none.
const never = 1<<15 - 1

// api is what the schema of an API says of its versions.
type api struct {
	name     string
	min, max int16
	flexible int16 // first version whose request and response have tagged fields
}

// apis has the APIs that a broker's listener of Apache Kafka 4.3 takes, with the versions that it advertises: none that is marked
// unstable. An entry without a name does not exist.
var apis = [...]api{
	Produce:                      {"Produce", 3, 13, 9},
	Fetch:                        {"Fetch", 4, 18, 12},
	ListOffsets:                  {"ListOffsets", 1, 11, 6},
	Metadata:                     {"Metadata", 0, 13, 9},
	OffsetCommit:                 {"OffsetCommit", 2, 10, 8},
	OffsetFetch:                  {"OffsetFetch", 1, 10, 6},
	FindCoordinator:              {"FindCoordinator", 0, 6, 3},
	JoinGroup:                    {"JoinGroup", 0, 9, 6},
	Heartbeat:                    {"Heartbeat", 0, 4, 4},
	LeaveGroup:                   {"LeaveGroup", 0, 5, 4},
	SyncGroup:                    {"SyncGroup", 0, 5, 4},
	DescribeGroups:               {"DescribeGroups", 0, 6, 5},
	ListGroups:                   {"ListGroups", 0, 5, 3},
	SASLHandshake:                {"SaslHandshake", 0, 1, never},
	APIVersions:                  {"ApiVersions", 0, 4, 3},
	CreateTopics:                 {"CreateTopics", 2, 7, 5},
	DeleteTopics:                 {"DeleteTopics", 1, 6, 4},
	DeleteRecords:                {"DeleteRecords", 0, 2, 2},
	InitProducerID:               {"InitProducerId", 0, 5, 2},
	OffsetForLeaderEpoch:         {"OffsetForLeaderEpoch", 2, 4, 4},
	AddPartitionsToTxn:           {"AddPartitionsToTxn", 0, 5, 3},
	AddOffsetsToTxn:              {"AddOffsetsToTxn", 0, 4, 3},
	EndTxn:                       {"EndTxn", 0, 5, 3},
	WriteTxnMarkers:              {"WriteTxnMarkers", 1, 2, 1},
	TxnOffsetCommit:              {"TxnOffsetCommit", 0, 5, 3},
	DescribeACLs:                 {"DescribeAcls", 1, 3, 2},
	CreateACLs:                   {"CreateAcls", 1, 3, 2},
	DeleteACLs:                   {"DeleteAcls", 1, 3, 2},
	DescribeConfigs:              {"DescribeConfigs", 1, 4, 4},
	AlterConfigs:                 {"AlterConfigs", 0, 2, 2},
	AlterReplicaLogDirs:          {"AlterReplicaLogDirs", 1, 2, 2},
	DescribeLogDirs:              {"DescribeLogDirs", 1, 5, 2},
	SASLAuthenticate:             {"SaslAuthenticate", 0, 2, 2},
	CreatePartitions:             {"CreatePartitions", 0, 3, 2},
	CreateDelegationToken:        {"CreateDelegationToken", 1, 3, 2},
	RenewDelegationToken:         {"RenewDelegationToken", 1, 2, 2},
	ExpireDelegationToken:        {"ExpireDelegationToken", 1, 2, 2},
	DescribeDelegationToken:      {"DescribeDelegationToken", 1, 3, 2},
	DeleteGroups:                 {"DeleteGroups", 0, 2, 2},
	ElectLeaders:                 {"ElectLeaders", 0, 2, 2},
	IncrementalAlterConfigs:      {"IncrementalAlterConfigs", 0, 1, 1},
	AlterPartitionReassignments:  {"AlterPartitionReassignments", 0, 1, 0},
	ListPartitionReassignments:   {"ListPartitionReassignments", 0, 0, 0},
	OffsetDelete:                 {"OffsetDelete", 0, 0, never},
	DescribeClientQuotas:         {"DescribeClientQuotas", 0, 1, 1},
	AlterClientQuotas:            {"AlterClientQuotas", 0, 1, 1},
	DescribeUserScramCredentials: {"DescribeUserScramCredentials", 0, 0, 0},
	AlterUserScramCredentials:    {"AlterUserScramCredentials", 0, 0, 0},
	DescribeQuorum:               {"DescribeQuorum", 0, 2, 0},
	UpdateFeatures:               {"UpdateFeatures", 0, 2, 0},
	DescribeCluster:              {"DescribeCluster", 0, 2, 0},
	DescribeProducers:            {"DescribeProducers", 0, 0, 0},
	UnregisterBroker:             {"UnregisterBroker", 0, 0, 0},
	DescribeTransactions:         {"DescribeTransactions", 0, 0, 0},
	ListTransactions:             {"ListTransactions", 0, 2, 0},
	ConsumerGroupHeartbeat:       {"ConsumerGroupHeartbeat", 0, 1, 0},
	ConsumerGroupDescribe:        {"ConsumerGroupDescribe", 0, 1, 0},
	GetTelemetrySubscriptions:    {"GetTelemetrySubscriptions", 0, 0, 0},
	PushTelemetry:                {"PushTelemetry", 0, 0, 0},
	ListConfigResources:          {"ListConfigResources", 0, 1, 0},
	DescribeTopicPartitions:      {"DescribeTopicPartitions", 0, 0, 0},
	ShareGroupHeartbeat:          {"ShareGroupHeartbeat", 1, 1, 0},
	ShareGroupDescribe:           {"ShareGroupDescribe", 1, 1, 0},
	ShareFetch:                   {"ShareFetch", 1, 2, 0},
	ShareAcknowledge:             {"ShareAcknowledge", 1, 2, 0},
	AddRaftVoter:                 {"AddRaftVoter", 0, 1, 0},
	RemoveRaftVoter:              {"RemoveRaftVoter", 0, 0, 0},
	InitializeShareGroupState:    {"InitializeShareGroupState", 0, 0, 0},
	ReadShareGroupState:          {"ReadShareGroupState", 0, 0, 0},
	WriteShareGroupState:         {"WriteShareGroupState", 0, 1, 0},
	DeleteShareGroupState:        {"DeleteShareGroupState", 0, 0, 0},
	ReadShareGroupStateSummary:   {"ReadShareGroupStateSummary", 0, 1, 0},
	StreamsGroupHeartbeat:        {"StreamsGroupHeartbeat", 0, 0, 0},
	StreamsGroupDescribe:         {"StreamsGroupDescribe", 0, 0, 0},
	DescribeShareGroupOffsets:    {"DescribeShareGroupOffsets", 0, 1, 0},
	AlterShareGroupOffsets:       {"AlterShareGroupOffsets", 0, 0, 0},
	DeleteShareGroupOffsets:      {"DeleteShareGroupOffsets", 0, 0, 0},
}

// Versions is a range of versions of an API, both ends included.
type Versions struct{ Min, Max int16 }

// Has tells whether v is in the range.
func (r Versions) Has(v int16) bool { return v >= r.Min && v <= r.Max }

// Versions is the range that can be decoded and answered; ok is false if there is no such API.
func (k APIKey) Versions() (r Versions, ok bool) {
	if !k.Known() {
		return Versions{}, false
	}
	return Versions{apis[k].min, apis[k].max}, true
}

// Advertised is the range to name in an ApiVersions response. It differs from Versions for Produce alone: librdkafka takes a
// broker that does not name version 0 for one without Produce at all (KAFKA-18659), so Kafka names 0 to 2 and refuses them.
func (k APIKey) Advertised() (r Versions, ok bool) {
	r, ok = k.Versions()
	if k == Produce {
		r.Min = 0
	}
	return r, ok
}

// Known tells whether there is such an API.
func (k APIKey) Known() bool { return k >= 0 && int(k) < len(apis) && apis[k].name != "" }

// Flexible tells whether version v of an API that is Known has compact lengths and tagged fields. A request of such a version has
// header version 2, else 1; its response has header version 1, else 0, but for ApiVersions, whose response always has 0.
func (k APIKey) Flexible(v int16) bool { return v >= apis[k].flexible }

// String gives the API's name as Kafka writes it.
func (k APIKey) String() string {
	if k.Known() {
		return apis[k].name
	}
	return "APIKey(" + strconv.Itoa(int(k)) + ")"
}

// APIKeys calls f for each API in the order of the keys, until f returns false.
func APIKeys(f func(APIKey) bool) {
	for k := range APIKey(len(apis)) {
		if k.Known() && !f(k) {
			return
		}
	}
}
