// Package cluster says who leads: it is what makes nodes that share a catalog one broker. It owns leases, elections, and which nodes are in sync. It never
// sees a record or a client: the broker (Core) and the streams between nodes (Streams, cluster/replica) do what it says, the catalog (meta) keeps it, and
// server wires them.
//
// Shards lie in sets (meta.ShardSet). All shards of a set have one leader at a time, and move together, in one change of the catalog. Each set has a Controller of its own, with leases and
// an epoch of its own: what is said here counts for each, and nothing is shared between them.
//
// # Leases
//
// The node that leads the catalog's group is the controller. Each node sends it a heartbeat every tenth of a lease, and counts its lease from the moment
// at which it sent the last one that was granted; the controller counts from when it received that, which is later. A node that leads lets go of
// all shards before its lease is over, and the controller elects another one only after: so at no moment do two nodes lead.
//
// A heartbeat is granted after the controller has made sure, by asking the majority of the catalog's group, that it led the group after the heartbeat had
// come. So a controller that was replaced grants nothing that was sent after its successor was elected, and the successor elects nobody until it
// has reigned for a lease, less the time for which the majority had heard nothing of its predecessor when it was elected (silence, of Start): whatever its
// predecessors granted is over by then.
//
// A lease is of one epoch: a grant names the epoch that the shards have in the controller's catalog, and a node leads in that one alone. Its own catalog may be
// behind, and name it for an epoch in which another one was elected since. From the moment at which a controller decides that another one is to lead until that is
// in its catalog it names no epoch (electing). When it is not answered whether the change was made, it makes another one, which does not change who leads, until
// one is: what was in doubt is in the catalog then, or refused for good (reign.doubt).
//
// A controller that does not know yet that it was replaced could still propose. Therefore a reign begins with a change of all shards' entries (their Change
// moves, nothing else): what an older controller proposes after that has not seen it, is refused by the catalog, and is made anew by a function that looks
// first whether its reign goes on.
//
// A node that is about to stop and leads the group hands that over (HandOver), so that nobody's lease ends while there is no controller. It grants nothing any more, and the group
// waits for as long as it would have been silent before an election: so what silence says stays true of who leads next, whatever becomes of it.
//
// A node that has let go of its shards, or was started anew, says so (resigned): then another one is elected at once, with nothing to wait for.
//
// # In sync
//
// The leader lets a follower in once that has all that is committed: first its own acknowledgements wait for the follower, then the catalog says so. Who is
// taken out is taken out of the catalog first, and waited for until it is. While the catalog has fewer in sync than the majority of the replicas, nothing is
// committed, whoever is about to be: who is eligible may lead without those. The controller takes out nodes whose lease is over. When fewer would be left than the majority of the replicas,
// those taken out stay eligible (KIP-966): nothing is acknowledged meanwhile, so they lack nothing that was.
//
// # Balancing
//
// Who shall have the shards is said once, by the controller, as the Target of their entries (balance). The leader carries it out, whoever that is meanwhile: it lets one that
// comes in as any node that is new, when it has all there is, and then takes one out that goes (goer): never itself. The controller has the lead move to one that
// stays (successor). So the Replicas are one more at times, and nobody goes that leaves fewer in sync than before.
//
// # Preferred leaders
//
// The first of the Replicas of a set beside the first one is preferred as its leader. Sets begin with another one each (begins). A node that begins to have the shards becomes
// it where that evens out how many sets prefer each node, and balancing makes it so of those that have them (evens). It gets the lead back by itself when it could have it for some
// leases without a break, and waits twice as long each time that it loses it again soon (back): each hand-over stops the set for a moment. Who gets the lead because an operator
// wants it is made the preferred one in the same change: so nothing moves back what an operator has moved, whichever node is the controller then.
//
// A set's first entry is made by a controller that has reigned for a lease, of nodes that it has heard from: all are in sync, as there is nothing yet. Those that drain have it where there are too few others.
//
// # What is assumed
//
// Clocks that run alike within a twentieth, and goroutines that run: one that leads and finds that its lease is over lets go, but what other goroutines answer in
// the moment before, on a machine that has stood still for longer than a lease, may be of a node that leads no more. Nothing is acknowledged by that: those
// in sync follow another epoch.
//
// # Goroutines and locks
//
// One goroutine makes all decisions of a node (Controller.run). State is an atomic pointer. Controller.mu is a leaf.
package cluster
