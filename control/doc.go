// Package control is the node's control plane: gRPC services (api/*.proto) through which an operator sees and changes topics, groups, clients,
// sessions, users, rules, quotas and bindings of all protocols. It owns who may call, how much one call may take, and how a listing pages; what
// it shows and changes belongs to the core and to the catalog. It never touches a connection or a table itself: it asks the loop or the shard
// that owns it, a slice at a time, so that a listing of a million rows stalls nobody.
//
// A page is bounded by rows and by the work behind them: it may hold fewer rows than asked for, or none, and yet not be the last. The last one
// has no next_page_token.
package control
