//go:build unix && !linux

package engine

// sockState is not known here: each system says it in its own way.
func sockState(int) (s SocketState, ok bool) { return s, false }
