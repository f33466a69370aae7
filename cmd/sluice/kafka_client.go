package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	saslplain "github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// defaultKafka is where pub and sub look for a Kafka broker.
const defaultKafka = "127.0.0.1:9092"

// kafkaFlags are what pub and sub have for Kafka beside what they have for MQTT.
type kafkaFlags struct {
	kafka     string
	tls       bool
	mechanism string
}

func (f *kafkaFlags) add(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.kafka, "kafka", "", "speak Kafka, to host:port (default "+defaultKafka+")")
	fs.Lookup("kafka").NoOptDefVal = defaultKafka
	fs.BoolVar(&f.tls, "tls", false, "Kafka over TLS; --ca, --cert, --key and --insecure as for mqtts://")
	fs.StringVar(&f.mechanism, "sasl", "plain", "how --user is proven to Kafka: plain, scram-sha-256 or scram-sha-512")
	c.MarkFlagsMutuallyExclusive("mqtt", "kafka")
}

// take takes the one argument that may follow a bare --kafka, and refuses the flags that are MQTT's alone.
func (f *kafkaFlags) take(cmd *cobra.Command, args []string, mqttOnly ...string) error {
	switch {
	case len(args) == 1 && f.kafka == defaultKafka:
		f.kafka = args[0]
	case len(args) > 0:
		return misused("too many arguments: %s", strings.Join(args, " "))
	}
	if _, _, err := net.SplitHostPort(f.kafka); err != nil {
		return misused("--kafka %q is not HOST:PORT", f.kafka)
	}
	for _, name := range mqttOnly {
		if cmd.Flags().Changed(name) {
			return misused("--%s is for MQTT", name)
		}
	}
	return nil
}

// open makes a client; it connects with its first request.
func (f *kafkaFlags) open(cf *clientFlags, opts ...kgo.Opt) (*kgo.Client, error) {
	opts = append(opts, kgo.SeedBrokers(f.kafka), kgo.RetryTimeout(10*time.Second))
	if cf.id != "" {
		opts = append(opts, kgo.ClientID(cf.id))
	}
	if f.tls {
		secure, err := cf.tlsConfig()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(secure))
	}
	if cf.user != "" {
		password, err := cf.password()
		if err != nil {
			return nil, err
		}
		mechanism, err := f.sasl(cf.user, password)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(mechanism))
	}
	return kgo.NewClient(opts...)
}

func (f *kafkaFlags) sasl(user, password string) (sasl.Mechanism, error) {
	switch strings.ToLower(f.mechanism) {
	case "plain":
		return saslplain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, misused("--sasl is %q: want plain, scram-sha-256 or scram-sha-512", f.mechanism)
}

// unreachable adds to an error what may help.
func (f *kafkaFlags) unreachable(err error) error {
	var dial *net.OpError
	if errors.As(err, &dial) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w; is a Kafka listener at %s? (sluice start)", err, f.kafka)
	}
	return err
}

// runKafka publishes records.
func (f *pubFlags) runKafka(cmd *cobra.Command) error {
	defer interruptible(cmd)()
	headers, err := recordHeaders(f.properties)
	if err != nil {
		return err
	}
	record := func(value []byte) *kgo.Record {
		r := &kgo.Record{Topic: f.topic, Value: value, Headers: headers}
		if cmd.Flags().Changed("record-key") {
			r.Key = []byte(f.recordKey)
		}
		return r
	}
	cl, err := f.open(&f.clientFlags, kgo.AllowAutoTopicCreation())
	if err != nil {
		return err
	}
	defer cl.Close()
	send := func(value []byte) error {
		for i := range f.repeat {
			if i > 0 && !sleep(cmd.Context(), f.interval) {
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			err := cl.ProduceSync(ctx, record(value)).FirstErr()
			cancel()
			if err != nil {
				return fmt.Errorf("publish to %s: %w", f.topic, f.unreachable(err))
			}
		}
		return nil
	}
	switch {
	case f.lines:
		in := bufio.NewReader(cmd.InOrStdin())
		for {
			line, err := in.ReadBytes('\n')
			if len(line) > 0 {
				if err := send(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
					return err
				}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
	case f.file != "":
		b, err := readSource(cmd, f.file)
		if err != nil {
			return err
		}
		return send(b)
	case f.empty:
		return send(nil) // null: a tombstone
	}
	return send([]byte(f.message))
}

// sleep waits; false: ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func recordHeaders(pairs []string) (list []kgo.RecordHeader, err error) {
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, misused("--property %q is not NAME=VALUE", p)
		}
		list = append(list, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return list, nil
}

// startOffset reads --from as Kafka has it.
func startOffset(from string) (kgo.Offset, error) {
	o := kgo.NewOffset()
	switch from {
	case "earliest":
		return o.AtStart(), nil
	case "", "latest":
		return o.AtEnd(), nil
	}
	if n, err := strconv.ParseInt(from, 10, 64); err == nil && n >= 0 {
		return o.At(n), nil
	}
	at, err := time.Parse(time.RFC3339Nano, from)
	if err != nil {
		return o, misused("--from %q is not earliest, latest, an offset or an RFC 3339 time", from)
	}
	return o.AfterMilli(at.UnixMilli()), nil
}

// runKafka prints records until one of the ends that were asked for has come.
func (f *subFlags) runKafka(cmd *cobra.Command) error {
	defer interruptible(cmd)()
	start, err := startOffset(f.from)
	if err != nil {
		return err
	}
	opts := []kgo.Opt{kgo.ConsumeTopics(f.topics...), kgo.ConsumeResetOffset(start), kgo.MetadataMinAge(250 * time.Millisecond)}
	if f.group != "" {
		opts = append(opts, kgo.ConsumerGroup(f.group))
	}
	cl, err := f.open(&f.clientFlags, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx := cmd.Context()
	if err := cl.Ping(ctx); err != nil {
		return f.unreachable(err)
	}
	if f.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.wait)
		defer cancel()
	}
	n, err := f.pollKafka(ctx, cmd.OutOrStdout(), cl)
	if err != nil {
		return err
	}
	if f.count > 0 && n < f.count && cmd.Context().Err() == nil {
		return fmt.Errorf("%d of %d records came within %v", n, f.count, f.wait)
	}
	return nil
}

func (f *subFlags) pollKafka(ctx context.Context, w io.Writer, cl *kgo.Client) (n int, err error) {
	for f.count == 0 || n < f.count {
		most := 500
		if f.count > 0 {
			most = min(most, f.count-n) // what is polled is what the group has read
		}
		fs := cl.PollRecords(ctx, most)
		if ctx.Err() != nil {
			return n, nil
		}
		if err := fs.Err(); err != nil {
			return n, f.unreachable(err)
		}
		for _, r := range fs.Records() {
			n++
			if _, err := io.WriteString(w, expand(f.format, func(verb byte) string { return recordVerb(verb, r) })); err != nil {
				return n, err
			}
		}
	}
	if f.group != "" {
		err = cl.CommitUncommittedOffsets(context.WithoutCancel(ctx))
	}
	return n, err
}

func recordVerb(verb byte, r *kgo.Record) string {
	switch verb {
	case 't':
		return r.Topic
	case 'k':
		return string(r.Key)
	case 'n':
		return strconv.Itoa(int(r.Partition))
	case 'o':
		return strconv.FormatInt(r.Offset, 10)
	case 'I':
		return r.Timestamp.Format(time.RFC3339Nano)
	case 'P':
		var pairs []string
		for _, h := range r.Headers {
			pairs = append(pairs, h.Key+"="+string(h.Value))
		}
		return strings.Join(pairs, " ")
	}
	return payloadVerb(verb, r.Value)
}
