package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	door "github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// byInitial lets everybody in: by PLAIN in the tenant that the first letter of the name says, a for the default one, and without a name in that.
type byInitial struct{}

func (b byInitial) Authenticate(_ context.Context, c broker.Credentials) (broker.Identity, error) {
	id, known, err := b.Quick(c)
	if !known {
		err = errors.New("it is always known")
	}
	return id, err
}

func (byInitial) Quick(c broker.Credentials) (broker.Identity, bool, error) {
	id := broker.Identity{User: c.Username, Remote: c.Remote.Addr()}
	if c.HasUsername {
		id.Tenant = uint32(c.Username[0] - 'a')
	}
	return id, true, nil
}

// TestReplicasOfTenants: two tenants' clients of one name begin at a follower, which has the leader make their topic, and are each given their own by both nodes, also when
// the lead has moved.
func TestReplicasOfTenants(t *testing.T) {
	tr := newTrio(t, 2, 0)
	set := door.DefaultSettings()
	set.NearestReplica = true
	for _, n := range tr.nodes {
		n.door.Set(set)
	}
	tr.lead(leaderAt)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	users := []string{"ann", "bob"}
	as := func(user string, opts ...kgo.Opt) *kgo.Client {
		return tr.client(followerAt, append(opts, kgo.SASL(plain.Auth{User: user, Pass: "-"}.AsMechanism()), kgo.AllowAutoTopicCreation(), kgo.ClientID("same"))...)
	}
	for round := range 2 {
		for i, user := range users {
			p := as(user, kgo.TransactionalID("x"))
			if err := p.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			produce(t, p, &kgo.Record{Topic: "t", Value: fmt.Append(nil, user, round)})
			if err := p.EndTransaction(ctx, kgo.TryCommit); err != nil {
				t.Fatal(err)
			}
			p.Close()
			part := tr.leading().b.Topic(uint32(i), "t").Partition(0)
			for _, n := range tr.nodes {
				testx.Eventually(t, patience, func() bool {
					topic := n.b.Topic(uint32(i), "t")
					return topic != nil && topic.Partition(0).HighWatermark() == part.HighWatermark()
				}, "the record on all nodes")
			}
		}
		for _, user := range users {
			c := as(user, kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
			if got := consume(t, c, 1); len(got) != 1 || string(got[0].Value) != fmt.Sprint(user, round) {
				t.Errorf("round %d: %s reads %q", round, user, got[0].Value)
			}
			if err := c.CommitUncommittedOffsets(ctx); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		tr.tenantsApart(users)
		tr.lead(followerAt)
	}
}

// tenantsApart asks each node for what two users' tenants have.
func (tr *trio) tenantsApart(users []string) {
	tr.t.Helper()
	for node := range tr.nodes {
		var ids [2][16]byte
		var raws [2]*raw
		for i, user := range users {
			r := tr.raw(node)
			if err := r.authenticate(plain.Auth{User: user, Pass: "-"}.AsMechanism(), 1).err(); err != nil {
				tr.t.Fatal(err)
			}
			all := kmsg.NewPtrMetadataRequest()
			all.Version, all.Topics = 12, nil
			var names []string
			for _, topic := range r.ask(all).(*kmsg.MetadataResponse).Topics {
				if names = append(names, *topic.Topic); *topic.Topic == "t" {
					ids[i] = topic.TopicID
				}
			}
			if !slices.Equal(names, []string{broker.OffsetsTopic, "t"}) {
				tr.t.Errorf("node %d shows %s %q", node+1, user, names)
			}
			raws[i] = r
		}
		if ids[0] == ids[1] {
			tr.t.Fatal("two tenants' topics are one")
		}
		foreign := kmsg.NewPtrMetadataRequest()
		foreign.Version, foreign.Topics = 12, []kmsg.MetadataRequestTopic{{TopicID: ids[0]}}
		expect(tr.t, "another tenant's topic", raws[1].ask(foreign).(*kmsg.MetadataResponse).Topics[0].ErrorCode, wire.UnknownTopicID)
		for _, rack := range []string{"", tr.nodes[node].rack()} {
			m := kmsg.NewPtrFetchRequest()
			m.Version, m.ReplicaID, m.MaxBytes, m.SessionEpoch, m.Rack = 16, -1, 1<<20, -1, rack
			p := kmsg.NewFetchRequestTopicPartition()
			p.PartitionMaxBytes = 1 << 20
			m.Topics = []kmsg.FetchRequestTopic{{TopicID: ids[0], Partitions: []kmsg.FetchRequestTopicPartition{p}}}
			got := raws[1].ask(m).(*kmsg.FetchResponse).Topics[0].Partitions[0]
			if expect(tr.t, "records of another tenant's topic", got.ErrorCode, wire.UnknownTopicID); len(got.RecordBatches) > 0 {
				tr.t.Error("another tenant's records")
			}
			if rack != "" { // its own comes from there, whether it leads or not
				if got := raws[0].ask(m).(*kmsg.FetchResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 || len(got.RecordBatches) == 0 {
					tr.t.Errorf("node %d gives %s %d bytes: %v", node+1, users[0], len(got.RecordBatches), wire.ErrorCode(got.ErrorCode))
				}
			}
		}
	}
}

// rack is the node's, as newTrio has named it.
func (n *replicaNode) rack() string { return fmt.Sprint("r", n.id-1) }
