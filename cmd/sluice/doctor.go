package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/server"
)

func init() { register(newDoctor) }

// finding is what doctor says of one thing.
type finding struct {
	Check  string `json:"check" yaml:"check"`
	Status string `json:"status" yaml:"status"` // ok, warn, fail, skip
	Found  string `json:"found" yaml:"found"`
	Do     string `json:"do,omitempty" yaml:"do,omitempty"` // what to do next
}

// doctor gathers findings.
type doctor struct {
	cfg      config.Config
	flushFor time.Duration // how long flushes are measured
	holders  []int         // processes that hold the lock of the data directory
	list     []finding
}

func (d *doctor) say(check, status, do, found string, args ...any) {
	d.list = append(d.list, finding{Check: check, Status: status, Found: fmt.Sprintf(found, args...), Do: do})
}

func newDoctor() *cobra.Command {
	var f startFlags
	var out output
	c := &cobra.Command{
		Use: "doctor", Short: "Look at the machine and the data before a node runs", Args: atMost(0),
		Long: "Look at what a node with this configuration would meet: files, ports and who holds them, data directory, free space, how\n" +
			"fast the disk flushes and whether it takes direct I/O, descriptors, memory, clock. A line each: ok, warn, fail, or skip for\n" +
			"what was not looked at, with what to do. For a second it writes into one file in the data directory, which is removed.\n" +
			"Exit code 1: something failed, and would keep a node from running. It may look while a node runs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			defer interruptible(cmd)()
			return runDoctor(cmd.Context(), cmd.OutOrStdout(), &f, out)
		},
	}
	f.addConfig(c)
	f.addData(c)
	out.add(c)
	return c
}

func runDoctor(ctx context.Context, w io.Writer, f *startFlags, out output) error {
	began := time.Now()
	d := doctor{flushFor: time.Second}
	loaded, err := f.load()
	if err == nil {
		_, err = server.New(loaded.Config, server.Options{Version: version}) // reads the files that it names
	}
	if err != nil {
		d.say("configuration", "fail", "see `sluice check-config`; ports and data were not looked at, they depend on it", "%v", err)
	} else {
		d.cfg = loaded.Config
		d.say("configuration", "ok", "", "%d keys, all valid", len(config.Keys()))
		d.files()
		d.data(ctx)
		d.ports()
	}
	d.machine()
	d.steady(began)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	rows := make([][]string, 0, len(d.list))
	for _, x := range d.list {
		found := strings.ReplaceAll(x.Found, "\n", "; ")
		if x.Do != "" {
			found += " -> " + x.Do
		}
		rows = append(rows, []string{x.Status, x.Check, found})
	}
	if err := out.write(w, d.list, rows); err != nil {
		return err
	}
	if slices.ContainsFunc(d.list, func(x finding) bool { return x.Status == "fail" }) {
		return silent{errors.New("a check failed")}
	}
	return nil
}

// steady tells whether the wall clock was moved while the doctor looked.
func (d *doctor) steady(began time.Time) {
	now := time.Now()
	if off := now.Round(0).Sub(began.Round(0)) - now.Sub(began); off.Abs() > 100*time.Millisecond {
		d.say("clock steps", "warn", "have it slewed, not stepped: expiry of messages and sessions goes by it",
			"the wall clock moved by %v within %v", off.Round(time.Millisecond), now.Sub(began).Round(time.Millisecond))
	}
}

// files looks at what the configuration names: who else can read it, and when the certificate ends.
func (d *doctor) files() {
	for _, f := range []struct{ check, path string }{{"password file", d.cfg.Auth.PasswordFile}, {"rule file", d.cfg.Auth.ACLFile},
		{"key file", strings.TrimPrefix(d.cfg.TLS.Key.String(), "file:")}} {
		if f.path == "" || strings.HasPrefix(f.path, "env:") {
			continue
		}
		st, err := os.Stat(f.path)
		switch {
		case err != nil:
			d.say(f.check, "fail", "", "%v", err)
		case f.check != "rule file" && st.Mode().Perm()&0o007 != 0:
			d.say(f.check, "warn", "chmod o= "+f.path, "%s can be read by every user of the machine (%v)", f.path, st.Mode().Perm())
		default:
			d.say(f.check, "ok", "", "%s", f.path)
		}
	}
	if !d.cfg.TLSSet() {
		return
	}
	chain, err := os.ReadFile(d.cfg.TLS.Cert)
	if err != nil {
		d.say("certificate", "fail", "", "%v", err)
		return
	}
	pair, err := tls.X509KeyPair(chain, []byte(d.cfg.TLS.Key.Reveal()))
	if err != nil {
		d.say("certificate", "fail", "", "%v", err)
		return
	}
	switch left := time.Until(pair.Leaf.NotAfter); {
	case left <= 0:
		d.say("certificate", "fail", "get a new one", "%s ended %v", d.cfg.TLS.Cert, pair.Leaf.NotAfter)
	case left < 14*24*time.Hour:
		d.say("certificate", "warn", "get a new one, then reload", "%s ends in %v", d.cfg.TLS.Cert, left.Round(time.Hour))
	default:
		d.say("certificate", "ok", "", "%s, until %s", d.cfg.TLS.Cert, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
}
