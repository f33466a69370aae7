package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// pubFlags are the flags of sluice pub.
type pubFlags struct {
	clientFlags
	kafkaFlags
	recordKey            string
	topic, message, file string
	lines, empty, retain bool
	qos                  int
	repeat               int
	interval             time.Duration
	expiry               time.Duration
	properties           []string
	contentType          string
	responseTopic        string
	correlation          string

	willTopic, willMessage string
	willQoS                int
	willRetain             bool
	willDelay              time.Duration
}

func init() { register(newPubCommand) }

// newPubCommand makes sluice pub.
func newPubCommand() *cobra.Command {
	f := &pubFlags{}
	c := &cobra.Command{
		Use:   "pub [--mqtt [ADDRESS] | --kafka [ADDRESS]] --topic TOPIC (--message TEXT | --file FILE | --lines | --empty)",
		Short: "Publish messages",
		Example: `  sluice pub -t greenhouse/temp -m 21.5
  sluice pub --mqtt mqtts://broker:8883 --ca ca.pem --user ada --password-file pw -t a -q 1 -m hello
  tail -f log | sluice pub -t log -l
  sluice pub --kafka -t readings --record-key plant-1 -m 21.5`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return err
			}
			if cmd.Flags().Changed("kafka") {
				return f.runKafka(cmd)
			}
			return f.run(cmd)
		},
	}
	f.clientFlags.add(c)
	f.kafkaFlags.add(c)
	fs := c.Flags()
	fs.StringVar(&f.recordKey, "record-key", "", "key of the record (Kafka)")
	fs.StringVarP(&f.topic, "topic", "t", "", "topic to publish to")
	fs.StringVarP(&f.message, "message", "m", "", "message")
	fs.StringVarP(&f.file, "file", "f", "", "file whose content is the message; - is standard input")
	fs.BoolVarP(&f.lines, "lines", "l", false, "each line of standard input is a message")
	fs.BoolVarP(&f.empty, "empty", "n", false, "an empty message; with --retain it clears the retained one; by Kafka a null value")
	fs.IntVarP(&f.qos, "qos", "q", 0, "quality of service: 0, 1 or 2")
	fs.BoolVarP(&f.retain, "retain", "r", false, "the server keeps the message for later subscribers")
	fs.IntVar(&f.repeat, "repeat", 1, "publish it so many times")
	fs.DurationVar(&f.interval, "interval", 0, "wait between repetitions")
	fs.DurationVar(&f.expiry, "expiry", 0, "message expiry, in whole seconds (MQTT 5)")
	fs.StringArrayVarP(&f.properties, "property", "P", nil, "user property (MQTT 5) or header (Kafka) NAME=VALUE; may be given again")
	fs.StringVar(&f.contentType, "content-type", "", "content type (MQTT 5)")
	fs.StringVar(&f.responseTopic, "response-topic", "", "response topic (MQTT 5)")
	fs.StringVar(&f.correlation, "correlation", "", "correlation data (MQTT 5)")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Second, "of connecting and of each acknowledgement")
	fs.StringVar(&f.willTopic, "will-topic", "", "topic of the will")
	fs.StringVar(&f.willMessage, "will-message", "", "message of the will")
	fs.IntVar(&f.willQoS, "will-qos", 0, "quality of service of the will")
	fs.BoolVar(&f.willRetain, "will-retain", false, "the server keeps the will for later subscribers")
	fs.DurationVar(&f.willDelay, "will-delay", 0, "delay of the will, in whole seconds (MQTT 5)")
	return c
}

func (f *pubFlags) check(cmd *cobra.Command, args []string) error {
	if err := f.checkTopic(cmd, args); err != nil {
		return err
	}
	sources := 0
	for _, given := range []bool{cmd.Flags().Changed("message"), f.file != "", f.lines, f.empty} {
		if given {
			sources++
		}
	}
	switch {
	case sources != 1:
		return misused("give one of --message, --file, --lines and --empty")
	case f.qos < 0 || f.qos > 2 || f.willQoS < 0 || f.willQoS > 2:
		return misused("a quality of service is 0, 1 or 2")
	case f.repeat < 1:
		return misused("--repeat %d is not at least 1", f.repeat)
	case f.version < 5 && (f.expiry != 0 || len(f.properties) > 0 || f.contentType != "" || f.responseTopic != "" || f.correlation != "" || f.willDelay != 0):
		return misused("properties, expiry and will delay need --mqtt-version 5")
	case f.willTopic == "" && (f.willMessage != "" || f.willRetain || f.willQoS > 0 || f.willDelay > 0):
		return misused("a will needs --will-topic")
	}
	return nil
}

// checkTopic looks at where to, by either protocol.
func (f *pubFlags) checkTopic(cmd *cobra.Command, args []string) error {
	if cmd.Flags().Changed("kafka") {
		if f.topic == "" {
			return misused("give a --topic")
		}
		return f.take(cmd, args, "mqtt-version", "keep-alive", "qos", "retain", "expiry", "content-type", "response-topic", "correlation",
			"will-topic", "will-message", "will-qos", "will-retain", "will-delay")
	}
	for _, name := range []string{"record-key", "tls", "sasl"} {
		if cmd.Flags().Changed(name) {
			return misused("--%s is for Kafka", name)
		}
	}
	if err := f.address(args); err != nil {
		return err
	}
	if err := wire.CheckTopicName([]byte(f.topic)); err != nil {
		return misused("--topic %q: %w", f.topic, err)
	}
	return nil
}

// forward encodes the properties of the message.
func (f *pubFlags) forward() ([]byte, error) {
	user, err := userProperties(f.properties)
	if err != nil {
		return nil, err
	}
	var block []byte
	for _, p := range []wire.Property{
		{ID: wire.PropContentType, Data: []byte(f.contentType)},
		{ID: wire.PropResponseTopic, Data: []byte(f.responseTopic)},
		{ID: wire.PropCorrelationData, Data: []byte(f.correlation)},
	} {
		if len(p.Data) > 0 {
			block = wire.AppendProperty(block, p)
		}
	}
	return append(block, user...), nil
}

func (f *pubFlags) run(cmd *cobra.Command) error {
	defer interruptible(cmd)()
	forward, err := f.forward()
	if err != nil {
		return err
	}
	out := wire.PublishOut{Topic: []byte(f.topic), QoS: byte(f.qos), Retain: f.retain, Forward: forward}
	if f.expiry > 0 {
		out.HasExpiry, out.Expiry = true, uint32(f.expiry/time.Second)
	}
	out.Payload = []byte(f.message)
	if f.file != "" {
		if out.Payload, err = readSource(cmd, f.file); err != nil {
			return err
		}
	}
	k := wire.Connect{CleanStart: true}
	if f.willTopic != "" {
		k.HasWill = true
		k.Will = wire.Will{Topic: []byte(f.willTopic), Payload: []byte(f.willMessage), QoS: byte(f.willQoS), Retain: f.willRetain,
			Delay: uint32(f.willDelay / time.Second)}
	}
	c, err := f.connect(cmd, k)
	if err != nil {
		return err
	}
	if f.lines {
		err = f.publishLines(cmd, c, &out)
	} else {
		err = f.publish(cmd.Context(), c, &out)
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	return c.Disconnect()
}

func readSource(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	return b, nil
}

// publish sends out as often as asked for.
func (f *pubFlags) publish(ctx context.Context, c *mqttclient.Client, out *wire.PublishOut) error {
	for i := range f.repeat {
		if i > 0 && f.interval > 0 {
			wait := time.NewTimer(f.interval)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if _, err := c.Publish(out); err != nil {
			return fmt.Errorf("publish to %s: %w", f.topic, err)
		}
	}
	return nil
}

// publishLines sends each line that comes in. It pings while none comes, so that the server keeps the connection.
func (f *pubFlags) publishLines(cmd *cobra.Command, c *mqttclient.Client, out *wire.PublishOut) error {
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	lines := make(chan []byte)
	ended := make(chan error, 1)
	go func() { // it may outlive the command by a blocked read of standard input, which nothing can interrupt
		in := bufio.NewReader(cmd.InOrStdin())
		for {
			line, err := in.ReadBytes('\n')
			if n := len(line); n > 0 && line[n-1] == '\n' {
				line = line[:n-1]
			} else if n == 0 {
				line = nil
			}
			if line != nil {
				select {
				case lines <- line:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				ended <- err
				return
			}
		}
	}()
	quiet := 24 * time.Hour
	if f.keepAlive > 0 {
		quiet = f.keepAlive * 7 / 10
	}
	idle := time.NewTicker(quiet)
	defer idle.Stop()
	for {
		select {
		case line := <-lines:
			out.Payload = line
			if err := f.publish(ctx, c, out); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-idle.C:
			if err := c.Ping(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
