package carry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// largeCertificate has so many names that it fits into no head.
func largeCertificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	for i := range 300 {
		c.DNSNames = append(c.DNSNames, fmt.Sprintf("host-%d.example", i))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestHead(t *testing.T) {
	for _, h := range []head{
		{listener: "mqtt.unix"},
		{listener: "mqtt.tcp", remote: netip.MustParseAddrPort("192.0.2.1:1883")},
		{listener: "mqtt.ws", flags: flagWebSocket, remote: netip.MustParseAddrPort("[2001:db8::7]:65535")},
		{listener: "mqtt.tls", flags: flagTLS, version: 0x304, suite: 0x1301, serverName: "broker.example", remote: netip.MustParseAddrPort("127.0.0.1:1")},
		{listener: "mqtt.wss", flags: flagTLS | flagWebSocket, version: 0x303, suite: 1, certificate: []byte("DER")},
	} {
		b, after := h.append(nil)
		var got head
		if err := got.decode(b); err != nil || after != nil {
			t.Errorf("%+v: %v", h, err)
		}
		if h.certificate != nil {
			h.flags |= flagCertificate
		}
		if !reflect.DeepEqual(got, h) {
			t.Errorf("%+v, want %+v", got, h)
		}
		for n := range b {
			if n < len(b)-len(h.certificate) && got.decode(b[:n]) == nil {
				t.Errorf("%+v: %d of %d bytes are taken", h, n, len(b))
			}
		}
	}
}

// Whatever is taken for a head says the same when it is written again.
func FuzzHead(f *testing.F) {
	h := head{listener: "mqtt.wss", flags: flagTLS | flagWebSocket, certificate: []byte("DER"), remote: netip.MustParseAddrPort("[::1]:1")}
	b, _ := h.append(nil)
	f.Add(b)
	f.Add([]byte{1, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h head
		if h.decode(b) != nil || len(b) > headMost/2 {
			return
		}
		_ = h.state()
		again, after := h.append(nil)
		if h.flags&flagCertAfter != 0 {
			return // what comes after it is not here
		}
		var other head
		if err := other.decode(again); err != nil || after != nil {
			t.Fatalf("%v, %x", err, again)
		}
		if other.listener != h.listener || other.serverName != h.serverName || !bytes.Equal(other.certificate, h.certificate) || other.flags != h.flags {
			t.Fatalf("%+v, %+v", h, other)
		}
	})
}
