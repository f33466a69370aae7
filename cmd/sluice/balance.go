package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

// shardBalance is a plan by which shards move, in every output.
type shardBalance struct {
	Balanced  bool         `json:"balanced" yaml:"balanced"`
	DryRun    bool         `json:"dry_run" yaml:"dry_run"`
	Leader    uint32       `json:"leader" yaml:"leader"`
	LeadMoves bool         `json:"lead_moves" yaml:"lead_moves"`
	Nodes     []shardPlace `json:"nodes" yaml:"nodes"`
	Sets      []setBalance `json:"sets" yaml:"sets"` // those beside the first, of which all of the above tells
}

// setBalance is the plan of a set beside the first.
type setBalance struct {
	Set       uint32       `json:"set" yaml:"set"`
	Balanced  bool         `json:"balanced" yaml:"balanced"`
	Leader    uint32       `json:"leader" yaml:"leader"`
	LeadMoves bool         `json:"lead_moves" yaml:"lead_moves"`
	Nodes     []shardPlace `json:"nodes" yaml:"nodes"`
}

func setBalanceOf(b *api.ShardSetBalance) setBalance {
	return setBalance{b.Number, b.Balanced, b.Leader, b.LeadMoves, each(b.Nodes, shardPlaceOf)}
}

// balancedAll says whether nothing of any set is to be moved, and nobody's lead.
func balancedAll(b *api.ShardBalance) bool {
	return b.GetBalanced() && !slices.ContainsFunc(b.GetSets(), func(set *api.ShardSetBalance) bool { return !set.Balanced || set.LeadMoves })
}

type shardPlace struct {
	Node  uint32 `json:"node" yaml:"node"`
	Rack  string `json:"rack" yaml:"rack"`
	Has   bool   `json:"has" yaml:"has"`
	Shall bool   `json:"shall" yaml:"shall"`
}

func shardPlaceOf(p *api.ShardPlace) shardPlace {
	return shardPlace{p.Node, p.Rack, p.Has, p.Shall}
}

// showBalance writes one line for each node that has the shards or shall have them, of each set if there are any beside the first.
func (f *controlFlags) showBalance(cmd *cobra.Command, r *api.ShardBalance, dryRun bool) error {
	v := shardBalance{r.Balanced, dryRun, r.Leader, r.LeadMoves, each(r.Nodes, shardPlaceOf), each(r.Sets, setBalanceOf)}
	rows := [][]string{{"NODE", "RACK", "SHARDS"}}
	var of []string
	if len(v.Sets) > 0 {
		rows[0], of = slices.Insert(rows[0], 0, "SET"), []string{"0"}
	}
	rows = append(rows, placeRows(of, v.Nodes, v.Leader, v.LeadMoves)...)
	for i := range v.Sets {
		set := &v.Sets[i]
		rows = append(rows, placeRows([]string{strconv.FormatUint(uint64(set.Set), 10)}, set.Nodes, set.Leader, set.LeadMoves)...)
	}
	return f.output.write(cmd.OutOrStdout(), &v, rows)
}

// placeRows are the lines of one set, of in front of each.
func placeRows(of []string, nodes []shardPlace, leader uint32, leadMoves bool) (rows [][]string) {
	for _, p := range nodes {
		what := "stay"
		switch {
		case !p.Shall:
			what = "go"
		case !p.Has:
			what = "come"
		}
		if p.Node == leader {
			what += ", leads"
			if leadMoves {
				what += " until then"
			}
		}
		rows = append(rows, append(slices.Clone(of), strconv.FormatUint(uint64(p.Node), 10), plain(p.Rack), what))
	}
	return rows
}

func shardBalanced(f *controlFlags) *cobra.Command {
	r := &api.BalanceShardsRequest{}
	wait, racks := false, true
	c := &cobra.Command{Use: "balance", Short: "Have shards lie in as many racks as there are, on nodes that are there", Args: atMost(0),
		Long: "Have the shards lie in as many racks as there are, as few of them in one rack as can be, and not on nodes that are away or drain, if others can have them: with as\n" +
			"few moves as that takes, none if they lie so. A node that comes gets what there is, at cluster.catchup_rate, and has the shards when it is in sync; then another one\n" +
			"goes, which hands the lead over before, if it leads. It shows which nodes come and go, and `sluice shard status` how far it is. Asked again it goes on, or decides\n" +
			"anew where nodes have come or gone since.",
		Example: "  sluice shard balance --dry-run\n  sluice shard balance --wait"}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if wait && r.DryRun {
			return misused("--wait waits for what --dry-run does not do: give one of them")
		}
		return f.call(cmd, func(k *controlCall) error {
			r.AnyRack = !racks
			b, err := ask(k, api.NewShardsClient(k).Balance, r)
			if err != nil {
				return err
			}
			if balancedAll(b) {
				fmt.Fprintln(cmd.ErrOrStderr(), "the shards are balanced: nothing moves")
			}
			if err := f.showBalance(cmd, b, r.DryRun); err != nil || !wait {
				return err
			}
			return k.awaitBalanced(r)
		})
	}
	addWait(c, &wait)
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "show what would come and go, and move nothing")
	c.Flags().BoolVar(&racks, "rack-aware", true, "racks count")
	f.output.add(c)
	return c
}

// awaitBalanced waits until nothing is to be moved. What has changed since is decided anew.
func (k *controlCall) awaitBalanced(r *api.BalanceShardsRequest) error {
	return newWait(k.cmd).until(k.cmd.Context(), func() (bool, string, error) {
		s, err := k.shards()
		if err != nil {
			return false, "", err
		}
		for _, set := range setsOf(s) {
			if len(set.Target) > 0 {
				return false, movesText(set, len(s.Sets) > 0), nil
			}
		}
		b, err := ask(k, api.NewShardsClient(k).Balance, r)
		return err == nil && balancedAll(b), toMoveText(b), err
	})
}

// toMoveText says of which sets shards are to be moved yet, or the lead. Without any beside the first it names none.
func toMoveText(b *api.ShardBalance) string {
	var shards, leads []uint32
	if !b.GetBalanced() {
		shards = append(shards, 0)
	}
	for _, set := range b.GetSets() {
		switch {
		case !set.Balanced:
			shards = append(shards, set.Number)
		case set.LeadMoves:
			leads = append(leads, set.Number)
		}
	}
	named := func(what string, sets []uint32) string {
		if len(b.GetSets()) == 0 {
			return what
		}
		of := " of set "
		if len(sets) > 1 {
			of = " of sets "
		}
		return what + of + nodesText(sets)
	}
	var parts []string
	if len(shards) > 0 {
		parts = append(parts, named("shards", shards)+" are to be moved")
	}
	switch {
	case len(leads) > 1:
		parts = append(parts, named("leads", leads)+" are to be moved")
	case len(leads) > 0:
		parts = append(parts, named("the lead", leads)+" is to be moved")
	}
	return strings.Join(parts, ", ")
}

// movesText says who comes and who goes, of which set if there are several, and how far the first one is.
func movesText(s *api.ShardSet, several bool) string {
	far := ""
	for _, id := range s.Target {
		i := slices.IndexFunc(s.Progress, func(p *api.NodeProgress) bool { return p.Node == id })
		if i >= 0 && !slices.Contains(s.Replicas, id) {
			row := nodeProgressOf(s.Progress[i])
			far = fmt.Sprintf(": node %d %s", id, row.text())
			break
		}
	}
	of := ""
	if several {
		of = fmt.Sprintf("of set %d ", s.Number)
	}
	return "nodes " + of + comeAndGo(s.Replicas, s.Target) + far
}

// comeAndGo says who is to come and who to go; empty: nothing moves.
func comeAndGo(replicas, target []uint32) string {
	if len(target) == 0 {
		return ""
	}
	var parts []string
	if come := slices.DeleteFunc(slices.Clone(target), func(id uint32) bool { return slices.Contains(replicas, id) }); len(come) > 0 {
		parts = append(parts, "to come: "+nodesText(come))
	}
	if gone := slices.DeleteFunc(slices.Clone(replicas), func(id uint32) bool { return slices.Contains(target, id) }); len(gone) > 0 {
		parts = append(parts, "to go: "+nodesText(gone))
	}
	return strings.Join(parts, ", ")
}
