// Package record owns the two stored forms that everything else carries: the record batch (Kafka's, magic 2), which is the
// one form of a message, and the frame, which is the unit of the log. It turns them into bytes and back. It does no I/O, keeps no
// state, copies nothing that it reads and allocates nothing: what it returns are views of the caller's bytes. Compressed batches
// are carried and verified here, and opened by its package compress. journal writes frames, broker builds batches;
// docs/format/record.md draws every byte.
package record
