package broker

import (
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// TopicID names a topic for good: a name that is deleted and made again gets another (a version 4 UUID, as Kafka's clients know it).
type TopicID [16]byte

// OffsetsTopic is where clients of Kafka look for the offsets of groups. A topic of this name is the broker's own and stays empty: offsets
// are commands of the groups' shards.
const OffsetsTopic = "__consumer_offsets"

// TopicSpec is what the catalog says of a topic. It is immutable once given to SetTopic.
type TopicSpec struct {
	Tenant     uint32
	ID         TopicID
	Name       string
	Internal   bool  // the broker's own: listed as such, not written to by clients
	Replicas   uint8 // of each partition, where sets of shards have numbers of their own: more partitions go to sets that have as many; 0: not said
	Partitions []PartitionSpec
	Settings   []Setting   // what its user has set, in order of the keys
	Config     TopicConfig // what comes of it
}

// PartitionSpec places one partition: the id under which the journal keeps it, never given to a second one, and its shard.
type PartitionSpec struct {
	ID    record.PartitionID
	Shard record.ShardID
}

// TopicConfig is a topic's configuration in force, defaults filled in. Field names are those of Kafka's keys.
type TopicConfig struct {
	Compact, Delete           bool // cleanup.policy
	RetentionMillis           int64
	RetentionBytes            int64 // of one partition
	MaxMessageBytes           int32
	LogAppendTime             bool // message.timestamp.type
	TimestampBeforeMaxMillis  int64
	TimestampAfterMaxMillis   int64
	Recompress                bool // compression.type: batches in another codec than Compress are compressed anew
	Compress                  compress.Settings
	MinCleanableDirtyRatio    float64
	MinCompactionLagMillis    int64
	MaxCompactionLagMillis    int64
	DeleteRetentionMillis     int64
	SegmentBytes              int64
	SegmentMillis             int64
	MinInsyncReplicas         int32
	UncleanLeaderElection     bool
	ReplicationFactor         int16
	Spread                    bool // leader.spread: the partitions lie in sets of shards that each have a leader; fixed when the topic is made
	FlushMessages, FlushMilli int64
	// Of the tier: what goes there, what of it stays here too (-1: all that is kept), and the class of storage that it is to lie in; empty is the
	// store's own.
	Tier                 TierPolicy
	LocalRetentionMillis int64
	LocalRetentionBytes  int64 // of one partition
	TierClass            string
}

// TierPolicy says when a topic's records go to the store.
type TierPolicy uint8

// The policies.
const (
	TierNone      TierPolicy = iota // never; what is there stays readable until retention takes it
	TierArchive                     // when local retention takes them, and then they leave the log at once
	TierImmediate                   // as soon as they can; they leave the log when local retention takes them
)

// Topic is a named stream: one or more partitions, each an ordered log. Any goroutine may read it.
type Topic struct {
	spec       atomic.Pointer[TopicSpec]
	partitions atomic.Pointer[[]*Partition] // grows only
	held       atomic.Bool                  // see HoldTopics
	dropped    atomic.Bool
	name       []byte
}

// Spec is what the catalog says of the topic now.
func (t *Topic) Spec() *TopicSpec { return t.spec.Load() }

// Name is the topic's name.
func (t *Topic) Name() string { return t.spec.Load().Name }

// NameBytes is Name as bytes, which must not be written to.
func (t *Topic) NameBytes() []byte { return t.name }

// ID is the topic's id.
func (t *Topic) ID() TopicID { return t.spec.Load().ID }

// Partitions are the topic's partitions by index. The slice is never written to.
func (t *Topic) Partitions() []*Partition { return *t.partitions.Load() }

// Partition gives partition i, nil if there is none.
func (t *Topic) Partition(i int32) *Partition {
	list := t.Partitions()
	if i < 0 || int(i) >= len(list) {
		return nil
	}
	return list[i]
}

// HoldTopics has topics of these names, those included that are made meanwhile, take no records and give none until release is called: with ErrRestoring,
// after which clients come again. While they are brought back their offsets are not what they will be, and a consumer that were told that
// its own is out of range would begin elsewhere. Not more than one call at a time. release is called once.
func (b *Broker) HoldTopics(tenant uint32, names []string) (release func()) {
	tt := &b.topicTable
	hold := func(on bool) {
		tt.mu.Lock()
		defer tt.mu.Unlock()
		tt.held = nil
		if on {
			tt.held = make(map[topicKey]struct{}, len(names))
		}
		for _, name := range names {
			if on {
				tt.held[topicKey{tenant, name}] = struct{}{}
			}
			if t := b.Topic(tenant, name); t != nil {
				t.held.Store(on)
			}
		}
	}
	hold(true)
	return func() { hold(false) }
}

// Dropped says that the catalog has deleted the topic: who still holds it answers that it is not there.
func (t *Topic) Dropped() bool { return t.dropped.Load() }

type topicKey struct {
	tenant uint32
	name   string
}

type topicIDKey struct {
	tenant uint32
	id     TopicID
}

// topicTable finds topics by name and id, and partitions by id. Readers take no lock: sync.Map suits what is read by all loops and
// seldom written.
type topicTable struct {
	mu         sync.Mutex // one SetTopic or DropTopic at a time
	byName     sync.Map   // topicKey -> *Topic
	byID       sync.Map   // topicIDKey -> *Topic
	partitions sync.Map   // record.PartitionID -> *Partition
	count      atomic.Int64
	generation atomic.Uint64         // moves with every change
	held       map[topicKey]struct{} // of HoldTopics; guarded by mu
}

// Topic finds a topic by name, nil if there is none.
func (b *Broker) Topic(tenant uint32, name string) *Topic {
	v, _ := b.topicTable.byName.Load(topicKey{tenant, name})
	t, _ := v.(*Topic)
	return t
}

// TopicByID finds a topic by its id, nil if there is none.
func (b *Broker) TopicByID(tenant uint32, id TopicID) *Topic {
	v, _ := b.topicTable.byID.Load(topicIDKey{tenant, id})
	t, _ := v.(*Topic)
	return t
}

// Topics calls fn with each topic of a tenant, in no order, until it answers false.
func (b *Broker) Topics(tenant uint32, fn func(*Topic) bool) {
	b.topicTable.byName.Range(func(k, v any) bool { return k.(topicKey).tenant != tenant || fn(v.(*Topic)) })
}

// TopicCount is how many topics there are.
func (b *Broker) TopicCount() int64 { return b.topicTable.count.Load() }

// partition finds a partition by the journal's id, nil if its topic is gone.
func (b *Broker) partition(id record.PartitionID) *Partition {
	v, _ := b.topicTable.partitions.Load(id)
	p, _ := v.(*Partition)
	return p
}

// PartitionByID finds a partition by the journal's id, nil if its topic is gone.
func (b *Broker) PartitionByID(id record.PartitionID) *Partition { return b.partition(id) }

// HasPartition tells whether there is a partition of this id.
func (b *Broker) HasPartition(id record.PartitionID) bool { return b.partition(id) != nil }

// Shards is how many home shards there are: those of set 0.
func (b *Broker) Shards() int { return len(b.homes) }

// SetTopic creates a topic or takes over what the catalog has changed of it: configuration, more partitions. The catalog calls it in
// the order of its commands, at recovery and live; saying the same twice is no change.
func (b *Broker) SetTopic(spec *TopicSpec) {
	tt := &b.topicTable
	tt.mu.Lock()
	defer tt.mu.Unlock()
	t := b.TopicByID(spec.Tenant, spec.ID)
	var list []*Partition
	if t == nil {
		t = &Topic{name: []byte(spec.Name)}
		_, held := tt.held[topicKey{spec.Tenant, spec.Name}]
		t.held.Store(held)
	} else {
		list = *t.partitions.Load()
	}
	list = list[:len(list):len(list)]
	for i := len(list); i < len(spec.Partitions); i++ {
		ps := spec.Partitions[i]
		p := b.newPartition(t, int32(i), ps)
		list = append(list, p)
		tt.partitions.Store(ps.ID, p)
		if set := b.bindings.Load(); set != nil && spec.Tenant == 0 && p.shard.set == 0 {
			b.openPartition(p, set.byTopic[spec.Name]) // before anything is published to it
		}
	}
	t.spec.Store(spec)
	t.partitions.Store(&list)
	if _, known := tt.byID.Swap(topicIDKey{spec.Tenant, spec.ID}, t); !known {
		tt.count.Add(1)
		b.countTopic(spec, 1)
	}
	tt.byName.Store(topicKey{spec.Tenant, spec.Name}, t)
	tt.generation.Add(1)
}

// DropTopic forgets a topic, its partitions and their records. Who waits on one of them is answered that it is gone.
func (b *Broker) DropTopic(tenant uint32, id TopicID) {
	tt := &b.topicTable
	tt.mu.Lock()
	defer tt.mu.Unlock()
	t := b.TopicByID(tenant, id)
	if t == nil {
		return
	}
	t.dropped.Store(true)
	tt.byID.Delete(topicIDKey{tenant, id})
	tt.byName.CompareAndDelete(topicKey{tenant, t.Name()}, t)
	tt.count.Add(-1)
	b.countTopic(t.Spec(), -1)
	tt.generation.Add(1)
	for _, p := range t.Partitions() {
		tt.partitions.Delete(p.id)
		b.dropPartition(p)
	}
}
