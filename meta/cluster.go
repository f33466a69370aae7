package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The feature levels.
const (
	LevelFirst     = 1
	LevelEndpoints = 2 // nodes say where clients reach them
	LevelBans      = 3 // there are entries that keep clients out
	LevelLater     = 4 // shards have messages that are published later; a cluster's level can be held; nodes say where MQTT's clients reach them
	LevelTenants   = 5 // there are tenants, and users, rules and quotas of theirs
	LevelBalance   = 6 // shards can be on their way to other nodes
	LevelSets      = 7 // there are sets of shards, each with a leader of its own
	LevelReplicas  = 8 // sets of shards can have another number of replicas each
)

// levelsSaid are a level and an oldest one, LEVEL/OLDEST, that the program says it has instead of its own. Nothing but the linker sets it, for binaries of tests that
// upgrade a cluster (test/common); in any other build it is empty.
var levelsSaid string

// Level is the feature level of this program: what it reads and writes. A cluster's level is what all of its nodes can do. Nobody writes to it.
var Level, _ = levels(levelsSaid)

// LevelOldest is the level of the oldest cluster which the program goes into. Nobody writes to it.
var LevelOldest = oldestOf(levels(levelsSaid))

func oldestOf(_, oldest uint32) uint32 { return oldest }

func levels(said string) (level, oldest uint32) {
	level, oldest = LevelReplicas, LevelFirst
	if said != "" {
		if n, err := fmt.Sscanf(said, "%d/%d", &level, &oldest); n != 2 {
			panic(fmt.Sprintf("meta: the linker has set levels %q: %v", said, err))
		}
	}
	return level, oldest
}

// ShardsMax bounds the shards of a cluster.
const ShardsMax = 4096

// clusterIDMax bounds a cluster's name: Kafka's has 22 characters.
const clusterIDMax = 64

// Cluster is what all nodes agree on. There is one entry of it, and it is there from the moment at which the cluster is.
type Cluster struct {
	ID     string
	Shards uint32
	Level  uint32 // of what may be written: no node of the cluster knows less
	Held   bool   // Level stays, whatever all nodes can do
	Sets   uint32 // of shards, beside the first
	// Replicas is how many each set of shards beside the first has, by its number; 0: as many as the nodes' configuration says.
	Replicas [SetsMax + 1]uint8
}

const (
	// clusterHeld is the version of the cluster's entry from which on it says whether its level is held. One that is not is written as version 1.
	clusterHeld = 2
	// clusterSets is the version of an entry with sets of shards.
	clusterSets = 3
	// clusterReplicas is the version of one that says of a set how many replicas it has.
	clusterReplicas = 4
)

// theCluster is the name of the one entry.
const theCluster = "this"

// Entry is what is stored of the cluster.
func (c *Cluster) Entry() Entry {
	version := byte(1)
	switch {
	case c.Replicas != [SetsMax + 1]uint8{}:
		version = clusterReplicas
	case c.Sets > 0:
		version = clusterSets
	case c.Held:
		version = clusterHeld
	}
	b := binary.AppendUvarint(binary.AppendUvarint(appendString([]byte{version}, c.ID), uint64(c.Shards)), uint64(c.Level))
	switch {
	case c.Sets > 0:
		held := byte(0)
		if c.Held {
			held = 1
		}
		b = binary.AppendUvarint(append(b, held), uint64(c.Sets))
	case c.Held:
		b = append(b, 1)
	}
	if version >= clusterReplicas {
		b = append(b, c.Replicas[1:1+c.Sets]...)
	}
	return Entry{Key: kindCluster.key(theCluster), Value: b}
}

func (c *Cluster) check() error {
	switch {
	case c.ID == "" || len(c.ID) > clusterIDMax:
		return fmt.Errorf("want a cluster's id of 1 to %d bytes, found %d", clusterIDMax, len(c.ID))
	case c.Shards == 0 || c.Shards > ShardsMax:
		return fmt.Errorf("want 1 to %d shards, found %d", ShardsMax, c.Shards)
	case c.Sets > SetsMax || c.AllShards() > ShardsMax:
		return fmt.Errorf("want at most %d sets of shards beside the first, and %d shards in all, found %d and %d", SetsMax, ShardsMax, c.Sets, c.AllShards())
	case c.Replicas[0] != 0 || slices.ContainsFunc(c.Replicas[1+c.Sets:], func(n uint8) bool { return n != 0 }):
		return errors.New("there are numbers of replicas of sets of shards that are not there")
	case slices.Max(c.Replicas[:]) > ReplicasMax:
		return fmt.Errorf("want at most %d replicas of a set of shards, found %d", ReplicasMax, slices.Max(c.Replicas[:]))
	case c.Level == 0:
		return errors.New("want a feature level of 1 or more, found 0")
	}
	return nil
}

func decodeCluster(name string, d *decoder) (any, error) {
	c := &Cluster{ID: d.string(), Shards: d.uint32(), Level: d.uint32()}
	switch {
	case d.version == clusterHeld:
		c.Held = true
		if held := d.byte(); !d.bad && held != 1 {
			return nil, fmt.Errorf("want 1 where a level is held, found %d", held)
		}
	case d.version >= clusterSets:
		held := d.byte()
		if c.Held, c.Sets = held == 1, d.uint32(); !d.bad && (held > 1 || c.Sets == 0) {
			return nil, fmt.Errorf("want 0 or 1, and sets of shards, found %d and %d", held, c.Sets)
		}
	}
	if d.version >= clusterReplicas && !d.bad {
		if c.Sets > SetsMax {
			return c, c.check()
		}
		for i := range c.Sets {
			c.Replicas[1+i] = d.byte()
		}
		if !d.bad && c.Replicas == [SetsMax + 1]uint8{} {
			return nil, errors.New("it has the version of one that says how many replicas sets have, and does not")
		}
	}
	if d.bad {
		return c, nil // told by who reads the rest
	}
	if name != theCluster {
		return nil, errors.New("there is one cluster, and its entry is called " + theCluster)
	}
	return c, c.check()
}

// Cluster is what all nodes agree on, nil for a lone node.
func (s *Snapshot) Cluster() *Cluster {
	c, _ := get[*Cluster](s, kindCluster, theCluster)
	return c
}

// ClusterChanged says whether the cluster's entry may differ between two snapshots.
func ClusterChanged(old, now *Snapshot) bool { return now.changed(kindCluster, old) }
