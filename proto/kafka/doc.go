// Package kafka is the state machine of a connection that speaks the Kafka protocol: requests are read off the loop's buffer, answered in
// the order in which they came, and passed on to the core, which knows topics, partitions, groups and transactions. One file for each
// API, its number first. It holds no record: batches go from the socket's buffer to the core's pending list, and from the journal's memory
// to the socket. The bytes of requests and responses are proto/kafka/wire's and kmsg's business.
package kafka
