package bench

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

const (
	// refreshMin and refreshMax are between two questions who leads. It is what the generator itself adds to a pause.
	refreshMin = 10 * time.Millisecond
	refreshMax = 100 * time.Millisecond
	// metadataPatience is how long one of several nodes may take to answer that.
	metadataPatience = time.Second
	// overdueAfter is how long a request may be unanswered before it is asked whether the node still leads what it is about.
	overdueAfter = int64(time.Second)
	// requestPatience is how long a request may be unanswered at all where there are several nodes; the answer to a produce request that a
	// leader cannot have followers take comes within produceTimeoutMS.
	requestPatience = int64((produceTimeoutMS + 5000) * time.Millisecond)
	// redialAfter is how long a connection may take to stand where there are several nodes.
	redialAfter = int64(2 * time.Second)
)

// knode is a node of those that Metadata names. It does not change.
type knode struct {
	id     int32
	target mqttclient.Target
	at     endpoint
}

// kleader is who leads a partition, as far as is known. asked says that the newest answer has it.
type kleader struct {
	node, epoch int32
	known       bool
}

// ktable is who leads what, as it was known to a node that was asked at a moment. It does not change.
type ktable struct {
	asked        int64 // by the run's clock
	controller   int32
	nodes        map[int32]*knode
	leaders      []kleader // by the partition's number
	coordinators map[string]int32
	whole        bool // all partitions have a leader by the newest answer
}

// knodes knows the nodes of the broker and who leads what. Loops read the table; the run's goroutine asks while nothing is under way, and a
// goroutine of its own (watchLeaders) does from then on.
type knodes struct {
	r     *kafkaRun
	boot  []mqttclient.Target
	table atomic.Pointer[ktable]
	stale chan struct{} // somebody has found that the table is not true any more
	moves atomic.Uint64 // of partitions to another leader
	asked atomic.Uint64 // questions
	mu    struct {
		sync.Mutex
		conn *kafkaAdmin // nil: there is none at present
		next int         // of the addresses, the one to try next
	}
}

// several tells whether there is more than one node: a run goes on over the loss of a connection, and who leads is asked again.
func (r *kafkaRun) several() bool {
	t := r.nodes.table.Load()
	return t != nil && len(t.nodes) > 1
}

// mark has the table made anew soon.
func (n *knodes) mark() {
	select {
	case n.stale <- struct{}{}:
	default:
	}
}

// addressesLocked are all where a node might be: those given, and those learned.
func (n *knodes) addresses() []mqttclient.Target {
	list := slices.Clone(n.boot)
	if t := n.table.Load(); t != nil && len(t.nodes) > 1 {
		for _, id := range slices.Sorted(maps.Keys(t.nodes)) {
			at := t.nodes[id].target
			if !slices.ContainsFunc(list, func(x mqttclient.Target) bool { return x.Addr == at.Addr }) {
				list = append(list, at)
			}
		}
	}
	return list
}

// connectLocked gives a connection to any node.
func (n *knodes) connectLocked() (*kafkaAdmin, error) {
	if n.mu.conn != nil {
		return n.mu.conn, nil
	}
	list := n.addresses()
	at := list[n.mu.next%len(list)]
	n.mu.next++
	patience := n.r.cfg.ConnectTimeout
	if len(list) > 1 {
		patience = min(patience, metadataPatience)
	}
	a, err := dialAdmin(n.r, at, patience)
	n.mu.conn = a
	return a, err
}

// dropLocked gives up the connection, so that another node is asked next.
func (n *knodes) dropLocked() {
	if n.mu.conn != nil {
		n.mu.conn.close()
		n.mu.conn = nil
	}
}

func (n *knodes) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropLocked()
}

// refresh asks a node who leads what, and the coordinators of transactions if there are any. A node that cannot be asked, or does not know,
// is not asked the next time.
func (n *knodes) refresh() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked.Add(1)
	asked := n.r.clock()
	a, err := n.connectLocked()
	if err != nil {
		return err
	}
	t, err := n.ask(a, asked)
	if err != nil {
		n.dropLocked()
		return err
	}
	n.table.Store(t)
	if !t.whole && len(t.nodes) > 1 {
		n.dropLocked()
	}
	return nil
}

func (n *knodes) ask(a *kafkaAdmin, asked int64) (*ktable, error) {
	q := kmsg.NewPtrMetadataRequest()
	q.Topics = []kmsg.MetadataRequestTopic{}
	for _, t := range n.r.topics {
		if n.r.byName[t.name] == nil {
			continue // it is yet to be made, and would be by being named, without its settings
		}
		x := kmsg.NewMetadataRequestTopic()
		x.Topic = kmsg.StringPtr(t.name)
		q.Topics = append(q.Topics, x)
	}
	p, err := ask[*kmsg.MetadataResponse](a, q)
	if err != nil {
		return nil, err
	}
	t, err := n.read(asked, p)
	if err == nil && len(t.nodes) > 1 && len(n.r.txnIDs) > 0 {
		err = t.askCoordinators(a, n.r.txnIDs)
	}
	return t, err
}

// read makes a table of an answer and the table before.
func (n *knodes) read(asked int64, p *kmsg.MetadataResponse) (*ktable, error) {
	r := n.r
	t := &ktable{asked: asked, controller: p.ControllerID, nodes: map[int32]*knode{}, leaders: make([]kleader, len(r.parts)), whole: true}
	for i := range t.leaders {
		t.leaders[i] = kleader{node: -1, epoch: -1}
	}
	if old := n.table.Load(); old != nil {
		maps.Copy(t.nodes, old.nodes)
		copy(t.leaders, old.leaders)
		t.coordinators = old.coordinators
	}
	for i := range t.leaders {
		t.leaders[i].known = false
	}
	if err := t.addNodes(r, p.Brokers); err != nil {
		return nil, err
	}
	for i := range p.Topics {
		x := &p.Topics[i]
		topic := r.byName[deref(x.Topic)]
		if topic == nil {
			return nil, errMalformed
		}
		if err := failed("describe topic "+topic.name, x.ErrorCode, nil); err != nil {
			return nil, err
		}
		topic.learn(x.TopicID)
		for _, y := range x.Partitions {
			if y.ErrorCode == 0 && y.Leader >= 0 && t.nodes[y.Leader] != nil && y.Partition >= 0 && int(y.Partition) < len(topic.parts) {
				n.led(&t.leaders[topic.parts[y.Partition].number], y.Leader, y.LeaderEpoch)
			}
		}
	}
	for i := range t.leaders {
		t.whole = t.whole && t.leaders[i].known
	}
	return t, nil
}

// led takes what a node says of a partition, unless it has not heard yet of what others know.
func (n *knodes) led(l *kleader, node, epoch int32) {
	if l.node >= 0 && epoch >= 0 && epoch < l.epoch {
		return
	}
	if l.node >= 0 && l.node != node {
		n.moves.Add(1)
	}
	*l = kleader{node, epoch, true}
}

// learn sets a topic's id when it is heard for the first time: afterwards loops read it.
func (t *ktopic) learn(id [16]byte) {
	if t.id == ([16]byte{}) {
		t.id = id
	}
}

// addNodes resolves the addresses of nodes that are new or have moved. The only node of a broker is where the run has found it.
func (t *ktable) addNodes(r *kafkaRun, list []kmsg.MetadataResponseBroker) error {
	for _, b := range list {
		at := r.target
		if len(list) > 1 || len(t.nodes) > 1 {
			at.Host = b.Host
			at.Addr = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		}
		if old := t.nodes[b.NodeID]; old != nil && old.target.Addr == at.Addr {
			continue
		}
		e, err := resolve(at)
		if err != nil {
			return err
		}
		t.nodes[b.NodeID] = &knode{b.NodeID, at, e}
	}
	return nil
}

// askCoordinators asks for the coordinators of transactions. One that nobody is yet is left out.
func (t *ktable) askCoordinators(a *kafkaAdmin, ids []string) error {
	q := kmsg.NewPtrFindCoordinatorRequest()
	q.CoordinatorType, q.CoordinatorKeys, q.CoordinatorKey = coordinatorTxn, ids, ids[0]
	p, err := ask[*kmsg.FindCoordinatorResponse](a, q)
	if err != nil {
		return err
	}
	t.coordinators = map[string]int32{}
	for _, c := range p.Coordinators {
		if c.ErrorCode == 0 && t.nodes[c.NodeID] != nil {
			t.coordinators[c.Key] = c.NodeID
		}
	}
	t.whole = t.whole && len(t.coordinators) == len(ids)
	return nil
}

// watchLeaders makes the table anew when it is marked, until stop is closed, and has the loops look at it.
func (n *knodes) watchLeaders(stop <-chan struct{}) {
	pause := refreshMin
	wait := time.NewTimer(0)
	defer wait.Stop()
	var last time.Time
	for {
		select {
		case <-stop:
			return
		case <-n.stale:
		}
		if time.Since(last) > 10*refreshMax {
			pause = refreshMin
		}
		wait.Reset(max(time.Until(last.Add(pause)), 0))
		select {
		case <-stop:
			return
		case <-wait.C:
		}
		before := n.moves.Load()
		err := n.refresh()
		last = time.Now()
		if pause = min(2*pause, refreshMax); n.moves.Load() != before {
			pause = refreshMin
		}
		if err != nil || !n.table.Load().whole {
			n.mark()
		}
		for _, l := range n.r.loops {
			l.post(func(*loop) {})
		}
	}
}

// follow has the table watched until the function that it gives is called.
func (n *knodes) follow() (halt func()) {
	if !n.r.several() {
		return func() {}
	}
	n.r.following.Store(true)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); n.watchLeaders(stop) }()
	return func() {
		close(stop)
		<-done
		n.r.following.Store(false)
	}
}

// passes tells whether an answer says that somebody else leads, or nobody does at present: where there are several nodes the same is asked again.
func passes(code wire.ErrorCode) bool {
	switch code { //nolint:exhaustive // the others are for good
	case wire.NotLeaderOrFollower, wire.LeaderNotAvailable, wire.FencedLeaderEpoch, wire.UnknownLeaderEpoch, wire.ReplicaNotAvailable, wire.BrokerNotAvailable,
		wire.OffsetNotAvailable, wire.KafkaStorageError, wire.NotEnoughReplicas, wire.NotCoordinator, wire.CoordinatorNotAvailable, wire.CoordinatorLoadInProgress,
		wire.UnknownTopicID, wire.UnknownTopicOrPartition:
		return true
	}
	return doubtful(code)
}

// doubtful tells whether a batch that is answered so may be stored all the same.
func doubtful(code wire.ErrorCode) bool {
	return code == wire.RequestTimedOut || code == wire.NetworkException || code == wire.NotEnoughReplicasAfterAppend
}

// adminAt gives the control connection to a node.
func (r *kafkaRun) adminAt(id int32) (*kafkaAdmin, error) {
	if !r.several() {
		return r.admin, nil
	}
	if a := r.admins[id]; a != nil {
		return a, nil
	}
	node := r.nodes.table.Load().nodes[id]
	if node == nil {
		return nil, &codeError{what: fmt.Sprintf("node %d has no address", id), code: int16(wire.LeaderNotAvailable)}
	}
	a, err := dialAdmin(r, node.target, r.cfg.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	r.admins[id] = a
	return a, nil
}

// controller gives the control connection to the node that makes topics.
func (r *kafkaRun) controller() (*kafkaAdmin, error) {
	return r.adminAt(r.nodes.table.Load().controller)
}

// closeAdmins ends the control connections.
func (r *kafkaRun) closeAdmins() {
	for id, a := range r.admins {
		a.close()
		delete(r.admins, id)
	}
}

// retry repeats f while the broker answers with what passes, or waits for something to come about. Where there are several nodes, who leads is
// asked anew before, and a connection that has ended is made again.
func (r *kafkaRun) retry(f func() error) error {
	until := time.Now().Add(r.cfg.ConnectTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || time.Now().After(until) {
			return err
		}
		var code *codeError
		answered := errors.As(err, &code)
		if answered && !wire.ErrorCode(code.code).Retriable() || !answered && (!r.several() || lackOf(err) != nil) {
			return err
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-tick.C:
		}
		if r.several() {
			r.closeAdmins()
			_ = r.nodes.refresh() // the next time, if not now
		}
	}
}
