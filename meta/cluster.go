package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Level is the feature level of this program: what it reads and writes. A cluster's level is what all of its nodes can do.
const Level = LevelBans

// The feature levels.
const (
	LevelFirst     = 1
	LevelEndpoints = 2 // nodes say where clients reach them
	LevelBans      = 3 // there are entries that keep clients out
)

// ShardsMax bounds the shards of a cluster.
const ShardsMax = 4096

// clusterIDMax bounds a cluster's name: Kafka's has 22 characters.
const clusterIDMax = 64

// Cluster is what all nodes agree on. There is one entry of it, and it is there from the moment at which the cluster is.
type Cluster struct {
	ID     string
	Shards uint32
	Level  uint32 // of what may be written: no node of the cluster knows less
}

// theCluster is the name of the one entry.
const theCluster = "this"

// Entry is what is stored of the cluster.
func (c *Cluster) Entry() Entry {
	b := appendString(kindCluster.begin(nil), c.ID)
	return Entry{Key: kindCluster.key(theCluster), Value: binary.AppendUvarint(binary.AppendUvarint(b, uint64(c.Shards)), uint64(c.Level))}
}

func (c *Cluster) check() error {
	switch {
	case c.ID == "" || len(c.ID) > clusterIDMax:
		return fmt.Errorf("want a cluster's id of 1 to %d bytes, found %d", clusterIDMax, len(c.ID))
	case c.Shards == 0 || c.Shards > ShardsMax:
		return fmt.Errorf("want 1 to %d shards, found %d", ShardsMax, c.Shards)
	case c.Level == 0:
		return errors.New("want a feature level of 1 or more, found 0")
	}
	return nil
}

func decodeCluster(name string, d *decoder) (any, error) {
	c := &Cluster{ID: d.string(), Shards: d.uint32(), Level: d.uint32()}
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
