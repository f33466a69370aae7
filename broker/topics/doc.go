// Package topics owns the two indexes that a publish and a subscribe ask: Index, from topic filters to their subscribers, and
// Retained, from topics to the slots of their retained messages. It also owns the rules of topic names and filters (MQTT 4.7)
// and the choice of a member of a shared group.
//
// It never stores a message, a session or a clock, and it speaks no wire protocol: subscribers, options and slots are numbers
// of its only neighbour, broker. Both indexes are safe for concurrent use, begin every key with the tenant, and keep their rows
// in tables without pointers, so that a collection does not walk them. Their memory is for the caller to count (Bytes).
//
// Lock order: no method holds two locks at a time.
package topics
