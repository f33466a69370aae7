// Package history is what the node knows of its records in the tier, and the way back to them. It owns the Manifest (which object has which
// offsets of which partition, in memory, fed by rows that the broker keeps through the journal), the form of those rows, and the Reader
// that gives whole stored batches out of objects. It never writes to a store, decides nothing about retention, and opens no batch: it looks at
// the header of each to cut blocks. docs/format/manifest.md draws the rows. Its neighbours: package object is the format of objects, cache keeps their
// blocks, offload brings objects out, and the server puts local log and history together.
//
// Locks: Manifest.mu, Reader.mu and tails.mu are leaves; none is held while another is taken or while the store is asked.
package history
