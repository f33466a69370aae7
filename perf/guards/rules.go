package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicemq/sluice/bench"
)

// loads are those of the table of MQTT that a rule can touch: it is looked at with each publish, subscription and connection.
var loads = []struct {
	name string
	args []string
	cost func(*bench.Server) float64
}{
	{"QoS 0, pipelined", []string{"pairs", "--qos", "0", "--pipeline", "64"}, perMessage},
	{"QoS 1, 20 in flight", []string{"pairs", "--qos", "1", "--inflight", "20"}, perMessage},
	{"QoS 2, 20 in flight", []string{"pairs", "--qos", "2", "--inflight", "20"}, perMessage},
	{"fan-out 1 to 1,000", []string{"fanout", "--subscribers", "1000"}, perMessage},
	{"fan-in 1,000 to 1", []string{"fanin", "--publishers", "1000", "--rate", "20000"}, perMessage},
	{"connect storm", []string{"storm", "--connections", "10000"}, func(s *bench.Server) float64 { return s.CPUPerConnection }},
}

func perMessage(s *bench.Server) float64 { return s.CPUPerMessage }

const ruleCount = 1000

// rules drives each load against a node that lets everybody do everything, and one that wants a token and has 1,000 rules, the last of which allows it.
func (o *options) rules() error {
	dir, err := os.MkdirTemp("", "guards-rules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	settings, credentials, err := guard(dir)
	if err != nil {
		return err
	}
	print("\nCPU of a node with JSON Web Tokens and %d rules beside one with neither", ruleCount)
	for _, l := range loads {
		if !strings.HasPrefix(l.name, o.only) {
			continue
		}
		var all ratios
		var costs [2]float64
		for range o.rounds {
			if costs[0], err = o.cost(l.args, l.cost, nil, nil); err != nil {
				return fmt.Errorf("%s, open: %w", l.name, err)
			}
			if costs[1], err = o.cost(l.args, l.cost, settings, credentials); err != nil {
				return fmt.Errorf("%s, with rules: %w", l.name, err)
			}
			say("%s: %.2f and %.2f µs", l.name, costs[0], costs[1])
			all = append(all, costs[1]/costs[0])
		}
		print("  %-22s %s", l.name, all)
	}
	return nil
}

// guard writes what a node with tokens and rules needs, and gives its settings and the flags by which sluice bench gets in.
func guard(dir string) (settings, credentials []string, err error) {
	secret := []byte(strings.Repeat("s", 32))
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "load", "exp": time.Now().Add(time.Hour).Unix()}).SignedString(secret)
	if err != nil {
		return nil, nil, err
	}
	var rules strings.Builder
	for i := range ruleCount - 1 {
		fmt.Fprintf(&rules, "allow all by user plant-%d on plant/%d/#\n", i, i)
	}
	rules.WriteString("allow all by user load on #\n")
	for name, text := range map[string]string{"secret": string(secret), "token": token, "rules": rules.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, nil, err
		}
	}
	settings = []string{"auth.anonymous=off", "auth.jwt.secret=file:" + filepath.Join(dir, "secret"), "auth.acl_file=" + filepath.Join(dir, "rules")}
	return settings, []string{"--user", "load", "--password-file", filepath.Join(dir, "token")}, nil
}

// cost is what the load costs the node, µs a message or connection.
func (o *options) cost(load []string, of func(*bench.Server) float64, settings, credentials []string) (float64, error) {
	n, err := o.start(settings...)
	if err != nil {
		return 0, err
	}
	args := append(append([]string{}, load...), credentials...)
	if load[0] != "storm" {
		args = append(args, "--duration", o.duration.String())
	}
	r, err := n.bench(args...)
	if cerr := n.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, err
	}
	return of(r.Server), nil
}
