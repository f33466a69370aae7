package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

// shardSet is who has a set of shards, in every output.
type shardSet struct {
	Set         uint32            `json:"set" yaml:"set"`
	First       uint32            `json:"first" yaml:"first"` // of its shards
	Shards      uint32            `json:"shards" yaml:"shards"`
	Leader      uint32            `json:"leader" yaml:"leader"`
	Epoch       uint32            `json:"epoch" yaml:"epoch"`
	Open        bool              `json:"open" yaml:"open"`
	Replicas    []uint32          `json:"replicas" yaml:"replicas"`
	InSync      []uint32          `json:"in_sync" yaml:"in_sync"`
	Eligible    []uint32          `json:"eligible" yaml:"eligible"`
	LeastInSync uint32            `json:"least_in_sync" yaml:"least_in_sync"`
	Lag         map[uint32]uint64 `json:"lag" yaml:"lag"` // frames, of followers; as the leader knows
	Progress    []nodeProgress    `json:"progress" yaml:"progress"`
	Target      []uint32          `json:"target" yaml:"target"` // who shall have it; empty: nothing moves
	Factor      uint32            `json:"factor" yaml:"factor"` // how many replicas it is to have; 0: as many as cluster.replicas says
	Home        []uint32          `json:"home" yaml:"home"`     // who shall have it again when it is back; empty: nobody stands in
}

func shardSetOf(s *api.ShardSet) shardSet {
	v := shardSet{s.Number, s.First, s.Shards, s.Leader, s.Epoch, s.Open, s.Replicas, s.InSync, s.Eligible, s.LeastInSync, make(map[uint32]uint64), each(s.Progress, nodeProgressOf), s.Target, s.Factor, s.Home}
	for _, w := range s.Followers {
		v.Lag[w.Node] = w.Lag
	}
	return v
}

// setsOf are all sets of shards, the first one as the others.
func setsOf(s *api.ShardStatus) []*api.ShardSet {
	first := &api.ShardSet{Shards: s.GetShards(), Leader: s.GetLeader(), Epoch: s.GetEpoch(), Open: s.GetOpen(), Replicas: s.GetReplicas(), InSync: s.GetInSync(), Eligible: s.GetEligible(),
		LeastInSync: s.GetLeastInSync(), Target: s.GetTarget(), Followers: s.GetFollowers(), Progress: s.GetProgress()}
	return append([]*api.ShardSet{first}, s.GetSets()...)
}

// setReplicasAt is the column of how many replicas each set has, where some have a number of their own.
const setReplicasAt = 5

// setRows are a table with a line for each set.
func setRows(sets []shardSet) [][]string {
	own := slices.ContainsFunc(sets, func(s shardSet) bool { return s.Factor > 0 })
	rows := [][]string{{"SET", "SHARDS", "LEADER", "PREFERRED", "EPOCH", "IN SYNC", "NOT IN SYNC", "LAG", "MOVES"}}
	if own {
		rows[0] = slices.Insert(rows[0], setReplicasAt, "REPLICAS")
	}
	for i := range sets {
		s := &sets[i]
		leader, preferred, lag := "-", "", ""
		if s.Leader != 0 {
			leader = strconv.FormatUint(uint64(s.Leader), 10)
		}
		if s.Set > 0 && len(s.Replicas) > 0 {
			preferred = strconv.FormatUint(uint64(s.Replicas[0]), 10)
		}
		if len(s.Lag) > 0 {
			most := uint64(0)
			for _, n := range s.Lag {
				most = max(most, n)
			}
			lag = strconv.FormatUint(most, 10)
		}
		row := []string{strconv.FormatUint(uint64(s.Set), 10), fmt.Sprintf("%d-%d", s.First, s.First+max(s.Shards, 1)-1), leader, preferred, strconv.FormatUint(uint64(s.Epoch), 10),
			nodesText(s.InSync), s.behindText(), lag, s.movesText()}
		if own {
			row = slices.Insert(row, setReplicasAt, s.replicasText())
		}
		rows = append(rows, row)
	}
	return rows
}

// replicasText is how many replicas the set has, and how many it is to have where that is another number.
func (s *shardSet) replicasText() string {
	text := strconv.Itoa(len(s.Replicas))
	if s.Factor > 0 && int(s.Factor) != len(s.Replicas) {
		text += " of " + strconv.FormatUint(uint64(s.Factor), 10)
	}
	return text
}

// movesText says which nodes come and go, or are to come back.
func (s *shardSet) movesText() string {
	if text := comeAndGo(s.Replicas, s.Target); text != "" || len(s.Home) == 0 {
		return text
	}
	return "until " + nodesText(s.Home) + " is back"
}

func nodesText(list []uint32) string {
	return strings.Join(each(list, func(id uint32) string { return strconv.FormatUint(uint64(id), 10) }), " ")
}

// behindText says which nodes have the set or are to have it and are not in sync, and how far they are.
func (s *shardSet) behindText() string {
	list := slices.Clone(s.Replicas)
	far := make(map[uint32]string)
	for i := range s.Progress {
		p := &s.Progress[i]
		if far[p.Node] = p.text(); !slices.Contains(list, p.Node) {
			list = append(list, p.Node)
		}
	}
	var out []string
	for _, id := range list {
		if slices.Contains(s.InSync, id) {
			continue
		}
		text := strconv.FormatUint(uint64(id), 10)
		if slices.Contains(s.Eligible, id) {
			text += " lacks nothing"
		} else if far[id] != "" {
			text += " " + far[id]
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func shardSets(f *controlFlags) *cobra.Command {
	wait, replicas := false, uint32(0)
	c := &cobra.Command{Use: "sets [N]", Short: "Show the sets of shards, or have more of them", Args: atMost(1),
		Long: strings.TrimSpace(`
Show the sets of shards, or have N of them beside the first, 15 at most. Each set has a leader of its own, so that they lie on several nodes; those beside the first have
partitions of topics with leader.spread=true alone. PREFERRED is the node that gets the lead back when it can, which is nobody for the first set. LAG is how many frames
of the log the node lacks that lacks most of those that follow, as the leader knows. Sets do not become fewer. All nodes have to run a program of level 7.

With --replicas the sets that are made have so many replicas each, in place of cluster.replicas, from level 8 on: topics that are made with that number lie in them. A
set of one replica is not served while its node is away, but for one that is stopped in order. sluice shard replicas changes the number.`),
		Example: "  sluice shard sets\n  sluice shard sets 6 --wait\n  sluice shard sets 9 --replicas 1 --wait"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		n := uint64(0)
		if len(args) > 0 {
			var err error
			if n, err = strconv.ParseUint(args[0], 10, 8); err != nil || n == 0 {
				return misused("want a number of sets from 1 on, found %q", args[0])
			}
		}
		if wait && n == 0 {
			return misused("--wait waits for sets that are made: say how many")
		}
		if replicas > 0 && n == 0 {
			return misused("--replicas is of sets that are made: say how many, or use sluice shard replicas")
		}
		return f.call(cmd, func(k *controlCall) error {
			if n > 0 {
				if _, err := ask(k, api.NewShardsClient(k).Sets, &api.ShardSetsRequest{Sets: uint32(n), Replicas: replicas}); err != nil {
					return err
				}
			}
			if wait {
				if err := k.awaitSets(int(n)); err != nil {
					return err
				}
			}
			s, err := k.shards()
			if err != nil {
				return err
			}
			list := each(setsOf(s), shardSetOf)
			return f.output.write(cmd.OutOrStdout(), list, setRows(list))
		})
	}
	addWait(c, &wait)
	c.Flags().Uint32Var(&replicas, "replicas", 0, "how many replicas each set has that this makes; 0: as many as cluster.replicas says")
	_ = c.RegisterFlagCompletionFunc("replicas", cobra.NoFileCompletions)
	f.output.add(c)
	return c
}

func shardReplicas(f *controlFlags) *cobra.Command {
	var set uint32
	wait := false
	c := &cobra.Command{Use: "replicas N --set SET", Short: "Have a set of shards have another number of replicas", Args: exactly("N"),
		Long: strings.TrimSpace(`
Have a set of shards have another number of replicas: all topics of which it has partitions. Nodes come and go on line, one after the other; nothing is copied, as all nodes
follow anyway. With fewer replicas an acknowledgement waits for fewer nodes, and what was acknowledged is lost with fewer. All nodes have to run a program of level 8.`),
		Example: "  sluice shard replicas 2 --set 4 --wait"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := strconv.ParseUint(args[0], 10, 8)
		if err != nil || n == 0 {
			return misused("want a number of replicas from 1 on, found %q", args[0])
		}
		if set == 0 {
			return misused("give --set: which set of shards, from 1 on; set 0 has as many replicas as cluster.replicas says")
		}
		return f.call(cmd, func(k *controlCall) error {
			s, err := ask(k, api.NewShardsClient(k).Replicas, &api.ShardReplicasRequest{Set: set, Replicas: uint32(n)})
			if err == nil && wait {
				if err = k.awaitReplicas(set, int(n)); err == nil {
					s, err = k.shards()
				}
			}
			if err != nil {
				return err
			}
			list := each(setsOf(s), shardSetOf)
			return f.output.write(cmd.OutOrStdout(), list, setRows(list))
		})
	}
	addWait(c, &wait)
	addSet(c, &set)
	f.output.add(c)
	return c
}

// awaitReplicas waits until a set has n replicas, all in sync.
func (k *controlCall) awaitReplicas(set uint32, n int) error {
	return newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		s, err := k.shards()
		if err != nil || int(set) > len(s.Sets) {
			return false, "", err
		}
		of := s.Sets[set-1]
		return len(of.Replicas) == n && len(of.InSync) == n, fmt.Sprintf("replicas of set %d: %d, in sync %d, want %d", set, len(of.Replicas), len(of.InSync), n), nil
	})
}

// awaitSets waits until n sets beside the first have leaders.
func (k *controlCall) awaitSets(n int) error {
	return newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		s, err := k.shards()
		if err != nil {
			return false, "", err
		}
		led := 0
		for _, set := range s.Sets {
			if set.Leader != 0 {
				led++
			}
		}
		return led >= n, fmt.Sprintf("sets with a leader: %d of %d", led, n), nil
	})
}

// addSet gives a command --set.
func addSet(c *cobra.Command, set *uint32) {
	c.Flags().Uint32Var(set, "set", 0, "which set of shards, as sluice shard sets has them")
	_ = c.RegisterFlagCompletionFunc("set", cobra.NoFileCompletions)
}

var errNoSet = errors.New("there is no such set of shards; sluice shard sets shows them")

// hasSet says if there is no such set. A program that knows of no sets would take what is asked of one for the first.
func (k *controlCall) hasSet(set uint32) error {
	if set == 0 {
		return nil
	}
	s, err := k.shards()
	if err == nil && set > uint32(len(s.Sets)) {
		return fmt.Errorf("set %d: %w", set, errNoSet)
	}
	return err
}

// move has a node lead a set, with wait as soon as it can.
func (k *controlCall) move(set, to uint32, wait bool) (*api.ShardStatus, error) {
	if err := k.hasSet(set); err != nil {
		return nil, err
	}
	if wait {
		return k.moveWhenInSync(set, to)
	}
	return ask(k, api.NewShardsClient(k).Move, &api.MoveShardsRequest{To: to, Set: set})
}

// moveAll has a node lead all sets, one after the other.
func (k *controlCall) moveAll(to uint32, wait bool) (*api.ShardStatus, error) {
	s, err := k.shards()
	if err != nil {
		return nil, err
	}
	for _, set := range setsOf(s) {
		if set.Leader == to {
			continue
		}
		if s, err = k.move(set.Number, to, wait); err != nil {
			return nil, err
		}
	}
	return s, nil
}
