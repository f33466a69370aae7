package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cause := errors.New("status 503")
	err := Wrap(ctx, "s3", "put", "a/b", Throttled, cause)
	if !errors.Is(err, ErrThrottled) || !errors.Is(err, cause) || errors.Is(err, ErrUnavailable) || !Temporary(fmt.Errorf("more: %w", err)) {
		t.Errorf("%v", err)
	}
	if got := err.Error(); got != "s3: put a/b: tier: store throttles: status 503" {
		t.Error(got)
	}
	if again := Wrap(ctx, "x", "y", "z", Permanent, err); !errors.Is(again, err) || again.Error() != err.Error() {
		t.Errorf("wrapped twice: %v", again)
	}
	if err := Wrap(ctx, "s3", "put", "a", Unavailable, fmt.Errorf("x: %w", ErrExists)); !errors.Is(err, ErrExists) || Temporary(err) {
		t.Errorf("a sentinel within does not decide: %v", err)
	}
	cancel()
	if err := Wrap(ctx, "s3", "put", "a", Unavailable, cause); !errors.Is(err, context.Canceled) || Temporary(err) {
		t.Errorf("%v", err)
	}
	if Wrap(ctx, "s3", "put", "a", Unavailable, nil) != nil || Temporary(nil) || Temporary(cause) {
		t.Error("nil, or an error of another")
	}
	for k, s := range sentinels {
		if s == nil {
			t.Errorf("kind %d has no sentinel", k)
		}
	}
}

func TestExactly(t *testing.T) {
	ctx := context.Background()
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		r    io.Reader
		size int64
		want error
	}{
		{"exact", strings.NewReader("abc"), 3, nil},
		{"one by one", iotest.OneByteReader(strings.NewReader("abc")), 3, nil},
		{"data and EOF", iotest.DataErrReader(strings.NewReader("abc")), 3, nil},
		{"empty", strings.NewReader(""), 0, nil},
		{"short", strings.NewReader("ab"), 3, ErrSize},
		{"long", strings.NewReader("abcd"), 3, ErrSize},
		{"long, one by one", iotest.OneByteReader(strings.NewReader("abcd")), 3, ErrSize},
		{"not empty", strings.NewReader("a"), 0, ErrSize},
		{"negative", strings.NewReader("a"), -1, ErrSize},
		{"failing", io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(boom)), 3, boom},
		{"failing at the end", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(boom)), 3, boom},
		{"no progress", io.MultiReader(strings.NewReader("abc"), stuck{}), 3, io.ErrNoProgress},
	} {
		e := Exactly(ctx, c.r, c.size)
		var b bytes.Buffer
		_, err := b.ReadFrom(e)
		if !errors.Is(err, c.want) || !errors.Is(e.Err(), c.want) {
			t.Errorf("%s: %v, Err %v", c.name, err, e.Err())
		}
		if err != nil && c.size > 0 && int64(b.Len()) == c.size || err == nil && int64(b.Len()) != c.size {
			t.Errorf("%s: %d bytes and %v: the last ones are given only when all is well", c.name, b.Len(), err)
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestSettings(t *testing.T) {
	s := NewSettings(map[string]string{"a": "x", "n": "7", "d": "3s", "b": "true", "bad": "99", "worse": "q", "unknown": "1"})
	if s.Required("a") != "x" || s.Int("n", 1, 1, 10) != 7 || s.Duration("d", time.Second) != 3*time.Second || !s.Bool("b", false) || s.Bool("c", true) != true {
		t.Error("values")
	}
	if s.Int("bad", 5, 1, 10) != 5 || s.OneOf("worse", "r", "s") != "r" || s.String("none", "z") != "z" || s.Required("missing") != "" {
		t.Error("what is without")
	}
	err := s.Err()
	for _, want := range []string{"bad is \"99\"", "worse is \"q\"", "missing is missing", "no setting is named unknown"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell %q", err, want)
		}
	}
}

// TestNoEnd: to who reads an object io.EOF says that all has come. No store's error is taken for it, though a connection has ended with it.
func TestNoEnd(t *testing.T) {
	cause := &net.OpError{Op: "read", Err: io.EOF}
	err := Wrap(context.Background(), "s3", "get", "a", Unavailable, fmt.Errorf("Get http://x: %w", cause))
	if errors.Is(err, io.EOF) || !errors.Is(err, io.ErrUnexpectedEOF) || !Temporary(err) {
		t.Errorf("%v", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op != cause || !strings.Contains(err.Error(), "Get http://x: read: EOF") {
		t.Errorf("the cause is lost: %v", err)
	}
}
