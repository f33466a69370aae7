//go:build !linux

package measure

// pin does nothing: only Linux is measured on.
func pin() (undo func()) { return func() {} }
