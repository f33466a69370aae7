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

// showBalance writes one line for each node that has the shards or shall have them.
func (f *controlFlags) showBalance(cmd *cobra.Command, r *api.ShardBalance, dryRun bool) error {
	v := shardBalance{r.Balanced, dryRun, r.Leader, r.LeadMoves, each(r.Nodes, shardPlaceOf)}
	rows := [][]string{{"NODE", "RACK", "SHARDS"}}
	for _, p := range v.Nodes {
		what := "stay"
		switch {
		case !p.Shall:
			what = "go"
		case !p.Has:
			what = "come"
		}
		if p.Node == r.Leader {
			what += ", leads"
			if r.LeadMoves {
				what += " until then"
			}
		}
		rows = append(rows, []string{strconv.FormatUint(uint64(p.Node), 10), plain(p.Rack), what})
	}
	return f.output.write(cmd.OutOrStdout(), &v, rows)
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
			if b.Balanced {
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
		if err != nil || len(s.Target) > 0 {
			return false, movesText(s), err
		}
		b, err := ask(k, api.NewShardsClient(k).Balance, r)
		return err == nil && b.Balanced, "shards are to be moved", err
	})
}

// movesText says who comes and who goes, and how far the first one is.
func movesText(s *api.ShardStatus) string {
	var come, gone []string
	far := ""
	for _, id := range s.GetTarget() {
		if !slices.Contains(s.Replicas, id) {
			come = append(come, strconv.FormatUint(uint64(id), 10))
			i := slices.IndexFunc(s.Progress, func(p *api.NodeProgress) bool { return p.Node == id })
			if i >= 0 && far == "" {
				row := nodeProgressOf(s.Progress[i])
				far = fmt.Sprintf(": node %d %s", id, row.text())
			}
		}
	}
	for _, id := range s.GetReplicas() {
		if !slices.Contains(s.Target, id) {
			gone = append(gone, strconv.FormatUint(uint64(id), 10))
		}
	}
	var parts []string
	if len(come) > 0 {
		parts = append(parts, "to come: "+strings.Join(come, " "))
	}
	if len(gone) > 0 {
		parts = append(parts, "to go: "+strings.Join(gone, " "))
	}
	return "nodes " + strings.Join(parts, ", ") + far
}
