//go:build !linux

package bench

import "time"

func sampleProcess([]int) (usage, error) { return usage{}, errPlatform }
func sampleCheap([]int) (usage, error)   { return usage{}, errPlatform }
func sampleCPU([]int) (time.Duration, error) {
	return 0, errPlatform
}
func ownCPU() time.Duration     { return 0 }
func ownWait() time.Duration    { return 0 }
func describeMachine(*Hardware) {}
