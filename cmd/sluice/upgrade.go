package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

// levelRow is how far an upgrade is, in every output.
type levelRow struct {
	Level uint32    `json:"level" yaml:"level"`
	All   uint32    `json:"level_of_all" yaml:"level_of_all"`
	Held  bool      `json:"held" yaml:"held"`
	Nodes []nodeRow `json:"nodes" yaml:"nodes"`
}

func (r *levelRow) table() [][]string {
	held := "no"
	if r.Held {
		held = "yes"
	}
	var behind []string // what keeps the level from being raised to what others can do
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.State != "removed" && n.Level == r.All && r.most() > r.All {
			behind = append(behind, strconv.FormatUint(uint64(n.ID), 10))
		}
	}
	return [][]string{{"LEVEL", "ALL CAN DO", "HELD", "OLDER NODES"}, {strconv.FormatUint(uint64(r.Level), 10), strconv.FormatUint(uint64(r.All), 10), held, strings.Join(behind, ",")}}
}

func (r *levelRow) most() (level uint32) {
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.State != "removed" {
			level = max(level, n.Level)
		}
	}
	return level
}

func nodeUpgrade(f *controlFlags) *cobra.Command {
	var hold, finalize bool
	c := &cobra.Command{
		Use: "upgrade", Short: "See the feature level of the cluster, hold it, or have it raised", Args: atMost(0),
		Long: strings.TrimSpace(`
See the feature level of the cluster and what all of its nodes can do. When all can do more, the level is raised by itself, and nodes with the program before are refused
from then on. With --hold, before the first node is upgraded, it stays: any node may go back to the program before until --finalize raises it. There is no way back from that.`),
		Example: "  sluice node upgrade --hold\n  sluice node upgrade --finalize",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if hold && finalize {
				return misused("give --hold or --finalize, not both")
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := func() (*api.ListNodesResponse, error) {
					if hold || finalize {
						return ask(k, api.NewNodesClient(k).Hold, &api.HoldLevelRequest{End: finalize})
					}
					return ask(k, api.NewNodesClient(k).List, &api.ListNodesRequest{})
				}()
				if err != nil {
					return err
				}
				v := levelRow{r.Level, r.LevelOfAll, r.Held, each(r.Nodes, nodeRowOf)}
				return f.output.write(cmd.OutOrStdout(), &v, v.table())
			})
		},
	}
	c.Flags().BoolVar(&hold, "hold", false, "keep the level as it is, whatever all nodes can do")
	c.Flags().BoolVar(&finalize, "finalize", false, "raise the level to what all nodes can do, and hold it no more")
	f.output.add(c)
	return c
}
