package testx

import (
	"crypto/tls"
	"net"
	"testing"
	"time"
)

func TestEventually(t *testing.T) {
	n := 0
	Eventually(t, 10*time.Second, func() bool { n++; return n == 5 }, "counts to five")
	c := make(chan int, 1)
	c <- 7
	if v := Receive(t, c, time.Second); v != 7 {
		t.Errorf("received %d", v)
	}
}

// TestTempCert shakes hands with both certificates, and finds no trust without the authority.
func TestTempCert(t *testing.T) {
	c := TempCert(t)
	for _, tc := range []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"server alone", c.ClientConfig(false), false}, // the server below asks for a client's
		{"both", c.ClientConfig(true), true},
		{"another authority", TempCert(t).ClientConfig(true), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := c.ServerConfig()
			server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, c.Pool
			a, b := net.Pipe()
			done := make(chan error, 1)
			go func() {
				conn := tls.Server(a, server)
				err := conn.Handshake()
				if err == nil {
					_, err = conn.Write([]byte("x"))
				}
				_ = a.Close()
				done <- err
			}()
			conn := tls.Client(b, tc.client)
			_, err := conn.Read(make([]byte, 1))
			_ = b.Close()
			serverErr := Receive(t, done, 10*time.Second)
			if ok := err == nil && serverErr == nil; ok != tc.ok {
				t.Errorf("client %v, server %v", err, serverErr)
			}
		})
	}
	if _, err := tls.LoadX509KeyPair(c.ClientCertFile, c.ClientKeyFile); err != nil {
		t.Error(err)
	}
	old := c.Server.Leaf.SerialNumber
	if c.Reissue(t); c.Server.Leaf.SerialNumber.Cmp(old) == 0 {
		t.Error("the new certificate has the old one's number")
	}
	if c.Revoke(t, c.Client) == "" {
		t.Error("no revocation list")
	}
}
