package kafka

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A certificate's subject becomes a user by rules, for clients of both protocols alike; one that no rule fits does not come in. SASL wins over the
// certificate.
func TestMappedCertificates(t *testing.T) {
	ca := testx.TempCert(t)
	c := start(t, "listeners.kafka.tls=127.0.0.1:0", "listeners.mqtt.tls=127.0.0.1:0", "tls.cert="+ca.ServerCertFile, "tls.key="+ca.ServerKeyFile,
		"tls.client_ca="+ca.CAFile, "auth.certificate_user=subject", `auth.certificate_mapping=RULE:^CN=([a-z]+)-(\d+),O=.*$/$2.$1/U`,
		"auth.super_users=admin", "auth.password_file="+passwordFile(t, "admin", "admin"))
	shown := func(name string) *tls.Config {
		pair, _, _ := ca.IssueClient(t, name)
		cfg := ca.ClientConfig(false)
		cfg.Certificates = []tls.Certificate{pair}
		return cfg
	}
	kafkaTLS := func(name string, opts ...kgo.Opt) *kgo.Client {
		return c.client(append(opts, kgo.SeedBrokers(c.node.Listeners["kafka.tls"]), kgo.DialTLSConfig(shown(name)), kgo.RequestRetries(0), kgo.RetryTimeout(0))...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	admin := kafkaTLS("plant-0", asAdmin())
	change(t, admin, acls("User:7.PLANT", allows, "write topic t", "create topic t"))
	refusal := func(name, topic string) int16 {
		md := kmsg.NewPtrMetadataRequest()
		md.AllowAutoTopicCreation, md.Topics = true, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(topic)}}
		resp, err := md.RequestWith(ctx, kafkaTLS(name))
		if err != nil {
			return -1
		}
		return resp.Topics[0].ErrorCode
	}
	if code := refusal("plant-7", "t"); code == topicRefused || code == -1 {
		t.Errorf("plant-7: %d", code)
	}
	if code := refusal("plant-8", "t"); code != topicRefused {
		t.Errorf("plant-8: %d", code)
	}
	if code := refusal("stranger", "t"); code != -1 {
		t.Errorf("whom no rule fits: %d", code)
	}
	for name, in := range map[string]bool{"plant-7": true, "stranger": false} {
		cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtts://" + c.node.Listeners["mqtt.tls"], TLS: shown(name),
			Connect: wire.Connect{ClientID: []byte(name), CleanStart: true}})
		if (err == nil) != in {
			t.Errorf("%s over MQTT: %v", name, err)
		}
		if err == nil {
			_ = cl.Close()
		}
	}
}
