package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newTenantCommand) }

// tenantHeader is the metadata that names the tenant of a call.
const tenantHeader = "sluice-tenant"

// ofTenant names the tenant of each call.
type ofTenant string

// GetRequestMetadata gives the header.
func (o ofTenant) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{tenantHeader: string(o)}, nil
}

// RequireTransportSecurity is no: it is no secret.
func (ofTenant) RequireTransportSecurity() bool { return false }

// addTenant adds the flag that names the tenant that a group's commands are about.
func (f *controlFlags) addTenant(c *cobra.Command) {
	c.PersistentFlags().StringVar(&f.tenant, "tenant", "", "the tenant whose things are meant (default that of the token, or the default tenant)")
	_ = c.RegisterFlagCompletionFunc("tenant", func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		whole := *f
		whole.tenant = ""
		return whole.complete(0, completeTenants)(cmd, args, typed)
	})
}

// tenantGroup is group for commands about what is one tenant's.
func (f *controlFlags) tenantGroup(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := f.group(use, short, subs...)
	f.addTenant(c)
	return c
}

func completeTenants(ctx context.Context, k *controlCall, _ string) ([]string, error) {
	r, err := api.NewTenantsClient(k).List(ctx, &api.ListTenantsRequest{})
	return each(r.GetTenants(), (*api.Tenant).GetName), err
}

// tenantRow is a tenant in every output.
type tenantRow struct {
	Name     string             `json:"name" yaml:"name"`
	Number   uint32             `json:"number" yaml:"number"`
	Disabled bool               `json:"disabled" yaml:"disabled"`
	Limits   map[string]float64 `json:"limits" yaml:"limits"`
	Use      *tenantUse         `json:"use,omitempty" yaml:"use,omitempty"`
}

// tenantUse is what a tenant has.
type tenantUse struct {
	Connections int64 `json:"connections" yaml:"connections"`
	Topics      int64 `json:"topics" yaml:"topics"`
	Sessions    int64 `json:"sessions" yaml:"sessions"`
	Retained    int64 `json:"retained" yaml:"retained"`
	Users       int64 `json:"users" yaml:"users"`
	Rules       int64 `json:"rules" yaml:"rules"`
	Quotas      int64 `json:"quotas" yaml:"quotas"`
}

func tenantRowOf(t *api.Tenant) tenantRow {
	row := tenantRow{Name: t.Name, Number: t.Number, Disabled: t.Disabled, Limits: t.Limits}
	if row.Limits == nil {
		row.Limits = map[string]float64{}
	}
	if u := t.Use; u != nil {
		row.Use = &tenantUse{u.Connections, u.Topics, u.Sessions, u.Retained, u.Users, u.Rules, u.Quotas}
	}
	return row
}

// limits are the limits for a cell.
func (t *tenantRow) limits() string {
	var list []string
	for k, v := range t.Limits {
		list = append(list, k+"="+strconv.FormatFloat(v, 'f', -1, 64))
	}
	slices.Sort(list)
	return orDash(strings.Join(list, " "))
}

func (t *tenantRow) state() string {
	return map[bool]string{true: "disabled", false: "enabled"}[t.Disabled]
}

var tenantColumns = []string{"TENANT", "NUMBER", "STATE", "CONNECTIONS", "TOPICS", "SESSIONS", "RETAINED", "USERS", "LIMITS"}

func (t *tenantRow) cells() []string {
	u := t.Use
	if u == nil {
		u = &tenantUse{}
	}
	return []string{t.Name, number(int64(t.Number)), t.state(), number(u.Connections), number(u.Topics), number(u.Sessions), number(u.Retained), number(u.Users), t.limits()}
}

// tenantLimits are the flags of limits, with their names in the catalog.
var tenantLimits = []struct{ flag, name, usage string }{
	{"connections", "connections", "connections at once, of MQTT and Kafka"},
	{"connect-rate", "connect_rate", "connects in a second"},
	{"messages-in", "messages_in", "MQTT messages in a second that clients publish"},
	{"messages-out", "messages_out", "MQTT messages in a second that are delivered"},
	{"bytes-in", "bytes_in", "bytes in a second that are published and produced, such as 1MiB"},
	{"bytes-out", "bytes_out", "bytes in a second that are delivered and fetched, such as 10MiB"},
	{"topics", "topics", "Kafka topics"},
	{"sessions", "sessions", "MQTT sessions that are kept"},
	{"retained", "retained", "retained messages"},
}

// noLimit takes a limit away.
const noLimit = "none"

// tenantFlags are the limits of the command line, in the order of tenantLimits.
type tenantFlags struct{ values []string }

func newTenantCommand() *cobra.Command {
	f := &controlFlags{}
	return f.group("tenant", "Add, list, show, change and remove tenants: name spaces that do not meet", tenantAdd(f), tenantList(f), tenantShow(f), tenantSet(f), tenantRemove(f))
}

func (t *tenantFlags) add(c *cobra.Command, none string) {
	t.values = make([]string, len(tenantLimits))
	for i, l := range tenantLimits {
		c.Flags().StringVar(&t.values[i], l.flag, "", l.usage+none)
		_ = c.RegisterFlagCompletionFunc(l.flag, cobra.NoFileCompletions)
	}
}

// read reads the limits that are given, and the names of those that are to be taken away.
func (t *tenantFlags) read(cmd *cobra.Command, none bool) (limits map[string]float64, remove []string, err error) {
	limits = make(map[string]float64)
	for i, l := range tenantLimits {
		text := t.values[i]
		switch {
		case !cmd.Flags().Changed(l.flag):
		case text == noLimit && none:
			remove = append(remove, l.name)
		case strings.HasPrefix(l.name, "bytes_"):
			n, err := config.ParseSize(text)
			if err != nil {
				return nil, nil, misused("--%s: %w", l.flag, err)
			}
			limits[l.name] = float64(n)
		default:
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, nil, misused("--%s: want a number, found %q", l.flag, text)
			}
			limits[l.name] = v
		}
	}
	return limits, remove, nil
}

// changedTenant shows a tenant that was changed.
func (f *controlFlags) changedTenant(cmd *cobra.Command, t *api.Tenant) error {
	row := tenantRowOf(t)
	return f.output.write(cmd.OutOrStdout(), &row, [][]string{{"TENANT", "NUMBER", "STATE", "LIMITS"}, {row.Name, number(int64(row.Number)), row.state(), row.limits()}})
}

func tenantAdd(f *controlFlags) *cobra.Command {
	t := &tenantFlags{}
	var disabled bool
	c := &cobra.Command{
		Use: "add TENANT", Short: "Add a tenant", Args: exactly("TENANT"),
		Long: "Add a tenant: a name space of its own for topics, client ids, groups and retained messages, with users, rules and quotas of its own. Limits count for all of its\n" +
			"clients together; without one nothing but the node bounds them. `sluice user add --tenant` adds a user to it.",
		Example: "  sluice tenant add acme --connections 1000 --messages-in 5000 --bytes-in 10MiB",
		RunE: func(cmd *cobra.Command, args []string) error {
			limits, _, err := t.read(cmd, false)
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewTenantsClient(k).Add, &api.AddTenantRequest{Name: args[0], Limits: limits, Disabled: disabled})
				if err != nil {
					return err
				}
				return f.changedTenant(cmd, r)
			})
		},
	}
	t.add(c, "")
	c.Flags().BoolVar(&disabled, "disabled", false, "keep its clients out until it is enabled")
	f.output.add(c)
	return c
}

func tenantList(f *controlFlags) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List tenants with what they have", Args: atMost(0),
		Long: "List tenants with what they have: connections, Kafka topics, kept MQTT sessions, retained messages, and users of the catalog. The default tenant is there always.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[tenantRow]{w: cmd.OutOrStdout(), o: f.output, header: tenantColumns, row: (*tenantRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]tenantRow, []byte, error) {
					r, err := ask(k, api.NewTenantsClient(k).List, &api.ListTenantsRequest{PageToken: token})
					return each(r.GetTenants(), tenantRowOf), r.GetNextPageToken(), err
				})
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 0, "end after so many rows; 0: all")
	f.output.add(c)
	return c
}

func tenantShow(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "show TENANT", Short: "Show a tenant's limits and what it has", Args: exactly("TENANT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewTenantsClient(k).Describe, &api.DescribeTenantRequest{Name: args[0]})
				if err != nil {
					return err
				}
				row := tenantRowOf(r)
				return f.output.write(cmd.OutOrStdout(), &row, row.rows())
			})
		},
	}
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeTenants)
	return c
}

// rows have a line for each number, with the limit that is for it.
func (t *tenantRow) rows() [][]string {
	rows := [][]string{{"TENANT", t.Name}, {"NUMBER", number(int64(t.Number))}, {"STATE", t.state()}, {}, {"", "HAS", "LIMIT"}}
	u := t.Use
	if u == nil {
		u = &tenantUse{}
	}
	has := map[string]int64{"connections": u.Connections, "topics": u.Topics, "sessions": u.Sessions, "retained": u.Retained}
	for _, l := range tenantLimits {
		now, most := "-", "-"
		if n, counted := has[l.name]; counted {
			now = number(n)
		}
		if v, set := t.Limits[l.name]; set {
			most = strconv.FormatFloat(v, 'f', -1, 64)
		}
		rows = append(rows, []string{l.name, now, most})
	}
	for _, e := range []struct {
		name string
		n    int64
	}{{"users", u.Users}, {"rules", u.Rules}, {"quotas", u.Quotas}} {
		rows = append(rows, []string{e.name, number(e.n), "-"})
	}
	return rows
}

func tenantSet(f *controlFlags) *cobra.Command {
	t := &tenantFlags{}
	var enable, disable bool
	c := &cobra.Command{
		Use: "set TENANT", Short: "Set limits of a tenant, and keep its clients out or let them in", Args: exactly("TENANT"),
		Long:    "Set limits of a tenant; those that are not named stay, and " + noLimit + " takes one away. --disable closes its clients and keeps them out, until --enable.",
		Example: "  sluice tenant set acme --connections 2000 --messages-in none\n  sluice tenant set acme --disable",
		RunE: func(cmd *cobra.Command, args []string) error {
			limits, remove, err := t.read(cmd, true)
			switch {
			case err != nil:
				return err
			case enable && disable:
				return misused("give --enable or --disable, not both")
			}
			r := &api.SetTenantRequest{Name: args[0], Limits: limits, Remove: remove}
			if enable || disable {
				r.Disabled = &disable
			}
			return f.call(cmd, func(k *controlCall) error {
				now, err := ask(k, api.NewTenantsClient(k).Set, r)
				if err != nil {
					return err
				}
				return f.changedTenant(cmd, now)
			})
		},
	}
	t.add(c, ", or "+noLimit)
	c.Flags().BoolVar(&disable, "disable", false, "close its clients, and keep them out")
	c.Flags().BoolVar(&enable, "enable", false, "let its clients in again")
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeTenants)
	return c
}

func tenantRemove(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "remove TENANT", Short: "Remove a tenant that is empty", Args: exactly("TENANT"),
		Long: "Remove a tenant that has no users, rules, quotas, Kafka topics, kept sessions and retained messages any more; what is in the way is named. Clients that are left are closed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				if _, err := ask(k, api.NewTenantsClient(k).Remove, &api.RemoveTenantRequest{Name: args[0]}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "removed tenant %s\n", plain(args[0]))
				return err
			})
		},
	}
	c.ValidArgsFunction = f.complete(1, completeTenants)
	return c
}
