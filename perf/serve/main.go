// Command serve runs a node under a profile, to be driven by sluice bench from outside. The profile begins when the node is ready and
// ends with SIGINT or SIGTERM, before the node is drained: what a run has built up still stands then, so a heap profile shows it.
//
//	go run ./perf/serve --profile cpu --out /tmp/p --set node.data=/tmp/d --set listeners.mqtt.tcp=127.0.0.1:1883
//
// With --scenario it does all of it: the node on free ports with a directory of its own, the load by sluice bench in another process, the
// top of the profile. It is what make profile runs.
//
//	go run ./perf/serve --profile allocs --out bin/profile --scenario 'fanout --subscribers 1000'
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
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

// options are what the flags say.
type options struct {
	kind, out string
	rate      int
	set       settings
	scenario  string
	sluice    string
	top       int
}

func main() {
	var o options
	flag.StringVar(&o.kind, "profile", "cpu", "cpu, heap (what is held), allocs or mem (what is allocated), block, mutex, trace or clock")
	flag.StringVar(&o.out, "out", ".", "directory for the profile")
	flag.IntVar(&o.rate, "rate", 512, "heap, allocs: bytes between two samples; 1 is every allocation")
	flag.Var(&o.set, "set", "KEY=VALUE of the configuration; may be repeated")
	flag.StringVar(&o.scenario, "scenario", "", "drive the node by sluice bench: a scenario of it with its flags, or the name or file of one")
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the sluice binary that makes the load")
	flag.IntVar(&o.top, "top", 30, "with --scenario: so many lines of the profile are printed")
	flag.Parse()
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(o *options) error {
	if o.kind == "mem" {
		o.kind = "allocs"
	}
	mode, ok := kinds[o.kind]
	if !ok {
		return fmt.Errorf("profile %q: known are mem, %s", o.kind, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	load, err := o.prepare()
	if err != nil {
		return err
	}
	defer load.clean()
	debug.SetGCPercent(400) // as the product sets it
	modes := []func(*profile.Profile){mode, profile.ProfilePath(o.out), profile.NoShutdownHook, profile.Quiet}
	if o.kind == "heap" || o.kind == "allocs" {
		runtime.MemProfileRate = o.rate // what is there before the node is ready counts too
		modes = append(modes, profile.MemProfileRate(o.rate))
	}
	loaded, err := config.Load(config.LoadOptions{Set: slices.Concat(load.set, o.set)})
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
	p := profile.Start(modes...)
	if o.scenario != "" {
		err = load.drive(&ready, signals)
	} else {
		var line []byte
		if line, err = json.Marshal(ready); err == nil {
			fmt.Printf("ready %s\n", line) //nolint:forbidigo // the line that scripts wait for
			<-signals
		}
	}
	if o.kind == "heap" {
		runtime.GC()
		runtime.GC()
	}
	p.Stop()
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err == nil && o.scenario != "" {
		err = load.show()
	}
	return err
}
