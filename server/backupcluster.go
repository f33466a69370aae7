package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/meta"
)

// A backup of a cluster is one of the node that leads, with the catalog of the cluster's group beside it. The node's log may have what is not committed
// yet: the backup is sealed when all that was in the log has been, under the same leader, and is given up if that does not come.

// catalogFile is in a backup of a cluster alone: rows of the catalog's entries.
const catalogFile = "catalog"

// sealWait is how long what is in the log may take to be committed.
const sealWait = 30 * time.Second

var sealAgain = pace.Backoff{First: time.Millisecond, Most: 50 * time.Millisecond}

// errBackupCluster marks what a cluster cannot do now.
var errBackupCluster = errors.New("the cluster cannot be backed up")

func clusterUnable(reason string) error { return fmt.Errorf("%w: %s", errBackupCluster, reason) }

// clusterCut is the moment of a backup of a cluster. A nil one is that of a node that is alone.
type clusterCut struct {
	n       *node
	epoch   uint32
	entries []meta.Entry
}

// beginCut reads the catalog: what was acknowledged before is in it, whichever node did. written: the node has just written a checkpoint.
func (n *node) beginCut(ctx context.Context, written bool) (*clusterCut, error) {
	if n.cluster == nil {
		return nil, nil //nolint:nilnil // a nil cut does nothing
	}
	if n.member == nil || n.member.control == nil {
		return nil, clusterUnable("its shards are not replicated")
	}
	c := &clusterCut{n: n, epoch: n.member.control.State().Epoch}
	switch entries, _ := n.broker.CatalogSize(); {
	case !n.member.leads() || n.cluster.Halted() != nil:
		return nil, clusterUnable("this node does not lead; ask again")
	case n.tier != nil || n.broker.TierRows() > 0:
		return nil, clusterUnable("it has history in tier.store, which a new cluster could not tell from its own; only a cluster without tiers can be backed up")
	case entries > 0:
		return nil, clusterUnable("it takes over what its first node had while it was alone; ask again")
	case !written:
		return nil, clusterUnable("the node that leads could not write a checkpoint; its log says why")
	}
	if err := n.cluster.Barrier(ctx); err != nil {
		return nil, clusterUnable(fmt.Sprintf("the majority of its nodes does not answer: %v", err))
	}
	c.entries = meta.Kept(n.catalog.Load())
	return c, nil
}

// seal returns when all that the log has is committed, and no other node could have acknowledged anything meanwhile that it has not.
func (c *clusterCut) seal(ctx context.Context) error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sealWait)
	defer cancel()
	n := c.n
	for i := range n.o.shards {
		id := record.ShardID(i)
		last := n.broker.Replica(id).Last
		for tries := 1; ; tries++ {
			r := n.broker.Replica(id)
			if r.Role != broker.RoleLeader || uint32(r.Epoch) != c.epoch {
				return clusterUnable("the lead went to another node meanwhile; ask again")
			}
			if r.HighWatermark >= last {
				break
			}
			if pace.Sleep(ctx, clock.Real{}, sealAgain.Wait(tries)) != nil {
				return clusterUnable(fmt.Sprintf("what its log has is not committed within %v: sluice shard status shows who is in sync", sealWait))
			}
		}
	}
	if err := n.cluster.Barrier(ctx); err != nil {
		return clusterUnable(fmt.Sprintf("the majority of its nodes does not answer: %v", err))
	}
	s := n.catalog.Load()
	for i := range n.o.shards {
		if sh := s.Shard(uint32(i)); sh == nil || sh.Leader != n.member.own || sh.Epoch != c.epoch {
			return clusterUnable("the lead went to another node meanwhile; ask again")
		}
	}
	return nil
}

// store writes the catalog.
func (c *clusterCut) store(ctx context.Context, w *backup.Writer) error {
	if c == nil {
		return nil
	}
	var buf []byte
	return w.Stream(ctx, catalogFile, func(write func([]byte) error) error {
		for i := range c.entries {
			buf = journal.AppendRow(buf[:0], []byte(c.entries[i].Key), c.entries[i].Value)
			if err := write(buf); err != nil {
				return err
			}
		}
		return nil
	})
}

// ofCluster tells whether a data directory came out of the backup of a cluster.
func ofCluster(data string) bool {
	b, err := os.ReadFile(filepath.Join(data, restoredFile))
	var r Restored
	return err == nil && json.Unmarshal(b, &r) == nil && r.NewCluster != ""
}

// settle has the core apply all that a log of several nodes has, as one does that leads alone: the log of a backup is committed to its end. Nothing is
// written. Shard 0 comes first: it makes the partitions that other shards' records are of.
func settle(b *broker.Broker, shards int) error {
	l := b.Local(0)
	for i := range shards {
		id := record.ShardID(i)
		at := b.Replica(id)
		epochs, _ := b.ReplicaHistory(id)
		epoch := record.Epoch(1)
		if n := len(epochs); n > 0 {
			epoch = epochs[n-1].Epoch
		}
		var followed error
		b.FollowLeader(id, epoch, epochs, at.Last, func(_ uint64, err error) { followed = err })
		l.Drain()
		if followed != nil {
			return fmt.Errorf("bring up shard %d: %w", i, followed)
		}
		if err := b.Watermark(id, epoch, at.Last); err != nil {
			return fmt.Errorf("bring up shard %d: %w", i, err)
		}
		l.Drain()
		if r := b.Replica(id); r.Applied < at.Last {
			return fmt.Errorf("bring up shard %d: frame %d cannot be applied", i, r.Applied+1)
		}
	}
	return nil
}
