package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/server"
)

// load is a scenario that drives the node from a process of its own.
type load struct {
	o     *options
	args  []string // of sluice
	set   []string // for the node
	began time.Time
	dir   string
}

// prepare finds out what drives the node; without a scenario that is somebody else.
func (o *options) prepare() (*load, error) {
	l := &load{o: o, began: time.Now()}
	if o.scenario == "" {
		return l, nil
	}
	var err error
	if l.args, err = benchArgs(o.scenario); err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(o.sluice); err != nil {
		return nil, fmt.Errorf("%w: make build makes it", err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp("", "profile"); err != nil {
		return nil, err
	}
	l.set = []string{"node.data=" + filepath.Join(l.dir, "data"), "listeners.mqtt.tcp=127.0.0.1:0", "listeners.kafka.tcp=127.0.0.1:0", "listeners.mqtt.ws=off",
		"listeners.http=off", "listeners.grpc=off"}
	return l, nil
}

// benchArgs makes of "pairs --qos 1", "produce", "kafka e2e --rate 2000", or the name or file of a scenario, the arguments of sluice.
func benchArgs(scenario string) ([]string, error) {
	words := strings.Fields(scenario)
	if len(words) == 0 {
		return nil, errors.New("the scenario is empty")
	}
	switch first := words[0]; {
	case first == "mqtt" || first == "kafka" || first == "run":
	case slices.Contains(bench.Scenarios(), first):
		words = append([]string{"mqtt"}, words...)
	case slices.Contains(bench.KafkaScenarios(), first):
		words = append([]string{"kafka"}, words...)
	default:
		words = append([]string{"run"}, words...)
	}
	if len(words) == 1 {
		return nil, fmt.Errorf("%q names no scenario", scenario)
	}
	return append([]string{"bench"}, words...), nil
}

// drive runs the load until it ends or a signal comes. A result with a violation, or none because the generator lacked something, is no reason
// to throw the profile away: the load says so itself.
func (l *load) drive(ready *server.Ready, signals <-chan os.Signal) error {
	mqtt, kafka := "mqtt://"+ready.Listeners["mqtt.tcp"], "kafka://"+ready.Listeners["kafka.tcp"]
	args := slices.Clone(l.args)
	switch {
	case args[1] == "kafka" && args[2] == "bound":
		args = append(args, "--url", kafka, "--mqtt", mqtt)
	case args[1] == "kafka":
		args = append(args, "--url", kafka)
	case args[1] == "mqtt":
		args = append(args, "--url", mqtt)
	default:
		args = append(args, "--url", mqtt, "--url", kafka)
	}
	cmd := exec.Command(l.o.sluice, append(args, "--pid", strconv.Itoa(os.Getpid()))...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this process, which passes it on
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() != 2 { // 2: it did not understand
				fmt.Fprintln(os.Stderr, "serve: the load ended with", err)
				return nil
			}
			return err
		case <-signals:
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
}

// show names the profile and prints the top of it.
func (l *load) show() error {
	names, err := filepath.Glob(filepath.Join(l.o.out, "*.p*"))
	if err != nil {
		return err
	}
	file := ""
	newest := l.began
	for _, name := range append(names, filepath.Join(l.o.out, "trace.out")) {
		if info, err := os.Stat(name); err == nil && !info.ModTime().Before(newest) {
			file, newest = name, info.ModTime()
		}
	}
	if file == "" {
		return fmt.Errorf("no profile in %s", l.o.out)
	}
	if l.o.kind == "trace" {
		fmt.Printf("\ngo tool trace %s\n", file) //nolint:forbidigo // the result
		return nil
	}
	args := []string{"tool", "pprof", "-top", "-nodecount=" + strconv.Itoa(l.o.top)}
	if l.o.kind == "allocs" {
		args = append(args, "-sample_index=alloc_space")
	}
	fmt.Printf("\ngo %s %s\n", strings.Join(args, " "), file) //nolint:forbidigo // the result
	cmd := exec.Command("go", append(args, file)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func (l *load) clean() {
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
}
