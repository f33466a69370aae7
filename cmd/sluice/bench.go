package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
)

const benchLong = `Put load on an MQTT broker, ours or another, and verify what it does: loss, duplicates, order and content of every message.

Without --rate a publisher sends when what it sent has come back (--pipeline at QoS 0, --inflight above). With --rate messages go
out by a timetable, and latency counts from the time at which a message was meant to go. --pid adds what the broker's process
used. It exits with 1 if the broker lost, doubled, reordered or corrupted anything, and says so first.`

// benchFlags are the flags of sluice bench mqtt.
type benchFlags struct {
	clientFlags
	cfg      bench.Config
	pairs    int
	qos      int
	pipeline int
	inflight int
	json     string
	quiet    bool
}

func init() { register(newBenchCommand) }

// newBenchCommand makes sluice bench.
func newBenchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure and verify a broker from outside", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	mqtt := &cobra.Command{Use: "mqtt SCENARIO", Short: "Load on an MQTT broker", Long: benchLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misused("there is no scenario %q; see sluice bench mqtt --help", args[0])
			}
			return cmd.Help()
		}}
	for _, name := range bench.Scenarios() {
		mqtt.AddCommand(newScenarioCommand(name))
	}
	c.AddCommand(mqtt, newBenchKafkaCommand())
	return c
}

func newScenarioCommand(name string) *cobra.Command {
	f := &benchFlags{}
	f.cfg.Scenario = name
	c := &cobra.Command{
		Use: name, Short: bench.AboutScenario(name), Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.addTLS(c)
	fs, cfg := c.Flags(), &f.cfg
	fs.StringVar(&cfg.URL, "url", "mqtt://"+defaultMQTT, "broker: mqtt://, mqtts://, ws://, wss:// or unix://")
	fs.IntVar(&f.version, "mqtt-version", 5, "4 (3.1.1) or 5")
	fs.IntVar(&f.pairs, "pairs", 0, "publishers with a subscriber each (pairs; default 64)")
	fs.IntVar(&cfg.Publishers, "publishers", 0, "publishers; 0: as the scenario has it")
	fs.IntVar(&cfg.Subscribers, "subscribers", 0, "subscribers, or sessions; 0: as the scenario has it")
	fs.IntVar(&cfg.Conns, "connections", 0, "connections of idle (default 15000) and storm (default 10000)")
	fs.IntVar(&cfg.Filters, "filters", 0, "filters of wildcards (default 100000)")
	fs.Uint64Var(&cfg.Messages, "messages", 0, "messages of each publisher instead of a duration; in all for queue and retained")
	fs.IntVar(&cfg.Payload, "payload", 64, fmt.Sprintf("payload bytes, at least %d", bench.MinPayload))
	fs.IntVar(&f.qos, "qos", 0, "0, 1 or 2 (queue: 1 by default)")
	fs.Float64Var(&cfg.Rate, "rate", 0, "messages per second of all publishers, by a timetable")
	fs.IntVar(&f.pipeline, "pipeline", 0, "unanswered messages of each pair at QoS 0 (default 64)")
	fs.IntVar(&f.inflight, "inflight", 0, "unanswered messages of each pair at QoS 1 and 2 (default 20)")
	fs.DurationVar(&cfg.Duration, "duration", 10*time.Second, "the measured part")
	fs.DurationVar(&cfg.Warmup, "warmup", time.Second, "load before the measured part")
	fs.DurationVar(&cfg.Settle, "settle", time.Minute, "idle: from the last CONNECT to the look at the memory")
	fs.DurationVar(&cfg.Drain, "drain", 5*time.Second, "how long nothing may come before the rest is lost")
	fs.DurationVar(&cfg.KeepAlive, "keep-alive", 20*time.Minute, "keep-alive")
	fs.Float64Var(&cfg.ConnectRate, "connect-rate", 0, "connections per second; 0: as fast as they come")
	fs.IntVar(&cfg.ConnectBurst, "connect-burst", 64, "connections under way at once")
	fs.DurationVar(&cfg.Spin, "spin", 60*time.Microsecond, "with --rate: stay awake for so long before a send; negative: sleep")
	fs.IntVar(&cfg.ReceiveMaximum, "receive-maximum", 0, "receive maximum of the subscribers; 0: not given")
	fs.BoolVar(&cfg.Durable, "durable", false, "sessions outlive their connections (removed after the run)")
	fs.BoolVar(&cfg.Keep, "keep", false, "leave behind what queue and retained stored")
	fs.BoolVar(&cfg.AllowLoss, "allow-loss", false, "loss at QoS 0 is no failure")
	fs.IntSliceVar(&cfg.PIDs, "pid", nil, "process id of the broker, for its CPU time and memory; may be given again")
	fs.Uint64Var(&cfg.Seed, "seed", 1, "decides order and content where chance is wanted")
	fs.IntVar(&cfg.Threads, "threads", 1, "threads that make load")
	fs.StringVar(&f.json, "json", "", "write the result to this file too; - is standard output, instead of the table")
	fs.BoolVar(&f.quiet, "quiet", false, "no lines of progress")
	return c
}

func (f *benchFlags) config(cmd *cobra.Command) (bench.Config, error) {
	cfg := f.cfg
	if f.version != 4 && f.version != 5 {
		return cfg, misused("--mqtt-version %d is neither 4 nor 5", f.version)
	}
	if f.qos < 0 || f.qos > 2 {
		return cfg, misused("--qos %d is none of 0, 1, 2", f.qos)
	}
	if cfg.Scenario == "queue" && !cmd.Flags().Changed("qos") {
		f.qos = 1
	}
	if f.pipeline > 0 && f.qos > 0 {
		return cfg, misused("--pipeline is for QoS 0; above it, --inflight")
	}
	if f.inflight > 0 && f.qos == 0 {
		return cfg, misused("--inflight is for QoS 1 and 2; at QoS 0, --pipeline")
	}
	if cfg.Rate > 0 && f.pipeline+f.inflight > 0 {
		return cfg, misused("--rate is a timetable: --pipeline and --inflight do not go with it")
	}
	if f.pairs > 0 {
		cfg.Publishers = f.pairs
	}
	if cfg.Warmup == 0 || (cfg.Messages > 0 && !cmd.Flags().Changed("warmup")) {
		cfg.Warmup = -1
	}
	cfg.Version, cfg.QoS, cfg.Inflight, cfg.Tool = byte(f.version), byte(f.qos), f.pipeline+f.inflight, version
	var err error
	if cfg.TLS, err = f.tlsConfig(); err != nil {
		return cfg, err
	}
	cfg.Username = f.user
	if cfg.Password, err = f.password(); err != nil {
		return cfg, err
	}
	if !f.quiet {
		cfg.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	}
	return cfg, nil
}

func (f *benchFlags) run(cmd *cobra.Command) error {
	cfg, err := f.config(cmd)
	if err != nil {
		return err
	}
	defer interruptible(cmd)()
	res, err := bench.Run(cmd.Context(), cfg)
	return report(cmd, "bench "+cfg.Scenario, cfg.URL, f.json, res, err)
}
