package kafka

import (
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Cluster says which nodes there are, and which of them leads what. A node that is alone has none.
type Cluster interface {
	// View is what is known now: nobody changes it any more. It is asked for each request, so it neither blocks nor allocates. Any goroutine.
	View() *View
}

// View is a cluster at one moment.
type View struct {
	Nodes []Node    // by ID
	All   Placement // of every shard: they have one leader at a time
}

// Placement says who has a shard. Replicas, ISR and Eligible are never nil.
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

// of is who has a partition's shard.
func (v *View) of(*broker.Partition) *Placement { return &v.All }

// coordinator is who has the shard of a group or of a transactional id.
func (v *View) coordinator() *Placement { return &v.All }

// controller is who has the shard of topics.
func (v *View) controller() *Placement { return &v.All }

// leads says whether this node takes requests for what is placed so. The core is asked too: it is the first to know that it may not any more.
func (h *Handler) leads(p *Placement) bool { return p.Leads && h.broker.Leading() }

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

// leaderFault says why a request that names the epoch of a partition's leader, -1 for none, is not for this node.
func (h *Handler) leaderFault(p *Placement, epoch int32) wire.ErrorCode {
	if code := epochCode(p, epoch); code != wire.None {
		return code
	}
	if !h.leads(p) {
		return wire.NotLeaderOrFollower
	}
	return wire.None
}

// movedTo tells a client where the leader is that it has not found here (KIP-951). It is none if that is not known yet.
func movedTo(v *View, p *Placement, code wire.ErrorCode) (l wire.Leader) {
	if code != wire.NotLeaderOrFollower && code != wire.FencedLeaderEpoch || p.Leader < 0 {
		return l
	}
	if code == wire.NotLeaderOrFollower && p.Leads {
		return l // it has just ceased to, and who comes is not known
	}
	return wire.Leader{Known: true, ID: p.Leader, Epoch: p.Epoch}
}

// leaderNodes are the addresses of the leaders that an answer names.
func (c *conn) leaderNodes(v *View, named bool) []wire.Node {
	if !named {
		return nil
	}
	if at, code := c.leaderOf(v, &v.All, true); code == wire.None {
		return []wire.Node{at}
	}
	return nil
}

// groupFault says why a request for a group is refused here.
func (c *conn) groupFault(op broker.Operation, id string) wire.ErrorCode {
	switch {
	case !c.mayGroup(op, id):
		return wire.GroupAuthorizationFailed
	case !c.l.h.leads(c.l.h.view().coordinator()):
		return wire.NotCoordinator
	}
	return wire.None
}

// txnFault is groupFault for a transactional id.
func (c *conn) txnFault(op broker.Operation, id string) wire.ErrorCode {
	switch {
	case !c.mayTxn(op, id):
		return wire.TransactionalIDAuthorizationFailed
	case !c.l.h.leads(c.l.h.view().coordinator()):
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
func (c *conn) controls() bool { return c.l.h.leads(c.l.h.view().controller()) }

const notController = "another node changes topics: Metadata names it as the controller"

// placedSo is what is said of replicas that a client wants elsewhere.
const placedSo = "has its replicas where the cluster has placed all of them"

// placed says whether replicas that a client names are those that there are: a node that is alone, or all that the cluster has, in any order.
func (h *Handler) placed(replicas []int32) bool {
	have := h.view().of(nil).Replicas
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

// anywhere has the requests that any node answers by itself.
var anywhere = [apiKeys]bool{wire.APIVersions: true, wire.SASLHandshake: true, wire.SASLAuthenticate: true, wire.Metadata: true, wire.FindCoordinator: true, wire.DescribeCluster: true}

// LeaderChanged tells the Handler that View may name another leader, another epoch, or fewer replicas in sync: fetches that wait are answered if this node
// may not answer them any more, and sessions of fetches are forgotten; who waits for more replicas than are in sync is told. Any goroutine.
func (h *Handler) LeaderChanged() {
	for _, l := range h.loops {
		l.run(l.leaderChanged)
	}
}

// leaderChanged takes over who leads. As long as nobody does, or this node is about to, new requests for a leader are not read, for a while: a client that
// was refused would ask for metadata, find what it knows, and be slow to ask again.
func (l *loopState) leaderChanged() {
	v := l.h.view()
	leads := l.h.leads(&v.All)
	if await := !leads && (v.All.Leader < 0 || v.All.Leader == l.h.nodeID); await {
		l.awaiting = true
		l.core.SetTimer(&l.awaited, l.h.leaderWait, l.stopAwaiting)
	} else {
		l.core.StopTimer(&l.awaited)
		l.stopAwaiting()
	}
	for c := l.first; c != nil; {
		next := c.next
		if c.fetches != nil && (c.fetches.leader != v.All.Epoch || !leads && !v.All.Follows) {
			c.fetches = nil
		}
		if r := c.first; r != nil && r.fetch != nil && r.fetch.waiting && !r.fetch.over && r.fetch.cold == 0 { // what is being read is committed
			r.fetch.reconsider(v)
		}
		c.reconsider(v)
		c = next
	}
}

// reconsider is produceState's, of all requests under way.
func (c *conn) reconsider(v *View) {
	for r := c.last; r != nil && !c.closing; {
		prev := r.prev // answering lets go of the first ones alone, and so of none before r
		if r.produce != nil && !r.done && !r.silent {
			r.produce.reconsider(r, v)
		}
		r = prev
	}
}

// stopAwaiting reads the requests that wait for a leader.
func (l *loopState) stopAwaiting() {
	if !l.awaiting {
		return
	}
	l.awaiting = false
	for c := l.first; c != nil; {
		next := c.next
		c.unblock(blockLeader)
		c = next
	}
}
