package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench/plan"
	"github.com/sluicemq/sluice/bench/plan/measure"
)

const planMeasureLong = `Find out what a node costs: run a fixed set of short loads (rungs) against it and note, for each, the CPU time and memory of its
process and what its metrics say. The node should be alone on the machine but for this command, and have nothing else to do.

The node is a running one (--pid), or one that this command starts (--start), which is better for memory: a node does not give back
all that a rung made it take.

Each rung takes some five seconds; those that measure memory take fifteen, most of it waiting until the node is quiet. Results go to a
file, a line each, as they are finished: after Ctrl-C, --for or an error the same command goes on with what is left. What has
no address (--tls-url, --ws-url, --wss-url, --kafka) is left out. Then: sluice plan fit.`

type planMeasureFlags struct {
	clientFlags
	o       measure.Options
	out     string
	list    bool
	start   string
	nodeLog string
}

func newPlanMeasureCommand() *cobra.Command {
	f := &planMeasureFlags{}
	c := &cobra.Command{Use: "measure", Short: "Measure what a running node costs", Long: planMeasureLong, Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }}
	f.addTLS(c)
	fs, o := c.Flags(), &f.o
	fs.StringVar(&o.URL, "url", "mqtt://"+defaultMQTT, "the node's plain MQTT listener; empty: none")
	fs.StringVar(&o.TLSURL, "tls-url", "", "its TLS listener, mqtts://")
	fs.StringVar(&o.WSURL, "ws-url", "", "its WebSocket listener, ws://")
	fs.StringVar(&o.WSSURL, "wss-url", "", "its secure WebSocket listener, wss://")
	fs.StringVar(&o.KafkaURL, "kafka", "", "its Kafka listener, kafka://")
	fs.StringVar(&o.Metrics, "metrics", "", "its metrics, http://HOST:PORT/metrics; without them the sharing of wake-ups and flushes cannot be fitted")
	fs.IntVar(&o.PID, "pid", 0, "its process id")
	fs.StringVar(&f.start, "start", "", "command that starts the node, words separated by spaces: instead of --pid; each measure of memory then has a fresh node")
	fs.StringVar(&f.nodeLog, "node-log", "", "file for what a node says that --start started")
	fs.StringVarP(&f.out, "output", "o", "plan-results.jsonl", "file of results; an existing one is gone on with")
	fs.StringVar(&o.Kind, "kind", "", "cpu, memory, or both when empty")
	fs.StringSliceVar(&o.Only, "only", nil, "only rungs whose names begin so; may be given again")
	fs.DurationVar(&o.Duration, "duration", 3*time.Second, "the measured part of a rung")
	fs.DurationVar(&o.Limit, "for", 0, "begin no further rung after so long; 0: no limit")
	fs.IntVar(&o.Repeat, "repeat", 1, "how often each rung is to be in the file")
	fs.BoolVar(&f.list, "list", false, "only name the rungs")
	return c
}

func (f *planMeasureFlags) run(cmd *cobra.Command) error {
	if f.list {
		for _, name := range measure.Rungs() {
			fmt.Fprintln(cmd.OutOrStdout(), name)
		}
		return nil
	}
	o := &f.o
	switch {
	case (o.PID > 0) == (f.start != ""):
		return misused("want --pid of a running node, or --start, the command that starts one")
	case f.start != "" && o.Metrics == "":
		return misused("--start needs --metrics, which tell when the node is ready")
	case o.Kind != "" && o.Kind != "cpu" && o.Kind != "memory":
		return misused("--kind %q is none of cpu, memory", o.Kind)
	case o.Duration < time.Second || o.Duration > time.Minute:
		return misused("--duration %v is not between 1s and 1m", o.Duration)
	}
	o.Start = strings.Fields(f.start)
	var err error
	if f.nodeLog != "" {
		log, err := os.Create(filepath.Clean(f.nodeLog))
		if err != nil {
			return err
		}
		defer log.Close()
		o.NodeLog = log
	}
	if o.TLS, err = f.tlsConfig(); err != nil {
		return err
	}
	if o.Username, o.Password, err = f.credentials(); err != nil {
		return err
	}
	if _, err := os.Stat(f.out); err == nil {
		if o.Done, err = plan.ReadObservationFiles([]string{f.out}); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(filepath.Clean(f.out), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	o.Version, o.Keep = version, measure.Writer(file)
	o.Progress = func(format string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", a...) }
	defer interruptible(cmd)()
	left, err := measure.Run(cmd.Context(), *o)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if left > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "%d rungs are left: the same command goes on with them.\n", left)
		return nil
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Done. Next: sluice plan fit %s -o model.json\n", f.out)
	return nil
}

func (f *planMeasureFlags) credentials() (user, password string, err error) {
	password, err = f.password()
	return f.user, password, err
}
