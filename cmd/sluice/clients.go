package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newClientCommand) }

// clientRow is a connection in every output.
type clientRow struct {
	ID             string `json:"id" yaml:"id"`
	Connection     uint64 `json:"connection" yaml:"connection"`
	User           string `json:"user" yaml:"user"`
	Source         string `json:"source" yaml:"source"`
	Remote         string `json:"remote" yaml:"remote"`
	Listener       string `json:"listener" yaml:"listener"`
	Protocol       string `json:"protocol" yaml:"protocol"`
	TLS            bool   `json:"tls" yaml:"tls"`
	Kept           bool   `json:"kept" yaml:"kept"`
	Since          string `json:"since" yaml:"since"`
	BytesIn        uint64 `json:"bytes_in" yaml:"bytes_in"`
	BytesOut       uint64 `json:"bytes_out" yaml:"bytes_out"`
	InFlight       int64  `json:"in_flight" yaml:"in_flight"`
	QueuedMessages int64  `json:"queued_messages" yaml:"queued_messages"`
	QueuedBytes    int64  `json:"queued_bytes" yaml:"queued_bytes"`
	Node           uint32 `json:"node,omitempty" yaml:"node,omitempty"`
	Prefix         string `json:"prefix,omitempty" yaml:"prefix,omitempty"`
	Authority      string `json:"authority,omitempty" yaml:"authority,omitempty"`
	ProxyID        string `json:"proxy_id,omitempty" yaml:"proxy_id,omitempty"` // in hexadecimal
}

func clientRowOf(c *api.Client) clientRow {
	return clientRow{c.Id, c.Connection, c.User, c.Source, c.Remote, c.Listener, c.Protocol, c.Tls, c.Kept, stamp(c.SinceMs), c.BytesIn, c.BytesOut,
		c.InFlight, c.QueuedMessages, c.QueuedBytes, c.Node, c.Prefix, c.Authority, hex.EncodeToString(c.ProxyId)}
}

// at is a connection's number, behind that of its node where there are several.
func (c *clientRow) at() string {
	if c.Node == 0 {
		return number(c.Connection)
	}
	return number(int64(c.Node)) + "/" + number(c.Connection)
}

// notAsked says on stderr what nodes are missing from an answer.
func notAsked(cmd *cobra.Command, nodes []uint32) {
	for _, n := range nodes {
		fmt.Fprintf(cmd.ErrOrStderr(), "node %d did not answer: what it has is missing\n", n)
	}
}

var clientHeader = []string{"ID", "CONNECTION", "USER", "ADDRESS", "PROTOCOL", "SINCE", "IN", "OUT", "IN FLIGHT", "QUEUED"}

func (c *clientRow) cells() []string {
	return []string{orDash(c.ID), c.at(), orDash(c.User), orDash(c.Remote), c.Protocol, c.Since, sizeText(int64(c.BytesIn)),
		sizeText(int64(c.BytesOut)), number(c.InFlight), number(c.QueuedMessages)}
}

// clientView is what describe prints.
type clientView struct {
	Connections   []clientRow       `json:"connections" yaml:"connections"`
	Session       *sessionRow       `json:"session" yaml:"session"`
	Subscriptions []subscriptionRow `json:"subscriptions" yaml:"subscriptions"`
}

func newClientCommand() *cobra.Command {
	f := &controlFlags{}
	return f.tenantGroup("client", "List, describe and kick connected clients of all protocols", clientList(f), clientDescribe(f), clientKick(f))
}

func clientList(f *controlFlags) *cobra.Command {
	r := &api.ListClientsRequest{}
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List connected clients", Args: atMost(0),
		Long: "List connected clients of all protocols. IN FLIGHT is messages sent and not acknowledged (MQTT), or requests not answered (Kafka); QUEUED is\n" +
			"messages that wait in memory for the connection: what waits in the log for a kept session is in `sluice session list`.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.call(cmd, func(k *controlCall) error {
				l := listing[clientRow]{w: cmd.OutOrStdout(), o: f.output, header: clientHeader, row: (*clientRow).cells, limit: limit}
				return l.pages(func(token []byte) ([]clientRow, []byte, error) {
					r.PageToken = token
					resp, err := ask(k, api.NewClientsClient(k).List, r)
					if err != nil {
						return nil, nil, err
					}
					notAsked(cmd, resp.NotAsked)
					return each(resp.Clients, clientRowOf), resp.NextPageToken, nil
				})
			})
		},
	}
	listFlags(c, f, &r.Contains, &limit, "clients whose id holds this text")
	c.Flags().StringVar(&r.User, "user", "", "only those of this user")
	c.Flags().StringVar(&r.Protocol, "protocol", "", "only those of this protocol: mqtt, kafka, \"mqtt 5\"")
	c.Flags().StringVar(&r.Remote, "address", "", "only those from this address")
	_ = c.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions([]string{"mqtt", "kafka"}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"user", "address"} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

// whose is a client, or one connection of a node; a node of 0 is the one that is asked.
type whose struct {
	id         string
	connection uint64
	node       uint32
}

// clientOrConnection reads CLIENT or --connection.
func clientOrConnection(c *cobra.Command) (read func(args []string) (whose, error)) {
	var connection string
	c.Flags().StringVar(&connection, "connection", "", "in place of CLIENT: one connection, by its number in `sluice client list`, NODE/NUMBER where there are several nodes")
	_ = c.RegisterFlagCompletionFunc("connection", cobra.NoFileCompletions)
	return func(args []string) (w whose, err error) {
		switch {
		case len(args) == 0 && connection == "":
			return w, misused("CLIENT is missing, or --connection")
		case len(args) == 1 && connection != "":
			return w, misused("give CLIENT or --connection, not both")
		case len(args) == 1:
			return whose{id: args[0]}, nil
		}
		w.node, w.connection, err = parseConnection(connection)
		return w, err
	}
}

// parseConnection reads NUMBER or NODE/NUMBER.
func parseConnection(text string) (node uint32, connection uint64, err error) {
	name, rest, ok := strings.Cut(text, "/")
	if ok {
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil || n == 0 {
			return 0, 0, misused("--connection %s: %q is no node's number", text, name)
		}
		node, text = uint32(n), rest
	}
	if connection, err = strconv.ParseUint(text, 10, 64); err != nil || connection == 0 {
		return 0, 0, misused("--connection: %q is no connection's number", text)
	}
	return node, connection, nil
}

func clientDescribe(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "describe CLIENT", Short: "Show a client's connections, its session and its subscriptions", Args: atMost(1),
	}
	read := clientOrConnection(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := read(args)
		if err != nil {
			return err
		}
		return f.call(cmd, func(k *controlCall) error {
			d, err := ask(k, api.NewClientsClient(k).Describe, &api.DescribeClientRequest{Id: w.id, Connection: w.connection, Node: w.node})
			if err != nil {
				return err
			}
			notAsked(cmd, d.NotAsked)
			return f.describeClient(cmd, d)
		})
	}
	f.output.add(c)
	c.ValidArgsFunction = f.complete(1, completeClients)
	return c
}

func (f *controlFlags) describeClient(cmd *cobra.Command, d *api.DescribeClientResponse) error {
	v := clientView{Connections: each(d.Clients, clientRowOf), Subscriptions: each(d.Subscriptions, subscriptionRowOf)}
	if d.Session != nil {
		s := sessionRowOf(d.Session)
		v.Session = &s
	}
	w := cmd.OutOrStdout()
	if f.output != "table" {
		return f.output.write(w, &v, nil)
	}
	for i := range v.Connections {
		c := &v.Connections[i]
		if i > 0 {
			fmt.Fprintln(w)
		}
		lines := [][]string{{"client", plain(orDash(c.ID))}, {"connection", c.at()}, {"user", plain(orDash(c.User))},
			{"came in by", orDash(c.Source)}, {"address", orDash(c.Remote)}, {"listener", c.Listener}, {"protocol", c.Protocol}, {"TLS", strconv.FormatBool(c.TLS)},
			{"session kept", strconv.FormatBool(c.Kept)}, {"since", c.Since}, {"bytes in", sizeText(int64(c.BytesIn))}, {"bytes out", sizeText(int64(c.BytesOut))},
			{"in flight", number(c.InFlight)}, {"queued", number(c.QueuedMessages) + ", " + sizeText(c.QueuedBytes)}}
		for _, more := range [][]string{{"topic prefix", plain(c.Prefix)}, {"host name", plain(c.Authority)}, {"proxy's id", c.ProxyID}} { // that few have
			if more[1] != "" {
				lines = append(lines, more)
			}
		}
		if err := f.output.write(w, nil, lines); err != nil {
			return err
		}
	}
	if v.Session != nil {
		fmt.Fprintln(w)
		if err := f.output.write(w, nil, v.Session.lines()); err != nil {
			return err
		}
	}
	return f.subscriptionTable(cmd, v.Subscriptions)
}

func clientKick(f *controlFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "kick CLIENT", Short: "End a client's connections", Args: atMost(1),
		Long: "End all connections of a client, or one by its number. An MQTT 5 client is told that an administrator has done it, and its will is published.\n" +
			"It may come again at once; `sluice user disable` keeps its user out.",
	}
	read := clientOrConnection(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := read(args)
		if err != nil {
			return err
		}
		return f.call(cmd, func(k *controlCall) error {
			r, err := ask(k, api.NewClientsClient(k).Kick, &api.KickClientRequest{Id: w.id, Connection: w.connection, Node: w.node})
			if err == nil {
				notAsked(cmd, r.NotAsked)
				fmt.Fprintf(cmd.OutOrStdout(), "kicked %d %s\n", r.Kicked, plural(r.Kicked, "connection"))
			}
			return err
		})
	}
	c.ValidArgsFunction = f.complete(1, completeClients)
	return c
}

func plural(n int64, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}
