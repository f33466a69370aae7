package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/test/common"
)

// service is a MinIO of the test's own, on one address and one directory, that can be ended and begun again.
type service struct {
	testing.TB
	binary, dir, address string
	cmd                  *exec.Cmd
}

const (
	serviceKey    = "testuser"
	serviceSecret = "testsecret"
)

// newService starts one. SLUICE_TEST_MINIO is its binary.
func newService(t testing.TB) *service {
	t.Helper()
	s := &service{TB: t, binary: os.Getenv("SLUICE_TEST_MINIO"), dir: t.TempDir()}
	if s.binary == "" {
		t.Skip("SLUICE_TEST_MINIO=BINARY names no MinIO")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	_ = l.Close()
	s.begin()
	t.Cleanup(s.kill)
	return s
}

// begin starts it, and waits until it has the bucket.
func (s *service) begin() {
	s.Helper()
	s.cmd = exec.Command(s.binary, "server", "--quiet", "--address", s.address, filepath.Join(s.dir, "data"))
	s.cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+serviceKey, "MINIO_ROOT_PASSWORD="+serviceSecret, "MINIO_UPDATE=off", "MINIO_BROWSER=off", "HOME="+s.dir)
	if err := s.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	cl, err := minio.New(s.address, &minio.Options{Creds: credentials.NewStaticV4(serviceKey, serviceSecret, ""), Transport: transport})
	if err != nil {
		s.Fatal(err)
	}
	testx.Eventually(s, patience, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := cl.MakeBucket(ctx, "vault", minio.MakeBucketOptions{})
		return err == nil || minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou"
	}, "MinIO does not come up")
}

func (s *service) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// place is what a node is told, with the service at an address.
func (s *service) place(address string) *place {
	return &place{kind: "s3", settings: map[string]string{"endpoint": "http://" + address, "bucket": "vault", "style": "path", "timeout": "3s",
		"credentials": "static", "access_key": serviceKey, "secret_key": serviceSecret, "part_bytes": "5242880"}}
}

// A service that is killed under a node: producers go on while the log has room, then are refused by name, and all goes on by itself when it is
// back. Nothing that was acknowledged is lost.
func TestServiceKilled(t *testing.T) {
	t.Parallel()
	s := newService(t)
	n := start(t, t.TempDir(), s.place(s.address), "journal.max_bytes=48MiB", "tier.min_object_size=1MiB")
	n.immediate()
	acked := n.load(nil, 12<<20, nil)
	testx.Eventually(t, patience, func() bool { return len(s.place(s.address).list(t, "0", false)) > 0 }, "nothing goes out")
	s.kill()
	before := len(acked)
	var refused error
	acked = n.load(acked, 128<<20, &refused)
	if len(acked)-before < 1000 || refused == nil {
		t.Fatalf("%d records were taken while the service was gone, then %v", len(acked)-before, refused)
	}
	if err := n.refusal(); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("producers are refused with %v", err)
	}
	status := n.sluice("tier", "status")
	if !strings.Contains(status, "error ") || !strings.Contains(status, "tries again") || !strings.Contains(status, "refused") {
		t.Errorf("the status is\n%s", status)
	}
	s.begin()
	testx.Eventually(t, 3*patience, func() bool {
		more := n.load(acked, 1<<10, new(error))
		grown := len(more) > len(acked)
		acked = more
		return grown
	}, "producers are not let in again")
	n.offload()
	n.whole(acked)
}

// load produces values of a kilobyte until so many bytes are acknowledged; with refused, until one is not.
func (n *node) load(acked []string, size int, refused *error) []string {
	n.Helper()
	opts := []kgo.Opt{kgo.DefaultProduceTopic("temps"), kgo.RecordDeliveryTimeout(5 * time.Second), kgo.RecordRetries(3), kgo.DisableIdempotentWrite(), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(256 << 10), kgo.MaxBufferedRecords(2000)}
	cl := n.kafka(opts...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for from := len(acked); size > 0 && (refused == nil || *refused == nil); from++ {
		var list []*kgo.Record
		for range 256 {
			v := fmt.Sprintf("%d-%x-%s", from, time.Now().UnixNano(), strings.Repeat("v", 1000))
			list = append(list, &kgo.Record{Key: []byte("plant/1"), Value: []byte(v)})
			size -= len(v)
		}
		for _, r := range cl.ProduceSync(ctx, list...) {
			switch {
			case r.Err == nil:
				acked = append(acked, string(r.Record.Value))
			case refused == nil:
				n.Fatalf("produce: %v\n%s", r.Err, n.run.Log())
			default:
				*refused = r.Err
			}
		}
	}
	return acked
}

// refusal is what a producer hears, as the wire has it: a client tries again by itself.
func (n *node) refusal() error {
	n.Helper()
	var b record.BatchBuilder
	b.Begin(nil, time.Now().UnixMilli())
	b.Append(&record.Input{Timestamp: time.Now().UnixMilli(), Value: make([]byte, 1000)})
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = b.Finish(&record.BatchOptions{})
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic, topic.Partitions = "temps", append(topic.Partitions, p)
	r := kmsg.NewPtrProduceRequest()
	r.Acks, r.TimeoutMillis, r.Topics = -1, 5000, append(r.Topics, topic)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := r.RequestWith(ctx, n.kafka(kgo.MaxVersions(producedByName())))
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// producedByName are the versions in which Produce names its topics.
func producedByName() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(0, 11)
	return v
}

// whole reads all of temps, and makes sure that it has all that was acknowledged.
func (n *node) whole(acked []string) {
	n.Helper()
	want := make(map[string]bool, len(acked))
	for _, v := range acked {
		want[v] = true
	}
	cl := n.kafka(kgo.ConsumeTopics("temps"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for len(want) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			n.Fatalf("%v: %d of %d acknowledged records are missing\n%s", err, len(want), len(acked), n.run.Log())
		}
		fs.EachRecord(func(r *kgo.Record) { delete(want, string(r.Value)) })
	}
}

// meddler is a proxy before a service, which does something to requests.
type meddler struct {
	address string
	mode    atomic.Pointer[string]
	met     atomic.Int64
	server  *http.Server
}

func newMeddler(t testing.TB, s *service) *meddler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{address: l.Addr().String()}
	m.set("")
	transport := &http.Transport{DisableCompression: true}
	p := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(r *httputil.ProxyRequest) { // the host is signed, and stays
			r.SetURL(&url.URL{Scheme: "http", Host: s.address})
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			if *m.mode.Load() == "wrong" && r.Request.Method == http.MethodGet && r.StatusCode < 300 && objectRequest(r.Request) {
				m.met.Add(1)
				r.Body = &flipping{ReadCloser: r.Body}
			}
			return nil
		}}
	m.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, p) })}
	go func() { _ = m.server.Serve(l) }()
	t.Cleanup(func() {
		_ = m.server.Close()
		transport.CloseIdleConnections()
	})
	return m
}

func (m *meddler) set(mode string) { m.mode.Store(&mode) }

// objectRequest tells whether a request is about an object of history.
func objectRequest(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/vault/0") }

func (m *meddler) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	refuse := func(status int, code string) {
		m.met.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, code)
	}
	switch *m.mode.Load() {
	case "denied":
		refuse(http.StatusForbidden, "AccessDenied")
	case "throttled":
		refuse(http.StatusServiceUnavailable, "SlowDown")
	case "lost":
		if objectRequest(r) && r.Method == http.MethodGet {
			refuse(http.StatusNotFound, "NoSuchKey")
			return
		}
		next.ServeHTTP(w, r)
	case "slow":
		m.met.Add(1)
		<-time.After(300 * time.Millisecond)
		next.ServeHTTP(w, r)
	case "cut":
		if r.Method != http.MethodPut {
			next.ServeHTTP(w, r)
			return
		}
		m.met.Add(1)
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
	default:
		next.ServeHTTP(w, r)
	}
}

// flipping gives other bytes than it reads.
type flipping struct{ io.ReadCloser }

func (f *flipping) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 {
		p[n/2] ^= 0x10
	}
	return n, err
}

// Whatever a service does to a node, producers go on; readers get the right records or none; and when it is well again so is all.
func TestServiceMeddled(t *testing.T) {
	t.Parallel()
	s := newService(t)
	m := newMeddler(t, s)
	n := start(t, t.TempDir(), s.place(m.address), "tier.cache=1MiB", "tier.min_object_size=1MiB")
	n.immediate()
	acked := n.load(nil, 4<<20, nil)
	n.offload()
	for _, mode := range []string{"denied", "throttled", "slow", "cut", "wrong", "lost"} {
		m.met.Store(0)
		m.set(mode)
		acked = n.load(acked, 2<<20, nil)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		cmd := exec.CommandContext(ctx, common.Binary(t), "tier", "offload", "--all", "--server", n.run.Listeners["grpc"])
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n.readsRight(acked)
		testx.Eventually(t, patience, func() bool { return m.met.Load() > 0 }, mode, "is not met")
		m.set("")
		cancel()
		_ = cmd.Wait()
		n.offload()
		n.whole(acked)
	}
	n.sluice("tier", "verify")
}

// readsRight reads for a moment from the beginning: it gets what was acknowledged, or nothing.
func (n *node) readsRight(acked []string) {
	n.Helper()
	known := make(map[string]bool, len(acked))
	for _, v := range acked {
		known[v] = true
	}
	cl := n.kafka(kgo.ConsumeTopics("temps"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		fs.EachRecord(func(r *kgo.Record) {
			if !known[string(r.Value)] {
				n.Fatalf("partition %d has at %d what was never written: %.40q", r.Partition, r.Offset, r.Value)
			}
		})
	}
}
