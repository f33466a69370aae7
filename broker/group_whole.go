package broker

import "time"

// decodeWhole reads a group's metadata as versions before 3 wrote it, with all its members. It answers false for bytes that they did not
// write.
func (g *group) decodeWhole(b []byte) bool {
	if len(b) > 0 && b[0] == wholeConsumerVersion {
		return g.decodeWholeConsumer(b[1:])
	}
	if len(b) == 0 || b[0] != wholeClassicVersion {
		return false
	}
	d := decoder{b: b[1:]}
	g.generation = int32(uint32(d.uvarint()))
	g.protocolType, g.protocol, g.leader = d.string(), d.string(), d.string()
	for n := d.count(); n > 0 && d.ok(); n-- {
		m := &member{id: d.string(), instance: d.string(), clientID: d.string(), clientHost: d.string()}
		m.decodeProtocols(&d)
		m.assignment = append([]byte(nil), d.bytes()...)
		g.addMember(m)
	}
	return d.ok() && len(d.b) == 0
}

func (g *group) decodeWholeConsumer(b []byte) bool {
	d := decoder{b: b}
	cg := newConsumerGroup(int32(uint32(d.uvarint())))
	cg.targetEpoch = int32(uint32(d.uvarint()))
	for n := d.count(); n > 0 && d.ok(); n-- {
		m := &consumerMember{id: d.string(), instance: d.string(), clientID: d.string(), clientHost: d.string(), rack: d.string(),
			regex: d.string(), assignor: d.string()}
		m.rebalanceTimeout = time.Duration(d.uvarint()) * time.Millisecond
		m.epoch, m.previous = int32(uint32(d.uvarint())), int32(uint32(d.uvarint()))
		m.state, m.left = memberState(d.byte()), d.byte() == 1
		for k := d.count(); k > 0 && d.ok(); k-- {
			m.names = append(m.names, d.string())
		}
		m.assigned, m.revoking, m.target = d.topicPartitions(), d.topicPartitions(), d.topicPartitions()
		if !m.compile() {
			return false
		}
		cg.add(m)
	}
	if !d.ok() || len(d.b) > 0 {
		return false
	}
	g.consumer, g.protocolType = cg, "consumer"
	return true
}

func (d *decoder) topicPartitions() (list []TopicPartition) {
	for n := d.count(); n > 0 && d.ok(); n-- {
		list = append(list, d.topicPartition())
	}
	return list
}
