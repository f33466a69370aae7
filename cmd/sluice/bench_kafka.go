package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
)

const benchKafkaLong = `Put load on a Kafka broker, ours or another, and verify what it does: loss, duplicates, order and content of every record, and the
checksum of every batch.

Without --rate a producer sends whole batches as fast as they are acknowledged (--inflight requests of a connection). With --rate
records go out by a timetable, and latency counts from the time at which a record was meant to go. The topics of a run are made
by it and deleted afterwards. --pid adds what the broker's process used. It exits with 1 if the broker lost, doubled, reordered or
corrupted anything, or showed a reader of committed records what was aborted, and says so first.`

// benchKafkaFlags are the flags of sluice bench kafka.
type benchKafkaFlags struct {
	clientFlags
	cfg      bench.KafkaConfig
	settings []string
	json     string
	quiet    bool
	readBack bool
}

// newBenchKafkaCommand makes sluice bench kafka.
func newBenchKafkaCommand() *cobra.Command {
	c := &cobra.Command{Use: "kafka SCENARIO", Short: "Load on a Kafka broker", Long: benchKafkaLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misused("there is no scenario %q; see sluice bench kafka --help", args[0])
			}
			return cmd.Help()
		}}
	for _, name := range bench.KafkaScenarios() {
		c.AddCommand(newKafkaScenarioCommand(name))
	}
	return c
}

func newKafkaScenarioCommand(name string) *cobra.Command {
	f := &benchKafkaFlags{}
	f.cfg.Scenario = name
	c := &cobra.Command{
		Use: name, Short: bench.AboutKafkaScenario(name), Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.addTLS(c)
	fs, cfg := c.Flags(), &f.cfg
	fs.StringVar(&cfg.URL, "url", "kafka://127.0.0.1:9092", "broker: kafka:// or kafkas://")
	fs.IntVar(&cfg.Publishers, "producers", 0, "producers, each with a connection (default 1; bound: 64 publishers)")
	fs.IntVar(&cfg.Subscribers, "consumers", 1, "consumers, each with a connection and its share of the partitions")
	if name == "bound" {
		fs.StringVar(&cfg.MQTT, "mqtt", "mqtt://"+defaultMQTT, "where to publish: mqtt://, no TLS")
		fs.StringVar(&cfg.Prefix, "prefix", "sb", "publish below this topic")
		fs.StringVar(&cfg.Topic, "topic", "", "the topic that the node binds PREFIX/# to")
	}
	fs.IntVar(&cfg.Topics, "topics", 1, "topics")
	fs.IntVar(&cfg.Partitions, "partitions", 0, "partitions of each topic (default 1; groups 12, partitions 1000)")
	fs.Uint64Var(&cfg.Messages, "records", 0, "records in all instead of a duration (consume: default 256 MiB; partitions: 100 for each)")
	fs.IntVar(&cfg.Payload, "size", 0, fmt.Sprintf("bytes of a value, at least %d (default 1024; bound: 64)", bench.MinPayload))
	fs.IntVar(&cfg.Keys, "keys", 0, "distinct keys of a producer in each partition; 0: none, and one partition after the other fills a batch")
	fs.IntVar(&cfg.BatchBytes, "batch-bytes", 16384, "a batch is sent when it has so many; 1: a batch for each record")
	fs.DurationVar(&cfg.Linger, "linger", 0, "with --rate: how long a batch waits for more")
	fs.IntVar(&cfg.Acks, "acks", -1, "-1 (all), 0 or 1")
	fs.StringVar(&cfg.Compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	fs.BoolVar(&cfg.Plain, "no-idempotence", false, "producers without an id")
	fs.IntVar(&cfg.Inflight, "inflight", 0, "unanswered requests of a producer (default 5; bound: 20 messages)")
	fs.Float64Var(&cfg.Rate, "rate", 0, "records per second of all producers, by a timetable (e2e: default 2000; transactions: 20000)")
	fs.DurationVar(&cfg.FetchWait, "fetch-wait", 500*time.Millisecond, "how long the broker may hold a fetch back")
	fs.IntVar(&cfg.FetchMin, "fetch-min", 1, "bytes for which it may")
	fs.IntVar(&cfg.FetchMax, "fetch-max", 50<<20, "most bytes of a fetch")
	fs.IntVar(&cfg.FetchPartitionMax, "fetch-partition-max", 1<<20, "most bytes of one partition")
	fs.BoolVar(&f.readBack, "read-back", true, "produce, partitions: read and verify what was stored")
	fs.DurationVar(&cfg.Commit, "commit", 100*time.Millisecond, "transactions: from the first record of a transaction to its end")
	fs.IntVar(&cfg.AbortEvery, "abort-every", 0, "transactions: every which is aborted; 0: none")
	fs.IntVar(&cfg.Groups, "groups", 4, "groups: how many")
	fs.IntVar(&cfg.Members, "members", 3, "groups: members of each")
	fs.DurationVar(&cfg.Heartbeat, "heartbeat", 50*time.Millisecond, "groups: most between two heartbeats")
	fs.StringArrayVar(&f.settings, "topic-setting", nil, "NAME=VALUE of the topics made; may be given again")
	fs.DurationVar(&cfg.Duration, "duration", 10*time.Second, "the measured part")
	fs.DurationVar(&cfg.Warmup, "warmup", time.Second, "load before the measured part")
	fs.DurationVar(&cfg.Drain, "drain", 5*time.Second, "how long nothing may come before the rest is lost")
	fs.DurationVar(&cfg.ConnectTimeout, "timeout", 30*time.Second, "how long the broker may take to connect, and for a request of the control connection")
	fs.DurationVar(&cfg.Spin, "spin", 60*time.Microsecond, "with --rate: stay awake for so long before a send; negative: sleep")
	fs.BoolVar(&cfg.Keep, "keep", false, "leave the topics behind")
	fs.BoolVar(&cfg.AllowLoss, "allow-loss", false, "loss at --acks 0 is no failure")
	fs.IntSliceVar(&cfg.PIDs, "pid", nil, "process id of the broker, for its CPU time and memory; may be given again")
	fs.Uint64Var(&cfg.Seed, "seed", 1, "decides content where chance is wanted")
	fs.IntVar(&cfg.Threads, "threads", 1, "threads that make load")
	fs.StringVar(&f.json, "json", "", "write the result to this file too; - is standard output, instead of the table")
	fs.BoolVar(&f.quiet, "quiet", false, "no lines of progress")
	return c
}

func (f *benchKafkaFlags) config(cmd *cobra.Command) (bench.KafkaConfig, error) {
	cfg := f.cfg
	for _, s := range f.settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return cfg, misused("--topic-setting %q is not NAME=VALUE", s)
		}
		cfg.TopicSettings = append(cfg.TopicSettings, [2]string{name, value})
	}
	if cfg.Warmup == 0 || (cfg.Messages > 0 && !cmd.Flags().Changed("warmup")) {
		cfg.Warmup = -1
	}
	cfg.SkipReadBack, cfg.Tool, cfg.Username = !f.readBack, version, f.user
	var err error
	if cfg.TLS, err = f.tlsConfig(); err != nil {
		return cfg, err
	}
	if cfg.Password, err = f.password(); err != nil {
		return cfg, err
	}
	if !f.quiet {
		cfg.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	}
	return cfg, nil
}

func (f *benchKafkaFlags) run(cmd *cobra.Command) error {
	cfg, err := f.config(cmd)
	if err != nil {
		return err
	}
	defer interruptible(cmd)()
	res, err := bench.RunKafka(cmd.Context(), cfg)
	return report(cmd, "bench kafka "+cfg.Scenario, cfg.URL, f.json, res, err)
}

// report writes a result, and makes an error of what the broker did wrong.
func report(cmd *cobra.Command, what, url, file string, res *bench.Result, err error) error {
	var bad *bench.MisuseError
	if errors.As(err, &bad) {
		return misuse{err}
	}
	if res != nil && (err == nil || res.Counts.Sent > 0) {
		if werr := writeResult(cmd, file, res); werr != nil {
			return werr
		}
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", what, url, err)
	}
	if !res.OK {
		return fmt.Errorf("the broker at %s failed: %s", url, res.Violations[0])
	}
	return nil
}

func writeResult(cmd *cobra.Command, file string, res *bench.Result) error {
	if file != "" {
		b, err := json.MarshalIndent(res, "", "  ")
		if err != nil {
			return err
		}
		b = append(b, '\n')
		if file == "-" {
			_, err := cmd.OutOrStdout().Write(b)
			return err
		}
		if err := os.WriteFile(filepath.Clean(file), b, 0o644); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	}
	return res.WriteTable(cmd.OutOrStdout())
}
