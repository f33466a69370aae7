package control_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/server"
)

// node is a node in this process, with a connection to its control plane.
type node struct {
	t    *testing.T
	s    *server.Server
	at   map[string]string
	conn *grpc.ClientConn
	log  *lockedLog
	set  []string // its configuration but for what start was given
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, set ...string) *node {
	t.Helper()
	n := &node{t: t, log: new(lockedLog)}
	base := append(testx.Listeners("mqtt.tcp", "kafka.tcp", "grpc"), "node.data="+t.TempDir(), "journal.segment_size=8MiB", "mqtt.sys_interval=0s")
	n.set = append(base, set...)
	loaded, err := config.Load(config.LoadOptions{Set: n.set})
	if err != nil {
		t.Fatal(err)
	}
	if n.s, err = server.New(loaded.Config, server.Options{Logger: slog.New(slog.NewTextHandler(n.log, nil)), Version: "test"}); err != nil {
		t.Fatal(err)
	}
	ready, err := n.s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.at = ready.Listeners
	t.Cleanup(func() {
		if n.conn != nil {
			_ = n.conn.Close()
		}
		if err := n.s.Close(); err != nil {
			t.Error(err)
		}
	})
	n.conn = n.dial()
	return n
}

func (n *node) dial(o ...grpc.DialOption) *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+n.at["grpc"], append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, o...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	return conn
}

func (n *node) topics() api.TopicsClient { return api.NewTopicsClient(n.conn) }
func (n *node) groups() api.GroupsClient { return api.NewGroupsClient(n.conn) }

// kafka makes a client of the node.
func (n *node) kafka(o ...kgo.Opt) *kgo.Client {
	n.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(n.at["kafka.tcp"])}, o...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

// create makes a topic.
func (n *node) create(name string, partitions int32) {
	n.t.Helper()
	if _, err := n.topics().Create(n.t.Context(), &api.CreateTopicRequest{Name: name, Partitions: partitions}); err != nil {
		n.t.Fatal(err)
	}
}

// produce writes one record to a partition, with a time.
func (n *node) produce(c *kgo.Client, topic string, partition int32, value string, at time.Time) {
	n.t.Helper()
	r := c.ProduceSync(n.t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value), Timestamp: at})
	if err := r.FirstErr(); err != nil {
		n.t.Fatal(err)
	}
}

// wants checks that err has this code and says this.
func wants(t *testing.T, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || code != codes.OK && !strings.Contains(status.Convert(err).Message(), says) {
		t.Errorf("%v, want %v with %q", err, code, says)
	}
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}
