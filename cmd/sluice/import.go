package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/migrate/mosquitto"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/server"
)

func init() { register(newImport) }

// newImport makes sluice import.
func newImport() *cobra.Command {
	c := &cobra.Command{Use: "import", Short: "Take over what another broker goes by, and what it holds"}
	c.AddCommand(newImportMosquitto())
	return c
}

// importFlags are the flags of sluice import mosquitto.
type importFlags struct {
	config, out string
	force       bool
	from, to    clientFlags
	filter      string
}

func newImportMosquitto() *cobra.Command {
	f := &importFlags{}
	c := &cobra.Command{
		Use: "mosquitto", Short: "Take over Mosquitto's configuration, users and rules, and its retained messages", Args: atMost(0),
		Long: "With --config, read mosquitto.conf and the files that it names, and write sluice.yaml, users and acl into --out. Each line that is\n" +
			"not carried over, or that means something else here, is told with its place. With --from, fetch the retained messages of a\n" +
			"broker that runs, and publish them to --to. Passwords come from files or from the environment: SLUICE_PASSWORD is the one for --from.",
		Example: "  sluice import mosquitto --config /etc/mosquitto/mosquitto.conf --out /etc/sluice\n" +
			"  sluice import mosquitto --from old:1883 --user admin --password-file pw --to 127.0.0.1:1883",
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := c.Flags()
	fs.StringVar(&f.config, "config", "", "mosquitto.conf")
	fs.StringVar(&f.out, "out", "sluice-import", "directory to write into; it is made if it is not there")
	fs.BoolVar(&f.force, "force", false, "write over files that are there")
	fs.StringVar(&f.from.mqtt, "from", "", "running broker to fetch retained messages from: host:port, mqtts://, ws://, wss:// or unix://")
	f.from.addTLS(c)
	fs.IntVar(&f.from.version, "mqtt-version", 5, "of --from: 4 (3.1.1) or 5")
	fs.StringVar(&f.filter, "topic", "#", "filter of the messages to fetch")
	fs.StringVar(&f.to.mqtt, "to", defaultMQTT, "node to publish them to")
	fs.StringVar(&f.to.user, "to-user", "", "user name there")
	fs.StringVar(&f.to.passwordFile, "to-password-file", "", "file with the password there")
	fs.StringVar(&f.to.ca, "to-ca", "", "PEM file with the authorities to trust there (default: the system's)")
	fs.DurationVar(&f.from.timeout, "timeout", 30*time.Second, "of connecting and of each answer")
	_ = c.MarkFlagFilename("config", "conf")
	_ = c.MarkFlagDirname("out")
	return c
}

func (f *importFlags) run(cmd *cobra.Command) error {
	switch {
	case f.config == "" && f.from.mqtt == "":
		return misused("want --config, --from, or both")
	case f.from.version != 4 && f.from.version != 5:
		return misused("--mqtt-version %d is none of 4, 5", f.from.version)
	}
	if f.config != "" {
		if err := f.translate(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	if f.from.mqtt != "" {
		return f.copy(cmd)
	}
	return nil
}

// translate writes the files, checks that a node takes them, and tells what became of each line.
func (f *importFlags) translate(w io.Writer) error {
	dir, err := filepath.Abs(f.out)
	if err != nil {
		return err
	}
	made, err := mosquitto.Translate(f.config, dir)
	if err != nil {
		return err
	}
	if err := f.write(dir, made.Files); err != nil {
		return err
	}
	for _, kind := range []mosquitto.Kind{mosquitto.Lost, mosquitto.Differs, mosquitto.Unused} {
		for _, n := range made.Notes {
			if n.Kind == kind {
				if _, err := fmt.Fprintln(w, n); err != nil {
					return err
				}
			}
		}
	}
	file := filepath.Join(dir, "sluice.yaml")
	if _, err := fmt.Fprintf(w, "%s: %d users, %d rules\n", file, made.Users, made.Rules); err != nil {
		return err
	}
	loaded, err := config.Load(config.LoadOptions{File: file, CheckBinding: server.CheckBinding, CheckBridge: server.CheckBridge, CheckTier: server.CheckTier})
	if err == nil {
		_, err = server.New(loaded.Config, server.Options{})
	}
	if err != nil {
		return fmt.Errorf("a node does not take this configuration as it is:\n%w", err)
	}
	return nil
}

// write makes the files, all or none.
func (f *importFlags) write(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil && !f.force {
			return fmt.Errorf("%s is there: want another --out, or --force", filepath.Join(dir, name))
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range names {
		mode := fs.FileMode(0o600)
		if name == "sluice.yaml" {
			mode = 0o640
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, files[name], mode); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil { // of a file that was there
			return err
		}
	}
	return nil
}

// copy brings retained messages.
func (f *importFlags) copy(cmd *cobra.Command) error {
	defer interruptible(cmd)()
	f.to.version, f.to.timeout = 5, f.from.timeout
	from, err := f.from.connect(cmd, wire.Connect{CleanStart: true, SessionExpiry: 0})
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	to, err := f.target(cmd)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	done, err := mosquitto.Copy(from, to, f.filter)
	w := cmd.OutOrStdout()
	for _, topic := range done.Refused {
		if _, err := fmt.Fprintf(w, "refused: %s\n", topic); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(w, "%d retained messages with %d bytes copied, %d refused, %d gone meanwhile\n", done.Messages, done.Bytes, done.Failed, done.Gone); err != nil {
		return err
	}
	if err == nil && done.Failed > 0 {
		err = errors.New("not all messages were taken")
	}
	return errors.Join(err, from.Disconnect(), to.Disconnect())
}

// target connects to the node. The environment's password is for the other one.
func (f *importFlags) target(cmd *cobra.Command) (*mqttclient.Client, error) {
	secure, err := f.to.tlsConfig()
	if err != nil {
		return nil, err
	}
	k := wire.Connect{Version: wire.V5, CleanStart: true}
	if f.to.user != "" {
		k.UserName = []byte(f.to.user)
	}
	if f.to.passwordFile != "" {
		password, err := f.to.password()
		if err != nil {
			return nil, err
		}
		k.Password = []byte(password)
	}
	c, _, err := mqttclient.Connect(cmd.Context(), mqttclient.Options{URL: f.to.mqtt, TLS: secure, Connect: k, Timeout: f.to.timeout})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.to.mqtt, err)
	}
	return c, nil
}
