package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

// eachVersion calls f for every version of every API.
func eachVersion(f func(k APIKey, v int16)) {
	for k := range APIKeys {
		r, _ := k.Versions()
		for v := r.Min; v <= r.Max; v++ {
			f(k, v)
		}
	}
}

// message gives kmsg's empty request.
func message(t testing.TB, k APIKey, v int16) kmsg.Request {
	t.Helper()
	r := kmsg.RequestForKey(int16(k))
	if r == nil {
		t.Fatalf("kmsg has no %v", k)
	}
	r.SetVersion(v)
	return r
}

// frame makes the bytes of a request, header and all, as a client does.
func frame(r kmsg.Request, id int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, r, id)
}

func TestVersions(t *testing.T) {
	n := 0
	eachVersion(func(k APIKey, v int16) {
		n++
		r := message(t, k, v)
		if v > r.MaxVersion() {
			t.Errorf("%v: kmsg knows no version %d", k, v)
		}
		if r.IsFlexible() != k.Flexible(v) {
			t.Errorf("%v version %d: flexible %v, kmsg says %v", k, v, k.Flexible(v), r.IsFlexible())
		}
	})
	if n < 180 {
		t.Errorf("%d versions", n)
	}
	for _, k := range []APIKey{-1, 4, 7, 52, 93, 1000, -32768} {
		if _, ok := k.Versions(); ok || k.Known() {
			t.Errorf("%v is known", k)
		}
	}
	if r, ok := Produce.Advertised(); !ok || r != (Versions{0, 13}) {
		t.Errorf("Produce is advertised as %v", r)
	}
	if r, _ := Produce.Versions(); r != (Versions{3, 13}) || r.Has(2) || r.Has(14) || !r.Has(3) {
		t.Errorf("Produce has %v", r)
	}
	for k := range APIKeys {
		if k != Fetch {
			break // stops where it is told
		}
	}
}

func TestScan(t *testing.T) {
	eachVersion(func(k APIKey, v int16) {
		b := frame(message(t, k, v), 77)
		for n := range b {
			r, err := Scan(b[:n:n], 0)
			if !errors.Is(err, ErrShort) || r.Size <= n || r.Size > len(b) {
				t.Fatalf("%v version %d: %d of %d bytes: asks for %d, %v", k, v, n, len(b), r.Size, err)
			}
		}
		r, err := Scan(append(bytes.Clone(b), 0xFF), len(b)-4)
		if err != nil || r.Size != len(b) || r.Call != (Call{k, v, 77}) || string(r.ClientID) != "client" || r.Unreadable() {
			t.Fatalf("%v version %d: %+v, %v", k, v, r, err)
		}
		if want := message(t, k, v).AppendTo(nil); !bytes.Equal(r.Body, want) {
			t.Fatalf("%v version %d: body %x, want %x", k, v, r.Body, want)
		}
		if r, err := Scan(b[:4], len(b)-5); !errors.Is(err, ErrTooLarge) || r.Size != len(b) {
			t.Fatalf("%v version %d: over the limit: %+v, %v", k, v, r, err)
		}
	})
}

// raw makes a request of any header.
func raw(size int32, k APIKey, v int16, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(size))
	b = binary.BigEndian.AppendUint16(b, uint16(k))
	b = binary.BigEndian.AppendUint16(b, uint16(v))
	return append(append(b, 0, 0, 0, 9), rest...)
}

func TestScanRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"negative size", raw(-1, Metadata, 1), ErrSize},
		{"no header", raw(9, Metadata, 1), ErrSize},
		{"size 0", raw(0, Metadata, 1), ErrSize},
		{"size alone over the limit", raw(1<<20+1, Metadata, 1)[:4], ErrTooLarge},
		{"size at the limit", raw(1<<20, Metadata, 1)[:4], ErrShort},
		{"unknown key before its body", raw(1<<20, 9999, 1), ErrUnknownAPI},
		{"negative key", raw(1<<20, -1, 1), ErrUnknownAPI},
		{"broker's own key", raw(1<<20, 4, 1), ErrUnknownAPI},
		{"old version before its body", raw(1<<20, Produce, 2), ErrVersion},
		{"future version before its body", raw(1<<20, Fetch, 99), ErrVersion},
		{"negative version", raw(1<<20, Fetch, -1), ErrVersion},
		{"client id longer than the request", raw(11, Metadata, 1, 0, 2, 'a'), ErrHeader},
		{"client id of -2", raw(11, Metadata, 1, 0xFF, 0xFE, 'a'), ErrHeader},
		{"no tags where they must be", raw(11, Metadata, 9, 0, 1, 'a'), ErrHeader},
		{"tag longer than the request", raw(14, Metadata, 9, 0, 0, 1, 5, 200, 1), ErrHeader},
		{"four billion tags", raw(16, Metadata, 9, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0), ErrHeader},
		{"tag count of six bytes", raw(16, Metadata, 9, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0), ErrHeader},
		{"tag count of 33 bits", raw(16, Metadata, 9, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 0), ErrHeader},
		{"null client id", raw(10, Metadata, 1, 0xFF, 0xFF), nil},
		{"unknown tags", raw(15, Metadata, 9, 0, 0, 1, 0x85, 0x00, 1, 7), nil},
	} {
		if _, err := Scan(c.b, 1<<20); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if r, err := Scan(raw(10, Metadata, 1, 0xFF, 0xFF), 0); err != nil || r.ClientID != nil {
		t.Errorf("null client id: %q, %v", r.ClientID, err)
	}
	if r, err := Scan(raw(10, Metadata, 1, 0, 0), 0); err != nil || r.ClientID == nil || len(r.ClientID) != 0 {
		t.Errorf("empty client id: %q, %v", r.ClientID, err)
	}
}

func TestUnreadable(t *testing.T) {
	for _, b := range [][]byte{
		raw(16, APIVersions, 99, 0, 1, 'c', 0, 9, 9, 9, 9),
		raw(11, APIVersions, 5, 0, 1, 'c'),           // no tags
		raw(11, APIVersions, 32767, 0xFF, 0x00, 'c'), // not even a client id
		raw(11, APIVersions, -1, 0, 1, 'c'),
	} {
		r, err := Scan(b, 0)
		if len(b) != r.Size || err != nil || !r.Unreadable() || r.CorrelationID != 9 {
			t.Errorf("%x: %+v, %v", b, r, err)
		}
	}
	got := AppendUnreadable([]byte("x"), 9)[1:]
	if n := binary.BigEndian.Uint32(got); int(n) != len(got)-4 || binary.BigEndian.Uint32(got[4:]) != 9 {
		t.Fatalf("%x", got)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(got[8:]); err != nil || resp.ErrorCode != 35 || len(resp.ApiKeys) != 1 ||
		resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MinVersion != 0 || resp.ApiKeys[0].MaxVersion != 4 {
		t.Errorf("%+v, %v", resp, err)
	}
}

func TestScanFrame(t *testing.T) {
	b := append(AppendFrame(nil, []byte("token")), AppendFrame(nil, nil)...)
	for n := range 9 {
		if _, size, err := ScanFrame(b[:n], 5); !errors.Is(err, ErrShort) || size <= n || size > 9 {
			t.Errorf("%d bytes: asks for %d, %v", n, size, err)
		}
	}
	if f, size, err := ScanFrame(b, 5); err != nil || size != 9 || string(f) != "token" {
		t.Errorf("%q of %d, %v", f, size, err)
	}
	if f, size, err := ScanFrame(b[9:], 5); err != nil || size != 4 || len(f) != 0 {
		t.Errorf("%q of %d, %v", f, size, err)
	}
	if _, _, err := ScanFrame(b, 4); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, _, err := ScanFrame([]byte{0x80, 0, 0, 0}, 0); !errors.Is(err, ErrSize) {
		t.Error(err)
	}
}

func TestResponseFrame(t *testing.T) {
	eachVersion(func(k APIKey, v int16) {
		dst, start := BeginResponse([]byte("before"), Call{k, v, 5})
		dst = FinishResponse(append(dst, "body"...), start, 1000)
		got := dst[start:]
		want := 8
		if k.Flexible(v) && k != APIVersions {
			want = 9
		}
		if start != 6 || binary.BigEndian.Uint32(got) != uint32(len(got)-4+1000) || binary.BigEndian.Uint32(got[4:]) != 5 ||
			string(got[want:]) != "body" {
			t.Fatalf("%v version %d: %x", k, v, got)
		}
	})
}

func TestErrorCodes(t *testing.T) {
	if None.String() != "NONE" || UnknownServerError.String() != "UNKNOWN_SERVER_ERROR" || ErrorCode(999).String() != "ErrorCode(999)" ||
		ErrorCode(-2).String() != "ErrorCode(-2)" || NotLeaderOrFollower.String() != "NOT_LEADER_OR_FOLLOWER" {
		t.Error("names")
	}
	for c, name := range errorNames {
		if name == "" {
			t.Errorf("error %d has no name", c)
		}
	}
	if ErrorCode(len(errorNames)-1) != ShareSessionLimitReached || len(errorNames) != 134 {
		t.Errorf("%d names", len(errorNames))
	}
	if None.Retriable() || UnknownServerError.Retriable() || !NotLeaderOrFollower.Retriable() || InvalidRecord.Retriable() {
		t.Error("retriable")
	}
	if APIKey(4).String() != "APIKey(4)" || DescribeACLs.String() != "DescribeAcls" {
		t.Error("names of APIs")
	}
}

func TestUUID(t *testing.T) {
	u := UUID{1, 2, 3, 255, 15: 9}
	got, ok := ParseUUID(u.String())
	if !ok || got != u || len(u.String()) != 22 {
		t.Errorf("%s: %v", u, got)
	}
	for _, s := range []string{"", "AAAA", "====", u.String() + "A"} {
		if _, ok := ParseUUID(s); ok {
			t.Errorf("%q is an id", s)
		}
	}
}

func TestFrameAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	b := frame(message(t, Metadata, 13), 1)
	bad := raw(11, Metadata, 1, 0, 2, 'a')
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(1000, func() {
		r, err := Scan(b, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Scan(bad, 1<<20); err == nil {
			t.Fatal("bad header passes")
		}
		dst, start := BeginResponse(buf, r.Call)
		dst = FinishResponse(dst, start, 0)
		AppendUnreadable(dst, 4)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzScan(f *testing.F) {
	f.Add(frame(kmsg.NewPtrApiVersionsRequest(), 1), 0)
	f.Add(raw(16, APIVersions, 99, 0, 1, 'c', 0, 9, 9, 9, 9), 100)
	f.Add(raw(15, Metadata, 9, 0, 0, 1, 0x85, 0x00, 1, 7), 16)
	f.Add(raw(-1, Metadata, 9), 0)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		r, err := Scan(b, limit)
		if err == nil && (r.Size > len(b) || len(r.Body)+len(r.ClientID) > r.Size-12 || (limit > 0 && r.Size-4 > limit)) {
			t.Fatalf("size %d, body %d of %d bytes", r.Size, len(r.Body), len(b))
		}
		// Whatever the split, the answer is the same in the end, and comes no later.
		for n := range min(len(b), 64) {
			p, perr := Scan(b[:n], limit)
			switch {
			case errors.Is(perr, ErrShort):
				if p.Size <= n {
					t.Fatalf("%d bytes: asks for %d", n, p.Size)
				}
			case !errors.Is(perr, err) || p.Size != r.Size:
				t.Fatalf("%d bytes: %v, %d bytes: %v", n, perr, len(b), err)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	src := frame(message(b, Metadata, 13), 1)
	for b.Loop() {
		if _, err := Scan(src, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
