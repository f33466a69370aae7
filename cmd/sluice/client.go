package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// misused is an error of the command line.
func misused(format string, args ...any) error { return misuse{fmt.Errorf(format, args...)} }

// atMost refuses more than n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return misused("too many arguments: %s", strings.Join(args, " "))
		}
		return nil
	}
}

// interruptible has a command's context end with SIGINT and SIGTERM.
func interruptible(cmd *cobra.Command) (stop func()) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	cmd.SetContext(ctx)
	return stop
}

// defaultMQTT is where pub, sub and bench look for a broker.
const defaultMQTT = "127.0.0.1:1883"

// passwordVariable is the environment variable that holds a password.
const passwordVariable = "SLUICE_PASSWORD"

// clientFlags are what all MQTT clients of the command line share.
type clientFlags struct {
	mqtt         string
	version      int
	user         string
	passwordFile string
	ca           string
	cert, key    string
	insecure     bool
	id           string
	keepAlive    time.Duration
	timeout      time.Duration
}

// addTLS adds the flags for credentials and certificates, which bench has too.
func (f *clientFlags) addTLS(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.user, "user", "", "user name")
	fs.StringVar(&f.passwordFile, "password-file", "", "file with the password (or set "+passwordVariable+")")
	fs.StringVar(&f.ca, "ca", "", "PEM file with the authorities to trust for mqtts:// and wss:// (default: the system's)")
	fs.StringVar(&f.cert, "cert", "", "PEM file with a client certificate")
	fs.StringVar(&f.key, "key", "", "PEM file with its key")
	fs.BoolVar(&f.insecure, "insecure", false, "do not check the server's certificate")
}

func (f *clientFlags) add(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.mqtt, "mqtt", "", "speak MQTT, to host:port, mqtts://, ws://, wss:// or unix:// (default "+defaultMQTT+")")
	fs.Lookup("mqtt").NoOptDefVal = defaultMQTT
	fs.IntVar(&f.version, "mqtt-version", 5, "3 (3.1), 4 (3.1.1) or 5")
	fs.StringVar(&f.id, "id", "", "client id (default: the server chooses)")
	fs.DurationVar(&f.keepAlive, "keep-alive", time.Minute, "keep-alive; 0: never")
	f.addTLS(c)
}

// address takes the one argument that may follow a bare --mqtt.
func (f *clientFlags) address(args []string) error {
	switch {
	case len(args) == 1 && (f.mqtt == "" || f.mqtt == defaultMQTT):
		f.mqtt = args[0]
	case len(args) > 0:
		return misused("too many arguments: %s", strings.Join(args, " "))
	case f.mqtt == "":
		f.mqtt = defaultMQTT
	}
	if _, err := mqttclient.ParseTarget(f.mqtt); err != nil {
		return misuse{err}
	}
	if f.version < 3 || f.version > 5 {
		return misused("--mqtt-version %d is none of 3, 4, 5", f.version)
	}
	if f.keepAlive < 0 || f.keepAlive > 65535*time.Second {
		return misused("--keep-alive %v is not between 0 and 65535s", f.keepAlive)
	}
	return nil
}

// password comes from a file or the environment, never from the command line, which every process can read.
func (f *clientFlags) password() (string, error) {
	if f.passwordFile == "" {
		return os.Getenv(passwordVariable), nil
	}
	b, err := os.ReadFile(f.passwordFile)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// trust has cfg trust the authorities in a PEM file; without one, the system's.
func trust(cfg *tls.Config, file string) error {
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the authorities: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate in PEM form in it", file)
	}
	return nil
}

func (f *clientFlags) tlsConfig() (*tls.Config, error) {
	return tlsConfig(f.ca, f.cert, f.key, f.insecure)
}

// tlsConfig trusts the authorities in ca, the system's if that is empty, and shows the certificate in cert, if any.
func tlsConfig(ca, cert, key string, insecure bool) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure}
	if err := trust(cfg, ca); err != nil {
		return nil, err
	}
	if (cert == "") != (key == "") {
		return nil, misused("--cert and --key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// connect makes a connection with what k has more than the flags say.
func (f *clientFlags) connect(cmd *cobra.Command, k wire.Connect) (*mqttclient.Client, error) {
	secure, err := f.tlsConfig()
	if err != nil {
		return nil, err
	}
	password, err := f.password()
	if err != nil {
		return nil, err
	}
	k.Version = byte(f.version)
	k.ClientID = []byte(f.id)
	k.KeepAlive = uint16(f.keepAlive / time.Second)
	if f.user != "" {
		k.UserName = []byte(f.user)
	}
	if password != "" {
		k.Password = []byte(password)
	}
	c, _, err := mqttclient.Connect(cmd.Context(), mqttclient.Options{URL: f.mqtt, TLS: secure, Connect: k, Timeout: f.timeout})
	var refused *mqttclient.RefusedError
	switch {
	case errors.As(err, &refused) && (refused.Reason == wire.NotAuthorized || refused.Reason == wire.BadUserNameOrPassword):
		return nil, fmt.Errorf("%s: %w; give --user, and the password by --password-file or %s", f.mqtt, err, passwordVariable)
	case errors.As(err, &refused):
		return nil, fmt.Errorf("%s: %w", f.mqtt, err)
	case err != nil:
		return nil, fmt.Errorf("%w; is a broker listening at %s? (sluice start)", err, f.mqtt)
	}
	return c, nil
}

// userProperties reads NAME=VALUE pairs.
func userProperties(pairs []string) (block wire.UserProperties, err error) {
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, misused("--property %q is not NAME=VALUE", p)
		}
		block = wire.AppendUserProperty(block, []byte(name), []byte(value))
	}
	return block, nil
}
