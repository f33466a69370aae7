package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// subFlags are the flags of sluice sub.
type subFlags struct {
	clientFlags
	kafkaFlags
	from, group       string
	topics            []string
	qos               int
	count             int
	wait              time.Duration
	format            string
	verbose           bool
	keep              bool
	sessionExpiry     time.Duration
	noLocal           bool
	retainAsPublished bool
	noRetained        bool
}

const subLong = `Subscribe, and print each message as a line.

--format: %t topic, %p payload, %x payload in hex, %l length, %I time, %P user properties or headers, %% percent, \n and \t; of MQTT %q QoS,
%r retain flag, %C content type, %R response topic, %D correlation data in hex; of Kafka %k key, %n partition, %o offset.

By MQTT, $share/GROUP/FILTER shares the messages with the other members of GROUP, and --from starts in the past of the streams that are bound to
the filter. By Kafka, --topic is the name of a topic, and --group shares its partitions and goes on where the group has come to.`

func init() { register(newSubCommand) }

// newSubCommand makes sluice sub.
func newSubCommand() *cobra.Command {
	f := &subFlags{}
	c := &cobra.Command{
		Use:   "sub [--mqtt [ADDRESS] | --kafka [ADDRESS]] --topic FILTER...",
		Short: "Subscribe, and print messages",
		Long:  subLong,
		Example: `  sluice sub -t 'greenhouse/#' -v
  sluice sub --mqtt wss://broker/mqtt -t '$share/workers/jobs/+' -q 1 --count 10
  sluice sub -t 'plant/#' -v --from 2026-11-26T08:00:00Z
  sluice sub --kafka -t temps --from earliest --format '%k %p\n'`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("kafka") {
				if err := f.checkKafka(cmd, args); err != nil {
					return err
				}
				return f.runKafka(cmd)
			}
			if err := f.check(cmd, args); err != nil {
				return err
			}
			return f.run(cmd)
		},
	}
	f.clientFlags.add(c)
	f.kafkaFlags.add(c)
	fs := c.Flags()
	fs.StringVar(&f.from, "from", "", "where to start: earliest, latest, an offset or an RFC 3339 time (MQTT 5, and Kafka without --group)")
	fs.StringVar(&f.group, "group", "", "consumer group (Kafka)")
	fs.StringArrayVarP(&f.topics, "topic", "t", nil, "topic filter; may be given again")
	fs.IntVarP(&f.qos, "qos", "q", 0, "highest quality of service: 0, 1 or 2")
	fs.IntVarP(&f.count, "count", "c", 0, "end after so many messages; 0: never")
	fs.DurationVar(&f.wait, "timeout", 0, "end after so long; with --count, fail if fewer messages have come; 0: never")
	fs.StringVar(&f.format, "format", "", `how to print a message (default "%p\n", see above)`)
	fs.BoolVarP(&f.verbose, "verbose", "v", false, `print topics too: --format "%t %p\n"`)
	fs.BoolVar(&f.keep, "keep-session", false, "take up the session of --id and leave it behind (clean start off)")
	fs.DurationVar(&f.sessionExpiry, "session-expiry", 0, "how long the session outlives the connection (MQTT 5; with --keep-session 1h by default)")
	fs.BoolVar(&f.noLocal, "no-local", false, "not what this client itself publishes (MQTT 5)")
	fs.BoolVar(&f.retainAsPublished, "retain-as-published", false, "keep the retain flag as published (MQTT 5)")
	fs.BoolVar(&f.noRetained, "no-retained", false, "no retained messages")
	return c
}

func (f *subFlags) check(cmd *cobra.Command, args []string) error {
	if f.group != "" || cmd.Flags().Changed("tls") || cmd.Flags().Changed("sasl") {
		return misused("--group, --tls and --sasl are for Kafka")
	}
	if err := f.address(args); err != nil {
		return err
	}
	if len(f.topics) == 0 {
		return misused("give at least one --topic")
	}
	for _, t := range f.topics {
		if _, err := wire.ParseFilter([]byte(t)); err != nil {
			return misused("--topic %q: %w", t, err)
		}
	}
	switch {
	case f.qos < 0 || f.qos > 2:
		return misused("--qos %d is none of 0, 1, 2", f.qos)
	case f.count < 0 || f.wait < 0 || f.sessionExpiry < 0:
		return misused("a number is negative")
	case f.keep && f.id == "":
		return misused("--keep-session needs --id, by which the session is found again")
	case f.version < 5 && (f.sessionExpiry != 0 || f.noLocal || f.retainAsPublished || f.from != ""):
		return misused("--session-expiry, --from, --no-local and --retain-as-published need --mqtt-version 5")
	case f.format != "" && f.verbose:
		return misused("--verbose is a --format; give one of them")
	}
	f.timeout = 10 * time.Second
	f.formats()
	if f.keep && f.sessionExpiry == 0 {
		f.sessionExpiry = time.Hour
	}
	return nil
}

// checkKafka is check for --kafka.
func (f *subFlags) checkKafka(cmd *cobra.Command, args []string) error {
	if err := f.take(cmd, args, "mqtt-version", "keep-alive", "qos", "keep-session", "session-expiry", "no-local", "retain-as-published", "no-retained"); err != nil {
		return err
	}
	switch {
	case len(f.topics) == 0:
		return misused("give at least one --topic")
	case f.count < 0 || f.wait < 0:
		return misused("a number is negative")
	case f.format != "" && f.verbose:
		return misused("--verbose is a --format; give one of them")
	case f.group != "" && f.from != "" && f.from != "earliest" && f.from != "latest":
		return misused("a group goes on where it is; where it begins is earliest or latest")
	}
	if _, err := startOffset(f.from); err != nil {
		return err
	}
	if f.verbose && f.format == "" {
		f.format = `%t %k %p\n`
	}
	f.formats()
	return nil
}

// formats fills in how a message is printed.
func (f *subFlags) formats() {
	if f.format == "" {
		f.format = `%p\n`
		if f.verbose {
			f.format = `%t %p\n`
		}
	}
}

func (f *subFlags) run(cmd *cobra.Command) error {
	defer interruptible(cmd)()
	var end time.Time
	if f.wait > 0 {
		end = time.Now().Add(f.wait)
	}
	c, err := f.connect(cmd, wire.Connect{CleanStart: !f.keep, SessionExpiry: uint32(f.sessionExpiry / time.Second)})
	if err != nil {
		return err
	}
	if err := f.subscribe(c); err != nil {
		return errors.Join(err, c.Close())
	}
	n, err := f.receive(cmd, c, end)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	if err := c.Disconnect(); err != nil {
		return err
	}
	if f.count > 0 && n < f.count && cmd.Context().Err() == nil {
		return fmt.Errorf("%d of %d messages came within %v", n, f.count, f.wait)
	}
	return nil
}

func (f *subFlags) subscribe(c *mqttclient.Client) error {
	filters := make([]wire.FilterRequest, len(f.topics))
	for i, t := range f.topics {
		filters[i] = wire.FilterRequest{Filter: []byte(t), QoS: byte(f.qos), NoLocal: f.noLocal, RetainAsPublished: f.retainAsPublished}
		if f.noRetained {
			filters[i].RetainHandling = 2
		}
	}
	s := &wire.SubscribeOut{Filters: filters}
	if f.from != "" {
		s.User = wire.AppendUserProperty(nil, []byte("from"), []byte(f.from))
	}
	codes, err := c.SubscribeWith(s)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for i, code := range codes {
		if code.Failed() && i < len(f.topics) {
			if f.from != "" && code == wire.ImplementationSpecific {
				return fmt.Errorf("subscribe to %s from %s: %v; is a stream bound to it? (sluice binding list)", f.topics[i], f.from, code)
			}
			return fmt.Errorf("subscribe to %s: %v", f.topics[i], code)
		}
	}
	return nil
}

// receive prints messages until one of the ends that were asked for has come.
func (f *subFlags) receive(cmd *cobra.Command, c *mqttclient.Client, end time.Time) (n int, err error) {
	const slice = 200 * time.Millisecond // how soon an interrupt is seen
	heard := time.Now()
	for (f.count == 0 || n < f.count) && cmd.Context().Err() == nil {
		wait := slice
		if !end.IsZero() {
			if wait = min(wait, time.Until(end)); wait <= 0 {
				return n, nil
			}
		}
		m, err := c.Receive(wait)
		switch {
		case err == nil:
			n++
			if err := f.print(cmd.OutOrStdout(), &m); err != nil {
				return n, err
			}
			if m.QoS > 0 {
				heard = time.Now() // something was sent, so the server has heard of this client
			}
		case !errors.Is(err, mqttclient.ErrTimeout):
			return n, fmt.Errorf("receive: %w", err)
		}
		if f.keepAlive > 0 && time.Since(heard) > f.keepAlive*7/10 {
			heard = time.Now()
			if err := c.Ping(); err != nil {
				return n, fmt.Errorf("ping: %w", err)
			}
		}
	}
	return n, nil
}

func (f *subFlags) print(w io.Writer, m *wire.Publish) error {
	_, err := io.WriteString(w, formatMessage(f.format, m, time.Now()))
	return err
}

// formatMessage fills in a format as subLong describes it. What it does not know stays as it is.
func formatMessage(format string, m *wire.Publish, now time.Time) string {
	return expand(format, func(verb byte) string { return formatVerb(verb, m, now) })
}

// expand fills in a format.
func expand(format string, fill func(verb byte) string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if (format[i] != '%' && format[i] != '\\') || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i-1] == '\\' {
			switch format[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			default:
				b.WriteString(format[i-1 : i+1])
			}
			continue
		}
		b.WriteString(fill(format[i]))
	}
	return b.String()
}

func formatVerb(verb byte, m *wire.Publish, now time.Time) string {
	switch verb {
	case 't':
		return string(m.Topic)
	case 'q':
		return strconv.Itoa(int(m.QoS))
	case 'r':
		if m.Retain {
			return "1"
		}
		return "0"
	case 'I':
		return now.Format(time.RFC3339Nano)
	case 'P':
		var pairs []string
		user := m.Props.User()
		for r := user.Read(); ; {
			name, value, ok := r.Next()
			if !ok {
				return strings.Join(pairs, " ")
			}
			pairs = append(pairs, string(name)+"="+string(value))
		}
	case 'C':
		return string(m.Props.ContentType())
	case 'R':
		return string(m.Props.ResponseTopic())
	case 'D':
		return hex.EncodeToString(m.Props.CorrelationData())
	}
	return payloadVerb(verb, m.Payload)
}

// payloadVerb fills in what the protocols have in common.
func payloadVerb(verb byte, payload []byte) string {
	switch verb {
	case 'p':
		return string(payload)
	case 'x':
		return hex.EncodeToString(payload)
	case 'l':
		return strconv.Itoa(len(payload))
	case '%':
		return "%"
	}
	return "%" + string(verb)
}
