package broker

// RetainedInfo is a topic's retained message as administrators see it.
type RetainedInfo struct {
	Bytes       int // of the payload
	QoS         QoS
	At, Expires int64 // Unix milliseconds; Expires 0: never
}

// RetainedOf tells of a topic's retained message. Any goroutine may ask.
func (b *Broker) RetainedOf(tenant uint32, topic string) (info RetainedInfo, ok bool) {
	r := b.retained
	r.mu.RLock()
	defer r.mu.RUnlock()
	slot := r.index.Get(tenant, []byte(topic))
	if slot == 0 {
		return info, false
	}
	row := r.rows.At(slot)
	return RetainedInfo{Bytes: int(row.payload), QoS: row.qos, At: row.at, Expires: row.deadline}, true
}

// ShardOf is the shard that what is published to an MQTT topic goes to.
func (b *Broker) ShardOf(tenant uint32, topic string) int {
	return int(b.shardOf(tenant, []byte(topic)).id)
}

// Storage says why the log takes nothing; nil: it does. Any goroutine may ask.
func (b *Broker) Storage() error {
	if err := b.writable(); err != nil {
		return err
	}
	if !b.reserved.Load() {
		return nil
	}
	if why := b.fullBy.Load(); why != nil {
		return *why
	}
	return errReserved
}
