package control

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/control/api"
)

// assignment reads what a leader of Kafka's consumers has assigned to a member (ConsumerProtocolAssignment): version, topics with their
// partitions. What is none of that is nothing: it came from a client, and only its like has to understand it.
func assignment(b []byte) (list []*api.TopicPartitions) {
	if len(b) < 6 {
		return nil
	}
	topics := int32(binary.BigEndian.Uint32(b[2:]))
	b = b[6:]
	for ; topics > 0; topics-- {
		if len(b) < 2 {
			return nil
		}
		n := int(int16(binary.BigEndian.Uint16(b)))
		if b = b[2:]; n < 0 || len(b) < n+4 {
			return nil
		}
		e := &api.TopicPartitions{Topic: text(string(b[:n]))}
		count := int64(int32(binary.BigEndian.Uint32(b[n:])))
		if b = b[n+4:]; count < 0 || int64(len(b)) < 4*count {
			return nil
		}
		for range count {
			e.Partitions = append(e.Partitions, int32(binary.BigEndian.Uint32(b)))
			b = b[4:]
		}
		list = append(list, e)
	}
	return ordered(list)
}
