// Package raftgroup keeps the catalog of a cluster: a meta.Group over one Raft group of Dragonboat. Group proposes changes from any node and
// gives what was decided to meta.Catalog in one order for all; it knows the group's members, its leader, and when this node has seen all that
// was decided. It owns the state behind it (pebble), Dragonboat's log (a small Pebble of its own, for the catalog alone), the streams between
// nodes that both need, and the identity of a node's copy. It knows no shard's records and no client. meta says what entries mean, server
// builds the group and hands it a network: the streams of cluster/link.
//
// Traps of Dragonboat's that are closed here, each with a test in traps_test.go:
//
//   - Replicas are addressed by node, not by HOST:PORT: an address may change, and one that stands for all of a machine's is refused.
//   - The engine's and the log's worker counts are constants: data made with others cannot be opened.
//   - The log's buffers are the small ones: the default takes 2 GiB.
//   - A state that is behind the log's snapshot is refused by name: entries between the two are gone.
//   - An error of a state machine ends the process: the state halts instead, by name, and applies nothing any more.
//
// Lock order: Group.mu before nothing; Dragonboat calls the state on its own goroutine, with its locks held, so the state calls nothing of it.
package raftgroup
