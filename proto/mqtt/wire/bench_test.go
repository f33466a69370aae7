package wire

import (
	"fmt"
	"testing"
)

// BenchmarkAck is an acknowledgement there and back, in its short and in its long form.
func BenchmarkAck(b *testing.B) {
	for _, tc := range []struct {
		name    string
		version byte
		a       Ack
	}{{"short", V311, Ack{PacketID: 7}}, {"with-reason", V5, Ack{PacketID: 7, Reason: QuotaExceeded, ReasonString: []byte("too fast")}}} {
		b.Run(tc.name, func(b *testing.B) {
			buf := make([]byte, 0, 64)
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendAck(buf[:0], tc.version, PUBACK, &tc.a)
				h, err := Scan(buf, 0, tc.version)
				if err != nil {
					b.Fatal(err)
				}
				if a, err := DecodeAck(h.Type, h.Body, tc.version); err != nil || a.PacketID != 7 || a.Reason != tc.a.Reason {
					b.Fatal(a, err)
				}
			}
		})
	}
}

// BenchmarkSubscribe decodes a SUBSCRIBE of eight filters, checks each, and encodes its answer.
func BenchmarkSubscribe(b *testing.B) {
	s := SubscribeOut{PacketID: 7}
	for i := range 8 {
		s.Filters = append(s.Filters, FilterRequest{Filter: fmt.Appendf(nil, "plant/%d/+/temp/#", i), QoS: 1})
	}
	packet := AppendSubscribe(nil, V5, &s)
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		h, err := Scan(packet, 0, V5)
		if err != nil {
			b.Fatal(err)
		}
		s, err := DecodeSubscribe(h.Body, V5)
		if err != nil {
			b.Fatal(err)
		}
		var codes [8]ReasonCode
		n := 0
		for r := s.Filters(); ; n++ {
			f, ok := r.Next()
			if !ok {
				break
			}
			if _, err := ParseFilter(f.Filter); err != nil {
				b.Fatal(err)
			}
			codes[n] = ReasonCode(f.QoS)
		}
		buf = AppendSuback(buf[:0], V5, &Suback{PacketID: s.PacketID, Codes: codes[:n]})
		if n != 8 || len(buf) < 13 {
			b.Fatal(n, len(buf))
		}
	}
}

// BenchmarkConnect decodes a CONNECT with user and password, and encodes its answer.
func BenchmarkConnect(b *testing.B) {
	packet := AppendConnect(nil, &Connect{Version: V5, ClientID: []byte("device-0000017"), CleanStart: true, KeepAlive: 600,
		UserName: []byte("u"), Password: []byte("secret")})
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		h, err := Scan(packet, 0, 0)
		if err != nil {
			b.Fatal(err)
		}
		if c, err := DecodeConnect(h.Body); err != nil || c.KeepAlive != 600 || len(c.ClientID) != 14 {
			b.Fatal(err)
		}
		if buf = AppendConnack(buf[:0], V5, &Connack{}); len(buf) < 5 {
			b.Fatal(len(buf))
		}
	}
}
