package broker

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// txnCluster is three nodes with the home shards and two sets of stream shards. Each set's leader changes on its own, and the one before may not know of that yet;
// requests between nodes are lost, late, doubled and out of order, and nodes do not hear at once who leads.
type txnCluster struct {
	t         *testing.T
	rnd       *rand.Rand
	nodes     []*txnNode
	sets      []*txnSet
	parts     []TopicPartition
	wire      []*txnRequest
	old       []*txnRequest // all of them
	late      []lateBatch
	producers []*txnClient
	calm      bool // nothing is lost any more
}

// setLead is who leads a set of shards.
type setLead struct {
	node  int
	epoch record.Epoch
}

type txnSet struct {
	setLead
	shards []record.ShardID
	zombie int // the node that led before and does not know that it does not any more; -1: none
	behind int // a node that follows and is not in sync yet; -1: none
}

// txnNode is a node, what it knows of who leads, and its way to the others.
type txnNode struct {
	*testBroker
	c    *txnCluster
	at   int
	view []setLead
}

// txnRequest is one of Participants, on its way.
type txnRequest struct {
	from, to int
	lead     record.Epoch
	tp       TopicPartition
	who      ProducerIdentity
	serial   uint64
	end      bool
	commit   bool
	done     func(error)
}

// lateBatch is a copy of a batch that was sent.
type lateBatch struct {
	tp    TopicPartition
	batch record.Batch
}

var errLost = errors.New("no answer")

const txnNodes, txnSets = 3, 3

// txnShards are those of the topic's partitions: one is a home shard.
var txnShards = []record.ShardID{1, modelShards, modelShards + 1, modelShards + SetShards}

func txnTopic(id byte) *TopicSpec {
	spec := &TopicSpec{Name: "t", ID: TopicID{id}, Config: TopicConfig{RetentionMillis: -1, RetentionBytes: -1, Spread: true}}
	for i, s := range txnShards {
		spec.Partitions = append(spec.Partitions, PartitionSpec{ID: record.PartitionID(100*int(id) + i), Shard: s})
	}
	return spec
}

func newTxnCluster(t *testing.T, seed uint64) *txnCluster {
	t.Helper()
	c := &txnCluster{t: t, rnd: rand.New(rand.NewPCG(seed, 7))}
	for i := range txnShards {
		c.parts = append(c.parts, TopicPartition{TopicID{1}, int32(i)})
	}
	for i := range txnNodes {
		n := &txnNode{newSetBroker(t), c, i, make([]setLead, txnSets)}
		n.b.SetParticipants(n)
		n.b.SetTopic(txnTopic(1))
		n.b.Recovered()
		t.Cleanup(n.b.Close)
		c.nodes = append(c.nodes, n)
	}
	for i := range txnSets {
		c.sets = append(c.sets, &txnSet{setLead: setLead{-1, 0}, shards: shardsOf(i), zombie: -1, behind: -1})
		c.move(i, i%txnNodes, false)
		c.carry(i)
		c.carry(i)
	}
	c.tell()
	return c
}

func setOfShard(s record.ShardID) int {
	if s < modelShards {
		return 0
	}
	return 1 + int(s-modelShards)/SetShards
}

func (n *txnNode) part(tp TopicPartition) *Partition {
	return n.b.TopicByID(0, tp.Topic).Partition(tp.Partition)
}

// leader is the node that leads a partition.
func (c *txnCluster) leader(tp TopicPartition) *txnNode {
	return c.nodes[c.sets[setOfShard(txnShards[tp.Partition])].node]
}

// tell has all nodes know who leads.
func (c *txnCluster) tell() {
	for _, n := range c.nodes {
		for i, s := range c.sets {
			n.view[i] = s.setLead
		}
	}
}

// move has another node lead a set. With zombie the one before goes on until it is woken.
func (c *txnCluster) move(set, to int, zombie bool) {
	s := c.sets[set]
	old := s.node
	s.setLead = setLead{to, s.epoch + 1}
	if old >= 0 && !zombie {
		for _, id := range s.shards {
			c.nodes[old].b.Resign(id, func() {})
		}
		c.nodes[old].pump()
	}
	if zombie {
		s.zombie = old
	}
	var others []uint64
	for i := range c.nodes {
		if i != to && i != s.zombie {
			others = append(others, uint64(i+1))
		}
	}
	for _, id := range s.shards {
		c.nodes[to].b.Lead(id, s.epoch, others, 1, func(err error) {
			if err != nil {
				c.t.Errorf("lead: %v", err)
			}
		})
	}
	c.nodes[to].pump()
	c.nodes[to].view[set] = s.setLead
	for _, n := range others {
		c.follow(set, int(n)-1)
	}
}

// follow has a node follow the set's leader.
func (c *txnCluster) follow(set, node int) {
	s := c.sets[set]
	n := c.nodes[node]
	for _, id := range s.shards {
		history, end := c.nodes[s.node].b.ReplicaHistory(id)
		n.b.FollowLeader(id, s.epoch, history, end, func(_ uint64, err error) {
			if err != nil {
				c.t.Errorf("follow: %v", err)
			}
		})
	}
	n.pump()
}

// wake has a leader of before find that it is none.
func (c *txnCluster) wake(set int) {
	s := c.sets[set]
	if s.zombie < 0 {
		return
	}
	s.behind, s.zombie = s.zombie, -1
	c.nodes[s.behind].view[set] = s.setLead
	c.follow(set, s.behind)
}

// logOf are the frames of a node's log that count, of each shard.
func (n *txnNode) logOf() map[record.ShardID][]record.Frame {
	list := make(map[record.ShardID][]record.Frame)
	n.log.frames(func(f record.Frame) {
		frames := list[f.Shard]
		switch f.Kind {
		case record.KindRecords, record.KindCommand:
			list[f.Shard] = append(frames, f)
		case record.KindTruncate:
			for len(frames) > 0 && frames[len(frames)-1].Index > f.Index {
				frames = frames[:len(frames)-1]
			}
			list[f.Shard] = frames
		default: // no part of a shard's history
		}
	})
	return list
}

// carry brings a leader's frames of a set to those who follow, and their answers back.
func (c *txnCluster) carry(set int) {
	s := c.sets[set]
	leader := c.nodes[s.node]
	frames := leader.logOf()
	for i, n := range c.nodes {
		if i == s.node || i == s.zombie {
			continue
		}
		for _, id := range s.shards {
			var list []byte
			last := n.b.Replica(id).Last
			for _, f := range frames[id] {
				if f.Index > last {
					list = record.AppendFrame(list, &f)
				}
			}
			if err := n.b.Follow(id, s.epoch, list); err != nil {
				c.t.Fatalf("follow shard %d: %v", id, err)
			}
		}
		n.pump()
		for _, id := range s.shards {
			if err := leader.b.Acked(id, s.epoch, uint64(i+1), n.b.Replica(id).Durable); err != nil {
				c.t.Fatal(err)
			}
		}
		leader.pump()
		for _, id := range s.shards {
			if err := n.b.Watermark(id, s.epoch, leader.b.Replica(id).HighWatermark); err != nil {
				c.t.Fatal(err)
			}
		}
		n.pump()
	}
	c.rejoin(s)
}

// rejoin has a node that was behind be in sync again, if it is.
func (c *txnCluster) rejoin(s *txnSet) {
	if s.behind < 0 {
		return
	}
	var others []uint64
	for i := range c.nodes {
		if i != s.node {
			others = append(others, uint64(i+1))
		}
	}
	ready := true
	for _, id := range s.shards {
		ready = c.nodes[s.node].b.SetInSync(id, s.epoch, others, 1) == nil && ready
	}
	if ready {
		s.behind = -1
	}
}

// AnnounceTxn and EndTxn make it Participants.
func (n *txnNode) AnnounceTxn(p *Partition, who ProducerIdentity, serial uint64, done func(error)) {
	n.send(p, &txnRequest{who: who, serial: serial, done: done})
}

func (n *txnNode) EndTxn(p *Partition, who ProducerIdentity, serial uint64, commit bool, done func(error)) {
	n.send(p, &txnRequest{who: who, serial: serial, end: true, commit: commit, done: done})
}

func (n *txnNode) send(p *Partition, r *txnRequest) {
	to := n.view[setOfShard(p.Shard())]
	r.from, r.to, r.lead, r.tp = n.at, to.node, to.epoch, TopicPartition{p.Topic().ID(), p.Index()}
	n.c.wire, n.c.old = append(n.c.wire, r), append(n.c.old, r)
}

// answer tells who asked, once.
func (r *txnRequest) answer(err error) {
	if fn := r.done; fn != nil {
		r.done = nil
		fn(err)
	}
}

// deliver has one of the requests arrive, or not, and its answer too. It may come again.
func (c *txnCluster) deliver() {
	if len(c.wire) == 0 {
		return
	}
	i := c.rnd.IntN(len(c.wire))
	r := c.wire[i]
	switch {
	case !c.calm && c.rnd.IntN(5) == 0: // who asked gives up; it is still on its way
		r.answer(errLost)
		return
	case c.calm || c.rnd.IntN(3) > 0:
		c.wire = slices.Delete(c.wire, i, i+1)
	}
	c.arrive(r, c.calm || c.rnd.IntN(4) > 0)
}

func (c *txnCluster) arrive(r *txnRequest, answered bool) {
	n := c.nodes[r.to]
	settle := func(err error) {
		if !answered {
			err = errLost
		}
		r.answer(err)
	}
	if !r.end {
		settle(n.b.TxnAnnounced(n.part(r.tp), r.lead, r.who, r.serial))
		return
	}
	n.b.TxnEnded(n.part(r.tp), r.lead, r.who, r.serial, r.commit, settle)
}

// happen does something.
func (c *txnCluster) happen() {
	set := c.rnd.IntN(txnSets)
	switch k := c.rnd.IntN(48); {
	case k < 18:
		c.producers[c.rnd.IntN(len(c.producers))].step()
	case k < 26:
		c.deliver()
	case k < 34:
		c.carry(set)
	case k < 35:
		if s := c.sets[set]; !c.calm && s.zombie < 0 && s.behind < 0 {
			c.move(set, (s.node+1+c.rnd.IntN(txnNodes-1))%txnNodes, c.rnd.IntN(3) == 0)
		}
	case k < 36:
		c.wake(set)
	case k < 38:
		c.nodes[c.rnd.IntN(txnNodes)].view[set] = c.sets[set].setLead
	case k < 41:
		c.lateBatch()
	case k < 45:
		c.lateRequest()
	default:
		for _, n := range c.nodes {
			n.clock.Advance(time.Duration(c.rnd.IntN(400)) * time.Millisecond)
		}
	}
	for _, n := range c.nodes {
		if c.calm || c.rnd.IntN(3) > 0 {
			n.pump()
		}
	}
}

// lateRequest has one of the last requests come again.
func (c *txnCluster) lateRequest() {
	if n := len(c.old); n > 0 {
		c.arrive(c.old[n-1-c.rnd.IntN(min(n, 30))], false)
	}
}

// lateBatch has a batch come again to some node, from a producer that waits for no answer any more.
func (c *txnCluster) lateBatch() {
	if len(c.late) == 0 {
		return
	}
	b := c.late[len(c.late)-1-c.rnd.IntN(min(len(c.late), 12))]
	n := c.nodes[c.rnd.IntN(txnNodes)]
	l := n.b.Local(0)
	_ = l.Append(l.NewAppender(nil), n.part(b.tp), b.batch, AppendOptions{Transactional: true, Silent: true}, 0)
}

// settle lets everything come to its end.
func (c *txnCluster) settle() {
	c.calm = true
	for i := range c.sets {
		c.wake(i)
	}
	c.tell()
	idle := func() bool {
		return !slices.ContainsFunc(c.producers, func(p *txnClient) bool { return !p.idle() })
	}
	for i := 0; i < 20000 && !idle(); i++ {
		c.happen()
	}
	if !idle() {
		c.t.Fatal("transactions do not end")
	}
	for range 40 { // what is left of before comes now
		for len(c.wire) > 0 {
			c.deliver()
		}
		c.lateBatch()
		c.lateRequest()
		for i := range c.sets {
			c.carry(i)
		}
	}
}
