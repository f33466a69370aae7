package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// logged is how many bytes the log has taken.
func (gb *groupBench) logged() (n int) {
	for _, g := range gb.log.groups {
		n += len(g)
	}
	return n
}

// What a change of one member costs in the log does not depend on how many others there are.
func TestMemberChangeBytes(t *testing.T) {
	join, follow := map[int]int{}, map[int]int{}
	for _, size := range []int{10, 1000} {
		gb := newGroupBench(t)
		wideTopic(gb, "wide", 2, 2*size)
		members := make([]*consumer, size)
		for i := range members {
			members[i] = gb.consumer(fmt.Sprintf("member-%06d", i), "wide")
			members[i].beats(t)
		}
		for range 4 {
			for _, c := range members {
				c.beats(t)
			}
		}
		before := gb.logged()
		late := gb.consumer("member-999999", "wide")
		late.beats(t)
		join[size] = gb.logged() - before
		before = gb.logged()
		members[size-1].beats(t)
		follow[size] = gb.logged() - before
		members[size-1].beats(t) // it has given up what the newcomer gets
		before = gb.logged()
		members[size-1].beats(t)
		if n := gb.logged() - before; n != 0 {
			t.Errorf("a heartbeat without news takes %d bytes", n)
		}
	}
	t.Logf("bytes of a join: %v, of a heartbeat that follows an epoch: %v", join, follow)
	if join[1000] > join[10]+64 || follow[1000] > follow[10]+16 || follow[1000] > 160 {
		t.Errorf("bytes of a join: %v, of a heartbeat that follows an epoch: %v", join, follow)
	}
}

// The same of a static member of the classic protocol that comes back under a new id.
func TestStaticMemberBytes(t *testing.T) {
	took := map[int]int{}
	for _, size := range []int{3, 300} {
		gb := newGroupBench(t)
		members := make([]*groupMember, size)
		for i := range members {
			members[i] = gb.member(fmt.Sprintf("i-%04d", i))
		}
		gb.stable(t, members...)
		i := slices.IndexFunc(members, func(m *groupMember) bool { return m.id != m.join.Leader })
		before := gb.logged()
		again := gb.member(members[i].instance)
		again.joins()
		took[size] = gb.logged() - before
		if again.join == nil || again.join.Err != nil {
			t.Fatalf("it was answered %+v", again.join)
		}
	}
	if t.Logf("bytes: %v", took); took[300] > took[3]+16 {
		t.Errorf("in a group of 3 and of 300: %v", took)
	}
}

// rowsOf gives what is kept of groups.
func (gb *groupBench) rowsOf() map[string]string {
	rows := map[string]string{}
	for _, s := range gb.b.homes {
		s.mu.Lock()
		for key, row := range s.mu.groupRows {
			text := fmt.Sprintf("%x since %d", row.meta, row.emptySince)
			for _, id := range slices.Sorted(maps.Keys(row.members)) {
				text += fmt.Sprintf("\n%s %x %x", id, row.members[id].wishes, row.members[id].share)
			}
			rows[key.id] = text
		}
		s.mu.Unlock()
	}
	return rows
}

// agree checks that the log has what the group is, but for what it knows to be missing.
func (gb *groupBench) agree(t *testing.T, after string) {
	t.Helper()
	key := groupKey{0, "g"}
	s := gb.b.shardOf(0, []byte(key.id))
	g := s.home.group(key)
	if g == nil || g.changes.whole {
		return
	}
	row := s.mu.groupRows[key]
	if row == nil {
		row = &groupRow{}
	}
	have := map[string]memberRow{}
	for id, m := range g.members {
		have[id] = memberRow{m.appendWishes(nil), m.assignment}
	}
	if g.consumer != nil {
		for id, m := range g.consumer.members {
			have[id] = memberRow{m.appendWishes(nil), m.appendShare(nil)}
		}
		if len(g.changes.members) > 0 {
			t.Fatalf("after %s: %v are not written", after, g.changes.members)
		}
		if meta := g.appendMeta(nil); !bytes.Equal(meta, row.meta) {
			t.Fatalf("after %s: the group is %x, its row is %x", after, meta, row.meta)
		}
	}
	for id, m := range have {
		parts, r := g.changes.members[id], row.members[id]
		if parts&memberWishes == 0 && !bytes.Equal(m.wishes, r.wishes) || parts&memberShare == 0 && !bytes.Equal(m.share, r.share) {
			t.Fatalf("after %s: member %s is %x, its row is %x, to be written: %b", after, id, m, r, parts)
		}
	}
	for id := range row.members {
		if _, there := have[id]; !there && g.changes.members[id] != memberKept {
			t.Fatalf("after %s: the log has %s, which has left", after, id)
		}
	}
}

// groupModel has members of one protocol do what comes to their minds, over a log and a checkpoint store that fail now and then.
type groupModel struct {
	t       *testing.T
	gb      *groupBench
	r       *rand.Rand
	points  *memCheckpoints
	members map[string]*consumer
	classic []*groupMember
}

func (gm *groupModel) topics() []*TopicSpec {
	return []*TopicSpec{topicSpec("t", 1, 100, 101, 102, 103, 104, 105, 106)}
}

func (gm *groupModel) consumerStep() string {
	id := fmt.Sprint("m", gm.r.IntN(9))
	c := gm.members[id]
	if c == nil {
		c = gm.gb.consumer(id, "t")
		if gm.r.IntN(2) == 0 {
			c.instance = "i" + id
		}
		gm.members[id] = c
	}
	switch gm.r.IntN(8) {
	case 0:
		c.epoch, c.owned = 0, nil
	case 1:
		epoch := int32(LeaveEpoch)
		if c.instance != "" && gm.r.IntN(2) == 0 {
			epoch = StaticLeaveEpoch
		}
		_ = c.leaves(epoch) // it may never have joined
		return "a member leaves"
	case 2:
		gm.gb.advance(20 * time.Second)
		return "20 s"
	case 3:
		if c.instance != "" { // its successor
			delete(gm.members, id)
			next := gm.gb.consumer(id+"n", "t")
			next.instance = c.instance
			next.beats(gm.t)
			gm.members[id] = next
			return "a static member joins again"
		}
	}
	c.beats(gm.t)
	return "a heartbeat"
}

func (gm *groupModel) classicStep() string {
	if len(gm.classic) < 6 && gm.r.IntN(3) == 0 {
		m := gm.gb.member([]string{"", "one", "two"}[gm.r.IntN(3)])
		m.joins()
		gm.classic = append(gm.classic, m)
		return "a member joins"
	}
	if len(gm.classic) == 0 {
		return "nothing"
	}
	i := gm.r.IntN(len(gm.classic))
	m := gm.classic[i]
	switch gm.r.IntN(6) {
	case 0:
		if m.join != nil {
			_ = m.leaves()
		}
		gm.classic = slices.Delete(gm.classic, i, i+1)
		return "a member leaves"
	case 1:
		gm.gb.advance(6 * time.Second)
		return "6 s"
	case 2:
		m.joins()
		return "a member joins again"
	}
	if m.join == nil || m.join.Err != nil {
		return "nothing"
	}
	parts := map[string][]byte{}
	for _, o := range gm.classic {
		parts[o.id] = []byte{byte('a' + gm.r.IntN(2))}
	}
	m.syncs(parts)
	return "a sync"
}

// restart goes on with what the checkpoint and the log have, which must be what was there.
func (gm *groupModel) restart() {
	gm.t.Helper()
	want := gm.gb.rowsOf()
	next, err := gm.gb.restartWith(2, gm.points, gm.topics()...)
	if err != nil {
		gm.t.Fatal(err)
	}
	gm.gb.b.Close()
	gm.gb = &groupBench{next}
	if got := gm.gb.rowsOf(); !maps.Equal(got, want) {
		gm.t.Fatalf("after a restart there is\n%v\nwant\n%v", got, want)
	}
	for _, c := range gm.members {
		c.gb = gm.gb
	}
	for _, m := range gm.classic {
		m.gb = gm.gb
	}
}

func (gm *groupModel) step(consumer bool) string {
	switch gm.r.IntN(24) {
	case 0:
		gm.restart()
		return "a restart"
	case 1, 2:
		left := gm.r.IntN(2 * modelShards)
		gm.points.step = func() error {
			if left--; left < 0 {
				return errors.New("the store does not write")
			}
			return nil
		}
		_ = gm.gb.b.Checkpoint(gm.points) // it may fail
		gm.points.step = nil
		return "a checkpoint"
	case 3:
		gm.gb.log.fail = errors.New("disk full")
		defer func() { gm.gb.log.fail = nil }()
	case 4:
		if !consumer {
			var err error
			gm.gb.b.DeleteGroup(0, "g", func(e error) { err = e })
			gm.gb.pump()
			return fmt.Sprint("its deletion: ", err)
		}
	}
	if consumer {
		return gm.consumerStep()
	}
	return gm.classicStep()
}

// Whatever happens, what the log has of a group's members is what they are, but for what is noted as missing; a checkpoint and the log
// behind it give the same after a restart.
func TestMemberRowsModel(t *testing.T) {
	for seed := range uint64(60) {
		isConsumer := seed%2 == 0
		gm := &groupModel{t: t, r: rand.New(rand.NewPCG(seed, 7)), points: &memCheckpoints{}, members: map[string]*consumer{}}
		gm.gb = &groupBench{openTestBroker(t, 2, nil)}
		gm.gb.b.SetTopic(gm.topics()[0])
		for i := range 150 {
			gm.gb.agree(t, fmt.Sprintf("seed %d, step %d, %s", seed, i, gm.step(isConsumer)))
		}
		gm.restart()
		gm.gb.b.Close()
	}
}

// appendWhole is the metadata of a group as versions before 3 wrote it.
func appendWhole(dst []byte, g *group) []byte {
	if cg := g.consumer; cg != nil {
		dst = append(dst, wholeConsumerVersion)
		dst = binary.AppendUvarint(dst, uint64(uint32(cg.epoch)))
		dst = binary.AppendUvarint(dst, uint64(uint32(cg.targetEpoch)))
		dst = binary.AppendUvarint(dst, uint64(len(cg.members)))
		for _, id := range slices.Sorted(maps.Keys(cg.members)) {
			m := cg.members[id]
			for _, s := range []string{m.id, m.instance, m.clientID, m.clientHost, m.rack, m.regex, m.assignor} {
				dst = appendString(dst, s)
			}
			dst = binary.AppendUvarint(dst, uint64(m.rebalanceTimeout/time.Millisecond))
			dst = binary.AppendUvarint(dst, uint64(uint32(m.epoch)))
			dst = binary.AppendUvarint(dst, uint64(uint32(m.previous)))
			dst = append(dst, byte(m.state), byte(boolBit(m.left)))
			dst = binary.AppendUvarint(dst, uint64(len(m.names)))
			for _, s := range m.names {
				dst = appendString(dst, s)
			}
			for _, list := range [][]TopicPartition{m.assigned, m.revoking, m.target} {
				dst = binary.AppendUvarint(dst, uint64(len(list)))
				for _, tp := range list {
					dst = appendTopicPartition(dst, tp)
				}
			}
		}
		return dst
	}
	dst = append(dst, wholeClassicVersion)
	dst = binary.AppendUvarint(dst, uint64(uint32(g.generation)))
	dst = appendString(appendString(appendString(dst, g.protocolType), g.protocol), g.leader)
	dst = binary.AppendUvarint(dst, uint64(len(g.members)))
	for _, m := range g.members {
		dst = appendString(appendString(appendString(appendString(dst, m.id), m.instance), m.clientID), m.clientHost)
		dst = binary.AppendUvarint(dst, uint64(m.session/time.Millisecond))
		dst = binary.AppendUvarint(dst, uint64(m.rebalanceTimeout/time.Millisecond))
		dst = binary.AppendUvarint(dst, uint64(len(m.protocols)))
		for i := range m.protocols {
			dst = appendBytes(appendString(dst, m.protocols[i].Name), m.protocols[i].Metadata)
		}
		dst = appendBytes(dst, m.assignment)
	}
	return dst
}

// What earlier versions wrote of groups, in the log or in a checkpoint, is read, and changes go on from there.
func TestWholeGroupsAreRead(t *testing.T) {
	for _, name := range []string{"consumer in the log", "consumer in a checkpoint", "classic in the log", "classic in a checkpoint"} {
		t.Run(name, func(t *testing.T) {
			gb := newGroupBench(t)
			c, m := gb.consumer("a", "t"), gb.member("one")
			c.instance = "one"
			if isConsumer := name[1] == 'o'; isConsumer {
				settles(t, c, gb.consumer("b", "t"))
			} else {
				gb.stable(t, m, gb.member(""))
			}
			want := gb.rowsOf()["g"]
			key := groupKey{0, "g"}
			s := gb.b.shardOf(0, []byte("g"))
			whole := appendWhole(nil, s.home.group(key))

			old := newTestBroker(t, 2, nil)
			s = old.b.shardOf(0, []byte("g"))
			if name[len(name)-1] == 'g' {
				cmd := appendGroupKey(binary.AppendUvarint(nil, cmdGroupMeta), key)
				if err := old.b.command(s, appendBytes(append(cmd, 0), whole), entry{}); err != nil {
					t.Fatal(err)
				}
				old.pump()
			} else if !s.loadRow(old.b, rowGroupMeta, groupRowKey(key)[1:], append([]byte{0}, whole...)) {
				t.Fatal("the row is not loaded")
			}
			// A checkpoint that follows has it in rows of its own, and so has a restart.
			points := &memCheckpoints{}
			old.b.setCommitted(Place{Segment: 1, Offset: int64(len(old.log.groups))})
			if err := old.b.Checkpoint(points); err != nil {
				t.Fatal(err)
			}
			next, err := old.restartWith(2, points, topicSpec("t", 1, 100, 101))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(next.b.Close)
			gb = &groupBench{next}
			if got := gb.rowsOf()["g"]; got != want {
				t.Fatalf("the rows are\n%s\nwant\n%s", got, want)
			}
			if c.gb, m.gb = gb, gb; c.epoch > 0 {
				epoch := c.epoch
				if r := c.beats(t); r.Err != nil || r.Epoch != epoch {
					t.Errorf("a member's heartbeat: %+v", r)
				}
			} else if err := m.beats(); err != nil {
				t.Errorf("a member's heartbeat: %v", err)
			}
			gb.agree(t, "a heartbeat")
		})
	}
}
