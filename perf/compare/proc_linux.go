package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownGroup puts a process in a group of its own, which ends with this one.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// descendants are the children of a process and theirs.
func descendants(pid int) (all []string) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, task := range tasks {
		b, err := os.ReadFile(dir + task.Name() + "/children")
		if err != nil {
			continue // the thread has ended, or this kernel does not say
		}
		for _, child := range strings.Fields(string(b)) {
			all = append(all, child)
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, descendants(n)...)
			}
		}
	}
	return all
}

// ticksPerSecond is what /proc counts CPU time in, on every Linux that Go runs on.
const ticksPerSecond = 100

// machineTimes reads the first line of /proc/stat.
func machineTimes() (m times, ok bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return parseMachineTimes(line)
}

// processTimes is the CPU time of processes, their ended threads included.
func processTimes(pids []string) (sum time.Duration) {
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue // ended
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3 on
		if len(f) < 13 {
			continue
		}
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		sum += time.Duration(user+system) * time.Second / ticksPerSecond
	}
	return sum
}
