package vfs

import "reflect"

// AlignedBytes makes n zero bytes whose first lies on a BlockSize boundary, as Direct handles want.
func AlignedBytes(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := 0
	if rest := int(reflect.ValueOf(b).Pointer() % BlockSize); rest != 0 {
		skip = BlockSize - rest
	}
	return b[skip : skip+n : skip+n]
}
