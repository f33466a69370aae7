package alloc

// poolClassBytes bounds what a pool keeps in one class; at least two buffers are kept.
const poolClassBytes = 1 << 20

// Pool is the free lists of one loop, by size class. Its zero value is empty and ready; it is not safe for concurrent use. A
// buffer taken from it belongs to the taker, who may give it back or drop it.
type Pool struct {
	classes [numClasses]poolClass
}

type poolClass struct {
	free [][]byte
	low  int // least length of free since the last Trim: so many were not needed
}

// Get returns a buffer of len 0 and cap at least n, with undefined content.
func (p *Pool) Get(n int) []byte {
	class := classFor(n)
	if class < 0 {
		return make([]byte, 0, n)
	}
	c := &p.classes[class]
	last := len(c.free) - 1
	if last < 0 {
		return make([]byte, 0, classSize(class))
	}
	b := c.free[last]
	c.free[last] = nil
	c.free = c.free[:last]
	if last < c.low {
		c.low = last
	}
	return b
}

// Put takes a buffer back. What has not exactly the capacity of a class, or is one too many, is left to the collector.
func (p *Pool) Put(b []byte) {
	class := classOf(cap(b))
	if class < 0 {
		return
	}
	c := &p.classes[class]
	if len(c.free) >= max(poolClassBytes>>(class+minClassBits), 2) {
		return
	}
	c.free = append(c.free, b[:0])
}

// Grow returns a buffer that holds b's bytes and has room for n more, giving b back if it had to be replaced.
func (p *Pool) Grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	g := append(p.Get(len(b)+n), b...)
	p.Put(b)
	return g
}

// Trim drops the buffers that were not needed since the last Trim. A loop calls it every few seconds.
func (p *Pool) Trim() {
	for i := range p.classes {
		c := &p.classes[i]
		keep := len(c.free) - c.low
		for j := keep; j < len(c.free); j++ {
			c.free[j] = nil
		}
		c.free = c.free[:keep]
		c.low = keep
	}
}

// Bytes is what the pool keeps.
func (p *Pool) Bytes() int64 {
	var n int64
	for i := range p.classes {
		n += int64(len(p.classes[i].free)) << (i + minClassBits)
	}
	return n
}
