package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBridges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "bridges:\n  - name: hq\n    addresses: mqtts://a:8883\n    user: plant\n    password: file:" + file + `
    topics:
      - {filter: "up/#", direction: out, qos: 2, remote_prefix: site/}
  - {name: two, addresses: [a, b], version: 3.1.1, client_id: x, keep_alive: 5s, ca: ca.pem, cert: c.pem, key: k.pem, insecure: true,
     topics: [{direction: both, local_prefix: l, remote_prefix: r}]}
`
	l, err := Parse("sluice.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	bs := l.Config.Bridges
	if len(bs) != 2 || bs[0].ClientID != "hq" || bs[0].Version != "5" || bs[0].KeepAlive != time.Minute || bs[0].Password.Reveal() != "secret" || bs[0].Topics[0].QoS != 2 ||
		bs[1].Version != "3.1.1" || len(bs[1].Addresses) != 2 || !bs[1].Insecure || bs[1].Topics[0].LocalPrefix != "l" {
		t.Errorf("got %+v", bs)
	}
	again, err := Parse("again", []byte("bridges: "+bs.String()))
	if err != nil || again.Config.Bridges.String() != bs.String() {
		t.Errorf("%v: %s", err, bs)
	}
	if strings.Contains(bs.String(), "secret") {
		t.Error("the password is shown")
	}
}

func TestBadBridges(t *testing.T) {
	const ok = "topics: [{filter: a, direction: out}]"
	for text, want := range map[string]string{
		"{}":                           "list of bridges",
		"[{addresses: a, " + ok + "}]": "name",
		"[{name: a b, addresses: a, " + ok + "}]":                                    "name",
		"[{name: a, " + ok + "}]":                                                    "addresses",
		"[{name: a, addresses: a}]":                                                  "topics",
		"[{name: a, addresses: a, topics: []}]":                                      "topics",
		"[{name: a, addresses: a, version: 3, " + ok + "}]":                          "5 or 3.1.1",
		"[{name: a, addresses: a, keep_alive: 0, " + ok + "}]":                       "keep_alive",
		"[{name: a, addresses: a, cert: x, " + ok + "}]":                             "go together",
		"[{name: a, addresses: a, password: x, " + ok + "}]":                         "needs a user",
		"[{name: a, addresses: a, pasword: x, " + ok + "}]":                          "no such key",
		"[{name: a, addresses: a, password: env:NOT_SET_AT_ALL, " + ok + "}]":        "NOT_SET_AT_ALL",
		"[{name: a, addresses: a, topics: [{filter: a}]}]":                           "direction",
		"[{name: a, addresses: a, topics: [{filter: a, direction: up}]}]":            "out, in or both",
		"[{name: a, addresses: a, topics: [{direction: out}]}]":                      "filter",
		"[{name: a, addresses: a, topics: [{filter: a, direction: out, qos: 3}]}]":   "0, 1 or 2",
		"[{name: a, addresses: a, " + ok + "}, {name: a, addresses: a, " + ok + "}]": "two bridges",
	} {
		_, err := Parse("f", []byte("bridges: "+text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		_, err = Load(LoadOptions{Set: []string{"bridges=" + text}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, want %q", text, err, want)
		}
	}
}
