package control

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"google.golang.org/grpc"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluicemq/sluice/control/api"
)

func overHTTP(h http.Handler, verb, target, token, body string) (*httptest.ResponseRecorder, fault) {
	r := httptest.NewRequest(verb, target, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var answer struct{ Error fault }
	_ = json.Unmarshal(w.Body.Bytes(), &answer)
	return w, answer.Error
}

// Every route refuses, through the gate that gRPC's calls pass: who shows nothing, who shows what is wrong, whose role is less; and it reads bodies of
// those alone who may. What is wrong with a body is said.
func TestEveryRoute(t *testing.T) {
	called := make(map[string]int)
	ps := NewPrincipals("", []Principal{{Name: "eve", Role: RoleViewer, Token: "token-of-eve"}, {Name: "olaf", Role: RoleOperator, Token: "token-of-olaf"}, {Name: "ann", Role: RoleAdmin, Token: "token-of-ann"}})
	s := New(Options{Principals: func() *Principals { return ps }, Called: func(method, code string, _ time.Duration) { called[code]++ }, Logger: slog.New(slog.DiscardHandler)})
	h := s.HTTP()
	all := routes(s.services)
	for path, r := range all {
		for token, role := range map[string]Role{"": RoleNone, "wrong": RoleNone, "token-of-eve": RoleViewer, "token-of-olaf": RoleOperator, "token-of-ann": RoleAdmin} {
			w, f := overHTTP(h, "POST", path, token, `{"no_such_field": 1}`)
			switch {
			case role == RoleNone:
				if w.Code != 401 || f.Code != "UNAUTHENTICATED" || w.Header().Get("WWW-Authenticate") == "" {
					t.Errorf("%s with %q: %d %v", path, token, w.Code, f)
				}
			case role < rules[r.method].least:
				if w.Code != 403 || f.Code != "PERMISSION_DENIED" || !strings.Contains(f.Message, "needs the role "+rules[r.method].least.String()) {
					t.Errorf("%s as %v: %d %v", path, role, w.Code, f)
				}
			case w.Code != 400 || f.Code != "INVALID_ARGUMENT" || !strings.Contains(f.Message, "no_such_field"):
				t.Errorf("%s as %v: %d %v", path, role, w.Code, f)
			}
		}
		w, _ := overHTTP(h, "GET", path+"?no_such_field=1", "token-of-ann", "")
		if allow := w.Header().Get("Allow"); r.reads && w.Code != 400 || !r.reads && (w.Code != 405 || allow != "POST") {
			t.Errorf("GET %s: %d, %s", path, w.Code, allow)
		}
		if w, _ := overHTTP(h, "DELETE", path, "token-of-ann", ""); w.Code != 405 {
			t.Errorf("DELETE %s: %d", path, w.Code)
		}
	}
	if called["Unauthenticated"] != 2*len(all) || called["PermissionDenied"] == 0 || called["InvalidArgument"] == 0 {
		t.Errorf("of %d routes these calls are counted: %v", len(all), called)
	}
	for _, target := range []string{"/api/v1/", "/api/v1/topics", "/api/v1/topics/list/", "/api/v1/Topics/List", "/api/v1/health/check", "/api/v1/../metrics"} {
		if w, f := overHTTP(h, "POST", target, "token-of-ann", ""); w.Code != 404 || f.Code != "NOT_FOUND" {
			t.Errorf("%s: %d %v", target, w.Code, f)
		}
	}
	if w, _ := overHTTP(h, "GET", "/api/v1/openapi.json", "", ""); w.Code != 200 || w.Body.String() != string(openAPI) {
		t.Errorf("the document: %d", w.Code)
	}
	if w, f := overHTTP(h, "POST", "/api/v1/topics/list", "token-of-eve", `{"contains":"`+strings.Repeat("x", requestBytes)+`"}`); w.Code != 429 || !strings.Contains(f.Message, "at most") {
		t.Errorf("a request that is too long: %d %v", w.Code, f)
	}
	if w, _ := overHTTP(h, "POST", "/api/v1/topics/list?contains=x", "token-of-eve", ""); w.Code != 400 {
		t.Errorf("a POST with a query: %d", w.Code)
	}
	alone := New(Options{Logger: slog.New(slog.DiscardHandler)})
	if w, f := overHTTP(alone.HTTP(), "GET", "/api/v1/topics/list", "", ""); w.Code != 401 || !strings.Contains(f.Message, "on loopback too") {
		t.Errorf("without tokens: %d %v", w.Code, f)
	}
	alone.Close(t.Context())
	if w, _ := overHTTP(alone.HTTP(), "GET", "/api/v1/topics/list", "", ""); w.Code != 503 {
		t.Errorf("after Close: %d", w.Code)
	}
}

// Queries fill every kind of field that requests have, and say what is wrong with a value.
func TestQuery(t *testing.T) {
	want := &api.ListAclsRequest{Filter: &api.AclFilter{Name: "a b&c", Principal: "User:x"}, PageSize: 7, PageToken: []byte{0xfb, 0xff, 0}}
	for _, raw := range []string{"filter.name=a+b%26c&filter.principal=User:x&page_size=7&page_token=%2B/8A", "filter.name=a%20b%26c&filter.principal=User:x&pageSize=7&page_token=-_8A"} {
		got := new(api.ListAclsRequest)
		if err := fromQuery(raw, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v", raw, got, err)
		}
	}
	groups := new(api.ListGroupsRequest)
	if err := fromQuery("states=Stable&states=Empty", groups); err != nil || len(groups.States) != 2 {
		t.Errorf("%v, %v", groups, err)
	}
	sessions := new(api.ListSessionsRequest)
	if err := fromQuery("state=STATE_ABSENT&queued=9000000000", sessions); err != nil || sessions.State != api.ListSessionsRequest_STATE_ABSENT || sessions.Queued != 9e9 {
		t.Errorf("%v, %v", sessions, err)
	}
	for raw, says := range map[string]string{
		"a=1":                          "has no such field",
		"page_size=x":                  "want a number that fits int32",
		"page_size=3000000000":         "want a number that fits int32",
		"page_size=1&page_size=2":      "want one value, found 2",
		"contains=%ff":                 "want text in UTF-8",
		"internal=yes":                 "want true or false",
		"page_token=*":                 "want bytes in base64",
		"page_size.x=1":                "has no form in a query",
		"%zz=1":                        "the query is none",
		"internal=true&contains=a;b=c": "the query is none",
	} {
		if err := fromQuery(raw, new(api.ListTopicsRequest)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", raw, err, says)
		}
	}
	if err := fromQuery("filter=1", new(api.ListAclsRequest)); err == nil {
		t.Error("a message is one value")
	}
	if err := fromQuery("settings.a=1", new(api.CreateTopicRequest)); err == nil || !strings.Contains(err.Error(), "POST it") {
		t.Errorf("a map in a query: %v", err)
	}
}

// All that a request of a route that GET may call can say, a query can say.
func TestQueriesSayAll(t *testing.T) {
	for path, r := range routes(New(Options{}).services) {
		if !r.reads {
			continue
		}
		mt, err := protoregistry.GlobalTypes.FindMessageByName(r.input.FullName())
		if err != nil {
			t.Fatal(err)
		}
		want := mt.New().Interface()
		filled(want.ProtoReflect(), 3)
		values := url.Values{}
		asQuery(t, values, "", want.ProtoReflect())
		got := mt.New().Interface()
		if err := fromQuery(values.Encode(), got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v is %v, %v", path, values, got, err)
		}
	}
}

func asQuery(t *testing.T, values url.Values, prefix string, m protoreflect.Message) {
	t.Helper()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := prefix + string(f.Name())
		switch {
		case f.IsMap(), f.IsList() && f.Message() != nil:
			t.Errorf("%s of %s has no form in a query", name, m.Descriptor().Name())
		case f.IsList():
			values.Add(name, v.List().Get(0).String())
		case f.Message() != nil:
			asQuery(t, values, name+".", v.Message())
		case f.Kind() == protoreflect.BytesKind:
			values.Add(name, base64.URLEncoding.EncodeToString(v.Bytes()))
		case f.Kind() == protoreflect.EnumKind:
			values.Add(name, string(f.Enum().Values().ByNumber(v.Enum()).Name()))
		default:
			values.Add(name, v.String())
		}
		return true
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("filter.name=a&page_size=7&page_token=AA==")
	f.Add("filter.filter=a;b&%zz")
	f.Fuzz(func(t *testing.T, raw string) {
		m := new(api.ListAclsRequest)
		if fromQuery(raw, m) != nil {
			return
		}
		if _, err := proto.Marshal(m); err != nil {
			t.Errorf("%q gives what is no message: %v", raw, err)
		}
	})
}

func TestFaultNames(t *testing.T) {
	for c, want := range map[codes.Code]string{codes.NotFound: "NOT_FOUND", codes.Canceled: "CANCELLED", codes.Unauthenticated: "UNAUTHENTICATED", codes.FailedPrecondition: "FAILED_PRECONDITION",
		codes.DataLoss: "DATA_LOSS"} {
		if got := faultOf(status.Error(c, "x")).Code; got != want {
			t.Errorf("%v is %s, want %s", c, got, want)
		}
		if h := httpStatus(c); h < 200 || h > 599 || (h == 200) != (c == codes.OK) {
			t.Errorf("%v is %d", c, h)
		}
	}
}

// slowBackups answers when it is told to.
type slowBackups struct {
	api.UnimplementedBackupsServer
	pause <-chan time.Time
	begun chan struct{}
}

func (b *slowBackups) wait(ctx context.Context) error {
	select {
	case <-b.pause:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (b *slowBackups) List(ctx context.Context, _ *api.ListBackupsRequest) (*api.ListBackupsResponse, error) {
	return &api.ListBackupsResponse{}, b.wait(ctx)
}

func (b *slowBackups) Create(_ *api.CreateBackupRequest, out grpc.ServerStreamingServer[api.BackupProgress]) error {
	if err := out.Send(&api.BackupProgress{Id: "one", Done: 1}); err != nil {
		return err
	}
	b.begun <- struct{}{}
	if err := b.wait(out.Context()); err != nil {
		return err
	}
	return out.Send(&api.BackupProgress{Id: "one", Done: 2})
}

// What a server allows for reading a request ends no call that takes longer; a stream comes line by line, and ends when the node goes.
func TestLongCallsOverHTTP(t *testing.T) {
	const readTimeout = 50 * time.Millisecond
	b := &slowBackups{begun: make(chan struct{}, 1)}
	ps := NewPrincipals("the-token-of-all", nil)
	s := New(Options{Principals: func() *Principals { return ps }, Logger: slog.New(slog.DiscardHandler)})
	s.services = []service{{&api.Backups_ServiceDesc, b}}
	h := httptest.NewUnstartedServer(s.HTTP())
	h.Config.ReadTimeout, h.Config.WriteTimeout = readTimeout, readTimeout
	h.Start()
	defer s.Close(t.Context())
	defer h.Close()
	call := func(verb, path string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), verb, h.URL+"/api/v1/backups/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer the-token-of-all")
		resp, err := h.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	body := func(r *http.Response) string {
		t.Helper()
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, verb := range []string{"GET", "POST"} {
		b.pause = time.After(4 * readTimeout)
		r := call(verb, "list")
		if text := body(r); r.StatusCode != 200 || !strings.Contains(text, `"backups"`) {
			t.Errorf("%s: %d %s", verb, r.StatusCode, text)
		}
	}
	b.pause = time.After(4 * readTimeout)
	r := call("POST", "create")
	<-b.begun
	lines := strings.Split(strings.TrimSpace(body(r)), "\n")
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/x-ndjson" || len(lines) != 2 || !strings.HasPrefix(lines[1], `{"result":{"id":"one"`) {
		t.Errorf("%d %v", r.StatusCode, lines)
	}
	b.pause = nil
	r = call("POST", "create")
	<-b.begun
	s.Drain()
	if text := body(r); !strings.Contains(text, "\n"+`{"error":{"code":"CANCELLED"`) {
		t.Errorf("the end of a node: %s", text)
	}
}
