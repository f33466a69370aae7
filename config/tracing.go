package config

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Collector reads tracing.endpoint: HOST:PORT, and whether it is spoken to without TLS.
func (t *Tracing) Collector() (address string, plain bool, err error) {
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" {
		return "", false, fmt.Errorf("want http://HOST:4317 or, with TLS, https://HOST:4317, found %q", t.Endpoint)
	}
	return u.Host, u.Scheme == "http", nil
}

// HeaderMap reads tracing.headers: a list such as `authorization=Bearer%20x,tenant=7`, in which lines separate as well as commas do. The names are in
// small letters.
func (t *Tracing) HeaderMap() (map[string]string, error) {
	out := make(map[string]string)
	for pair := range strings.FieldsFuncSeq(t.Headers.Reveal(), func(r rune) bool { return r == ',' || r == '\n' }) {
		name, value, found := strings.Cut(strings.TrimSpace(pair), "=")
		name = strings.ToLower(strings.TrimSpace(name))
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || err != nil || !headerName(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			// Without the text: it may be a secret.
			return nil, errors.New("want name=value,name=value with %20 for a space in a value, as OTEL_EXPORTER_OTLP_HEADERS has it")
		}
		out[name] = value
	}
	return out, nil
}

// headerName says whether gRPC lets a header have a name, for text, and leaves it to who calls.
func headerName(s string) bool {
	return s != "" && !strings.HasPrefix(s, "grpc-") && !strings.HasSuffix(s, "-bin") && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// validateTracing looks at where spans go to, and by which words.
func (l *loader) validateTracing(c *Config) {
	t := &c.Tracing
	if t.Endpoint == "" {
		if needs := errors.New("needs tracing.endpoint, the collector that it is for"); t.Headers.IsSet() {
			l.reject("tracing.headers", needs)
		} else if t.CA != "" {
			l.reject("tracing.ca", needs)
		}
		return
	}
	_, plain, err := t.Collector()
	if err != nil {
		l.reject("tracing.endpoint", err)
		return
	}
	if plain && t.CA != "" {
		l.reject("tracing.ca", errors.New("needs https:// in tracing.endpoint: without TLS nobody is vouched for"))
	}
	if _, err := t.HeaderMap(); err != nil {
		l.reject("tracing.headers", err)
	} else if t.Headers.IsSet() && !secure(t.Endpoint) {
		l.reject("tracing.headers", errors.New("needs https:// in tracing.endpoint, or a collector on loopback: who is on the way could read them"))
	}
}
