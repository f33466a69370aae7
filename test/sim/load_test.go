package sim

import (
	"errors"
	"fmt"
	"maps"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
)

const (
	partitions = 5 // of each topic
	producers  = 12
	groups     = 6
)

// kind is what a producer is.
type kind int

const (
	idempotent kind = iota // sends each batch until it is acknowledged
	plain                  // sends each batch once
	early                  // the same, and is content with the leader's log
)

// load is what clients do.
type load struct {
	w         *world
	topics    []*topic
	producers []*producer
	groups    []*group
}

type topic struct {
	name  string
	id    broker.TopicID
	asked *node // that is to make it
	made  bool  // that was acknowledged
}

type producer struct {
	l         *load
	id        int
	kind      kind
	topic     *topic
	partition int32
	sequence  int32
	count     int
	batch     []byte // to be acknowledged
	values    []string
	at        *node // that has it; nil: to be sent
	app       map[*node]*broker.Appender
	acked     map[record.Offset]string
}

type group struct {
	name          string
	asked         *node
	tried, stored record.Offset
	at            broker.TopicPartition
}

func (l *load) init(w *world) {
	l.w = w
	for i := range 3 {
		t := &topic{name: fmt.Sprint("topic", i)}
		t.id[0] = byte(i + 1)
		l.topics = append(l.topics, t)
	}
	for i := range producers {
		l.producers = append(l.producers, &producer{l: l, id: i, kind: kind(i % 3), topic: l.topics[i%len(l.topics)], partition: int32(i*7) % partitions,
			app: make(map[*node]*broker.Appender), acked: make(map[record.Offset]string)})
	}
	for i := range groups {
		l.groups = append(l.groups, &group{name: fmt.Sprint("group", i), at: broker.TopicPartition{Topic: l.topics[i%3].id, Partition: int32(i % partitions)}})
	}
}

// lost forgets what a node that is gone would have answered.
func (l *load) lost(n *node) {
	for _, t := range l.topics {
		if t.asked == n {
			t.asked = nil
		}
	}
	for _, p := range l.producers {
		if delete(p.app, n); p.at == n {
			p.failed()
		}
	}
	for _, g := range l.groups {
		if g.asked == n {
			g.asked = nil
		}
	}
}

// ask is the node that a client asks first: most of the time the leader of a shard.
func (l *load) ask(s record.ShardID) *node {
	if id := l.w.meta[s].leader; id != 0 && l.w.rnd.IntN(10) > 0 {
		return l.w.node(id)
	}
	return l.w.any()
}

func (l *load) step() {
	switch k := l.w.rnd.IntN(20); {
	case k == 0:
		l.make(l.topics[l.w.rnd.IntN(len(l.topics))])
	case k < 4:
		l.groups[l.w.rnd.IntN(groups)].commit(l)
	default:
		p := l.producers[l.w.rnd.IntN(producers)]
		p.produce(true)
	}
}

func (l *load) make(t *topic) {
	n := l.ask(0)
	if t.made || t.asked != nil || !n.up() {
		return
	}
	t.asked = n
	n.b.CreateTopic(0, t.name, t.id, partitions, nil, func(_ *broker.TopicSpec, err error) {
		if t.asked = nil; err == nil || errors.Is(err, broker.ErrTopicExists) {
			t.made = t.made || err == nil
		}
	})
}

func (g *group) commit(l *load) {
	n := l.w.any()
	if g.asked != nil || !n.up() {
		return
	}
	g.asked = n
	g.tried++
	offset := g.tried
	r := &broker.CommitRequest{Group: g.name, Generation: -1, Offsets: []broker.OffsetCommit{{TopicPartition: g.at, CommittedOffset: broker.CommittedOffset{Offset: offset, LeaderEpoch: -1}}}}
	n.b.CommitOffsets(0, r, func(err error) {
		if g.asked = nil; err == nil && r.Offsets[0].Err == nil {
			g.stored = offset
			l.w.counts["offsets committed"]++
		}
	})
}

// produce sends what was not acknowledged again, or something new.
func (p *producer) produce(more bool) {
	if p.at != nil || p.batch == nil && !more {
		return
	}
	var n *node
	part := (*broker.Partition)(nil)
	if n = p.l.w.any(); n.up() {
		if t := n.b.Topic(0, p.topic.name); t != nil {
			part = t.Partition(p.partition)
		}
	}
	if part == nil {
		return
	}
	if p.batch == nil {
		p.next()
	}
	app := p.app[n]
	if app == nil {
		app = n.l.NewAppender(&sink{p, n})
		p.app[n] = app
	}
	switch err := n.l.Append(app, part, append([]byte(nil), p.batch...), broker.AppendOptions{Leader: p.kind == early}, 1); {
	case err == nil:
		p.at = n
	case errors.Is(err, broker.ErrNotLeader), errors.Is(err, broker.ErrBusy):
	default:
		p.l.w.t.Fatalf("producer %d of kind %d at node %d, sequence %d: %v", p.id, p.kind, n.id, p.sequence, err)
	}
}

// next makes a batch.
func (p *producer) next() {
	var b record.BatchBuilder
	b.Begin(nil, 1)
	p.values = p.values[:0]
	for i := range 1 + p.l.w.rnd.IntN(3) {
		v := fmt.Sprintf("%d.%d.%0*d", p.id, p.count, p.l.w.rnd.IntN(200), 0)
		p.values = append(p.values, v)
		p.count++
		b.Append(&record.Input{OffsetDelta: int32(i), Timestamp: 1, Value: []byte(v)})
	}
	o := record.BatchOptions{}
	if p.kind == idempotent {
		o.Producer = record.Producer{Known: true, ID: int64(1000 + p.id), Sequence: p.sequence}
	}
	p.batch = b.Finish(&o)
}

// failed is the end of a batch of which nobody knows what has become.
func (p *producer) failed() {
	if p.at = nil; p.kind != idempotent {
		p.batch = nil
	}
}

type sink struct {
	p *producer
	n *node
}

// Appended ends a batch.
func (s *sink) Appended(_ broker.Token, r broker.AppendResult) {
	p := s.p
	if p.at != s.n {
		p.l.w.t.Errorf("producer %d hears from node %d of nothing", p.id, s.n.id)
	}
	if r.Err != nil {
		p.failed()
		return
	}
	if p.at = nil; p.kind != early {
		for i, v := range p.values {
			o := r.Base + record.Offset(i)
			if have, ok := p.acked[o]; ok {
				p.l.w.t.Errorf("producer %d: offset %d was acknowledged as %q and %q", p.id, o, have, v)
			}
			p.acked[o] = v
		}
		p.l.w.counts["records acknowledged"] += len(p.values)
	}
	p.sequence += int32(len(p.values))
	p.batch = nil
}

func (s *sink) Resume() {}

// rest has clients end what they have begun, and says whether they have.
func (l *load) rest() bool {
	done := true
	for _, p := range l.producers {
		for range 6 {
			p.produce(false)
		}
		done = done && p.batch == nil
	}
	for _, t := range l.topics {
		done = done && t.asked == nil
	}
	for _, g := range l.groups {
		done = done && g.asked == nil
	}
	return done
}

func (l *load) check() {
	t := l.w.t
	for _, tp := range l.topics {
		if l.w.nodes[0].b.Topic(0, tp.name) == nil {
			if tp.made {
				t.Errorf("%s was acknowledged and is not there", tp.name)
			}
			continue
		}
		for i := range int32(partitions) {
			id := l.w.nodes[0].b.Topic(0, tp.name).Partition(i).ID()
			have := l.w.nodes[0].values(t, id)
			for _, n := range l.w.nodes[1:] {
				if other := n.values(t, id); !maps.Equal(have, other) {
					t.Errorf("%s/%d: node 1 has %d records, node %d %d or others", tp.name, i, len(have), n.id, len(other))
				}
			}
			l.checkPartition(tp, i, have)
		}
	}
	for _, g := range l.groups {
		for _, n := range l.w.nodes {
			o := n.b.FetchOffsets(0, g.name, []broker.TopicPartition{g.at})
			if got := o[0].Offset; g.stored > 0 && (got < g.stored || got > g.tried) {
				t.Errorf("%s at node %d is at %d, was acknowledged at %d of %d", g.name, n.id, got, g.stored, g.tried)
			}
		}
	}
}

// checkPartition looks for what was acknowledged, and for what is there twice or out of order.
func (l *load) checkPartition(tp *topic, i int32, have map[record.Offset]string) {
	t := l.w.t
	seen := make(map[string]record.Offset)
	for o, v := range have {
		if at, ok := seen[v]; ok {
			t.Errorf("%s/%d: %q is at %d and at %d", tp.name, i, v, at, o)
		}
		seen[v] = o
	}
	for _, p := range l.producers {
		if p.topic != tp || p.partition != i {
			continue
		}
		last := -1
		for o := range record.Offset(1 << 20) {
			if len(have) == 0 || o > record.Offset(len(have))+1000 {
				break
			}
			v, ok := p.acked[o]
			if !ok {
				continue
			}
			if have[o] != v {
				t.Errorf("%s/%d at %d: %q was acknowledged to producer %d, %q is there", tp.name, i, o, v, p.id, have[o])
			}
			var id, n int
			if _, err := fmt.Sscanf(v, "%d.%d.", &id, &n); err != nil || n <= last {
				t.Errorf("%s/%d at %d: %q comes behind %d", tp.name, i, o, v, last)
			}
			last = n
		}
	}
}
