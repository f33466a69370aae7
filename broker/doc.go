// Package broker is the core that every protocol shares: topics, sessions, subscriptions, filter queues, retained
// messages, shared groups and wills. It owns the tables and decides who gets what; it speaks no wire protocol, opens no
// socket and writes no file. Its neighbours are proto/X, which feed it and are fed by it, and the journal, which it
// knows as the Log it declares.
//
// # Threads
//
// A Local is the core's part of one loop; everything on it runs on that loop's goroutine. A Client belongs to the Local
// that it was made for. Shard tables are guarded by their shard's mutex; nobody holds two shards' mutexes at once.
//
// # State changes at commit
//
// What must be kept is appended to its shard's pending list; the committer gathers the lists into one group
// (Source), and only after the group is durable the shard's home loop applies it: tables, deliveries, acknowledgements.
//
// # Lock order
//
// shard.applying (one at a time: a commit's apply, or a checkpoint), then shard.mu, then the filter table's lock or
// retainedStore.mu, then the locks of the indexes under them. Local inboxes come last and are held for a slice append only.
package broker
