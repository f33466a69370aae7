package meta

import (
	"fmt"
	"slices"
)

// Kept gives the entries of a snapshot that a backup of a cluster has: all but who the nodes are and how the cluster is called. Shards are among them, for
// their epochs.
func Kept(s *Snapshot) (out []Entry) {
	for k := range kindCount {
		if k == kindNode || k == kindCluster {
			continue
		}
		for _, v := range all[any](s, k) {
			if e, ok := v.(interface{ Entry() Entry }); ok {
				out = append(out, e.Entry())
			}
		}
	}
	return out
}

// Refound gives the entries with which a node forms a cluster that goes on with what another cluster had: every shard is led by the node alone, in the next
// epoch, since the frames in its log bear the earlier ones. own are what Kept gave there; of a node that was alone, which has no shards among them, they come
// back as they are.
func Refound(own []Entry, node NodeID) ([]Entry, error) {
	out := slices.Clone(own)
	for i := range out {
		k, _, v, err := out[i].decode()
		if err != nil {
			return nil, err
		}
		sh, ok := v.(*Shard)
		switch {
		case k == kindNode || k == kindCluster:
			return nil, fmt.Errorf("%w: %q is of another cluster", ErrEntry, out[i].Key)
		case ok && sh != nil:
			only := []NodeID{node}
			next := Shard{ID: sh.ID, Change: sh.Change + 1, Epoch: sh.Epoch + 1, Leader: node, Replicas: only, ISR: only}
			out[i] = next.Entry()
		}
	}
	return out, nil
}
