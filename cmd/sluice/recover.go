package main

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/server/clustergroup"
)

// recoveredRow is a recovery in every output.
type recoveredRow struct {
	Node    uint32   `json:"node" yaml:"node"`
	Was     string   `json:"was" yaml:"was"`
	Cluster string   `json:"cluster" yaml:"cluster"` // empty: it was only looked at
	Epoch   uint32   `json:"epoch" yaml:"epoch"`
	InSync  []uint32 `json:"in_sync" yaml:"in_sync"`
	Whole   bool     `json:"whole" yaml:"whole"`
	Lost    []int    `json:"lost" yaml:"lost"` // sets of shards that are on none but other nodes
}

func nodeRecover() *cobra.Command {
	f := &startFlags{}
	accept := false
	var out output
	c := &cobra.Command{
		Use: "recover --data DIR --accept-loss", Short: "Have a node go on alone, as a new cluster, where the majority is lost for good", Args: atMost(0),
		Long: strings.TrimSpace(`
Have a node go on alone, as a new cluster, where the majority of the nodes is lost for good. The node does not run meanwhile; nothing is asked of others. It keeps its data,
and the users, rules, quotas, bindings and bans as it knows them; it leads all shards with what it has of them. What was acknowledged and is on none but the lost nodes is
lost with them. Nodes of the old cluster are refused by the new one: they join it anew, with an empty data directory, by sluice node add.
Without --accept-loss it says what the node knows, and changes nothing: choose the node that was in sync, with the highest epoch.`),
		Example: "  sluice node recover --data /var/lib/sluice --set node.id=2\n  sluice node recover -c sluice.yaml --accept-loss",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			loaded, err := f.load()
			if err != nil {
				return err
			}
			logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			s, err := clustergroup.Survivor(&loaded.Config)
			if err != nil {
				return err
			}
			row := recoveredRow{Node: uint32(s.Node), Was: s.Cluster, Cluster: s.Now, Epoch: s.Epoch, Whole: s.Whole, InSync: []uint32{}, Lost: append([]int{}, s.Lost...)}
			for _, id := range s.InSync {
				row.InSync = append(row.InSync, uint32(id))
			}
			if accept && s.Now == "" {
				if _, row.Cluster, err = clustergroup.Recover(&loaded.Config, logger); err != nil {
					return err
				}
			}
			return out.write(cmd.OutOrStdout(), &row, row.cells())
		},
	}
	f.addConfig(c)
	f.addData(c)
	c.Flags().BoolVar(&accept, "accept-loss", false, "say that what may be lost may be lost")
	out.add(c)
	return c
}

func (r *recoveredRow) cells() [][]string {
	var inSync []string
	for _, id := range r.InSync {
		inSync = append(inSync, strconv.FormatUint(uint64(id), 10))
	}
	has := "as far as it knows, all that was acknowledged"
	if !r.Whole {
		has = "it was not in sync: what was acknowledged since is missing"
	}
	if len(r.Lost) > 0 {
		has = fmt.Sprintf("nothing of the sets of shards %v, whose partitions begin anew, empty: look whether another node has them", r.Lost)
	}
	now := "unchanged: give --accept-loss to have the node go on alone"
	if r.Cluster != "" {
		now = fmt.Sprintf("cluster %s, of node %d alone, in epoch %d", r.Cluster, r.Node, r.Epoch+1)
	}
	return [][]string{{"NODE", strconv.FormatUint(uint64(r.Node), 10)}, {"WAS OF", r.Was}, {"EPOCH", strconv.FormatUint(uint64(r.Epoch), 10)},
		{"IN SYNC", strings.Join(inSync, " ")}, {"HAS", has}, {"NOW", now}}
}
