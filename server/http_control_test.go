package server

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A call that has come to an address of a network is not one of loopback, whoever made it.
func TestAtLoopback(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true, "192.0.2.1": false, "2001:db8::1": false} {
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(address)}))
		if atLoopback(r) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
	if atLoopback(httptest.NewRequest("GET", "/", nil)) {
		t.Error("an address that is not known is loopback")
	}
}
