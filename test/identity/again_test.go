package identity

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// accounts is a server that is asked about clients: it lets in whom it has not put out.
type accounts struct {
	url    string
	mu     sync.Mutex
	out    map[string]bool
	down   bool
	again  map[string]int // questions about clients that are in, by user
	stalls chan struct{}  // not nil: nothing is answered until it is closed
	asked  atomic.Int64
}

func startAccounts(t *testing.T) *accounts {
	t.Helper()
	a := &accounts{out: make(map[string]bool), again: make(map[string]int)}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		if a.stalls != nil {
			select {
			case <-a.stalls:
			case <-r.Context().Done():
			}
		}
		var q struct {
			Username, Password string
			Recheck            bool
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			return // it was given up
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if q.Recheck {
			a.again[q.Username]++
		}
		switch {
		case a.down:
			w.WriteHeader(http.StatusBadGateway)
		case a.out[q.Username], !q.Recheck && q.Password != "secret":
			w.WriteHeader(http.StatusForbidden)
		default:
			_, _ = io.WriteString(w, `{"result":"allow"}`)
		}
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	a.url = s.URL
	return a
}

func (a *accounts) put(user string, out, down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.out[user], a.down, a.again = out, down, make(map[string]int)
}

func (a *accounts) askedAgain(user string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.again[user]
}

// Whom the server refuses when it is asked again is closed, by either protocol, and told why; others stay, and so does everybody while it does not answer.
func TestAskedAgain(t *testing.T) {
	a := startAccounts(t)
	n := start(t, []string{"mqtt.tcp", "kafka.tcp"}, "auth.http.url="+a.url, "auth.http.recheck=1s", "auth.anonymous=off")
	ann, bob := n.connect("mqtt.tcp", "a", nil, as("ann", "secret")), n.connect("mqtt.tcp", "b", nil, as("bob", "secret"))
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.at["kafka.tcp"]), kgo.SASL(plain.Auth{User: "kim", Pass: "secret"}.AsMechanism()), kgo.RequestRetries(0), kgo.RetryTimeout(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, patience, func() bool {
		return a.askedAgain("ann") > 1 && a.askedAgain("bob") > 1 && a.askedAgain("kim") > 1
	}, "asked about all, again and again")
	a.put("ann", false, true)
	testx.Eventually(t, patience, func() bool {
		v, _ := n.metric("sluice_auth_rechecks_total", `source="http"`, `outcome="unanswered"`)
		return v > 0
	}, "asked while the server is down")
	if ann.Ping() != nil || bob.Ping() != nil {
		t.Error("a server that is down closes clients")
	}
	a.put("ann", true, false)
	if d := told(t, ann); d.Reason != wire.NotAuthorized || string(d.ReasonString) != "no longer allowed: the server that is asked about clients refuses the client now" {
		t.Errorf("told %v %q", d.Reason, d.ReasonString)
	}
	if _, err := n.try("mqtt.tcp", "a", nil, as("ann", "secret")); err == nil {
		t.Error("came in again")
	}
	a.put("kim", true, false)
	testx.Eventually(t, patience, func() bool {
		open, _ := n.metric("sluice_kafka_connections")
		return open == 0
	}, "Kafka's client is closed")
	a.put("ann", false, false)
	back := n.connect("mqtt.tcp", "a", nil, as("ann", "secret"))
	testx.Eventually(t, patience, func() bool { return a.askedAgain("ann") > 1 && a.askedAgain("bob") > 1 })
	if back.Ping() != nil || bob.Ping() != nil {
		t.Error("who may stay is closed")
	}
}

// During a storm of clients of servers that stall, users of the file come in at once by the same listener: each waits for its own.
func TestStormOfStalledServers(t *testing.T) {
	a := startAccounts(t)
	a.stalls = make(chan struct{})
	defer close(a.stalls)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // a directory that takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	const storm = 300 // more than there are goroutines for
	for _, way := range []struct {
		name string
		set  []string
	}{
		{"http", []string{"auth.http.url=" + a.url, "auth.http.timeout=30s", "auth.http.concurrency=4"}},
		{"ldap", []string{"auth.ldap.url=ldap://" + silent.Addr().String(), "auth.ldap.search_base=dc=example", "auth.ldap.timeout=30s", "auth.ldap.concurrency=4"}},
	} {
		n := start(t, []string{"mqtt.tcp"}, append(way.set, "auth.password_file="+passwordFile(t, "ann", "secret"), "auth.cache_ttl=0", "listeners.mqtt.connect_timeout=1m")...)
		var conns []net.Conn
		for i := range storm {
			c, err := net.Dial("tcp", n.at["mqtt.tcp"])
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			k := wire.Connect{Version: wire.V5, ClientID: []byte("storm-" + strconv.Itoa(i)), CleanStart: true}
			as("stranger-"+strconv.Itoa(i), "secret")(&k)
			if _, err := c.Write(wire.AppendConnect(nil, &k)); err != nil {
				t.Fatal(err)
			}
		}
		testx.Eventually(t, patience, func() bool {
			v, _ := n.metric("sluice_mqtt_connections")
			return v == storm
		}, way.name+": all wait")
		began := time.Now()
		for i := range 5 {
			c, err := n.try("mqtt.tcp", "ann-"+strconv.Itoa(i), nil, as("ann", "secret"))
			if err != nil {
				t.Fatalf("%s: a user of the file: %v", way.name, err)
			}
			_ = c.Close()
		}
		// Each costs one hash; the time-out of a server that stalls is thirty seconds.
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: users of the file waited for %v", way.name, took)
		}
		for _, c := range conns {
			_ = c.Close()
		}
	}
	if a.asked.Load() > 4 {
		t.Errorf("%d questions at once, at most 4", a.asked.Load())
	}
}

func TestRecheckNeedsSearch(t *testing.T) {
	if err := configError("auth.ldap.url=ldaps://x", "auth.ldap.bind_dn=uid=%u,dc=x", "auth.ldap.recheck=1m"); err == nil || !strings.Contains(err.Error(), "nobody can bind") {
		t.Error(err)
	}
}
