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
		lead    leadership
		moved   func() // the handler's; nil until there is one
	}
}

// leadership is who leads all shards, as this node knows it.
type leadership struct {
	leader  meta.NodeID // 0: none
	epoch   uint32
	leading bool // this node does, and its shards take commands
	alive   []meta.NodeID
}

var _ kafka.Cluster = (*kafkaCluster)(nil)

func watchKafkaCluster(own meta.NodeID, c *meta.Catalog) *kafkaCluster {
	k := &kafkaCluster{own: own}
	k.view.Store(kafkaView(own, c.Load(), &leadership{}))
	changed := func(old, now *meta.Snapshot) bool { return meta.NodesChanged(old, now) || meta.ShardsChanged(old, now) }
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

// lead says who leads. The core has been told before if this node does not any more.
func (k *kafkaCluster) lead(l leadership) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.lead = l
	k.rebuildLocked()
}

// onMove says who is told when another node leads, or fewer are in sync.
func (k *kafkaCluster) onMove(moved func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.moved = moved
}

func (k *kafkaCluster) rebuildLocked() {
	if k.mu.catalog == nil {
		return
	}
	old, now := k.view.Load(), kafkaView(k.own, k.mu.catalog, &k.mu.lead)
	k.view.Store(now)
	if a, b := &old.All, &now.All; k.mu.moved != nil && (a.Leader != b.Leader || a.Epoch != b.Epoch || a.Leads != b.Leads || a.Follows != b.Follows || len(a.ISR) > len(b.ISR)) {
		k.mu.moved()
	}
}

// kafkaView is what clients are told. The shards are placed alike, so the first says where all of them are.
func kafkaView(own meta.NodeID, s *meta.Snapshot, l *leadership) *kafka.View {
	v := &kafka.View{All: kafka.Placement{Leader: -1, Epoch: int32(l.epoch), Leads: l.leading && l.leader == own, Replicas: []int32{}, ISR: []int32{}, Eligible: []int32{}}}
	if l.leader != 0 {
		v.All.Leader = int32(l.leader)
	}
	for _, n := range s.Nodes() {
		if n.State != meta.NodeRemoved {
			v.Nodes = append(v.Nodes, kafka.Node{ID: int32(n.ID), Plain: kafkaAddress(n.Kafka.Plain), TLS: kafkaAddress(n.Kafka.TLS), Rack: n.Rack,
				Alive: n.ID == own || slices.Contains(l.alive, n.ID)})
		}
	}
	slices.SortFunc(v.Nodes, func(a, b kafka.Node) int { return cmp.Compare(a.ID, b.ID) })
	if sh := s.Shard(0); sh != nil {
		v.All.Replicas, v.All.ISR, v.All.Eligible = kafkaIDs(sh.Replicas), kafkaIDs(sh.ISR), kafkaIDs(sh.Eligible)
		v.All.MinISR = len(sh.Replicas)/2 + 1
		v.All.Follows = l.leader != 0 && l.leader != own && l.leader == sh.Leader && l.epoch == sh.Epoch && slices.Contains(sh.ISR, own) && slices.Contains(l.alive, own)
	}
	return v
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
