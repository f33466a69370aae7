package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/sluicemq/sluice/journal/tier"
)

// sealed is an object of such bytes, with their checksum.
func sealed(body []byte) []byte {
	return fmt.Appendf(bytes.Clone(body), "sha256 %x\n", sha256.Sum256(body))
}

// one is a store that has one object's bytes, whatever is asked for.
type one struct {
	tier.Store
	b []byte
}

func (s *one) Get(context.Context, string, tier.Range) (io.ReadCloser, tier.Info, error) {
	return io.NopCloser(bytes.NewReader(s.b)), tier.Info{Size: int64(len(s.b))}, nil
}

// FuzzManifest: a manifest with the right checksum, whatever it says, is refused by name, or all that it says of sizes and names can be.
func FuzzManifest(f *testing.F) {
	const id = "20261126T215148Z-56b32e8e"
	add := func(m *Manifest) {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	m := Manifest{Begin: Begin{Format: formatKnown, ID: id, Cluster: "c", Node: 3}, Shards: 64,
		Files: []File{{Name: "rows", Size: 5, Parts: []Part{{Object: "00000001", Size: 2}, {Object: "00000002", Size: 3}}}, {Name: "empty"}}}
	add(&m)
	m.Files = append(m.Files, File{Name: "a", Size: 1 << 62, Parts: []Part{{Object: "00000003", Size: 1 << 62}}}, File{Name: "b", Size: 1 << 62, Parts: []Part{{Object: "00000003", Size: 1 << 62}}})
	add(&m)
	m.Files = []File{{Name: "a", Size: -1, Parts: []Part{{Object: "../manifest", Size: -1}}}}
	add(&m)
	f.Add([]byte(`{"format":1,"id":"` + id + `","files":[{"parts":null},null,{"name":"x","size":1e3}]}`))
	f.Add([]byte(`{"format":9}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &one{b: sealed(body)}
		m, err := readManifest(t.Context(), s, id)
		info, derr := describe(t.Context(), s, id)
		if derr != nil || (err == nil) != (info.State == Complete) {
			t.Fatalf("%v, and listed as %+v, %v", err, info, derr)
		}
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Fatalf("it has no name: %v", err)
			}
			return
		}
		if m.ID != id || m.Bytes() < 0 || m.Objects() < 2 {
			t.Fatalf("%+v", m)
		}
		for i := range m.Files {
			sum := int64(0)
			for _, p := range m.Files[i].Parts {
				if sum += p.Size; p.Size < 0 || tier.CheckName(objectName(id, p.Object)) != nil {
					t.Fatalf("%+v", p)
				}
			}
			if sum != m.Files[i].Size {
				t.Fatalf("%+v", m.Files[i])
			}
		}
	})
}

// FuzzUnseal: what has been cut, or has other bytes than were sealed, is told.
func FuzzUnseal(f *testing.F) {
	f.Add(sealed([]byte(`{"format":1}`)), 0, byte(0))
	f.Add([]byte("sha256 "), 3, byte(1))
	f.Fuzz(func(t *testing.T, b []byte, at int, flip byte) {
		var v any
		if unseal(b, &v) != nil || flip == 0 || at < 0 || at >= len(b) {
			return
		}
		b = bytes.Clone(b)
		b[at] ^= flip
		if unseal(b, &v) == nil || unseal(b[:at], &v) == nil {
			t.Fatalf("byte %d is another one, and nobody sees it", at)
		}
	})
}

// TestConnectionsEnd: a service that ends all connections without an answer for longer than is tried again is an error, and no end of a file: half a
// file would be restored, and half a backup verified.
func TestConnectionsEnd(t *testing.T) {
	s := newStore(t)
	id := mustStore(t, s)
	for _, wrap := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			gone := &ended{Store: s, wrap: wrap, after: 1}
			r, err := Open(t.Context(), gone, id)
			if err != nil {
				t.Fatal(err)
			}
			gone.after = 2 // parts of a/large, of four
			src := r.Read(t.Context(), r.File("a/large"))
			b, err := io.ReadAll(src)
			if err == nil || len(b) >= len(sample["a/large"]) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			_ = src.Close()
			gone.after = 2
			if err := r.Verify(t.Context(), nil); err == nil {
				t.Error("it is verified")
			}
		})
	}
}

// ended is a store whose connections end after so many gets, by an error as HTTP clients give it.
type ended struct {
	tier.Store
	after int
	wrap  bool // as stores do
}

func (s *ended) Get(ctx context.Context, name string, r tier.Range) (io.ReadCloser, tier.Info, error) {
	if s.after--; s.after < 0 {
		err := error(&url.Error{Op: "Get", URL: "http://minio:9000", Err: io.EOF})
		if s.wrap {
			err = tier.Wrap(ctx, "s3", "get", name, tier.Unavailable, err)
		}
		return nil, tier.Info{}, err
	}
	return s.Store.Get(ctx, name, r)
}
