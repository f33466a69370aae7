package broker

import "time"

// SlowSubscriber is a client that has acknowledged messages late, as administrators see it. The protocol that has it fills it in.
type SlowSubscriber struct {
	Tenant   uint32
	ClientID string
	User     string
	Topic    string // of the message that took longest; the first 256 bytes
	Longest  time.Duration
	Last     time.Duration
	Late     uint64 // how many were found to be late, of those that were looked at
	At       int64  // Unix milliseconds, when the last of them was found
}

// BusyTopic is an MQTT topic with what came and went by it.
type BusyTopic struct {
	Topic                                      string
	MessagesIn, BytesIn, MessagesOut, BytesOut uint64
}
