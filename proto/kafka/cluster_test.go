package kafka

import (
	"slices"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// fixed is a Cluster of which nothing changes.
type fixed View

func (f *fixed) View() *View { return (*View)(f) }

func inCluster(t *testing.T, own int32, v *View) *conn {
	t.Helper()
	b := broker.New(broker.Options{Shards: 1, Loops: 1})
	t.Cleanup(b.Close)
	h := &Handler{broker: b, quotas: &broker.Quotas{}, nodeID: own, cluster: (*fixed)(v)}
	s := DefaultSettings()
	s.Advertised, s.AdvertisedTLS = "own:1", "own:11"
	h.Set(s)
	return &conn{link: &pausing{}, id: &broker.Identity{}, l: newLoopState(h, new(engine.Loop), b.Local(0))}
}

// A client is told of the nodes that it can reach by the kind of listener that it has come by, and hears when the leader is none of them.
func TestEndpoints(t *testing.T) {
	v := &View{Nodes: []Node{
		{ID: 1, Alive: true},
		{ID: 2, Plain: Address{"two", 2}, TLS: Address{"two", 22}, Rack: "r", Alive: true},
		{ID: 3, Plain: Address{"three", 3}, Alive: true},
		{ID: 4, Plain: Address{"four", 4}, TLS: Address{"four", 44}},
	}, All: Placement{Leader: 3, Epoch: 7, Replicas: []int32{1, 3, 4, 5}}}
	c := inCluster(t, 1, v)
	if got, want := c.endpoints(v), []wire.Node{{ID: 1, Host: "own", Port: 1}, {ID: 2, Host: "two", Port: 2, Rack: "r"}, {ID: 3, Host: "three", Port: 3}}; !slices.Equal(got, want) {
		t.Errorf("plain: %v, want %v", got, want)
	}
	if at, code := c.leaderOf(v, &v.All, true); code != wire.None || at.ID != 3 || at.Port != 3 {
		t.Errorf("plain: the leader is %v, %v", at, code)
	}
	if got := c.nameLeader(v, nil, &v.All); len(got) != 1 || got[0].Host != "three" {
		t.Errorf("the leader's address: %v", got)
	}
	c.tls = true
	if got, want := c.endpoints(v), []wire.Node{{ID: 1, Host: "own", Port: 11}, {ID: 2, Host: "two", Port: 22, Rack: "r"}}; !slices.Equal(got, want) {
		t.Errorf("TLS: %v, want %v", got, want)
	}
	for knows, want := range map[bool]wire.ErrorCode{true: wire.ListenerNotFound, false: wire.LeaderNotAvailable} {
		if at, code := c.leaderOf(v, &v.All, knows); code != want || at.ID != -1 {
			t.Errorf("TLS: the leader is %v, %v", at, code)
		}
	}
	if got := c.nameLeader(v, nil, &v.All); got != nil {
		t.Errorf("an address that the client cannot reach: %v", got)
	}
	for _, leader := range []int32{-1, 4, 9} {
		v.All.Leader = leader
		if at, code := c.leaderOf(v, &v.All, true); code != wire.LeaderNotAvailable || at.ID != -1 {
			t.Errorf("leader %d: %v, %v", leader, at, code)
		}
	}
	if got := v.offline(&v.All); !slices.Equal(got, []int32{4, 5}) {
		t.Errorf("offline are %v", got)
	}
}

// What a client believes of the leader is compared with the epoch first, and it is told of the leader if that is another one and known.
func TestLeaderFault(t *testing.T) {
	v := &View{All: Placement{Leader: 2, Epoch: 7}}
	h := inCluster(t, 1, v).l.h
	part := partitionOf(h, 0)
	for _, c := range []struct {
		leads  bool
		leader int32
		epoch  int32
		want   wire.ErrorCode
		told   bool
	}{
		{false, 2, -1, wire.NotLeaderOrFollower, true},
		{false, 2, 7, wire.NotLeaderOrFollower, true},
		{false, 2, 6, wire.FencedLeaderEpoch, true},
		{false, 2, 8, wire.UnknownLeaderEpoch, false},
		{false, -1, 7, wire.NotLeaderOrFollower, false},
		{true, 1, -1, wire.None, false},
		{true, 1, 7, wire.None, false},
		{true, 1, 6, wire.FencedLeaderEpoch, true},
	} {
		v.All.Leads, v.All.Leader = c.leads, c.leader
		code := h.leaderFault(v.of(part), part, c.epoch)
		if l := movedTo(&v.All, code); code != c.want || l.Known != c.told || l.Known && (l.ID != c.leader || l.Epoch != 7) {
			t.Errorf("%+v: %v, %+v", c, code, l)
		}
	}
	v.All.Leads, v.All.Leader = true, 1
	if l := movedTo(&v.All, wire.NotLeaderOrFollower); l.Known {
		t.Error("a node that has just ceased to lead names itself")
	}
}

// A node that is alone leads in epoch 0, and is the one replica.
func TestAloneView(t *testing.T) {
	h := inCluster(t, 9, nil).l.h
	h.cluster, h.alone = nil, aloneView(9)
	v, part := h.view(), partitionOf(h, 0)
	if h.leaderFault(v.of(part), part, 0) != wire.None || h.leaderFault(v.of(part), part, 1) != wire.UnknownLeaderEpoch || !placed(&v.All, []int32{9}) || placed(&v.All, []int32{1}) || len(v.offline(&v.All)) != 0 {
		t.Errorf("%+v", v)
	}
	if n := testing.AllocsPerRun(100, func() { _ = h.leaderFault(h.view().of(part), part, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// partitionOf makes the topic "t", and gives the partition of it that lies in the i-th shard of those that there are.
func partitionOf(h *Handler, shard record.ShardID) *broker.Partition {
	spec := &broker.TopicSpec{Name: "t", ID: broker.TopicID{1}}
	for i := range shard + 1 {
		spec.Partitions = append(spec.Partitions, broker.PartitionSpec{ID: record.PartitionID(1000 + i), Shard: i})
	}
	h.broker.SetTopic(spec)
	return h.broker.Topic(0, "t").Partition(int32(shard))
}
