package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// groupBench is a broker with one topic, and members that remember what they are told.
type groupBench struct{ *testBroker }

func newGroupBench(t testing.TB) *groupBench {
	t.Helper()
	gb := &groupBench{newTestBroker(t, 2, nil)}
	gb.topic()
	return gb
}

func (gb *groupBench) topic() { gb.b.SetTopic(topicSpec("t", 1, 100, 101)) }

func (gb *groupBench) crashed() *groupBench {
	next := &groupBench{gb.crash(2)}
	next.topic()
	return next
}

func (gb *groupBench) advance(d time.Duration) {
	for d > 0 {
		step := min(d, 50*time.Millisecond)
		gb.clock.Advance(step)
		gb.pump()
		d -= step
	}
}

type groupMember struct {
	gb            *groupBench
	id, instance  string
	protocols     []GroupProtocol
	join          *JoinResult
	sync          *SyncResult
	requireKnown  bool
	session       time.Duration
	rebalance     time.Duration
	skipAssigning bool
}

func (gb *groupBench) member(instance string) *groupMember {
	return &groupMember{gb: gb, instance: instance, protocols: []GroupProtocol{{"range", []byte("r")}, {"sticky", []byte("s")}},
		session: 10 * time.Second, rebalance: 20 * time.Second}
}

func (m *groupMember) joins() {
	m.join = nil
	m.gb.b.JoinGroup(0, &JoinRequest{Group: "g", MemberID: m.id, InstanceID: m.instance, ClientID: "c", ProtocolType: "consumer", Session: m.session,
		Rebalance: m.rebalance, Protocols: m.protocols, RequireKnownMember: m.requireKnown, SkipAssignment: m.skipAssigning}, func(r JoinResult) {
		m.join = &r
		if r.MemberID != "" {
			m.id = r.MemberID
		}
	})
	m.gb.pump()
}

func (m *groupMember) syncs(parts map[string][]byte) {
	m.sync = nil
	m.gb.b.SyncGroup(0, &SyncRequest{Group: "g", MemberID: m.id, InstanceID: m.instance, Generation: m.join.Generation, Assignments: parts},
		func(r SyncResult) { m.sync = &r })
	m.gb.pump()
}

func (m *groupMember) beats() (err error) {
	m.gb.b.Heartbeat(0, "g", m.id, m.instance, m.join.Generation, func(e error) { err = e })
	m.gb.pump()
	return err
}

func (m *groupMember) leaves() (err error) {
	m.gb.b.LeaveGroup(0, "g", []Leaver{{m.id, m.instance}}, func(errs []error, all error) { err = errors.Join(append(errs, all)...) })
	m.gb.pump()
	return err
}

// stable brings members into one generation, each with its name as its part.
func (gb *groupBench) stable(t testing.TB, members ...*groupMember) {
	t.Helper()
	for _, m := range members {
		m.joins()
	}
	gb.advance(2 * time.Second)
	gb.assign(t, members...)
}

// assign gives each member its name as its part. They have joined.
func (gb *groupBench) assign(t testing.TB, members ...*groupMember) {
	t.Helper()
	parts := map[string][]byte{}
	for _, m := range members {
		if m.join == nil || m.join.Err != nil {
			t.Fatalf("join was answered %+v", m.join)
		}
		parts[m.id] = []byte(m.id)
	}
	for _, m := range members {
		if m.id == m.join.Leader {
			if len(m.join.Members) != len(members) {
				t.Fatalf("the leader sees %d members of %d", len(m.join.Members), len(members))
			}
			m.syncs(parts)
		} else {
			m.syncs(nil)
		}
	}
	for _, m := range members {
		if m.sync == nil || m.sync.Err != nil || string(m.sync.Assignment) != m.id {
			t.Fatalf("sync was answered %+v, want %s", m.sync, m.id)
		}
	}
}

func TestGroupRebalance(t *testing.T) {
	gb := newGroupBench(t)
	a, b := gb.member(""), gb.member("")
	gb.stable(t, a, b)
	if a.join.Generation != 1 || b.join.Generation != 1 || a.join.Protocol != "range" {
		t.Errorf("generations %d and %d under %q", a.join.Generation, b.join.Generation, a.join.Protocol)
	}
	c := gb.member("")
	c.requireKnown = true
	if c.joins(); !errors.Is(c.join.Err, ErrMemberIDRequired) || c.id == "" {
		t.Fatalf("a new member was answered %+v", c.join)
	}
	c.joins()
	if err := a.beats(); !errors.Is(err, ErrRebalanceInProgress) {
		t.Errorf("a heartbeat during the rebalance: %v", err)
	}
	a.joins()
	b.joins()
	gb.assign(t, a, b, c)
	if c.join.Generation != 2 {
		t.Errorf("generation %d", c.join.Generation)
	}
}

func TestGroupSessions(t *testing.T) {
	gb := newGroupBench(t)
	a, b := gb.member(""), gb.member("")
	gb.stable(t, a, b)
	for range 3 {
		gb.advance(5 * time.Second)
		_ = a.beats()
	}
	if err := b.beats(); !errors.Is(err, ErrUnknownMember) {
		t.Errorf("a member that was silent for 15 s: %v", err)
	}
	if err := a.beats(); !errors.Is(err, ErrRebalanceInProgress) {
		t.Errorf("the other one: %v", err)
	}
	gb.stable(t, a)
	if a.join.Generation != 2 {
		t.Errorf("generation %d", a.join.Generation)
	}
	if err := a.leaves(); err != nil {
		t.Error(err)
	}
	if err := a.beats(); !errors.Is(err, ErrUnknownMember) {
		t.Errorf("after it has left: %v", err)
	}
	gb.stable(t, gb.member(""))
}

// A static member that comes back under its instance id has the same part, without a rebalance; its older self is fenced.
func TestGroupStatic(t *testing.T) {
	gb := newGroupBench(t)
	a, b := gb.member("one"), gb.member("two")
	gb.stable(t, a, b)
	first := []*groupMember{a, b}
	i := slices.IndexFunc(first, func(m *groupMember) bool { return m.id != m.join.Leader })
	old := first[i]
	again := gb.member(old.instance)
	again.joins()
	if again.join == nil || again.join.Err != nil || again.join.Generation != 1 || again.id == old.id {
		t.Fatalf("it was answered %+v", again.join)
	}
	again.syncs(nil)
	if string(again.sync.Assignment) != old.id {
		t.Errorf("it has %q, not its old part", again.sync.Assignment)
	}
	if err := old.beats(); !errors.Is(err, ErrFencedInstance) {
		t.Errorf("its older self: %v", err)
	}
	if err := first[1-i].beats(); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

func TestGroupRefusals(t *testing.T) {
	gb := newGroupBench(t)
	m := gb.member("")
	m.session = time.Second
	if m.joins(); !errors.Is(m.join.Err, ErrInvalidSessionTimeout) {
		t.Errorf("a session of a second: %v", m.join.Err)
	}
	m = gb.member("")
	m.id = "nobody"
	if m.joins(); !errors.Is(m.join.Err, ErrUnknownMember) {
		t.Errorf("an unknown id: %v", m.join.Err)
	}
	a := gb.member("")
	gb.stable(t, a)
	m = gb.member("")
	m.protocols = []GroupProtocol{{"other", nil}}
	if m.joins(); !errors.Is(m.join.Err, ErrInconsistentGroupProtocol) {
		t.Errorf("a strategy that nobody shares: %v", m.join.Err)
	}
	old := *a.join
	a.join.Generation = 7
	if err := a.beats(); !errors.Is(err, ErrIllegalGeneration) {
		t.Errorf("generation 7: %v", err)
	}
	a.join = &old
	if err := a.beats(); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

func (gb *groupBench) commit(r *CommitRequest) (err error) {
	err = errors.New("no answer")
	gb.b.CommitOffsets(0, r, func(e error) { err = e })
	gb.pump()
	return err
}

func place(partition int32, offset int64) OffsetCommit {
	return OffsetCommit{TopicPartition: TopicPartition{TopicID{1}, partition}, CommittedOffset: CommittedOffset{Offset: record.Offset(offset), LeaderEpoch: -1, Metadata: "m"}}
}

// Members, generation and offsets are there after a crash; what was not acknowledged may be.
func TestGroupOverCrash(t *testing.T) {
	gb := newGroupBench(t)
	a := gb.member("")
	gb.stable(t, a)
	r := &CommitRequest{Group: "g", MemberID: a.id, Generation: a.join.Generation, Offsets: []OffsetCommit{place(0, 5), place(1, 9), place(2, 1)}}
	if err := gb.commit(r); err != nil || !errors.Is(r.Offsets[2].Err, ErrUnknownTopic) {
		t.Fatalf("commit: %v, %v", err, r.Offsets[2].Err)
	}
	gb = gb.crashed()
	a.gb = gb
	if err := a.beats(); err != nil {
		t.Errorf("a heartbeat after the crash: %v", err)
	}
	got := gb.b.FetchOffsets(0, "g", []TopicPartition{{TopicID{1}, 0}, {TopicID{1}, 1}, {TopicID{1}, 2}})
	if s := fmt.Sprint(got[0].Offset, got[1].Offset, got[2].Offset, got[0].Metadata); s != "5 9 -1m" {
		t.Errorf("offsets are %s", s)
	}
	gb.advance(11 * time.Second)
	if err := a.beats(); !errors.Is(err, ErrUnknownMember) {
		t.Errorf("a member that never came back: %v", err)
	}
}

func TestGroupOffsetRules(t *testing.T) {
	gb := newGroupBench(t)
	simple := &CommitRequest{Group: "g", Generation: -1, Offsets: []OffsetCommit{place(0, 1)}}
	if err := gb.commit(simple); err != nil {
		t.Errorf("without a group: %v", err)
	}
	a := gb.member("")
	gb.stable(t, a)
	if err := gb.commit(simple); !errors.Is(err, ErrUnknownMember) {
		t.Errorf("past the members: %v", err)
	}
	if err := gb.commit(&CommitRequest{Group: "g", MemberID: a.id, Generation: 3, Offsets: simple.Offsets}); !errors.Is(err, ErrIllegalGeneration) {
		t.Errorf("of another generation: %v", err)
	}
	var err error
	gb.b.DeleteGroup(0, "g", func(e error) { err = e })
	if gb.pump(); !errors.Is(err, ErrNonEmptyGroup) {
		t.Errorf("deleting it with a member: %v", err)
	}
	_ = a.leaves()
	gb.b.DeleteGroup(0, "g", func(e error) { err = e })
	if gb.pump(); err != nil || gb.b.FetchOffsets(0, "g", nil) != nil {
		t.Errorf("deleting it: %v", err)
	}
	gb = gb.crashed()
	if got := gb.b.FetchOffsets(0, "g", nil); got != nil {
		t.Errorf("after a crash it has %v again", got)
	}
}

// Offsets end with their topic, and some time after the last member.
func TestGroupOffsetsExpire(t *testing.T) {
	gb := newGroupBench(t)
	if err := gb.commit(&CommitRequest{Group: "g", Generation: -1, Offsets: []OffsetCommit{place(0, 1), place(1, 1)}}); err != nil {
		t.Fatal(err)
	}
	sweep := func() {
		for range 8 {
			gb.tick()
		}
	}
	if sweep(); len(gb.b.FetchOffsets(0, "g", nil)) != 2 {
		t.Error("fresh offsets are gone")
	}
	gb.clock.Advance(8 * 24 * time.Hour)
	if sweep(); gb.b.FetchOffsets(0, "g", nil) != nil || gb.b.stats.Groups.Load() != 0 {
		t.Error("offsets of a week ago are there")
	}
	if err := gb.commit(&CommitRequest{Group: "g", Generation: -1, Offsets: []OffsetCommit{place(0, 1)}}); err != nil {
		t.Fatal(err)
	}
	gb.b.DropTopic(0, TopicID{1})
	if sweep(); gb.b.shardOf(0, []byte("g")).hasOffsets(groupKey{0, "g"}) {
		t.Error("offsets of a topic that is gone are kept")
	}
}
