package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newSubscriptionCommand) }

// subscriptionRow is a subscription in every output.
type subscriptionRow struct {
	Client            string `json:"client" yaml:"client"`
	Filter            string `json:"filter" yaml:"filter"`
	Group             string `json:"group" yaml:"group"`
	QoS               int32  `json:"qos" yaml:"qos"`
	NoLocal           bool   `json:"no_local" yaml:"no_local"`
	RetainAsPublished bool   `json:"retain_as_published" yaml:"retain_as_published"`
	ID                uint32 `json:"id" yaml:"id"`
	Kept              bool   `json:"kept" yaml:"kept"`
	Connected         bool   `json:"connected" yaml:"connected"`
}

func subscriptionRowOf(s *api.Subscription) subscriptionRow {
	return subscriptionRow{s.Client, s.Filter, s.Group, s.Qos, s.NoLocal, s.RetainAsPublished, s.Id, s.Kept, s.Connected}
}

var subscriptionHeader = []string{"CLIENT", "FILTER", "GROUP", "QOS", "OPTIONS", "STATE"}

func (s *subscriptionRow) cells() []string {
	var options []string
	if s.NoLocal {
		options = append(options, "no-local")
	}
	if s.RetainAsPublished {
		options = append(options, "retain-as-published")
	}
	if s.ID != 0 {
		options = append(options, "id="+number(int64(s.ID)))
	}
	state := map[bool]string{true: "connected", false: "absent"}[s.Connected]
	if s.Kept {
		state += ", kept"
	}
	return []string{s.Client, s.Filter, orDash(s.Group), number(s.QoS), orDash(strings.Join(options, " ")), state}
}

// subscriptionTable prints what a client is subscribed to, behind the rest.
func (f *controlFlags) subscriptionTable(cmd *cobra.Command, list []subscriptionRow) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout())
	table := [][]string{subscriptionHeader[1:5]}
	for i := range list {
		cells := list[i].cells()[1:5]
		for k := range cells {
			cells[k] = plain(cells[k])
		}
		table = append(table, cells)
	}
	return f.output.write(cmd.OutOrStdout(), nil, table)
}

func newSubscriptionCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("subscription", "List MQTT subscriptions, and find who gets what is published to a topic", subscriptionList(f), subscriptionFind(f))
}

func subscriptionList(f *controlFlags) *cobra.Command {
	r := &api.ListSubscriptionsRequest{}
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List subscriptions of all sessions", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				return f.subscriptions(cmd, limit, func(token []byte) ([]*api.Subscription, []byte, error) {
					r.PageToken = token
					resp, err := ask(k, api.NewSubscriptionsClient(k).List, r)
					return resp.GetSubscriptions(), resp.GetNextPageToken(), err
				})
			})
		},
	}
	listFlags(c, f, &r.Contains, &limit, "filters that hold this text")
	c.Flags().StringVar(&r.Client, "client", "", "only those of this client")
	_ = c.RegisterFlagCompletionFunc("client", f.complete(0, completeClients))
	return c
}

func (f *controlFlags) subscriptions(cmd *cobra.Command, limit int, next func(token []byte) ([]*api.Subscription, []byte, error)) error {
	l := listing[subscriptionRow]{w: cmd.OutOrStdout(), o: f.output, header: subscriptionHeader, row: (*subscriptionRow).cells, limit: limit}
	return l.pages(func(token []byte) ([]subscriptionRow, []byte, error) {
		list, more, err := next(token)
		return each(list, subscriptionRowOf), more, err
	})
}

func subscriptionFind(f *controlFlags) *cobra.Command {
	r := &api.FindSubscriptionsRequest{}
	var limit int
	c := &cobra.Command{
		Use: "find --topic TOPIC", Short: "Show who gets what is published to a topic", Args: atMost(0),
		Long: "Show the subscriptions that match a topic. Of those with a GROUP one member gets each message. Rules may still keep a message from a client:\n" +
			"`sluice acl check` says so.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Topic == "" {
				return misused("give --topic")
			}
			return f.call(cmd, func(k *controlCall) error {
				return f.subscriptions(cmd, limit, func(token []byte) ([]*api.Subscription, []byte, error) {
					r.PageToken = token
					resp, err := ask(k, api.NewSubscriptionsClient(k).Find, r)
					return resp.GetSubscriptions(), resp.GetNextPageToken(), err
				})
			})
		},
	}
	c.Flags().StringVarP(&r.Topic, "topic", "t", "", "MQTT topic, without wildcards")
	c.Flags().IntVar(&limit, "limit", 0, "end after so many rows; 0: all")
	_ = c.RegisterFlagCompletionFunc("topic", cobra.NoFileCompletions)
	f.output.add(c)
	return c
}
