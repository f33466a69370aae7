package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newQuotaCommand) }

// quotaRow is a quota in every output. A part that is not said is empty; those that have none of their own are "<default>".
type quotaRow struct {
	User     string             `json:"user" yaml:"user"`
	ClientID string             `json:"client_id" yaml:"client_id"`
	Address  string             `json:"address" yaml:"address"`
	Bounds   map[string]float64 `json:"bounds" yaml:"bounds"`
}

// defaultName stands for those that have no quota of their own.
const defaultName = "<default>"

func quotaRowOf(q *api.Quota) quotaRow {
	part := func(p *api.QuotaPart) string {
		if p.GetDefault() {
			return defaultName
		}
		return p.GetName()
	}
	b := q.Bounds
	if b == nil {
		b = map[string]float64{}
	}
	return quotaRow{part(q.GetEntity().GetUser()), part(q.GetEntity().GetClientId()), part(q.GetEntity().GetAddress()), b}
}

var quotaHeader = []string{"USER", "CLIENT ID", "ADDRESS", "BOUNDS"}

func (q *quotaRow) cells() []string {
	var list []string
	for k, v := range q.Bounds {
		list = append(list, k+"="+strconv.FormatFloat(v, 'f', -1, 64))
	}
	slices.Sort(list)
	return []string{orDash(q.User), orDash(q.ClientID), orDash(q.Address), orDash(strings.Join(list, " "))}
}

// quotaFlags say whom a quota is for.
type quotaFlags struct{ user, client, address string }

func (q *quotaFlags) add(c *cobra.Command, f *controlFlags) {
	fs := c.Flags()
	fs.StringVar(&q.user, "user", "", "user name, or "+defaultName+" for users that have no quota of their own")
	fs.StringVar(&q.client, "client-id", "", "client id, of --user if that is given, or "+defaultName)
	fs.StringVar(&q.address, "address", "", "IP address, or "+defaultName+"; alone")
	_ = c.RegisterFlagCompletionFunc("user", f.complete(0, completeUsers))
	_ = c.RegisterFlagCompletionFunc("client-id", f.complete(0, completeClients))
	_ = c.RegisterFlagCompletionFunc("address", cobra.NoFileCompletions)
}

func (q *quotaFlags) entity() (*api.QuotaEntity, error) {
	part := func(s string) *api.QuotaPart {
		switch s {
		case "":
			return nil
		case defaultName:
			return &api.QuotaPart{Default: true}
		}
		return &api.QuotaPart{Name: s}
	}
	switch {
	case q.user+q.client+q.address == "":
		return nil, misused("give --user, --client-id or --address")
	case q.address != "" && q.user+q.client != "":
		return nil, misused("--address stands alone")
	}
	return &api.QuotaEntity{User: part(q.user), ClientId: part(q.client), Address: part(q.address)}, nil
}

// quotaBounds are the flags of bounds, with Kafka's keys.
var quotaBounds = []struct{ flag, key, usage string }{
	{"produce", "producer_byte_rate", "bytes in a second that are published, such as 1MiB"},
	{"consume", "consumer_byte_rate", "bytes in a second that are fetched or delivered, such as 10MiB"},
	{"request", "request_percentage", "percent of one loop's time"},
	{"mutations", "controller_mutation_rate", "partitions in a second that are made or deleted"},
	{"connections", "connection_creation_rate", "connections in a second; for --address"},
}

func newQuotaCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("quota", "Set, list and delete quotas of users, client ids and addresses", quotaSet(f), quotaList(f), quotaDelete(f))
}

func quotaSet(f *controlFlags) *cobra.Command {
	q := &quotaFlags{}
	values := make([]string, len(quotaBounds))
	c := &cobra.Command{
		Use: "set", Short: "Set bounds; those that are not named stay", Args: atMost(0),
		Long: "Set bounds for a user, a client id, a client id of a user, or an address, by Kafka's order of precedence. They count for every protocol, from\n" +
			"now on.",
		Example: "  sluice quota set --user billing --produce 1MiB --consume 10MiB\n  sluice quota set --user '<default>' --request 50\n" +
			"  sluice quota set --address 10.0.0.7 --connections 5",
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := q.entity()
			if err != nil {
				return err
			}
			bounds, err := readBounds(cmd, values)
			if err != nil {
				return err
			}
			return f.call(cmd, func(k *controlCall) error {
				r, err := ask(k, api.NewQuotasClient(k).Set, &api.SetQuotaRequest{Entity: e, Bounds: bounds})
				if err != nil {
					return err
				}
				row := quotaRowOf(r)
				return f.output.write(cmd.OutOrStdout(), &row, [][]string{quotaHeader, each(row.cells(), plain)})
			})
		},
	}
	q.add(c, f)
	for i, b := range quotaBounds {
		c.Flags().StringVar(&values[i], b.flag, "", b.usage+" ("+b.key+")")
		_ = c.RegisterFlagCompletionFunc(b.flag, cobra.NoFileCompletions)
	}
	f.output.add(c)
	return c
}

// readBounds reads the flags that are set: bytes may have units.
func readBounds(cmd *cobra.Command, values []string) (map[string]float64, error) {
	bounds := make(map[string]float64)
	for i, b := range quotaBounds {
		if !cmd.Flags().Changed(b.flag) {
			continue
		}
		if strings.HasSuffix(b.key, "byte_rate") {
			n, err := config.ParseSize(values[i])
			if err != nil {
				return nil, misused("--%s: %w", b.flag, err)
			}
			bounds[b.key] = float64(n)
			continue
		}
		v, err := strconv.ParseFloat(values[i], 64)
		if err != nil {
			return nil, misused("--%s: want a number, found %q", b.flag, values[i])
		}
		bounds[b.key] = v
	}
	if len(bounds) == 0 {
		return nil, misused("give a bound: --produce, --consume, --request, --mutations or --connections")
	}
	return bounds, nil
}

func quotaList(f *controlFlags) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List quotas", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[quotaRow]{w: cmd.OutOrStdout(), o: f.output, header: quotaHeader, row: (*quotaRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]quotaRow, []byte, error) {
					r, err := ask(k, api.NewQuotasClient(k).List, &api.ListQuotasRequest{PageToken: token})
					return each(r.GetQuotas(), quotaRowOf), r.GetNextPageToken(), err
				})
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 0, "end after so many rows; 0: all")
	f.output.add(c)
	return c
}

func quotaDelete(f *controlFlags) *cobra.Command {
	q := &quotaFlags{}
	only := make([]bool, len(quotaBounds))
	c := &cobra.Command{
		Use: "delete", Short: "Take bounds away: those named, or all", Args: atMost(0),
		Example: "  sluice quota delete --user billing --consume\n  sluice quota delete --address 10.0.0.7",
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := q.entity()
			if err != nil {
				return err
			}
			r := &api.DeleteQuotaRequest{Entity: e}
			for i, b := range quotaBounds {
				if only[i] {
					r.Keys = append(r.Keys, b.key)
				}
			}
			return f.call(cmd, func(k *controlCall) error {
				if _, err := ask(k, api.NewQuotasClient(k).Delete, r); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "deleted")
				return err
			})
		},
	}
	q.add(c, f)
	for i, b := range quotaBounds {
		c.Flags().BoolVar(&only[i], b.flag, false, "only "+b.key)
	}
	return c
}
