package broker

import (
	"maps"
	"slices"
	"sync"
)

// OffsetCommit is one partition's place, and what became of it.
type OffsetCommit struct {
	TopicPartition
	CommittedOffset
	Err error
}

// CommitRequest stores where a group goes on (OffsetCommit). Generation -1 and no member id: the client manages its partitions itself.
type CommitRequest struct {
	Group, MemberID, InstanceID string
	Generation                  int32
	Offsets                     []OffsetCommit
}

// CommitOffsets stores offsets. done is called once, on the group's loop, when they are in the log: err is for the whole request, the
// Err of each of r.Offsets for that one.
func (b *Broker) CommitOffsets(tenant uint32, r *CommitRequest, done func(err error)) {
	if r.Group == "" {
		done(ErrInvalidGroupID)
		return
	}
	b.onGroup(tenant, r.Group, func(l *Local, s *shard) {
		if err := l.commitOffsets(s, groupKey{tenant, r.Group}, r, done); err != nil {
			done(err)
		}
	})
}

func (l *Local) commitOffsets(s *shard, key groupKey, r *CommitRequest, done func(error)) error {
	if err := l.mayCommit(key, r); err != nil {
		return err
	}
	n := l.checkOffsets(key, r)
	if n == 0 {
		done(nil)
		return nil
	}
	if _, err := l.groupFor(s, key); err != nil {
		return err
	}
	e := entry{done: func() { done(nil) }, failed: done}
	return l.b.command(s, encodeOffsets(nil, key, r.Offsets), e)
}

// checkOffsets says what is wrong with single places, stamps the others, and counts those.
func (l *Local) checkOffsets(key groupKey, r *CommitRequest) (n int) {
	now := l.b.nowMilli()
	limit := l.b.groupLimits().MetadataBytes
	for i := range r.Offsets {
		o := &r.Offsets[i]
		o.At = now
		t := l.b.TopicByID(key.tenant, o.Topic)
		switch {
		case o.Err != nil:
		case t == nil || t.Partition(o.Partition) == nil:
			o.Err = ErrUnknownTopic
		case len(o.Metadata) > limit:
			o.Err = ErrOffsetMetadataTooLarge
		default:
			n++
		}
	}
	return n
}

// mayCommit checks that the committer is who it says, and of this generation.
func (l *Local) mayCommit(key groupKey, r *CommitRequest) error {
	g := l.group(key)
	if g == nil {
		if r.Generation < 0 {
			return nil
		}
		return ErrIllegalGeneration
	}
	if r.Generation < 0 && r.MemberID == "" && r.InstanceID == "" {
		if g.empty() {
			return nil
		}
		return ErrUnknownMember
	}
	if g.consumer != nil {
		return g.consumer.mayCommit(r)
	}
	m, err := g.find(r.MemberID, r.InstanceID)
	switch {
	case err != nil:
		return err
	case r.Generation != g.generation:
		return ErrIllegalGeneration
	case g.state == GroupCompletingRebalance:
		return ErrRebalanceInProgress
	}
	if m.join == nil {
		g.heard(m)
	}
	return nil
}

// mayCommit lets a member commit in the epoch that it is in, and in an earlier one for what it has had since then (KIP-1251): its heartbeat
// may have raised the epoch while the commit was under way.
func (cg *consumerGroup) mayCommit(r *CommitRequest) error {
	m := cg.members[r.MemberID]
	switch {
	case m == nil:
		return ErrUnknownMember
	case r.Generation == m.epoch:
		return nil
	case r.Generation > m.epoch:
		return ErrStaleMemberEpoch
	}
	for i := range r.Offsets {
		if o := cg.owners[r.Offsets[i].TopicPartition]; o.member != m || r.Generation < o.since {
			return ErrStaleMemberEpoch
		}
	}
	return nil
}

// FetchedOffset is one partition's place; Offset -1: none was committed.
type FetchedOffset struct {
	TopicPartition
	CommittedOffset
	Unstable bool // a transaction has committed another that is not decided yet
}

// FetchOffsets reads places: of the partitions named, or of all for nil. member and generation are checked if a member is named
// (KIP-848). Any goroutine; what was acknowledged before is seen.
func (b *Broker) FetchOffsets(tenant uint32, groupID string, parts []TopicPartition) []FetchedOffset {
	key := groupKey{tenant, groupID}
	s := b.shardOf(tenant, []byte(groupID))
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.mu.groupRows[key]
	if parts == nil {
		if row == nil {
			return nil
		}
		for tp := range row.offsets {
			if t := b.TopicByID(tenant, tp.Topic); t != nil {
				parts = append(parts, tp)
			}
		}
	}
	out := make([]FetchedOffset, len(parts))
	for i, tp := range parts {
		out[i] = FetchedOffset{TopicPartition: tp, CommittedOffset: CommittedOffset{Offset: -1, LeaderEpoch: -1}}
		if row != nil {
			if o, ok := row.offsets[tp]; ok {
				out[i].CommittedOffset = o
			}
			out[i].Unstable = s.undecidedLocked(key, tp)
		}
	}
	return out
}

// DeleteOffsets forgets places of a group, but of topics that its members subscribe to (OffsetDelete). done gets an error for each, or one
// for all.
func (b *Broker) DeleteOffsets(tenant uint32, groupID string, parts []TopicPartition, done func([]error, error)) {
	b.onGroup(tenant, groupID, func(l *Local, s *shard) {
		key := groupKey{tenant, groupID}
		g := l.group(key)
		if g == nil {
			done(nil, ErrGroupNotFound)
			return
		}
		if !g.empty() && g.protocolType != "consumer" {
			done(nil, ErrNonEmptyGroup)
			return
		}
		errs := make([]error, len(parts))
		var gone []TopicPartition
		for i, tp := range parts {
			if g.subscribes(tp.Topic) {
				errs[i] = ErrGroupSubscribed
			} else {
				gone = append(gone, tp)
			}
		}
		if len(gone) == 0 {
			done(errs, nil)
			return
		}
		e := entry{done: func() { done(errs, nil) }, failed: func(err error) { done(nil, err) }}
		if err := l.b.command(s, encodeOffsetsGone(nil, key, gone), e); err != nil {
			done(nil, err)
		}
	})
}

// subscribes tells whether a member has a topic in its subscription, the beginning of which all strategies of consumers write alike:
// version, then names.
func (g *group) subscribes(id TopicID) bool {
	t := g.l.b.TopicByID(g.key.tenant, id)
	if t == nil {
		return false
	}
	if g.consumer != nil {
		for _, m := range g.consumer.members {
			if slices.Contains(m.topics, id) {
				return true
			}
		}
	}
	for _, m := range g.members {
		for i := range m.protocols {
			if subscriptionNames(m.protocols[i].Metadata, t.Name()) {
				return true
			}
		}
	}
	return false
}

func subscriptionNames(b []byte, name string) bool {
	if len(b) < 6 {
		return false
	}
	n := int32(uint32(b[2])<<24 | uint32(b[3])<<16 | uint32(b[4])<<8 | uint32(b[5]))
	b = b[6:]
	for ; n > 0; n-- {
		s, rest, ok := takeString(b)
		if !ok {
			return false
		}
		if string(s) == name {
			return true
		}
		b = rest
	}
	return false
}

// DeleteGroup forgets a group that nobody is in, with its offsets.
func (b *Broker) DeleteGroup(tenant uint32, groupID string, done func(error)) {
	b.onGroup(tenant, groupID, func(l *Local, s *shard) {
		g := l.group(groupKey{tenant, groupID})
		switch {
		case g == nil:
			done(ErrGroupNotFound)
		case !g.empty():
			done(ErrNonEmptyGroup)
		default:
			l.removeGroup(s, g, done)
		}
	})
}

// removeGroup takes an empty group out of the log and the tables.
func (l *Local) removeGroup(s *shard, g *group, done func(error)) {
	e := entry{
		done: func() {
			if l.group(g.key) == g && g.empty() {
				l.dropGroup(g)
			}
			done(nil)
		},
		failed: done,
	}
	g.changes = groupChanges{whole: true} // what comes behind it begins anew
	if err := l.b.command(s, encodeGroupGone(nil, g.key), e); err != nil {
		done(err)
	}
}

// GroupDescription is a group as administrators see it.
type GroupDescription struct {
	ID, State, ProtocolType, Protocol string
	Members                           []MemberDescription
	Size                              int  // how many members it has; Groups alone tells
	Consumer                          bool // it follows the consumer protocol (KIP-848)
}

// Type is the protocol that the group follows, as Kafka's tools show it.
func (d *GroupDescription) Type() string {
	if d.Consumer {
		return "consumer"
	}
	return "classic"
}

// MemberDescription is a member of one.
type MemberDescription struct {
	ID, InstanceID, ClientID, ClientHost string
	Metadata, Assignment                 []byte
}

func (g *group) listed() GroupDescription {
	d := GroupDescription{ID: g.key.id, State: g.state.String(), ProtocolType: g.protocolType}
	if g.consumer != nil {
		d.State, d.Consumer = g.consumer.state(), true
	}
	return d
}

// empty says that nobody is in the group, nor about to be.
func (g *group) empty() bool {
	return len(g.members)+len(g.pending) == 0 && (g.consumer == nil || len(g.consumer.members) == 0)
}

// DescribeGroup shows a group; one that is not there is Dead.
func (b *Broker) DescribeGroup(tenant uint32, groupID string, done func(GroupDescription)) {
	b.onGroup(tenant, groupID, func(l *Local, _ *shard) {
		d := GroupDescription{ID: groupID, State: GroupDead.String()}
		if g := l.group(groupKey{tenant, groupID}); g != nil {
			if g.consumer != nil {
				done(d) // it is none of the classic protocol
				return
			}
			d.State, d.ProtocolType = g.state.String(), g.protocolType
			if g.state == GroupStable {
				d.Protocol = g.protocol
			}
			for _, id := range slices.Sorted(maps.Keys(g.members)) {
				m := g.members[id]
				md := MemberDescription{ID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.clientHost}
				if g.state == GroupStable {
					md.Metadata, md.Assignment = m.metadata(g.protocol), m.assignment
				}
				d.Members = append(d.Members, md)
			}
		}
		done(d)
	})
}

// listRows is how many groups a loop looks at, at once.
const listRows = 256

// ListGroups names the groups of a tenant, in no order. done is called once, on some loop. The loops go on between one slice of their groups
// and the next.
func (b *Broker) ListGroups(tenant uint32, done func([]GroupDescription)) {
	var all []GroupDescription
	var from func(at RowPlace)
	from = func(at RowPlace) {
		b.Groups(tenant, at, listRows, func(list []GroupDescription, next RowPlace, end bool) {
			if all = append(all, list...); end {
				done(all)
				return
			}
			from(next) // posted: what came meanwhile has its turn
		})
	}
	from(RowPlace{})
}

// collect asks every loop and puts the answers together. done runs once, on the loop that answers last.
func collect[T any](b *Broker, ask func(*Local) []T, done func([]T)) {
	var all struct {
		sync.Mutex
		list []T
		left int
	}
	all.left = len(b.locals)
	for _, l := range b.locals {
		l.Run(func() {
			list := ask(l)
			all.Lock()
			all.list = append(all.list, list...)
			all.left--
			last := all.left == 0
			all.Unlock()
			if last {
				done(all.list)
			}
		})
	}
}
