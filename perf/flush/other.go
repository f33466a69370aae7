//go:build !linux

// Command flush measures on Linux only.
package main

func main() { panic("flush measures on Linux only") }
