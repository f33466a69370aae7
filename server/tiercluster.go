package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/offload"
	"github.com/sluicemq/sluice/meta"
)

// In a cluster the node that leads offloads, and it alone; the manifest is replicated with all else. Each lead has an Offloader of its own, which acts in
// the lead's epoch alone: what it asks of the catalog is refused as soon as that is over. Each node lets go of its own log by the manifest that it has.

// tierLead is the tier's part in who leads.
type tierLead struct {
	cluster string // name of the cluster
	forms   bool   // the node has formed it in this run
	lone    string // tiering.name of the node while it was alone
	others  func() (nodes []uint64, known bool)
	leader  func() (node meta.NodeID, known bool)
	woken   chan struct{}
	letting letting
	idle    *offload.Offloader // makes no turns

	mu struct {
		sync.Mutex
		wanted record.Epoch // in which the node leads; 0: it does not
		epoch  record.Epoch // of out
		out    *offload.Offloader
		stop   context.CancelFunc // ends its turns
	}
}

// clusterMark begins what a cluster adds to the name of its store: the epochs of all its nodes are its own.
const clusterMark = " cluster="

// markOf is what a name of a store says of who writes to it.
func markOf(name string) string {
	for _, m := range []string{copyMark, clusterMark} {
		if i := strings.LastIndex(name, m); i >= 0 {
			return name[i:]
		}
	}
	return ""
}

// join has the tier be that of a node of a cluster. It comes before start.
func (t *tiering) join(m *member, cluster string, forms bool) {
	if t == nil || m == nil {
		return
	}
	l := &tierLead{cluster: cluster, forms: forms, lone: t.name, woken: make(chan struct{}, 1)}
	l.others = func() (nodes []uint64, known bool) {
		sh := m.n.catalog.Load().Shard(0)
		if sh == nil {
			return nil, false
		}
		for _, id := range sh.Replicas {
			if id != m.own {
				nodes = append(nodes, uint64(id))
			}
		}
		return nodes, true
	}
	l.leader = func() (meta.NodeID, bool) {
		s := m.control.State()
		return s.Leader, s.Leader != 0
	}
	t.lead = l
	mark := clusterMark + cluster
	t.name = t.store.name + mark[:min(len(mark), copyNameMax)]
}

// startShared is start for a node of a cluster.
func (t *tiering) startShared(o offload.Options) {
	l := t.lead
	l.letting = letting{t: t, checkpoint: t.log.checkpoint, want: make(map[record.PartitionID]record.Offset), seen: make(map[object.ID]struct{})}
	o.Log, o.Shared = clusterLog{offloadLog{t.log}, &l.letting}, true
	l.idle = offload.New(o)
	ctx, stop := context.WithCancel(context.Background())
	t.stop = stop
	t.running.Go(func() { t.followLead(ctx, o) })
	t.running.Go(func() { t.letGo(ctx, o.Interval) })
}

// followLead has an Offloader work while the node leads. When it returns, there is none.
func (t *tiering) followLead(ctx context.Context, o offload.Options) {
	for ctx.Err() == nil {
		select {
		case <-t.lead.woken:
		case <-ctx.Done():
		}
		t.takeOver(ctx, o)
	}
	t.takeOver(ctx, o) // that ended while one was made
}

// leads is told in which epoch the node leads, 0: in none. It does not block.
func (t *tiering) leads(epoch record.Epoch) {
	if t == nil || t.lead == nil {
		return
	}
	l := t.lead
	l.mu.Lock()
	moved := l.mu.wanted != epoch
	l.mu.wanted = epoch
	if l.mu.stop != nil && l.mu.epoch != epoch {
		l.mu.stop()
	}
	l.mu.Unlock()
	if !moved {
		return
	}
	if epoch != 0 {
		t.cleaned()
	}
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// takeOver ends the Offloader of a lead that is over, and makes one for the lead that is not.
func (t *tiering) takeOver(ctx context.Context, o offload.Options) {
	l := t.lead
	l.mu.Lock()
	wanted, old := l.mu.wanted, l.mu.out
	if ctx.Err() != nil {
		wanted = 0
	}
	if old != nil && l.mu.epoch == wanted {
		l.mu.Unlock()
		return
	}
	l.mu.out, l.mu.epoch, l.mu.stop = nil, 0, nil
	l.mu.Unlock()
	if old != nil {
		old.Close()
		t.stats.WaitingBytes.Store(0)
		t.stats.WaitingPartitions.Store(0)
		t.stats.WaitingSince.Store(0)
	}
	if wanted == 0 {
		return
	}
	t.rename(wanted)
	o.Catalog = tierCatalog{t.b, wanted}
	o.Leads = func() bool { return t.b.LeadsIn(wanted) }
	o.Everywhere = t.everywhere
	out := offload.New(o)
	turns, stop := context.WithCancel(ctx)
	l.mu.Lock()
	l.mu.out, l.mu.epoch, l.mu.stop = out, wanted, stop
	if l.mu.wanted != wanted {
		stop() // and there is a wake to come
	}
	l.mu.Unlock()
	t.running.Go(func() {
		defer stop()
		out.Run(turns)
	})
}

// everywhere gives what tells whether all nodes that have the shards have all that this one has now. One that is away keeps what it may need in the store: the
// manifest of an operator's unclean election is its own.
func (t *tiering) everywhere() (known func() bool) {
	frames := t.b.Frames()
	return func() bool {
		nodes, ok := t.lead.others()
		for _, id := range nodes {
			ok = ok && t.b.HasAcked(id, frames)
		}
		return ok
	}
}

// cleaned has what passes of compaction have replaced in the store be read from there, whatever this node has of it, before the node serves as the leader: it may have been
// away for longer than deletions stay, and not have come to let go of its copies since.
func (t *tiering) cleaned() {
	floors := make(map[record.PartitionID]record.Offset)
	tierCatalog{t.b, 0}.Partitions(func(p offload.Partition) bool {
		d, ok := t.manifest.Dirt(p.Partition)
		if !ok || d.Clean <= d.First {
			return true
		}
		if local := t.log.LocalStart(p.Partition); local < d.Clean {
			floors[p.Partition] = d.Clean
		}
		tierCatalog{t.b, 0}.Forget(p.Partition, d.Clean)
		return true
	})
	t.behind.floors.Store(&floors)
}

// errFollows says that another node is to be asked.
var errFollows = fmt.Errorf("the node that leads works on tier.store, ask it: %w", broker.ErrNotLeader)

// offloader is what brings objects out and removes them. Errors: errFollows.
func (t *tiering) offloader() (*offload.Offloader, error) {
	if t.lead == nil {
		return t.out, nil
	}
	l := t.lead
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.out != nil && l.mu.epoch == l.mu.wanted {
		return l.mu.out, nil
	}
	if id, known := l.leader(); known {
		return nil, fmt.Errorf("node %d: %w", id, errFollows)
	}
	return nil, errFollows
}

// holder is what says in the store which objects backups need: of a node of a cluster whether it leads or not, since who leads asks the store.
func (t *tiering) holder() *offload.Offloader {
	if t.lead == nil {
		return t.out
	}
	return t.lead.idle
}

// catalog is the core for what acts for the lead of now.
func (t *tiering) catalog() tierCatalog {
	if t.lead == nil {
		return tierCatalog{t.b, 0}
	}
	t.lead.mu.Lock()
	defer t.lead.mu.Unlock()
	return tierCatalog{t.b, t.lead.mu.epoch}
}

// letGo lets go of local copies, from time to time, until ctx ends.
func (t *tiering) letGo(ctx context.Context, interval time.Duration) {
	l := t.lead
	if interval <= 0 {
		interval = time.Second
	}
	for {
		l.mu.Lock()
		follows := l.mu.out == nil
		l.mu.Unlock()
		if follows {
			l.idle.LetGo()
		}
		l.letting.tell(t.logger, l.letting.turn(ctx))
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return
		}
	}
}

// status is what the Offloader does; of a node that does not lead, who does.
func (t *tiering) status() offload.Status {
	out, err := t.offloader()
	if err != nil {
		s := offload.Status{Phase: "nobody leads"}
		if id, known := t.lead.leader(); known {
			s.Phase = offload.Phase(fmt.Sprintf("node %d leads, and offloads", id))
		}
		return s
	}
	return out.Status()
}

// letting lets go of local copies. Of what the manifest has it makes sure first that the store of this node's configuration has it: it might be another place than
// the leader's. And it waits for a checkpoint that has the rows: of what the log has behind the last one, a restart does not know at first how much is
// committed, and would take what is not there for deleted.
type letting struct {
	t          *tiering
	checkpoint func() bool            // brings all rows behind a restart; false: it has failed
	seen       map[object.ID]struct{} // in the store; belongs to turn
	told       bool                   // that something is not there

	mu   sync.Mutex
	want map[record.PartitionID]record.Offset
}

// seenMax bounds what is remembered of objects that are there.
const seenMax = 1 << 16

// ask has the copies below an offset be let go of.
func (l *letting) ask(p record.PartitionID, o record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want[p] = max(l.want[p], o)
}

// turn does what was asked for.
func (l *letting) turn(ctx context.Context) error {
	l.mu.Lock()
	want := l.want
	l.want = make(map[record.PartitionID]record.Offset)
	l.mu.Unlock()
	ready := make(map[record.PartitionID]record.Offset)
	var lost error
	for p, o := range want {
		until, err := l.there(ctx, p, o)
		if until > l.t.log.LocalStart(p) {
			ready[p] = until
		}
		if err != nil && !errors.Is(err, tier.ErrNotFound) {
			return err // it is asked for again
		}
		lost = cmp.Or(lost, err)
	}
	if len(ready) > 0 && l.checkpoint() {
		for p, o := range ready {
			l.t.log.log.SetLocalStart(p, o)
		}
	}
	return lost
}

// runsAtOnce is how many runs there looks at at once.
const runsAtOnce = 256

// there is up to where, at most to an offset, the store has what the log has.
func (l *letting) there(ctx context.Context, p record.PartitionID, o record.Offset) (until record.Offset, err error) {
	until = l.t.log.LocalStart(p)
	for until < o {
		runs := l.t.manifest.Runs(p, until, runsAtOnce)
		if len(runs) == 0 {
			return until, nil
		}
		for i := range runs {
			r := &runs[i]
			if r.First > until || until >= o {
				return until, nil
			}
			if err := l.object(ctx, r); err != nil {
				return until, err
			}
			until = max(until, r.Last+1)
		}
	}
	return min(until, o), nil
}

// object makes sure of one.
func (l *letting) object(ctx context.Context, r *history.Placed) error {
	if _, ok := l.seen[r.ID]; ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probe)
	defer cancel()
	info, err := l.t.store.Stat(ctx, r.ID.Name())
	if err == nil && info.Size != r.Size {
		err = &tier.Error{Store: l.t.store.kind, Op: "stat", Name: r.ID.Name(), Kind: tier.NotFound, Err: fmt.Errorf("it has %d bytes, want %d", info.Size, r.Size)}
	}
	if err != nil {
		return err
	}
	if len(l.seen) >= seenMax {
		clear(l.seen)
	}
	l.seen[r.ID] = struct{}{}
	return nil
}

// tell logs what keeps local copies here: that the store lacks something, once.
func (l *letting) tell(logger *slog.Logger, err error) {
	switch {
	case err == nil:
		l.told = false
	case errors.Is(err, tier.ErrNotFound) && !l.told:
		l.told = true
		logger.Error("the store does not have what the manifest says; local copies stay: is tier.store the same place on all nodes?", "store", l.t.store.name, "err", err)
	}
}

// clusterLog is the log of a node of a cluster as offloading sees it.
type clusterLog struct {
	offloadLog
	l *letting
}

// SetLocalStart has copies be let go of, when that is safe.
func (o clusterLog) SetLocalStart(p record.PartitionID, at record.Offset) { o.l.ask(p, at) }
