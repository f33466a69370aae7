//go:build !invariants && !race

package invariant

// Enabled tells whether the statements are checked: guard with it what is costly to compute for a Check.
const Enabled = false

// Check does nothing in this build.
func Check(bool, string) {}

// Checkf does nothing in this build.
func Checkf(bool, string, ...any) {}
