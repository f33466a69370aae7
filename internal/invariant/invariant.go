// Package invariant states what must hold if the program has no bug. It owns no state and never judges input: bad input is an
// error of its reader. With the build tags invariants or race a broken statement panics; otherwise the statements cost nothing.
// Every package may import it; it imports none.
package invariant
