package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// data is a hand-written request of either kind as the tests see it.
type data struct {
	key    APIKey
	decode func(body []byte, version int16) (string, error)
	oracle func(body []byte, version int16) (string, error)
}

var bothData = []data{
	{Produce, func(body []byte, version int16) (string, error) {
		q, err := DecodeProduceRequest(body, version)
		return sayProduce(&q), err
	}, func(body []byte, version int16) (string, error) {
		q := kmsg.NewProduceRequest()
		q.Version = version
		err := q.ReadFrom(body)
		return sayKmsgProduce(&q), err
	}},
	{Fetch, func(body []byte, version int16) (string, error) {
		q, err := DecodeFetchRequest(body, version)
		return sayFetch(&q), err
	}, func(body []byte, version int16) (string, error) {
		q := kmsg.NewFetchRequest()
		q.Version = version
		err := q.ReadFrom(body)
		return sayKmsgFetch(&q), err
	}},
}

// agree decodes a body both ways. What we accept kmsg must accept, and read as the same.
func (d *data) agree(t testing.TB, body []byte, version int16) error {
	t.Helper()
	before := bytes.Clone(body)
	got, err := d.decode(body, version)
	if !bytes.Equal(before, body) {
		t.Fatal("decoding changed the body")
	}
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		return err
	}
	want, err := d.oracle(body, version)
	if err != nil && d.key == Fetch && version >= fetchEpoch && version < fetchWatermark {
		return nil // kmsg reads the tagged fields of the last version in every flexible one, where they are unknown and may be anything
	}
	if err != nil || got != want {
		t.Fatalf("%v version %d: %x\nwe say   %s\nkmsg says %s\n%v", d.key, version, body, got, want, err)
	}
	return nil
}

// TestDataRequests sends random requests of every version through the other codec, and cuts them at every byte.
func TestDataRequests(t *testing.T) {
	for i := range bothData {
		d := &bothData[i]
		r, _ := d.key.Versions()
		for v := r.Min; v <= r.Max; v++ {
			for seed := range uint64(60) {
				m := message(t, d.key, v)
				newFiller(seed).fill(reflect.ValueOf(m).Elem())
				body := m.AppendTo(nil)
				if err := d.agree(t, body, v); err != nil {
					t.Fatalf("%v version %d, seed %d: %x: %v", d.key, v, seed, body, err)
				}
				for n := range body {
					if err := d.agree(t, body[:n:n], v); err == nil {
						t.Fatalf("%v version %d, seed %d: %x: cut at %d passes", d.key, v, seed, body, n)
					}
				}
			}
		}
	}
}

// The vectors were written down after Kafka's message schemas.
const (
	produceV3  = "FFFF FFFF 00007530 00000001 0001 74 00000001 00000003 00000002 ABCD"
	produceV9  = "00 0001 00007530 02 02 74 02 00000003 03 ABCD 00 00 00"
	produceV13 = "03 6964 FFFF 00000064 02 000102030405060708090A0B0C0D0E0F 03 00000000 00 00 00000001 01 00 00 00"
	fetchV4    = "FFFFFFFF 000001F4 00000001 03200000 01 00000001 0001 74 00000001 00000002 0000000000000063 00100000"
	fetchV12   = "FFFFFFFF 000001F4 00000001 03200000 00 00000007 00000001 02 02 74 02" +
		"00000002 00000005 0000000000000063 00000004 FFFFFFFFFFFFFFFF 00100000 00 00" +
		"02 02 75 03 00000001 00000002 00 03 7261 00"
	fetchV18 = "000001F4 00000001 03200000 00 00000000 FFFFFFFF 02 000102030405060708090A0B0C0D0E0F 02" +
		"00000002 00000005 0000000000000063 00000004 0000000000000001 00100000" +
		"02 00 10 0F0E0D0C0B0A09080706050403020100 01 08 0000000000000042 00" +
		"01 01 02 00 02 0263 01 0D 00000001 0000000000000009 00"
)

func TestDataVectors(t *testing.T) {
	const id = "AAECAwQFBgcICQoLDA0ODw"
	for _, c := range []struct {
		key     APIKey
		version int16
		body    string
		want    string
	}{
		{Produce, 3, produceV3, "txn=null acks=-1 timeout=30000 topics=1 partitions=1\nt AAAAAAAAAAAAAAAAAAAAAA 1: 3=\"\\xab\\xcd\""},
		{Produce, 9, produceV9, "txn=null acks=1 timeout=30000 topics=1 partitions=1\nt AAAAAAAAAAAAAAAAAAAAAA 1: 3=\"\\xab\\xcd\""},
		{Produce, 13, produceV13, "txn=\"id\" acks=-1 timeout=100 topics=1 partitions=2\n " + id + " 2: 0=null 1=\"\""},
		{Fetch, 4, fetchV4, "cluster=null replica=-1/-1 wait=500 min=1 max=52428800 isolation=1 session=0/-1 rack=\"\" topics=1 partitions=1 " +
			"forgets=0\nt AAAAAAAAAAAAAAAAAAAAAA 1: 2 epoch=-1/-1 at=99 start=-1 max=1048576 dir=AAAAAAAAAAAAAAAAAAAAAA high=9223372036854775807"},
		{Fetch, 12, fetchV12, "cluster=null replica=-1/-1 wait=500 min=1 max=52428800 isolation=0 session=7/1 rack=\"ra\" topics=1 partitions=1 " +
			"forgets=2\nt AAAAAAAAAAAAAAAAAAAAAA 1: 2 epoch=5/4 at=99 start=-1 max=1048576 dir=AAAAAAAAAAAAAAAAAAAAAA high=9223372036854775807" +
			"\nforget u AAAAAAAAAAAAAAAAAAAAAA 1\nforget u AAAAAAAAAAAAAAAAAAAAAA 2"},
		{Fetch, 18, fetchV18, "cluster=\"c\" replica=1/9 wait=500 min=1 max=52428800 isolation=0 session=0/-1 rack=\"\" topics=1 partitions=1 " +
			"forgets=0\n " + id + " 1: 2 epoch=5/4 at=99 start=1 max=1048576 dir=Dw4NDAsKCQgHBgUEAwIBAA high=66"},
	} {
		d := &bothData[c.key]
		body := unhex(t, c.body)
		got, err := d.decode(body, c.version)
		if err != nil || got != c.want {
			t.Errorf("%v version %d:\n%s, want\n%s\n%v", c.key, c.version, got, c.want, err)
		}
		if err := d.agree(t, body, c.version); err != nil {
			t.Error(err)
		}
	}
}

// TestDataLies has counts, lengths and tags that the bytes do not bear out, and nulls where Kafka has none.
func TestDataLies(t *testing.T) {
	for _, c := range []struct {
		name    string
		key     APIKey
		version int16
		body    string
	}{
		{"null topics", Produce, 3, "FFFF FFFF 00007530 FFFFFFFF"},
		{"null topics, flexible", Produce, 9, "00 FFFF 00007530 00 00"},
		{"topics below -1", Produce, 3, "FFFF FFFF 00007530 80000000"},
		{"two billion topics", Produce, 3, "FFFF FFFF 00007530 7FFFFFFF 0001 74"},
		{"four billion topics", Produce, 9, "00 FFFF 00007530 FFFFFFFF0F 02 74 01 00 00"},
		{"count of six bytes", Produce, 9, "00 FFFF 00007530 808080808001"},
		{"count of 33 bits", Produce, 9, "00 FFFF 00007530 FFFFFFFF1F"},
		{"null name", Produce, 3, "FFFF FFFF 00007530 00000001 FFFF 00000000"},
		{"null name, flexible", Produce, 9, "00 FFFF 00007530 02 00 01 00 00"},
		{"name of -2", Produce, 3, "FFFF FFFF 00007530 00000001 FFFE 00000000"},
		{"transactional id of -2", Produce, 3, "FFFE FFFF 00007530 00000000"},
		{"partitions below 0", Produce, 3, "FFFF FFFF 00007530 00000001 0001 74 FFFFFFFE"},
		{"two billion partitions", Produce, 3, "FFFF FFFF 00007530 00000001 0001 74 7FFFFFFF 00000003 00000002 ABCD"},
		{"records of -2", Produce, 3, "FFFF FFFF 00007530 00000001 0001 74 00000001 00000003 FFFFFFFE"},
		{"records longer than the request", Produce, 3, "FFFF FFFF 00007530 00000001 0001 74 00000001 00000003 00000003 ABCD"},
		{"records of 4 GiB", Produce, 9, "00 0001 00007530 02 02 74 02 00000003 FFFFFFFF0F ABCD 00 00 00"},
		{"four billion tags", Produce, 9, "00 0001 00007530 02 02 74 02 00000003 03 ABCD FFFFFFFF0F 00 00"},
		{"tag longer than the request", Produce, 9, "00 0001 00007530 02 02 74 02 00000003 03 ABCD 01 05 20 00 00"},
		{"two billion partitions", Fetch, 4, "FFFFFFFF 000001F4 00000001 03200000 01 00000001 0001 74 7FFFFFFF 00000002 0000000000000063 00100000"},
		{"null rack", Fetch, 12, "FFFFFFFF 000001F4 00000001 03200000 00 00000007 00000001 01 01 00 00"},
		{"null forgotten topics", Fetch, 12, "FFFFFFFF 000001F4 00000001 03200000 00 00000007 00000001 01 00 01 00"},
		{"replica state cut", Fetch, 15, "000001F4 00000001 03200000 00 00000007 00000001 01 01 01 01 01 04 00000001"},
		{"directory cut", Fetch, 17, "000001F4 00000001 03200000 00 00000000 FFFFFFFF 02 000102030405060708090A0B0C0D0E0F 02" +
			"00000002 00000005 0000000000000063 00000004 0000000000000001 00100000 01 00 0F 0F0E0D0C0B0A090807060504030201 00 01 01 00"},
	} {
		if says, err := bothData[c.key].decode(unhex(t, c.body), c.version); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v version %d, %s: %v, %s", c.key, c.version, c.name, err, says)
		}
	}
}

func fuzzData(f *testing.F, d *data, vectors map[int16]string) {
	f.Helper()
	r, _ := d.key.Versions()
	for v, s := range vectors {
		f.Add(unhex(f, s), v)
	}
	for v := r.Min; v <= r.Max; v++ {
		m := message(f, d.key, v)
		newFiller(uint64(v)).fill(reflect.ValueOf(m).Elem())
		f.Add(m.AppendTo(nil), v)
	}
	f.Fuzz(func(t *testing.T, body []byte, version int16) {
		if r.Has(version) {
			_ = d.agree(t, body, version)
		}
	})
}

func FuzzProduceRequest(f *testing.F) {
	fuzzData(f, &bothData[Produce], map[int16]string{3: produceV3, 9: produceV9, 13: produceV13})
}

func FuzzFetchRequest(f *testing.F) {
	fuzzData(f, &bothData[Fetch], map[int16]string{4: fetchV4, 12: fetchV12, 18: fetchV18})
}
