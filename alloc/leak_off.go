//go:build !blockcheck

package alloc

// BlockCheck tells whether blocks are checked in this build.
const BlockCheck = false

// blockCheck is empty: checks cost nothing in this build.
type blockCheck struct{}

func (*blockCheck) made(*Block)     {}
func (*blockCheck) reused(*Block)   {}
func (*blockCheck) used(*Block)     {}
func (*blockCheck) released(*Block) {}

// LiveBlocks is -1: blocks are not counted in this build.
func LiveBlocks() int { return -1 }

// LeakReport is empty in this build.
func LeakReport() string { return "" }

// CheckLeaks does nothing in this build.
func CheckLeaks(TestingT) {}

// TestingT is the part of testing.TB that CheckLeaks needs.
type TestingT interface {
	Helper()
	Errorf(format string, args ...any)
}
