package meta

import "fmt"

// Shards are led in sets: one node leads all shards of a set at a time, each set has an epoch of its own. Set 0 are the Shards of the cluster's entry, with sessions,
// groups, transactional ids and topics. The others hold partitions of streams alone, and lie behind them one after the other.

const (
	// SetShards is how many shards a set has, other than the first. It is part of the data's format.
	SetShards = 4
	// SetsMax bounds the sets beside the first.
	SetsMax = 15
)

// ShardSet is a set of shards: Count of them from First on.
type ShardSet struct {
	Number       int
	First, Count uint32
}

// Set is the set of this number: 0, or one of the cluster's Sets, or one that it may have yet.
func (c *Cluster) Set(number int) ShardSet {
	if number == 0 {
		return ShardSet{Count: c.Shards}
	}
	return ShardSet{Number: number, First: c.Shards + SetShards*uint32(number-1), Count: SetShards}
}

// SetOf is the number of the set that a shard is of.
func (c *Cluster) SetOf(shard uint32) int {
	if shard < c.Shards {
		return 0
	}
	return 1 + int(shard-c.Shards)/SetShards
}

// AllShards is how many shards there are in all sets.
func (c *Cluster) AllShards() uint32 { return c.Shards + SetShards*c.Sets }

// GrowSets lets the cluster have n sets of shards beside the first; nil if it has. They do not become fewer. Those that are new have so many replicas; 0: as many as the nodes'
// configuration says.
func GrowSets(s *Snapshot, n, replicas uint32) ([]Entry, error) {
	c := s.Cluster()
	switch {
	case c == nil:
		return nil, ErrNoCluster
	case c.Level < LevelSets:
		return nil, fmt.Errorf("%w: there are sets of shards from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelSets, c.Level)
	case n > SetsMax:
		return nil, fmt.Errorf("%w: want at most %d sets of shards beside the first, found %d", ErrShard, SetsMax, n)
	case n < c.Sets:
		return nil, fmt.Errorf("%w: there are %d sets of shards beside the first, and they do not become fewer", ErrShard, c.Sets)
	case n == c.Sets:
		return nil, nil
	}
	if err := mayReplicate(s, replicas); err != nil {
		return nil, err
	}
	next := *c
	next.Sets = n
	for i := c.Sets + 1; i <= n; i++ {
		next.Replicas[i] = uint8(replicas)
	}
	if err := next.check(); err != nil {
		return nil, err
	}
	return []Entry{next.Entry()}, nil
}

// ReplicateSet lets a set of shards beside the first have so many replicas; nil if it has.
func ReplicateSet(s *Snapshot, set, replicas uint32) ([]Entry, error) {
	c := s.Cluster()
	switch {
	case c == nil:
		return nil, ErrNoCluster
	case set == 0 || set > c.Sets:
		return nil, fmt.Errorf("%w: there are %d sets of shards beside the first, found %d", ErrShard, c.Sets, set)
	case replicas == 0:
		return nil, fmt.Errorf("%w: a set of shards has at least one replica", ErrShard)
	}
	if err := mayReplicate(s, replicas); err != nil {
		return nil, err
	}
	next := *c
	if next.Replicas[set] = uint8(replicas); next == *c {
		return nil, nil
	}
	return []Entry{next.Entry()}, nil
}

// mayReplicate says why a set of shards cannot have so many replicas; 0: as many as the nodes' configuration says.
func mayReplicate(s *Snapshot, replicas uint32) error {
	if replicas == 0 {
		return nil
	}
	nodes := 0
	for _, n := range s.Nodes() {
		if n.State != NodeRemoved && n.Roles&RoleJournal != 0 {
			nodes++
		}
	}
	switch c := s.Cluster(); {
	case c.Level < LevelReplicas:
		return fmt.Errorf("%w: a set of shards has its own number of replicas from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelReplicas, c.Level)
	case int(replicas) > nodes || replicas > ReplicasMax:
		return fmt.Errorf("%w: %d replicas are more than there are nodes that can have shards, %d", ErrShard, replicas, nodes)
	}
	return nil
}

// SetReplicas is how many replicas a set of shards has: its own number, or that of the nodes' configuration.
func (c *Cluster) SetReplicas(set, configured int) int {
	if c != nil && set > 0 && set <= SetsMax && c.Replicas[set] > 0 {
		return int(c.Replicas[set])
	}
	return configured
}

// SetsChanged says whether old and now differ in how many sets of shards there are, or may be, or in how many replicas they have.
func SetsChanged(old, now *Snapshot) bool {
	a, b := old.Cluster(), now.Cluster()
	return a != b && (a == nil || b == nil || a.Sets != b.Sets || a.Level != b.Level || a.Replicas != b.Replicas)
}

// SetsBegun is how many sets of shards beside the first have a place, as have all before them: over as many topics can be spread. Of those that GrowSets has made it may be true a
// moment later.
func SetsBegun(s *Snapshot) (n int) {
	c := s.Cluster()
	for c != nil && n < int(c.Sets) && s.Shard(c.Set(n+1).First) != nil {
		n++
	}
	return n
}
