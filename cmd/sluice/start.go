package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/server"
	"github.com/sluicemq/sluice/server/clustergroup"
)

func init() { register(newStart) }

// drainTimeout is how long a first signal waits for clients to go.
const drainTimeout = 5 * time.Second

type startFlags struct {
	file, data, level, format string
	set                       []string
	print                     bool
}

func newStart() *cobra.Command {
	var f startFlags
	c := &cobra.Command{
		Use: "start", Short: "Run a node", Args: atMost(0),
		Long: "Run a node until SIGTERM or SIGINT, which drain it; a second signal ends it at once. SIGHUP reloads what can be reloaded.\n" +
			"When every listener accepts, one line `ready {...}` goes to standard output; everything else goes to standard error.",
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.OutOrStdout()) },
	}
	f.addConfig(c)
	f.addData(c)
	c.Flags().StringVar(&f.level, "log-level", "", "debug, info, warn or error (log.level)")
	c.Flags().StringVar(&f.format, "log-format", "", "text or json (log.format)")
	c.Flags().BoolVar(&f.print, "print-config", false, "print the configuration in force, with the source of each value, and exit")
	return c
}

// addConfig adds the flags that say where the configuration is.
func (f *startFlags) addConfig(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "config", "c", "", "configuration file, YAML")
	c.Flags().StringArrayVar(&f.set, "set", nil, "set one key: KEY=VALUE; may be repeated")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	_ = c.RegisterFlagCompletionFunc("set", completeKeys)
}

func (f *startFlags) addData(c *cobra.Command) {
	c.Flags().StringVar(&f.data, "data", "", "data directory (node.data)")
	_ = c.MarkFlagDirname("data")
}

// completeKeys offers the keys of the configuration.
func completeKeys(_ *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, k := range config.Keys() {
		out = append(out, k.Name+"=")
	}
	return out, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

func (f *startFlags) load() (*config.Loaded, error) {
	o := config.LoadOptions{File: f.file, Environ: os.Environ(), Set: f.set, CheckBinding: server.CheckBinding, CheckBridge: server.CheckBridge, CheckTier: server.CheckTier}
	for _, v := range []config.Flag{{Name: "--data", Key: "node.data", Value: f.data},
		{Name: "--log-level", Key: "log.level", Value: f.level}, {Name: "--log-format", Key: "log.format", Value: f.format}} {
		if v.Value != "" {
			o.Flags = append(o.Flags, v)
		}
	}
	return config.Load(o)
}

func (f *startFlags) run(out io.Writer) error {
	loaded, err := f.load()
	if err != nil {
		return err
	}
	if f.print {
		return loaded.Print(out)
	}
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(loaded.Config.Log.Level)); err != nil {
		return err
	}
	logger := newLogger(loaded.Config.Log.Format, level)
	slog.SetDefault(logger)
	tuneMemory(logger)
	// Signals are taken before the node exists: one that comes while it starts must end it in order.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for again := false; ; again = true {
		s, err := server.New(loaded.Config, server.Options{Logger: logger, Version: version, Level: level, Cluster: clustergroup.New})
		if err != nil {
			return err
		}
		ready, ended, err := startUnlessEnded(s, signals, logger)
		if ended || err != nil {
			return err
		}
		if !again {
			if err := tellReady(out, &ready); err != nil {
				return errors.Join(err, s.Close())
			}
		}
		logger.Info("node is ready", "version", version, "node", ready.Node, "startup_ms", ready.StartupMS)
		if over, err := f.serve(s, signals, logger); over || err != nil {
			return err
		}
		if next, err := f.load(); err == nil { // what was changed meanwhile counts
			loaded = next
		}
	}
}

// startUnlessEnded starts a node. A signal that comes meanwhile ends its waiting for others; a node that starts all the same gets it afterwards.
func startUnlessEnded(s *server.Server, signals chan os.Signal, logger *slog.Logger) (ready server.Ready, ended bool, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	over, heard := make(chan struct{}), make(chan []os.Signal, 1)
	go func() {
		var held []os.Signal
		for {
			select {
			case sig := <-signals:
				if held = append(held, sig); sig != syscall.SIGHUP {
					cancel()
				}
			case <-over:
				heard <- held
				return
			}
		}
	}()
	ready, err = s.Start(ctx)
	close(over)
	held := <-heard
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		logger.Info("stopped before the node was ready", "why", err)
		return ready, true, nil
	}
	for _, sig := range held[:min(len(held), cap(signals))] {
		select {
		case signals <- sig:
		default: // as many have come since
		}
	}
	return ready, false, err
}

// tellReady writes the one line on standard output.
func tellReady(out io.Writer, ready *server.Ready) error {
	line, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "ready %s\n", line)
	return err
}

func newLogger(format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// serve waits for signals until one ends the node. over false: another one is to take its place.
func (f *startFlags) serve(s *server.Server, signals <-chan os.Signal, logger *slog.Logger) (over bool, err error) {
	for waiting := true; waiting; {
		select {
		case <-s.Again():
			return false, s.Close()
		case sig := <-signals:
			if waiting = sig == syscall.SIGHUP; waiting {
				f.reload(s, logger)
			} else {
				logger.Info("draining", "signal", sig.String())
			}
		}
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		if err := s.Drain(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			logger.Warn("drain", "err", err)
		}
		done <- s.Close()
	}()
	for {
		select {
		case err := <-done:
			if err == nil {
				logger.Info("stopped")
			}
			return true, err
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				return true, fmt.Errorf("ended by a second signal (%s) before it was drained", sig)
			}
		}
	}
}

func (f *startFlags) reload(s *server.Server, logger *slog.Logger) {
	loaded, err := f.load()
	var report []string
	if err == nil {
		report, err = s.Reload(loaded.Config)
	}
	if err != nil {
		logger.Error("reload refused; everything is as it was", "err", err)
		return
	}
	for _, line := range report {
		logger.Info("reload", "change", line)
	}
}
