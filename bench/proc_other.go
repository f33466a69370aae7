//go:build !linux

package bench

import "time"

func sampleProcess([]int) (usage, error) { return usage{}, errPlatform }
func ownCPU() time.Duration              { return 0 }
func describeMachine(*Hardware)          {}
