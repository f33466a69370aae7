//go:build !race

package testx

// RaceEnabled tells that the race detector is on: it allocates, so guards on allocations are skipped.
const RaceEnabled = false
