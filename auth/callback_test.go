package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

// asked is a server that is asked about clients.
type asked struct {
	*httptest.Server
	n    atomic.Int64
	busy atomic.Int64 // that are being answered now
	most atomic.Int64
	mu   sync.Mutex
	do   func(w http.ResponseWriter, r *http.Request, fields map[string]string)
}

func newAsked(t *testing.T, do func(w http.ResponseWriter, r *http.Request, fields map[string]string)) *asked {
	t.Helper()
	s := &asked{do: do}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.n.Add(1)
		if n := s.busy.Add(1); n > s.most.Load() {
			s.most.Store(n)
		}
		defer s.busy.Add(-1)
		fields := map[string]string{}
		if r.Method == http.MethodGet {
			for k, v := range r.URL.Query() {
				fields[k] = v[0]
			}
		} else if err := json.NewDecoder(r.Body).Decode(&fields); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		do := s.do
		s.mu.Unlock()
		do(w, r, fields)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *asked) set(do func(w http.ResponseWriter, r *http.Request, fields map[string]string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do = do
}

func says(code int, body string) func(http.ResponseWriter, *http.Request, map[string]string) {
	return func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// callbackBench is a provider with the user bob, and a server for the rest.
func callbackBench(t *testing.T, s *asked, change func(o *CallbackOptions)) (*bench, *bytes.Buffer) {
	t.Helper()
	b, log := newBench(t, map[string]string{"bob": "right"}), &bytes.Buffer{}
	b.o.HTTP = &CallbackOptions{URL: s.URL + "/auth?node=1", Method: http.MethodPost, Token: "s3cret", Timeout: 5 * time.Second, Concurrency: 4, CacheTTL: 10 * time.Second}
	b.o.Logger = slog.New(slog.NewTextHandler(log, nil))
	if change != nil {
		change(b.o.HTTP)
	}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	return b, log
}

// What the server is told, by either method, and what comes of each answer.
func TestCallback(t *testing.T) {
	s := newAsked(t, nil)
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		b, _ := callbackBench(t, s, func(o *CallbackOptions) { o.Method, o.CacheTTL = method, 0 })
		c := creds("ann", "päss\n")
		c.Remote, c.Listener = netip.MustParseAddrPort("10.1.2.3:99"), "mqtt.tcp"
		s.set(func(w http.ResponseWriter, r *http.Request, f map[string]string) {
			if f["clientid"] != "c" || f["username"] != "ann" || f["password"] != "päss\n" || f["peerhost"] != "10.1.2.3" || f["listener"] != "mqtt.tcp" {
				t.Errorf("%s: told %v", method, f)
			}
			if r.Header.Get("Authorization") != "Bearer s3cret" || r.URL.Query().Get("node") != "1" || r.Method != method {
				t.Errorf("asked by %s %s", r.Method, r.URL)
			}
			says(200, `{"result":"allow","expire_at":1800000060,"acl":{"pub":["up/${username}"]},"client_attrs":{"x":"y"}}`)(w, r, f)
		})
		id, err := b.Authenticate(t.Context(), c)
		if err != nil || id.User != "ann" || id.Source != "http" || id.Expires != 1800000060000 || id.ClientID != "c" || b.Recheck(&id, nil) != nil {
			t.Fatalf("%s: %+v, %v", method, id, err)
		}
		if !b.Authorize(&id, pub, []byte("up/ann")) || b.Authorize(&id, pub, []byte("up/bob")) {
			t.Error("its rules do not count")
		}
		b.now = b.now.Add(time.Minute)
		if b.Recheck(&id, nil) == nil {
			t.Error("it may stay beyond its end")
		}
	}
	b, _ := callbackBench(t, s, func(o *CallbackOptions) { o.CacheTTL = 0 })
	for _, c := range []struct {
		code int
		body string
		user string
		err  error
	}{{200, `{"result":"allow","user":"eve"}`, "eve", nil}, {204, "", "ann", nil}, {200, `{"result":"deny"}`, "", broker.ErrBadCredentials}, {401, "", "", broker.ErrBadCredentials},
		{403, "no", "", broker.ErrBadCredentials}, {200, `{"result":"ignore"}`, "", broker.ErrBadCredentials}, {200, `{"result":"allow","expire_at":1}`, "", broker.ErrBadCredentials},
		{500, `{"result":"allow"}`, "", broker.ErrAuthBusy}, {200, `{"result":"yes"}`, "", broker.ErrAuthBusy}, {204, "", "ann", nil}, {200, ``, "", broker.ErrAuthBusy},
		{302, ``, "", broker.ErrAuthBusy}, {200, `{"result":"allow","acl":{"x":1}}`, "", broker.ErrAuthBusy}, {204, "", "ann", nil},
		{200, `{"result":"allow","x":` + strings.Repeat("[", 100000), "", broker.ErrAuthBusy}, {200, strings.Repeat(" ", callbackBytesMax+1), "", broker.ErrAuthBusy}} {
		s.set(says(c.code, c.body))
		id, err := b.Authenticate(t.Context(), creds("ann", "pass"))
		if !errors.Is(err, c.err) || c.err == nil && id.User != c.user || c.err != nil && id.User != "" && !errors.Is(err, broker.ErrBadCredentials) {
			t.Errorf("%d %.60s: %+v, %v", c.code, c.body, id, err)
		}
	}
	before := s.n.Load()
	if id, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil || id.Source != "password" {
		t.Errorf("a user of the file: %+v, %v", id, err)
	}
	if _, err := b.Authenticate(t.Context(), creds("bob", "wrong")); !errors.Is(err, broker.ErrBadCredentials) || s.n.Load() != before {
		t.Errorf("the server was asked about a user of the file: %v", err)
	}
	s.set(says(200, `{"result":"allow","is_superuser":true}`))
	b.o.SuperUsers = []string{"root"}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	id, err := b.Authenticate(t.Context(), broker.Credentials{ClientID: "c"})
	if err != nil || id.User != "" || !b.Authorize(&id, pub, []byte("x")) || !b.Allows(&id, broker.OperationAlter, broker.ResourceCluster, []byte("kafka-cluster")) {
		t.Errorf("a super user: %+v, %v", id, err)
	}
	b.o.HTTP = nil
	if err := b.Reload(b.o); err != nil || b.Recheck(&id, nil) == nil {
		t.Errorf("nobody is asked any more, and it stays: %v", err)
	}
}

// An answer counts for a while for who comes with exactly the same, and is forgotten by a reload.
func TestCallbackIsRemembered(t *testing.T) {
	s := newAsked(t, func(w http.ResponseWriter, r *http.Request, f map[string]string) {
		if f["password"] == "right" || f["password_base64"] == "/w==" {
			w.WriteHeader(204)
			return
		}
		w.WriteHeader(403)
	})
	b, _ := callbackBench(t, s, nil)
	come := func(c broker.Credentials, ok bool, asks int64) {
		t.Helper()
		before := s.n.Load()
		_, done, _ := b.Quick(c)
		_, err := b.Authenticate(t.Context(), c)
		if n := s.n.Load() - before; (err == nil) != ok || n != asks || done != (asks == 0) {
			t.Errorf("%s %q: %v, asked %d times, known %v", c.Username, c.Password, err, n, done)
		}
	}
	other := creds("ann", "right")
	other.ClientID = "d"
	for range 2 {
		come(creds("ann", "right"), true, 1)
		come(creds("ann", "right"), true, 0)
		come(other, true, 1)
		come(creds("ann", "wrong"), false, 1)
		come(creds("ann", "\xff"), true, 1)
		come(creds("ann", "\xfe"), false, 1)
		b.now = b.now.Add(2 * time.Second)
		come(creds("ann", "wrong"), false, 1)
		come(creds("ann", "right"), true, 0)
		b.now = b.now.Add(9 * time.Second)
		come(creds("ann", "right"), true, 1)
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
	}
	k := &answers{}
	for i := range callbackCachedMax + 100 {
		k.put(b.rules.Load().questionDigest([]byte{byte(i), byte(i >> 8)}), answer{small: true}, time.Minute, b.now)
	}
	if len(k.kept) > callbackCachedMax {
		t.Errorf("%d answers are kept", len(k.kept))
	}
}

// A server that fails is left alone for a while, then tried by one client; nothing that was asked is logged.
func TestCallbackBreaker(t *testing.T) {
	s := newAsked(t, says(500, ""))
	b, log := callbackBench(t, s, func(o *CallbackOptions) { o.Method = http.MethodGet })
	come := func() error {
		_, err := b.Authenticate(t.Context(), creds("ann", "pass"))
		return err
	}
	for range breakerFailures + 5 {
		if err := come(); !errors.Is(err, broker.ErrAuthBusy) || strings.Contains(err.Error(), "pass") {
			t.Errorf("%v", err)
		}
	}
	if n := s.n.Load(); n != breakerFailures {
		t.Errorf("asked %d times", n)
	}
	b.now = b.now.Add(breakerPauseMin)
	_, _ = come(), come()
	if n := s.n.Load(); n != breakerFailures+1 {
		t.Errorf("after the pause asked %d times", n)
	}
	s.set(says(204, ""))
	b.now = b.now.Add(breakerPauseMin)
	if come() == nil {
		t.Error("the pause did not grow")
	}
	b.now = b.now.Add(breakerPauseMin)
	if err := come(); err != nil {
		t.Errorf("the server is there again: %v", err)
	}
	c := b.rules.Load().callback
	for range 2 * breakerFailures { // all were under way at once
		c.settle(errors.New("late"), false, false)
	}
	if c.mu.pause != breakerPauseMin {
		t.Errorf("failures that came together made a pause of %v", c.mu.pause)
	}
	s.CloseClientConnections()
	_ = s.Listener.Close()
	b.now = b.now.Add(time.Minute)
	for range breakerFailures {
		if err := come(); err == nil || strings.Contains(err.Error(), "pass") {
			t.Errorf("%v", err)
		}
	}
	if text := log.String(); !strings.Contains(text, "level=WARN") || strings.Contains(text, "pass") || strings.Contains(text, "s3cret") {
		t.Errorf("logged: %s", text)
	}
}

// A server that stalls has so many questions, lets so many clients wait, and is given up after the time-out; users of the file come in meanwhile.
func TestCallbackStalls(t *testing.T) {
	stall := make(chan struct{})
	s := newAsked(t, func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		if w.WriteHeader(200); r.Method == http.MethodPost {
			_, _ = io.WriteString(w, `{"result":`) // and never ends
			w.(http.Flusher).Flush()
		}
		select {
		case <-stall:
		case <-r.Context().Done():
		}
	})
	defer close(stall)
	b, _ := callbackBench(t, s, func(o *CallbackOptions) { o.Timeout = time.Minute })
	b.rules.Load().callback.queue = 10
	const clients = 100
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make(chan error, clients)
	for range clients {
		go func() {
			_, err := b.Authenticate(ctx, creds("ann", "pass"))
			errs <- err
		}()
	}
	for range clients - 14 { // four are asked about, ten wait
		if err := <-errs; !errors.Is(err, broker.ErrAuthBusy) {
			t.Errorf("%v", err)
		}
	}
	if id, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil || id.User != "bob" {
		t.Errorf("bob waits for a server that does not know him: %v", err)
	}
	testx.Eventually(t, 10*time.Second, func() bool { return s.busy.Load() == 4 }, "four questions")
	cancel()
	for range 14 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if n := s.most.Load(); n != 4 {
		t.Errorf("%d questions at once", n)
	}
	short, _ := callbackBench(t, s, func(o *CallbackOptions) { o.Timeout = 50 * time.Millisecond })
	if _, err := short.Authenticate(t.Context(), creds("ann", "pass")); !errors.Is(err, broker.ErrAuthBusy) {
		t.Errorf("an answer without an end: %v", err)
	}
	if c := b.rules.Load().callback; c.waiting.Load() != 0 || len(c.turns) != 0 {
		t.Error("something is left behind")
	}
	if b.Lane(creds("ann", "x")) != broker.LaneServer || b.Lane(creds("bob", "x")) != broker.LaneHere {
		t.Error("clients wait in the wrong lanes")
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"result":"allow","is_superuser":true,"expire_at":1.5,"acl":[{"permission":"deny","topic":"a"}],"user":"x"}`))
	f.Add([]byte(`{"result":"ignore","acl":null,"x":[[[[{}]]]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseAnswer(data)
		if err == nil && (a.expires < 0 || len(a.user) > userBytesMax || a.verdict == closed) {
			t.Fatalf("%q: %+v", data, a)
		}
	})
}
