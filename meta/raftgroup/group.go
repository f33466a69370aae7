package raftgroup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	dragonboat "github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	sm "github.com/lni/dragonboat/v4/statemachine"

	"github.com/sluicemq/sluice/meta"
)

// shardID is Dragonboat's number of the one group.
const shardID = 1

// Worker counts of Dragonboat. They are on disk: data made with others cannot be opened, so they stay for good. One group needs one of each.
const (
	execShards  = 1
	logDBShards = 1
)

// Times, in ticks.
const (
	tick           = 50 * time.Millisecond
	electionTicks  = 10 // a leader that is silent for half a second to a second is replaced
	heartbeatTicks = 2
)

const (
	proposalsMax    = 64
	answerWait      = 5 * time.Second
	attemptTicks    = 30 // of one attempt: an election is over by then
	snapshotEntries = 10_000
	joinWait        = time.Minute
)

// Options are what a Group takes. Zero values are production's.
type Options struct {
	Dir     string // the group's own
	Node    meta.NodeID
	Cluster string // the cluster that the node is of; empty: it does not know yet, and joins
	Address string // where the other nodes reach this one
	Roles   meta.Roles
	Rack    string // empty: as the catalog has it
	Shards  uint32 // of the cluster; another number than the cluster's is refused
	Network Network
	Logger  *slog.Logger
	// Join are the addresses of nodes, one of which lets this one join. It is used until the node has joined.
	Join []string
	// Form makes a cluster of this node if it is in none and Join is empty.
	Form *Form
	// AnswerWait bounds how long a change waits for its answer, JoinWait how long a node asks to join.
	AnswerWait, JoinWait time.Duration

	Tick            time.Duration // 0: 50 ms
	SnapshotEntries uint64
	FS              vfs.FS // of the state; nil: the machine's

	reads byte // tests: the highest version of commands that is understood; 0: this program's
}

// Form is what a new cluster begins with.
type Form struct {
	Entries []meta.Entry // what the node had while it was alone
}

// Group is the catalog's Raft group as one node has it. New, Start once, Close.
type Group struct {
	o        Options
	id       *identity
	host     *dragonboat.NodeHost
	state    *state
	catalog  *meta.Catalog
	handlers atomic.Pointer[handlers]
	voice    voice

	proposals chan proposal
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	work      sync.WaitGroup
	stop      context.CancelFunc // ends what the group does by itself
	ctx       context.Context
	poke      chan struct{} // the tender has something to do
	seq       uint64        // of the last command; the proposer's

	mu struct {
		sync.Mutex
		halted     error
		fatal      error // what another node refuses this one for, for good
		addresses  map[meta.NodeID]heardAddress
		complained time.Time
		kafka      *meta.Endpoints // where Kafka's clients reach this node; nil: nobody has said yet
		mqtt       meta.Doors      // where MQTT's do
		started    bool
	}
}

// heardAddress is where a node says that it is, as long as the catalog says of it what it said then.
type heardAddress struct{ address, instead string }

// proposal is a change that waits for its turn.
type proposal struct {
	base    uint64
	changes []meta.Entry
	done    func(error)
}

// Errors of a group.
var (
	ErrClosed = meta.ErrGroupClosed
	ErrBounds = meta.ErrBounds
	ErrHalted = meta.ErrHalted
	ErrSelf   = meta.ErrSelf // it would not hear how that ended
)

// New makes a group that does nothing yet: what is proposed is refused until Start has returned.
func New(o Options) *Group {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Tick == 0 {
		o.Tick = tick
	}
	if o.AnswerWait == 0 {
		o.AnswerWait = answerWait
	}
	if o.JoinWait == 0 {
		o.JoinWait = joinWait
	}
	if o.SnapshotEntries == 0 {
		o.SnapshotEntries = snapshotEntries
	}
	if o.Roles == 0 {
		o.Roles = meta.RolesAll
	}
	g := &Group{o: o, proposals: make(chan proposal, proposalsMax), closing: make(chan struct{}), poke: make(chan struct{}, 1)}
	g.mu.addresses = make(map[meta.NodeID]heardAddress)
	g.ctx, g.stop = context.WithCancel(context.Background())
	return g
}

// Start brings the group up: what is on disk is in the catalog when it returns, which is the group's own then, and Recovered. A node that is new
// has joined, or formed a cluster; one that was there before does not wait for the others. After an error, Close.
func (g *Group) Start(ctx context.Context, c *meta.Catalog) error {
	g.catalog = c
	if err := meta.CheckNodeAddress(g.o.Address); err != nil {
		return err
	}
	if err := g.identify(); err != nil {
		return err
	}
	var err error
	if g.state, err = openState(filepath.Join(g.o.Dir, "state"), g.o.FS, g.o.Logger, c.Apply); err != nil {
		return err
	}
	if g.o.reads != 0 {
		g.state.reads = g.o.reads
	}
	unknown := c.Recovered()
	if have := c.Load().Cluster(); have != nil {
		if have.ID != g.id.cluster {
			return fmt.Errorf("%w: the state in %s is of cluster %s, the directory of %q", ErrOtherCluster, g.o.Dir, have.ID, g.id.cluster)
		}
		if err := fits(have.Level); err != nil {
			return errors.Join(err, unknown) // the reason comes first, then what it does not know
		}
		if err := g.sameShards(uint64(have.Shards)); err != nil {
			return err
		}
	}
	if unknown != nil {
		return unknown
	}
	if g.id.cluster == "" {
		if err := g.enter(ctx); err != nil {
			return err
		}
	}
	if err := g.startHost(); err != nil {
		return err
	}
	if err := g.rest(ctx); err != nil {
		return err
	}
	if err := g.startReplica(ctx); err != nil {
		return err
	}
	g.o.Network.Serve(g.accept)
	g.mu.Lock()
	g.mu.started = true
	g.mu.Unlock()
	g.work.Go(g.propose)
	if g.o.Form != nil && g.catalog.Load().Cluster() == nil && !g.id.joined {
		if err := g.form(ctx); err != nil {
			return err
		}
	}
	if err := g.recovered(); err != nil {
		return err
	}
	cancel := c.Subscribe(func(old, now *meta.Snapshot) {
		if meta.NodesChanged(old, now) {
			g.tend()
		}
	})
	g.work.Go(func() {
		defer cancel()
		g.tender()
	})
	return g.firstCatalog(ctx)
}

// rest has a node that comes back not vote before it has been silent as long as one that was there (Silence): it does not know any more when it last heard of a
// leader. One that has never had others has nobody to wrong.
func (g *Group) rest(ctx context.Context) error {
	others := 0
	for _, n := range g.catalog.Load().Nodes() {
		if n.ID != g.o.Node && n.State != meta.NodeRemoved {
			others++
		}
	}
	if others == 0 {
		return nil
	}
	return sleep(ctx, electionTicks*g.o.Tick)
}

// firstCatalog waits until a node that has just joined has the catalog: without its users and rules nobody may be let in.
func (g *Group) firstCatalog(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.o.JoinWait)
	defer cancel()
	for g.catalog.Load().Cluster() == nil {
		if err := g.Barrier(ctx); err != nil {
			return fmt.Errorf("get the catalog from the other nodes: %w", err)
		}
	}
	return nil
}

// identify reads who the directory is, or makes it somebody.
func (g *Group) identify() error {
	id, err := identityOf(g.o.Dir, g.o.Node)
	if err != nil {
		return err
	}
	if err := g.goOn(id); err != nil {
		return err
	}
	switch {
	case id.cluster != "" && g.o.Cluster != "" && id.cluster != g.o.Cluster:
		return fmt.Errorf("%w: %s belongs to cluster %s, not to %s", ErrOtherCluster, g.o.Dir, id.cluster, g.o.Cluster)
	case id.cluster == "" && g.o.Form == nil && len(g.o.Join) == 0:
		return errors.New("raftgroup: the node is in no cluster, and is told of none to join: set cluster.peers")
	}
	if err := id.followHost(filepath.Join(g.o.Dir, "raft")); err != nil {
		return fmt.Errorf("move the catalog's log to this machine's name: %w", err)
	}
	id.run++
	g.id = id
	return id.write(g.o.Dir)
}

// enter makes the node one of a cluster: it joins the one that it is told of, or is the first of its own.
func (g *Group) enter(ctx context.Context) error {
	if len(g.o.Join) > 0 {
		return g.join(ctx)
	}
	if g.o.Cluster == "" {
		return errors.New("raftgroup: the cluster to be formed has no name")
	}
	g.id.cluster, g.id.copy = g.o.Cluster, 1
	return g.id.write(g.o.Dir)
}

// ErrShards says that a node is told another number of shards than its cluster has.
var ErrShards = errors.New("raftgroup: another number of shards than the cluster has")

func (g *Group) sameShards(have uint64) error {
	if have != uint64(g.o.Shards) {
		return fmt.Errorf("%w: the cluster has %d, cluster.shards is %d", ErrShards, have, g.o.Shards)
	}
	return nil
}

// deployment is what Dragonboat tells clusters apart by.
func deployment(cluster string) uint64 {
	sum := sha256.Sum256([]byte(cluster))
	return max(1, binary.LittleEndian.Uint64(sum[:])>>1)
}

// hostConfig is what Dragonboat is told. Its defaults take 2 GiB of buffers and 16 workers of each kind.
func (g *Group) hostConfig() config.NodeHostConfig {
	logDB := config.GetTinyMemLogDBConfig()
	logDB.Shards = logDBShards
	logDB.KVWriteBufferSize, logDB.KVMaxWriteBufferNumber = 4<<20, 2
	return config.NodeHostConfig{
		DeploymentID: deployment(g.id.cluster), NodeHostDir: filepath.Join(g.o.Dir, "raft"), RTTMillisecond: uint64(g.o.Tick.Milliseconds()),
		RaftAddress: target(g.o.Node),
		Expert: config.ExpertConfig{TransportFactory: transportFactory{g}, LogDB: logDB,
			Engine: config.EngineConfig{ExecShards: execShards, CommitShards: 1, ApplyShards: 1, SnapshotShards: 2, CloseShards: 1}},
	}
}

func (g *Group) startHost() (err error) {
	logTo(g.o.Logger)
	// Dragonboat answers what it finds wrong with its files by a panic in places.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open the catalog's log in %s: %v", g.o.Dir, r)
		}
	}()
	if g.host, err = dragonboat.NewNodeHost(g.hostConfig()); err != nil {
		return fmt.Errorf("open the catalog's log in %s: %w", g.o.Dir, err)
	}
	if (g.id.started || g.state.mark.applied > 0) && !g.host.HasNodeInfo(shardID, g.id.replica()) {
		return fmt.Errorf("%w (%s)", ErrLogLost, filepath.Join(g.o.Dir, "raft"))
	}
	return nil
}

// startReplica starts the node's copy. Dragonboat has to be told whether it votes, and stops the process if it is told wrong: so a copy that
// has joined is started as one that does not, unless the log's snapshot is known to have it as one that does.
func (g *Group) startReplica(ctx context.Context) error {
	for {
		members := map[uint64]dragonboat.Target{}
		if !g.id.joined && !g.host.HasNodeInfo(shardID, g.id.replica()) {
			members[g.id.replica()] = target(g.o.Node)
		}
		c := config.Config{
			ReplicaID: g.id.replica(), ShardID: shardID, CheckQuorum: true, PreVote: true, ElectionRTT: electionTicks, HeartbeatRTT: heartbeatTicks,
			SnapshotEntries: g.o.SnapshotEntries, CompactionOverhead: g.o.SnapshotEntries / 4, IsNonVoting: g.id.joined && !g.id.voter,
		}
		opened := make(chan struct{}, 1) // of this start alone: whoever has opened the last one may not have left it yet
		if err := g.start(ctx, members, c, opened); err != nil {
			return fmt.Errorf("start the catalog's group: %w", err)
		}
		if !g.id.started {
			g.id.started = true
			if err := g.id.write(g.o.Dir); err != nil {
				return err
			}
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := g.Halted(); err != nil {
			return err
		}
		again, err := g.votesUnknown(&c)
		if err != nil || !again {
			return err
		}
	}
}

// start starts the copy; one that was stopped a moment ago may be there still. opened hears when its state is open.
func (g *Group) start(ctx context.Context, members map[uint64]dragonboat.Target, c config.Config, opened chan<- struct{}) error {
	create := func(uint64, uint64) sm.IOnDiskStateMachine { return machine{g, opened} }
	for {
		err := g.host.StartOnDiskReplica(members, g.id.joined, create, c)
		if !errors.Is(err, dragonboat.ErrShardAlreadyExist) {
			return err
		}
		if err := sleep(ctx, g.o.Tick); err != nil {
			return err
		}
	}
}

// votesUnknown stops a copy that was started as one that does not vote though the log's snapshot says that it does.
func (g *Group) votesUnknown(c *config.Config) (again bool, err error) {
	if !c.IsNonVoting {
		return false, nil
	}
	lr, err := g.host.GetLogReader(shardID)
	if err != nil {
		return false, err
	}
	_, members := lr.NodeState()
	if _, votes := members.Addresses[g.id.replica()]; !votes {
		return false, nil
	}
	if err := g.host.StopShard(shardID); err != nil {
		return false, err
	}
	g.id.voter = true
	return true, g.id.write(g.o.Dir)
}

// halt stops applying, for good, and has the others lead.
func (g *Group) halt(err error) {
	g.mu.Lock()
	first := g.mu.halted == nil
	if first {
		g.mu.halted = fmt.Errorf("%w: %w", ErrHalted, err)
		if !g.closed() { // Close waits for what is begun before
			g.work.Go(g.hush)
		}
	}
	g.mu.Unlock()
	if first {
		g.o.Logger.Error("this node does not apply changes of the catalog any more: it serves what it had", "err", err)
	}
}

// Halted says why this node applies no changes any more: its program is older than what is in the log, or its disk has failed. Nil: it does.
func (g *Group) Halted() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.halted
}

func (g *Group) closed() bool {
	select {
	case <-g.closing:
		return true
	default:
		return false
	}
}

// Close ends the group. Changes that wait are answered first, with ErrClosed or with what became of them.
func (g *Group) Close() error {
	g.closeOnce.Do(func() {
		g.stop()
		g.mu.Lock()
		close(g.closing)
		g.mu.Unlock()
		g.work.Wait()
		for len(g.proposals) > 0 {
			(<-g.proposals).done(ErrClosed)
		}
		if g.o.Network != nil {
			g.closeErr = g.o.Network.Close()
		}
		if g.host != nil {
			g.host.Close()
		}
		if g.state != nil {
			g.closeErr = errors.Join(g.closeErr, g.state.close())
		}
	})
	return g.closeErr
}

// Cluster names the cluster that the node is of. It is called after Start.
func (g *Group) Cluster() string { return g.id.cluster }

// Advertise has the catalog say where clients of Kafka and of MQTT reach this node, soon and as long as the Group lasts. Any goroutine.
func (g *Group) Advertise(kafka meta.Endpoints, mqtt meta.Doors) {
	g.mu.Lock()
	g.mu.kafka, g.mu.mqtt = &kafka, mqtt
	g.mu.Unlock()
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// Address is where the other nodes reach this one.
func (g *Group) Address() string { return g.o.Address }
