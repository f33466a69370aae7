package identity

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// proxyHeader is what HAProxy sends with send-proxy-v2-ssl-cn for a client of 203.0.113.9.
func proxyHeader(verified byte, name string) []byte {
	tls := append([]byte{0x01 | 0x02, 0, 0, 0, verified, 0x22, 0, byte(len(name))}, name...)
	tls = append(tls, 0x02, 0, 4, 'h', 'o', 's', 't', 0x05, 0, 2, 0xab, 0xcd)
	body := append([]byte{203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x34, 0x07, 0x5b, 0x20, 0, byte(len(tls) - 12)}, tls...)
	head := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11)
	return append(binary.BigEndian.AppendUint16(head, uint16(len(body))), body...)
}

// behind connects as a client of a proxy.
func (n *node) behind(listener string, header []byte, k *wire.Connect) (*mqttclient.Client, error) {
	n.t.Helper()
	conn, err := net.DialTimeout("tcp", n.at[listener], patience)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(header); err != nil {
		n.t.Fatal(err)
	}
	k.Version, k.CleanStart = wire.V5, true
	c := mqttclient.Over(conn, wire.V5, patience)
	_, err = c.Connect(k)
	return c, err
}

// described is what the control plane shows of a client.
func (n *node) described(id string) *api.Client {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+n.at["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	r, err := api.NewClientsClient(conn).Describe(ctx, &api.DescribeClientRequest{Id: id})
	if err != nil || len(r.Clients) != 1 {
		n.t.Fatalf("describe %s: %v, %v", id, r, err)
	}
	return r.Clients[0]
}

// A trusted proxy's word of a verified certificate is who the client is, at the listener that asks for it and nowhere else.
func TestProxyUser(t *testing.T) {
	const list = "listeners.mqtt.named="
	edge := "{name: edge, address: '127.0.0.1:0', proxy_protocol: true, proxy_user: cn, auth: [certificate], anonymous: off, mountpoint: '%u/'}"
	other := "{name: other, address: '127.0.0.1:0', proxy_protocol: true, anonymous: off}"
	n := start(t, []string{"mqtt.tcp", "grpc"}, "listeners.mqtt.proxy_trusted=127.0.0.1", "auth.anonymous=loopback", list+"["+edge+", "+other+"]")
	all := n.connect("mqtt.tcp", "all", nil)
	subscribe(t, all, "pump/#")
	c, err := n.behind("mqtt.edge", proxyHeader(0, "pump"), &wire.Connect{ClientID: []byte("a"), UserName: []byte("somebody")})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, c, "x", "1", 1)
	wants(t, all, "pump/x", "1")
	if d := n.described("a"); d.User != "pump" || d.Source != "proxy" || d.Prefix != "pump/" || d.Authority != "host" || string(d.ProxyId) != "\xab\xcd" ||
		!strings.HasPrefix(d.Remote, "203.0.113.9:") {
		t.Errorf("described as %v", d)
	}
	for name, try := range map[string]struct {
		listener string
		header   []byte
	}{
		"a certificate that is not good": {"mqtt.edge", proxyHeader(1, "pump")},
		"no name":                        {"mqtt.edge", proxyHeader(0, "")},
		"a listener that does not ask":   {"mqtt.other", proxyHeader(0, "pump")},
	} {
		if _, err := n.behind(try.listener, try.header, &wire.Connect{ClientID: []byte("b"), UserName: []byte("pump")}); err == nil || !strings.Contains(err.Error(), "authorized") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// With the key it goes.
	n.reload(list + "[{name: edge, address: '127.0.0.1:0', proxy_protocol: true, anonymous: off}, " + other + "]")
	if d := told(t, c); !strings.Contains(string(d.ReasonString), "proxy") {
		t.Errorf("told %v %q", d.Reason, d.ReasonString)
	}
}
