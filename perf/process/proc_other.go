//go:build !linux

package process

import (
	"errors"
	"syscall"
	"time"
)

var errLinux = errors.New("what a process takes is known on Linux only")

// OwnGroup puts a process in a group of its own.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// CPU is known on Linux only.
func CPU(int) (time.Duration, error) { return 0, errLinux }

// Memory is known on Linux only.
func Memory(int) (int64, error) { return 0, errLinux }
