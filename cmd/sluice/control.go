package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// defaultControl is where commands look for a node's control plane.
const defaultControl = "127.0.0.1:1228"

// Environment variables of the commands that speak to the control plane.
const (
	serverVariable = "SLUICE_SERVER"
	tokenVariable  = "SLUICE_TOKEN"
	caVariable     = "SLUICE_CA"
	certVariable   = "SLUICE_CERT"
	keyVariable    = "SLUICE_KEY"
)

// controlTimeout is how long one call may take.
const controlTimeout = 30 * time.Second

// controlFlags are what all commands share that speak to the control plane.
type controlFlags struct {
	server, token, ca string
	cert, key         string
	tenant            string // empty: none is named
	insecure          bool
	timeout           time.Duration
	output            output
}

func (f *controlFlags) add(c *cobra.Command) {
	fs := c.PersistentFlags()
	fs.StringVar(&f.server, "server", "", "control plane of the node: HOST:PORT, or grpcs://HOST:PORT for TLS (default "+serverVariable+", or "+defaultControl+")")
	fs.StringVar(&f.token, "token", "", "its auth.control_token, or one of control.principals: file:PATH, env:NAME or the token, which others on this machine can then see (default "+tokenVariable+")")
	fs.StringVar(&f.ca, "ca", "", "PEM file with the authorities to trust for grpcs:// (default "+caVariable+", or the system's)")
	fs.StringVar(&f.cert, "cert", "", "PEM file with the certificate to show in place of a token, for grpcs:// (default "+certVariable+")")
	fs.StringVar(&f.key, "key", "", "PEM file with its private key (default "+keyVariable+", or the file of --cert)")
	fs.BoolVar(&f.insecure, "insecure", false, "do not check the server's certificate")
	fs.DurationVar(&f.timeout, "timeout", controlTimeout, "how long one call may take")
	for _, name := range []string{"ca", "cert", "key"} {
		_ = c.MarkPersistentFlagFilename(name, "pem", "crt", "key")
	}
	_ = c.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("token", cobra.NoFileCompletions)
}

// secret is the token to show, empty for none.
func (f *controlFlags) secret() (string, error) {
	text := f.token
	if text == "" {
		text = os.Getenv(tokenVariable)
	}
	if name, ok := strings.CutPrefix(text, "env:"); ok {
		if v := os.Getenv(name); v != "" {
			return v, nil
		}
		return "", misused("--token %s: the environment variable %s is not set", text, name)
	}
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	return text, nil
}

// bearer shows the token with each call.
type bearer string

// GetRequestMetadata gives the header.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is no: on loopback there is none.
func (bearer) RequireTransportSecurity() bool { return false }

// target is the address to call, and whether by TLS.
func (f *controlFlags) target() (address string, secure bool, err error) {
	address = f.server
	if address == "" {
		address = os.Getenv(serverVariable)
	}
	if address == "" {
		address = defaultControl
	}
	address, secure = strings.CutPrefix(address, "grpcs://")
	if !secure {
		address = strings.TrimPrefix(address, "grpc://")
	}
	if host, port, ok := strings.Cut(address, ":"); !ok && host != "" || port == "" && host == "" || strings.Contains(address, "/") {
		return "", false, misused("--server %q: want HOST:PORT or grpcs://HOST:PORT", address)
	}
	if (f.ca != "" || f.cert != "" || f.key != "" || f.insecure) && !secure {
		return "", false, misused("--ca, --cert, --key and --insecure are for TLS: want --server grpcs://%s", address)
	}
	return address, secure, nil
}

// dial makes the connection; nothing is sent yet.
func (f *controlFlags) dial() (*grpc.ClientConn, error) {
	address, secure, err := f.target()
	if err != nil {
		return nil, err
	}
	token, err := f.secret()
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if secure {
		ca, cert, key := cmp.Or(f.ca, os.Getenv(caVariable)), cmp.Or(f.cert, os.Getenv(certVariable)), cmp.Or(f.key, os.Getenv(keyVariable))
		if key == "" {
			key = cert
		}
		cfg, err := tlsConfig(ca, cert, key, f.insecure)
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(cfg)
	}
	o := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithUserAgent("sluice/" + version), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20))}
	if token != "" {
		o = append(o, grpc.WithPerRPCCredentials(bearer(token)))
	}
	if f.tenant != "" {
		o = append(o, grpc.WithPerRPCCredentials(ofTenant(f.tenant)))
	}
	return grpc.NewClient("passthrough:///"+address, o...)
}

// call runs fn with a connection. fn makes its calls within the context that it gets anew for each from each.
func (f *controlFlags) call(cmd *cobra.Command, fn func(k *controlCall) error) error {
	if err := f.output.check(); err != nil {
		return err
	}
	defer interruptible(cmd)()
	conn, err := f.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	k := &controlCall{ClientConn: conn, cmd: cmd, f: f}
	return k.explain(fn(k))
}

// controlCall is one command's use of the control plane.
type controlCall struct {
	*grpc.ClientConn
	cmd *cobra.Command
	f   *controlFlags
}

// within gives the context of one call.
func (k *controlCall) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(k.cmd.Context(), k.f.timeout)
}

// ask makes one call.
func ask[Q, R any](k *controlCall, method func(context.Context, *Q, ...grpc.CallOption) (*R, error), q *Q) (*R, error) {
	ctx, cancel := k.within()
	defer cancel()
	return method(ctx, q)
}

// explain makes an error of the command line of what the node has answered.
func (k *controlCall) explain(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	address := k.Target()
	address = address[strings.LastIndexByte(address, '/')+1:]
	switch st.Code() { //nolint:exhaustive // all others say themselves what to do
	case codes.InvalidArgument:
		return misuse{errors.New(st.Message())}
	case codes.Unavailable:
		if strings.Contains(st.Message(), "connection error") || strings.Contains(st.Message(), "error reading server preface") {
			return fmt.Errorf("ask the control plane at %s: %s; is a node running there (sluice start), and is --server right?", address, cause(st.Message()))
		}
	case codes.Unimplemented:
		return fmt.Errorf("ask the control plane at %s: it does not know this (%s): is it an older node?", address, st.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("ask the control plane at %s: no answer within %v; --timeout gives it longer", address, k.f.timeout)
	case codes.Canceled:
		return errors.New("interrupted")
	}
	return errors.New(st.Message())
}

// cause is the inner part of what gRPC says of a connection that failed.
func cause(message string) string {
	if i := strings.Index(message, `desc = "`); i >= 0 {
		message = strings.TrimSuffix(message[i+len(`desc = "`):], `"`)
	}
	return strings.TrimPrefix(message, "transport: ")
}

// group makes the command of a group, below which subs are; its flags are theirs.
func (f *controlFlags) group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	f.add(c)
	c.AddCommand(subs...)
	return c
}

// number shows a count; dash for what is not known.
func number[T ~int32 | ~int64 | ~uint64 | ~int](n T) string { return strconv.FormatInt(int64(n), 10) }

// sizeText shows bytes as a reader wants them: three digits and a unit.
func sizeText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	v, u := float64(n)/1024, 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	digits := 1
	if v >= 99.95 {
		digits = 0
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + string(units[u]) + "iB"
}

// age shows a time span with one or two units.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// stamp is a time in Unix milliseconds as all outputs have it; empty for 0.
func stamp(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

// orDash is for cells of a table that would be empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
