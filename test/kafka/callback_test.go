package kafka

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/internal/testx"
)

// accounts is a server that is asked about clients, and may stall.
type accounts struct {
	*httptest.Server
	stalls  atomic.Bool
	waiting atomic.Int64 // that it was asked while it stalled
	free    chan struct{}
}

func newAccounts(t *testing.T) *accounts {
	t.Helper()
	s := &accounts{free: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ ClientID, Username, Password string }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		if s.stalls.Load() {
			s.waiting.Add(1)
			select {
			case <-s.free:
			case <-r.Context().Done():
			}
			return
		}
		switch {
		case q.Password != "pa55word":
			_, _ = io.WriteString(w, `{"result":"deny"}`)
		case q.Username == "brief":
			_, _ = fmt.Fprintf(w, `{"result":"allow","expire_at":%d}`, time.Now().Add(3*time.Second).Unix())
		default:
			_, _ = io.WriteString(w, `{"result":"allow","acl":{"pub":["d/${clientid}/up","t"]}}`)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// withAccounts is a node that asks s, and has a user bob in its file.
func withAccounts(t *testing.T, s *accounts) *cluster {
	t.Helper()
	users := filepath.Join(t.TempDir(), "users")
	hash, err := auth.Hash([]byte("right"), auth.Params{MemoryKiB: 8, Time: 1, Threads: 1})
	if err == nil {
		_, err = auth.SetUser(users, "bob", hash)
	}
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, "auth.password_file="+users, "auth.cache_ttl=0s", "auth.http.url="+s.URL, "auth.http.token=file:"+token, "auth.http.timeout=2s", "auth.http.cache_ttl=0s")
}

// A server that is asked lets clients of both protocols in, with the rights and until the time that it says.
func TestServerIsAskedAboutClients(t *testing.T) {
	s := newAccounts(t)
	c := withAccounts(t, s)
	cl, err := c.mqttAs("d1", "ann", "pa55word")
	if err != nil {
		t.Fatal(err)
	}
	mqttMay(t, cl, "d/d1/up", true, false)
	mqttMay(t, cl, "d/d2/up", false, false)
	if err := c.comesIn(plain.Auth{User: "ann", Pass: "pa55word"}.AsMechanism()); err != nil {
		t.Errorf("by Kafka's protocol: %v", err)
	}
	if c.mqttComesIn("ann", "wrong") == nil || c.comesIn(plain.Auth{User: "ann", Pass: "wrong"}.AsMechanism()) == nil {
		t.Error("who was denied came in")
	}
	if cl, err = c.mqttAs("d3", "brief", "pa55word"); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.WaitClosed(patience); err != nil {
		t.Errorf("open beyond the end: %v", err)
	}
	noSecrets(t, c)
}

// While the server stalls, clients that others vouch for come in as ever; once it is there again so do its own.
func TestServerThatStalls(t *testing.T) {
	s := newAccounts(t)
	c := withAccounts(t, s)
	s.stalls.Store(true)
	const storm = 200
	refused := make(chan error, storm)
	for range storm {
		go func() { refused <- c.mqttComesIn("ann", "pa55word") }()
	}
	testx.Eventually(t, patience, func() bool { return s.waiting.Load() >= 32 }, "a storm of questions")
	for range 5 { // more than there are goroutines for passwords
		if err := c.mqttComesIn("bob", "right"); err != nil {
			t.Errorf("a user of the file while the server stalls: %v", err)
		}
	}
	if len(refused) == storm {
		t.Error("the server did not stall")
	}
	for range storm {
		if <-refused == nil {
			t.Error("a client came in without an answer")
		}
	}
	if n := s.waiting.Load(); n >= storm {
		t.Errorf("a server that does not answer was asked %d times", n)
	}
	s.stalls.Store(false)
	close(s.free)
	testx.Eventually(t, 2*patience, func() bool { return c.mqttComesIn("ann", "pa55word") == nil }, "the server is asked again")
	noSecrets(t, c)
}

func noSecrets(t *testing.T, c *cluster) {
	t.Helper()
	if log := c.node.Log(); strings.Contains(log, "pa55word") || strings.Contains(log, "s3cret-token") {
		t.Error("the log shows a secret")
	}
}
