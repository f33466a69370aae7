package hostile

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// Ten thousand connections that never send CONNECT cost little memory, nobody's latency, and go when their time is over.
func TestSilentConnections(t *testing.T) {
	n := min(10_000, descriptors()-500)
	b := common.Start(t, t.TempDir(), "listeners.mqtt.connect_timeout=3s")
	p := watch(t, b)
	before := rss(t, b)
	conns := open(t, b.Listeners["mqtt.tcp"], n)
	t.Logf("%d connections; %d bytes resident each", n, (rss(t, b)-before)/int64(n))
	within(t, b, before+int64(n)*4<<10)
	if left := ended(conns, patience); left > 0 {
		t.Errorf("%d of %d are still there", left, n)
	}
	p.end()
}

// A length that is announced, within the limit, takes no memory before its bytes come, from a client that has a session or none.
func TestAnnouncedAndNotSent(t *testing.T) {
	b := common.Start(t, t.TempDir(), "limits.packet_size=127MiB", "listeners.mqtt.connect_timeout=3s")
	p := watch(t, b)
	before := rss(t, b)
	huge := append([]byte{0x30, 0x80, 0x80, 0x80, 0x3F, 0, 1, 'a'}, make([]byte, 100)...)
	var with []*mqttclient.Client
	for i := range 200 {
		c := connect(t, b.URL(), fmt.Sprint("announcer", i))
		if err := c.SendRaw(huge); err != nil {
			t.Fatal(err)
		}
		with = append(with, c)
	}
	without := open(t, b.Listeners["mqtt.tcp"], 200)
	for _, c := range without {
		if _, err := c.Write([]byte{0x10, 0x80, 0x80, 0x80, 0x3F, 0, 4, 'M', 'Q', 'T', 'T', 5}); err != nil {
			t.Fatal(err)
		}
	}
	if left := ended(without, patience); left > 0 {
		t.Errorf("%d CONNECTs of 126 MiB are still waited for", left)
	}
	within(t, b, before+64<<20)
	p.end()
	for _, c := range with {
		_ = c.Close()
	}
}

// 256 MiB sent in full to a broker that does not take them end at their header; the rest is not read into memory.
func TestTooLargeInFull(t *testing.T) {
	b := common.Start(t, t.TempDir())
	p := watch(t, b)
	before := rss(t, b)
	for i := range 3 {
		c := connect(t, b.URL(), fmt.Sprint("sender", i))
		err := c.SendRaw([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, 'a'})
		for chunk, n := make([]byte, 1<<20), 0; err == nil && n < 256; n++ {
			err = c.SendRaw(chunk) // what comes behind the header may be read and thrown away
		}
		packets, err := c.WaitClosed(patience)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			if d, err := p.Disconnect(); err != nil || d.Reason != wire.PacketTooLarge {
				t.Errorf("%v %v %v", p.Type, d.Reason, err)
			}
		}
	}
	within(t, b, before+32<<20)
	p.end()
}

// A large packet that is allowed goes through whole.
func TestLargePacketAllowed(t *testing.T) {
	b := common.Start(t, t.TempDir(), "limits.packet_size=127MiB", "limits.queue_bytes=128MiB")
	sub, pub := connect(t, b.URL(), "sub"), connect(t, b.URL(), "pub")
	if _, err := sub.Subscribe(wire.FilterRequest{Filter: []byte("large"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, 64<<20)
	_, _ = rand.Read(payload[:1<<20])
	_, _ = rand.Read(payload[63<<20:])
	done := make(chan error, 1)
	go func() {
		_, err := pub.Publish(&wire.PublishOut{Topic: []byte("large"), QoS: 1, Payload: payload})
		done <- err
	}()
	m, err := sub.Receive(patience)
	if err != nil || !bytes.Equal(m.Payload, payload) {
		t.Errorf("%d bytes, %v", len(m.Payload), err)
	}
	if err := testx.Receive(t, done, patience); err != nil {
		t.Error(err)
	}
}

// drip writes b one byte at a time to each connection in turn, until all have ended or b has.
func drip(conns []net.Conn, b []byte, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range b {
		for _, c := range conns {
			_, _ = c.Write(b[i : i+1])
		}
		<-tick.C
	}
}

// A byte now and then does not buy time: CONNECT must be whole in its time, and a packet within the keep-alive.
func TestOneByteAtATime(t *testing.T) {
	b := common.Start(t, t.TempDir(), "listeners.mqtt.connect_timeout=1500ms", "listeners.mqtt.handshake_timeout=1500ms")
	p := watch(t, b)
	before := rss(t, b)
	began := time.Now()
	slow := open(t, b.Listeners["mqtt.tcp"], 200)
	upgrade := open(t, b.Listeners["mqtt.ws"], 100)
	var kept []net.Conn
	for i := range 200 {
		c := connect(t, b.URL(), fmt.Sprint("kept", i), func(o *mqttclient.Options) { o.Connect.KeepAlive = 1 })
		kept = append(kept, c.Conn())
	}
	long := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true, ClientID: bytes.Repeat([]byte("x"), 100)})
	go drip(slow, long, 100*time.Millisecond)
	go drip(upgrade, []byte("GET /mqtt HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 60)), 100*time.Millisecond)
	go drip(kept, append([]byte{0x30, 100, 0, 1, 'a'}, make([]byte, 60)...), 100*time.Millisecond)
	for name, conns := range map[string][]net.Conn{"CONNECT": slow, "upgrade": upgrade, "keep-alive": kept} {
		if left := ended(conns, 6*time.Second); left > 0 {
			t.Errorf("%s: %d of %d are still there after %v", name, left, len(conns), time.Since(began))
		}
	}
	t.Logf("all gone after %v", time.Since(began))
	within(t, b, before+64<<20)
	p.end()
}

// What is no TLS, or stops in the middle of it, or asks for a plain listener in TLS, ends; others get their handshake.
func TestGarbageAtTheDoor(t *testing.T) {
	cert := testx.TempCert(t)
	b := common.Start(t, t.TempDir(), "listeners.mqtt.tls=127.0.0.1:0", "tls.cert="+cert.ServerCertFile, "tls.key=file:"+cert.ServerKeyFile,
		"listeners.mqtt.handshake_timeout=1500ms", "listeners.mqtt.connect_timeout=1500ms")
	p := watch(t, b)
	before := rss(t, b)
	noise := make([]byte, 4096)
	_, _ = rand.Read(noise)
	hello := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC}, make([]byte, 64)...) // a ClientHello of 16 KiB, and 64 bytes of it
	plain := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true, ClientID: []byte("x")})
	upgraded := "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	var all []net.Conn
	for door, list := range map[string][][]byte{
		"mqtt.tls": {noise, hello, plain, {22}, {22, 3, 1, 0xFF, 0xFF}, {0x80, 0x2E, 1, 3, 1}},
		"mqtt.tcp": {noise, hello, []byte("GET / HTTP/1.1\r\n\r\n"), {0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}},
		"mqtt.ws": {noise, hello, plain, []byte("GET /mqtt HTTP/1.1\r\n" + strings.Repeat("X-Y: z\r\n", 20_000)),
			[]byte("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"),
			[]byte(upgraded + "\x82\x05hello"),                                  // not masked
			[]byte(upgraded + "\x82\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFFmaskxx"), // 2^63 bytes announced
			[]byte(upgraded + "\x09\x80mask"),                                   // a ping in fragments
			[]byte(upgraded + "\x89\xFE\x00\xFFmask"),                           // a ping that is too long
			[]byte(upgraded + "\x80\x80mask"),                                   // a continuation of nothing
			[]byte(upgraded + "\xF2\x80mask"),                                   // reserved bits
			[]byte(upgraded + "\x83\x80mask"),                                   // an unknown opcode
		},
	} {
		for _, what := range list {
			for _, c := range open(t, b.Listeners[door], 20) {
				_, _ = c.Write(what)
				all = append(all, c)
			}
		}
	}
	secure := connect(t, "mqtts://"+b.Listeners["mqtt.tls"], "secure", func(o *mqttclient.Options) { o.TLS = &tls.Config{RootCAs: cert.Pool} })
	if err := secure.Ping(); err != nil {
		t.Errorf("a good client over TLS: %v", err)
	}
	if left := ended(all, patience); left > 0 {
		t.Errorf("%d of %d are still there", left, len(all))
	}
	within(t, b, before+64<<20)
	p.end()
}

// Storms of subscriptions and filters of 32,000 levels cost those who send them.
func TestSubscribeStorm(t *testing.T) {
	b := common.Start(t, t.TempDir(), "limits.topic_levels=32768", "limits.packet_size=3MiB")
	p := watch(t, b)
	before := rss(t, b)
	deep := [][]byte{bytes.Repeat([]byte("/"), 32_000), append(bytes.Repeat([]byte("+/"), 16_000), '#'), bytes.Repeat([]byte("+/"), 16_000)}
	done := make(chan error, 4)
	for i := range 3 {
		c := connect(t, b.URL(), fmt.Sprint("storm", i), func(o *mqttclient.Options) {
			if i > 0 { // sessions that are kept take the way through the log
				o.Connect.SessionExpiry = 60
			}
		})
		go func() { done <- storm(c, i) }()
	}
	d := connect(t, b.URL(), "deep")
	go func() { done <- depths(d, deep) }()
	for range 4 {
		if err := testx.Receive(t, done, patience); err != nil {
			t.Error(err)
		}
	}
	within(t, b, before+256<<20)
	p.end()
}

// storm subscribes to 30,000 filters in packets of 500, and leaves again. It breathes between packets: what is asked is that none of them
// holds up others for long, not how a machine with no core to spare is shared.
func storm(c *mqttclient.Client, who int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for k := range 60 {
		<-tick.C
		s := wire.SubscribeOut{}
		for i := range 500 {
			s.Filters = append(s.Filters, wire.FilterRequest{Filter: fmt.Appendf(nil, "storm/%d/%d/%d/+/#", who, k, i), QoS: 1})
		}
		codes, err := c.SubscribeWith(&s)
		if err != nil {
			return err
		}
		for _, code := range codes {
			if code.Failed() {
				return fmt.Errorf("storm: %v", code)
			}
		}
	}
	return c.Disconnect()
}

// depths subscribes and publishes as deep as a topic can be.
func depths(c *mqttclient.Client, deep [][]byte) error {
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		<-tick.C
		for _, f := range deep {
			codes, err := c.Subscribe(wire.FilterRequest{Filter: f, QoS: 0})
			if err != nil {
				return fmt.Errorf("deep subscribe: %w", err)
			}
			if codes[0].Failed() {
				return fmt.Errorf("deep subscribe: %v, but so many levels are allowed", codes[0])
			}
		}
		if err := c.SendRaw(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: bytes.Repeat([]byte("a/"), 16_000), QoS: 1, PacketID: 7})); err != nil {
			return err
		}
		if err := c.Ping(); err != nil {
			return err
		}
		for _, f := range deep {
			if _, err := c.Unsubscribe(string(f)); err != nil {
				return err
			}
		}
	}
	return nil
}

// A broker without descriptors says so, closes those it cannot take instead of letting them hang, serves those it has, and takes new
// ones when there is room.
func TestDescriptorsRunOut(t *testing.T) {
	b := common.Start(t, t.TempDir(), "listeners.mqtt.connect_timeout=1m")
	p := watch(t, b)
	lim := unix.Rlimit{Cur: 150, Max: 150}
	if err := unix.Prlimit(b.PID, unix.RLIMIT_NOFILE, &lim, nil); err != nil {
		t.Skipf("cannot limit the descriptors of another process: %v", err)
	}
	conns := open(t, b.Listeners["mqtt.tcp"], 400)
	testx.Eventually(t, patience, func() bool { return strings.Contains(b.Log(), "no descriptor left") }, "it says nothing")
	if n := ended(conns[300:], 2*time.Second); n > 0 {
		t.Errorf("%d connections hang", n)
	}
	closeAll(conns)
	var c *mqttclient.Client
	testx.Eventually(t, patience, func() bool {
		var err error
		c, _, err = mqttclient.Connect(t.Context(), mqttclient.Options{URL: b.URL(), Connect: wire.Connect{ClientID: []byte("later"), CleanStart: true}})
		return err == nil
	}, "there is room again, and nobody comes in")
	_ = c.Close()
	if n := strings.Count(b.Log(), "no descriptor left"); n > 30 {
		t.Errorf("it says so %d times", n)
	}
	p.end()
}
