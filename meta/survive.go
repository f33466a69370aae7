package meta

import (
	"fmt"
	"slices"
)

// Survive gives the entries of a new cluster that goes on with what one node of another one has: all but who the nodes are and how the cluster is called, and
// with every shard led by that node alone, in the next epoch. all are the entries of the catalog that the node has. What shards of sets beside the first had is lost where the node has
// no part in them (lost names the sets): they begin anew. ErrNoCluster; ErrShard: the node has no part in a shard of the first set.
func Survive(s *Snapshot, all []Entry, node NodeID) (out []Entry, lost []int, err error) {
	c := s.Cluster()
	if c == nil {
		return nil, nil, ErrNoCluster
	}
	for i := range all {
		switch k, _, err := split(all[i].Key); {
		case err != nil:
			return nil, nil, err
		case k != kindNode && k != kindCluster && k != kindShard:
			out = append(out, all[i])
		}
	}
	for _, sh := range s.Shards() {
		if !slices.Contains(sh.Replicas, node) {
			set := c.SetOf(sh.ID)
			if set == 0 {
				return nil, nil, fmt.Errorf("%w: shard %d is on the nodes %v, not on node %d", ErrShard, sh.ID, sh.Replicas, node)
			}
			lost = append(lost, set)
		}
		only := []NodeID{node}
		next := Shard{ID: sh.ID, Change: sh.Change + 1, Epoch: sh.Epoch + 1, Leader: node, Replicas: only, ISR: only}
		out = append(out, next.Entry())
	}
	slices.Sort(lost)
	return out, slices.Compact(lost), nil
}
