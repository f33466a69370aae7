// Command serve runs a node under a profile, to be driven by sluice bench from outside. The profile begins when the node is ready and
// ends with SIGINT or SIGTERM, before the node is drained: what a run has built up still stands then, so a heap profile shows it.
//
//	go run ./perf/serve --profile cpu --out /tmp/p --set node.data=/tmp/d --set listeners.mqtt.tcp=127.0.0.1:1883
//
// Read it with go tool pprof.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/pkg/profile"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/server"
)

// kinds are the profiles by name.
var kinds = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "heap": profile.MemProfileHeap, "allocs": profile.MemProfileAllocs, "block": profile.BlockProfile,
	"mutex": profile.MutexProfile, "trace": profile.TraceProfile, "clock": profile.ClockProfile,
}

type settings []string

func (s *settings) String() string { return strings.Join(*s, " ") }

func (s *settings) Set(v string) error {
	*s = append(*s, v)
	return nil
}

func main() {
	var set settings
	kind := flag.String("profile", "cpu", "cpu, heap, allocs, block, mutex, trace or clock")
	out := flag.String("out", ".", "directory for the profile")
	rate := flag.Int("rate", 512, "heap, allocs: bytes between two samples; 1 is every allocation")
	flag.Var(&set, "set", "KEY=VALUE of the configuration; may be repeated")
	flag.Parse()
	if err := run(*kind, *out, *rate, set); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(kind, out string, rate int, set []string) error {
	mode, ok := kinds[kind]
	if !ok {
		var names []string
		for name := range kinds {
			names = append(names, name)
		}
		slices.Sort(names)
		return fmt.Errorf("profile %q: known are %s", kind, strings.Join(names, ", "))
	}
	debug.SetGCPercent(400) // as the product sets it
	options := []func(*profile.Profile){mode, profile.ProfilePath(out), profile.NoShutdownHook, profile.Quiet}
	if kind == "heap" || kind == "allocs" {
		runtime.MemProfileRate = rate // what is there before the node is ready counts too
		options = append(options, profile.MemProfileRate(rate))
	}
	loaded, err := config.Load(config.LoadOptions{Set: set})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	s, err := server.New(loaded.Config, server.Options{Logger: slog.New(slog.DiscardHandler), Version: "perf"})
	if err != nil {
		return err
	}
	ready, err := s.Start(context.Background())
	if err != nil {
		return err
	}
	p := profile.Start(options...)
	line, err := json.Marshal(ready)
	if err == nil {
		fmt.Printf("ready %s\n", line) //nolint:forbidigo // the line that scripts wait for
		<-signals
	}
	if kind == "heap" {
		runtime.GC()
		runtime.GC()
	}
	p.Stop()
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	return err
}
