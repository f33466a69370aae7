package server

import (
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	kwire "github.com/sluicemq/sluice/proto/kafka/wire"
)

const clusterRefused = int16(kwire.ClusterAuthorizationFailed)

// fill gives a tenant a topic, a group, a transactional id, a rule, a quota and a user, all called after it.
func (c *tenantConn) fill(name string) {
	c.t.Helper()
	if code, why := c.create(name); code != 0 {
		c.t.Fatal(name, code, why)
	}
	if code := c.produce(name, [16]byte{}, name); code != 0 {
		c.t.Fatal(name, code)
	}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = name, -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: name, Partitions: []kmsg.OffsetCommitRequestTopicPartition{kmsg.NewOffsetCommitRequestTopicPartition()}}}
	if got := c.ask(commit, 8).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 {
		c.t.Fatalf("%s: %+v", name, got)
	}
	txn := kmsg.NewPtrInitProducerIDRequest()
	txn.TransactionalID, txn.TransactionTimeoutMillis = &name, 10000
	if got := c.ask(txn, 4).(*kmsg.InitProducerIDResponse); got.ErrorCode != 0 {
		c.t.Fatalf("%s: %+v", name, got)
	}
	acl := kmsg.NewPtrCreateACLsRequest()
	acl.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: name, ResourcePatternType: kmsg.ACLResourcePatternTypeLiteral,
		Principal: "User:" + name, Host: "*", Operation: kmsg.ACLOperationRead, PermissionType: kmsg.ACLPermissionTypeAllow}}
	if got := c.ask(acl, 3).(*kmsg.CreateACLsResponse).Results[0]; got.ErrorCode != 0 {
		c.t.Fatalf("%s: %+v", name, got)
	}
	if code := c.quota("user", name, 1e6); code != 0 {
		c.t.Fatal(name, code)
	}
	if code, why := c.user(name, 4096); code != 0 {
		c.t.Fatal(name, code, why)
	}
}

// quota sets a quota of production, or of connections for an ip.
func (c *tenantConn) quota(kind, name string, rate float64) int16 {
	c.t.Helper()
	key := "producer_byte_rate"
	if kind == "ip" {
		key = "connection_creation_rate"
	}
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.Entries = []kmsg.AlterClientQuotasRequestEntry{{Entity: []kmsg.AlterClientQuotasRequestEntryEntity{{Type: kind, Name: &name}},
		Ops: []kmsg.AlterClientQuotasRequestEntryOp{{Key: key, Value: rate}}}}
	return c.ask(req, 1).(*kmsg.AlterClientQuotasResponse).Entries[0].ErrorCode
}

// user gives a user a SCRAM credential, or takes it away: 0 iterations.
func (c *tenantConn) user(name string, iterations int32) (code int16, why string) {
	c.t.Helper()
	req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	if iterations == 0 {
		req.Deletions = []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: name, Mechanism: 1}}
	} else {
		req.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{{Name: name, Mechanism: 1, Iterations: iterations, Salt: []byte("salt"), SaltedPassword: []byte("salted")}}
	}
	r := &c.ask(req, 0).(*kmsg.AlterUserSCRAMCredentialsResponse).Results[0]
	if r.ErrorMessage != nil {
		why = *r.ErrorMessage
	}
	return r.ErrorCode, why
}

// tenantLists are the requests that list, and what of their answers has names.
var tenantLists = map[string]func(c *tenantConn) []string{
	"Metadata": func(c *tenantConn) []string { return c.names() },
	"ListGroups": func(c *tenantConn) (list []string) {
		for _, g := range c.ask(kmsg.NewPtrListGroupsRequest(), 4).(*kmsg.ListGroupsResponse).Groups {
			list = append(list, g.Group)
		}
		return list
	},
	"ListTransactions": func(c *tenantConn) (list []string) {
		for _, g := range c.ask(kmsg.NewPtrListTransactionsRequest(), 1).(*kmsg.ListTransactionsResponse).TransactionStates {
			list = append(list, g.TransactionalID)
		}
		return list
	},
	"DescribeTopicPartitions": func(c *tenantConn) (list []string) {
		for _, g := range c.ask(kmsg.NewPtrDescribeTopicPartitionsRequest(), 0).(*kmsg.DescribeTopicPartitionsResponse).Topics {
			list = append(list, *g.Topic)
		}
		return list
	},
	"DescribeLogDirs": func(c *tenantConn) (list []string) {
		for _, d := range c.ask(kmsg.NewPtrDescribeLogDirsRequest(), 4).(*kmsg.DescribeLogDirsResponse).Dirs {
			for _, g := range d.Topics {
				list = append(list, g.Topic)
			}
		}
		return list
	},
	"ListConfigResources": func(c *tenantConn) (list []string) {
		req := kmsg.NewPtrListConfigResourcesRequest()
		req.ResourceTypes = []int8{int8(kmsg.ConfigResourceTypeTopic)}
		for _, g := range c.ask(req, 1).(*kmsg.ListConfigResourcesResponse).ConfigResources {
			list = append(list, g.Name)
		}
		return list
	},
	"DescribeACLs": func(c *tenantConn) (list []string) {
		req := kmsg.NewPtrDescribeACLsRequest()
		req.ResourceType, req.ResourcePatternType, req.Operation, req.PermissionType = 1, 1, 1, 1
		for _, g := range c.ask(req, 3).(*kmsg.DescribeACLsResponse).Resources {
			list = append(list, g.ResourceName)
		}
		return list
	},
	"DescribeClientQuotas": func(c *tenantConn) (list []string) {
		for _, g := range c.ask(kmsg.NewPtrDescribeClientQuotasRequest(), 1).(*kmsg.DescribeClientQuotasResponse).Entries {
			list = append(list, *g.Entity[0].Name)
		}
		return list
	},
	"DescribeUserScramCredentials": func(c *tenantConn) (list []string) {
		for _, g := range c.ask(kmsg.NewPtrDescribeUserSCRAMCredentialsRequest(), 0).(*kmsg.DescribeUserSCRAMCredentialsResponse).Results {
			list = append(list, g.User)
		}
		return list
	},
}

// Every request that lists shows what is the client's tenant's, and nothing else, also when the node has started anew.
func TestTenantsKafkaLists(t *testing.T) {
	w := newTenantsNode(t)
	own := map[string]string{"ann": "alone", "bob": "both", "cid": "coin"}
	for user, name := range own {
		w.dial(user).fill(name)
	}
	for _, when := range []string{"at once", "after a restart"} {
		for user, name := range own {
			c := w.dial(user)
			for what, list := range tenantLists {
				got := slices.DeleteFunc(list(c), func(s string) bool { return s == broker.OffsetsTopic })
				if !slices.Equal(got, []string{name}) {
					t.Errorf("%s: %s shows %s %q, want %q", when, what, user, got, name)
				}
			}
		}
		if when == "at once" {
			w.restart()
		}
	}
	bob := w.dial("bob")
	dir := bob.ask(kmsg.NewPtrDescribeLogDirsRequest(), 4).(*kmsg.DescribeLogDirsResponse).Dirs[0]
	if dir.Dir != "log" || dir.TotalBytes != -1 || dir.UsableBytes != -1 {
		t.Errorf("a tenant is told of the node's volume: %q, %d, %d", dir.Dir, dir.TotalBytes, dir.UsableBytes)
	}
	byName(t, bob)
}

// byName asks bob's connection for what ann's tenant has, by name.
func byName(t *testing.T, bob *tenantConn) {
	t.Helper()
	groups := kmsg.NewPtrDescribeGroupsRequest()
	groups.Groups = []string{"alone"}
	if got := bob.ask(groups, 6).(*kmsg.DescribeGroupsResponse).Groups[0]; got.ErrorCode != int16(kwire.GroupIDNotFound) {
		t.Errorf("DescribeGroups: %+v", got)
	}
	txns := kmsg.NewPtrDescribeTransactionsRequest()
	txns.TransactionalIDs = []string{"alone"}
	if got := bob.ask(txns, 0).(*kmsg.DescribeTransactionsResponse).TransactionStates[0]; got.ErrorCode != int16(kwire.TransactionalIDNotFound) {
		t.Errorf("DescribeTransactions: %+v", got)
	}
	drop := kmsg.NewPtrDeleteGroupsRequest()
	drop.Groups = []string{"alone"}
	if got := bob.ask(drop, 2).(*kmsg.DeleteGroupsResponse).Groups[0]; got.ErrorCode != int16(kwire.GroupIDNotFound) {
		t.Errorf("DeleteGroups: %+v", got)
	}
	producers := kmsg.NewPtrDescribeProducersRequest()
	producers.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "alone", Partitions: []int32{0}}}
	if got := bob.ask(producers, 0).(*kmsg.DescribeProducersResponse).Topics[0].Partitions[0]; got.ErrorCode != int16(kwire.UnknownTopicOrPartition) {
		t.Errorf("DescribeProducers: %+v", got)
	}
	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "alone"}, {ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "0"}}
	got := bob.ask(configs, 4).(*kmsg.DescribeConfigsResponse).Resources
	if got[0].ErrorCode != int16(kwire.UnknownTopicOrPartition) {
		t.Errorf("DescribeConfigs: %+v", got[0])
	}
	if got[1].ErrorCode != 0 || len(got[1].Configs) == 0 {
		t.Errorf("what topics have without being told is the tenant's as well: %+v", got[1])
	}
	acls := kmsg.NewPtrDeleteACLsRequest()
	acls.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 1, ResourcePatternType: 1, Operation: 1, PermissionType: 1}}
	if got := bob.ask(acls, 3).(*kmsg.DeleteACLsResponse).Results[0]; got.ErrorCode != 0 || len(got.MatchingACLs) != 1 || got.MatchingACLs[0].ResourceName != "both" {
		t.Errorf("DeleteACLs: %+v", got)
	}
}

// nodeRequests are about the node, or about all tenants: each gives the code that it is answered with.
var nodeRequests = map[string]func(c *tenantConn) int16{
	"AlterConfigs": func(c *tenantConn) int16 {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "0"}}
		return c.ask(req, 2).(*kmsg.AlterConfigsResponse).Resources[0].ErrorCode
	},
	"IncrementalAlterConfigs": func(c *tenantConn) int16 {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "0"}}
		return c.ask(req, 1).(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode
	},
	"UpdateFeatures": func(c *tenantConn) int16 {
		return c.ask(kmsg.NewPtrUpdateFeaturesRequest(), 1).(*kmsg.UpdateFeaturesResponse).ErrorCode
	},
	"ElectLeaders": func(c *tenantConn) int16 {
		return c.ask(kmsg.NewPtrElectLeadersRequest(), 2).(*kmsg.ElectLeadersResponse).ErrorCode
	},
	"AlterPartitionReassignments": func(c *tenantConn) int16 {
		return c.ask(kmsg.NewPtrAlterPartitionAssignmentsRequest(), 0).(*kmsg.AlterPartitionAssignmentsResponse).ErrorCode
	},
	"UnregisterBroker": func(c *tenantConn) int16 {
		return c.ask(kmsg.NewPtrUnregisterBrokerRequest(), 0).(*kmsg.UnregisterBrokerResponse).ErrorCode
	},
	"DescribeQuorum": func(c *tenantConn) int16 {
		return c.ask(kmsg.NewPtrDescribeQuorumRequest(), 1).(*kmsg.DescribeQuorumResponse).ErrorCode
	},
	"WriteTxnMarkers": func(c *tenantConn) int16 {
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Markers = []kmsg.WriteTxnMarkersRequestMarker{{Topics: []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{0}}}}}
		return c.ask(req, 1).(*kmsg.WriteTxnMarkersResponse).Markers[0].Topics[0].Partitions[0].ErrorCode
	},
	"AddPartitionsToTxn of nodes": func(c *tenantConn) int16 {
		return c.ask(kmsg.NewPtrAddPartitionsToTxnRequest(), 4).(*kmsg.AddPartitionsToTxnResponse).ErrorCode
	},
	"AlterReplicaLogDirs": func(c *tenantConn) int16 {
		req := kmsg.NewPtrAlterReplicaLogDirsRequest()
		req.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "t", Partitions: []int32{0}}}}}
		return c.ask(req, 2).(*kmsg.AlterReplicaLogDirsResponse).Topics[0].Partitions[0].ErrorCode
	},
	"AlterClientQuotas of an ip": func(c *tenantConn) int16 { return c.quota("ip", "10.0.0.1", 1e6) },
	"DescribeClientQuotas of ips": func(c *tenantConn) int16 {
		req := kmsg.NewPtrDescribeClientQuotasRequest()
		req.Components = []kmsg.DescribeClientQuotasRequestComponent{{EntityType: "ip", MatchType: 2}}
		return c.ask(req, 1).(*kmsg.DescribeClientQuotasResponse).ErrorCode
	},
	"FindCoordinator of share groups": func(c *tenantConn) int16 {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorType, req.CoordinatorKeys = 2, []string{"g:id:0"}
		return c.ask(req, 6).(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode
	},
}

// What is the node's is refused to a tenant's client that may do everything in its tenant, as to somebody without the right; the default tenant's is not.
func TestTenantsKafkaRefused(t *testing.T) {
	w := newTenantsNode(t)
	for _, user := range []string{"ann", "bob"} {
		c := w.dial(user)
		if code, why := c.create("t"); code != 0 {
			t.Fatal(code, why)
		}
		for what, ask := range nodeRequests {
			if code := ask(c); (code == clusterRefused) != (user == "bob") {
				t.Errorf("%s is answered %s with %v", what, user, kwire.ErrorCode(code))
			}
		}
		md := kmsg.NewPtrDescribeClusterRequest()
		md.IncludeClusterAuthorizedOperations = true
		bits := c.ask(md, 0).(*kmsg.DescribeClusterResponse).ClusterAuthorizedOperations
		if acts := bits&(1<<broker.OperationClusterAction) != 0; acts != (user == "ann") || bits&(1<<broker.OperationCreate) == 0 {
			t.Errorf("%s may do %b with the cluster", user, bits)
		}
	}
}

// Names of users are unique over all tenants: a tenant changes its own alone, and is told of no other's.
func TestTenantsKafkaUsers(t *testing.T) {
	w := newTenantsNode(t)
	ann, bob := w.dial("ann"), w.dial("bob")
	for c, name := range map[*tenantConn]string{ann: "root", bob: "bea"} {
		if code, why := c.user(name, 4096); code != 0 {
			t.Fatal(code, why)
		}
	}
	if u := w.n.catalog.Load().User("bea"); u == nil || u.Tenant != 1 {
		t.Fatalf("a tenant's user is %+v", u)
	}
	for _, tt := range []struct {
		c     *tenantConn
		name  string
		iters int32
		want  kwire.ErrorCode
	}{
		{bob, "root", 8192, kwire.UnacceptableCredential}, {bob, "root", 0, kwire.ResourceNotFound}, {bob, "nobody", 0, kwire.ResourceNotFound},
		{ann, "bea", 8192, kwire.UnacceptableCredential}, {ann, "bea", 0, kwire.ResourceNotFound},
	} {
		if code, why := tt.c.user(tt.name, tt.iters); kwire.ErrorCode(code) != tt.want || strings.Contains(why, "tenant") {
			t.Errorf("%s with %d: %v, %q", tt.name, tt.iters, kwire.ErrorCode(code), why)
		}
	}
	describe := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	describe.Users = []kmsg.DescribeUserSCRAMCredentialsRequestUser{{Name: "root"}, {Name: "nobody"}}
	for _, got := range bob.ask(describe, 0).(*kmsg.DescribeUserSCRAMCredentialsResponse).Results {
		if got.ErrorCode != int16(kwire.ResourceNotFound) || len(got.CredentialInfos) != 0 {
			t.Errorf("a tenant is told of %+v", got)
		}
	}
	s := w.n.catalog.Load()
	for name, tenant := range map[string]uint32{"root": 0, "bea": 1} {
		if u := s.User(name); u == nil || u.Tenant != tenant || u.SCRAM[0].Iterations != 4096 {
			t.Errorf("%s is %+v", name, u)
		}
	}
}

// Topics of a tenant have no history in a store, its changes are those of its own topics, and a quota counts for its own users.
func TestTenantsKafkaOwn(t *testing.T) {
	w := newTenantsNode(t)
	ann, bob := w.dial("ann"), w.dial("bob")
	yes := "true"
	if code, why := bob.create("t", kmsg.CreateTopicsRequestTopicConfig{Name: "remote.storage.enable", Value: &yes}); code != int16(kwire.InvalidConfig) || !strings.Contains(why, "default tenant") {
		t.Errorf("history of a tenant's topic: %d, %q", code, why)
	}
	for _, c := range []*tenantConn{ann, bob} {
		if code, why := c.create("t"); code != 0 {
			t.Fatal(code, why)
		}
	}
	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	alter.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "remote.storage.enable", Value: &yes}}}}
	got := bob.ask(alter, 1).(*kmsg.IncrementalAlterConfigsResponse).Resources[0]
	if got.ErrorCode != int16(kwire.InvalidConfig) || !strings.Contains(*got.ErrorMessage, "default tenant") {
		t.Errorf("history of a tenant's topic by a change: %+v", got)
	}
	minimum := "2"
	alter.Resources[0].Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "min.insync.replicas", Value: &minimum}}
	if got := bob.ask(alter, 1).(*kmsg.IncrementalAlterConfigsResponse).Resources[0]; got.ErrorCode != 0 {
		t.Errorf("a tenant changes its topic: %+v", got)
	}
	if n := w.n.broker.Topic(0, "t").Spec().Config.MinInsyncReplicas; n != 1 {
		t.Errorf("the other tenant's topic has min.insync.replicas=%d", n)
	}
	if code := bob.quota("user", "bob", 1); code != 0 {
		t.Fatal(code)
	}
	for _, tt := range []struct {
		tenant uint32
		bound  bool
	}{{0, false}, {1, true}, {2, false}} {
		if w.n.quotas.Bound(tt.tenant, "bob", "") != tt.bound {
			t.Errorf("tenant %d: bound is not %v", tt.tenant, tt.bound)
		}
	}
}

// A client that came in without a word and then says who it is has nothing of what it had begun in another tenant.
func TestTenantsKafkaMoves(t *testing.T) {
	w := newTenantsNode(t)
	ann, bob := w.dial("ann"), w.dial("bob")
	for _, c := range []*tenantConn{ann, bob} {
		if code, why := c.create("t"); code != 0 || c.produce("t", [16]byte{}, "v") != 0 {
			t.Fatal(code, why)
		}
	}
	c := w.anonymous()
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.SessionEpoch = -1, 1<<20, 0
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 1 << 20
	req.Topics = []kmsg.FetchRequestTopic{{TopicID: ann.topicID("t"), Partitions: []kmsg.FetchRequestTopicPartition{part}}}
	begun := c.ask(req, 16).(*kmsg.FetchResponse)
	if begun.ErrorCode != 0 || begun.SessionID == 0 || len(begun.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Fatalf("without a word: %+v", begun)
	}
	c.signIn("bob")
	next := kmsg.NewPtrFetchRequest()
	next.ReplicaID, next.MaxBytes, next.SessionID, next.SessionEpoch = -1, 1<<20, begun.SessionID, 1
	if got := c.ask(next, 16).(*kmsg.FetchResponse); got.ErrorCode != int16(kwire.FetchSessionIDNotFound) {
		t.Errorf("the session goes on in another tenant: %+v", got)
	}
	if c.topicID("t") != bob.topicID("t") {
		t.Error("it is in the tenant that it was in")
	}
}
