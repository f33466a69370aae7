// Package alloc owns every buffer and every big table on a message's way: reference-counted blocks that cross goroutines, free
// lists of one loop, rows and byte strings that the garbage collector need not look into, a timer wheel over rows, and the node's
// memory budget. It knows no protocol, starts no goroutine and takes no clock. engine, broker, journal and proto stand on it.
//
// Block and Budget are safe for concurrent use; everything else here has one owner, who locks if there is more than one user.
//
// With the build tag blockcheck each block remembers where it was made, a released one is filled with poison that is looked at
// before it is used again, and CheckLeaks names the blocks that nobody released.
package alloc
