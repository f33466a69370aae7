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

// GrowSets lets the cluster have n sets of shards beside the first; nil if it has. They do not become fewer.
func GrowSets(s *Snapshot, n uint32) ([]Entry, error) {
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
	next := *c
	next.Sets = n
	if err := next.check(); err != nil {
		return nil, err
	}
	return []Entry{next.Entry()}, nil
}

// SetsChanged says whether old and now differ in how many sets of shards there are, or may be.
func SetsChanged(old, now *Snapshot) bool {
	a, b := old.Cluster(), now.Cluster()
	return a != b && (a == nil || b == nil || a.Sets != b.Sets || a.Level != b.Level)
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
