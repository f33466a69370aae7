package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A request about several topics is answered for those that the client may use, and refused for the others; what it may not know of is not
// shown.
func TestPartlyAuthorized(t *testing.T) {
	c := guarded(t)
	admin := c.client(asAdmin())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, name := range []string{"open", "closed"} {
		if r, err := kadm.NewClient(admin).CreateTopic(ctx, 1, 1, nil, name); err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
	change(t, admin, acls("User:ANONYMOUS", allows, "write topic open", "read topic open", "read group g"))
	cl := c.client(kgo.DisableIdempotentWrite())
	results := cl.ProduceSync(ctx, &kgo.Record{Topic: "open", Value: []byte("x")}, &kgo.Record{Topic: "closed", Value: []byte("x")})
	for _, r := range results {
		if want := map[string]error{"open": nil, "closed": kerr.TopicAuthorizationFailed}[r.Record.Topic]; !errors.Is(r.Err, want) {
			t.Errorf("produce to %s: %v, want %v", r.Record.Topic, r.Err, want)
		}
	}
	topics, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil || !slices.Equal(topics.Names(), []string{"open"}) {
		t.Errorf("topics: %v, %v", topics.Names(), err)
	}
	offsets, err := kadm.NewClient(cl).ListEndOffsets(ctx, "open")
	if o, ok := offsets.Lookup("open", 0); err != nil || !ok || o.Offset != 1 {
		t.Errorf("end of open: %v, %v", o, err)
	}
	// Both in one Fetch.
	r := c.raw()
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.MaxBytes, fetch.MaxWaitMillis, fetch.SessionEpoch = 12, 1<<20, 1, -1
	for _, name := range []string{"open", "closed"} {
		p := kmsg.NewFetchRequestTopicPartition()
		p.PartitionMaxBytes = 1 << 20
		fetch.Topics = append(fetch.Topics, kmsg.FetchRequestTopic{Topic: name, Partitions: []kmsg.FetchRequestTopicPartition{p}})
	}
	for _, topic := range r.ask(fetch).(*kmsg.FetchResponse).Topics {
		p := topic.Partitions[0]
		if topic.Topic == "open" && (p.ErrorCode != 0 || len(p.RecordBatches) == 0) || topic.Topic == "closed" && (p.ErrorCode != topicRefused || len(p.RecordBatches) > 0) {
			t.Errorf("fetch of %s: code %d, %d bytes", topic.Topic, p.ErrorCode, len(p.RecordBatches))
		}
	}
	// What is taken back counts at once, and what is given as well.
	change(t, admin, acls("User:ANONYMOUS", denies, "write topic open"))
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "open", Value: []byte("x")}).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Error("after a deny:", err)
	}
	noACLs(t, admin)
	change(t, admin, acls("User:*", allows, "all topic open"))
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "open", Value: []byte("x")}).FirstErr(); err != nil {
		t.Error("allowed again:", err)
	}
	c.crash()
	if n := len(listACLs(t, c.client(asAdmin()))); n != 1 {
		t.Errorf("%d ACLs after a crash, want 1", n)
	}
	if err := c.client(kgo.DisableIdempotentWrite()).ProduceSync(ctx, &kgo.Record{Topic: "closed", Value: []byte("x")}).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Error("after a crash:", err)
	}
}

func listACLs(t testing.TB, admin *kgo.Client) []kmsg.DescribeACLsResponseResource {
	t.Helper()
	m := kmsg.NewPtrDescribeACLsRequest()
	m.ResourceType, m.ResourcePatternType, m.Operation, m.PermissionType = 1, 1, 1, 1
	return change(t, admin, m).(*kmsg.DescribeACLsResponse).Resources
}

// The bits of what a client may do are Kafka's.
func TestAuthorizedOperations(t *testing.T) {
	c := guarded(t)
	admin := c.client(asAdmin())
	env := guardedState(t, admin)
	change(t, admin, acls("User:ANONYMOUS", allows, "write topic t", "delete group g", "alter_configs cluster kafka-cluster", "describe cluster kafka-cluster"))
	bits := func(ops ...int) (n int32) {
		for _, op := range ops {
			n |= 1 << op
		}
		return n
	}
	r := c.raw()
	meta := kmsg.NewPtrMetadataRequest()
	meta.Topics, meta.IncludeTopicAuthorizedOperations, meta.IncludeClusterAuthorizedOperations = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("t")}}, true, true
	got := r.ask(at(meta, 10)).(*kmsg.MetadataResponse)
	cluster := bits(8, 10, 11) // Describe, DescribeConfigs, AlterConfigs
	if ops := got.Topics[0].AuthorizedOperations; ops != bits(4, 8) {
		t.Errorf("topic: %b", ops)
	}
	if got.AuthorizedOperations != cluster {
		t.Errorf("cluster by Metadata: %b, want %b", got.AuthorizedOperations, cluster)
	}
	dc := kmsg.NewPtrDescribeClusterRequest()
	dc.IncludeClusterAuthorizedOperations = true
	if ops := r.ask(at(dc, 1)).(*kmsg.DescribeClusterResponse).ClusterAuthorizedOperations; ops != cluster {
		t.Errorf("cluster: %b, want %b", ops, cluster)
	}
	dg := kmsg.NewPtrDescribeGroupsRequest()
	dg.Groups, dg.IncludeAuthorizedOperations = []string{"g"}, true
	if ops := r.ask(at(dg, 5)).(*kmsg.DescribeGroupsResponse).Groups[0].AuthorizedOperations; ops != bits(6, 8) {
		t.Errorf("group: %b", ops)
	}
	change(t, admin, acls("User:ANONYMOUS", allows, "read group c", "describe topic t"))
	r.ask(at(consumerOf(env, 0), 1))
	cg := kmsg.NewPtrConsumerGroupDescribeRequest()
	cg.Groups, cg.IncludeAuthorizedOperations = []string{"c-0"}, true
	d := r.ask(at(cg, 1)).(*kmsg.ConsumerGroupDescribeResponse).Groups[0]
	if d.ErrorCode != 0 || d.AuthorizedOperations != bits(3, 8) || len(d.Members) != 1 {
		t.Errorf("consumer group: %d, %b, %d members", d.ErrorCode, d.AuthorizedOperations, len(d.Members))
	}
	noACLs(t, admin)
	change(t, admin, acls("User:ANONYMOUS", allows, "describe group c"))
	if d := r.ask(at(cg, 1)).(*kmsg.ConsumerGroupDescribeResponse).Groups[0]; d.ErrorCode != topicRefused || len(d.Members) > 0 {
		t.Errorf("a group with a topic that may not be described: %d, %d members", d.ErrorCode, len(d.Members))
	}
	r.ask(at(dc, 1))
	if ops := r.ask(at(dc, 1)).(*kmsg.DescribeClusterResponse).ClusterAuthorizedOperations; ops != 0 {
		t.Errorf("cluster, without the right to describe it: %b", ops)
	}
}

// A regular expression stands for the topics that the member may know of.
func TestRegexSeesWhatItMay(t *testing.T) {
	c := guarded(t)
	admin := c.client(asAdmin())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := kadm.NewClient(admin).CreateTopics(ctx, 1, 1, nil, "plant-a", "plant-b"); err != nil {
		t.Fatal(err)
	}
	change(t, admin, acls("User:ANONYMOUS", allows, "read group r", "read topic plant-a"))
	r := c.raw()
	m := consumerOf(nil, 0).(*kmsg.ConsumerGroupHeartbeatRequest)
	m.Group, m.SubscribedTopicNames, m.SubscribedTopicRegex = "r", nil, kmsg.StringPtr("plant-.*")
	resp := r.ask(at(m, 1)).(*kmsg.ConsumerGroupHeartbeatResponse)
	if resp.ErrorCode != 0 || resp.Assignment == nil || len(resp.Assignment.Topics) != 1 {
		t.Errorf("code %d, assigned %+v, want plant-a alone", resp.ErrorCode, resp.Assignment)
	}
}

// The ACL requests: filters, doubles, faults, what was deleted.
func TestACLRequests(t *testing.T) {
	c := guarded(t)
	admin := c.client(asAdmin())
	change(t, admin, acls("User:a", allows, "read topic orders", "write topic orders", "read topic other"))
	change(t, admin, acls("User:a", allows, "read topic orders")) // again
	change(t, admin, acls("User:b", denies, "all cluster kafka-cluster"))
	count := func(set func(m *kmsg.DescribeACLsRequest)) (n int) {
		m := kmsg.NewPtrDescribeACLsRequest()
		m.ResourceType, m.ResourcePatternType, m.Operation, m.PermissionType = 1, 1, 1, 1
		set(m)
		for _, r := range change(t, admin, m).(*kmsg.DescribeACLsResponse).Resources {
			n += len(r.ACLs)
		}
		return n
	}
	for what, want := range map[string]int{"all": 4, "topics": 3, "literal": 1, "match": 2, "reads": 2, "denials": 1, "of a": 3, "of nobody": 0, "from afar": 0} {
		got := count(func(m *kmsg.DescribeACLsRequest) {
			switch what {
			case "topics":
				m.ResourceType = 2
			case "literal":
				m.ResourcePatternType = 3
			case "match":
				m.ResourceType, m.ResourcePatternType, m.ResourceName = 2, 2, kmsg.StringPtr("orders-7")
			case "reads":
				m.Operation = 3
			case "denials":
				m.PermissionType = 2
			case "of a":
				m.Principal = kmsg.StringPtr("User:a")
			case "of nobody":
				m.Principal = kmsg.StringPtr("User:c")
			case "from afar":
				m.Host = kmsg.StringPtr("10.0.0.1")
			}
		})
		if got != want {
			t.Errorf("%s: %d ACLs, want %d", what, got, want)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for what, spoil := range map[string]func(k *kmsg.CreateACLsRequestCreation){
		"any type":      func(k *kmsg.CreateACLsRequestCreation) { k.ResourceType = 1 },
		"match pattern": func(k *kmsg.CreateACLsRequestCreation) { k.ResourcePatternType = 2 },
		"any operation": func(k *kmsg.CreateACLsRequestCreation) { k.Operation = 1 },
		"any right":     func(k *kmsg.CreateACLsRequestCreation) { k.PermissionType = 1 },
		"no name":       func(k *kmsg.CreateACLsRequestCreation) { k.ResourceName = "" },
		"no type":       func(k *kmsg.CreateACLsRequestCreation) { k.Principal = "a" },
		"a group":       func(k *kmsg.CreateACLsRequestCreation) { k.Principal = "Group:a" },
		"a host's name": func(k *kmsg.CreateACLsRequestCreation) { k.Host = "example.org" },
		"some cluster":  func(k *kmsg.CreateACLsRequestCreation) { k.ResourceType, k.ResourceName = 4, "x" },
		"long name":     func(k *kmsg.CreateACLsRequestCreation) { k.ResourceName = fmt.Sprintf("%09000d", 0) },
	} {
		m := acls("User:a", allows, "read topic orders", "read topic "+what[:2])
		spoil(&m.Creations[0])
		resp, err := admin.Request(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		if r := resp.(*kmsg.CreateACLsResponse).Results; r[0].ErrorCode != kerr.InvalidRequest.Code || r[1].ErrorCode != 0 {
			t.Errorf("%s: %d, and %d beside it", what, r[0].ErrorCode, r[1].ErrorCode)
		}
	}
	del := kmsg.NewPtrDeleteACLsRequest()
	del.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 2, ResourcePatternType: 1, ResourceName: kmsg.StringPtr("orders"), Operation: 1, PermissionType: 1},
		{ResourceType: 2, ResourcePatternType: 1, ResourceName: kmsg.StringPtr("missing"), Operation: 1, PermissionType: 1}}
	r := change(t, admin, del).(*kmsg.DeleteACLsResponse).Results
	if len(r[0].MatchingACLs) != 2 || len(r[1].MatchingACLs) != 0 {
		t.Errorf("deleted %d and %d, want 2 and 0", len(r[0].MatchingACLs), len(r[1].MatchingACLs))
	}
}

// MQTT clients are judged by the same ACLs: to publish is to write to the topic, to subscribe to read it.
func TestACLsOfMQTT(t *testing.T) {
	c := guarded(t)
	admin := c.client(asAdmin())
	change(t, admin, acls("User:ANONYMOUS", allows, "write topic plant/", "read topic plant/"))
	change(t, admin, acls("User:ANONYMOUS", denies, "read topic plant/key/"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: c.node.URL(), Connect: wire.Connect{ClientID: []byte("m"), CleanStart: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for filter, want := range map[string]wire.ReasonCode{"plant/#": wire.NotAuthorized, "plant/7/#": wire.GrantedQoS1, "plant": wire.GrantedQoS1, "#": wire.NotAuthorized,
		"plant/key": wire.NotAuthorized, "other": wire.NotAuthorized} {
		codes, err := cl.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 1})
		if err != nil || codes[0] != want {
			t.Errorf("subscribe to %s: %v, %v, want %v", filter, codes, err, want)
		}
	}
	for topic, refuses := range map[string]bool{"plant/7/x": false, "plant/key/x": false, "plants": true} {
		code, err := cl.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: 1, Payload: []byte("x")})
		if (err != nil) != refuses || code.Failed() != refuses {
			t.Errorf("publish to %s: %v, %v", topic, code, err)
		}
	}
	// What is taken back ends the subscription, and its client is told by being closed.
	change(t, admin, acls("User:ANONYMOUS", denies, "read topic plant/7/"))
	packets, err := cl.WaitClosed(patience)
	if n := len(packets); err != nil || n == 0 || packets[n-1].Type != wire.DISCONNECT {
		t.Errorf("after a deny of what it is subscribed to: %v, %v", packets, err)
	}
}
