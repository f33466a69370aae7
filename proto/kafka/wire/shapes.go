package wire

// shapes has what the requests look like that are read by kmsg: parseShape says how to read one. Produce and Fetch have none.
var shapes = func() (table [len(apis)][]field) {
	for k, text := range shapeTexts {
		if text != "" {
			table[k] = parseShape(text)
		}
	}
	return table
}()

// shapeTexts was written down after the message schemas of Apache Kafka 4.3. Versions that it does not take are left out.
var shapeTexts = [len(apis)]string{
	ListOffsets:                  "4 1@2 [ { s [ { 4 4@4 8 } ] } ] 4@10",
	Metadata:                     "[ { 16@10 s?10 } ]?1 1@4 1@8-10 1@8",
	OffsetCommit:                 "s 4 s s?@7 8@2-4 [ { s@2-9 16@10 [ { 4 8 4@6 s? } ] } ]",
	OffsetFetch:                  "s@1-7 [ { s [ 4 ] } ]?2@1-7 [ { s s?@9 4@9 [ { s@8-9 16@10 [ 4 ] } ]? } ]@8 1@7",
	FindCoordinator:              "s@0-3 1@1 [ s ]@4",
	JoinGroup:                    "s 4 4@1 s s?@5 s [ { s b } ] s?@8",
	Heartbeat:                    "s 4 s s?@3",
	LeaveGroup:                   "s s@0-2 [ { s s? s?@5 } ]@3",
	SyncGroup:                    "s 4 s s?@3 s?@5 s?@5 [ { s b } ]",
	DescribeGroups:               "[ s ] 1@3",
	ListGroups:                   "[ s ]@4 [ s ]@5",
	SASLHandshake:                "s",
	APIVersions:                  "s@3 s@3",
	CreateTopics:                 "[ { s 4 2 [ { 4 [ 4 ] } ] [ { s s? } ] } ] 4 1",
	DeleteTopics:                 "[ { s? 16 } ]@6 [ s ]@1-5 4",
	DeleteRecords:                "[ { s [ { 4 8 } ] } ] 4",
	InitProducerID:               "s? 4 8@3 2@3",
	OffsetForLeaderEpoch:         "4@3 [ { s [ { 4 4 4 } ] } ]",
	AddPartitionsToTxn:           "[ { s 8 2 1 [ { s [ 4 ] } ] } ]@4 s@0-3 8@0-3 2@0-3 [ { s [ 4 ] } ]@0-3",
	AddOffsetsToTxn:              "s 8 2 s",
	EndTxn:                       "s 8 2 1",
	WriteTxnMarkers:              "[ { 8 2 1 [ { s [ 4 ] } ] 4 1@2 } ]",
	TxnOffsetCommit:              "s s 8 2 4@3 s@3 s?@3 [ { s [ { 4 8 4@2 s? } ] } ]",
	DescribeACLs:                 "1 s? 1 s? s? 1 1",
	CreateACLs:                   "[ { 1 s 1 s s 1 1 } ]",
	DeleteACLs:                   "[ { 1 s? 1 s? s? 1 1 } ]",
	DescribeConfigs:              "[ { 1 s [ s ]? } ] 1 1@3",
	AlterConfigs:                 "[ { 1 s [ { s s? } ] } ] 1",
	AlterReplicaLogDirs:          "[ { s [ { s [ 4 ] } ] } ]",
	DescribeLogDirs:              "[ { s [ 4 ] } ]?",
	SASLAuthenticate:             "b",
	CreatePartitions:             "[ { s 4 [ { [ 4 ] } ]? } ] 4 1",
	CreateDelegationToken:        "s?@3 s?@3 [ { s s } ] 8",
	RenewDelegationToken:         "b 8",
	ExpireDelegationToken:        "b 8",
	DescribeDelegationToken:      "[ { s s } ]?",
	DeleteGroups:                 "[ s ]",
	ElectLeaders:                 "1@1 [ { s [ 4 ] } ]? 4",
	IncrementalAlterConfigs:      "[ { 1 s [ { s 1 s? } ] } ] 1",
	AlterPartitionReassignments:  "4 1@1 [ { s [ { 4 [ 4 ]? } ] } ]",
	ListPartitionReassignments:   "4 [ { s [ 4 ] } ]?",
	OffsetDelete:                 "s [ { s [ { 4 } ] } ]",
	DescribeClientQuotas:         "[ { s 1 s? } ] 1",
	AlterClientQuotas:            "[ { [ { s s? } ] [ { s 8 1 } ] } ] 1",
	DescribeUserScramCredentials: "[ { s } ]?",
	AlterUserScramCredentials:    "[ { s 1 } ] [ { s 1 4 b b } ]",
	DescribeQuorum:               "[ { s [ { 4 } ] } ]",
	UpdateFeatures:               "4 [ { s 2 1@0-0 1@1 } ] 1@1",
	DescribeCluster:              "1 1@1 1@2",
	DescribeProducers:            "[ { s [ 4 ] } ]",
	UnregisterBroker:             "4",
	DescribeTransactions:         "[ s ]",
	ListTransactions:             "[ s ] [ 8 ] 8@1 s?@2",
	ConsumerGroupHeartbeat:       "s s 4 s? s? 4 [ s ]? s?@1 s? [ { 16 [ 4 ] } ]?",
	ConsumerGroupDescribe:        "[ s ] 1",
	GetTelemetrySubscriptions:    "16",
	PushTelemetry:                "16 4 1 1 b",
	ListConfigResources:          "[ 1 ]@1",
	DescribeTopicPartitions:      "[ { s } ] 4 { s 4 }?",
	ShareGroupHeartbeat:          "s s 4 s? [ s ]?",
	ShareGroupDescribe:           "[ s ] 1",
	ShareFetch:                   "s? s? 4 4 4 4 4 4 1@2 1@2 [ { 16 [ { 4 [ { 8 8 [ 1 ] } ] } ] } ] [ { 16 [ 4 ] } ]",
	ShareAcknowledge:             "s? s? 4 1@2 [ { 16 [ { 4 [ { 8 8 [ 1 ] } ] } ] } ]",
	AddRaftVoter:                 "s? 4 4 16 [ { s s 2 } ] 1@1",
	RemoveRaftVoter:              "s? 4 16",
	InitializeShareGroupState:    "s [ { 16 [ { 4 4 8 } ] } ]",
	ReadShareGroupState:          "s [ { 16 [ { 4 4 } ] } ]",
	WriteShareGroupState:         "s [ { 16 [ { 4 4 4 8 4@1 [ { 8 8 1 2 } ] } ] } ]",
	DeleteShareGroupState:        "s [ { 16 [ { 4 } ] } ]",
	ReadShareGroupStateSummary:   "s [ { 16 [ { 4 4 } ] } ]",
	StreamsGroupHeartbeat: "s s 4 4 s? s? 4 { 4 [ { s [ s ] [ s ] [ { s 4 2 [ { s s } ] } ] [ s ] [ { s 4 2 [ { s s } ] } ] " +
		"[ { [ 2 ] [ 2 ] [ 2 ] } ] } ] }? [ { s [ 4 ] } ]? [ { s [ 4 ] } ]? [ { s [ 4 ] } ]? s? { s 2 }? " +
		"[ { s s } ]? [ { s 4 8 } ]? [ { s 4 8 } ]? 1",
	StreamsGroupDescribe:      "[ s ] 1",
	DescribeShareGroupOffsets: "[ { s [ { s [ 4 ] } ]? } ]",
	AlterShareGroupOffsets:    "s [ { s [ { 4 8 } ] } ]",
	DeleteShareGroupOffsets:   "s [ { s } ]",
}

// What members of a classic group tell one another in the protocol "consumer", behind the two bytes of the version. A version from
// the future begins with all of these fields.
var (
	subscriptionShape = parseShape("[ s ] b? [ { s [ 4 ] } ]@1 4@2 s?@3")
	assignmentShape   = parseShape("[ { s [ 4 ] } ] b?")
)
