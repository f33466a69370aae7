package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/config"
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
	cfg  config.Config
	list []finding
}

func (d *doctor) say(check, status, do, found string, args ...any) {
	d.list = append(d.list, finding{Check: check, Status: status, Found: fmt.Sprintf(found, args...), Do: do})
}

func newDoctor() *cobra.Command {
	var f startFlags
	var output string
	c := &cobra.Command{
		Use: "doctor", Short: "Look at the machine and the data before a node runs", Args: atMost(0),
		Long: "Look at what a node with this configuration would meet: descriptors, memory, clock, ports, files, free space, how fast\n" +
			"the disk flushes and whether it takes direct I/O. It writes one small file into the data directory and removes it.\n" +
			"Exit code 1: something would keep the node from running.",
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.OutOrStdout(), &f, output) },
	}
	c.Flags().StringVarP(&f.file, "config", "c", "", "configuration file, YAML")
	c.Flags().StringVar(&f.data, "data", "", "data directory (node.data)")
	c.Flags().StringArrayVar(&f.set, "set", nil, "set one key: KEY=VALUE; may be repeated")
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	_ = c.MarkFlagDirname("data")
	return c
}

func runDoctor(out io.Writer, f *startFlags, output string) error {
	if !slices.Contains([]string{"table", "json", "yaml"}, output) {
		return misused("want --output table, json or yaml, found %q", output)
	}
	var d doctor
	loaded, err := f.load()
	if err != nil {
		d.say("configuration", "fail", "see `sluice check-config`", "%v", err)
	} else {
		d.cfg = loaded.Config
		d.say("configuration", "ok", "", "%d keys, all valid", len(config.Keys()))
		d.files()
		d.ports()
		d.data()
	}
	d.machine()
	if err := printFindings(out, output, d.list); err != nil {
		return err
	}
	if slices.ContainsFunc(d.list, func(x finding) bool { return x.Status == "fail" }) {
		return silent{errors.New("a check failed")}
	}
	return nil
}

func printFindings(out io.Writer, output string, list []finding) error {
	switch output {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(list)
	case "yaml":
		return yaml.NewEncoder(out).Encode(list)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, x := range list {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", x.Status, x.Check, strings.ReplaceAll(x.Found, "\n", "; "))
		if x.Do != "" {
			_, _ = fmt.Fprintf(w, "\t\t-> %s\n", x.Do)
		}
	}
	return w.Flush()
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

// ports tries to listen where the node would.
func (d *doctor) ports() {
	l := &d.cfg.Listeners
	lists := []config.Addrs{l.MQTT.TCP, l.MQTT.WS, l.HTTP}
	if d.cfg.TLSSet() {
		lists = append(lists, l.MQTT.TLS, l.MQTT.WSS)
	}
	var free []string
	for _, addr := range slices.Concat(lists...) {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			d.say("port", "warn", "a running node holds its own; else free it or set another address", "%v", err)
			continue
		}
		_ = ln.Close()
		free = append(free, addr)
	}
	if len(free) > 0 {
		d.say("port", "ok", "", "free: %s", strings.Join(free, ", "))
	}
}

// data looks at the directory, and at the disk below it.
func (d *doctor) data() {
	dir := d.cfg.Node.Data
	place := dir
	for {
		st, err := os.Stat(place)
		if err == nil && !st.IsDir() {
			d.say("data directory", "fail", "set node.data to another path", "%s is no directory", place)
			return
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(place) == place {
			d.say("data directory", "fail", "", "%v", err)
			return
		}
		place = filepath.Dir(place)
	}
	f, err := os.CreateTemp(place, ".sluice-doctor-*")
	if err != nil {
		d.say("data directory", "fail", "give the user that runs the node the right to write there", "%v", err)
		return
	}
	defer os.Remove(f.Name()) //nolint:errcheck // nothing is left to do about it
	defer f.Close()           //nolint:errcheck // nothing is kept in it
	switch {
	case place != dir:
		d.say("data directory", "ok", "", "%s is made at the first start", dir)
	default:
		d.say("data directory", "ok", "", "%s can be written", dir)
	}
	d.disk(place, f)
	if d.cfg.Journal.Durability != "memory" {
		d.say("data checksums", "skip", "", "every start checks what it replays and refuses to go on over corruption; there is no check beside it")
	}
}
