package alloc

import "math/bits"

const (
	minClassBits = 8  // 256 B
	maxClassBits = 20 // 1 MiB
	numClasses   = maxClassBits - minClassBits + 1
)

// MaxClass is the largest size that is kept for reuse; what is larger is made and left to the collector.
const MaxClass = 1 << maxClassBits

// classFor is the smallest class that holds n bytes, or -1 if none does.
func classFor(n int) int {
	if n <= 1<<minClassBits {
		return 0
	}
	if n > MaxClass {
		return -1
	}
	return bits.Len(uint(n-1)) - minClassBits
}

// classOf is the class whose buffers have exactly capacity c, or -1 if there is none: a foreign buffer is never taken in.
func classOf(c int) int {
	if c < 1<<minClassBits || c > MaxClass || c&(c-1) != 0 {
		return -1
	}
	return bits.Len(uint(c)) - 1 - minClassBits
}

func classSize(class int) int { return 1 << (class + minClassBits) }
