package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newNodeCommand) }

// nodeRow is a node in every output.
type nodeRow struct {
	ID      uint32   `json:"id" yaml:"id"`
	State   string   `json:"state" yaml:"state"`
	Address string   `json:"address" yaml:"address"`
	Rack    string   `json:"rack" yaml:"rack"`
	Roles   []string `json:"roles" yaml:"roles"`
	Replica uint32   `json:"replica" yaml:"replica"`
	Level   uint32   `json:"level" yaml:"level"`
	Leader  bool     `json:"leader" yaml:"leader"`
	Yields  string   `json:"yields" yaml:"yields"` // why it leaves the lead to others, as it says itself; by the list and drain
	// Progress is towards having the shards, as the node that leads knows; it is shown by the list alone.
	Progress *nodeProgress `json:"progress,omitempty" yaml:"progress,omitempty"`
}

func nodeRowOf(n *api.Node) nodeRow {
	row := nodeRow{ID: n.Id, State: n.State, Address: n.Address, Rack: n.Rack, Roles: n.Roles, Replica: n.Replica, Level: n.Level, Leader: n.Leader, Yields: n.Yields}
	if n.Progress != nil {
		p := nodeProgressOf(n.Progress)
		row.Progress = &p
	}
	return row
}

var nodeHeader = []string{"NODE", "STATE", "ADDRESS", "RACK", "ROLES", "LEVEL", "CATALOG"}

func (r *nodeRow) cells() []string {
	catalog := "copy " + strconv.FormatUint(uint64(r.Replica), 10)
	if r.Leader {
		catalog += ", leads"
	}
	if r.State == "removed" {
		catalog = ""
	}
	state := r.State
	if r.Yields != "" && r.Yields != yieldsNoClients { // of that the roles tell
		state += ", " + yieldsText(r.Yields)
	}
	return []string{strconv.FormatUint(uint64(r.ID), 10), state, plain(r.Address), plain(r.Rack), strings.Join(r.Roles, ","), strconv.FormatUint(uint64(r.Level), 10), catalog}
}

// cellsAt is cells in a cluster at a level: what is more shows that the node can do that.
func (r *nodeRow) cellsAt(level uint32) []string {
	cells := r.cells()
	if r.Level > level && r.State != "removed" {
		cells[5] = fmt.Sprintf("%d, can do %d", level, r.Level)
	}
	return cells
}

func newNodeCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("node", "See and change the nodes of a cluster",
		nodeList(f), nodeAdd(f), nodeDrain(f), nodeRemove(f), nodeReplace(f), nodeUpgrade(f), nodeRecover())
}

func nodeList(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the nodes, those that were removed among them", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewNodesClient(k).List, &api.ListNodesRequest{})
				if err != nil {
					return err
				}
				v := struct {
					Cluster string    `json:"cluster" yaml:"cluster"`
					Asked   uint32    `json:"asked" yaml:"asked"`
					Level   uint32    `json:"level" yaml:"level"`
					Held    bool      `json:"held" yaml:"held"`
					Halted  string    `json:"halted" yaml:"halted"`
					Nodes   []nodeRow `json:"nodes" yaml:"nodes"`
				}{r.Cluster, r.Asked, r.Level, r.Held, r.Halted, each(r.Nodes, nodeRowOf)}
				rows := [][]string{nodeHeader}
				for i := range v.Nodes {
					rows = append(rows, v.Nodes[i].cellsAt(v.Level))
				}
				if err := f.output.write(cmd.OutOrStdout(), &v, rows); err != nil {
					return err
				}
				if r.Halted != "" {
					return errors.New("node " + strconv.FormatUint(uint64(r.Asked), 10) + " does not follow the catalog any more: " + r.Halted)
				}
				return nil
			})
		},
	}
	f.output.add(c)
	return c
}

// nodeNumber reads a node's number.
func nodeNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, misused("want a node's number from 1 to 65535, found %q", s)
	}
	return uint32(n), nil
}

// nodeChange is a command that changes one node and shows it.
func nodeChange(f *controlFlags, c *cobra.Command, do func(k *controlCall, id uint32) (*api.Node, error)) *cobra.Command {
	c.Args = exactly("NODE")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := nodeNumber(args[0])
		if err != nil {
			return err
		}
		return f.call(cmd, func(k *controlCall) error {
			n, err := do(k, id)
			if err != nil {
				return err
			}
			row := nodeRowOf(n)
			return f.output.write(cmd.OutOrStdout(), &row, [][]string{nodeHeader, row.cells()})
		})
	}
	f.output.add(c)
	return c
}

func nodeAdd(f *controlFlags) *cobra.Command {
	r := &api.AddNodeRequest{}
	wait := false
	c := nodeChange(f, &cobra.Command{
		Use: "add NODE --address HOST:PORT", Short: "Let a node join",
		Long: "Let a node join. Then start it with its number (node.id), an empty node.data, listeners.cluster, and cluster.peers with the address of any node that\n" +
			"is there. It gets the catalog and a vote by itself.",
		Example: "  sluice node add 2 --address 10.0.0.2:7000",
	}, func(k *controlCall, id uint32) (*api.Node, error) {
		if r.Address == "" {
			return nil, misused("give --address: where the other nodes reach it")
		}
		r.Id = id
		n, err := ask(k, api.NewNodesClient(k).Add, r)
		if wait && status.Code(err) == codes.AlreadyExists { // by this command, which was interrupted
			have, lerr := k.node(id)
			if lerr != nil || have == nil || have.Address != r.Address {
				return nil, err
			}
			err = nil
		}
		if err != nil || !wait {
			return n, err
		}
		if err := k.awaitNode(id); err != nil {
			return nil, err
		}
		return k.node(id)
	})
	addWait(c, &wait)
	c.Flags().StringVar(&r.Address, "address", "", "HOST:PORT of its listeners.cluster, as other nodes reach it")
	c.Flags().StringSliceVar(&r.Roles, "roles", nil, "what it does, its node.roles: meta, with journal (it keeps a copy of the shards) and broker (it takes clients) or one of them (default: all)")
	_ = c.RegisterFlagCompletionFunc("roles", cobra.FixedCompletions([]string{"broker,journal,meta", "broker,meta", "journal,meta", "meta"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().StringVar(&r.Rack, "rack", "", "where it stands; nodes of one rack may be lost together")
	_ = c.RegisterFlagCompletionFunc("address", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("rack", cobra.NoFileCompletions)
	return c
}

func nodeRemove(f *controlFlags) *cobra.Command {
	wait := false
	c := nodeChange(f, &cobra.Command{
		Use: "remove NODE", Short: "Take a node out for good; its number is not given again",
		Long: "Take a node out for good: its copy of the catalog counts no more, and its number is not given again. Ask another node than the one that goes, and stop\n" +
			"that one afterwards.",
	}, func(k *controlCall, id uint32) (*api.Node, error) {
		n, err := ask(k, api.NewNodesClient(k).Remove, &api.RemoveNodeRequest{Id: id})
		if err != nil || !wait {
			return n, err
		}
		if err := k.awaitGone(id); err != nil {
			return nil, err
		}
		return k.node(id)
	})
	addWait(c, &wait)
	return c
}

func nodeReplace(f *controlFlags) *cobra.Command {
	wait := false
	c := nodeChange(f, &cobra.Command{
		Use: "replace NODE", Short: "Let a node whose data are lost join again with an empty data directory",
		Long: "Let a node whose data are lost join again with an empty node.data, under its number. Its old copy of the catalog counts no more: should the old disk\n" +
			"come back, the other nodes refuse it. With --wait a node that joins, comes along or is in sync is not replaced once more.",
	}, func(k *controlCall, id uint32) (*api.Node, error) {
		if !wait {
			return ask(k, api.NewNodesClient(k).Replace, &api.ReplaceNodeRequest{Id: id})
		}
		n, err := k.node(id)
		if err != nil {
			return nil, err
		}
		if n.GetState() == "joining" || n.GetState() == "active" && n.GetProgress() != nil && n.Progress.Phase != "away" && n.Progress.Phase != phaseNone {
			fmt.Fprintf(k.cmd.ErrOrStderr(), "node %d has joined or comes along: it is not replaced once more\n", id)
		} else if _, err := ask(k, api.NewNodesClient(k).Replace, &api.ReplaceNodeRequest{Id: id}); err != nil {
			return nil, err
		}
		if err := k.awaitNode(id); err != nil {
			return nil, err
		}
		return k.node(id)
	})
	addWait(c, &wait)
	return c
}
