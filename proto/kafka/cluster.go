package kafka

import (
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Cluster says which nodes there are, and which of them leads what. A node that is alone has none.
type Cluster interface {
	// View is what is known now: nobody changes it any more. It is asked for each request, so it neither blocks nor allocates. Any goroutine.
	View() *View
}

// View is a cluster at one moment. Shards are led in sets: those of one set have one leader at a time.
type View struct {
	Nodes  []Node      // by ID
	All    Placement   // of the first set: all shards, but for the partitions that Sets have; groups, transactional ids and topics
	Shards int         // in the first set; 0: there is no other
	Sets   []Placement // of the sets behind it, of broker.SetShards each; no more than setsMax
}

// setsMax bounds Sets: a set's number is the place of a bit.
const setsMax = 15

// Placement says who has a set of shards. Replicas, ISR and Eligible are never nil.
type Placement struct {
	Leader   int32 // -1: none
	Epoch    int32 // of the leader, or of the last one
	Leads    bool  // this node does, and takes requests
	Follows  bool  // this node is in sync with the leader, and in touch with the controller
	Replicas []int32
	ISR      []int32
	Eligible []int32 // those that may lead without loss though they are not in sync (KIP-966)
	MinISR   int     // with fewer in sync nothing is committed
}

// Node is one node as clients find it.
type Node struct {
	ID    int32
	Plain Address
	TLS   Address
	Rack  string // empty: none
	Alive bool
}

// Address is where a listener is reached. The zero value: there is none of its kind.
type Address struct {
	Host string
	Port int32
}

// Leader is asked for what only the node that leads can do, and clients ask any node for. done may run on any goroutine, once.
type Leader interface {
	// ProducerID gives an id that no other producer ever has.
	ProducerID(done func(id int64, err error))
	// CreateTopics makes topics that clients have named. One result for each.
	CreateTopics(tenant uint32, topics []TopicCreation, done func([]TopicResult))
	// AlterConfigs changes configurations of topics: Kafka's tools ask any node, and do not go on to another one. One result for each.
	AlterConfigs(tenant uint32, topics []TopicAlteration, validateOnly bool, done func([]TopicResult))
	// JoinTxn has the coordinator of a transactional id let the producer's batches into partitions that this node leads and has not heard of. It makes them part
	// of the transaction; with verify it only finds that they are. It is asked also where this node is the coordinator. Errors are the core's: those of
	// AddToTxn; ErrNotLeader, or any other: nobody could be asked.
	JoinTxn(tenant uint32, id string, who broker.ProducerIdentity, parts []broker.TopicPartition, verify bool, done func(error))
}

// aloneView is what a node that is alone knows.
func aloneView(id int32) View {
	only := []int32{id}
	return View{Nodes: []Node{{ID: id, Alive: true}}, All: Placement{Leader: id, Leads: true, Replicas: only, ISR: only, Eligible: []int32{}}}
}

// view is the cluster as it is now.
func (h *Handler) view() *View {
	if h.cluster != nil {
		return h.cluster.View()
	}
	return &h.alone
}

// setOf is the number of the set that a partition's shard is of: 0 for the first. It may be one that the view has not, yet.
func (v *View) setOf(p *broker.Partition) int { return v.setOfShard(p.Shard()) }

func (v *View) setOfShard(shard record.ShardID) int {
	if int(shard) < v.Shards || v.Shards == 0 {
		return 0
	}
	return min(1+(int(shard)-v.Shards)/broker.SetShards, setsMax+1)
}

// nowhere is who has a set of which nothing is known: the partition was heard of before the set.
var nowhere = Placement{Leader: -1, Replicas: []int32{}, ISR: []int32{}, Eligible: []int32{}}

// set is who has a set of shards.
func (v *View) set(n int) *Placement {
	switch {
	case n == 0:
		return &v.All
	case n <= len(v.Sets):
		return &v.Sets[n-1]
	}
	return &nowhere
}

// of is who has a partition's shard.
func (v *View) of(p *broker.Partition) *Placement { return v.set(v.setOf(p)) }

// coordinator is who has the shards of groups and of transactional ids.
func (v *View) coordinator() *Placement { return &v.All }

// controller is who has the shard of topics.
func (v *View) controller() *Placement { return &v.All }

// leads says whether this node takes requests for what the first set has. The core is asked too: it is the first to know that it may not any more.
func (h *Handler) leads(v *View) bool { return v.All.Leads && h.broker.Leading() }

// coordinates says whether this node has groups and transactional ids.
func (h *Handler) coordinates() bool { return h.leads(h.view()) }

// leadsPart is leads for a partition, of which its placement is known.
func (h *Handler) leadsPart(pl *Placement, p *broker.Partition) bool {
	return pl.Leads && h.broker.LeadsPartition(p)
}

// find gives a node, nil if there is none of this number.
func (v *View) find(id int32) *Node {
	for i := range v.Nodes {
		if v.Nodes[i].ID == id {
			return &v.Nodes[i]
		}
	}
	return nil
}

// endpoint is where a node has a listener of the kind that the client has come by. ok false: it has none.
func (c *conn) endpoint(n *Node) (at wire.Node, ok bool) {
	a := n.Plain
	if c.tls {
		a = n.TLS
	}
	if a == (Address{}) && n.ID == c.l.h.nodeID {
		a.Host, a.Port = c.address()
	}
	return wire.Node{ID: n.ID, Host: a.Host, Port: a.Port, Rack: n.Rack}, a != Address{}
}

// up says whether a node can be asked. The one that answers can.
func (h *Handler) up(n *Node) bool { return n.Alive || n.ID == h.nodeID }

// endpoints are those of all nodes that the client can reach.
func (c *conn) endpoints(v *View) (list []wire.Node) {
	for i := range v.Nodes {
		if at, ok := c.endpoint(&v.Nodes[i]); ok && c.l.h.up(&v.Nodes[i]) {
			list = append(list, at)
		}
	}
	return list
}

// leaderOf is the leader as the client reaches it, and what is wrong if it does not: as Kafka says it, to clients that know the word.
func (c *conn) leaderOf(v *View, p *Placement, knowsListeners bool) (at wire.Node, code wire.ErrorCode) {
	n := v.find(p.Leader)
	if n == nil || !c.l.h.up(n) {
		return wire.Node{ID: -1, Port: -1}, wire.LeaderNotAvailable
	}
	at, ok := c.endpoint(n)
	switch {
	case ok:
		return at, wire.None
	case knowsListeners:
		return wire.Node{ID: -1, Port: -1}, wire.ListenerNotFound
	}
	return wire.Node{ID: -1, Port: -1}, wire.LeaderNotAvailable
}

// offline are the replicas on nodes that are down, or unknown.
func (v *View) offline(p *Placement) []int32 {
	list := []int32{}
	for _, id := range p.Replicas {
		if n := v.find(id); n == nil || !n.Alive {
			list = append(list, id)
		}
	}
	return list
}

// toldPlace is what a client is told of where a set of shards is.
type toldPlace struct {
	*Placement       // nil: it was not asked for
	leader     int32 // that the client can reach; -1: none
	code       wire.ErrorCode
	offline    []int32
}

// toldPlaces are those of an answer, found as they are asked for.
type toldPlaces struct {
	c              *conn
	v              *View
	knowsListeners bool
	all            toldPlace
	sets           []toldPlace // behind the first; made when they are asked for
}

func (c *conn) tellPlaces(knowsListeners bool) toldPlaces {
	return toldPlaces{c: c, v: c.l.h.view(), knowsListeners: knowsListeners}
}

// of is where a shard is, as the client is told.
func (t *toldPlaces) of(shard record.ShardID) *toldPlace {
	n, at := t.v.setOfShard(shard), &t.all
	if n > 0 {
		if t.sets == nil {
			t.sets = make([]toldPlace, setsMax+1)
		}
		at = &t.sets[n-1]
	}
	if at.Placement == nil {
		leader, code := t.c.leaderOf(t.v, t.v.set(n), t.knowsListeners)
		*at = toldPlace{t.v.set(n), leader.ID, code, t.v.offline(t.v.set(n))}
	}
	return at
}

// epochCode compares the epoch that a client believes in with the leader's.
func epochCode(p *Placement, epoch int32) wire.ErrorCode {
	switch {
	case epoch < 0 || epoch == p.Epoch:
		return wire.None
	case epoch > p.Epoch:
		return wire.UnknownLeaderEpoch
	}
	return wire.FencedLeaderEpoch
}

// leaderFault says why a request for a partition that names the epoch of its leader, -1 for none, is not for this node.
func (h *Handler) leaderFault(pl *Placement, p *broker.Partition, epoch int32) wire.ErrorCode {
	if code := epochCode(pl, epoch); code != wire.None {
		return code
	}
	if !h.leadsPart(pl, p) {
		return wire.NotLeaderOrFollower
	}
	return wire.None
}

// movedTo tells a client where the leader is that it has not found here (KIP-951). It is none if that is not known yet.
func movedTo(p *Placement, code wire.ErrorCode) (l wire.Leader) {
	if code != wire.NotLeaderOrFollower && code != wire.FencedLeaderEpoch || p.Leader < 0 {
		return l
	}
	if code == wire.NotLeaderOrFollower && p.Leads {
		return l // it has just ceased to, and who comes is not known
	}
	return wire.Leader{Known: true, ID: p.Leader, Epoch: p.Epoch}
}

// nameLeader adds the address of a leader that an answer names, once.
func (c *conn) nameLeader(v *View, nodes []wire.Node, pl *Placement) []wire.Node {
	for i := range nodes {
		if nodes[i].ID == pl.Leader {
			return nodes
		}
	}
	if at, code := c.leaderOf(v, pl, true); code == wire.None {
		nodes = append(nodes, at)
	}
	return nodes
}

// groupFault says why a request for a group is refused here.
func (c *conn) groupFault(op broker.Operation, id string) wire.ErrorCode {
	switch {
	case !c.mayGroup(op, id):
		return wire.GroupAuthorizationFailed
	case !c.l.h.coordinates():
		return wire.NotCoordinator
	}
	return wire.None
}

// txnFault is groupFault for a transactional id.
func (c *conn) txnFault(op broker.Operation, id string) wire.ErrorCode {
	switch {
	case !c.mayTxn(op, id):
		return wire.TransactionalIDAuthorizationFailed
	case !c.l.h.coordinates():
		return wire.NotCoordinator
	}
	return wire.None
}

// few says whether too few replicas are in sync for what is to be on least of them.
func (p *Placement) few(least int) bool { return len(p.ISR) < max(p.MinISR, least) }

// storable is a fault, or that the coordinator cannot store anything now, as Kafka says it: the client would wait for an answer until it gives up.
func (c *conn) storable(fault wire.ErrorCode) wire.ErrorCode {
	if h := c.l.h; fault == wire.None && h.cluster != nil && h.view().coordinator().few(0) {
		return wire.CoordinatorNotAvailable
	}
	return fault
}

// controls says whether this node changes topics.
func (c *conn) controls() bool { return c.l.h.leads(c.l.h.view()) }

const notController = "another node changes topics: Metadata names it as the controller"

// placedSo is what is said of replicas that a client wants elsewhere.
const placedSo = "has its replicas where the cluster has placed all of them"

// placed says whether replicas that a client names are those that there are: a node that is alone, or all that the set of shards has, in any order.
func placed(pl *Placement, replicas []int32) bool {
	have := pl.Replicas
	if len(replicas) != len(have) {
		return false
	}
	for _, id := range have {
		if !slices.Contains(replicas, id) {
			return false
		}
	}
	return true
}

// placesNew is placed for partitions that are yet to be made, of a topic whose leaders are spread or not: in any of the sets that may get them.
func (v *View) placesNew(spread bool, replicas []int32) bool {
	if !spread || len(v.Sets) == 0 {
		return placed(&v.All, replicas)
	}
	for i := range v.Sets {
		if !placed(&v.Sets[i], replicas) {
			return false
		}
	}
	return true
}
