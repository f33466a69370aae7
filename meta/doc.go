// Package meta is the catalog above topics: users, and with them rules, quotas and bindings; nodes, and who has which shard. It owns the encoding of its entries
// (docs/format/catalog.md) and the image of them that everybody reads: an immutable Snapshot behind one pointer. It stores nothing itself: a
// Group makes changes durable and gives them back in one order, which is the same on every node and after every restart. It knows no
// protocol and checks no password; auth and the protocols ask it, server wires them.
//
// An entry has a key, KIND/NAME, and a value that begins with a version. A kind or a version that this program does not know is refused by
// name when a node starts: it never runs with half of its catalog.
package meta
