package control_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/config"
)

// ask makes one call over plain HTTP.
func (n *node) ask(token, verb, path, body string) (code int, answer map[string]any, text string) {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), verb, "http://"+n.at["http"]+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	_ = json.Unmarshal(b, &answer)
	return resp.StatusCode, answer, string(b)
}

// The control plane over plain HTTP: what is made there is there for gRPC too, pages go on, roles and the audit trail hold, and a backup comes line by line.
func TestControlOverHTTP(t *testing.T) {
	dir := t.TempDir()
	token, path := filepath.Join(dir, "token"), filepath.Join(dir, "audit.jsonl")
	if err := os.WriteFile(token, []byte("the-token-of-the-viewer"), 0o600); err != nil {
		t.Fatal(err)
	}
	const admin, viewer = "the-token-of-all", "the-token-of-the-viewer"
	n := start(t, "listeners.http=127.0.0.1:0", "auth.control_token="+admin, "control.audit="+path, "control.audit_required=true", "backup.store=local:dir="+filepath.Join(dir, "backups"),
		"control.principals=[{name: eve, role: viewer, token: 'file:"+token+"'}]")
	for _, name := range []string{"a", "b", "c"} {
		if code, made, text := n.ask(admin, "POST", "/api/v1/topics/create", `{"name":"`+name+`","partitions":2,"settings":{"retention.ms":"1000"}}`); code != 200 || made["name"] != name || made["partitions"] != 2.0 {
			t.Fatalf("%d %s", code, text)
		}
	}
	var names []string
	page := ""
	for {
		code, list, text := n.ask(viewer, "GET", "/api/v1/topics/list?page_size=2&page_token="+url.QueryEscape(page), "")
		if code != 200 {
			t.Fatalf("%d %s", code, text)
		}
		for _, e := range list["topics"].([]any) {
			topic := e.(map[string]any)
			names = append(names, topic["name"].(string))
			if topic["records"] != "0" || topic["internal"] != false {
				t.Errorf("a topic is shown as %v", topic)
			}
		}
		if page = list["next_page_token"].(string); page == "" {
			break
		}
	}
	if strings.Join(names, " ") != "a b c" {
		t.Errorf("the topics are %v", names)
	}
	for _, e := range []struct {
		token, verb, path, body string
		code                    int
		says                    string
	}{
		{"", "GET", "/api/v1/topics/list", "", 401, "none was shown"},
		{viewer, "POST", "/api/v1/topics/delete", `{"name":"a"}`, 403, "Topics.Delete needs the role operator"},
		{admin, "POST", "/api/v1/topics/describe", `{"name":"absent"}`, 404, "NOT_FOUND"},
		{admin, "POST", "/api/v1/topics/create", `{"name":"a"}`, 409, "ALREADY_EXISTS"},
		{admin, "POST", "/api/v1/topics/create", `{"name":"a`, 400, "the body is no CreateTopicRequest in JSON"},
		{viewer, "GET", "/api/v1/acls/list?filter.resource=nonsense", "", 400, "INVALID_ARGUMENT"},
		{admin, "POST", "/api/v1/nodes/list", "", 400, "FAILED_PRECONDITION"},
		{admin, "POST", "/api/v1/backups/verify", `{"id":"absent"}`, 400, "no name of a backup"},
		{admin, "POST", "/api/v1/topics/delete", `{"name":"c"}`, 200, "{}"},
	} {
		if code, _, text := n.ask(e.token, e.verb, e.path, e.body); code != e.code || !strings.Contains(text, e.says) {
			t.Errorf("%s %s %s: %d %s, want %d with %q", e.verb, e.path, e.body, code, text, e.code, e.says)
		}
	}
	code, _, text := n.ask(admin, "POST", "/api/v1/backups/create", "")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; code != 200 || !strings.HasPrefix(last, `{"result":`) || !strings.Contains(last, `"state":"complete"`) {
		t.Errorf("a backup: %d %s", code, text)
	}
	list := trail(t, path)
	last := list[len(list)-1]
	after, _ := last.After["backup"].(map[string]any)
	if last.Event != "done" || last.Method != "Backups.Create" || last.Principal != "control_token" || after["state"] != "complete" || !strings.HasPrefix(last.Remote, "127.0.0.1:") {
		t.Errorf("the last record is %+v", last)
	}
	for _, r := range list {
		if r.Event == "refused" && (r.Principal != "eve" || r.Code != "PermissionDenied") {
			t.Errorf("refused: %+v", r)
		}
	}
}

// control.http says where it answers, from the next call on; the node's other pages stay.
func TestHTTPWhere(t *testing.T) {
	n := start(t, "listeners.http=0.0.0.0:0", "auth.anonymous_http=everywhere", "auth.control_token=the-token-of-all")
	_, port, _ := strings.Cut(strings.TrimPrefix(n.at["http"], "[::]"), ":")
	n.at["http"] = "127.0.0.1:" + port
	for _, e := range []struct {
		set  string
		code int
	}{{"loopback", 200}, {"off", 404}, {"everywhere", 200}} {
		loaded, err := config.Load(config.LoadOptions{Set: append(append([]string{}, n.set...), "control.http="+e.set)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.s.Reload(loaded.Config); err != nil {
			t.Fatal(err)
		}
		if code, _, text := n.ask("the-token-of-all", "GET", "/api/v1/topics/list", ""); code != e.code {
			t.Errorf("%s: %d %s", e.set, code, text)
		}
		if code, _, text := n.ask("", "GET", "/healthz", ""); code != 200 {
			t.Errorf("%s: health is %d %s", e.set, code, text)
		}
	}
}

// A body that is refused before its end is not waited for, neither by the call nor by the node that stops.
func TestHTTPUnreadBody(t *testing.T) {
	n := start(t, "listeners.http=127.0.0.1:0", "auth.control_token=the-token-of-all")
	for _, request := range []string{"POST /api/v1/topics/create?name=a", "GET /api/v1/topics/list"} {
		c, err := net.Dial("tcp", n.at["http"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, request+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-token-of-all\r\nContent-Length: 10\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		if resp.StatusCode != http.StatusBadRequest || !resp.Close {
			t.Errorf("%s: %s, closed %v", request, resp.Status, resp.Close)
		}
	}
}
