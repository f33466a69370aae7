package broker

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/sluicemq/sluice/journal/record"
)

// Errors of changes of topics.
var (
	ErrTopicExists  = errors.New("broker: the topic exists")
	ErrConcurrent   = errors.New("broker: the topic is being changed")
	ErrFewer        = errors.New("broker: a topic's partitions cannot become fewer")
	ErrVolatileOnly = errors.New("broker: durability memory keeps no topics")
)

// Setting is one key of a topic's configuration as its user has set it.
type Setting struct{ Key, Value string }

// topicStore makes changes of topics commands of shard 0, in whose rows they lie: a topic is there when its command is in the log.
type topicStore struct {
	mu      sync.Mutex
	running map[topicKey]struct{} // changes on their way into the log
	next    record.PartitionID    // as it will be when they are there
	epoch   record.Epoch          // of shard 0's leader when it was last asked for
}

// idsSkipped is how many partition ids a new leader leaves out where there are sets of shards: topics that were lost with the one before, in an election that was not
// clean, may have records in other sets yet, which must not be another topic's.
const idsSkipped = 1 << 12

// CreateTopic makes a topic of n partitions, spread over the shards. done runs on some loop when it is in the log; the spec it gets is whole.
func (b *Broker) CreateTopic(tenant uint32, name string, id TopicID, n int, settings []Setting, done func(*TopicSpec, error)) {
	b.CreateReplicated(tenant, name, id, n, 0, settings, done)
}

// CreateReplicated is CreateTopic with a number of replicas, which a spread topic has, where sets of shards have numbers of their own; 0 or less: the usual one.
func (b *Broker) CreateReplicated(tenant uint32, name string, id TopicID, n, replicas int, settings []Setting, done func(*TopicSpec, error)) {
	key := topicKey{tenant, name}
	err := b.room()
	if err == nil {
		err = b.beginTopic(key)
	}
	if err != nil {
		done(nil, err)
		return
	}
	switch {
	case b.Topic(tenant, name) != nil:
		err = ErrTopicExists
	case !b.mayAddTopic(key):
		err = ErrTenantTopics
	}
	if err != nil {
		b.endTopic(key)
		done(nil, err)
		return
	}
	spec := &TopicSpec{Tenant: tenant, ID: id, Name: name, Internal: name == OffsetsTopic, Settings: settings, Config: b.opts.ResolveTopic(settings)}
	err = b.mayPlace(spec)
	if err == nil && spec.Config.Spread {
		replicas, err = b.SpreadReplicas(replicas)
		spec.Replicas = uint8(replicas)
	}
	if err != nil {
		b.endTopic(key)
		done(nil, err)
		return
	}
	b.placePartitions(spec, n)
	b.logTopic(key, spec, done)
}

// CatalogEnd is the number of the last frame of shard 0, whose commands topics are, that the tables have.
func (b *Broker) CatalogEnd() uint64 {
	s := b.homes[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.applied
}

// GrowTopic raises the number of a topic's partitions. That breaks the order of its keys, which go to other partitions then; a bound topic
// gets them only with breakOrder.
func (b *Broker) GrowTopic(t *Topic, n int, breakOrder bool, done func(*TopicSpec, error)) {
	b.changeTopic(t, done, func(spec *TopicSpec) error {
		switch {
		case n <= len(spec.Partitions):
			return ErrFewer
		case !breakOrder && b.isBound(spec):
			return ErrBound
		}
		if err := b.mayPlace(spec); err != nil {
			return err
		}
		spec.Partitions = slices.Clone(spec.Partitions)
		b.placePartitions(spec, n)
		return nil
	})
}

// ConfigureTopic replaces a topic's settings by what alter makes of them.
func (b *Broker) ConfigureTopic(t *Topic, alter func([]Setting) ([]Setting, error), done func(*TopicSpec, error)) {
	b.changeTopic(t, done, func(spec *TopicSpec) (err error) {
		if spec.Settings, err = alter(spec.Settings); err != nil {
			return err
		}
		spread := spec.Config.Spread
		if spec.Config = b.opts.ResolveTopic(spec.Settings); spec.Config.Spread != spread {
			return ErrSpread
		}
		return nil
	})
}

// DeleteTopic deletes a topic with its records.
func (b *Broker) DeleteTopic(t *Topic, done func(error)) {
	spec := t.Spec()
	key := topicKey{spec.Tenant, spec.Name}
	if err := b.beginTopic(key); err != nil {
		done(err)
		return
	}
	err := error(nil)
	switch {
	case t.Dropped():
		err = ErrUnknownTopic
	case b.isBound(spec):
		err = ErrBound
	}
	if err != nil {
		b.endTopic(key)
		done(err)
		return
	}
	cmd := binary.AppendUvarint(nil, cmdTopicGone)
	cmd = append(binary.AppendUvarint(cmd, uint64(spec.Tenant)), spec.ID[:]...)
	settle := func(err error) {
		b.endTopic(key)
		done(err)
	}
	if err := b.command(b.homes[0], cmd, entry{done: func() { settle(nil) }, failed: settle}); err != nil {
		settle(err)
	}
}

// changeTopic has change make a new spec of a topic's, and logs it.
func (b *Broker) changeTopic(t *Topic, done func(*TopicSpec, error), change func(*TopicSpec) error) {
	spec := *t.Spec()
	key := topicKey{spec.Tenant, spec.Name}
	if err := b.beginTopic(key); err != nil {
		done(nil, err)
		return
	}
	spec = *t.Spec()
	err := change(&spec)
	if t.Dropped() {
		err = ErrUnknownTopic
	}
	if err != nil {
		b.endTopic(key)
		done(nil, err)
		return
	}
	b.logTopic(key, &spec, done)
}

// beginTopic lets one change of a topic be under way.
func (b *Broker) beginTopic(key topicKey) error {
	if b.opts.Volatile {
		return ErrVolatileOnly
	}
	ts := &b.topicStore
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if _, busy := ts.running[key]; busy {
		return ErrConcurrent
	}
	if ts.running == nil {
		ts.running = make(map[topicKey]struct{})
	}
	ts.running[key] = struct{}{}
	return nil
}

func (b *Broker) endTopic(key topicKey) {
	b.topicStore.mu.Lock()
	delete(b.topicStore.running, key)
	b.topicStore.mu.Unlock()
}

// placePartitions gives spec's partitions up to n their ids, which nothing has had before, and their shards.
func (b *Broker) placePartitions(spec *TopicSpec, n int) {
	ts := &b.topicStore
	ts.mu.Lock()
	defer ts.mu.Unlock()
	s := b.homes[0]
	s.mu.Lock()
	ts.next = max(ts.next, s.mu.nextPartition, record.PartitionID(len(b.homes)+1), record.PartitionID(b.metID.Load()+1))
	if s.rep != nil && b.streamSets.Load() > 0 && ts.epoch != s.rep.epoch {
		ts.epoch = s.rep.epoch
		ts.next += idsSkipped
	}
	s.mu.Unlock()
	first := shardHash(spec.Tenant, spec.ID[:])
	var sets []int
	if spec.Config.Spread {
		sets = b.setsFor(spec)
	}
	for i := len(spec.Partitions); i < n; i++ {
		shard := record.ShardID((first + uint64(i)) % uint64(len(b.homes)))
		if spec.Config.Spread {
			shard = b.streamShard(first+uint64(i), sets)
		}
		spec.Partitions = append(spec.Partitions, PartitionSpec{ID: ts.next, Shard: shard})
		ts.next++
	}
}

func (b *Broker) logTopic(key topicKey, spec *TopicSpec, done func(*TopicSpec, error)) {
	cmd := appendTopic(binary.AppendUvarint(nil, cmdTopic), spec)
	settle := func(err error) {
		b.endTopic(key)
		if err != nil {
			done(nil, err)
			return
		}
		done(spec, nil)
	}
	if err := b.command(b.homes[0], cmd, entry{done: func() { settle(nil) }, failed: settle}); err != nil {
		settle(err)
	}
}

func appendTopic(dst []byte, spec *TopicSpec) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(spec.Tenant)), spec.ID[:]...)
	dst = binary.AppendUvarint(appendString(dst, spec.Name), boolBit(spec.Internal)|uint64(spec.Replicas)<<1)
	dst = binary.AppendUvarint(dst, uint64(len(spec.Partitions)))
	for _, p := range spec.Partitions {
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(p.ID)), uint64(p.Shard))
	}
	dst = binary.AppendUvarint(dst, uint64(len(spec.Settings)))
	for _, s := range spec.Settings {
		dst = appendString(appendString(dst, s.Key), s.Value)
	}
	return dst
}

func (d *decoder) topicID() (id TopicID) {
	if len(d.b) < len(id) {
		d.bad, d.b = true, nil
		return id
	}
	copy(id[:], d.b)
	d.b = d.b[len(id):]
	return id
}

func (d *decoder) topic() *TopicSpec {
	s := &TopicSpec{Tenant: uint32(d.uvarint()), ID: d.topicID(), Name: d.string()}
	flags := d.uvarint()
	s.Internal, s.Replicas = flags&1 == 1, uint8(flags>>1)
	for n := d.count(); n > 0 && d.ok(); n-- {
		s.Partitions = append(s.Partitions, PartitionSpec{record.PartitionID(d.uvarint()), record.ShardID(d.uvarint())})
	}
	for n := d.count(); n > 0 && d.ok(); n-- {
		s.Settings = append(s.Settings, Setting{d.string(), d.string()})
	}
	return s
}

// applyTopic makes or changes a topic; recovery calls it as well.
func (s *shard) applyTopic(b *Broker, d *decoder) {
	spec := d.topic()
	if !d.ok() {
		return
	}
	if err := b.checkShards(spec); err != nil {
		b.refused = err
		return
	}
	spec.Config = b.opts.ResolveTopic(spec.Settings)
	b.SetTopic(spec)
	s.mu.Lock()
	for _, p := range spec.Partitions {
		s.mu.nextPartition = max(s.mu.nextPartition, p.ID+1)
	}
	mark(&s.mu.rows.topicSpecs, topicIDKey{spec.Tenant, spec.ID})
	s.mu.Unlock()
	b.kickReplicas()
}

func (s *shard) applyTopicGone(b *Broker, d *decoder) {
	key := topicIDKey{uint32(d.uvarint()), d.topicID()}
	if !d.ok() {
		return
	}
	b.DropTopic(key.tenant, key.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	mark(&s.mu.rows.topicSpecs, key)
}

func topicRowKey(k topicIDKey) []byte {
	return append(binary.AppendUvarint([]byte{rowTopic}, uint64(k.tenant)), k.id[:]...)
}

// collectTopicsLocked encodes what changed of topics since the last checkpoint.
func (s *shard) collectTopicsLocked(b *Broker, rows []rowChange) []rowChange {
	for k := range s.mu.rows.topicSpecs {
		c := rowChange{key: topicRowKey(k)}
		if t := b.TopicByID(k.tenant, k.id); t != nil {
			c.value = appendTopic(nil, t.Spec())
		}
		rows = append(rows, c)
	}
	if len(s.mu.rows.topicSpecs) > 0 || s.mu.rows.partitionIDs {
		rows = append(rows, rowChange{[]byte{rowPartitionIDs}, binary.AppendUvarint(nil, uint64(s.mu.nextPartition))})
	}
	return rows
}

func (s *shard) loadTopicRow(b *Broker, kind byte, value []byte) bool {
	d := decoder{b: value}
	if kind == rowPartitionIDs {
		s.mu.nextPartition = record.PartitionID(d.uvarint())
		return d.ok()
	}
	spec := d.topic()
	if !d.ok() {
		return false
	}
	if b.refused = b.checkShards(spec); b.refused != nil {
		return true
	}
	spec.Config = b.opts.ResolveTopic(spec.Settings)
	b.SetTopic(spec)
	return true
}
