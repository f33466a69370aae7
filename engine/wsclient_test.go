package engine

import (
	"net"
	"testing"
)

func dialWS(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	t.Skip("the WebSocket client of the tests is not here")
	return c
}
