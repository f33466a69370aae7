// Package journal owns the write-ahead log: its files, the groups that the committer writes, the index from (partition, offset) to
// place, recovery, recycling, the partition segments that outlive the log, and the checkpoint store. It knows frames and record
// batches (journal/record) by their headers only, never looks into a payload, knows no shard's state, and never acknowledges what is
// not as durable as its mode says. Its neighbours: broker gives it frames as Source and reads through Fetch; internal/vfs is its
// disk. docs/format/journal.md draws every byte; docs/adr/0003-journal.md says why it is so.
//
// Who writes: one committer goroutine writes groups, one at a time. A keeper makes spare segments, writes indexes and recycles; a
// cleaner rewrites what lives long; in async mode a flusher syncs. All end with Close.
//
// Lock order: Checkpointer.mu, then Log.mu, then tail.mu, then keeper.mu. None is held while a Source is called or a disk is waited for,
// but Checkpointer.mu, which only checkpoints take.
package journal
