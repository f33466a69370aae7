package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newExplainCommand) }

// explainFlags say what is asked about.
type explainFlags struct {
	*controlFlags
	client, message, topic string
	connection             string
	user, host             string // with topic: as whom and from where
	slow                   bool
}

func newExplainCommand() *cobra.Command {
	f := &explainFlags{controlFlags: &controlFlags{}}
	c := &cobra.Command{
		Use:   "explain (--client CLIENT | --topic TOPIC | --message VALUE | --slow)",
		Short: "Say what holds a client, where a topic's messages go, where one has gone, or who is slow",
		Args:  atMost(0),
		Long: "Say what a client's connections and its kept session hold and wait for, and what holds it now: the client itself (peer, window), the network,\n" +
			"a quota, memory, the log, the disk or its loop. Or what becomes of a message that is published to an MQTT topic now: who gets it by which filter,\n" +
			"whether it may be published (by --client as --user), what is retained, what it is bound to. The node answers from what it knows: nothing has to\n" +
			"be turned on before.\n\n" +
			"What has become of a message is remembered while `sluice trace` runs that is about it, and with mqtt.trace_property of those that have a user\n" +
			"property `trace`: until newer ones have taken the place, 4,096 events a loop.\n\n" +
			"--slow lists the MQTT clients that were late to acknowledge, the slowest first, once mqtt.slow_subscribers.threshold says what is late.",
		Example: "  sluice explain --client pump-17\n  sluice explain --topic orders/7 --client press --user ada\n" +
			"  sluice pub -t orders/7 -q 1 -m x -P trace=order-17; sluice explain --message order-17",
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.add(c)
	f.addTenant(c)
	f.output.add(c)
	fs := c.Flags()
	fs.StringVar(&f.client, "client", "", "the client with this id; with --topic, who publishes")
	fs.StringVar(&f.topic, "topic", "", "messages to this MQTT topic")
	fs.StringVar(&f.message, "message", "", "the messages whose user property trace has this value, or the one with this number in a trace: #17")
	fs.BoolVar(&f.slow, "slow", false, "the clients that were late to acknowledge messages")
	fs.StringVar(&f.connection, "connection", "", "in place of --client: one connection, by its number in `sluice client list`, NODE/NUMBER where there are several nodes")
	fs.StringVar(&f.user, "user", "", "with --topic: as whom it is published (default: as who comes in without credentials)")
	fs.StringVar(&f.host, "host", "", "with --topic: from which address (default: 127.0.0.1)")
	_ = c.RegisterFlagCompletionFunc("client", f.complete(0, completeClients))
	for _, name := range []string{"message", "connection", "topic", "user", "host"} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

// run finds out what is asked about.
func (f *explainFlags) run(cmd *cobra.Command) error {
	n := 0
	for _, set := range []bool{f.client != "" && f.topic == "", f.connection != "", f.message != "", f.topic != "", f.slow} {
		if set {
			n++
		}
	}
	switch {
	case n != 1:
		return misused("give --client, --connection, --topic, --message or --slow")
	case f.topic == "" && f.user+f.host != "":
		return misused("--user and --host go with --topic")
	}
	q := &api.ExplainClientRequest{Id: f.client}
	if f.connection != "" {
		var err error
		if q.Node, q.Connection, err = parseConnection(f.connection); err != nil {
			return err
		}
	}
	return f.call(cmd, func(k *controlCall) error {
		e := api.NewExplanationsClient(k)
		switch {
		case f.slow:
			r, err := ask(k, e.ListSlow, &api.ListSlowRequest{})
			if err != nil {
				return err
			}
			return f.explainSlow(cmd.OutOrStdout(), r)
		case f.message != "":
			return f.explainMessage(cmd, k, f.message)
		case f.topic != "":
			r, err := ask(k, e.ExplainTopic, &api.ExplainTopicRequest{Topic: f.topic, Client: f.client, User: f.user, Host: f.host})
			if err != nil {
				return err
			}
			return f.explainTopic(cmd.OutOrStdout(), f.topic, r)
		}
		r, err := ask(k, e.ExplainClient, q)
		if err != nil {
			return err
		}
		notAsked(cmd, r.NotAsked)
		return f.explainClient(cmd.OutOrStdout(), r)
	})
}

// explainMessage prints what is remembered of messages.
func (f *controlFlags) explainMessage(cmd *cobra.Command, k *controlCall, message string) error {
	r := &api.ExplainMessageRequest{Trace: message}
	if text, ok := strings.CutPrefix(message, "#"); ok {
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			r = &api.ExplainMessageRequest{Message: n}
		}
	}
	resp, err := ask(k, api.NewExplanationsClient(k).ExplainMessage, r)
	if err != nil {
		return err
	}
	v := struct {
		Messages int64      `json:"messages" yaml:"messages"`
		Events   []traceRow `json:"events" yaml:"events"`
	}{resp.Messages, each(resp.Events, traceRowOf)}
	w := cmd.OutOrStdout()
	if f.output != "table" {
		return f.output.write(w, &v, nil)
	}
	for i := range v.Events {
		if _, err := fmt.Fprintln(w, v.Events[i].line()); err != nil {
			return err
		}
	}
	return nil
}

// holderRow is what holds a client, in every output.
type holderRow struct {
	Kind string `json:"kind" yaml:"kind"`
	Why  string `json:"why" yaml:"why"`
}

func holderRowOf(h *api.Holder) holderRow { return holderRow{h.Kind, h.Why} }

// heldRow is a connection with what it holds and waits for. Durations are in seconds.
type heldRow struct {
	Client       clientRow        `json:"client" yaml:"client"`
	HeldBy       []holderRow      `json:"held_by" yaml:"held_by"`
	ReceiveMax   int64            `json:"receive_max" yaml:"receive_max"`
	Window       int64            `json:"window" yaml:"window"`
	Silent       float64          `json:"silent_seconds" yaml:"silent_seconds"`
	OutBytes     int64            `json:"out_bytes" yaml:"out_bytes"`
	OutBound     int64            `json:"out_bound" yaml:"out_bound"`
	Stalled      float64          `json:"stalled_seconds" yaml:"stalled_seconds"`
	Network      *networkRow      `json:"network" yaml:"network"`
	Unanswered   int64            `json:"unanswered" yaml:"unanswered"`
	NotRead      []string         `json:"not_read" yaml:"not_read"`
	SendOwed     float64          `json:"send_owed_seconds" yaml:"send_owed_seconds"`
	ReadOwed     float64          `json:"read_owed_seconds" yaml:"read_owed_seconds"`
	Commits      int64            `json:"commits" yaml:"commits"`
	Behind       bool             `json:"behind" yaml:"behind"`
	Resend       int64            `json:"resend" yaml:"resend"`
	Reading      int64            `json:"reading" yaml:"reading"`
	Granting     int64            `json:"granting" yaml:"granting"`
	Retained     int64            `json:"retained" yaml:"retained"`
	Replays      int64            `json:"replays" yaml:"replays"`
	Storage      string           `json:"storage" yaml:"storage"`
	Pressure     string           `json:"pressure" yaml:"pressure"`
	Dropped      map[string]int64 `json:"dropped" yaml:"dropped"`
	LoopDelay    float64          `json:"loop_delay_seconds" yaml:"loop_delay_seconds"`
	loop, silent time.Duration
}

// networkRow is what the node's kernel knows of the way to a client.
type networkRow struct {
	Unsent  int64   `json:"unsent" yaml:"unsent"`
	Full    bool    `json:"full" yaml:"full"`
	Repeats int32   `json:"repeats" yaml:"repeats"`
	RTT     float64 `json:"rtt_seconds" yaml:"rtt_seconds"`
}

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

func heldRowOf(e *api.ClientExplanation) heldRow {
	r := heldRow{Client: clientRowOf(e.Client), HeldBy: each(e.Holders, holderRowOf), ReceiveMax: e.ReceiveMax, Window: e.Window,
		Silent: micros(e.SilentUs).Seconds(), OutBytes: e.OutBytes, OutBound: e.OutBound, Stalled: micros(e.StalledUs).Seconds(), Unanswered: e.Unanswered,
		NotRead: append([]string{}, e.NotRead...), SendOwed: micros(e.SendOwedUs).Seconds(), ReadOwed: micros(e.ReadOwedUs).Seconds(), Commits: e.Commits,
		Behind: e.Behind, Resend: e.Resend, Reading: e.Reading, Granting: e.Granting, Retained: e.Retained, Replays: e.Replays, Storage: e.Storage,
		Pressure: e.Pressure, Dropped: counts(e.Dropped), LoopDelay: micros(e.LoopDelayUs).Seconds(), loop: micros(e.LoopDelayUs), silent: micros(e.SilentUs)}
	if n := e.Network; n != nil {
		r.Network = &networkRow{n.Unsent, n.Full, n.Repeats, micros(n.RttUs).Seconds()}
	}
	return r
}

// counts is m, and empty where there is none.
func counts(m map[string]int64) map[string]int64 {
	if m == nil {
		return map[string]int64{}
	}
	return m
}

// explainedView is what explain --client prints.
type explainedView struct {
	Connections    []heldRow        `json:"connections" yaml:"connections"`
	Session        *sessionRow      `json:"session" yaml:"session"`
	SessionDropped map[string]int64 `json:"session_dropped" yaml:"session_dropped"`
	HeldBy         []holderRow      `json:"held_by" yaml:"held_by"` // of a session whose client is not connected
}

func (f *controlFlags) explainClient(w io.Writer, r *api.ExplainClientResponse) error {
	v := explainedView{Connections: each(r.Connections, heldRowOf), SessionDropped: counts(r.SessionDropped), HeldBy: each(r.Holders, holderRowOf)}
	if r.Session != nil {
		s := sessionRowOf(r.Session)
		v.Session = &s
	}
	if f.output != "table" {
		return f.output.write(w, &v, nil)
	}
	for i := range v.Connections {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := f.output.write(w, nil, v.Connections[i].lines()); err != nil {
			return err
		}
	}
	if v.Session == nil {
		return nil
	}
	lines := append(heldBy(nil, v.HeldBy), v.Session.lines()...)
	if len(v.Connections) > 0 {
		fmt.Fprintln(w)
		lines = v.Session.lines()
	}
	return f.output.write(w, nil, append(lines, []string{"dropped", dropText(v.SessionDropped)}))
}

// heldBy names what holds a client, a line each.
func heldBy(lines [][]string, list []holderRow) [][]string {
	if len(list) == 0 {
		return append(lines, []string{"held by", "nothing"})
	}
	for i, h := range list {
		name := "held by"
		if i > 0 {
			name = "and by"
		}
		lines = append(lines, []string{name, h.Kind + ": " + plain(h.Why)})
	}
	return lines
}

// lines describe it: only what says something.
func (r *heldRow) lines() [][]string {
	c := &r.Client
	lines := append(heldBy(nil, r.HeldBy), []string{"client", plain(orDash(c.ID))}, []string{"connection", c.at() + ", " + c.Protocol + ", since " + c.Since},
		[]string{"from", orDash(c.Remote) + " by " + c.Listener + ", as " + plain(orDash(c.User)) + " (" + orDash(c.Source) + ")"})
	add := func(show bool, name, format string, args ...any) {
		if show {
			lines = append(lines, []string{name, fmt.Sprintf(format, args...)})
		}
	}
	add(r.Window > 0, "window", "%d of %d in flight, the client takes %d", c.InFlight, r.Window, r.ReceiveMax)
	add(r.Window == 0, "in flight", "%d", c.InFlight)
	add(r.Silent > 0, "acknowledged", "nothing for %s", age(r.silent))
	add(c.QueuedMessages > 0, "queued", "%d messages in memory", c.QueuedMessages)
	add(true, "socket", "%s not taken, %s may wait", sizeText(r.OutBytes), sizeText(r.OutBound))
	add(r.Stalled > 0, "stalled", "it has taken nothing for %s", seconds(r.Stalled))
	if n := r.Network; n != nil {
		full := ""
		if n.Full {
			full = ", the client's buffer is full"
		}
		add(true, "network", "%s not sent, %d repeats without an answer, round trip %s%s", sizeText(n.Unsent), n.Repeats, time.Duration(n.RTT*1e9), full)
	}
	add(r.SendOwed > 0, "quota", "what it was sent is paid for in %s", seconds(r.SendOwed))
	add(r.ReadOwed > 0, "quota", "what it has sent is paid for in %s", seconds(r.ReadOwed))
	add(len(r.NotRead) > 0, "not read", "%s", strings.Join(r.NotRead, ", "))
	add(r.Unanswered > 0, "unanswered", "%d that it has sent", r.Unanswered)
	add(r.Commits > 0, "commits", "%d requests are on their way into the log", r.Commits)
	add(r.Behind, "behind", "its queues hold what it was not sent")
	add(r.Resend > 0, "resend", "%d messages of earlier connections come first", r.Resend)
	add(r.Reading > 0, "reading", "%d reads of the log", r.Reading)
	add(r.Granting > 0, "granting", "%d QoS 2 messages wait for the log", r.Granting)
	add(r.Retained > 0, "retained", "%d subscriptions are still sent theirs", r.Retained)
	add(r.Replays > 0, "replays", "%d subscriptions read a stream's past", r.Replays)
	add(r.Storage != "", "storage", "%s", plain(r.Storage))
	add(r.Pressure != "none", "memory", "the node is short of it: %s", r.Pressure)
	add(true, "loop", "came round in %s", r.loop)
	add(true, "dropped", "%s", dropText(r.Dropped))
	return lines
}

// dropText lists drops by reason.
func dropText(m map[string]int64) string {
	if len(m) == 0 {
		return "nothing"
	}
	var list []string
	for why, n := range m {
		list = append(list, fmt.Sprintf("%d %s", n, plain(why)))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
