package server

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
)

// kafkaEndpoints are where Kafka's clients reach this node who hear of it from another one: what is configured, or what it listens on. cluster is where
// the other nodes reach it.
func kafkaEndpoints(l *config.KafkaListeners, listening map[string]string, cluster string) (e meta.Endpoints) {
	return meta.Endpoints{Plain: reached(l.Advertised, listening["kafka.tcp"], cluster), TLS: reached(l.AdvertisedTLS, listening["kafka.tls"], cluster)}
}

// reached is where clients reach a listener who hear of it from another node, empty if there is none.
func reached(configured, listening, cluster string) string {
	if configured != "" {
		return configured
	}
	host, port, err := net.SplitHostPort(listening)
	if err != nil {
		return ""
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		host, _, _ = net.SplitHostPort(cluster) // it was checked
	}
	return net.JoinHostPort(host, port)
}

// kafkaCluster is the cluster as Kafka's door sees it: the catalog says which nodes there are and who has the shards, the controller who leads now.
type kafkaCluster struct {
	*follower
	own  meta.NodeID
	view atomic.Pointer[kafka.View]
	mu   struct {
		sync.Mutex
		catalog *meta.Snapshot
		leads   [meta.SetsMax + 1]leadership // by the number of the set
		moved   func()                       // the handler's; nil until there is one
	}
}

// leadership is who leads the shards of a set, as this node knows it.
type leadership struct {
	leader  meta.NodeID // 0: none
	epoch   uint32
	leading bool // this node does, and its shards take commands
	alive   []meta.NodeID
}

var _ kafka.Cluster = (*kafkaCluster)(nil)

func watchKafkaCluster(own meta.NodeID, c *meta.Catalog) *kafkaCluster {
	k := &kafkaCluster{own: own}
	k.view.Store(kafkaView(own, c.Load(), k.mu.leads[:]))
	changed := func(old, now *meta.Snapshot) bool {
		return meta.NodesChanged(old, now) || meta.ShardsChanged(old, now) || meta.ClusterChanged(old, now)
	}
	k.follower = follow(c, changed, func(s *meta.Snapshot) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.mu.catalog = s
		k.rebuildLocked()
	})
	return k
}

// View makes it a kafka.Cluster.
func (k *kafkaCluster) View() *kafka.View { return k.view.Load() }

// lead says who leads a set of shards. The core has been told before if this node does not any more.
func (k *kafkaCluster) lead(set int, l leadership) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.leads[set] = l
	k.rebuildLocked()
}

// onMove says who is told when another node leads a set of shards, or fewer are in sync.
func (k *kafkaCluster) onMove(moved func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.moved = moved
}

func (k *kafkaCluster) rebuildLocked() {
	if k.mu.catalog == nil {
		return
	}
	old, now := k.view.Load(), kafkaView(k.own, k.mu.catalog, k.mu.leads[:])
	k.view.Store(now)
	if k.mu.moved != nil && kafkaMoved(old, now) {
		k.mu.moved()
	}
}

// kafkaMoved says whether the door has to hear of it.
func kafkaMoved(old, now *kafka.View) bool {
	moved := func(a, b *kafka.Placement) bool {
		return a.Leader != b.Leader || a.Epoch != b.Epoch || a.Leads != b.Leads || a.Follows != b.Follows || len(a.ISR) > len(b.ISR)
	}
	if moved(&old.All, &now.All) || len(old.Sets) != len(now.Sets) {
		return true
	}
	for i := range now.Sets {
		if moved(&old.Sets[i], &now.Sets[i]) {
			return true
		}
	}
	return false
}

// kafkaView is what clients are told; leads are by the number of the set. Which nodes are alive the controller of the first set has said.
func kafkaView(own meta.NodeID, s *meta.Snapshot, leads []leadership) *kafka.View {
	v := &kafka.View{All: kafkaPlacement(own, s.Shard(0), &leads[0])}
	for _, n := range s.Nodes() {
		if n.State != meta.NodeRemoved {
			v.Nodes = append(v.Nodes, kafka.Node{ID: int32(n.ID), Plain: kafkaAddress(n.Kafka.Plain), TLS: kafkaAddress(n.Kafka.TLS), Rack: n.Rack,
				Alive: n.ID == own || slices.Contains(leads[0].alive, n.ID)})
		}
	}
	slices.SortFunc(v.Nodes, func(a, b kafka.Node) int { return cmp.Compare(a.ID, b.ID) })
	if c := s.Cluster(); c != nil {
		v.Shards = int(c.Shards)
		for i := range c.Sets {
			set := c.Set(int(i) + 1)
			v.Sets = append(v.Sets, kafkaPlacement(own, s.Shard(set.First), &leads[set.Number]))
		}
	}
	return v
}

// kafkaPlacement is where the shards of a set are: they are placed alike, so the first of them, sh, says where all are; nil: nobody has them yet.
func kafkaPlacement(own meta.NodeID, sh *meta.Shard, l *leadership) kafka.Placement {
	p := kafka.Placement{Leader: -1, Epoch: int32(l.epoch), Leads: l.leading && l.leader == own, Replicas: []int32{}, ISR: []int32{}, Eligible: []int32{}}
	if l.leader != 0 {
		p.Leader = int32(l.leader)
	}
	if sh != nil {
		p.Replicas, p.ISR, p.Eligible = kafkaIDs(sh.Replicas), kafkaIDs(sh.ISR), kafkaIDs(sh.Eligible)
		p.MinISR = len(sh.Replicas)/2 + 1
		p.Follows = l.leader != 0 && l.leader != own && l.leader == sh.Leader && l.epoch == sh.Epoch && slices.Contains(sh.ISR, own) && slices.Contains(l.alive, own)
	}
	return p
}

func kafkaIDs(list []meta.NodeID) []int32 {
	ids := make([]int32, len(list))
	for i, id := range list {
		ids[i] = int32(id)
	}
	return ids
}

func kafkaAddress(a string) kafka.Address {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return kafka.Address{} // there is none
	}
	n, _ := strconv.ParseUint(port, 10, 16) // it was checked
	return kafka.Address{Host: host, Port: int32(n)}
}
