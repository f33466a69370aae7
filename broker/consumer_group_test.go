package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/journal/record"
)

// consumer is a client of the consumer protocol: it owns what it was given until it has seen that it is to give it up.
type consumer struct {
	gb       *groupBench
	id       string
	instance string
	epoch    int32
	owned    []TopicPartition
	tell     bool // it tells what it owns with its next heartbeat
	names    []string
	regex    *string
	visible  func(*Topic) bool
	last     ConsumerResult
}

func (gb *groupBench) consumer(id string, names ...string) *consumer {
	return &consumer{gb: gb, id: id, names: names}
}

func (c *consumer) beats(t rapid.TB) ConsumerResult {
	t.Helper()
	r := &ConsumerHeartbeat{Group: "g", MemberID: c.id, InstanceID: c.instance, Epoch: c.epoch, RebalanceTimeout: -1, Visible: c.visible}
	if c.epoch == 0 {
		r.RebalanceTimeout, r.HasNames, r.Names, r.Regex = 30*time.Second, true, c.names, c.regex
	} else if c.tell {
		r.HasOwned, r.Owned = true, c.owned
	}
	c.tell = false
	answered := false
	c.gb.b.ConsumerGroupHeartbeat(0, r, func(res ConsumerResult) { c.last, answered = res, true })
	c.gb.pump()
	if !answered {
		t.Fatal("a heartbeat is not answered")
	}
	if c.last.Err != nil {
		if errors.Is(c.last.Err, ErrUnknownMember) || errors.Is(c.last.Err, ErrFencedMemberEpoch) {
			c.epoch, c.owned = 0, nil
		}
		return c.last
	}
	c.epoch = c.last.Epoch
	if c.last.HasAssignment && !slices.Equal(c.owned, c.last.Assignment) {
		c.owned, c.tell = slices.Clone(c.last.Assignment), true
	}
	return c.last
}

func (c *consumer) leaves(epoch int32) (err error) {
	r := &ConsumerHeartbeat{Group: "g", MemberID: c.id, InstanceID: c.instance, Epoch: epoch, RebalanceTimeout: -1}
	c.gb.b.ConsumerGroupHeartbeat(0, r, func(res ConsumerResult) { err = res.Err })
	c.gb.pump()
	c.owned, c.epoch = nil, 0
	return err
}

// settles has all beat until nothing moves, and gives what each has.
func settles(t rapid.TB, all ...*consumer) (shares []int) {
	t.Helper()
	for range 12 {
		for _, c := range all {
			c.beats(t)
		}
	}
	for _, c := range all {
		shares = append(shares, len(c.owned))
	}
	return shares
}

func wideTopic(gb *groupBench, name string, id byte, partitions int) {
	var ids []record.PartitionID
	for i := range partitions {
		ids = append(ids, record.PartitionID(int(id)*1000+i))
	}
	gb.b.SetTopic(topicSpec(name, id, ids...))
}

func TestConsumerGroup(t *testing.T) {
	gb := newGroupBench(t)
	wideTopic(gb, "wide", 2, 12)
	a, b, c := gb.consumer("a", "wide"), gb.consumer("b", "wide"), gb.consumer("c", "wide")
	if got := fmt.Sprint(settles(t, a)); got != "[12]" {
		t.Fatalf("alone it has %s", got)
	}
	if got := fmt.Sprint(settles(t, a, b, c)); got != "[4 4 4]" {
		t.Fatalf("three have %s", got)
	}
	kept := slices.Clone(a.owned)
	if err := b.leaves(LeaveEpoch); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(settles(t, a, c)); got != "[6 6]" {
		t.Errorf("two have %s", got)
	}
	if !subset(kept, a.owned) {
		t.Error("a member lost what it had when another left")
	}
	wideTopic(gb, "wide", 2, 16)
	if got := fmt.Sprint(settles(t, a, c)); got != "[8 8]" {
		t.Errorf("of 16 partitions two have %s", got)
	}
	gb.advance(46 * time.Second) // both are silent
	if r := a.beats(t); !errors.Is(r.Err, ErrUnknownMember) {
		t.Errorf("after 46 s: %v", r.Err)
	}
}

// Nobody gets a partition that another has not given up.
func TestConsumerGroupRevokes(t *testing.T) {
	gb := newGroupBench(t)
	wideTopic(gb, "wide", 2, 4)
	a, b := gb.consumer("a", "wide"), gb.consumer("b", "wide")
	settles(t, a)
	if r := b.beats(t); r.Err != nil || len(b.owned) != 0 {
		t.Fatalf("the second one has %v at once, %v", b.owned, r.Err)
	}
	r := a.beats(t)
	if len(a.owned) != 2 || r.Epoch != 1 {
		t.Errorf("the first one is to keep %v, epoch %d", a.owned, r.Epoch)
	}
	if b.beats(t); len(b.owned) != 0 {
		t.Errorf("the second one has %v before the first has let go", b.owned)
	}
	a.beats(t)
	if b.beats(t); len(b.owned) != 2 || b.epoch != 2 || a.epoch != 2 {
		t.Errorf("then it has %v, epochs %d and %d", b.owned, a.epoch, b.epoch)
	}
	// One that does not give up in time is out.
	c, d := gb.consumer("c", "wide"), gb.consumer("d", "wide")
	c.beats(t)
	d.beats(t)
	a.beats(t)
	for range 7 {
		gb.advance(5 * time.Second)
		b.beats(t)
		c.beats(t)
		d.beats(t)
	}
	if r := a.beats(t); !errors.Is(r.Err, ErrUnknownMember) {
		t.Errorf("a member that gave nothing up for 35 s: %v", r.Err)
	}
}

func TestConsumerGroupRegex(t *testing.T) {
	gb := newGroupBench(t)
	wideTopic(gb, "plant-1", 2, 2)
	wideTopic(gb, "other", 3, 2)
	pattern := "plant-.*"
	a := gb.consumer("a")
	a.regex = &pattern
	if got := fmt.Sprint(settles(t, a)); got != "[2]" {
		t.Errorf("it has %s", got)
	}
	wideTopic(gb, "plant-2", 4, 3)
	gb.advance(regexPause)
	if got := fmt.Sprint(settles(t, a)); got != "[5]" {
		t.Errorf("with another topic it has %s", got)
	}
	gb.b.DropTopic(0, TopicID{2})
	if got := fmt.Sprint(settles(t, a)); got != "[5]" {
		t.Errorf("it has looked at the topics again at once: %s", got)
	}
	gb.advance(regexPause)
	if got := fmt.Sprint(settles(t, a)); got != "[3]" {
		t.Errorf("without the first it has %s", got)
	}
	for what, bad := range map[string]string{"an open one": "(", "one that closes what is around it": "a)|(b", "a long one": strings.Repeat("a", regexBytesMax+1),
		"a large one": strings.Repeat(".{1000}", 200), "a nested one": "(([a-z]{30}){30}[0-9]{1000}){30}"} {
		b := gb.consumer("b")
		b.regex = &bad
		if r := b.beats(t); !errors.Is(r.Err, ErrInvalidRegex) {
			t.Errorf("%s: %v", what, r.Err)
		}
	}
}

// After a restart a member's expression matches what the member may know of, which it does not tell again: nothing it may not is given to it.
func TestConsumerGroupRegexKept(t *testing.T) {
	gb := newGroupBench(t)
	specs := func(gb *groupBench) {
		wideTopic(gb, "plant-1", 2, 2)
		wideTopic(gb, "plant-secret", 3, 2)
	}
	specs(gb)
	pattern := "plant-.*"
	a, b := gb.consumer("a"), gb.consumer("b", "plant-1")
	a.regex, a.visible = &pattern, func(t *Topic) bool { return t.Name() != "plant-secret" }
	if got := fmt.Sprint(settles(t, a, b)); got != "[1 1]" {
		t.Fatalf("they have %s", got)
	}
	epoch := a.epoch
	gb = gb.crashed()
	specs(gb)
	a.gb, b.gb = gb, gb
	if got := fmt.Sprint(settles(t, b, a)); got != "[1 1]" || a.epoch != epoch {
		t.Errorf("after a restart they have %s, epoch %d of %d", got, a.epoch, epoch)
	}
	wideTopic(gb, "plant-2", 4, 3)
	gb.advance(regexPause)
	if got := fmt.Sprint(settles(t, b, a)); got != "[2 3]" {
		t.Errorf("with another topic they have %s", got)
	}
}

// A static member that is back has its partitions again; members, epochs and partitions survive a crash.
func TestConsumerGroupKept(t *testing.T) {
	gb := newGroupBench(t)
	wideTopic(gb, "wide", 2, 6)
	a, b := gb.consumer("a", "wide"), gb.consumer("b", "wide")
	a.instance, b.instance = "one", "two"
	settles(t, a, b)
	had := slices.Clone(a.owned)
	if err := a.leaves(StaticLeaveEpoch); err != nil {
		t.Fatal(err)
	}
	again := gb.consumer("a2", "wide")
	again.instance = "one"
	if got := fmt.Sprint(settles(t, again, b)); got != "[3 3]" || !slices.Equal(again.owned, had) {
		t.Errorf("they have %s, and %v is not %v", got, again.owned, had)
	}
	other := gb.consumer("thief", "wide")
	other.instance = "two"
	if r := other.beats(t); !errors.Is(r.Err, ErrUnreleasedInstance) {
		t.Errorf("a second bearer of an instance id: %v", r.Err)
	}
	next := gb.crashed()
	wideTopic(next, "wide", 2, 6)
	again.gb, b.gb = next, next
	if epoch := b.epoch; b.beats(t).Err != nil || b.epoch != epoch {
		t.Errorf("after a crash: %+v, its epoch was %d", b.last, epoch)
	}
	var err error
	commit := &CommitRequest{Group: "g", MemberID: b.id, Generation: b.epoch + 1, Offsets: []OffsetCommit{place(0, 1)}}
	next.b.CommitOffsets(0, commit, func(e error) { err = e })
	if next.pump(); !errors.Is(err, ErrStaleMemberEpoch) {
		t.Errorf("a commit of another epoch: %v", err)
	}
	commit.Generation--
	next.b.CommitOffsets(0, commit, func(e error) { err = e })
	if next.pump(); err != nil {
		t.Errorf("a commit: %v", err)
	}
}

// A commit that a new epoch has overtaken counts for what its member has had all the time, and for nothing else (KIP-1251).
func TestConsumerGroupOvertakenCommit(t *testing.T) {
	gb := newGroupBench(t)
	wideTopic(gb, "wide", 2, 4)
	a, b := gb.consumer("a", "wide"), gb.consumer("b", "wide")
	settles(t, a)
	before := slices.Clone(a.owned)
	settles(t, a, b)
	if a.epoch != 2 || len(a.owned) != 2 {
		t.Fatalf("epoch %d, %v", a.epoch, a.owned)
	}
	commit := func(m *consumer, generation int32, parts ...TopicPartition) (err error) {
		r := &CommitRequest{Group: "g", MemberID: m.id, Generation: generation}
		for _, tp := range parts {
			r.Offsets = append(r.Offsets, OffsetCommit{TopicPartition: tp, CommittedOffset: CommittedOffset{Offset: 1}})
		}
		gb.b.CommitOffsets(0, r, func(e error) { err = e })
		gb.pump()
		return err
	}
	if err := commit(a, 1, a.owned...); err != nil {
		t.Errorf("what it has kept: %v", err)
	}
	if err := commit(a, 1, before...); !errors.Is(err, ErrStaleMemberEpoch) {
		t.Errorf("what it has given up: %v", err)
	}
	if err := commit(b, 1, b.owned...); !errors.Is(err, ErrStaleMemberEpoch) {
		t.Errorf("what it has had later: %v", err)
	}
	if err := commit(a, 3, a.owned...); !errors.Is(err, ErrStaleMemberEpoch) {
		t.Errorf("an epoch to come: %v", err)
	}
}

// Whatever members do, no two own a partition at the same time, and when they have come to rest each partition has an owner.
func TestConsumerGroupModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		gb := newGroupBench(t)
		defer gb.b.Close()
		topics := []string{"x", "y", "z"}
		for i, name := range topics {
			wideTopic(gb, name, byte(i+2), rapid.IntRange(1, 7).Draw(rt, "partitions"))
		}
		members := map[string]*consumer{}
		disjoint := func() {
			owner := map[TopicPartition]string{}
			for id, c := range members {
				for _, tp := range c.owned {
					if o, taken := owner[tp]; taken {
						rt.Fatalf("%s and %s both own %v", o, id, tp)
					}
					owner[tp] = id
				}
			}
		}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			id := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "member")
			c := members[id]
			switch {
			case c == nil:
				n := rapid.IntRange(1, 3).Draw(rt, "topics")
				c = gb.consumer(id, topics[:n]...)
				members[id] = c
				c.beats(rt)
			case rapid.IntRange(0, 9).Draw(rt, "action") == 0:
				delete(members, id)
				if err := c.leaves(LeaveEpoch); err != nil {
					rt.Fatal(err)
				}
			case rapid.IntRange(0, 9).Draw(rt, "action") == 1:
				c.epoch, c.owned = 0, nil // it starts anew
				c.beats(rt)
			default:
				c.beats(rt)
			}
			disjoint()
		}
		for range 15 {
			for _, c := range members {
				c.beats(rt)
				disjoint()
			}
		}
		want, got := map[string]bool{}, 0
		for _, c := range members {
			got += len(c.owned)
			for _, n := range c.names {
				want[n] = true
			}
		}
		total := 0
		for n := range want {
			total += len(gb.b.Topic(0, n).Partitions())
		}
		if got != total {
			rt.Fatalf("%d partitions have an owner, of %d", got, total)
		}
	})
}
