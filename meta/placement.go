package meta

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// The rules by which nodes, shards and the cluster change: functions of a snapshot that answer the entries to write, for Catalog.Update. They
// do no I/O and read no clock, so all of them is tested without a group.

// Errors of the rules.
var (
	ErrFormed     = errors.New("meta: the cluster is there already")
	ErrNoCluster  = errors.New("meta: there is no cluster: this node is alone")
	ErrNodeExists = errors.New("meta: the node is there already")
	ErrNoNode     = errors.New("meta: no such node")
	ErrNodeGone   = errors.New("meta: the node was removed: its number is not given again, want another node.id")
	ErrNodeInUse  = errors.New("meta: the node is needed")
	ErrOtherDisk  = errors.New("meta: the node has joined with another data directory")
	ErrLevel      = errors.New("meta: the program is too old for this cluster")
	ErrHeld       = errors.New("meta: the level of the cluster is held")
	ErrStale      = errors.New("meta: it has changed since it was read")
	ErrShard      = errors.New("meta: bad change of a shard")
	ErrUnclean    = errors.New("meta: the new leader may lack what was acknowledged")
)

// FormCluster makes a cluster of one node. It has as many sets of shards as there are shards of, of data that the node goes on with (Refound, Survive).
func FormCluster(s *Snapshot, c Cluster, first Node) ([]Entry, error) {
	if s.Cluster() != nil {
		return nil, fmt.Errorf("%w: %s", ErrFormed, s.Cluster().ID)
	}
	for _, sh := range s.Shards() {
		if c.Shards > 0 {
			c.Sets = max(c.Sets, uint32(c.SetOf(sh.ID)))
		}
	}
	first.State, first.Replica = NodeActive, 1
	if err := errors.Join(c.check(), first.check()); err != nil {
		return nil, err
	}
	return []Entry{c.Entry(), first.Entry()}, nil
}

// AddNode lets a node join. It gets its first copy of the catalog when it has.
func AddNode(s *Snapshot, n Node) ([]Entry, error) {
	c := s.Cluster()
	if c == nil {
		return nil, ErrNoCluster
	}
	have := s.Node(n.ID)
	switch {
	case have != nil && have.State == NodeRemoved:
		return nil, fmt.Errorf("%w: node %d", ErrNodeGone, n.ID)
	case have != nil:
		return nil, fmt.Errorf("%w: node %d, %s at %s", ErrNodeExists, n.ID, have.State, have.Address)
	case s.tables[kindNode].count >= NodesMax:
		return nil, fmt.Errorf("meta: there are %d nodes, those removed among them: no more are kept", NodesMax)
	}
	n.State, n.Replica, n.Disk = NodeJoining, 1, ""
	if n.Level == 0 {
		n.Level = c.Level // what it can do it says when it joins
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	if err := addressFree(s, &n); err != nil {
		return nil, err
	}
	return []Entry{n.Entry()}, nil
}

// addressFree says whether another node has n's address.
func addressFree(s *Snapshot, n *Node) error {
	for _, other := range s.Nodes() {
		if other.ID != n.ID && other.State != NodeRemoved && other.Address == n.Address {
			return fmt.Errorf("%w: node %d has the address %s", ErrNodeExists, other.ID, n.Address)
		}
	}
	return nil
}

// member finds a node that was not removed.
func member(s *Snapshot, id NodeID) (*Node, error) {
	switch n := s.Node(id); {
	case s.Cluster() == nil:
		return nil, ErrNoCluster
	case n == nil:
		return nil, fmt.Errorf("%w: %d", ErrNoNode, id)
	case n.State == NodeRemoved:
		return nil, fmt.Errorf("%w: node %d", ErrNodeGone, id)
	default:
		return n, nil
	}
}

// ClaimNode ties a node to the data directory that it comes with, and takes over where it is and what its program can do. The same directory
// may come again; nil if that changes nothing.
func ClaimNode(s *Snapshot, id NodeID, disk, address string, level uint32) ([]Entry, error) {
	n, err := member(s, id)
	if err != nil {
		return nil, err
	}
	switch {
	case disk == "":
		return nil, errors.New("meta: a node that joins does not name its data directory")
	case n.Disk != "" && n.Disk != disk:
		return nil, fmt.Errorf("%w: node %d; if that one is lost, replace the node", ErrOtherDisk, id)
	case level < s.Cluster().Level:
		return nil, fmt.Errorf("%w: node %d can do level %d, the cluster is at %d", ErrLevel, id, level, s.Cluster().Level)
	}
	next := *n
	next.Disk, next.Address, next.Level = disk, address, level
	if next == *n {
		return nil, nil
	}
	if err := errors.Join(next.check(), addressFree(s, &next)); err != nil {
		return nil, err
	}
	return []Entry{next.Entry()}, nil
}

// AdvertiseNode says in which rack a node is, which stays as it is for an empty one, and where clients of Kafka and of MQTT reach it; nil if that is known, or if a
// node of the cluster could not read it.
func AdvertiseNode(s *Snapshot, id NodeID, rack string, kafka Endpoints, mqtt Doors) ([]Entry, error) {
	n, err := member(s, id)
	if err != nil {
		return nil, err
	}
	next := *n
	next.Rack = cmp.Or(rack, n.Rack)
	if s.Cluster().Level >= LevelEndpoints {
		next.Kafka = kafka
	}
	if s.Cluster().Level >= LevelLater {
		next.MQTT = mqtt
	}
	if next == *n {
		return nil, nil
	}
	if err := next.check(); err != nil {
		return nil, err
	}
	return []Entry{next.Entry()}, nil
}

// ActivateNode says that a node that was joining votes; nil if it did.
func ActivateNode(s *Snapshot, id NodeID) ([]Entry, error) {
	n, err := member(s, id)
	if err != nil || n.State == NodeActive {
		return nil, err
	}
	next := *n
	next.State = NodeActive
	return []Entry{next.Entry()}, nil
}

// unneeded says whether a node can go: no shard is on it, and another one has the catalog.
func unneeded(s *Snapshot, n *Node) error {
	others := 0
	for _, o := range s.Nodes() {
		if o.ID != n.ID && o.State == NodeActive && o.Roles&RoleMeta != 0 {
			others++
		}
	}
	if others == 0 {
		return fmt.Errorf("%w: node %d is the only one with the catalog", ErrNodeInUse, n.ID)
	}
	return nil
}

// without gives the entries by which a node has no shards any more. lost: its data are gone; it keeps its place, and is in sync with none. ErrNodeInUse: it
// leads one, or too few would be left in sync; ErrUnclean: what was acknowledged may be nowhere else.
func without(s *Snapshot, id NodeID, lost bool) (all []Entry, err error) {
	isIt := func(o NodeID) bool { return o == id }
	for _, sh := range s.Shards() {
		comes := slices.Contains(sh.Target, id) || slices.Contains(sh.Home, id)
		if !slices.Contains(sh.Replicas, id) && (lost || !comes) {
			continue
		}
		next := *sh
		next.ISR, next.Eligible = slices.DeleteFunc(slices.Clone(sh.ISR), isIt), slices.DeleteFunc(slices.Clone(sh.Eligible), isIt)
		if !lost {
			next.Replicas = slices.DeleteFunc(slices.Clone(sh.Replicas), isIt)
			next.Target = slices.DeleteFunc(slices.Clone(sh.Target), isIt)
			next.Home = slices.DeleteFunc(slices.Clone(sh.Home), isIt)
			next.Arrived()
		}
		switch {
		case !lost && sh.Leader == id:
			return nil, fmt.Errorf("%w: node %d leads shard %d: have another one lead first", ErrNodeInUse, id, sh.ID)
		case !lost && slices.Contains(sh.ISR, id) && len(next.ISR) <= len(next.Replicas)/2:
			return nil, fmt.Errorf("%w: without node %d fewer than the majority of shard %d are in sync", ErrNodeInUse, id, sh.ID)
		case len(next.ISR)+len(next.Eligible) == 0:
			return nil, fmt.Errorf("%w: node %d is the only one that has all of shard %d", ErrUnclean, id, sh.ID)
		case sh.Leader == id:
			next.Leader, next.Epoch = 0, sh.Epoch+1
		}
		if len(next.ISR) > len(next.Replicas)/2 {
			next.Eligible = nil // what is acknowledged from now on they may lack
		}
		list, err := SetShard(s, next)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// RemoveNode takes a node out of the cluster for good, and out of the shards that it has; nil if it was. It may lead none.
func RemoveNode(s *Snapshot, id NodeID) ([]Entry, error) {
	if n := s.Node(id); n != nil && n.State == NodeRemoved {
		return nil, nil
	}
	n, err := member(s, id)
	if err != nil {
		return nil, err
	}
	if err := unneeded(s, n); err != nil {
		return nil, err
	}
	shards, err := without(s, id, false)
	if err != nil {
		return nil, err
	}
	next := *n
	next.State, next.Disk, next.Address, next.Kafka, next.MQTT = NodeRemoved, "", "", Endpoints{}, Doors{}
	return append(shards, next.Entry()), nil
}

// ReplaceNode lets a node join anew with another data directory, since its own is lost. It keeps its number and its shards, and is in
// sync with none.
func ReplaceNode(s *Snapshot, id NodeID) ([]Entry, error) {
	n, err := member(s, id)
	if err != nil {
		return nil, err
	}
	if err := unneeded(s, n); err != nil {
		return nil, err
	}
	if n.Replica >= ReplicaMax {
		return nil, fmt.Errorf("%w: node %d was replaced %d times; add one with another number", ErrNodeInUse, id, n.Replica)
	}
	shards, err := without(s, id, true)
	if err != nil {
		return nil, err
	}
	next := *n
	next.State, next.Disk, next.Kafka, next.MQTT = NodeJoining, "", Endpoints{}, Doors{}
	next.Replica++
	return append(shards, next.Entry()), nil
}

// RaiseLevel lets the cluster use what level brings; nil if it does.
func RaiseLevel(s *Snapshot, level uint32) ([]Entry, error) {
	c := s.Cluster()
	switch {
	case c == nil:
		return nil, ErrNoCluster
	case level < c.Level:
		return nil, fmt.Errorf("meta: the cluster is at level %d, and cannot go back to %d", c.Level, level)
	case level == c.Level:
		return nil, nil
	case c.Held:
		return nil, fmt.Errorf("%w at %d", ErrHeld, c.Level)
	}
	for _, n := range s.Nodes() {
		if n.State != NodeRemoved && n.Level < level {
			return nil, fmt.Errorf("%w: node %d can do level %d, %d is asked for", ErrLevel, n.ID, n.Level, level)
		}
	}
	next := *c
	next.Level = level
	return []Entry{next.Entry()}, nil
}

// LevelOfAll is what all nodes of the cluster can do, 0 without one. One that has not joined yet may come with a program that can no more than the cluster needs.
func LevelOfAll(s *Snapshot) (level uint32) {
	for _, n := range s.Nodes() {
		if n.State != NodeRemoved && (level == 0 || n.Level < level) {
			level = n.Level
		}
	}
	return level
}

// HoldLevel has the cluster stay at its level, or ends that and lets it use at once what all of its nodes can do; nil if it does. It is not ended while some nodes can do
// more than others: who ends it wants the level raised.
func HoldLevel(s *Snapshot, held bool) ([]Entry, error) {
	c := s.Cluster()
	switch {
	case c == nil:
		return nil, ErrNoCluster
	case held && c.Level < LevelLater:
		return nil, fmt.Errorf("%w: a level can be held from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelLater, c.Level)
	}
	next := *c
	if next.Held = held; !held {
		all := LevelOfAll(s)
		for _, n := range s.Nodes() {
			if n.State != NodeRemoved && n.Level > all {
				return nil, fmt.Errorf("%w: node %d can do level %d, and there are nodes that can do no more than %d: upgrade them first", ErrLevel, n.ID, n.Level, all)
			}
		}
		next.Level = max(c.Level, all)
	}
	if next == *c {
		return nil, nil
	}
	return []Entry{next.Entry()}, nil
}

// SetShard changes who has a shard. next bears the Change of the entry that it was made of (0: there was none), and the epoch that shall hold:
// the next one if the leader is another. A leader comes from those that were in sync or eligible.
func SetShard(s *Snapshot, next Shard) ([]Entry, error) {
	have, err := shardChange(s, &next)
	if err != nil {
		return nil, err
	}
	if have != nil && next.Leader != 0 && !slices.Contains(have.ISR, next.Leader) && !slices.Contains(have.Eligible, next.Leader) {
		return nil, fmt.Errorf("%w: shard %d, node %d; in sync were %v, eligible %v", ErrUnclean, next.ID, next.Leader, have.ISR, have.Eligible)
	}
	return []Entry{next.Entry()}, nil
}

// ElectUnclean is SetShard with a leader that may lack what was acknowledged.
func ElectUnclean(s *Snapshot, next Shard) ([]Entry, error) {
	if _, err := shardChange(s, &next); err != nil {
		return nil, err
	}
	return []Entry{next.Entry()}, nil
}

// shardChange checks all of a change but where its leader comes from, and gives it its number.
func shardChange(s *Snapshot, next *Shard) (have *Shard, err error) {
	c := s.Cluster()
	have = s.Shard(next.ID)
	var was Shard
	if have != nil {
		was = *have
	}
	switch {
	case c == nil:
		return nil, ErrNoCluster
	case next.ID >= c.AllShards():
		return nil, fmt.Errorf("%w: there are %d shards, and none has the number %d", ErrShard, c.AllShards(), next.ID)
	case next.Change != was.Change:
		return nil, fmt.Errorf("%w: shard %d is at change %d, the new one was made of %d", ErrStale, next.ID, was.Change, next.Change)
	case next.Leader != was.Leader && next.Epoch != was.Epoch+1, next.Leader == was.Leader && next.Epoch != was.Epoch && next.Epoch != was.Epoch+1:
		return nil, fmt.Errorf("%w: shard %d is at epoch %d of leader %d, the next one is not %d of leader %d", ErrShard, next.ID, was.Epoch, was.Leader, next.Epoch, next.Leader)
	}
	next.Change++
	if err := next.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShard, err)
	}
	if len(next.Target) > 0 && c.Level < LevelBalance {
		return nil, fmt.Errorf("%w: shards move to other nodes from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelBalance, c.Level)
	}
	if len(next.Home) > 0 && c.Level < LevelReplicas {
		return nil, fmt.Errorf("%w: nodes stand in for others from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelReplicas, c.Level)
	}
	for _, id := range slices.Concat(next.Replicas, next.Target, next.Home) {
		if n, err := member(s, id); err != nil || n.Roles&RoleJournal == 0 {
			return nil, fmt.Errorf("%w: node %d of shard %d is not there, or keeps no journal", ErrShard, id, next.ID)
		}
	}
	return have, nil
}
