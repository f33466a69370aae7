package s3tier

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is as much of an S3 service as the store needs, for tests without one. It checks access key and checksums, and fails as it is told.
type fake struct {
	*httptest.Server
	ignoreConditions bool // as services do that do not know If-None-Match
	ignoreInParts    bool // at the end of uploads only
	ignoreRanges     bool

	mu struct {
		sync.Mutex
		objects  map[string]*fakeObject
		uploads  map[string]*fakeUpload
		next     int
		fail     func(r *http.Request) (status int, code string)
		requests map[string]int // by method
		seen     []http.Header
		hosts    []string
	}
}

type fakeObject struct {
	data []byte
	etag string
	at   time.Time
}

type fakeUpload struct {
	key   string
	at    time.Time
	parts map[int][]byte
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{}
	f.mu.objects, f.mu.uploads, f.mu.requests = map[string]*fakeObject{}, map[string]*fakeUpload{}, map[string]int{}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// failNow has requests fail for which g gives a status.
func (f *fake) failNow(g func(r *http.Request) (int, string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.fail = g
}

func (f *fake) refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=wrong/") {
		f.refuse(w, r, http.StatusForbidden, "InvalidAccessKeyId")
		return
	}
	f.mu.Lock()
	fail := f.mu.fail
	f.mu.requests[r.Method]++
	f.mu.seen = append(f.mu.seen, r.Header.Clone())
	f.mu.hosts = append(f.mu.hosts, r.Host)
	f.mu.Unlock()
	if fail != nil {
		if status, code := fail(r); status != 0 {
			_, _ = io.Copy(io.Discard, r.Body)
			f.refuse(w, r, status, code)
			return
		}
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if strings.HasPrefix(r.Host, "vault.") { // virtual style
		bucket, key = "vault", strings.TrimPrefix(r.URL.Path, "/")
	}
	if bucket != "vault" {
		f.refuse(w, r, http.StatusNotFound, "NoSuchBucket")
		return
	}
	q := r.URL.Query()
	switch {
	case key == "":
		f.list(w, r)
	case r.Method == http.MethodPut && q.Has("uploadId"):
		f.putPart(w, r)
	case r.Method == http.MethodPut:
		f.put(w, r, key)
	case r.Method == http.MethodPost && q.Has("uploads"):
		f.begin(w, key)
	case r.Method == http.MethodPost:
		f.complete(w, r, key)
	case r.Method == http.MethodDelete:
		f.remove(w, r, key)
	default:
		f.get(w, r, key)
	}
}

// payload reads a body, which may come in signed chunks.
func payload(r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil || !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return raw, err
	}
	var out []byte
	for len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte("\r\n"))
		size, err := strconv.ParseInt(strings.Split(string(head), ";")[0], 16, 64)
		if !ok || err != nil || int64(len(rest)) < size {
			return nil, io.ErrUnexpectedEOF
		}
		if size == 0 {
			break
		}
		out = append(out, rest[:size]...)
		raw = rest[size+2:]
	}
	return out, nil
}

func (f *fake) read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := payload(r)
	if err != nil {
		f.refuse(w, r, http.StatusBadRequest, "IncompleteBody")
		return nil, false
	}
	if want := r.Header.Get(sumKey); want != "" && want != sum(b) {
		f.refuse(w, r, http.StatusBadRequest, "BadDigest")
		return nil, false
	}
	if want := r.Header.Get("Content-Md5"); want != "" {
		have := md5.Sum(b)
		if want != base64.StdEncoding.EncodeToString(have[:]) {
			f.refuse(w, r, http.StatusBadRequest, "BadDigest")
			return nil, false
		}
	}
	return b, true
}

func etagOf(b []byte) string { s := md5.Sum(b); return `"` + hex.EncodeToString(s[:]) + `"` }

// store keeps an object, if the request's condition holds.
func (f *fake) store(w http.ResponseWriter, r *http.Request, key string, b []byte, conditions bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if conditions && r.Header.Get("If-None-Match") == "*" && f.mu.objects[key] != nil {
		f.refuse(w, r, http.StatusPreconditionFailed, "PreconditionFailed")
		return false
	}
	f.mu.objects[key] = &fakeObject{data: b, etag: etagOf(b), at: time.Now()}
	return true
}

func (f *fake) put(w http.ResponseWriter, r *http.Request, key string) {
	b, ok := f.read(w, r)
	if ok && f.store(w, r, key, b, !f.ignoreConditions) {
		w.Header().Set("Etag", etagOf(b))
	}
}

func (f *fake) begin(w http.ResponseWriter, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.next++
	id := fmt.Sprintf("upload-%d", f.mu.next)
	f.mu.uploads[id] = &fakeUpload{key: key, at: time.Now(), parts: map[int][]byte{}}
	fmt.Fprintf(w, "<InitiateMultipartUploadResult><Bucket>vault</Bucket><Key>%s</Key><UploadId>%s</UploadId></InitiateMultipartUploadResult>", key, id)
}

func (f *fake) putPart(w http.ResponseWriter, r *http.Request) {
	b, ok := f.read(w, r)
	if !ok {
		return
	}
	n, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
	f.mu.Lock()
	defer f.mu.Unlock()
	up := f.mu.uploads[r.URL.Query().Get("uploadId")]
	if up == nil {
		f.refuse(w, r, http.StatusNotFound, "NoSuchUpload")
		return
	}
	up.parts[n] = b
	w.Header().Set("Etag", etagOf(b))
	w.Header().Set(sumKey, sum(b))
}

func (f *fake) complete(w http.ResponseWriter, r *http.Request, key string) {
	id := r.URL.Query().Get("uploadId")
	var req struct {
		Part []struct {
			PartNumber     int
			ETag           string
			ChecksumCRC32C string
		}
	}
	if err := xml.NewDecoder(r.Body).Decode(&req); err != nil {
		f.refuse(w, r, http.StatusBadRequest, "MalformedXML")
		return
	}
	f.mu.Lock()
	up := f.mu.uploads[id]
	f.mu.Unlock()
	if up == nil {
		f.refuse(w, r, http.StatusNotFound, "NoSuchUpload")
		return
	}
	var all []byte
	for i, p := range req.Part {
		b := up.parts[p.PartNumber]
		if p.PartNumber != i+1 || strings.Trim(p.ETag, `"`) != strings.Trim(etagOf(b), `"`) || p.ChecksumCRC32C != sum(b) || i < len(req.Part)-1 && len(b) < minPartBytes {
			f.refuse(w, r, http.StatusBadRequest, "InvalidPart")
			return
		}
		all = append(all, b...)
	}
	if !f.store(w, r, key, all, !f.ignoreConditions && !f.ignoreInParts) {
		return
	}
	f.mu.Lock()
	delete(f.mu.uploads, id)
	f.mu.Unlock()
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>vault</Bucket><Key>%s</Key><ETag>x</ETag></CompleteMultipartUploadResult>", key)
}

func (f *fake) remove(w http.ResponseWriter, r *http.Request, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id := r.URL.Query().Get("uploadId"); id != "" {
		delete(f.mu.uploads, id)
	} else {
		delete(f.mu.objects, key)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *fake) get(w http.ResponseWriter, r *http.Request, key string) {
	f.mu.Lock()
	o := f.mu.objects[key]
	f.mu.Unlock()
	if o == nil {
		f.refuse(w, r, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("Etag", o.etag)
	if f.ignoreRanges {
		r.Header.Del("Range")
	}
	if r.Header.Get("Range") != "" && len(o.data) == 0 {
		f.refuse(w, r, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
		return
	}
	http.ServeContent(w, r, "", o.at, bytes.NewReader(o.data))
}

func (f *fake) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Has("uploads") {
		fmt.Fprint(w, "<ListMultipartUploadsResult>")
		for id, up := range f.mu.uploads {
			fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>%s</Initiated></Upload>", up.key, id, up.at.UTC().Format(time.RFC3339))
		}
		fmt.Fprint(w, "</ListMultipartUploadsResult>")
		return
	}
	most, after := 1000, max(q.Get("start-after"), q.Get("continuation-token"))
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil && n > 0 {
		most = min(most, n)
	}
	fmt.Fprint(w, "<ListBucketResult>")
	n, last, more := 0, "", false
	for _, key := range slices.Sorted(maps.Keys(f.mu.objects)) {
		if !strings.HasPrefix(key, q.Get("prefix")) || key <= after {
			continue
		}
		if n == most {
			more = true
			break
		}
		o := f.mu.objects[key]
		fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>%d</Size><ETag>%s</ETag><LastModified>%s</LastModified></Contents>", key, len(o.data), o.etag,
			o.at.UTC().Format("2006-01-02T15:04:05.000Z"))
		n, last = n+1, key
	}
	fmt.Fprintf(w, "<KeyCount>%d</KeyCount><IsTruncated>%v</IsTruncated><NextContinuationToken>%s</NextContinuationToken></ListBucketResult>", n, more, last)
}
