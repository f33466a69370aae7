//go:build !linux

// Command writev measures on Linux only.
package main

func main() { panic("writev measures on Linux only") }
