package bench

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// runBound: what MQTT clients publish is read as records. Every publisher has a topic of its own, whose records lie in one partition, so
// that each is a lane. It counts the whole way: latency is from the intended time of publishing to the record's arrival.
func runBound(r *kafkaRun) error {
	target, err := mqttclient.ParseTarget(r.k.MQTT)
	if err != nil {
		return misuse("%v", err)
	}
	if target.TLS || target.WS {
		return misuse("bound publishes by plain TCP: %s is not that", r.k.MQTT)
	}
	at, err := resolve(target)
	if err != nil {
		return err
	}
	if err := r.openTopic(r.k.Topic); err != nil {
		return err
	}
	var pubs []*conn
	for i := range r.k.Publishers {
		c := r.newConn("m", i)
		c.version, c.at, c.plain = wire.V5, &at, true
		r.newPublisher(c, fmt.Sprintf("%s/%08x/%d", r.k.Prefix, r.nonce, i), 0)
		r.lanes = append(r.lanes, &lane{id: uint32(i)})
		pubs = append(pubs, c)
	}
	if err := r.makeConsumers(); err != nil {
		return err
	}
	if err := r.connect(pubs); err != nil {
		return err
	}
	r.latencies, r.verified = true, true
	r.beginReading(false)
	err = r.load(func(sent uint64) uint64 { return sent })
	r.stopReading()
	r.disconnect()
	return err
}

// openTopic takes a topic that is there, from its end on.
func (r *kafkaRun) openTopic(name string) error {
	t := &ktopic{name: name}
	err := r.retry(func() error {
		q := kmsg.NewPtrMetadataRequest()
		x := kmsg.NewMetadataRequestTopic()
		x.Topic = &name
		q.Topics = append(q.Topics, x)
		p, err := ask[*kmsg.MetadataResponse](r.admin, q)
		if err != nil {
			return err
		}
		if len(p.Topics) != 1 {
			return errMalformed
		}
		if err := failed("describe topic "+name, p.Topics[0].ErrorCode, nil); err != nil {
			return err
		}
		t.parts = nil
		for i := range p.Topics[0].Partitions {
			t.parts = append(t.parts, &kpart{topic: t, index: int32(i), number: i})
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.topics, r.parts = []*ktopic{t}, t.parts
	r.byName[name] = t
	r.k.Partitions = len(t.parts)
	if err := r.retry(r.allLed); err != nil {
		return err
	}
	r.byID[t.id] = t
	if err := r.endOffsets(); err != nil {
		return err
	}
	for _, p := range t.parts {
		p.next, p.end = p.end, -1
	}
	return nil
}
