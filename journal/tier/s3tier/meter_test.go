package s3tier

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
)

// asked gives what a store has counted, by operation.
func asked(s *Store) (list [tier.Ops]int64) {
	for op := range tier.Ops {
		list[op] = s.Requests().Load(op)
	}
	return list
}

// TestRequestsCounted: each request is counted once, under what it asks for: no more and no fewer than the service has got.
func TestRequestsCounted(t *testing.T) {
	f := newFake(t)
	s := mustOpen(t, f.options())
	for i := range 1100 {
		f.mu.objects[fmt.Sprintf("pre/fix/many/%04d", i)] = &fakeObject{etag: `"x"`}
	}
	before := asked(s)
	for _, c := range []struct {
		what                         string
		do                           func() error
		put, get, stat, list, delete int64
	}{
		{"a small object", func() error { return put(s, "a", []byte("0123456789"), tier.PutOptions{}) }, 1, 0, 0, 0, 0},
		{"three parts, their begin and their end", func() error { return put(s, "big", make([]byte, 2*partBytes+1), tier.PutOptions{}) }, 5, 0, 0, 0, 0},
		{"a part is refused, and the upload aborted", func() error {
			f.failNow(func(r *http.Request) (int, string) {
				if r.URL.Query().Get("partNumber") == "2" {
					return 503, "SlowDown"
				}
				return 0, ""
			})
			defer f.failNow(nil)
			if err := put(s, "c", make([]byte, partBytes+1), tier.PutOptions{}); !errors.Is(err, tier.ErrThrottled) {
				return err
			}
			return nil
		}, 3, 0, 0, 0, 1},
		{"refused twice, then taken", func() error {
			n := 0
			f.failNow(func(*http.Request) (int, string) {
				if n++; n < 3 {
					return 503, "SlowDown"
				}
				return 0, ""
			})
			defer f.failNow(nil)
			for range 2 {
				if err := put(s, "d", []byte("x"), tier.PutOptions{}); !errors.Is(err, tier.ErrThrottled) {
					return err
				}
			}
			return put(s, "d", []byte("x"), tier.PutOptions{})
		}, 3, 0, 0, 0, 0},
		{"the service is asked for its conditions", func() error { return put(s, "e", []byte("x"), tier.PutOptions{IfAbsent: true}) }, 6, 0, 0, 0, 2},
		{"a range", func() error { _, err := read(s, "a", tier.Range{Off: 1, Len: 2}); return err }, 0, 1, 0, 0, 0},
		{"a range that S3 has not", func() error { _, err := read(s, "a", tier.Range{Off: -5, Len: 2}); return err }, 0, 1, 1, 0, 0},
		{"what an object is", func() error { _, err := s.Stat(ctx, "a"); return err }, 0, 0, 1, 0, 0},
		{"a page of many", func() error { _, _, err := s.List(ctx, "many/", "", 0); return err }, 0, 0, 0, 1, 0},
		{"a removal", func() error { return s.Delete(ctx, "a") }, 0, 0, 0, 0, 1},
		{"a sweep", func() error {
			f.mu.uploads["old"] = &fakeUpload{key: "pre/fix/a", at: time.Now().Add(-48 * time.Hour), parts: map[int][]byte{}}
			_, err := s.Sweep(ctx, 24*time.Hour)
			return err
		}, 0, 0, 0, 1, 1},
	} {
		f.mu.requests = map[string]int{}
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		now := asked(s)
		var got [tier.Ops]int64
		sum, there := int64(0), 0
		for op := range got {
			got[op] = now[op] - before[op]
			sum += got[op]
		}
		for _, n := range f.mu.requests {
			there += n
		}
		before = now
		if want := [tier.Ops]int64{c.put, c.get, c.stat, c.list, c.delete}; got != want || int(sum) != there {
			t.Errorf("%s: counted %v, not %v; the service has got %v", c.what, got, want, f.mu.requests)
		}
	}
}

// TestCredentialsNotCounted: who gives credentials is not the store, and neither is asked for by its class.
func TestCredentialsNotCounted(t *testing.T) {
	f := newFake(t)
	n := 0
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n++
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>k</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	o := f.options()
	o.Credentials, o.TokenFile, o.STSEndpoint = "web_identity", filepath.Join(t.TempDir(), "token"), sts.URL
	if err := os.WriteFile(o.TokenFile, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o)
	if err := put(s, "a", []byte("x"), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := asked(s); got != [tier.Ops]int64{tier.OpPut: 1} || n == 0 {
		t.Errorf("counted %v, with %d requests for credentials", got, n)
	}
}

// TestOfTheBucket tells the bucket's requests from others, in both styles.
func TestOfTheBucket(t *testing.T) {
	for _, c := range []struct {
		style, url, key string
		ours            bool
	}{
		{"path", "http://minio:9000/vault/a/b", "a/b", true},
		{"path", "http://minio:9000/vault/", "", true},
		{"path", "http://minio:9000/vault", "", true},
		{"path", "http://minio:9000/vaults/a", "", false},
		{"auto", "https://vault.s3.dualstack.eu-central-1.amazonaws.com/a/b", "a/b", true},
		{"auto", "https://s3.eu-central-1.amazonaws.com/vault/a", "a", true},
		{"virtual", "https://vault.s3.example.test/?list-type=2", "", true},
		{"auto", "http://169.254.169.254/latest/meta-data/iam/security-credentials/", "", false},
		{"auto", "https://sts.amazonaws.com/", "", false},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		key, ours := (&meter{style: c.style, where: "vault"}).key(u)
		if ours != c.ours || ours && key != c.key {
			t.Errorf("%s: key %q, ours %v", c.url, key, ours)
		}
	}
}
