package s3tier

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/sluicemq/sluice/journal/tier"
)

// meter is the client's way to the service, and counts the requests that go there, tries again included. Who asks for credentials does not go this way.
type meter struct {
	next  http.RoundTripper
	asked *tier.Requests
	style string // of Options
	where string // the bucket
}

// RoundTrip counts a request and makes it.
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	if key, ok := m.key(r.URL); ok {
		m.asked.Add(opOf(r.Method, r.URL.Query(), key), 1)
	}
	return m.next.RoundTrip(r)
}

// key tells what of a bucket is asked for, "" for itself; ok: it is ours. The client hands its way on to who looks for credentials, and
// those requests go elsewhere.
func (m *meter) key(u *url.URL) (key string, ok bool) {
	path := strings.TrimPrefix(u.Path, "/")
	if m.style != "path" && strings.HasPrefix(u.Host, m.where+".") {
		return path, true
	}
	bucket, key, _ := strings.Cut(path, "/")
	return key, bucket == m.where
}

// opOf tells what a request of S3's asks for. The parts of an upload, its begin and its end cost as much as a put each; that it is
// aborted costs nothing.
func opOf(method string, q url.Values, key string) tier.Op {
	switch method {
	case http.MethodPut:
		return tier.OpPut
	case http.MethodPost:
		if q.Has("delete") {
			return tier.OpDelete
		}
		return tier.OpPut // ?uploads, ?uploadId
	case http.MethodDelete:
		return tier.OpDelete // ?uploadId too
	case http.MethodHead:
		return tier.OpStat
	}
	switch {
	case q.Has("location"):
		return tier.OpStat
	case key == "", q.Has("uploadId"): // ?list-type=2, ?uploads; the parts of an upload
		return tier.OpList
	}
	return tier.OpGet
}

// Requests are those that went to the service. See tier.Metered.
func (s *Store) Requests() *tier.Requests { return &s.asked }
