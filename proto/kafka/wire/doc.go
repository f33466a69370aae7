// Package wire turns Kafka's requests and responses into values and back, at the versions of Apache Kafka 4.3.
//
// It owns the layout of bytes: framing, headers, which versions of which API there are, error codes, and the checks that a
// produced record batch must pass. It does no I/O, reads no clock, keeps no state and starts no goroutine: what depends on earlier
// requests is its parent's, proto/kafka. Produce and Fetch, which carry the data, are written by hand and allocate nothing, either
// way. Every other API is a message of kmsg behind a check of its shape (DecodeMessage), because kmsg alone can be made to
// allocate, and to spin, out of proportion to what it was sent.
//
// # Whose bytes
//
// A decoded value is a view: every []byte in it aliases the bytes that were decoded and dies with them. Encoders append to the
// slice they are given and keep nothing. Errors are package-level values.
//
// # Reading a stream
//
// Scan looks at the bytes that have come so far and names the next whole request, or says how many bytes it needs. It refuses what
// can be refused by the first bytes before the rest has come.
//
// # Answering
//
// BeginResponse appends the head of a response, FinishResponse sets its size. The record bytes of a Fetch response need not
// lie in the same buffer: FetchResponseBuilder says where they belong, for writev.
package wire
