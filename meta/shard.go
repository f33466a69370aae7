package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
)

// ReplicasMax bounds the replicas of a shard.
const ReplicasMax = 15

// Shard says who has a shard. The lists of Kafka's rules (KIP-966) are kept: who is in sync, and who was when the last of those went.
type Shard struct {
	ID uint32
	// Change counts the changes of the entry: who changes it says which one it has seen.
	Change uint64
	// Epoch grows with each leader. Frames bear it.
	Epoch    uint32
	Leader   NodeID   // 0: none can be
	Replicas []NodeID // the one to be preferred as leader first
	ISR      []NodeID // in order; part of Replicas
	Eligible []NodeID // in order; part of Replicas, not in ISR: may lead without loss
	// Target are the nodes that shall be the Replicas, one after the other, where these are others; empty: nothing moves. The Replicas may be one more meanwhile.
	Target []NodeID
	// Home are the nodes whose place others have as these are away: when they are back they shall have the shards again. Empty: nobody stands in.
	Home []NodeID
}

// shardTarget is the version of a shard's entry from which on it has a Target. Without one it is written as version 1.
const shardTarget = 2

// shardHome is the version of an entry with a Home.
const shardHome = 3

func shardName(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

func appendNodes(b []byte, list []NodeID) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, id := range list {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

func (d *decoder) nodes() (list []NodeID) {
	for n := d.count(); n > 0 && !d.bad; n-- {
		if len(list) == ReplicasMax {
			d.bad = true
			return nil
		}
		list = append(list, NodeID(d.uint32()))
	}
	return list
}

// Entry is what is stored of the shard.
func (s *Shard) Entry() Entry {
	version := byte(1)
	switch {
	case len(s.Home) > 0:
		version = shardHome
	case len(s.Target) > 0:
		version = shardTarget
	}
	b := binary.AppendUvarint([]byte{version}, s.Change)
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(s.Epoch)), uint64(s.Leader))
	b = appendNodes(appendNodes(appendNodes(b, s.Replicas), s.ISR), s.Eligible)
	if version >= shardTarget {
		b = appendNodes(b, s.Target)
	}
	if version >= shardHome {
		b = appendNodes(b, s.Home)
	}
	return Entry{Key: kindShard.key(shardName(s.ID)), Value: b}
}

// check says what is wrong with the entry by itself.
func (s *Shard) check() error {
	switch {
	case s.ID >= ShardsMax:
		return fmt.Errorf("want a shard's number below %d, found %d", ShardsMax, s.ID)
	case s.Change == 0:
		return fmt.Errorf("shard %d: its change has no number", s.ID)
	case len(s.Replicas) == 0 || len(s.Replicas) > ReplicasMax:
		return fmt.Errorf("shard %d: want 1 to %d replicas, found %d", s.ID, ReplicasMax, len(s.Replicas))
	}
	for _, list := range [][]NodeID{s.Replicas, s.Target, s.Home} {
		for i, id := range list {
			if id == 0 || id > NodeIDMax || slices.Contains(list[:i], id) {
				return fmt.Errorf("shard %d: its replicas %v name a node twice, or none", s.ID, list)
			}
		}
	}
	for _, list := range [][]NodeID{s.ISR, s.Eligible} {
		for i, id := range list {
			if !slices.Contains(s.Replicas, id) || i > 0 && list[i-1] >= id {
				return fmt.Errorf("shard %d: %v are not some of its replicas %v, in order", s.ID, list, s.Replicas)
			}
		}
	}
	for _, id := range s.Eligible {
		if slices.Contains(s.ISR, id) {
			return fmt.Errorf("shard %d: node %d is in sync and eligible, which excludes it", s.ID, id)
		}
	}
	if s.Leader != 0 && !slices.Contains(s.ISR, s.Leader) {
		return fmt.Errorf("shard %d: its leader %d is none of those in sync, %v", s.ID, s.Leader, s.ISR)
	}
	return nil
}

func decodeShard(name string, d *decoder) (any, error) {
	id, err := number(name, ShardsMax-1)
	if err != nil {
		return nil, err
	}
	s := &Shard{ID: uint32(id), Change: d.uvarint(), Epoch: d.uint32(), Leader: NodeID(d.uint32()), Replicas: d.nodes(), ISR: d.nodes(), Eligible: d.nodes()}
	if d.version >= shardTarget {
		s.Target = d.nodes()
	}
	if d.version >= shardHome {
		s.Home = d.nodes()
	}
	switch {
	case d.bad:
		return s, nil // told by who reads the rest
	case d.version == shardTarget && len(s.Target) == 0:
		return nil, errors.New("it has the version of one that moves, and does not")
	case d.version >= shardHome && len(s.Home) == 0:
		return nil, errors.New("it has the version of one with nodes that come back, and has none")
	}
	return s, s.check()
}

// Arrived takes the Target away once it is what the Replicas are, in any order.
func (s *Shard) Arrived() {
	for _, id := range s.Replicas {
		if !slices.Contains(s.Target, id) {
			return
		}
	}
	if len(s.Replicas) == len(s.Target) {
		s.Target = nil
	}
}

// Shard finds who has a shard, nil if that was not said.
func (s *Snapshot) Shard(id uint32) *Shard {
	v, _ := get[*Shard](s, kindShard, shardName(id))
	return v
}

// Shards walks the shards, in no order that means anything. It sorts: not for hot paths.
func (s *Snapshot) Shards() iter.Seq2[string, *Shard] { return all[*Shard](s, kindShard) }

// WithShards is the snapshot as it would be with these entries in the place of its own: for plans. It is nobody's catalog.
func (s *Snapshot) WithShards(list ...Shard) *Snapshot {
	e := s.edit()
	for i := range list {
		e.set(kindShard, shardName(list[i].ID), &list[i])
	}
	return e.take()
}

// ShardsChanged says whether shards may differ between two snapshots.
func ShardsChanged(old, now *Snapshot) bool { return now.changed(kindShard, old) }

// ChangedShards calls fn with every shard that is not the same in old and now.
func ChangedShards(old, now *Snapshot, fn func(id uint32)) {
	differing(kindShard, old, now, func(name string) {
		if id, err := number(name, ShardsMax-1); err == nil {
			fn(uint32(id))
		}
	})
}

// uint32 reads a number that fits.
func (d *decoder) uint32() uint32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.bad, d.b = true, nil
		return 0
	}
	return uint32(v)
}
