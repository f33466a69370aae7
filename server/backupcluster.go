package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
// yet: the backup is sealed when all that was in the log has been, under the same leader, and is given up if that does not come. Of a set of shards that another
// node leads the node has what it follows: all that was acknowledged while it is in sync, which it has to be from before the moment of the backup until it is sealed.

// catalogFile is in a backup of a cluster alone: rows of the catalog's entries.
const catalogFile = "catalog"

// sealWait is how long what is in the log may take to be committed.
const sealWait = 30 * time.Second

var sealAgain = pace.Backoff{First: time.Millisecond, Most: 50 * time.Millisecond}

// errBackupCluster marks what a cluster cannot do now.
var errBackupCluster = errors.New("the cluster cannot be backed up")

// errBackupStoreless is what a node answers that cannot reach the history of its cluster: it can neither hold it for a backup nor let it go.
var errBackupStoreless = clusterUnable("it has history in a store, and tier.store of this node is off: set tier.* as on the other nodes")

// storeless tells whether there is history in a store that this node's configuration does not name.
func (n *node) storeless() bool { return n.tier == nil && n.broker.TierRows() > 0 }

func clusterUnable(reason string) error { return fmt.Errorf("%w: %s", errBackupCluster, reason) }

// cutNode is what a cut asks of its node, or of a test's.
type cutNode interface {
	now() cutState
	replica(shard record.ShardID) broker.ReplicaState
	// barrier returns once the majority has agreed, after the call, on who leads the catalog's group.
	barrier(ctx context.Context) error
	snapshot() *meta.Snapshot
}

// cutState is whether a node can take a backup of its cluster.
type cutState struct {
	own       meta.NodeID
	epoch     uint32 // of the shards, as far as the node knows
	leads     bool
	halted    error // why the catalog goes on without this node
	storeless bool
	entries   int64 // that the core has from when the node was alone
}

func (s *cutState) unable() error {
	switch {
	case !s.leads:
		return clusterUnable("this node does not lead; ask again")
	case s.halted != nil:
		return clusterUnable(fmt.Sprintf("the node that leads applies no changes of the catalog any more: %v", s.halted))
	case s.storeless:
		return errBackupStoreless
	case s.entries > 0:
		return clusterUnable("it takes over what its first node had while it was alone; ask again")
	}
	return nil
}

// memberCut is a node of a cluster as a cut sees it.
type memberCut struct{ n *node }

func (m memberCut) now() cutState {
	n := m.n
	at := n.member.control.State()
	s := cutState{own: n.member.own, epoch: at.Epoch, leads: at.Leading, halted: n.cluster.Halted(), storeless: n.storeless()}
	s.entries, _ = n.broker.CatalogSize()
	return s
}

func (m memberCut) replica(id record.ShardID) broker.ReplicaState { return m.n.broker.Replica(id) }
func (m memberCut) barrier(ctx context.Context) error             { return m.n.cluster.Barrier(ctx) }
func (m memberCut) snapshot() *meta.Snapshot                      { return m.n.catalog.Load() }

// clusterCut is the moment of a backup of a cluster. A nil one is that of a node that is alone.
type clusterCut struct {
	at      cutNode
	shards  int
	wait    time.Duration // as long as sealing may take
	epoch   uint32
	entries []meta.Entry
	others  []cutSet
}

// cutSet is a set of shards beside the first, as the catalog had it at the moment of a backup.
type cutSet struct {
	set     meta.ShardSet
	epoch   uint32
	leads   bool     // the node that takes the backup does
	changes []uint64 // of the shards' entries; none: nothing was ever in it
}

// newCut tells whether the node can take a backup of its cluster now. Nothing is stored before.
func (n *node) newCut() (*clusterCut, error) {
	if n.cluster == nil {
		return nil, nil //nolint:nilnil // a nil cut does nothing
	}
	if n.member == nil || n.member.control == nil {
		return nil, clusterUnable("its shards are not replicated")
	}
	c := &clusterCut{at: memberCut{n}, shards: n.o.shards, wait: sealWait}
	now := c.at.now()
	return c, now.unable()
}

// begin reads the catalog: what was acknowledged before is in it, whichever node did. written: the node has just written a checkpoint.
func (c *clusterCut) begin(ctx context.Context, written bool) error {
	if c == nil {
		return nil
	}
	now := c.at.now()
	if err := now.unable(); err != nil {
		return err
	}
	if !written {
		return clusterUnable("the node that leads could not write a checkpoint; its log says why")
	}
	c.epoch = now.epoch
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	for tries := 1; ; tries++ {
		if err := c.barrier(ctx); err != nil {
			return err
		}
		s := c.at.snapshot()
		err := c.follows(s, now.own)
		if err == nil {
			c.entries = meta.Kept(s)
			return nil
		}
		if pace.Sleep(ctx, clock.Real{}, sealAgain.Wait(tries)) != nil {
			return err
		}
	}
}

// follows says whether the node has all that was acknowledged in the other sets, and takes back nothing of what it has there as long as nobody else leads them.
func (c *clusterCut) follows(s *meta.Snapshot, own meta.NodeID) error {
	c.others = nil
	cl := s.Cluster()
	for n := 1; cl != nil && n <= int(cl.Sets); n++ {
		at := cutSet{set: cl.Set(n)}
		for k := range at.set.Count {
			sh := s.Shard(at.set.First + k)
			if sh == nil {
				break
			}
			if sh.Leader == 0 || !slices.Contains(sh.ISR, own) {
				return clusterUnable(fmt.Sprintf("the node that leads is not in sync in set %d of the shards: sluice shard status shows who is; ask again, or have one lead that is", n))
			}
			at.epoch, at.leads = sh.Epoch, sh.Leader == own
			at.changes = append(at.changes, sh.Change)
			if r := c.at.replica(record.ShardID(sh.ID)); !at.is(&r) || !at.leads && !r.Synced {
				return clusterUnable(fmt.Sprintf("the node that leads has just begun to follow set %d of the shards; ask again", n))
			}
		}
		c.others = append(c.others, at)
	}
	return nil
}

// is says whether a replica is what the catalog has it be.
func (s *cutSet) is(r *broker.ReplicaState) bool {
	if s.leads {
		return r.Role == broker.RoleLeader && uint32(r.Epoch) == s.epoch
	}
	return r.Role == broker.RoleFollower && uint32(r.Epoch) == s.epoch
}

func (c *clusterCut) barrier(ctx context.Context) error {
	if err := c.at.barrier(ctx); err != nil {
		return clusterUnable(fmt.Sprintf("the majority of its nodes does not answer: %v", err))
	}
	return nil
}

// Why a cut is given up.
var (
	errCutMoved   = clusterUnable("the lead went to another node meanwhile; ask again")
	errCutChanged = clusterUnable("the nodes in sync in another set of the shards have changed meanwhile; ask again")
)

// seal returns when all that the log has is committed, and no other node could have acknowledged anything meanwhile that it has not.
func (c *clusterCut) seal(ctx context.Context) error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	first := &cutSet{epoch: c.epoch, leads: true}
	for i := range c.shards {
		if err := c.committed(ctx, record.ShardID(i), first); err != nil {
			return err
		}
	}
	for i := range c.others {
		at := &c.others[i]
		for k := range at.changes {
			if err := c.committed(ctx, record.ShardID(at.set.First+uint32(k)), at); err != nil {
				return err
			}
		}
	}
	if err := c.barrier(ctx); err != nil {
		return err
	}
	s, own := c.at.snapshot(), c.at.now().own
	for i := range c.shards {
		if sh := s.Shard(uint32(i)); sh == nil || sh.Leader != own || sh.Epoch != c.epoch {
			return errCutMoved
		}
	}
	return c.unchanged(s)
}

// unchanged says whether the other sets are what they were: who was taken out of those in sync, and in again, may have missed what others had meanwhile, and of which
// they have told set 0.
func (c *clusterCut) unchanged(s *meta.Snapshot) error {
	cl := s.Cluster()
	for n := 1; cl != nil && n <= int(cl.Sets); n++ {
		var had []uint64
		if n <= len(c.others) {
			had = c.others[n-1].changes
		}
		set := cl.Set(n)
		for k := range set.Count {
			sh := s.Shard(set.First + k)
			if (sh != nil) != (int(k) < len(had)) || sh != nil && sh.Change != had[k] {
				return errCutChanged
			}
		}
	}
	return nil
}

// committed waits until all that a shard has is, and the core's tables have it, with them the manifest: what the backup has of it is to be held.
func (c *clusterCut) committed(ctx context.Context, id record.ShardID, at *cutSet) error {
	last := c.at.replica(id).Last
	for tries := 1; ; tries++ {
		r := c.at.replica(id)
		if !at.is(&r) {
			return errCutMoved
		}
		if r.Applied >= last {
			return nil
		}
		if pace.Sleep(ctx, clock.Real{}, sealAgain.Wait(tries)) != nil {
			return clusterUnable(fmt.Sprintf("what its log has is not committed within %v: sluice shard status shows who is in sync", c.wait))
		}
	}
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
// written. Shard 0 comes first: it makes the partitions that other shards' records are of. Behind the first set's shards are those of sets, which may never have been.
func settle(b *broker.Broker, shards int) error {
	l := b.Local(0)
	for i := range shards + meta.SetsMax*meta.SetShards {
		id := record.ShardID(i)
		at := b.Replica(id)
		epochs, _ := b.ReplicaHistory(id)
		if i >= shards && at.Last == 0 {
			continue
		}
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
