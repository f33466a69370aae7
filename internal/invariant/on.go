//go:build invariants || race

package invariant

import "fmt"

// Enabled tells whether the statements are checked: guard with it what is costly to compute for a Check.
const Enabled = true

// Check panics with msg unless ok.
func Check(ok bool, msg string) {
	if !ok {
		panic("invariant broken: " + msg)
	}
}

// Checkf is Check with a formatted message. Its arguments escape to the heap: call it under Enabled only.
func Checkf(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}
