package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

func init() { register(newTraceCommand) }

// traceFlags are what all traces share.
type traceFlags struct {
	*controlFlags
	lasts time.Duration
	limit int
}

func newTraceCommand() *cobra.Command {
	f := &traceFlags{controlFlags: &controlFlags{}}
	return f.tenantGroup("trace", "Follow messages and connections live",
		f.command("client CLIENT", "Follow what a client publishes and gets, and its connections", "CLIENT", func(r *api.WatchTraceRequest, s string) { r.Client = s }),
		f.command("topic FILTER", "Follow what is published to the topics that a filter matches", "FILTER", func(r *api.WatchTraceRequest, s string) { r.Topic = s }),
		f.command("address ADDRESS", "Follow the clients from an address or a network, such as 10.0.0.0/8", "ADDRESS", func(r *api.WatchTraceRequest, s string) { r.Address = s }),
		f.command("message VALUE", "Follow messages whose user property trace has a value; * is any", "VALUE", func(r *api.WatchTraceRequest, s string) { r.Message = s }))
}

func (f *traceFlags) command(use, short, what string, set func(*api.WatchTraceRequest, string)) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: atMost(1),
		Long: short + ", until Ctrl-C. Each line is something that has happened to a message, whose number is behind the time. What happens\n" +
			"faster than 2,000 times a second in one loop is counted and left out. Nothing costs the node anything before and after.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misused("%s is missing", what)
			}
			if f.output == "yaml" {
				return misused("a trace has --output table or json")
			}
			return f.call(cmd, func(k *controlCall) error {
				r := &api.WatchTraceRequest{}
				set(r, args[0])
				return f.follow(cmd, k, r)
			})
		},
	}
	c.Flags().DurationVar(&f.lasts, "for", 0, "end after this time")
	c.Flags().IntVar(&f.limit, "limit", 0, "end after this many events")
	f.output.add(c)
	_ = c.RegisterFlagCompletionFunc("for", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions)
	return c
}

// follow prints what happens.
func (f *traceFlags) follow(cmd *cobra.Command, k *controlCall, r *api.WatchTraceRequest) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if f.lasts > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.lasts)
		defer cancel()
	}
	s, err := api.NewExplanationsClient(k).WatchTrace(ctx, r)
	if err != nil {
		return err
	}
	seen := 0
	for first := true; ; first = false {
		b, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the node has ended the trace")
		case status.Code(err) == codes.Canceled && ctx.Err() != nil:
			return nil // Ctrl-C
		case status.Code(err) == codes.DeadlineExceeded && f.lasts > 0:
			return nil // the time is over: the node may know before the context does
		case err != nil:
			return err
		}
		if first {
			fmt.Fprintln(cmd.ErrOrStderr(), "tracing")
		}
		if b.Lost > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d left out: too many at once\n", b.Lost)
		}
		for _, e := range b.Events {
			if err := f.print(cmd.OutOrStdout(), traceRowOf(e)); err != nil {
				return err
			}
			if seen++; seen == f.limit {
				return nil
			}
		}
	}
}

func (f *traceFlags) print(w io.Writer, r traceRow) error {
	if f.output != "json" {
		_, err := fmt.Fprintln(w, r.line())
		return err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(&r)
}

// traceRow is an event in every output.
type traceRow struct {
	At       string `json:"at" yaml:"at"`
	Message  uint64 `json:"message" yaml:"message"`
	Kind     string `json:"kind" yaml:"kind"`
	Client   string `json:"client" yaml:"client"`
	Text     string `json:"text" yaml:"text"`
	Trace    string `json:"trace" yaml:"trace"`
	Size     int64  `json:"size" yaml:"size"`
	QoS      uint32 `json:"qos" yaml:"qos"`
	PacketID uint32 `json:"packet_id" yaml:"packet_id"`
	Shard    uint32 `json:"shard" yaml:"shard"`
	Seq      uint64 `json:"seq" yaml:"seq"`
	at       time.Time
}

func traceRowOf(e *api.TraceEvent) traceRow {
	at := time.Unix(0, e.AtNs).UTC()
	return traceRow{at.Format("2006-01-02T15:04:05.000000Z"), e.Message, e.Kind, e.Client, e.Text, e.Trace, e.Size, e.Qos, e.PacketId, e.Shard, e.Seq, at}
}

// line is the event for a reader: when, which message, what, who, and what is known of it.
func (r *traceRow) line() string {
	number := "-"
	if r.Message != 0 {
		number = fmt.Sprintf("#%d", r.Message)
	}
	var words []string
	add := func(show bool, format string, args ...any) {
		if show {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	switch r.Kind {
	case "received", "sent":
		add(true, "%s, QoS %d, %s", plain(r.Text), r.QoS, sizeText(r.Size))
		add(r.PacketID != 0, "packet %d", r.PacketID)
		add(r.Trace != "", "trace %s", plain(r.Trace))
	case "matched":
		add(r.Client == "", "%d more", r.Size)
		add(r.Client != "", "by %s, QoS %d", plain(r.Text), r.QoS)
	case "logged":
		add(true, "shard %d, record %d", r.Shard, r.Seq)
	case "acknowledged":
		add(true, "packet %d", r.PacketID)
	default:
		add(r.Text != "", "%s", plain(r.Text))
	}
	return strings.TrimRight(fmt.Sprintf("%s  %-6s %-13s %-16s %s", r.at.Format("15:04:05.000000"), number, r.Kind, plain(orDash(r.Client)), strings.Join(words, ", ")), " ")
}
