package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// setNode is a node of a cluster whose sets of shards have leaders of their own.
type setNode struct {
	*testBroker
	points *memCheckpoints
	send   *sent
}

// setStream is an idempotent producer of a partition: it sends each record until it is acknowledged.
type setStream struct {
	topic  string
	part   int32
	id     int64
	acked  int
	at     int   // the node that has been asked, -1: none
	token  Token // under which
	offset []record.Offset
}

// setWorld are three nodes, all of them in sync all the time: a frame is committed when all logs have it.
type setWorld struct {
	t       *testing.T
	r       *rand.Rand
	nodes   []*setNode
	leader  []int // by set
	epoch   []record.Epoch
	streams []*setStream
	clients []*setClient
	topics  []string
	gone    map[string]bool // deleted, or perhaps
	tokens  Token
	odds    []int // of steps
}

func newSetWorld(t *testing.T, seed uint64) *setWorld {
	t.Helper()
	w := &setWorld{t: t, r: rand.New(rand.NewPCG(seed, 1)), leader: make([]int, modelSets+1), epoch: make([]record.Epoch, modelSets+1), gone: make(map[string]bool)}
	for range 3 {
		n := &setNode{testBroker: newSetBroker(t), points: &memCheckpoints{}}
		w.nodes = append(w.nodes, n)
		n.b.Recovered()
		w.started(n)
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.b.Close()
		}
	})
	for set := range w.leader {
		w.elect(set, set%3)
	}
	w.settle()
	return w
}

func (w *setWorld) started(n *setNode) {
	n.log.cuts = true
	n.b.SetStreamSets(modelSets)
	n.send = n.sender()
}

// elect makes a node the leader of a set. The others hear of it when they pull.
func (w *setWorld) elect(set, i int) {
	w.t.Helper()
	w.epoch[set]++
	w.leader[set] = i
	var others []uint64
	for j := range w.nodes {
		if j != i {
			others = append(others, uint64(j))
		}
	}
	for _, s := range shardsOf(set) {
		w.nodes[i].b.Lead(s, w.epoch[set], others, 2, func(err error) {
			if err != nil {
				w.t.Errorf("node %d is to lead shard %d: %v", i, s, err)
			}
		})
	}
	w.nodes[i].drain()
	for _, st := range w.clients {
		w.sendAway(st, set)
	}
}

// drain runs the loops, and leaves what is to be written.
func (tb *testBroker) drain() {
	for busy := true; busy; {
		busy = false
		for i := range tb.b.Loops() {
			l := tb.b.Local(i)
			busy = busy || l.awake.Load()
			l.Drain()
			l.EndTurn()
		}
	}
}

// pull has a node take over what a set's leader has, at most so many frames of each shard, and say how far it is.
func (w *setWorld) pull(set, j, most int) {
	w.t.Helper()
	i, n := w.leader[set], w.nodes[j]
	if i == j {
		return
	}
	var list []record.Frame
	w.nodes[i].log.standing(func(f record.Frame) {
		if f.Kind <= record.KindCommand {
			list = append(list, f)
		}
	})
	for _, s := range shardsOf(set) {
		if w.follow(set, j, s); w.t.Failed() {
			return
		}
		last := n.b.Replica(s).Last
		history, _ := w.nodes[i].b.ReplicaHistory(s)
		var frames []byte
		for k := range list {
			f := &list[k]
			if f.Shard == s && f.Index > last && f.Index <= last+uint64(most) && f.Epoch == epochOf(history, f.Index) { // what is yet to be taken back is another one's
				frames = record.AppendFrame(frames, f)
			}
		}
		w.give(set, j, s, frames)
	}
}

// epochOf is the epoch that the frame with an index is of.
func epochOf(history []EpochStart, index uint64) (e record.Epoch) {
	for _, h := range history {
		if h.First <= index {
			e = h.Epoch
		}
	}
	return e
}

// follow has a node follow the leader of a shard, if it does not.
func (w *setWorld) follow(set, j int, s record.ShardID) {
	st := w.nodes[j].b.Replica(s)
	if st.Role == RoleFollower && st.Epoch == w.epoch[set] && st.Synced {
		return
	}
	history, end := w.nodes[w.leader[set]].b.ReplicaHistory(s)
	w.nodes[j].b.FollowLeader(s, w.epoch[set], history, end, func(_ uint64, err error) {
		if err != nil {
			w.t.Errorf("node %d is to follow shard %d in epoch %d: %v", j, s, w.epoch[set], err)
		}
	})
	w.nodes[j].drain()
}

// give hands frames to a follower, its answer to the leader, and the leader's word back.
func (w *setWorld) give(set, j int, s record.ShardID, frames []byte) {
	w.t.Helper()
	leader, n := w.nodes[w.leader[set]], w.nodes[j]
	if err := n.b.Follow(s, w.epoch[set], frames); err != nil && !errors.Is(err, ErrBusy) {
		w.t.Errorf("frames of shard %d to node %d: %v", s, j, err)
		return
	}
	if err := leader.b.Acked(s, w.epoch[set], uint64(j), n.b.Replica(s).Durable); err != nil {
		w.t.Errorf("answer of node %d, shard %d: %v", j, s, err)
	}
	if err := n.b.Watermark(s, w.epoch[set], leader.b.Replica(s).HighWatermark); err != nil {
		w.t.Errorf("high watermark of shard %d to node %d: %v", s, j, err)
	}
}

// run has a node's loops and its log go on. Others may have what goes ahead, and the node may stop in the middle of that: what is gathered is not written then.
func (w *setWorld) run(i int, ahead, dies bool) {
	w.t.Helper()
	n, died := w.nodes[i], false
	if ahead || dies {
		n.log.between = func() {
			held := make(map[record.ShardID]bool)
			if ahead && n.b.Ahead(func(s record.ShardID) { held[s] = true }) {
				w.show(i, n.log.gathered, held)
			}
			if dies {
				died, n.log.fail = true, errors.New("stopped")
			}
		}
	}
	n.pump()
	n.log.between = nil
	if died {
		w.crash(i)
	}
}

// show hands frames that the log does not have yet to the followers.
func (w *setWorld) show(i int, gathered []byte, held map[record.ShardID]bool) {
	w.t.Helper()
	for set, leader := range w.leader {
		if leader != i {
			continue
		}
		for j := range w.nodes {
			for _, s := range shardsOf(set) {
				st := w.nodes[j].b.Replica(s)
				if j == i || held[s] || st.Role != RoleFollower || st.Epoch != w.epoch[set] || !st.Synced {
					continue
				}
				var frames []byte
				next := st.Last + 1
				eachFrame(gathered, func(f *record.Frame) {
					if f.Kind <= record.KindCommand && f.Shard == s && f.Index == next {
						frames = record.AppendFrame(frames, f)
						next++
					}
				})
				w.give(set, j, s, frames)
			}
			if w.r.IntN(2) == 0 && j != i {
				w.nodes[j].pump()
			}
		}
	}
}

// crash starts a node anew on what its log and its checkpoint have. What it led somebody leads in another epoch.
func (w *setWorld) crash(i int) {
	w.t.Helper()
	old := w.nodes[i]
	n := &setNode{testBroker: newSetBroker(w.t), points: old.points}
	n.clock = old.clock
	n.log.groups, n.log.start, n.log.cuts = old.log.groups, old.log.start, true
	old.b.Close()
	w.nodes[i] = n
	if err := n.b.Load(n.points); err != nil {
		w.t.Fatal(err)
	}
	for k, g := range n.log.groups[n.points.replay:] {
		for len(g) > 0 {
			f, size, err := record.DecodeFrame(g)
			if err == nil {
				end := int64(n.points.replay + k)
				if size == len(g) { // places are those of whole groups: what is left of one is replayed from its begin
					end++
				}
				err = n.b.Replay(f, Place{Segment: 1, Offset: end})
			}
			if err != nil {
				w.t.Fatal(err)
			}
			g = g[size:]
		}
	}
	n.b.Recovered()
	w.started(n)
	for _, st := range w.streams {
		if st.at == i {
			st.at = -1
		}
	}
	for _, st := range w.clients {
		if st.conn != nil && st.conn.at == i {
			st.disconnect(true)
		}
	}
	for set, leader := range w.leader {
		if leader == i {
			w.elect(set, w.r.IntN(len(w.nodes)))
		}
	}
}

func (w *setWorld) checkpoint(i int) {
	w.t.Helper()
	n := w.nodes[i]
	if err := n.b.Checkpoint(n.points); err != nil {
		w.t.Fatal(err)
	}
	from := int64(len(n.log.groups))
	for _, r := range n.points.flushed {
		from = min(from, r.at.Offset)
	}
	n.log.frames(func(f record.Frame) {
		if n.points.flushed[f.Shard] == nil { // the log keeps what no checkpoint stands for
			from = 0
		}
	})
	n.points.replay = int(from)
}

// produce hears what became of a stream's record, or sends it.
func (w *setWorld) produce(st *setStream) {
	w.t.Helper()
	if st.at >= 0 {
		r, ok := w.nodes[st.at].send.results[st.token]
		if !ok {
			return
		}
		if st.at = -1; r.Err == nil {
			st.acked++
			st.offset = append(st.offset, r.Base)
		} else if !errors.Is(r.Err, ErrNotLeader) && !errors.Is(r.Err, ErrUnavailable) {
			w.t.Errorf("record %d of %s/%d: %v", st.acked, st.topic, st.part, r.Err)
		}
		return
	}
	for i, n := range w.nodes {
		topic := n.b.Topic(0, st.topic)
		if w.gone[st.topic] || topic == nil || !n.b.LeadsPartition(topic.Partition(st.part)) || w.leader[n.b.shards[topic.Partition(st.part).Shard()].set] != i {
			continue
		}
		w.tokens++
		batch := fromProducer(st.id, 0, int32(st.acked), fmt.Sprintf("%s-%d-%d", st.topic, st.part, st.acked))
		if err := n.b.Local(0).Append(n.send.app, topic.Partition(st.part), batch, AppendOptions{}, w.tokens); err == nil {
			st.at, st.token = i, w.tokens
		} else if !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrBusy) {
			w.t.Errorf("send %d of %s/%d: %v", st.acked, st.topic, st.part, err)
		}
		return
	}
}

// create makes a topic of n partitions where the home shards are led.
func (w *setWorld) create(n int, settings []Setting) {
	b := w.nodes[w.leader[0]].b
	if !b.Leading() {
		return
	}
	name := fmt.Sprintf("t%d", len(w.topics))
	w.topics = append(w.topics, name)
	for i := range n {
		w.streams = append(w.streams, &setStream{topic: name, part: int32(i), id: int64(1000 + len(w.streams) + len(w.clients)), at: -1})
	}
	b.CreateTopic(0, name, TopicID([]byte(fmt.Sprintf("%-16s", name))), n, settings, func(*TopicSpec, error) {})
}

// settle has all nodes come to the same.
func (w *setWorld) settle() {
	w.t.Helper()
	for range 30 {
		for set := range w.leader {
			for j := range w.nodes {
				w.pull(set, j, 1<<30)
			}
		}
		for i := range w.nodes {
			w.run(i, false, false)
		}
		for _, st := range w.streams {
			if st.at >= 0 {
				w.produce(st)
			}
		}
		for _, st := range w.clients {
			w.send(st, false)
			w.read(st, producerWindow)
		}
	}
	for set, i := range w.leader {
		for _, s := range shardsOf(set) {
			at := w.nodes[i].b.Replica(s)
			for j, n := range w.nodes {
				if st := n.b.Replica(s); !at.Open || st.Applied != at.Last {
					w.t.Errorf("shard %d, led by node %d: %+v; node %d: %+v", s, i, at, j, st)
				}
			}
		}
	}
}

// valuesOf are the records that readers see.
func (tb *testBroker) valuesOf(p *Partition) (list []string) {
	_ = tb.log.walk(p.ID(), 0, func(b record.Batch) bool {
		if b.BaseOffset() >= p.HighWatermark() {
			return false
		}
		for it := b.Records(); it.Next(); {
			list = append(list, string(it.Record().Value))
		}
		return true
	})
	return list
}

// verify compares all nodes with what was acknowledged.
func (w *setWorld) verify() {
	w.t.Helper()
	for _, st := range w.streams {
		var first []string
		for i, n := range w.nodes {
			topic := n.b.Topic(0, st.topic)
			if (topic == nil) != (w.nodes[0].b.Topic(0, st.topic) == nil) || topic == nil && st.acked > 0 && !w.gone[st.topic] {
				w.t.Errorf("topic %s at node %d: %v", st.topic, i, topic)
			}
			if topic == nil || w.gone[st.topic] {
				continue
			}
			values := n.valuesOf(topic.Partition(st.part))
			for k, v := range values {
				if want := fmt.Sprintf("%s-%d-%d", st.topic, st.part, k); v != want {
					w.t.Errorf("record %d of %s/%d at node %d is %q", k, st.topic, st.part, i, v)
				}
			}
			if len(values) < st.acked || len(values) > st.acked+1 {
				w.t.Errorf("%s/%d has %d records at node %d, %d were acknowledged", st.topic, st.part, len(values), i, st.acked)
			}
			if i == 0 {
				first = values
			}
			if !slices.Equal(values, first) {
				w.t.Errorf("%s/%d at node %d: %q, at node 0: %q", st.topic, st.part, i, values, first)
			}
		}
		for k, o := range st.offset {
			if o != record.Offset(k) {
				w.t.Errorf("record %d of %s/%d was acknowledged at offset %d", k, st.topic, st.part, o)
			}
		}
	}
}

// What may happen, and how often in a thousand: where most goes well, and where little does.
const (
	setProduce = iota
	setPull
	setRun
	setRound // all pull from a set's leader, and run
	setElect
	setCrash
	setCheckpoint
	setFull
	setCreate
	setDelete
	setTick
)

var setOdds = [2][]int{{300, 100, 250, 225, 12, 8, 20, 15, 15, 3, 52}, {350, 250, 220, 0, 40, 20, 40, 30, 30, 10, 10}}

// step does one thing of what may happen.
func (w *setWorld) step() {
	w.t.Helper()
	set, i := w.r.IntN(len(w.leader)), w.r.IntN(len(w.nodes))
	op, at := 0, w.r.IntN(1000)
	for ; at >= w.odds[op]; op++ {
		at -= w.odds[op]
	}
	switch op {
	case setProduce:
		if at := w.r.IntN(len(w.streams) + len(w.clients)); at < len(w.streams) {
			w.produce(w.streams[at])
		} else {
			w.exchange(w.clients[at-len(w.streams)])
		}
	case setPull:
		w.pull(set, i, 1+w.r.IntN(8))
	case setRun:
		w.run(i, w.r.IntN(2) == 0, w.r.IntN(1000) < w.odds[setElect])
	case setRound:
		for j := range w.nodes {
			w.pull(set, j, 1<<30)
			w.run(j, w.r.IntN(2) == 0, false)
		}
	case setElect:
		w.elect(set, i)
	case setCrash:
		w.crash(i)
	case setCheckpoint:
		w.checkpoint(i)
	case setFull:
		w.nodes[i].log.fail = errors.New("full")
		w.nodes[i].pump()
		w.nodes[i].log.fail = nil
		w.nodes[i].tick()
	case setCreate:
		if len(w.topics) < 12 {
			w.create(1+w.r.IntN(2*modelSets), [][]Setting{nil, spreadOn, spreadOn}[w.r.IntN(3)])
		}
	case setDelete:
		name := w.topics[w.r.IntN(len(w.topics))]
		if b := w.nodes[w.leader[0]].b; b.Topic(0, name) != nil {
			w.gone[name] = true
			b.DeleteTopic(b.Topic(0, name), func(error) {})
		}
	default:
		w.nodes[i].tick()
	}
}

// TestSetsModel: whatever leaders of sets change, nodes stop and logs fail, each for itself, what was acknowledged of a partition is there once, in order and on all nodes.
func TestSetsModel(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newSetWorld(t, seed)
			w.odds = setOdds[seed%2]
			w.create(4, spreadOn)
			w.create(2, nil)
			w.withClients(6)
			for range 1000 {
				if w.step(); t.Failed() {
					t.Fatalf("with seed %d", seed)
				}
			}
			if w.settle(); t.Failed() {
				t.FailNow()
			}
			w.verify()
			acked := w.verifyClients()
			for _, st := range w.streams {
				acked += st.acked
			}
			t.Logf("%d records of %d partitions", acked, len(w.streams))
		})
	}
}
