package config

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTracing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("Authorization=Bearer%20x+y\n x-tenant = 7 ,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for endpoint, want := range map[string]string{"https://collector:4317": "collector:4317", "http://[::1]:4317/": "plain [::1]:4317"} {
		l, err := Load(LoadOptions{Set: []string{"tracing.endpoint=" + endpoint, "tracing.headers=file:" + file, "tracing.sample_ratio=0.25"}})
		if err != nil {
			t.Fatalf("%s: %v", endpoint, err)
		}
		tr := &l.Config.Tracing
		address, plain, err := tr.Collector()
		if plain {
			address = "plain " + address
		}
		if err != nil || address != want || tr.SampleRatio != 0.25 {
			t.Errorf("%s: %s, %v; ratio %v", endpoint, address, err, tr.SampleRatio)
		}
		if h, err := tr.HeaderMap(); err != nil || !maps.Equal(h, map[string]string{"authorization": "Bearer x+y", "x-tenant": "7"}) {
			t.Errorf("%v, %v", h, err)
		}
	}
}

func TestTracingProblems(t *testing.T) {
	const there = "tracing.endpoint=https://collector:4317"
	for name, tt := range map[string]struct {
		set []string
		key string
	}{
		"no scheme":          {[]string{"tracing.endpoint=collector:4317"}, "tracing.endpoint"},
		"no port":            {[]string{"tracing.endpoint=http://collector"}, "tracing.endpoint"},
		"another scheme":     {[]string{"tracing.endpoint=grpc://collector:4317"}, "tracing.endpoint"},
		"a path":             {[]string{"tracing.endpoint=http://collector:4318/v1/traces"}, "tracing.endpoint"},
		"a password":         {[]string{"tracing.endpoint=https://u:p@collector:4317"}, "tracing.endpoint"},
		"headers in clear":   {[]string{"tracing.endpoint=http://collector:4317", "tracing.headers=a=b"}, "tracing.headers"},
		"headers to nobody":  {[]string{"tracing.headers=a=b"}, "tracing.headers"},
		"authority, nobody":  {[]string{"tracing.ca=ca.pem"}, "tracing.ca"},
		"authority, no TLS":  {[]string{"tracing.endpoint=http://collector:4317", "tracing.ca=ca.pem"}, "tracing.ca"},
		"header, no value":   {[]string{there, "tracing.headers=authorization"}, "tracing.headers"},
		"header, bad name":   {[]string{there, "tracing.headers=a b=c"}, "tracing.headers"},
		"header of gRPC":     {[]string{there, "tracing.headers=grpc-timeout=1S"}, "tracing.headers"},
		"header, line break": {[]string{there, "tracing.headers=a=b%0d%0ac"}, "tracing.headers"},
		"ratio":              {[]string{there, "tracing.sample_ratio=1.5"}, "tracing.sample_ratio"},
		"no ratio":           {[]string{there, "tracing.sample_ratio=NaN"}, "tracing.sample_ratio"},
	} {
		_, err := Load(LoadOptions{Set: tt.set})
		if err == nil || !strings.Contains(err.Error(), tt.key) || strings.Contains(err.Error(), "Bearer") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTracingPage: what the page tells a reader to configure is a configuration.
func TestTracingPage(t *testing.T) {
	text, err := os.ReadFile("../docs/operate/tracing.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, m := range regexp.MustCompile("(?s)```yaml\n(tracing:.*?)```").FindAllStringSubmatch(string(text), -1) {
		seen++
		file := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(file, []byte(m[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := Load(LoadOptions{File: file, Environ: []string{"OTLP_HEADERS=authorization=Bearer%20x"}}); err != nil {
			t.Errorf("%s: %v", m[1], err)
		} else if l.Config.Tracing.Endpoint == "" {
			t.Errorf("%s: nothing is traced", m[1])
		}
	}
	if seen < 2 {
		t.Errorf("%d examples", seen)
	}
}
