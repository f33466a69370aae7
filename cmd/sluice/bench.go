package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/scenarios"
)

const benchLong = `Measure and verify a broker from outside, ours or another.

run takes a scenario file, or one of the standard ones that list names and show prints; mqtt and kafka are one load with flags for
its settings. Each verifies what the broker does while it measures: loss, duplicates, order and content.

It exits with 1 if the broker did wrong, which is said first, with 2 if it was misused, and with 3 if there is no result because the
generator lacked processor time or sockets.`

const benchMQTTLong = `Put load on an MQTT broker, ours or another, and verify what it does: loss, duplicates, order and content of every message.

Without --rate a publisher sends when what it sent has come back (--pipeline at QoS 0, --inflight above). With --rate messages go
out by a timetable, and latency counts from the time at which a message was meant to go. --pid adds what the broker's process
used. It exits with 1 if the broker lost, doubled, reordered or corrupted anything, and says so first.`

const benchKafkaLong = `Put load on a Kafka broker, ours or another, and verify what it does: loss, duplicates, order and content of every record, and the
checksum of every batch.

Without --rate a producer sends whole batches as fast as they are acknowledged (--inflight requests of a connection). With --rate
records go out by a timetable, and latency counts from the time at which a record was meant to go. The topics of a run are made
by it and deleted afterwards. --pid adds what the broker's process used. It exits with 1 if the broker lost, doubled, reordered or
corrupted anything, or showed a reader of committed records what was aborted, and says so first.`

const benchRunLong = `Run a scenario file, or one of the standard scenarios (sluice bench list).

--set changes a setting for the run: KEY=VALUE, or PART.KEY=VALUE for one part of a mixed scenario. --url says where the broker
is: an address alone, mqtt=ADDRESS and kafka=ADDRESS, or PART=ADDRESS; without it, the standard port of this machine.`

func init() { register(newBenchCommand) }

// newBenchCommand makes sluice bench.
func newBenchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure and verify a broker from outside", Long: benchLong, Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(newBenchRunCommand(), newBenchLadderCommand(), newBenchCompareCommand(), newBenchListCommand(), newBenchShowCommand(), newBenchReportCommand(),
		newBenchLoadsCommand(scenarios.MQTT, "Load on an MQTT broker", benchMQTTLong),
		newBenchLoadsCommand(scenarios.Kafka, "Load on a Kafka broker", benchKafkaLong))
	return c
}

// benchFlags are what the commands that make load share.
type benchFlags struct {
	clientFlags
	files   reportFiles
	urls    []string
	pids    []int
	metrics string
	json    string
	quiet   bool
}

func (f *benchFlags) addRun(c *cobra.Command) {
	f.addTLS(c)
	fs := c.Flags()
	fs.IntSliceVar(&f.pids, "pid", nil, "process id of the broker, for its CPU time and memory; may be given again")
	fs.StringVar(&f.metrics, "metrics", "", "address of the broker's metrics (http://HOST:PORT/metrics), for what it writes, flushes and allocates")
	fs.StringVar(&f.json, "json", "", "write the result to this file too; - is standard output, instead of the table")
	f.files.add(c)
	fs.BoolVar(&f.quiet, "quiet", false, "no lines of progress")
}

func (f *benchFlags) addURLs(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.urls, "url", nil, "broker: ADDRESS, or mqtt=, kafka= or PART= before it; may be given again")
}

// target is where the run goes.
func (f *benchFlags) target(cmd *cobra.Command) (*scenarios.Target, error) {
	t := &scenarios.Target{URLs: map[string]string{}, PIDs: f.pids, Metrics: f.metrics, Tool: version, Username: f.user}
	for _, u := range f.urls {
		key, address, ok := strings.Cut(u, "=")
		if !ok || strings.ContainsAny(key, ":/") {
			key, address = scenarios.MQTT, u
			if strings.HasPrefix(u, "kafka") {
				key = scenarios.Kafka
			}
		}
		t.URLs[key] = address
	}
	var err error
	if t.TLS, err = f.tlsConfig(); err != nil {
		return t, err
	}
	if t.Password, err = f.password(); err != nil {
		return t, err
	}
	if !f.quiet {
		t.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	}
	return t, nil
}

// loadFlag makes a flag of a load's setting.
type loadFlag struct {
	scenarios.Setting
	load *scenarios.Load
}

// String gives the present value.
func (f loadFlag) String() string {
	if f.Show == nil {
		return ""
	}
	return f.Show()
}

// Set takes a value.
func (f loadFlag) Set(text string) error { return f.load.Set(f.Name, text) }

// Type names it in the help.
func (f loadFlag) Type() string { return f.Setting.Type }

// newBenchLoadsCommand makes the command of a protocol, with one below it for each kind of load.
func newBenchLoadsCommand(protocol, short, long string) *cobra.Command {
	kinds, about := bench.Scenarios(), bench.AboutScenario
	if protocol == scenarios.Kafka {
		kinds, about = bench.KafkaScenarios(), bench.AboutKafkaScenario
	}
	c := &cobra.Command{Use: protocol + " LOAD", Short: short, Long: long,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misused("there is no load %q; see sluice bench %s --help", args[0], protocol)
			}
			return cmd.Help()
		}}
	for _, kind := range kinds {
		c.AddCommand(newBenchLoadCommand(protocol, kind, about(kind)))
	}
	return c
}

func newBenchLoadCommand(protocol, kind, about string) *cobra.Command {
	f := &benchFlags{}
	load, err := scenarios.NewLoad(protocol, kind)
	if err != nil {
		panic(err) // the kind comes from the list of them
	}
	c := &cobra.Command{
		Use: kind, Short: about, Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, &scenarios.File{Protocol: protocol, Parts: []*scenarios.Part{{Load: load}}})
		},
	}
	f.addRun(c)
	def := "mqtt://" + defaultMQTT
	help := "broker: mqtt://, mqtts://, ws://, wss:// or unix://"
	if protocol == scenarios.Kafka {
		def, help = "kafka://127.0.0.1:9092", "broker: kafka:// or kafkas://"
	}
	c.Flags().Var(urlFlag{f, protocol, def}, "url", help)
	for _, s := range load.Settings() {
		c.Flags().Var(loadFlag{s, load}, s.Name, s.About)
		if s.Type == "bool" {
			c.Flags().Lookup(s.Name).NoOptDefVal = "true"
		}
	}
	return c
}

// urlFlag is the address of the one broker of a load.
type urlFlag struct {
	f             *benchFlags
	protocol, def string
}

// String gives the address.
func (u urlFlag) String() string {
	if u.f == nil || len(u.f.urls) == 0 {
		return u.def
	}
	return u.f.urls[0]
}

// Set takes one.
func (u urlFlag) Set(text string) error {
	u.f.urls = []string{u.protocol + "=" + text}
	return nil
}

// Type names it in the help.
func (u urlFlag) Type() string { return "string" }

func newBenchListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "Name the standard scenarios", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, name := range scenarios.Standard() {
				file, err := scenarios.Open(name, nil)
				if err != nil {
					return err
				}
				fmt.Fprintf(t, "%s\t%s\t%s\n", name, file.Protocol, file.About)
			}
			return t.Flush()
		}}
}

func newBenchShowCommand() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Print a scenario, to be edited", Args: exactly("NAME"),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, text, err := scenarios.Text(args[0])
			if err != nil {
				return benchError(err)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		}}
}

func completeScenarios(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Clone(scenarios.Standard()), cobra.ShellCompDirectiveDefault
}

func newBenchRunCommand() *cobra.Command {
	f := &benchFlags{}
	var set []string
	c := &cobra.Command{Use: "run FILE|NAME", Short: "Run a scenario", Long: benchRunLong, Args: exactly("SCENARIO"),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := scenarios.Open(args[0], set)
			if err != nil {
				return benchError(err)
			}
			return f.run(cmd, file)
		}}
	f.addRun(c)
	f.addURLs(c)
	c.Flags().StringArrayVar(&set, "set", nil, "KEY=VALUE of a setting, or PART.KEY=VALUE; may be given again")
	return c
}
