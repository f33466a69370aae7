package meta

import (
	"fmt"
	"slices"
)

// Survive gives the entries of a new cluster that goes on with what one node of another one has: all but who the nodes are and how the cluster is called, and
// with every shard led by that node alone, in the next epoch. all are the entries of the catalog that the node has. ErrNoCluster; ErrShard: the node has no part
// in a shard.
func Survive(s *Snapshot, all []Entry, node NodeID) (out []Entry, err error) {
	if s.Cluster() == nil {
		return nil, ErrNoCluster
	}
	for i := range all {
		switch k, _, err := split(all[i].Key); {
		case err != nil:
			return nil, err
		case k != kindNode && k != kindCluster && k != kindShard:
			out = append(out, all[i])
		}
	}
	for _, sh := range s.Shards() {
		if !slices.Contains(sh.Replicas, node) {
			return nil, fmt.Errorf("%w: shard %d is on the nodes %v, not on node %d", ErrShard, sh.ID, sh.Replicas, node)
		}
		only := []NodeID{node}
		next := Shard{ID: sh.ID, Change: sh.Change + 1, Epoch: sh.Epoch + 1, Leader: node, Replicas: only, ISR: only}
		out = append(out, next.Entry())
	}
	return out, nil
}
