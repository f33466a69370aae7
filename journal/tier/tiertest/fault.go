//nolint:thelper // what takes a testing.T here are the tests themselves
package tiertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
)

// firstUse gives the error of opening a store, or of what it is first asked.
func firstUse(t *testing.T, s tier.Store, err error) error {
	t.Helper()
	if err != nil {
		return err
	}
	closing(t, s)
	if err := s.Put(background(t), "first/use", bytes.NewReader([]byte("x")), 1, tier.PutOptions{}); err != nil {
		return err
	}
	return errors.New("it works")
}

func testDenied(t *testing.T, env Env) {
	s, err := env.OpenDenied(t)
	err = firstUse(t, s, err)
	mustBe(t, "first use", err, tier.ErrDenied)
	if tier.Temporary(err) {
		t.Errorf("%v is taken for temporary", err)
	}
}

func testUnreachable(t *testing.T, env Env) {
	s, err := env.OpenUnreachable(t)
	err = firstUse(t, s, err)
	mustBe(t, "first use", err, tier.ErrUnavailable)
	if !tier.Temporary(err) {
		t.Errorf("%v is not taken for temporary", err)
	}
}

func via(t *testing.T, env Env) (tier.Store, *Net) {
	t.Helper()
	n := NewNet()
	return closing(t, env.OpenVia(t, n)), n
}

// testCutPut cuts the connections in the middle of a Put, early, between parts and late: the name is absent or whole, and stays what it
// is; a second Put succeeds.
func testCutPut(t *testing.T, env Env) {
	s, n := via(t, env)
	const size = 18 << 20
	for i, at := range []int64{1000, 1 << 20, 9 << 20, size - 2000} {
		name := "cut/" + string(rune('a'+i))
		put(t, s, "cut/warm", []byte("x")) // connections are open
		n.CutAfterWrite(at)
		err := s.Put(background(t), name, io.LimitReader(stream(uint64(i)), size), size, tier.PutOptions{})
		if n.Cuts() != i+1 {
			t.Fatalf("%d cuts, %v", n.Cuts(), err)
		}
		if err != nil && (!tier.Temporary(err) || errors.Is(err, io.EOF)) {
			t.Fatalf("cut at %d: %v is not temporary", at, err)
		}
		absent := false
		eventually(t, "stat after the cut", func() error {
			info, err := s.Stat(background(t), name)
			absent = errors.Is(err, tier.ErrNotFound)
			if !absent && err == nil && info.Size != size {
				t.Fatalf("cut at %d: a part of it is there, %+v", at, info)
			}
			if absent {
				return nil
			}
			return err
		})
		if err == nil && absent {
			t.Fatalf("cut at %d: no error, and no object", at)
		}
		eventually(t, "put after the cut", func() error {
			return s.Put(background(t), name, io.LimitReader(stream(uint64(i)), size), size, tier.PutOptions{})
		})
		body, _, err := s.Get(background(t), name, tier.Range{})
		if err != nil {
			t.Fatal(err)
		}
		same(t, body, io.LimitReader(stream(uint64(i)), size))
		_ = body.Close()
	}
}

// testCutGet cuts the connections in the middle of a Get: never fewer bytes without an error.
func testCutGet(t *testing.T, env Env) {
	s, n := via(t, env)
	const size = 6 << 20
	b := content(1, size)
	put(t, s, "cut/get", b)
	for i, at := range []int64{0, 1, 100_000, size / 2} {
		n.CutAfterRead(at)
		got, _, err := get(background(t), s, "cut/get", tier.Range{})
		if n.Cuts() != i+1 {
			t.Fatalf("%d cuts, %v", n.Cuts(), err)
		}
		// A store may take up where it was cut; it may not end short.
		if err == nil && !bytes.Equal(got, b) {
			t.Fatalf("cut at %d: %d bytes and no error", at, len(got))
		}
		if err != nil && (!tier.Temporary(err) || errors.Is(err, io.EOF)) {
			t.Fatalf("cut at %d: %v is not temporary", at, err)
		}
		eventually(t, "get after the cut", func() error {
			got, _, err = get(background(t), s, "cut/get", tier.Range{Off: 100, Len: 1000})
			return err
		})
		if !bytes.Equal(got, b[100:1100]) {
			t.Fatal("other bytes after the cut")
		}
	}
}

// testStalled has the server fall silent: a call ends with its context.
func testStalled(t *testing.T, env Env) {
	s, n := via(t, env)
	put(t, s, "stall/a", content(1, 1000))
	n.Stall(true)
	for _, c := range []struct {
		what string
		call func(context.Context) error
	}{
		{"put", func(ctx context.Context) error {
			return s.Put(ctx, "stall/b", bytes.NewReader(content(2, 100)), 100, tier.PutOptions{})
		}},
		{"get", func(ctx context.Context) error { _, _, err := get(ctx, s, "stall/a", tier.Range{}); return err }},
		{"stat", func(ctx context.Context) error { _, err := s.Stat(ctx, "stall/a"); return err }},
		{"list", func(ctx context.Context) error { _, _, err := s.List(ctx, "stall/", "", 0); return err }},
		{"delete", func(ctx context.Context) error { return s.Delete(ctx, "stall/none") }},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		from := time.Now()
		err := c.call(ctx)
		cancel()
		mustBe(t, c.what, err, context.DeadlineExceeded)
		if took := time.Since(from); took > 10*time.Second {
			t.Errorf("%s ended %v after its beginning, with 100 ms", c.what, took)
		}
	}
	n.Stall(false)
	eventually(t, "get afterwards", func() error {
		b, _, err := get(background(t), s, "stall/a", tier.Range{})
		if err == nil && !bytes.Equal(b, content(1, 1000)) {
			t.Fatal("other bytes after the stall")
		}
		return err
	})
}

func testSlow(t *testing.T, env Env) {
	s, n := via(t, env)
	n.Slow(2 * time.Millisecond)
	b := content(1, 3<<20)
	put(t, s, "slow/a", b)
	mustGet(t, s, "slow/a", tier.Range{}, b)
}

// testComeback has the server away for a while: errors are temporary, then all goes on with the same handle.
func testComeback(t *testing.T, env Env) {
	s, n := via(t, env)
	put(t, s, "away/a", content(1, 1000))
	n.Refuse(true)
	for range 3 {
		err := s.Put(background(t), "away/b", bytes.NewReader(content(2, 100)), 100, tier.PutOptions{})
		mustBe(t, "put", err, tier.ErrUnavailable)
		_, _, err = get(background(t), s, "away/a", tier.Range{})
		mustBe(t, "get", err, tier.ErrUnavailable)
		_, err = s.Stat(background(t), "away/a")
		mustBe(t, "stat", err, tier.ErrUnavailable)
		_, _, err = s.List(background(t), "", "", 0)
		mustBe(t, "list", err, tier.ErrUnavailable)
	}
	n.Refuse(false)
	eventually(t, "put afterwards", func() error {
		return s.Put(background(t), "away/b", bytes.NewReader(content(2, 100)), 100, tier.PutOptions{})
	})
	mustGet(t, s, "away/a", tier.Range{}, content(1, 1000))
}
