package s3tier

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/tiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

func (f *fake) options() Options {
	return Options{Endpoint: f.URL, Bucket: "vault", Prefix: "pre/fix", Style: "path", Credentials: "static", AccessKey: "key", SecretKey: "secret"}
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// env is the contract against an endpoint; each test has a prefix of its own.
func env(o Options) tiertest.Env {
	var n atomic.Int64
	prefixes := map[string]string{}
	run := time.Now().UnixNano()
	at := func(t testing.TB) Options {
		t.Helper()
		mine := o
		if prefixes[t.Name()] == "" {
			prefixes[t.Name()] = fmt.Sprintf("contract-%x/%d", run, n.Add(1))
		}
		mine.Prefix = prefixes[t.Name()]
		return mine
	}
	open := func(t testing.TB, o Options) tier.Store {
		t.Helper()
		s, err := Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return tiertest.Env{
		Open: func(t testing.TB) tier.Store { t.Helper(); return open(t, at(t)) },
		OpenVia: func(t testing.TB, n *tiertest.Net) tier.Store {
			t.Helper()
			mine := at(t)
			mine.Dial = n.Dial
			return open(t, mine)
		},
		OpenDenied: func(t testing.TB) (tier.Store, error) {
			t.Helper()
			mine := at(t)
			mine.AccessKey = "wrong"
			return Open(ctx, mine)
		},
		OpenUnreachable: func(t testing.TB) (tier.Store, error) {
			t.Helper()
			mine := at(t)
			mine.Endpoint = "http://" + testx.ClosedAddr(t)
			return Open(ctx, mine)
		},
	}
}

func TestContract(t *testing.T) {
	e := env(newFake(t).options())
	e.Many = 1100
	e.Memory = 1 << 30 // the service's memory is ours
	tiertest.Run(t, e)
}

// TestContractReal runs against a service: SLUICE_TEST_S3 is its URL, with a bucket as its path; SLUICE_TEST_S3_KEY and _SECRET, and
// SLUICE_TEST_S3_CA for one with TLS. The bucket is made if it is not there.
func TestContractReal(t *testing.T) {
	where := os.Getenv("SLUICE_TEST_S3")
	if where == "" {
		t.Skip("SLUICE_TEST_S3=http://host:port/bucket names no service")
	}
	i := strings.LastIndexByte(where, '/')
	o := Options{Endpoint: where[:i], Bucket: where[i+1:], Style: "path", Credentials: "static", AccessKey: os.Getenv("SLUICE_TEST_S3_KEY"),
		SecretKey: os.Getenv("SLUICE_TEST_S3_SECRET"), CAFile: os.Getenv("SLUICE_TEST_S3_CA")}
	s := mustOpen(t, o)
	if err := s.core.MakeBucket(ctx, o.Bucket, minio.MakeBucketOptions{}); err != nil && minio.ToErrorResponse(err).Code != "BucketAlreadyOwnedByYou" {
		t.Fatal(err)
	}
	e := env(o)
	e.Big = 64 << 20
	tiertest.Run(t, e)
}

func put(s *Store, name string, b []byte, o tier.PutOptions) error {
	return s.Put(ctx, name, bytes.NewReader(b), int64(len(b)), o)
}

func read(s *Store, name string, r tier.Range) ([]byte, error) {
	body, _, err := s.Get(ctx, name, r)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(body)
	return b, errors.Join(err, body.Close())
}

// TestConditionsIgnored: a service that ignores If-None-Match is found out, and not relied upon.
func TestConditionsIgnored(t *testing.T) {
	f := newFake(t)
	f.ignoreConditions = true
	e := env(f.options())
	e.NoIfAbsent, e.Memory, e.Many, e.OpenVia = true, 1<<30, 10, nil
	tiertest.Run(t, e)
	f.ignoreConditions, f.ignoreInParts = false, true
	s := mustOpen(t, f.options())
	if err := put(s, "small", []byte("x"), tier.PutOptions{IfAbsent: true}); err != nil {
		t.Error(err)
	}
	if err := put(s, "large", make([]byte, partBytes+1), tier.PutOptions{IfAbsent: true}); !errors.Is(err, tier.ErrUnsupported) {
		t.Errorf("a large object: %v", err)
	}
	for key := range f.mu.objects {
		if strings.Contains(key, probeDir) {
			t.Errorf("%s was left", key)
		}
	}
	if n := len(f.mu.uploads); n > 0 {
		t.Errorf("%d uploads were left", n)
	}
	f.failNow(func(r *http.Request) (int, string) {
		if r.Header.Get("If-None-Match") != "" {
			return http.StatusNotImplemented, "NotImplemented"
		}
		return 0, ""
	})
	if err := put(mustOpen(t, f.options()), "small2", []byte("x"), tier.PutOptions{IfAbsent: true}); !errors.Is(err, tier.ErrUnsupported) {
		t.Errorf("a service that refuses the header: %v", err)
	}
}

// TestRefusals maps each refusal of a service to its kind, for small and large objects, reads and lists.
func TestRefusals(t *testing.T) {
	f := newFake(t)
	s := mustOpen(t, f.options())
	if err := put(s, "a", []byte("x"), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{503, "SlowDown", tier.ErrThrottled}, {429, "", tier.ErrThrottled}, {503, "ServiceUnavailable", tier.ErrUnavailable}, {500, "InternalError", tier.ErrUnavailable},
		{403, "AccessDenied", tier.ErrDenied}, {403, "SignatureDoesNotMatch", tier.ErrDenied}, {401, "", tier.ErrDenied}, {507, "XMinioStorageFull", tier.ErrFull},
		{501, "NotImplemented", tier.ErrUnsupported}, {400, "InvalidArgument", tier.ErrPermanent}, {404, "NoSuchBucket", tier.ErrPermanent},
		{400, "EntityTooLarge", tier.ErrTooLarge}, {400, "BadDigest", tier.ErrUnavailable},
	} {
		f.failNow(func(*http.Request) (int, string) { return c.status, c.code })
		errs := map[string]error{
			"put": put(s, "b", []byte("x"), tier.PutOptions{}), "large put": put(s, "b", make([]byte, partBytes+1), tier.PutOptions{}), "delete": s.Delete(ctx, "a"),
		}
		_, errs["get"] = read(s, "a", tier.Range{})
		_, _, errs["list"] = s.List(ctx, "", "", 0)
		for what, err := range errs {
			if !errors.Is(err, c.want) {
				t.Errorf("%s, answered %d %s: %v, not %v", what, c.status, c.code, err, c.want)
			}
		}
	}
	// The second part is refused: the upload goes, and there is no object.
	f.failNow(func(r *http.Request) (int, string) {
		if r.URL.Query().Get("partNumber") == "2" {
			return 503, "SlowDown"
		}
		return 0, ""
	})
	if err := put(s, "b", make([]byte, 3*partBytes), tier.PutOptions{}); !errors.Is(err, tier.ErrThrottled) {
		t.Error(err)
	}
	f.failNow(nil)
	if _, err := s.Stat(ctx, "b"); !errors.Is(err, tier.ErrNotFound) {
		t.Error(err)
	}
	if len(f.mu.uploads) > 0 {
		t.Errorf("%d uploads were not aborted", len(f.mu.uploads))
	}
}

// TestDamagedOnItsWay: the service refuses bytes that are not those that were sent.
func TestDamagedOnItsWay(t *testing.T) {
	f := newFake(t)
	o := f.options()
	flip := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		b = bytes.Replace(b, []byte("truth"), []byte("trush"), 1)
		r.Body = io.NopCloser(bytes.NewReader(b))
		f.ServeHTTP(w, r)
	})
	srv := httptest.NewServer(flip)
	defer srv.Close()
	o.Endpoint = srv.URL
	s := mustOpen(t, o)
	large := append(make([]byte, partBytes), "truth"...)
	for _, b := range [][]byte{[]byte("the truth"), large} {
		if err := put(s, "a", b, tier.PutOptions{}); !tier.Temporary(err) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	if len(f.mu.objects) > 0 {
		t.Error("stored all the same")
	}
}

// TestRangesIgnored: a service that sends all, whatever was asked for.
func TestRangesIgnored(t *testing.T) {
	f := newFake(t)
	f.ignoreRanges = true
	s := mustOpen(t, f.options())
	if err := put(s, "a", []byte("0123456789"), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for r, want := range map[tier.Range]string{{Off: 3, Len: 2}: "34", {Off: -3}: "789", {Off: 4}: "456789", {Off: -100}: "0123456789"} {
		if b, err := read(s, "a", r); err != nil || string(b) != want {
			t.Errorf("%+v: %q, %v", r, b, err)
		}
	}
}

func TestSweep(t *testing.T) {
	f := newFake(t)
	s := mustOpen(t, f.options())
	f.mu.uploads["old"] = &fakeUpload{key: "pre/fix/a", at: time.Now().Add(-48 * time.Hour), parts: map[int][]byte{}}
	f.mu.uploads["new"] = &fakeUpload{key: "pre/fix/b", at: time.Now(), parts: map[int][]byte{}}
	if n, err := s.Sweep(ctx, 24*time.Hour); n != 1 || err != nil || f.mu.uploads["new"] == nil {
		t.Errorf("swept %d, %v", n, err)
	}
}

// TestRequests: what is asked for is what a bill counts.
func TestRequests(t *testing.T) {
	f := newFake(t)
	s := mustOpen(t, f.options())
	if err := put(s, "a", make([]byte, partBytes), tier.PutOptions{Class: "STANDARD_IA"}); err != nil {
		t.Fatal(err)
	}
	if f.mu.seen[0].Get("X-Amz-Storage-Class") != "STANDARD_IA" {
		t.Errorf("headers %v", f.mu.seen[0])
	}
	if _, err := read(s, "a", tier.Range{Off: -100}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.mu.requests); got != "map[GET:1 PUT:1]" {
		t.Errorf("one object and one range of it take %s", got)
	}
}

// TestPayloadSigned: over plain HTTP what is uploaded has a CRC-32C, and is signed where that was asked for, or where it has none.
func TestPayloadSigned(t *testing.T) {
	for _, c := range []struct {
		sign, noSum, want bool
	}{{}, {sign: true, want: true}, {noSum: true, want: true}} {
		f := newFake(t)
		o := f.options()
		o.SignPayload, o.NoChecksum = c.sign, c.noSum
		s := mustOpen(t, o)
		sizes := []int{100, partBytes + 1}
		if c.noSum {
			sizes = sizes[:1] // the fake wants sums of parts
		}
		for _, size := range sizes {
			if err := put(s, "a", make([]byte, size), tier.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		bodies := 0
		for _, h := range f.mu.seen {
			how := h.Get("X-Amz-Content-Sha256")
			if len(how) == 64 || h.Get("X-Amz-Checksum-Algorithm") != "" {
				continue // of a request that uploads nothing
			}
			bodies++
			if signed := how != "UNSIGNED-PAYLOAD"; signed != c.want || (h.Get(sumKey) == "") != c.noSum {
				t.Errorf("%+v: signed %v, sum %q", c, signed, h.Get(sumKey))
			}
		}
		if bodies == 0 {
			t.Errorf("%+v: nothing was uploaded: %v", c, f.mu.seen)
		}
	}
}

func TestEncryption(t *testing.T) {
	f := newFake(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	for sse, want := range map[string][2]string{"s3": {"X-Amz-Server-Side-Encryption", "AES256"}, "kms": {"X-Amz-Server-Side-Encryption", "aws:kms"}} {
		o := f.options()
		o.SSE, o.SSEKey = sse, "id"
		f.mu.seen = nil
		if err := put(mustOpen(t, o), "a", []byte("x"), tier.PutOptions{}); err != nil || f.mu.seen[0].Get(want[0]) != want[1] {
			t.Errorf("%s: %v, %v", sse, err, f.mu.seen)
		}
	}
	// A customer's key is for TLS alone: the client refuses to send it in the clear.
	srv := httptest.NewTLSServer(f)
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	o := f.options()
	o.Endpoint, o.CAFile, o.SSE, o.SSEKeyFile = srv.URL, ca, "customer", key
	s := mustOpen(t, o)
	f.mu.seen = nil
	if err := put(s, "c", make([]byte, partBytes+1), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := read(s, "c", tier.Range{Off: 5}); err != nil {
		t.Fatal(err)
	}
	for i, h := range f.mu.seen {
		if h.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "AES256" {
			t.Errorf("request %d has no key: %v", i, h)
		}
	}
	o.CAFile = ""
	if err := put(mustOpen(t, o), "d", []byte("x"), tier.PutOptions{}); !errors.Is(err, tier.ErrDenied) {
		t.Errorf("a certificate nobody vouches for: %v", err)
	}
}

func TestStyles(t *testing.T) {
	f := newFake(t)
	o := f.options()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(f.URL, "http://"))
	o.Endpoint, o.Style = "http://s3.example.test:"+port, "virtual"
	o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	if err := put(mustOpen(t, o), "a", []byte("x"), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := f.mu.hosts[0]; got != "vault.s3.example.test:"+port {
		t.Errorf("asked %s", got)
	}
	if f.mu.objects["pre/fix/a"] == nil {
		t.Errorf("keys %v", f.mu.objects)
	}
}

// TestCredentials takes the key from each place.
func TestCredentials(t *testing.T) {
	f := newFake(t)
	dir := t.TempDir()
	file, token := filepath.Join(dir, "credentials"), filepath.Join(dir, "token")
	for name, text := range map[string]string{file: "[default]\naws_access_key_id = filekey\naws_secret_access_key = s\n[other]\naws_access_key_id = otherkey\naws_secret_access_key = s\n",
		token: "a.b.c\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if r.Form.Get("WebIdentityToken") != "a.b.c" || r.Form.Get("RoleArn") != "arn:aws:iam::1:role/r" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>webkey</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "envkey")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	for i, c := range []struct {
		set  func(*Options)
		want string
	}{
		{func(o *Options) { o.Credentials = "static" }, "key"},
		{func(o *Options) { o.Credentials = "env" }, "envkey"},
		{func(o *Options) { o.Credentials, o.CredentialsFile = "file", file }, "filekey"},
		{func(o *Options) { o.Credentials, o.CredentialsFile, o.Profile = "file", file, "other" }, "otherkey"},
		{func(o *Options) {
			o.Credentials, o.TokenFile, o.RoleARN, o.STSEndpoint = "web_identity", token, "arn:aws:iam::1:role/r", sts.URL
		}, "webkey"},
		{func(o *Options) { o.Credentials = "auto" }, "key"},
		{func(o *Options) { o.Credentials, o.AccessKey = "", "" }, "envkey"},
	} {
		o := f.options()
		c.set(&o)
		f.mu.seen = nil
		if err := put(mustOpen(t, o), "a", []byte("x"), tier.PutOptions{}); err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		if got := f.mu.seen[0].Get("Authorization"); !strings.Contains(got, "Credential="+c.want+"/") {
			t.Errorf("%d: %s, not %s", i, got, c.want)
		}
	}
	o := f.options()
	o.Credentials, o.TokenFile, o.STSEndpoint = "web_identity", token, sts.URL
	if err := put(mustOpen(t, o), "a", []byte("x"), tier.PutOptions{}); err == nil {
		t.Error("a role that STS refuses")
	}
}

func TestSettings(t *testing.T) {
	ok := map[string]string{"endpoint": "http://127.0.0.1:1", "bucket": "b", "access_key": "k", "secret_key": "s", "part_bytes": "16777216"}
	s, err := FromSettings(ctx, tier.NewSettings(ok))
	if err != nil {
		t.Fatal(err)
	}
	if s.(*Store).o.PartBytes != 16<<20 {
		t.Error("part_bytes")
	}
	for key, value := range map[string]string{"endpoint": "127.0.0.1", "bucket": "", "style": "x", "credentials": "y", "part_bytes": "1", "prefix": "../x", "ca_file": "/none",
		"sse": "z", "unknown": "1", "timeout": "0s", "checksum": "maybe"} {
		bad := map[string]string{}
		for k, v := range ok {
			bad[k] = v
		}
		bad[key] = value
		if _, err := FromSettings(ctx, tier.NewSettings(bad)); err == nil {
			t.Errorf("%s=%q is taken", key, value)
		}
	}
}
