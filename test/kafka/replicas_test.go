package kafka

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	door "github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// replicaShards is how many shards the nodes of a trio have.
const replicaShards = 2

// trio is nodes with Kafka's door, of whose shards, or of each set of them, one node at a time is the leader: the test says which. What cluster and server do, this does in
// its simplest form: frames are carried by one goroutine, all nodes hear of a change at once.
type trio struct {
	altered atomic.Int32 // how often the leader was asked to change configurations
	joined  atomic.Int32 // how often the coordinator was asked to let a transaction in
	t       *testing.T
	nodes   []*replicaNode
	mu      struct {
		sync.Mutex
		view    door.View // but for who takes requests
		open    []int     // by the number of the set, the place of the node that takes requests for it, -1 for none
		stopped bool      // nothing is carried
	}
	sets int           // of shards beside the first
	wait time.Duration // of requests without a leader
	stop chan struct{}
	done sync.WaitGroup
}

// replicaNode is one of them. It makes the test the cluster that its door asks.
type replicaNode struct {
	id     int32
	engine *engine.Engine
	b      *broker.Broker
	door   *door.Handler
	log    *replicaLog
	addr   door.Address
	view   atomic.Pointer[door.View]
}

func (n *replicaNode) View() *door.View { return n.view.Load() }

// leading is the node that leads, nil if none does.
func (tr *trio) leading() *replicaNode {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.mu.view.All.Leader < 0 {
		return nil
	}
	return tr.nodes[tr.mu.view.All.Leader-1]
}

// ProducerID and CreateTopics ask the leader.
func (tr *trio) ProducerID(done func(int64, error)) {
	n := tr.leading()
	if n == nil {
		done(-1, broker.ErrNotLeader)
		return
	}
	n.b.InitProducer(0, "", 0, broker.ProducerIdentity{ID: -1, Epoch: -1}, func(who broker.ProducerIdentity, err error) { done(who.ID, err) })
}

func (tr *trio) CreateTopics(tenant uint32, list []door.TopicCreation, done func([]door.TopicResult)) {
	n := tr.leading()
	if n == nil {
		done([]door.TopicResult{{Code: wire.NotController}})
		return
	}
	(&replicaCatalog{b: n.b}).CreateTopics(tenant, list, false, done)
}

func (tr *trio) AlterConfigs(tenant uint32, list []door.TopicAlteration, validateOnly bool, done func([]door.TopicResult)) {
	n := tr.leading()
	if n == nil {
		done([]door.TopicResult{{Code: wire.NotController}})
		return
	}
	tr.altered.Add(1)
	(&replicaCatalog{b: n.b}).AlterConfigs(tenant, list, validateOnly, done)
}

// JoinTxn asks the coordinator.
func (tr *trio) JoinTxn(tenant uint32, id string, who broker.ProducerIdentity, parts []broker.TopicPartition, verify bool, done func(error)) {
	n := tr.leading()
	if n == nil {
		done(broker.ErrNotLeader)
		return
	}
	tr.joined.Add(1)
	n.b.JoinTxn(tenant, id, who, parts, verify, done)
}

// newTrio starts as many nodes, and says that there is another one, which is down. wait is how long requests wait for a leader; 0: as in the product.
func newTrio(t *testing.T, nodes int, wait time.Duration) *trio {
	t.Helper()
	return newSets(t, nodes, 0, wait)
}

// newSets is newTrio with so many sets of shards beside the first.
func newSets(t *testing.T, nodes, sets int, wait time.Duration) *trio {
	t.Helper()
	tr := &trio{t: t, stop: make(chan struct{}), wait: wait, sets: sets}
	all := door.Placement{Leader: -1, Eligible: []int32{}}
	for i := range nodes {
		n := startReplica(t, tr, int32(i+1))
		tr.nodes = append(tr.nodes, n)
		tr.mu.view.Nodes = append(tr.mu.view.Nodes, door.Node{ID: n.id, Plain: n.addr, Rack: "r" + strconv.Itoa(i), Alive: true})
		all.Replicas, all.ISR = append(all.Replicas, n.id), append(all.ISR, n.id)
	}
	down := int32(nodes + 1)
	tr.mu.view.Nodes = append(tr.mu.view.Nodes, door.Node{ID: down, Plain: door.Address{Host: "127.0.0.1", Port: 1}})
	all.Replicas, all.MinISR = append(all.Replicas, down), (nodes+1)/2+1
	tr.mu.view.All, tr.mu.view.Shards, tr.mu.view.Sets = all, replicaShards, slices.Repeat([]door.Placement{all}, sets)
	tr.mu.open = slices.Repeat([]int{-1}, 1+sets)
	tr.tell(-1)
	tr.done.Add(1)
	go tr.carry()
	t.Cleanup(func() { close(tr.stop); tr.done.Wait() }) // before the nodes end
	return tr
}

// placed is where a set of shards is.
func placed(v *door.View, set int) *door.Placement {
	if set == 0 {
		return &v.All
	}
	return &v.Sets[set-1]
}

// shardsOf are the shards of a set.
func shardsOf(set int) (list []record.ShardID) {
	first, n := 0, replicaShards
	if set > 0 {
		first, n = replicaShards+broker.SetShards*(set-1), broker.SetShards
	}
	for i := range n {
		list = append(list, record.ShardID(first+i))
	}
	return list
}

// tell gives all nodes the view; leads is the place of the one that leads the first set, -1 for none.
func (tr *trio) tell(leads int) { tr.tellSet(0, leads) }

func (tr *trio) tellSet(set, leads int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.mu.open[set] = leads
	for i, n := range tr.nodes {
		v := tr.mu.view
		v.Sets = slices.Clone(v.Sets)
		for k, leads := range tr.mu.open {
			pl := placed(&v, k)
			pl.Leads = i == leads
			pl.Follows = leads >= 0 && i != leads && slices.Contains(pl.ISR, n.id)
		}
		n.view.Store(&v)
	}
	for _, n := range tr.nodes {
		n.door.LeaderChanged()
	}
}

// lead makes the i-th node the leader, and waits until it takes requests.
func (tr *trio) lead(i int) *replicaNode {
	tr.t.Helper()
	return tr.leadSet(0, i)
}

func (tr *trio) leadSet(set, i int) *replicaNode {
	tr.t.Helper()
	var others []uint64
	for k, o := range tr.nodes {
		if k != i {
			others = append(others, uint64(o.id))
		}
	}
	return tr.leadSetWith(set, i, others)
}

// leadWith is lead with these in sync beside it.
func (tr *trio) leadWith(i int, others []uint64) *replicaNode {
	tr.t.Helper()
	return tr.leadSetWith(0, i, others)
}

func (tr *trio) leadSetWith(set, i int, others []uint64) *replicaNode {
	tr.t.Helper()
	tr.resignSet(set)
	n := tr.nodes[i]
	tr.mu.Lock()
	pl := placed(&tr.mu.view, set)
	pl.Epoch++
	pl.Leader = n.id
	epoch := record.Epoch(pl.Epoch)
	tr.mu.Unlock()
	shards := shardsOf(set)
	for _, s := range shards {
		n.b.Lead(s, epoch, others, 1, func(err error) {
			if err != nil {
				tr.t.Error(err)
			}
		})
	}
	tr.tellSet(set, -1)
	testx.Eventually(tr.t, patience, func() bool { return n.b.Leads(shards[0], len(shards)) }, "the leader opens")
	tr.tellSet(set, i)
	return n
}

// inSync says how many nodes, from the first on, are in sync, as far as the doors know.
func (tr *trio) inSync(n int) { tr.inSyncSet(0, n) }

func (tr *trio) inSyncSet(set, n int) {
	tr.mu.Lock()
	pl := placed(&tr.mu.view, set)
	pl.ISR = nil
	for _, o := range tr.nodes[:n] {
		pl.ISR = append(pl.ISR, o.id)
	}
	leader := int(pl.Leader) - 1
	tr.mu.Unlock()
	tr.tellSet(set, leader)
}

// resign leaves the nodes without a leader.
func (tr *trio) resign() { tr.resignSet(0) }

func (tr *trio) resignSet(set int) {
	var wait sync.WaitGroup
	for _, n := range tr.nodes {
		for _, s := range shardsOf(set) {
			wait.Add(1)
			n.b.Resign(s, wait.Done)
		}
	}
	wait.Wait()
	tr.mu.Lock()
	placed(&tr.mu.view, set).Leader = -1
	tr.mu.Unlock()
	tr.tellSet(set, -1)
}

// hold stops the followers, or lets them go on.
func (tr *trio) hold(stopped bool) {
	tr.mu.Lock()
	tr.mu.stopped = stopped
	tr.mu.Unlock()
}

// carry brings the leader's frames to the others, and back what they have.
func (tr *trio) carry() {
	defer tr.done.Done()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tr.stop:
			return
		case <-tick.C:
		}
		for set := range tr.sets + 1 {
			tr.mu.Lock()
			pl := placed(&tr.mu.view, set)
			leader, epoch, stopped := pl.Leader, record.Epoch(pl.Epoch), tr.mu.stopped
			tr.mu.Unlock()
			if leader < 0 || stopped {
				continue
			}
			for _, n := range tr.nodes {
				for _, s := range shardsOf(set) {
					if n.id != leader {
						tr.carryTo(n, tr.nodes[leader-1], s, epoch)
					}
				}
			}
		}
	}
}

func (tr *trio) carryTo(n, leader *replicaNode, s record.ShardID, epoch record.Epoch) {
	at := leader.b.Replica(s)
	if at.Role != broker.RoleLeader || at.Epoch != epoch {
		return
	}
	has := n.b.Replica(s)
	if has.Role != broker.RoleFollower || has.Epoch != epoch || !has.Synced {
		history, end := leader.b.ReplicaHistory(s)
		done := make(chan struct{})
		n.b.FollowLeader(s, epoch, history, end, func(_ uint64, err error) {
			if err != nil && !errors.Is(err, broker.ErrStaleEpoch) {
				tr.t.Error(err)
			}
			close(done)
		})
		<-done
		return
	}
	if at.Durable > has.Last {
		frames, err := leader.log.frames(s, has.Last+1)
		if err == nil {
			err = n.b.Follow(s, epoch, frames)
		}
		if err != nil && !errors.Is(err, broker.ErrStaleEpoch) && !errors.Is(err, broker.ErrGap) && !errors.Is(err, broker.ErrBusy) {
			tr.t.Error(err)
		}
	}
	_ = leader.b.Acked(s, epoch, uint64(n.id), has.Durable)
	_ = n.b.Watermark(s, epoch, at.HighWatermark)
}

// startReplica starts a node on a disk in memory.
func startReplica(t *testing.T, tr *trio, id int32) *replicaNode {
	t.Helper()
	n := &replicaNode{id: id}
	n.view.Store(&door.View{All: door.Placement{Leader: -1}})
	var err error
	if n.engine, err = engine.New(engine.Options{Loops: 1}); err != nil {
		t.Fatal(err)
	}
	log, err := journal.Open(journal.Options{Dir: "log", FS: vfs.NewMem(), SegmentBytes: 4 << 20, TailBytes: 1 << 20, GroupBytesMax: 256 << 10, RewriteRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	n.b = broker.New(broker.Options{Shards: replicaShards, Loops: 1, Replicated: true, StreamSets: tr.sets, ResolveTopic: func(list []broker.Setting) (cfg broker.TopicConfig) {
		cfg.RetentionMillis, cfg.RetentionBytes = -1, -1
		for _, e := range list {
			switch e.Key {
			case "min.insync.replicas":
				n, _ := strconv.Atoi(e.Value)
				cfg.MinInsyncReplicas = int32(n)
			case "leader.spread":
				cfg.Spread = e.Value == "true"
			}
		}
		return cfg
	}})
	n.b.SetStreamSets(tr.sets)
	n.b.SetParticipants(&participants{tr, n})
	l := n.b.Local(0)
	task := engine.TaskFunc(func(*engine.Loop) { l.Drain() })
	loop := n.engine.Loops()[0]
	l.SetWake(func() { loop.Post(task) })
	loop.OnTurnEnd(l.EndTurn)
	stopTick := loop.Every(time.Second, l.Tick)
	n.log = &replicaLog{log: log, b: n.b}
	n.b.UseLog(n.log)
	if err := log.Replay(func(record.Frame, journal.Position) error { return nil }); err != nil {
		t.Fatal(err)
	}
	n.b.Recovered()
	if err := log.Start(n.log); err != nil {
		t.Fatal(err)
	}
	n.door = door.NewHandler(door.Options{Broker: n.b, Loops: n.engine.Loops(), Catalog: &replicaCatalog{b: n.b}, NodeID: id, Cluster: n, Leader: tr, LeaderWait: tr.wait, Authn: byInitial{}})
	n.engine.Start()
	at, err := n.engine.Listen(engine.ListenerOptions{Name: "kafka", Network: "tcp", Address: "127.0.0.1:0", Handler: n.door, FirstPacketTimeout: -1, HighWater: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(at.String())
	number, _ := strconv.Atoi(port)
	n.addr = door.Address{Host: host, Port: int32(number)}
	t.Cleanup(func() {
		stopTick()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.engine.Close(ctx); err != nil {
			t.Error(err)
		}
		n.door.Close()
		n.b.Close()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// client knows of the i-th node alone when it begins.
func (tr *trio) client(i int, opts ...kgo.Opt) *kgo.Client {
	tr.t.Helper()
	at := tr.nodes[i].addr
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(net.JoinHostPort(at.Host, strconv.Itoa(int(at.Port)))), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(cl.Close)
	return cl
}

// topic makes a topic at the leader, and waits until every node has it.
func (tr *trio) topic(name string, partitions int, settings ...broker.Setting) {
	tr.t.Helper()
	made := make(chan error, 1)
	tr.leading().b.CreateTopic(0, name, broker.TopicID{byte(len(name)), name[0]}, partitions, settings, func(_ *broker.TopicSpec, err error) { made <- err })
	if err := <-made; err != nil {
		tr.t.Fatal(err)
	}
	for _, n := range tr.nodes {
		testx.Eventually(tr.t, patience, func() bool { return n.b.Topic(0, name) != nil }, "the topic on all nodes")
	}
}

// replicaLog stands between broker and journal.
type replicaLog struct {
	log *journal.Log
	b   *broker.Broker
}

func (s *replicaLog) Wake()                                             { s.log.Wake() }
func (s *replicaLog) Gather(dst []byte, most int) ([]byte, bool)        { return s.b.Gather(dst, most) }
func (s *replicaLog) Committed(g *journal.Group)                        { s.b.Committed(broker.Place(g.End())) }
func (s *replicaLog) Failed(err error)                                  { s.b.Failed(err, false) }
func (s *replicaLog) SetLogStart(p record.PartitionID, o record.Offset) { s.log.SetLogStart(p, o) }
func (s *replicaLog) DropPartition(p record.PartitionID)                { s.log.DropPartition(p) }
func (s *replicaLog) LocalStart(p record.PartitionID) record.Offset     { return s.log.LocalStart(p) }
func (s *replicaLog) TieredEnd(record.PartitionID) record.Offset        { return 0 }
func (s *replicaLog) LocalSize(p record.PartitionID) int64              { return s.log.Size(p) }
func (s *replicaLog) Size(p record.PartitionID) int64                   { return s.log.Size(p) }
func (s *replicaLog) Partitions() []record.PartitionID                  { return s.log.Partitions() }
func (s *replicaLog) Excess(p record.PartitionID, _, _ int64) record.Offset {
	return s.log.LogStart(p)
}

func (s *replicaLog) Bounds(p record.PartitionID) (start, end record.Offset) {
	return s.log.LogStart(p), s.log.LogEnd(p)
}

func (s *replicaLog) Seek(p record.PartitionID, at int64, latest bool) (record.Offset, int64, bool) {
	if latest {
		var ok bool
		if at, ok = s.log.MaxTime(p); !ok {
			return 0, 0, false
		}
	}
	from, ok := s.log.SeekTime(p, at)
	return from, at, ok
}

func (s *replicaLog) Read(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	for {
		batches, _, _, err := s.ReadBatches(broker.ReadRequest{Partition: p, From: from, End: s.log.LogEnd(p), MaxBytes: 1 << 20}, nil)
		if err != nil || len(batches) == 0 {
			return err
		}
		for _, b := range batches {
			if !fn(b) {
				return nil
			}
			from = record.Batch(b).NextOffset()
		}
	}
}

// ReadBatches gives copies.
func (s *replicaLog) ReadBatches(r broker.ReadRequest, dst [][]byte) ([][]byte, alloc.Ref, bool, error) {
	var f journal.Fetched
	defer f.Release()
	err := s.log.Read(&journal.FetchRequest{Partition: r.Partition, From: r.From, End: r.End, MaxBytes: r.MaxBytes, Trust: true}, &f)
	if errors.Is(err, journal.ErrOffsetOutOfRange) {
		err = broker.ErrOffsetOutOfRange
	}
	for _, b := range f.Batches {
		dst = append(dst, append([]byte(nil), b...))
	}
	return dst, nil, true, err
}

// frames gives a shard's frames from an index on.
func (s *replicaLog) frames(shard record.ShardID, from uint64) (out []byte, err error) {
	history, end := s.b.ReplicaHistory(shard)
	sc, err := s.log.Scan(s.log.ShardPosition(shard, from))
	if err != nil {
		return nil, err
	}
	defer sc.Close()
	for len(out) < 1<<20 {
		group, _, err := sc.Next()
		if err != nil || len(group) == 0 {
			return out, err
		}
		for len(group) > 0 {
			f, size, err := record.DecodeFrame(group)
			if err != nil {
				return nil, err
			}
			var epoch record.Epoch
			for _, e := range history {
				if e.First <= f.Index {
					epoch = e.Epoch
				}
			}
			if f.Shard == shard && (f.Kind == record.KindRecords || f.Kind == record.KindCommand) && f.Epoch == epoch && f.Index == from && from <= end {
				out = append(out, group[:size]...)
				from++
			}
			group = group[size:]
		}
	}
	return out, nil
}

// replicaCatalog makes topics without settings.
type replicaCatalog struct{ b *broker.Broker }

func (*replicaCatalog) ClusterID() string { return "cluster" }

func (c *replicaCatalog) CreateTopics(tenant uint32, list []door.TopicCreation, _ bool, done func([]door.TopicResult)) {
	results := make([]door.TopicResult, len(list))
	var left atomic.Int32 // no goroutine waits: a broker that ends does not answer what was under way
	left.Store(int32(len(list)))
	for i := range list {
		c.b.CreateTopic(tenant, list[i].Name, broker.TopicID{0xff, byte(len(list[i].Name)), list[i].Name[0], byte(tenant)}, int(list[i].Partitions), nil, func(spec *broker.TopicSpec, err error) {
			if results[i].Topic = spec; errors.Is(err, broker.ErrTopicExists) {
				results[i].Code = wire.TopicAlreadyExists
			} else if err != nil {
				results[i].Code, results[i].Message = wire.NotController, err.Error()
			}
			if left.Add(-1) == 0 {
				done(results)
			}
		})
	}
}

func (c *replicaCatalog) DeleteTopics(_ uint32, ids []broker.TopicID, done func([]door.TopicResult)) {
	done(make([]door.TopicResult, len(ids)))
}

func (c *replicaCatalog) CreatePartitions(_ uint32, list []door.TopicCreation, _ bool, done func([]door.TopicResult)) {
	done(make([]door.TopicResult, len(list)))
}

func (*replicaCatalog) DescribeTopic(*broker.TopicSpec) []door.ConfigValue { return nil }
func (*replicaCatalog) DescribeNode() []door.ConfigValue                   { return nil }

func (c *replicaCatalog) AlterConfigs(_ uint32, list []door.TopicAlteration, _ bool, done func([]door.TopicResult)) {
	done(make([]door.TopicResult, len(list)))
}

// raw is a connection to the i-th node.
func (tr *trio) raw(i int) *raw {
	tr.t.Helper()
	at := tr.nodes[i].addr
	c, err := net.Dial("tcp", net.JoinHostPort(at.Host, strconv.Itoa(int(at.Port))))
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(func() { _ = c.Close() })
	return &raw{t: tr.t, conn: c}
}
