package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

// eachMessage calls f for every version of every API that kmsg reads.
func eachMessage(f func(k APIKey, v int16)) {
	eachVersion(func(k APIKey, v int16) {
		if k != Produce && k != Fetch {
			f(k, v)
		}
	})
}

func randomMessage(t testing.TB, k APIKey, v int16, seed uint64) kmsg.Request {
	t.Helper()
	m := message(t, k, v)
	newFiller(seed).fill(reflect.ValueOf(m).Elem())
	return m
}

func request(k APIKey, v int16, body []byte) *Request {
	return &Request{Call: Call{Key: k, Version: v}, Body: body}
}

// wellFormed makes kmsg write a message, reads what it wrote, and writes again: fields that the version lacks are gone, and a null
// that the version cannot say has become what it can. ok is false if kmsg cannot read what it wrote, as for a null that it wrote
// where there must be none.
func wellFormed(t testing.TB, m kmsg.Request) (body []byte, ok bool) {
	t.Helper()
	again := message(t, APIKey(m.Key()), m.GetVersion())
	if err := again.ReadFrom(m.AppendTo(nil)); err != nil {
		return nil, false
	}
	return again.AppendTo(nil), true
}

// TestMessages holds the shapes against kmsg: what it writes has the shape, to the last byte and not to the one before it.
func TestMessages(t *testing.T) {
	eachMessage(func(k APIKey, v int16) {
		passed := 0
		for seed := range uint64(40) {
			m := randomMessage(t, k, v, seed)
			body, ok := wellFormed(t, m)
			if !ok {
				continue
			}
			passed++
			got, err := DecodeMessage(request(k, v, body), 0)
			if err != nil {
				t.Fatalf("%v version %d, seed %d: %x: %v", k, v, seed, body, err)
			}
			if again := got.AppendTo(nil); !bytes.Equal(again, body) {
				t.Fatalf("%v version %d, seed %d:\n%x reads and writes as\n%x", k, v, seed, body, again)
			}
			for n := range body {
				if _, err := DecodeMessage(request(k, v, body[:n:n]), 0); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%v version %d, seed %d: %x cut at %d: %v", k, v, seed, body, n, err)
				}
			}
			if _, err := DecodeMessage(request(k, v, append(bytes.Clone(body), 1, 2, 3)), 0); err != nil {
				t.Fatalf("%v version %d, seed %d: with bytes behind: %v", k, v, seed, err)
			}
		}
		if passed < 20 {
			t.Errorf("%v version %d: only %d messages were looked at", k, v, passed)
		}
	})
}

// TestMessageBudget: what a message costs is bound by its elements and its bytes.
func TestMessageBudget(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	eachMessage(func(k APIKey, v int16) {
		m := randomMessage(t, k, v, 7)
		body, ok := wellFormed(t, m)
		if !ok {
			return
		}
		most := 0 // the least bound that lets the message pass is the number of its elements
		for errors.Is(checkShape(shapes[k], body, v, k.Flexible(v), most+1), ErrTooMany) {
			most++
		}
		cost := allocated(func() { _, _ = DecodeMessage(request(k, v, body), 0) })
		if limit := uint64(4096 + 512*most + 8*len(body)); cost > limit {
			t.Errorf("%v version %d: %d elements in %d bytes cost %d bytes", k, v, most, len(body), cost)
		}
		if most > 1 {
			if _, err := DecodeMessage(request(k, v, body), most-1); !errors.Is(err, ErrTooMany) {
				t.Errorf("%v version %d: %d elements, %d allowed: %v", k, v, most, most-1, err)
			}
		}
	})
}

// allocated returns what f allocates, in bytes. The runtime counts for the whole process, its own goroutines included, so the
// least of several counts is the one that is f's.
func allocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// TestMessageLies has bodies that would make kmsg set aside memory, or spin, out of proportion.
func TestMessageLies(t *testing.T) {
	zeros := strings.Repeat("00", 4000)
	for _, c := range []struct {
		name    string
		key     APIKey
		version int16
		most    int
		body    string
		want    error
	}{
		{"topics in name only", Metadata, 4, 0, "00000FA0 " + zeros + "00", ErrMalformed},
		{"topics of two bytes each", Metadata, 4, 2000, "000007D0 " + zeros + "00", nil},
		{"one topic too many", Metadata, 4, 1999, "000007D0 " + zeros + "00", ErrTooMany},
		{"null topics of old", Metadata, 0, 0, "FFFFFFFF", ErrMalformed},
		{"null topics", Metadata, 1, 0, "FFFFFFFF", nil},
		{"four billion tags", APIVersions, 3, 0, "02 61 02 62 FFFFFFFF0F" + zeros, ErrMalformed},
		{"two thousand tags", APIVersions, 3, 2000, "02 61 02 62 D00F" + zeros, nil},
		{"one tag too many", APIVersions, 3, 1999, "02 61 02 62 D00F" + zeros, ErrTooMany},
		{"tag of four billion bytes", APIVersions, 3, 0, "02 61 02 62 01 05 FFFFFFFF0F" + zeros, ErrMalformed},
		{"groups of compact count 2^31", DeleteGroups, 2, 0, "8080808008" + zeros, ErrMalformed},
		{"groups of compact count 2^32-1", DeleteGroups, 2, 0, "FFFFFFFF0F" + zeros, ErrMalformed},
		{"groups below -1", DeleteGroups, 0, 0, "80000000" + zeros, ErrMalformed},
		{"null groups", DeleteGroups, 0, 0, "FFFFFFFF", ErrMalformed},
		{"null group", DeleteGroups, 0, 0, "00000001 FFFF", ErrMalformed},
		{"cursor neither there nor null", DescribeTopicPartitions, 0, 0, "01 00000001 FE 00", ErrMalformed},
		{"cursor null", DescribeTopicPartitions, 0, 0, "01 00000001 FF 00", nil},
		{"no such version", Metadata, 99, 0, "", ErrVersion},
	} {
		if _, err := DecodeMessage(request(c.key, c.version, unhex(t, c.body)), c.most); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestMembers(t *testing.T) {
	for version := range int16(4) {
		for seed := range uint64(50) {
			var sub, subAgain kmsg.ConsumerMemberMetadata
			newFiller(seed).fill(reflect.ValueOf(&sub).Elem())
			sub.Version = version
			b := sub.AppendTo(nil)
			got, err := DecodeSubscription(b, 0)
			if err != nil || !bytes.Equal(got.AppendTo(nil), b) || subAgain.ReadFrom(b) != nil {
				t.Fatalf("version %d, seed %d: %x: %+v, %v", version, seed, b, got, err)
			}
			for n := range b {
				if _, err := DecodeSubscription(b[:n:n], 0); !errors.Is(err, ErrMalformed) {
					t.Fatalf("version %d, seed %d: %x cut at %d: %v", version, seed, b, n, err)
				}
			}
			var as kmsg.ConsumerMemberAssignment
			newFiller(seed).fill(reflect.ValueOf(&as).Elem())
			as.Version = version
			b = as.AppendTo(nil)
			if got, err := DecodeAssignment(b, 0); err != nil || !bytes.Equal(got.AppendTo(nil), b) {
				t.Fatalf("version %d, seed %d: %x: %+v, %v", version, seed, b, got, err)
			}
			for n := range b {
				if _, err := DecodeAssignment(b[:n:n], 0); !errors.Is(err, ErrMalformed) {
					t.Fatalf("version %d, seed %d: %x cut at %d: %v", version, seed, b, n, err)
				}
			}
		}
	}
	future := unhex(t, "0063 00000001 0001 74 FFFFFFFF 00000000 00000005 FFFF 0102")
	if m, err := DecodeSubscription(future, 1); err != nil || len(m.Topics) != 1 || m.Generation != 5 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := DecodeSubscription(unhex(t, "8000 00000000 FFFFFFFF"), 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("version below 0: %v", err)
	}
	if _, err := DecodeAssignment(unhex(t, "0000 00000002 0000 00000000 0000 00000000 FFFFFFFF"), 1); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
}

// TestAppendMessage: kmsg's responses in our frames.
func TestAppendMessage(t *testing.T) {
	eachMessage(func(k APIKey, v int16) {
		m := kmsg.ResponseForKey(int16(k))
		newFiller(3).fill(reflect.ValueOf(m).Elem())
		c := Call{k, v, 11}
		b := AppendMessage([]byte("before"), c, m)[6:]
		head := 8
		if k.Flexible(v) && k != APIVersions {
			head = 9
		}
		if int(binary.BigEndian.Uint32(b)) != len(b)-4 || !bytes.Equal(b[head:], m.AppendTo(nil)) || m.GetVersion() != v {
			t.Errorf("%v version %d: %x", k, v, b)
		}
	})
}

func TestShapeAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; plain builds run this")
	}
	eachMessage(func(k APIKey, v int16) {
		body := randomMessage(t, k, v, 1).AppendTo(nil)
		if n := testing.AllocsPerRun(10, func() { _ = checkShape(shapes[k], body, v, k.Flexible(v), 100) }); n != 0 {
			t.Errorf("%v version %d: %v allocations", k, v, n)
		}
	})
}

func FuzzMessage(f *testing.F) {
	eachMessage(func(k APIKey, v int16) {
		if r, _ := k.Versions(); v == r.Min || v == r.Max {
			f.Add(int16(k), v, randomMessage(f, k, v, 1).AppendTo(nil))
		}
	})
	f.Add(int16(APIVersions), int16(3), []byte{2, 'a', 2, 'b', 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		k := APIKey(key)
		if !k.Known() || !supported(k, version) || k == Produce || k == Fetch {
			return
		}
		r := request(k, version, body)
		m, err := DecodeMessage(r, 1000)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooMany) {
				t.Fatal(err)
			}
			// The shape is right, or kmsg never gets to see the body.
			if checkShape(shapes[k], body, version, k.Flexible(version), 1000) == nil {
				t.Fatalf("%v version %d: %x has the shape, and kmsg says %v", k, version, body, err)
			}
			return
		}
		again, err := DecodeMessage(request(k, version, m.AppendTo(nil)), 1000)
		if err != nil || !bytes.Equal(again.AppendTo(nil), m.AppendTo(nil)) {
			t.Fatalf("%v version %d: %x reads and writes as %x: %v", k, version, body, m.AppendTo(nil), err)
		}
	})
}

func FuzzMembers(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 1, 't', 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if checkMember(subscriptionShape, b, 0) == nil {
			if _, err := DecodeSubscription(b, 0); err != nil {
				t.Fatal(err)
			}
		}
		if checkMember(assignmentShape, b, 0) == nil {
			if _, err := DecodeAssignment(b, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	body := randomMessage(b, OffsetCommit, 9, 1).AppendTo(nil)
	r := request(OffsetCommit, 9, body)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeMessage(r, 1000); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkShape(b *testing.B) {
	body := randomMessage(b, OffsetCommit, 9, 1).AppendTo(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := checkShape(shapes[OffsetCommit], body, 9, true, 1000); err != nil {
			b.Fatal(err)
		}
	}
}
