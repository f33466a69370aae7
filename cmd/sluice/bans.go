package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newBanCommand) }

// banRow is a ban in every output: one of the first three is set.
type banRow struct {
	ClientID string `json:"client_id" yaml:"client_id"`
	User     string `json:"user" yaml:"user"`
	Address  string `json:"address" yaml:"address"`
	Since    string `json:"since" yaml:"since"`
	Until    string `json:"until" yaml:"until"`
	Source   string `json:"source" yaml:"source"`
	Reason   string `json:"reason" yaml:"reason"`
}

func banRowOf(b *api.Ban) banRow {
	t := b.GetTarget()
	return banRow{t.GetClientId(), t.GetUser(), t.GetAddress(), stamp(b.SinceMs), stamp(b.UntilMs), b.Source, b.Reason}
}

var banHeader = []string{"CLIENT ID", "USER", "ADDRESS", "SINCE", "UNTIL", "SOURCE", "REASON"}

func (b *banRow) cells() []string {
	until := b.Until
	if until == "" {
		until = "for ever"
	}
	return []string{orDash(plain(b.ClientID)), orDash(plain(b.User)), orDash(b.Address), b.Since, until, b.Source, orDash(plain(b.Reason))}
}

// banFlags say who is kept out.
type banFlags struct{ client, user, address string }

func (b *banFlags) add(c *cobra.Command, f *controlFlags, listed bool) {
	fs := c.Flags()
	fs.StringVar(&b.client, "client-id", "", "client id of MQTT")
	fs.StringVar(&b.user, "user", "", "user name; ANONYMOUS for clients without credentials")
	fs.StringVar(&b.address, "address", "", "IP address, or a prefix such as 10.0.0.0/8")
	clients, users, addresses := completeClients, completeUsers, cobra.CompletionFunc(cobra.NoFileCompletions)
	if listed {
		clients, users = completeBans((*api.BanTarget).GetClientId), completeBans((*api.BanTarget).GetUser)
		addresses = f.complete(0, completeBans((*api.BanTarget).GetAddress))
	}
	_ = c.RegisterFlagCompletionFunc("client-id", f.complete(0, clients))
	_ = c.RegisterFlagCompletionFunc("user", f.complete(0, users))
	_ = c.RegisterFlagCompletionFunc("address", addresses)
}

// completeBans offers what is banned.
func completeBans(part func(*api.BanTarget) string) func(context.Context, *controlCall, string) ([]string, error) {
	return func(ctx context.Context, k *controlCall, _ string) (list []string, err error) {
		r, err := api.NewBansClient(k).List(ctx, &api.ListBansRequest{})
		for _, b := range r.GetBans() {
			if name := part(b.GetTarget()); name != "" {
				list = append(list, name)
			}
		}
		return list, err
	}
}

func (b *banFlags) target() (*api.BanTarget, error) {
	said := 0
	for _, s := range []string{b.client, b.user, b.address} {
		if s != "" {
			said++
		}
	}
	if said != 1 {
		return nil, misused("give --client-id, --user or --address, one of them")
	}
	return &api.BanTarget{ClientId: b.client, User: b.user, Address: b.address}, nil
}

func newBanCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("ban", "Keep client ids, users and addresses out", banAdd(f), banList(f), banRemove(f))
}

// banEnd reads when a ban ends, in Unix milliseconds; 0: never.
func banEnd(span time.Duration, until string, now time.Time) (int64, error) {
	switch {
	case span != 0 && until != "":
		return 0, misused("give --for or --until, not both")
	case span < 0:
		return 0, misused("--for %v: want a time above 0", span)
	case span > 0:
		return now.Add(span).UnixMilli(), nil
	case until == "":
		return 0, nil
	}
	at, err := time.Parse(time.RFC3339, until)
	if err != nil || !at.After(now) {
		return 0, misused("--until %q: want a time to come, such as %s", until, now.Add(24*time.Hour).UTC().Format(time.RFC3339))
	}
	return at.UnixMilli(), nil
}

func banAdd(f *controlFlags) *cobra.Command {
	b := &banFlags{}
	var span time.Duration
	var until, reason string
	c := &cobra.Command{
		Use: "add", Short: "Ban a client id, a user or addresses, or change a ban", Args: atMost(0),
		Long: "Ban a client id of MQTT, a user, or an address or a prefix of addresses, by every protocol and on all nodes, for ever or until an end. Whoever is connected\n" +
			"and banned is closed. Connections from a banned address are closed before anything is read of them.",
		Example: "  sluice ban add --client-id pump-7 --for 24h --reason 'floods plant/#'\n  sluice ban add --user billing --until 2027-01-01T00:00:00Z\n" +
			"  sluice ban add --address 203.0.113.0/24",
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := b.target()
			if err != nil {
				return err
			}
			end, err := banEnd(span, until, time.Now())
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewBansClient(k).Add, &api.AddBanRequest{Target: t, UntilMs: end, Reason: reason})
				if err != nil {
					return err
				}
				row := banRowOf(r)
				return f.output.write(cmd.OutOrStdout(), &row, [][]string{banHeader, row.cells()})
			})
		},
	}
	b.add(c, f, false)
	c.Flags().DurationVar(&span, "for", 0, "how long, such as 90m or 24h (default for ever)")
	c.Flags().StringVar(&until, "until", "", "in place of --for: when it ends, such as 2027-01-01T00:00:00Z")
	c.Flags().StringVar(&reason, "reason", "", "why, for who reads the list")
	for _, name := range []string{"for", "until", "reason"} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	f.output.add(c)
	return c
}

func banList(f *controlFlags) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List bans that are not over", Args: atMost(0),
		Long: "List bans that are not over: those of the catalog, which count on all nodes, and those that the node that is asked has made for flapping (limits.flapping).",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[banRow]{w: cmd.OutOrStdout(), o: f.output, header: banHeader, row: (*banRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]banRow, []byte, error) {
					r, err := ask(k, api.NewBansClient(k).List, &api.ListBansRequest{PageToken: token})
					return each(r.GetBans(), banRowOf), r.GetNextPageToken(), err
				})
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 0, "end after so many rows; 0: all")
	f.output.add(c)
	return c
}

func banRemove(f *controlFlags) *cobra.Command {
	b := &banFlags{}
	c := &cobra.Command{
		Use: "remove", Short: "Take a ban away", Args: atMost(0),
		Example: "  sluice ban remove --client-id pump-7\n  sluice ban remove --address 203.0.113.0/24",
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := b.target()
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				if _, err := ask(k, api.NewBansClient(k).Remove, &api.RemoveBanRequest{Target: t}); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "removed")
				return err
			})
		},
	}
	b.add(c, f, true)
	return c
}
