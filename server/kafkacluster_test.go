package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicemq/sluice/broker"
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
	k.lead(0, leadership{leader: 2, epoch: 4, alive: []meta.NodeID{2}})
	want := &kafka.View{Nodes: []kafka.Node{
		{ID: 1, Rack: "r", Alive: true},
		{ID: 2, Plain: kafka.Address{Host: "two", Port: 92}, TLS: kafka.Address{Host: "two", Port: 93}, Rack: "r", Alive: true},
		{ID: 12, TLS: kafka.Address{Host: "::1", Port: 93}, Rack: "r"},
	}, Shards: 1, All: kafka.Placement{Leader: 2, Epoch: 4, Replicas: []int32{2, 1, 12}, ISR: []int32{1, 2}, Eligible: []int32{12}, MinISR: 2}}
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
	k.lead(0, leadership{leader: 1, epoch: 5, leading: true, alive: []meta.NodeID{2, 12}})
	want.All.Leader, want.All.Epoch, want.All.Leads, want.Nodes[2].Alive = 1, 5, true, true
	same("this one leads", 2)
	shard.Change, shard.Epoch, shard.Leader, shard.ISR, shard.Eligible = 3, 6, 2, []meta.NodeID{1, 2}, []meta.NodeID{12}
	set(shard.Entry())
	want.All.ISR, want.All.Eligible = []int32{1, 2}, []int32{12}
	same("the catalog is ahead", 3)
	k.lead(0, leadership{leader: 2, epoch: 5, alive: []meta.NodeID{1, 2}}) // of another epoch than the catalog's
	want.All.Leader, want.All.Leads, want.Nodes[2].Alive = 2, false, false
	same("it hears of another one", 4)
	k.lead(0, leadership{leader: 2, epoch: 6, alive: []meta.NodeID{1, 2}})
	want.All.Epoch, want.All.Follows = 6, true
	same("it follows in sync", 5)
	k.lead(0, leadership{leader: 2, epoch: 6, alive: []meta.NodeID{2}})
	want.All.Follows = false
	same("the controller has not heard of it", 6)
	k.lead(0, leadership{leader: 2, epoch: 6, alive: []meta.NodeID{1, 2}})
	shard.Change, shard.ISR, shard.Eligible = 4, []meta.NodeID{2, 12}, nil
	set(shard.Entry())
	want.All.ISR, want.All.Eligible, want.All.Follows = []int32{2, 12}, []int32{}, false
	same("it is not in sync", 8)
	k.lead(0, leadership{epoch: 5})
	want.All.Epoch = 5
	want.All.Leader, want.All.Leads, want.Nodes[1].Alive, want.Nodes[2].Alive = -1, false, false, false
	same("nobody leads", 9)
	shard.Change, shard.ISR, shard.Eligible = 5, []meta.NodeID{2}, nil
	set(shard.Entry())
	want.All.ISR = []int32{2}
	same("fewer are in sync", 10)
}

// Each set of shards has replicas and a leader of its own; the door is told when one of them moves, and when there are more of them.
func TestKafkaSets(t *testing.T) {
	c := meta.New(nil)
	if err := c.Recovered(); err != nil {
		t.Fatal(err)
	}
	set := func(list ...meta.Entry) { c.Apply(0, list) }
	cluster := meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets}
	home := meta.Shard{Change: 1, Epoch: 4, Leader: 2, Replicas: []meta.NodeID{1, 2, 3}, ISR: []meta.NodeID{1, 2, 3}}
	set(cluster.Entry(), home.Entry())
	k := watchKafkaCluster(1, c)
	defer k.close()
	moves := 0
	k.onMove(func() { moves++ })
	all := []int32{1, 2, 3}
	want := &kafka.View{Shards: 2, All: kafka.Placement{Leader: 2, Epoch: 4, Follows: true, Replicas: all, ISR: all, Eligible: []int32{}, MinISR: 2}}
	same := func(what string, moved int) {
		t.Helper()
		testx.Eventually(t, patience, func() bool { return cmp.Equal(k.View(), want) }, what, ": the view")
		k.mu.Lock()
		defer k.mu.Unlock()
		if moves != moved {
			t.Errorf("%s: told %d times, want %d", what, moves, moved)
		}
	}
	alive := []meta.NodeID{1, 2, 3}
	k.lead(0, leadership{leader: 2, epoch: 4, alive: alive})
	same("one set", 1)
	cluster.Sets = 2
	set(cluster.Entry())
	nobody := kafka.Placement{Leader: -1, Replicas: []int32{}, ISR: []int32{}, Eligible: []int32{}}
	want.Sets = []kafka.Placement{nobody, nobody}
	same("there are more, which nobody has", 2)
	second := meta.Shard{ID: 6, Change: 1, Epoch: 1, Leader: 3, Replicas: []meta.NodeID{3, 1}, ISR: []meta.NodeID{1, 3}}
	set(second.Entry()) // 2 to 5 are the first's
	want.Sets[1].Replicas, want.Sets[1].ISR, want.Sets[1].MinISR = []int32{3, 1}, []int32{1, 3}, 2
	same("the catalog says who has the second", 2)
	k.lead(2, leadership{leader: 3, epoch: 1, alive: alive})
	want.Sets[1].Leader, want.Sets[1].Epoch, want.Sets[1].Follows = 3, 1, true
	same("another node leads it", 3)
	k.lead(1, leadership{leader: 1, epoch: 9, leading: true, alive: alive})
	want.Sets[0].Leader, want.Sets[0].Epoch, want.Sets[0].Leads = 1, 9, true
	same("this one leads the first", 4)
	second.Change, second.ISR, second.Eligible = 2, []meta.NodeID{3}, []meta.NodeID{1}
	set(second.Entry())
	want.Sets[1].ISR, want.Sets[1].Eligible, want.Sets[1].Follows = []int32{3}, []int32{1}, false
	same("fewer are in sync", 5)
	k.lead(0, leadership{epoch: 4})
	want.All.Leader, want.All.Follows = -1, false
	same("nobody leads the first set, and the others are led", 6)
}

// The door and the catalog lay the same shards together.
func TestSetShards(t *testing.T) {
	if broker.SetShards != meta.SetShards {
		t.Errorf("a set has %d shards in the core, and %d in the catalog", broker.SetShards, meta.SetShards)
	}
}
