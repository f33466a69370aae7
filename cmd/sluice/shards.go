package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newShardCommand) }

// shardStatus is who has the shards, in every output.
type shardStatus struct {
	Asked       uint32            `json:"asked" yaml:"asked"`
	Shards      uint32            `json:"shards" yaml:"shards"`
	Leader      uint32            `json:"leader" yaml:"leader"`
	Epoch       uint32            `json:"epoch" yaml:"epoch"`
	Open        bool              `json:"open" yaml:"open"`
	Replicas    []uint32          `json:"replicas" yaml:"replicas"`
	InSync      []uint32          `json:"in_sync" yaml:"in_sync"`
	Eligible    []uint32          `json:"eligible" yaml:"eligible"`
	Alive       []uint32          `json:"alive" yaml:"alive"`
	LeastInSync uint32            `json:"least_in_sync" yaml:"least_in_sync"`
	Lag         map[uint32]uint64 `json:"lag" yaml:"lag"` // frames, of followers; as the leader knows
	Progress    []nodeProgress    `json:"progress" yaml:"progress"`
	Yields      map[uint32]string `json:"yields" yaml:"yields"` // why nodes leave the lead to others, as each says of itself
	Target      []uint32          `json:"target" yaml:"target"` // who shall have them; empty: nothing moves
	Sets        []shardSet        `json:"sets" yaml:"sets"`     // those beside the first, of which all of the above tells
}

func newShardCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("shard", "See who leads and who is in sync, and change who leads and who has the shards", shardShow(f), shardSets(f), shardReplicas(f), shardMove(f), shardBalanced(f), shardElect(f))
}

// showShards writes one line for each node that has the shards, and one for each set of them if there are any beside the first.
func (f *controlFlags) showShards(cmd *cobra.Command, r *api.ShardStatus) error {
	all := func(list []uint32) []uint32 { return append([]uint32{}, list...) } // JSON has [] of none
	v := shardStatus{r.Asked, r.Shards, r.Leader, r.Epoch, r.Open, all(r.Replicas), all(r.InSync), all(r.Eligible), all(r.Alive), r.LeastInSync, make(map[uint32]uint64), each(r.Progress, nodeProgressOf),
		make(map[uint32]string), all(r.Target), each(r.Sets, shardSetOf)}
	for _, w := range r.Followers {
		v.Lag[w.Node] = w.Lag
	}
	for _, y := range r.Yields {
		v.Yields[y.Node] = y.Why
	}
	rows := [][]string{{"NODE", "ROLE", "IN SYNC", "ALIVE", "LAG", "PROGRESS"}}
	list, progress := slices.Clone(r.Replicas), make(map[uint32]string)
	for i := range v.Progress {
		p := &v.Progress[i]
		if progress[p.Node] = p.text(); !slices.Contains(list, p.Node) {
			list = append(list, p.Node)
		}
	}
	for _, id := range list {
		role, sync, alive, lag := "follows", "no", "no", ""
		switch {
		case !slices.Contains(r.Replicas, id):
			role = "joins"
		case id == r.Leader:
			role = "leads, epoch " + strconv.FormatUint(uint64(r.Epoch), 10)
		}
		if why := v.Yields[id]; why != "" {
			role += ", " + yieldsText(why)
		}
		if len(r.Target) > 0 && !slices.Contains(r.Target, id) {
			role += ", goes"
		}
		switch {
		case slices.Contains(r.InSync, id):
			sync = "yes"
		case slices.Contains(r.Eligible, id):
			sync = "no, lacks nothing"
		}
		if slices.Contains(r.Alive, id) {
			alive = "yes"
		}
		if n, ok := v.Lag[id]; ok {
			lag = strconv.FormatUint(n, 10)
		}
		rows = append(rows, []string{strconv.FormatUint(uint64(id), 10), role, sync, alive, lag, progress[id]})
	}
	if err := f.output.write(cmd.OutOrStdout(), &v, rows); err != nil || f.output != "table" {
		return err
	}
	if r.Leader == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "nobody leads, as far as node %d knows, and clients wait: another node leads within seconds, unless fewer than half of the nodes can be reached\n", r.Asked)
	}
	if len(v.Sets) == 0 {
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout())
	return f.output.write(cmd.OutOrStdout(), nil, setRows(each(setsOf(r), shardSetOf)))
}

// shardCall is a command that shows how the shards lie afterwards.
func shardCall(f *controlFlags, c *cobra.Command, do func(k *controlCall) (*api.ShardStatus, error)) *cobra.Command {
	c.Args = atMost(0)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.call(cmd, func(k *controlCall) error {
			r, err := do(k)
			if err != nil {
				return err
			}
			return f.showShards(cmd, r)
		})
	}
	f.output.add(c)
	return c
}

func shardShow(f *controlFlags) *cobra.Command {
	return shardCall(f, &cobra.Command{Use: "status", Short: "Show who leads the shards and who is in sync",
		Long: "Show who leads the shards and who is in sync. All shards of a set have one leader at a time. LAG is how many frames of the log a node lacks that follows, PROGRESS\n" +
			"how far one is that is not in sync, and how long it takes yet as it went lately. Both are known to the node that leads, which is asked for them. ROLE says also\n" +
			"which nodes leave the lead to others, and why: drained by sluice node drain, or for reasons of their own. Each is asked for that itself. Where sluice shard sets\n" +
			"has made other sets of shards, this is of the first, and a second table tells of each set."},
		func(k *controlCall) (*api.ShardStatus, error) {
			return ask(k, api.NewShardsClient(k).Status, &api.ShardStatusRequest{})
		})
}

func shardMove(f *controlFlags) *cobra.Command {
	var to, set uint32
	all, wait := false, false
	c := shardCall(f, &cobra.Command{Use: "move --to NODE", Short: "Have another node lead that is in sync", Example: "  sluice shard move --to 2\n  sluice shard move --to 2 --set 1"},
		func(k *controlCall) (*api.ShardStatus, error) {
			switch {
			case to == 0:
				return nil, misused("give --to: the node that is to lead")
			case all && k.cmd.Flags().Changed("set"):
				return nil, misused("--all moves each set: give one of --all and --set")
			case all:
				return k.moveAll(to, wait)
			}
			return k.move(set, to, wait)
		})
	addWait(c, &wait)
	c.Flags().Uint32Var(&to, "to", 0, "the node that is to lead")
	c.Flags().BoolVar(&all, "all", false, "lead all sets of shards; without it the first one, or that of --set")
	addSet(c, &set)
	_ = c.RegisterFlagCompletionFunc("to", cobra.NoFileCompletions)
	return c
}

func shardElect(f *controlFlags) *cobra.Command {
	r := &api.ElectUncleanRequest{}
	accept := false
	c := shardCall(f, &cobra.Command{Use: "elect --node NODE --accept-loss", Short: "Have a node lead that may lack what was acknowledged",
		Long: strings.TrimSpace(`
Have a node lead that may lack what was acknowledged, where no node that lacks nothing will come back. What was acknowledged and is on none but the nodes that are lost
is lost with them: messages, offsets, sessions. Nodes that have more than the new leader take that back, and are made anew from a copy of it where they cannot.`)},
		func(k *controlCall) (*api.ShardStatus, error) {
			if r.Node == 0 || !accept {
				return nil, misused("give --node and --accept-loss: what was acknowledged and is on lost nodes alone is lost")
			}
			if err := k.hasSet(r.Set); err != nil {
				return nil, err
			}
			return ask(k, api.NewShardsClient(k).ElectUnclean, r)
		})
	c.Flags().Uint32Var(&r.Node, "node", 0, "the node that is to lead")
	c.Flags().BoolVar(&accept, "accept-loss", false, "say that what may be lost may be lost")
	addSet(c, &r.Set)
	_ = c.RegisterFlagCompletionFunc("node", cobra.NoFileCompletions)
	return c
}

func nodeDrain(f *controlFlags) *cobra.Command {
	end, wait := false, false
	c := nodeChange(f, &cobra.Command{
		Use: "drain NODE", Short: "Have another node lead, and this one lead no more until it is started anew",
		Long: "Have another node lead, if this one does, and this one lead no more until it is started anew, or --end is given. A node that is stopped by SIGTERM does so\n" +
			"by itself.",
		Example: fmt.Sprintf("  sluice node drain %d", 2),
	}, func(k *controlCall, id uint32) (*api.Node, error) {
		n, err := ask(k, api.NewNodesClient(k).Drain, &api.DrainNodeRequest{Id: id, End: end})
		if !wait || end || err != nil && status.Code(err) != codes.DeadlineExceeded { // it drains, and leads yet
			return n, err
		}
		if err := k.awaitOtherLead(id); err != nil {
			return nil, err
		}
		return k.node(id)
	})
	addWait(c, &wait)
	c.Flags().BoolVar(&end, "end", false, "let the node lead again")
	return c
}
