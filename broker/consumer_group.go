package broker

import (
	"errors"
	"regexp"
	"slices"
	"time"
)

// Errors of the consumer protocol (KIP-848); proto/kafka gives them Kafka's codes of the same names.
var (
	ErrFencedMemberEpoch   = errors.New("broker: the member's epoch is fenced")
	ErrStaleMemberEpoch    = errors.New("broker: the member's epoch is stale")
	ErrUnsupportedAssignor = errors.New("broker: no such assignor")
	ErrUnreleasedInstance  = errors.New("broker: the instance id is in use")
	ErrInvalidRegex        = errors.New("broker: invalid regular expression")
	ErrInvalidRequest      = errors.New("broker: invalid request")
)

// Epochs with which a member of a consumer group leaves: for good, or to come back under its instance id.
const (
	LeaveEpoch       = -1
	StaticLeaveEpoch = -2
)

// consumerGroup is the part of a group that follows the consumer protocol: members tell what they want, the coordinator says who has
// what, and partitions move one by one, without a stop of everybody.
type consumerGroup struct {
	epoch       int32 // moves when members or what they want changes
	targetEpoch int32 // the group epoch that target was made for
	members     map[string]*consumerMember
	static      map[string]string                // instance id -> member id
	owners      map[TopicPartition]consumerOwner // who has a partition, or has still to give it up
	generation  uint64                           // of the topic table that subscriptions were resolved with
	matches     map[string]*regexMatches         // by expression
	matched     int                              // topics in all of them
	resolveAt   time.Duration                    // by the clock's Mono, with expressions: not before
}

// consumerOwner has a partition since an epoch of its. That is not stored: after a restart it has it since the epoch it is in.
type consumerOwner struct {
	member *consumerMember
	since  int32
}

type memberState uint8

const (
	memberStable     memberState = iota
	memberUnrevoked              // it has to give up partitions before it goes on
	memberUnreleased             // it waits for partitions that others have to give up
)

// consumerMember is one of its members.
type consumerMember struct {
	id, instance, clientID, clientHost, rack string
	rebalanceTimeout                         time.Duration
	names                                    []string // subscribed, sorted
	regex                                    string
	pattern                                  *regexp.Regexp
	visible                                  func(t *Topic) bool // nil: all
	assignor                                 string
	epoch, previous                          int32
	state                                    memberState
	assigned, revoking                       []TopicPartition // sorted
	target                                   []TopicPartition // sorted
	topics                                   []TopicID        // what its subscription comes to now
	seen                                     LoopTimer        // ends the session
	revoke                                   LoopTimer        // ends the time that it has to give partitions up
	left                                     bool             // a static member that will be back
	fresh                                    bool             // its coming has not moved the group's epoch yet
	kept                                     bool             // the log has it
	unheard                                  bool             // it was read from the log, and visible is not known yet
}

func newConsumerGroup(epoch int32) *consumerGroup {
	return &consumerGroup{epoch: epoch, targetEpoch: epoch, members: make(map[string]*consumerMember), owners: make(map[TopicPartition]consumerOwner)}
}

// add puts m into the tables.
func (cg *consumerGroup) add(m *consumerMember) {
	cg.members[m.id] = m
	if m.instance != "" {
		if cg.static == nil {
			cg.static = make(map[string]string)
		}
		cg.static[m.instance] = m.id
	}
}

// ConsumerHeartbeat is what a member tells (ConsumerGroupHeartbeat). Nil slices and pointers say that nothing has changed.
type ConsumerHeartbeat struct {
	Group, MemberID, InstanceID, ClientID, ClientHost string
	Rack                                              *string
	Epoch                                             int32
	RebalanceTimeout                                  time.Duration // below 0: unchanged
	Names                                             []string
	Regex                                             *string
	Assignor                                          *string
	Owned                                             []TopicPartition
	HasNames, HasOwned                                bool

	// Visible says of a topic that the member's expression matches whether it may know of it; nil: of all. It comes with each heartbeat, is kept
	// while the member is, never blocks and may be called on any loop.
	Visible func(t *Topic) bool

	pattern *regexp.Regexp // of Regex, once it has been checked
}

// ConsumerResult answers a ConsumerHeartbeat. The assignment is told when it has changed, or when the member has told everything.
type ConsumerResult struct {
	Err           error
	Message       string
	MemberID      string
	Epoch         int32
	Interval      time.Duration
	HasAssignment bool
	Assignment    []TopicPartition
}

// Bounds of the consumer protocol, Kafka's defaults.
const (
	consumerInterval       = 5 * time.Second
	consumerSessionTimeout = 45 * time.Second
)

// ConsumerGroupHeartbeat joins, keeps or leaves a group. done is called once, on the group's loop.
func (b *Broker) ConsumerGroupHeartbeat(tenant uint32, r *ConsumerHeartbeat, done func(ConsumerResult)) {
	if err := r.check(); err != nil {
		done(ConsumerResult{Err: err, Message: err.Error()})
		return
	}
	b.onGroup(tenant, r.Group, func(l *Local, s *shard) {
		if err := l.consumerHeartbeat(s, groupKey{tenant, r.Group}, r, done); err != nil {
			done(ConsumerResult{Err: err, Message: err.Error()})
		}
	})
}

func (r *ConsumerHeartbeat) check() error {
	switch {
	case r.Group == "":
		return ErrInvalidGroupID
	case r.Epoch < StaticLeaveEpoch, r.MemberID == "" && r.Epoch != 0, r.Epoch == StaticLeaveEpoch && r.InstanceID == "":
		return ErrInvalidRequest
	case r.Epoch == 0 && (r.RebalanceTimeout < 0 || !r.HasNames && r.Regex == nil || len(r.Owned) > 0):
		return ErrInvalidRequest
	case r.Assignor != nil && assignors[*r.Assignor] == nil:
		return ErrUnsupportedAssignor
	}
	if r.Regex != nil && *r.Regex != "" {
		var err error
		if r.pattern, err = compileRegex(*r.Regex); err != nil {
			return ErrInvalidRegex
		}
	}
	return nil
}

func (l *Local) consumerHeartbeat(s *shard, key groupKey, r *ConsumerHeartbeat, done func(ConsumerResult)) error {
	g := l.group(key)
	if g == nil && r.Epoch != 0 || g != nil && g.consumer == nil && (len(g.members) > 0 || r.Epoch != 0) {
		return ErrGroupNotFound
	}
	if g == nil {
		var err error
		if g, err = l.groupFor(s, key); err != nil {
			return err
		}
	}
	if g.consumer == nil {
		g.consumer = newConsumerGroup(g.generation)
		g.protocolType = "consumer"
		g.changes = groupChanges{whole: true}
	}
	switch r.Epoch {
	case LeaveEpoch, StaticLeaveEpoch:
		return g.consumerLeave(r, done)
	case 0:
		return g.consumerJoin(r, done)
	}
	m, err := g.consumerFind(r)
	if err != nil {
		return err
	}
	g.consumerGoOn(m, r, false, done)
	return nil
}

// consumerFind gives the member of a heartbeat, and fences one that is behind or ahead.
func (g *group) consumerFind(r *ConsumerHeartbeat) (*consumerMember, error) {
	cg := g.consumer
	if r.InstanceID != "" {
		switch id := cg.static[r.InstanceID]; {
		case id == "":
			return nil, ErrUnknownMember
		case id != r.MemberID:
			return nil, ErrFencedInstance
		}
	}
	m := cg.members[r.MemberID]
	if m == nil || m.left {
		return nil, ErrUnknownMember
	}
	if r.Epoch == m.epoch {
		return m, nil
	}
	// The answer that raised the epoch may have been lost: what it owns must be what it has been given.
	if r.Epoch == m.previous && r.HasOwned && subset(r.Owned, m.assigned) {
		return m, nil
	}
	return nil, ErrFencedMemberEpoch
}

// consumerJoin takes in a member, or one that has lost its state and tells it anew.
func (g *group) consumerJoin(r *ConsumerHeartbeat, done func(ConsumerResult)) error {
	cg := g.consumer
	id := r.MemberID
	if id == "" {
		id = newMemberID("member")
	}
	m := cg.members[id]
	if r.InstanceID != "" {
		if old := cg.static[r.InstanceID]; old != "" && old != id {
			was := cg.members[old]
			if !was.left {
				return ErrUnreleasedInstance
			}
			m = g.consumerReplace(was, id)
		}
	}
	if m == nil {
		if len(cg.members) >= g.l.b.groupLimits().Members {
			return ErrGroupMaxSize
		}
		m = &consumerMember{id: id, instance: r.InstanceID, assignor: defaultAssignor, fresh: true}
		cg.add(m)
		g.changed(id, false, memberAll)
	}
	if m.left {
		m.left = false
		g.changed(m.id, m.kept, memberShare)
	}
	g.consumerGoOn(m, r, true, done)
	return nil
}

// consumerReplace gives the place of a static member that has left for a while to its successor.
func (g *group) consumerReplace(was *consumerMember, id string) *consumerMember {
	cg := g.consumer
	delete(cg.members, was.id)
	g.gone(was.id, was.kept)
	was.id, was.left, was.kept = id, false, false
	was.previous, was.epoch = was.epoch, 0
	cg.members[id], cg.static[was.instance] = was, id
	g.changed(id, false, memberAll)
	return was
}

// consumerGoOn takes over what the member tells and answers what it has.
func (g *group) consumerGoOn(m *consumerMember, r *ConsumerHeartbeat, full bool, done func(ConsumerResult)) {
	had := slices.Clone(m.assigned)
	changed := g.consumerUpdate(m, r)
	g.consumerAssign()
	if g.reconcile(m, r) {
		g.changed(m.id, m.kept, memberShare)
		changed = true
	}
	g.l.timers.set(&m.seen, consumerSessionTimeout, func() { g.consumerExpire(m) })
	res := ConsumerResult{MemberID: m.id, Epoch: m.epoch, Interval: consumerInterval}
	if full || r.HasNames || r.HasOwned || !slices.Equal(had, m.assigned) {
		res.HasAssignment, res.Assignment = true, slices.Clone(m.assigned)
	}
	if !changed && !full {
		done(res)
		return
	}
	g.storeSoon(func(err error) {
		if err != nil {
			res = ConsumerResult{Err: err, Message: err.Error()}
		}
		done(res)
	})
}

// consumerUpdate takes over what has changed of a member's wishes, and says whether anything has.
func (g *group) consumerUpdate(m *consumerMember, r *ConsumerHeartbeat) (changed bool) {
	cg := g.consumer
	changed = m.clientID != r.ClientID || m.clientHost != r.ClientHost
	m.clientID, m.clientHost = r.ClientID, r.ClientHost
	if r.RebalanceTimeout >= 0 {
		changed = changed || m.rebalanceTimeout != r.RebalanceTimeout
		m.rebalanceTimeout = r.RebalanceTimeout
	}
	if r.Rack != nil {
		changed = changed || m.rack != *r.Rack
		m.rack = *r.Rack
	}
	moved := m.fresh
	m.fresh = false
	if r.HasNames {
		names := slices.Compact(slices.Sorted(slices.Values(r.Names)))
		moved = moved || !slices.Equal(names, m.names)
		m.names = names
	}
	if r.Regex != nil && *r.Regex != m.regex {
		m.regex, m.pattern, moved = *r.Regex, r.pattern, true
	}
	if r.Regex != nil || m.unheard {
		m.visible = r.Visible
	}
	if m.unheard {
		m.unheard, m.topics = false, nil
	}
	if r.Assignor != nil && *r.Assignor != m.assignor {
		m.assignor, moved = *r.Assignor, true
	}
	if moved {
		cg.epoch++
	}
	if generation := g.l.b.topicTable.generation.Load(); m.topics == nil && !moved || generation != cg.generation && g.mayResolve() {
		cg.generation = generation
		if g.resolve() && !moved && cg.epoch == cg.targetEpoch {
			cg.epoch++ // a topic came, went or grew
		}
	} else if moved {
		g.resolveMember(m)
	}
	if changed = changed || moved; changed {
		g.changed(m.id, m.kept, memberWishes)
	}
	return changed
}

// consumerLeave takes a member out, or keeps its place if it will be back.
func (g *group) consumerLeave(r *ConsumerHeartbeat, done func(ConsumerResult)) error {
	cg := g.consumer
	id := r.MemberID
	if r.InstanceID != "" {
		switch have := cg.static[r.InstanceID]; {
		case have == "":
			return ErrUnknownMember
		case have != id:
			return ErrFencedInstance
		}
	}
	m := cg.members[id]
	if m == nil {
		return ErrUnknownMember
	}
	if r.Epoch == StaticLeaveEpoch {
		m.left = true
		g.changed(m.id, m.kept, memberShare)
	} else {
		g.consumerForget(m)
	}
	res := ConsumerResult{MemberID: id, Epoch: r.Epoch, Interval: 0}
	g.storeSoon(func(err error) {
		if err != nil {
			res = ConsumerResult{Err: err, Message: err.Error()}
		}
		done(res)
	})
	return nil
}

// consumerExpire ends a member that has not been heard of, or has not given up what it had to.
func (g *group) consumerExpire(m *consumerMember) {
	if g.consumer.members[m.id] == m {
		g.consumerForget(m)
		g.storeSoon(func(error) {}) // the next change brings it
	}
}

// consumerForget takes a member out; the others get its part with their next heartbeats.
func (g *group) consumerForget(m *consumerMember) {
	cg := g.consumer
	g.l.timers.remove(&m.seen)
	g.l.timers.remove(&m.revoke)
	g.gone(m.id, m.kept)
	delete(cg.members, m.id)
	if m.instance != "" && cg.static[m.instance] == m.id {
		delete(cg.static, m.instance)
	}
	for _, tp := range m.assigned {
		cg.release(tp, m)
	}
	for _, tp := range m.revoking {
		cg.release(tp, m)
	}
	cg.epoch++
	if len(cg.members) == 0 {
		cg.targetEpoch = cg.epoch
	}
}

func (cg *consumerGroup) release(tp TopicPartition, m *consumerMember) {
	if cg.owners[tp].member == m {
		delete(cg.owners, tp)
	}
}

// state is the group's as Kafka's tools show it.
func (cg *consumerGroup) state() string {
	switch {
	case len(cg.members) == 0:
		return "Empty"
	case cg.epoch > cg.targetEpoch:
		return "Assigning"
	}
	for _, m := range cg.members {
		if m.state != memberStable || m.epoch != cg.targetEpoch {
			return "Reconciling"
		}
	}
	return "Stable"
}

func compareTP(a, b TopicPartition) int {
	if c := slices.Compare(a.Topic[:], b.Topic[:]); c != 0 {
		return c
	}
	return int(a.Partition) - int(b.Partition)
}

// subset says whether all of a, in any order, are in b, which is sorted.
func subset(a, b []TopicPartition) bool {
	for _, tp := range a {
		if _, ok := slices.BinarySearchFunc(b, tp, compareTP); !ok {
			return false
		}
	}
	return true
}
