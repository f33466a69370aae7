package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
)

// Clients of other nodes are told what is configured, else what is listened on; an address of all the machine's is not told to anybody.
func TestKafkaEndpoints(t *testing.T) {
	for _, c := range []struct {
		l         config.KafkaListeners
		listening map[string]string
		want      meta.Endpoints
	}{
		{config.KafkaListeners{}, nil, meta.Endpoints{}},
		{config.KafkaListeners{}, map[string]string{"kafka.tcp": "10.0.0.1:9092"}, meta.Endpoints{Plain: "10.0.0.1:9092"}},
		{config.KafkaListeners{}, map[string]string{"kafka.tcp": "[::]:9092", "kafka.tls": "0.0.0.0:9093"}, meta.Endpoints{Plain: "here:9092", TLS: "here:9093"}},
		{config.KafkaListeners{Advertised: "lb:1", AdvertisedTLS: "lb:2"}, map[string]string{"kafka.tcp": "10.0.0.1:9092"}, meta.Endpoints{Plain: "lb:1", TLS: "lb:2"}},
	} {
		if got := kafkaEndpoints(&c.l, c.listening, "here:7000"); got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
}

// The door sees nodes and replicas of the catalog, and the leader of the controller; it is told when that is another one, and not for less.
func TestKafkaCluster(t *testing.T) {
	c := meta.New(nil)
	if err := c.Recovered(); err != nil {
		t.Fatal(err)
	}
	set := func(list ...meta.Entry) { c.Apply(0, list) }
	node := func(id meta.NodeID, state meta.NodeState, kafka meta.Endpoints) meta.Entry {
		n := meta.Node{ID: id, State: state, Roles: meta.RolesAll, Replica: 1, Level: meta.Level, Kafka: kafka}
		if state != meta.NodeRemoved {
			n.Address, n.Rack = "h:1", "r"
		}
		return n.Entry()
	}
	cluster := meta.Cluster{ID: "c", Shards: 1, Level: meta.Level}
	shard := meta.Shard{Change: 1, Epoch: 4, Leader: 2, Replicas: []meta.NodeID{2, 1, 12}, ISR: []meta.NodeID{1, 2}, Eligible: []meta.NodeID{12}}
	set(cluster.Entry(), node(12, meta.NodeActive, meta.Endpoints{TLS: "[::1]:93"}), node(2, meta.NodeActive, meta.Endpoints{Plain: "two:92", TLS: "two:93"}), node(1, meta.NodeActive, meta.Endpoints{}),
		node(3, meta.NodeRemoved, meta.Endpoints{}), shard.Entry())
	k := watchKafkaCluster(1, c)
	defer k.close()
	moves := 0
	k.onMove(func() { moves++ })
	k.lead(leadership{leader: 2, epoch: 4, alive: []meta.NodeID{2}})
	want := &kafka.View{Nodes: []kafka.Node{
		{ID: 1, Rack: "r", Alive: true},
		{ID: 2, Plain: kafka.Address{Host: "two", Port: 92}, TLS: kafka.Address{Host: "two", Port: 93}, Rack: "r", Alive: true},
		{ID: 12, TLS: kafka.Address{Host: "::1", Port: 93}, Rack: "r"},
	}, All: kafka.Placement{Leader: 2, Epoch: 4, Replicas: []int32{2, 1, 12}, ISR: []int32{1, 2}, Eligible: []int32{12}, MinISR: 2}}
	same := func(what string, moved int) {
		t.Helper()
		testx.Eventually(t, patience, func() bool { return cmp.Equal(k.View(), want) }, what, ": the view")
		k.mu.Lock()
		defer k.mu.Unlock()
		if moves != moved {
			t.Errorf("%s: told %d times, want %d", what, moves, moved)
		}
	}
	same("another leads", 1)
	shard.Change, shard.ISR, shard.Eligible = 2, []meta.NodeID{1, 2, 12}, nil
	set(shard.Entry())
	want.All.ISR, want.All.Eligible = []int32{1, 2, 12}, []int32{}
	same("a replica more", 1)
	k.lead(leadership{leader: 1, epoch: 5, leading: true, alive: []meta.NodeID{2, 12}})
	want.All.Leader, want.All.Epoch, want.All.Leads, want.Nodes[2].Alive = 1, 5, true, true
	same("this one leads", 2)
	shard.Change, shard.Epoch, shard.Leader, shard.ISR, shard.Eligible = 3, 6, 2, []meta.NodeID{1, 2}, []meta.NodeID{12}
	set(shard.Entry())
	want.All.ISR, want.All.Eligible = []int32{1, 2}, []int32{12}
	same("the catalog is ahead", 3)
	k.lead(leadership{leader: 2, epoch: 5, alive: []meta.NodeID{1, 2}}) // of another epoch than the catalog's
	want.All.Leader, want.All.Leads, want.Nodes[2].Alive = 2, false, false
	same("it hears of another one", 4)
	k.lead(leadership{leader: 2, epoch: 6, alive: []meta.NodeID{1, 2}})
	want.All.Epoch, want.All.Follows = 6, true
	same("it follows in sync", 5)
	k.lead(leadership{leader: 2, epoch: 6, alive: []meta.NodeID{2}})
	want.All.Follows = false
	same("the controller has not heard of it", 6)
	k.lead(leadership{leader: 2, epoch: 6, alive: []meta.NodeID{1, 2}})
	shard.Change, shard.ISR, shard.Eligible = 4, []meta.NodeID{2, 12}, nil
	set(shard.Entry())
	want.All.ISR, want.All.Eligible, want.All.Follows = []int32{2, 12}, []int32{}, false
	same("it is not in sync", 8)
	k.lead(leadership{epoch: 5})
	want.All.Epoch = 5
	want.All.Leader, want.All.Leads, want.Nodes[1].Alive, want.Nodes[2].Alive = -1, false, false, false
	same("nobody leads", 9)
	shard.Change, shard.ISR, shard.Eligible = 5, []meta.NodeID{2}, nil
	set(shard.Entry())
	want.All.ISR = []int32{2}
	same("fewer are in sync", 10)
}
