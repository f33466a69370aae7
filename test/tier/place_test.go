package tier

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/sluicemq/sluice/journal/tier/stores"
)

// place is where a store keeps its objects: its kind, and tier.settings.
type place struct {
	kind     string
	settings map[string]string
}

func local(dir string) *place {
	return &place{kind: "local", settings: map[string]string{"dir": dir}}
}

// everywhere runs a test with a place of each kind that the machine has, empty at first. SLUICE_TEST_S3 is the URL of an S3 service with a bucket as its
// path, which is made if it is not there, SLUICE_TEST_S3_KEY and _SECRET are its keys; SLUICE_TEST_HDFS has name nodes, with commas, in whose root
// SLUICE_TEST_HDFS_USER, or root, must be able to write.
func everywhere(t *testing.T, test func(*testing.T, *place)) {
	t.Helper()
	t.Parallel()
	kinds := map[string]func(testing.TB) *place{"local": folder, "s3": s3, "hdfs": hdfs}
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func folder(t testing.TB) *place {
	t.Helper()
	return local(t.TempDir())
}

// own is a name that no other run of a test has.
func own(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("%s-%x", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano())
}

func s3(t testing.TB) *place {
	t.Helper()
	where := os.Getenv("SLUICE_TEST_S3")
	if where == "" {
		t.Skip("SLUICE_TEST_S3=http://host:port/bucket names no service")
	}
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	bucket, key, secret := strings.TrimPrefix(u.Path, "/"), os.Getenv("SLUICE_TEST_S3_KEY"), os.Getenv("SLUICE_TEST_S3_SECRET")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	cl, err := minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(key, secret, ""), Secure: u.Scheme == "https", Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cl.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil && minio.ToErrorResponse(err).Code != "BucketAlreadyOwnedByYou" {
		t.Fatal(err)
	}
	p := &place{kind: "s3", settings: map[string]string{"endpoint": u.Scheme + "://" + u.Host, "bucket": bucket, "prefix": own(t), "style": "path",
		"credentials": "static", "access_key": key, "secret_key": secret}}
	t.Cleanup(func() { p.empty(t) })
	return p
}

func hdfs(t testing.TB) *place {
	t.Helper()
	nodes := os.Getenv("SLUICE_TEST_HDFS")
	if nodes == "" {
		t.Skip("SLUICE_TEST_HDFS=host:port names no cluster")
	}
	user := os.Getenv("SLUICE_TEST_HDFS_USER")
	if user == "" {
		user = "root"
	}
	p := &place{kind: "hdfs", settings: map[string]string{"name_nodes": nodes, "dir": "/" + own(t), "user": user, "replication": "2"}}
	t.Cleanup(func() { p.empty(t) })
	return p
}

// flags are the node's settings for it.
func (p *place) flags() []string {
	list := []string{"tier.store=" + p.kind}
	for k, v := range p.settings {
		list = append(list, "tier.settings."+k+"="+v)
	}
	return list
}

// objects counts those of the nodes, a thousand at most.
func (p *place) objects(t testing.TB) int {
	t.Helper()
	return len(p.list(t, "0", false)) // of tenants: not what tells of epochs
}

// empty removes what nodes have left in a service.
func (p *place) empty(t testing.TB) {
	t.Helper()
	p.list(t, "", true)
}

func (p *place) list(t testing.TB, prefix string, remove bool) (names []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := stores.Open(ctx, p.kind, p.settings)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	page, _, err := s.List(ctx, prefix, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range page {
		names = append(names, page[i].Name)
		if remove {
			if err := s.Delete(ctx, page[i].Name); err != nil {
				t.Errorf("delete %s: %v", page[i].Name, err)
			}
		}
	}
	return names
}
