//go:build interop

// Package pahogo5 drives a running broker, named by the environment, with Paho's Go client for MQTT 5. suite_paho_go5.py starts it.
package pahogo5

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

const patience = 20 * time.Second

// client is a connected client whose messages end in a channel.
type client struct {
	*autopaho.ConnectionManager
	t        *testing.T
	ctx      context.Context
	cancel   context.CancelFunc
	messages chan *paho.Publish
	connack  *paho.Connack
}

// eachTransport runs test on every transport with a name of its own for client ids and topics.
func eachTransport(t *testing.T, test func(t *testing.T, transport, name string)) {
	for _, transport := range []string{"tcp", "tls", "ws", "wss"} {
		t.Run(transport, func(t *testing.T) { test(t, transport, strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))) })
	}
}

func open(t *testing.T, transport, id string, change func(*autopaho.ClientConfig)) *client {
	t.Helper()
	scheme := map[string]string{"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"}[transport]
	at, err := url.Parse(fmt.Sprintf("%s://%s:%s/mqtt", scheme, os.Getenv("SLUICE_HOST"), os.Getenv("SLUICE_"+strings.ToUpper(transport))))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(os.Getenv("SLUICE_CA"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &client{t: t, messages: make(chan *paho.Publish, 1000)}
	c.ctx, c.cancel = context.WithTimeout(context.Background(), patience)
	up := make(chan *paho.Connack, 1)
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{at}, TlsCfg: &tls.Config{RootCAs: roots}, KeepAlive: 30, CleanStartOnInitialConnection: true,
		OnConnectionUp: func(_ *autopaho.ConnectionManager, ack *paho.Connack) { up <- ack },
		ClientConfig: paho.ClientConfig{ClientID: id, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) { c.messages <- p.Packet; return true, nil },
		}},
	}
	if change != nil {
		change(&cfg)
	}
	if c.ConnectionManager, err = autopaho.NewConnection(c.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	select {
	case c.connack = <-up:
	case <-c.ctx.Done():
		t.Fatalf("no connection within %v", patience)
	}
	return c
}

func (c *client) close() {
	_ = c.Disconnect(context.Background())
	c.cancel()
}

func (c *client) subscribe(o ...paho.SubscribeOptions) {
	c.t.Helper()
	if _, err := c.Subscribe(c.ctx, &paho.Subscribe{Subscriptions: o}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) publish(p *paho.Publish) {
	c.t.Helper()
	if _, err := c.Publish(c.ctx, p); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) next() *paho.Publish {
	c.t.Helper()
	select {
	case p := <-c.messages:
		return p
	case <-c.ctx.Done():
		c.t.Fatalf("no message within %v", patience)
		return nil
	}
}

func TestFlow(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		c := open(t, transport, name, nil)
		for qos := range byte(3) {
			topic := fmt.Sprintf("%s/%d", name, qos)
			c.subscribe(paho.SubscribeOptions{Topic: topic, QoS: qos})
			for i := range 30 {
				c.publish(&paho.Publish{Topic: topic, QoS: qos, Payload: fmt.Append(nil, i)})
			}
			for i := range 30 {
				if p := c.next(); string(p.Payload) != fmt.Sprint(i) || p.QoS != qos || p.Retain {
					t.Fatalf("QoS %d, %d: found %s at %d", qos, i, p.Payload, p.QoS)
				}
			}
		}
	})
}

func TestLarge(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		c, body := open(t, transport, name, nil), bytes.Repeat([]byte("x"), 700_000)
		c.subscribe(paho.SubscribeOptions{Topic: name, QoS: 1})
		for range 3 {
			c.publish(&paho.Publish{Topic: name, QoS: 1, Payload: body})
			if p := c.next(); !bytes.Equal(p.Payload, body) {
				t.Fatalf("found %d bytes", len(p.Payload))
			}
		}
	})
}

func TestRetained(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		c := open(t, transport, name, nil)
		c.publish(&paho.Publish{Topic: name, QoS: 1, Retain: true, Payload: []byte("kept")})
		c.subscribe(paho.SubscribeOptions{Topic: name, QoS: 1})
		if p := c.next(); string(p.Payload) != "kept" || !p.Retain {
			t.Fatalf("found %s, retained %v", p.Payload, p.Retain)
		}
		c.subscribe(paho.SubscribeOptions{Topic: name, QoS: 1, RetainHandling: 2, RetainAsPublished: true})
		c.publish(&paho.Publish{Topic: name, QoS: 1, Retain: true})
		if p := c.next(); len(p.Payload) != 0 || !p.Retain {
			t.Fatalf("found %s, retained %v", p.Payload, p.Retain)
		}
	})
}

func TestWill(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		watcher := open(t, transport, name+"-w", nil)
		watcher.subscribe(paho.SubscribeOptions{Topic: name + "/will", QoS: 1})
		victim := open(t, transport, name+"-v", func(cfg *autopaho.ClientConfig) {
			cfg.WillMessage = &paho.WillMessage{Topic: name + "/will", Payload: []byte("gone"), QoS: 1}
		})
		victim.TerminateConnectionForTest()
		if p := watcher.next(); string(p.Payload) != "gone" {
			t.Fatalf("found %s", p.Payload)
		}
	})
}

func TestSession(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		keep := func(cfg *autopaho.ClientConfig) { cfg.SessionExpiryInterval = 300 }
		resume := func(cfg *autopaho.ClientConfig) { keep(cfg); cfg.CleanStartOnInitialConnection = false }
		s := open(t, transport, name+"-s", keep)
		s.subscribe(paho.SubscribeOptions{Topic: name, QoS: 2})
		s.close()
		p := open(t, transport, name+"-p", nil)
		for i := range 30 {
			p.publish(&paho.Publish{Topic: name, QoS: byte(1 + i/15), Payload: fmt.Append(nil, i)})
		}
		s = open(t, transport, name+"-s", resume)
		if !s.connack.SessionPresent {
			t.Fatal("the session is gone")
		}
		for i := range 30 {
			if m := s.next(); string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("%d: found %s", i, m.Payload)
			}
		}
	})
}

func TestProperties(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		c := open(t, transport, name, nil)
		id := 268_435_455
		if _, err := c.Subscribe(c.ctx, &paho.Subscribe{
			Subscriptions: []paho.SubscribeOptions{{Topic: name + "/#", QoS: 1}},
			Properties:    &paho.SubscribeProperties{SubscriptionIdentifier: &id},
		}); err != nil {
			t.Fatal(err)
		}
		format, expiry := byte(1), uint32(100)
		c.publish(&paho.Publish{Topic: name + "/a", QoS: 1, Payload: []byte("body"), Properties: &paho.PublishProperties{
			PayloadFormat: &format, MessageExpiry: &expiry, ContentType: "text/plain", ResponseTopic: "answers",
			CorrelationData: []byte{0, 1}, User: paho.UserProperties{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}},
		}})
		p := c.next().Properties
		if *p.PayloadFormat != 1 || *p.MessageExpiry > 100 || p.ContentType != "text/plain" || p.ResponseTopic != "answers" ||
			!bytes.Equal(p.CorrelationData, []byte{0, 1}) || len(p.User) != 2 || p.User[1].Value != "w" || *p.SubscriptionIdentifier != id {
			t.Fatalf("found %+v", p)
		}
	})
}

func TestRefused(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport, name string) {
		c := open(t, transport, name, nil)
		ack, err := c.Subscribe(c.ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: name + "/#/x", QoS: 1}}})
		if err == nil {
			t.Fatalf("found %v, want a refusal of a malformed filter", ack.Reasons)
		}
	})
}
