package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newSessionCommand) }

// sessionRow is a kept session in every output.
type sessionRow struct {
	ID            string  `json:"id" yaml:"id"`
	Connected     bool    `json:"connected" yaml:"connected"`
	ExpirySeconds float64 `json:"expiry_seconds" yaml:"expiry_seconds"` // -1: never
	Ends          string  `json:"ends" yaml:"ends"`
	Subscriptions int64   `json:"subscriptions" yaml:"subscriptions"`
	Queued        int64   `json:"queued" yaml:"queued"`
	QueuedBytes   int64   `json:"queued_bytes" yaml:"queued_bytes"`
	Oldest        string  `json:"oldest" yaml:"oldest"`
	InFlight      int64   `json:"in_flight" yaml:"in_flight"`
	Received      int64   `json:"received" yaml:"received"`
	Will          bool    `json:"will" yaml:"will"`
}

func sessionRowOf(s *api.Session) sessionRow {
	expiry := -1.0
	if s.ExpiryMs >= 0 {
		expiry = (time.Duration(s.ExpiryMs) * time.Millisecond).Seconds()
	}
	return sessionRow{s.Id, s.Connected, expiry, stamp(s.EndsMs), s.Subscriptions, s.Queued, s.QueuedBytes, stamp(s.OldestMs), s.InFlight, s.Received, s.Will}
}

func (s *sessionRow) state() string {
	if s.Connected {
		return "connected"
	}
	return "absent"
}

func (s *sessionRow) expiry() string {
	if s.ExpirySeconds < 0 {
		return "never"
	}
	return age(time.Duration(s.ExpirySeconds * float64(time.Second)))
}

func (s *sessionRow) cells() []string {
	return []string{s.ID, s.state(), number(s.Subscriptions), number(s.Queued), sizeText(s.QueuedBytes), orDash(s.Oldest), number(s.InFlight), s.expiry(), orDash(s.Ends)}
}

// lines describe it.
func (s *sessionRow) lines() [][]string {
	return [][]string{{"session", plain(s.ID)}, {"state", s.state()}, {"expiry", s.expiry()}, {"ends", orDash(s.Ends)},
		{"queued", number(s.Queued) + ", " + sizeText(s.QueuedBytes)}, {"oldest since", orDash(s.Oldest)}, {"in flight", number(s.InFlight)},
		{"unreleased", number(s.Received)}, {"will", strconv.FormatBool(s.Will)}, {"subscriptions", number(s.Subscriptions)}}
}

// sessionView is what describe prints.
type sessionView struct {
	sessionRow `yaml:",inline"`
	Positions  []positionRow     `json:"positions" yaml:"positions"`
	List       []subscriptionRow `json:"subscription_list" yaml:"subscription_list"`
}

type positionRow struct {
	Shard        uint32 `json:"shard" yaml:"shard"`
	Acknowledged uint64 `json:"acknowledged" yaml:"acknowledged"`
	Queued       int64  `json:"queued" yaml:"queued"`
	Behind       int64  `json:"behind" yaml:"behind"`
}

func newSessionCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("session", "List, describe and delete MQTT sessions that outlive their connections", sessionList(f), sessionDescribe(f), sessionDelete(f))
}

func sessionList(f *controlFlags) *cobra.Command {
	r := &api.ListSessionsRequest{}
	var limit int
	var absent, connected bool
	c := &cobra.Command{
		Use: "list", Short: "List kept sessions with what waits for them", Args: atMost(0),
		Long: "List kept sessions with what waits for them in the log. A message that several of a session's filters match counts for each; what a connected\n" +
			"client has acknowledged counts until its position is stored, once a second.",
		Example: "  sluice session list --absent --queued 1000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case absent && connected:
				return misused("give --absent or --connected, not both")
			case r.Queued < 0:
				return misused("--queued %d is negative", r.Queued)
			case absent:
				r.State = api.ListSessionsRequest_STATE_ABSENT
			case connected:
				r.State = api.ListSessionsRequest_STATE_CONNECTED
			}
			return f.call(cmd, func(k *controlCall) error {
				l := listing[sessionRow]{w: cmd.OutOrStdout(), o: f.output, row: (*sessionRow).cells, limit: limit,
					header: []string{"ID", "STATE", "SUBSCRIPTIONS", "QUEUED", "SIZE", "OLDEST SINCE", "IN FLIGHT", "EXPIRY", "ENDS"}}
				return l.pages(func(token []byte) ([]sessionRow, []byte, error) {
					r.PageToken = token
					resp, err := ask(k, api.NewSessionsClient(k).List, r)
					if err != nil {
						return nil, nil, err
					}
					return each(resp.Sessions, sessionRowOf), resp.NextPageToken, nil
				})
			})
		},
	}
	listFlags(c, f, &r.Contains, &limit, "sessions whose id holds this text")
	c.Flags().BoolVar(&absent, "absent", false, "only those whose client is away")
	c.Flags().BoolVar(&connected, "connected", false, "only those whose client is there")
	c.Flags().Int64Var(&r.Queued, "queued", 0, "only those with at least so many messages queued")
	return c
}

func sessionDescribe(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "describe CLIENT", Short: "Show a kept session with its positions and subscriptions", Args: exactly("CLIENT"),
		Long: "Show a kept session: what waits for it, how far it has come in each shard of the log, and what it is subscribed to. BEHIND counts the shard's\n" +
			"records since then, whoever they are for.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				d, err := ask(k, api.NewSessionsClient(k).Describe, &api.DescribeSessionRequest{Id: args[0]})
				if err != nil {
					return err
				}
				v := sessionView{sessionRow: sessionRowOf(d.Session), List: each(d.Subscriptions, subscriptionRowOf),
					Positions: each(d.Positions, func(p *api.SessionPosition) positionRow {
						return positionRow{p.Shard, p.Acknowledged, p.Queued, p.Behind}
					})}
				if err := f.output.write(cmd.OutOrStdout(), &v, v.lines()); err != nil || f.output != "table" {
					return err
				}
				if len(v.Positions) > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
					table := [][]string{{"SHARD", "ACKNOWLEDGED", "QUEUED", "BEHIND"}}
					for _, p := range v.Positions {
						table = append(table, []string{number(int64(p.Shard)), number(p.Acknowledged), number(p.Queued), number(p.Behind)})
					}
					if err := f.output.write(cmd.OutOrStdout(), nil, table); err != nil {
						return err
					}
				}
				return f.subscriptionTable(cmd, v.List)
			})
		},
	}
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeSessions)
	return c
}

func sessionDelete(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "delete CLIENT...", Short: "End kept sessions, with what waits for them", Args: someOf("CLIENT"),
		Long: "End kept sessions with their subscriptions and all that waits for them. A client that is connected is told, and ended; it may come again, to a\n" +
			"new session.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.call(cmd, func(k *controlCall) error {
				return f.deleteAll(cmd, "session", args, func(id string) error {
					_, err := ask(k, api.NewSessionsClient(k).Delete, &api.DeleteSessionRequest{Id: id})
					return err
				})
			})
		},
	}
	c.ValidArgsFunction = f.complete(0, completeSessions)
	return c
}
