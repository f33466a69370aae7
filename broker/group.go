package broker

import (
	"errors"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// Errors of groups; proto/kafka gives them Kafka's codes of the same names.
var (
	ErrInvalidGroupID            = errors.New("broker: invalid group id")
	ErrUnknownMember             = errors.New("broker: unknown member")
	ErrFencedInstance            = errors.New("broker: another member has taken the instance id")
	ErrIllegalGeneration         = errors.New("broker: illegal generation")
	ErrRebalanceInProgress       = errors.New("broker: rebalance in progress")
	ErrMemberIDRequired          = errors.New("broker: join again with the member id")
	ErrInconsistentGroupProtocol = errors.New("broker: inconsistent group protocol")
	ErrInvalidSessionTimeout     = errors.New("broker: session timeout outside of the limits")
	ErrGroupMaxSize              = errors.New("broker: group is full")
	ErrGroupNotFound             = errors.New("broker: no such group")
	ErrNonEmptyGroup             = errors.New("broker: group has members")
	ErrGroupSubscribed           = errors.New("broker: group is subscribed to the topic")
	ErrOffsetMetadataTooLarge    = errors.New("broker: offset metadata is too large")
	ErrUnknownTopic              = errors.New("broker: unknown topic or partition")
)

// GroupLimits bound groups and their members. A zero means the default beside it.
type GroupLimits struct {
	SessionTimeoutMin     time.Duration // 6 s
	SessionTimeoutMax     time.Duration // 30 min
	InitialRebalanceDelay time.Duration // 200 ms
	Members               int           // of one group: 100,000
	MetadataBytes         int           // of one committed offset: 4096
	OffsetRetention       time.Duration // after a group's last member has gone: 7 days
	Groups                int           // of the node: 1,000,000
}

func (g GroupLimits) withDefaults() GroupLimits {
	orDuration(&g.SessionTimeoutMin, 6*time.Second)
	orDuration(&g.SessionTimeoutMax, 30*time.Minute)
	orDuration(&g.InitialRebalanceDelay, 200*time.Millisecond)
	orDuration(&g.OffsetRetention, 7*24*time.Hour)
	if g.Members == 0 {
		g.Members = 100_000
	}
	if g.MetadataBytes == 0 {
		g.MetadataBytes = 4096
	}
	if g.Groups == 0 {
		g.Groups = 1_000_000
	}
	return g
}

func orDuration(p *time.Duration, d time.Duration) {
	if *p == 0 {
		*p = d
	}
}

// groupKey names a group. Its shard is its owner: the shard's home loop runs it, the shard's log has what must be kept of it.
type groupKey struct {
	tenant uint32
	id     string
}

// GroupState is where a group of the classic protocol stands (Kafka's GroupMetadata).
type GroupState uint8

// The states.
const (
	GroupEmpty GroupState = iota
	GroupPreparingRebalance
	GroupCompletingRebalance
	GroupStable
	GroupDead
)

// String is the state as Kafka's tools show it.
func (s GroupState) String() string {
	return [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}[s]
}

// group is one group of the classic protocol, or one that only has offsets. It belongs to the home loop of its shard.
type group struct {
	key          groupKey
	s            *shard
	l            *Local
	state        GroupState
	generation   int32
	protocolType string // "consumer", "connect"; empty: only offsets were committed
	protocol     string
	leader       string
	members      map[string]*member
	static       map[string]string         // instance id -> member id
	pending      map[string]*pendingMember // ids that were given out and have not joined
	joining      int                       // members that wait for the rebalance to end
	fresh        bool                      // somebody joined during the initial delay
	rebalance    LoopTimer
	syncLimit    LoopTimer
	deadline     time.Duration // of the initial delay, at the latest
	storing      int32         // generation whose assignment is on its way into the log

	consumer *consumerGroup // the part of the consumer protocol; nil: classic
	stores   groupStores
	changes  groupChanges
	row      int // in its loop's table
}

// member is one member of a group.
type member struct {
	id, instance, clientID, clientHost string
	session, rebalanceTimeout          time.Duration
	protocols                          []GroupProtocol
	assignment                         []byte
	seen                               LoopTimer // ends the session
	isNew                              bool
	kept                               bool             // the log has it
	join                               func(JoinResult) // waits for the rebalance
	sync                               func(SyncResult) // waits for the leader's assignment
}

type pendingMember struct{ expiry LoopTimer }

// GroupProtocol is an assignment strategy that a member can follow, with what it tells the leader.
type GroupProtocol struct {
	Name     string
	Metadata []byte
}

// newMemberTimeout is how long a member that joins for the first time is kept while the rebalance lasts: it sends no heartbeats meanwhile.
const newMemberTimeout = 5 * time.Minute

// groupTable has the groups of one loop's shards. It belongs to that loop.
type groupTable struct {
	groups map[groupKey]*group
	rows   []*group // the same, each in one place as long as it is there: listings go through them; nil: free
	free   []int
	sweep  int // the shard that the next tick looks at
}

func (t *groupTable) add(g *group) {
	if t.groups == nil {
		t.groups = make(map[groupKey]*group)
	}
	t.groups[g.key] = g
	if n := len(t.free); n > 0 {
		g.row, t.free = t.free[n-1], t.free[:n-1]
		t.rows[g.row] = g
		return
	}
	g.row = len(t.rows)
	t.rows = append(t.rows, g)
}

func (t *groupTable) remove(g *group) {
	if t.rows[g.row] != g {
		return // it was removed before
	}
	delete(t.groups, g.key)
	t.rows[g.row] = nil
	t.free = append(t.free, g.row)
}

// onGroup runs fn on the loop that the group belongs to.
func (b *Broker) onGroup(tenant uint32, id string, fn func(l *Local, s *shard)) {
	s := b.shardOf(tenant, []byte(id))
	s.home.Run(func() { fn(s.home, s) })
}

// group finds a group, nil if there is none.
func (l *Local) group(key groupKey) *group { return l.groupTable.groups[key] }

// groupFor finds or makes a group.
func (l *Local) groupFor(s *shard, key groupKey) (*group, error) {
	if g := l.groupTable.groups[key]; g != nil {
		return g, nil
	}
	if !s.leads() {
		return nil, ErrNotLeader
	}
	return l.addGroup(s, key)
}

func (l *Local) addGroup(s *shard, key groupKey) (*group, error) {
	if l.b.stats.Groups.Load() >= int64(l.b.groupLimits().Groups) {
		return nil, ErrQuota
	}
	g := &group{key: key, s: s, l: l, members: make(map[string]*member)}
	l.groupTable.add(g)
	l.b.stats.Groups.Add(1)
	return g, nil
}

// dropGroup forgets a group's runtime state.
func (l *Local) dropGroup(g *group) {
	g.state = GroupDead
	l.timers.remove(&g.rebalance)
	l.timers.remove(&g.syncLimit)
	l.groupTable.remove(g)
	l.b.stats.Groups.Add(-1)
}

func (b *Broker) groupLimits() GroupLimits { return b.limits.Load().Group }

// TopicPartition names a partition by its topic's id: a topic that is deleted and made again has no offsets.
type TopicPartition struct {
	Topic     TopicID
	Partition int32
}

// CommittedOffset is where a group goes on.
type CommittedOffset struct {
	Offset      record.Offset
	LeaderEpoch int32 // -1: not told
	Metadata    string
	At          int64 // Unix milliseconds
}
