package s3tier

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/sluicemq/sluice/journal/tier"
)

// Options are what the store is opened with.
type Options struct {
	Endpoint string // "https://s3.eu-central-1.amazonaws.com", "http://minio:9000"
	Bucket   string // must be there
	Prefix   string // of all keys; a slash is put behind it
	Region   string // "": us-east-1
	Style    string // "auto": by the endpoint; "path", "virtual"
	CAFile   string // PEM, beside the system's; "": those alone
	Class    string // storage class of objects put without one

	// Credentials says where credentials come from: "auto" (the first that has any of: AccessKey, environment, file, the machine's), "static",
	// "env", "file", "web_identity", "machine" (the cloud's metadata), "none".
	Credentials                        string
	AccessKey, SecretKey, SessionToken string
	CredentialsFile, Profile           string // "": $AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials; "default"
	TokenFile, RoleARN, STSEndpoint    string // web identity; "": from AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN; Endpoint

	SSE        string // "none", "s3", "kms", "customer"
	SSEKey     string // kms: the key's id
	SSEKeyFile string // customer: a file of 32 bytes

	PartBytes  int64         // 0: 16 MiB. Smaller objects go in one request
	Buffers    int           // of PartBytes each, which all Puts share; 0: 2
	Timeout    time.Duration // until the head of an answer has come; 0: 30 s
	NoChecksum bool          // send no CRC-32C: for services that refuse it
	// SignPayload has the signature of an upload over plain HTTP cover what is uploaded, by SHA-256, and not its CRC-32C alone: for services that
	// want it. It is so anyway where there is no CRC-32C. Over TLS it is not done by anybody.
	SignPayload bool

	// Dial makes connections; nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// FromSettings opens what the settings say; docs/tiers.md lists them.
func FromSettings(ctx context.Context, s *tier.Settings) (tier.Store, error) {
	o := Options{
		Endpoint: s.Required("endpoint"), Bucket: s.Required("bucket"), Prefix: s.String("prefix", ""), Region: s.String("region", ""),
		Style: s.OneOf("style", "auto", "path", "virtual"), CAFile: s.String("ca_file", ""), Class: s.String("storage_class", ""),
		Credentials: s.OneOf("credentials", "auto", "static", "env", "file", "web_identity", "machine", "none"),
		AccessKey:   s.String("access_key", ""), SecretKey: s.String("secret_key", ""), SessionToken: s.String("session_token", ""),
		CredentialsFile: s.String("credentials_file", ""), Profile: s.String("profile", ""),
		TokenFile: s.String("token_file", ""), RoleARN: s.String("role_arn", ""), STSEndpoint: s.String("sts_endpoint", ""),
		SSE: s.OneOf("sse", "none", "s3", "kms", "customer"), SSEKey: s.String("sse_key", ""), SSEKeyFile: s.String("sse_key_file", ""),
		PartBytes: s.Int("part_bytes", 0, minPartBytes, 1<<30), Buffers: int(s.Int("buffers", 0, 1, 1024)),
		Timeout: s.Duration("timeout", 0), NoChecksum: !s.Bool("checksum", true),
		SignPayload: s.Bool("sign_payload", false),
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return Open(ctx, o)
}

// Open makes the client. It asks the service nothing: what is wrong with credentials or bucket is told at the first use.
func Open(_ context.Context, o Options) (*Store, error) {
	s := &Store{o: o}
	if err := s.open(); err != nil {
		return nil, tier.Wrap(context.Background(), kind, "open", o.Endpoint+"/"+o.Bucket, tier.Permanent, err)
	}
	return s, nil
}

func (s *Store) open() error {
	o := &s.o
	if o.PartBytes == 0 {
		o.PartBytes = partBytes
	}
	if o.Buffers == 0 {
		o.Buffers = partsAtOnce
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("endpoint %q is no http:// or https:// and a host", o.Endpoint)
	}
	if err := tier.CheckPrefix(o.Prefix); err != nil {
		return err
	}
	if o.Prefix != "" {
		s.prefix = strings.TrimSuffix(o.Prefix, "/") + "/"
	}
	if s.hc, err = transport(o); err != nil {
		return err
	}
	creds, err := s.credentials()
	if err != nil {
		return err
	}
	if s.sse, err = o.encryption(); err != nil {
		return err
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Transport: &meter{next: s.hc, asked: &s.asked, style: o.Style, where: o.Bucket}, Region: o.Region, MaxRetries: 1,
		BucketLookup: map[string]minio.BucketLookupType{"path": minio.BucketLookupPath, "virtual": minio.BucketLookupDNS}[o.Style],
	})
	if err != nil {
		return err
	}
	s.core = *core
	s.parts = make(chan []byte, o.Buffers)
	for range o.Buffers {
		s.parts <- nil
	}
	return nil
}

func transport(o *Options) (*http.Transport, error) {
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dial, MaxIdleConns: 64, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		ResponseHeaderTimeout: o.Timeout, TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: 10 * time.Second,
		DisableCompression: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CAFile == "" {
		return t, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", o.CAFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

func (s *Store) credentials() (*credentials.Credentials, error) {
	o := &s.o
	file := &credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile}
	machine := &credentials.IAM{Client: &http.Client{Transport: s.hc}} // the service's own counts requests
	switch o.Credentials {
	case "static":
		if o.AccessKey == "" || o.SecretKey == "" {
			return nil, errors.New("static credentials without access_key and secret_key")
		}
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken), nil
	case "env":
		return credentials.NewEnvAWS(), nil
	case "file":
		return credentials.New(file), nil
	case "web_identity":
		return s.webIdentity()
	case "machine":
		return credentials.New(machine), nil
	case "none":
		return credentials.NewStaticV4("", "", ""), nil
	case "", "auto":
		if o.AccessKey != "" {
			return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken), nil
		}
		return credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, file, machine}), nil
	}
	return nil, fmt.Errorf("no credentials are named %q", o.Credentials)
}

// webIdentity exchanges a token, which is read anew each time, for credentials.
func (s *Store) webIdentity() (*credentials.Credentials, error) {
	o := &s.o
	tokenFile, role, endpoint := o.TokenFile, o.RoleARN, o.STSEndpoint
	if tokenFile == "" {
		tokenFile = os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE")
	}
	if role == "" {
		role = os.Getenv("AWS_ROLE_ARN")
	}
	if endpoint == "" {
		endpoint = o.Endpoint
	}
	if tokenFile == "" {
		return nil, errors.New("web_identity without token_file")
	}
	return credentials.New(&credentials.STSWebIdentity{
		Client: &http.Client{Transport: s.hc, Timeout: o.Timeout}, STSEndpoint: endpoint, RoleARN: role,
		GetWebIDTokenExpiry: func() (*credentials.WebIdentityToken, error) {
			b, err := os.ReadFile(tokenFile)
			if err != nil {
				return nil, err
			}
			return &credentials.WebIdentityToken{Token: strings.TrimSpace(string(b))}, nil
		},
	}), nil
}

func (o *Options) encryption() (encrypt.ServerSide, error) {
	switch o.SSE {
	case "", "none":
		return nil, nil //nolint:nilnil // none is the client's nil
	case "s3":
		return encrypt.NewSSE(), nil
	case "kms":
		return encrypt.NewSSEKMS(o.SSEKey, nil)
	case "customer":
		key, err := os.ReadFile(o.SSEKeyFile)
		if err != nil {
			return nil, err
		}
		return encrypt.NewSSEC(key)
	}
	return nil, fmt.Errorf("no encryption is named %q", o.SSE)
}
