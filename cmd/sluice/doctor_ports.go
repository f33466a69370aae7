package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sluicemq/sluice/config"
)

// ports tries to listen where the node would.
func (d *doctor) ports() {
	l := &d.cfg.Listeners
	lists := []config.Addrs{l.MQTT.TCP, l.MQTT.WS, l.Kafka.TCP, l.GRPC, l.HTTP}
	if d.cfg.TLSSet() {
		lists = append(lists, l.MQTT.TLS, l.MQTT.WSS, l.Kafka.TLS)
	}
	var free []string
	for _, addr := range slices.Concat(lists...) {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			d.refused(addr, err)
			continue
		}
		_ = ln.Close()
		free = append(free, addr)
	}
	for _, path := range l.MQTT.Unix {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			d.held(path, nil)
			continue
		}
		free = append(free, path)
	}
	if len(free) > 0 {
		d.say("port", "ok", "", "free: %s", strings.Join(free, ", "))
	}
}

// refused says why nothing can listen on addr.
func (d *doctor) refused(addr string, err error) {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		d.held(addr, portHolders(addr))
	case errors.Is(err, fs.ErrPermission):
		d.say("port", "fail", "give the node CAP_NET_BIND_SERVICE (AmbientCapabilities of the unit), or take a port from 1024 on", "%v", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		d.say("port", "fail", "listen on an address that this machine has", "%v", err)
	default:
		d.say("port", "fail", "set another address", "%v", err)
	}
}

// held tells whether it is the node on our data that holds addr. Who it is cannot always be told: other users' processes are hidden.
func (d *doctor) held(addr string, by []int) {
	switch {
	case len(d.holders) > 0 && slices.ContainsFunc(by, func(pid int) bool { return slices.Contains(d.holders, pid) }):
		d.say("port", "ok", "", "%s is held by the node that runs on this data%s", addr, processes(by))
	case len(by) == 0 && len(d.holders) > 0:
		d.say("port", "warn", "if it is not the node that runs on this data, free it or set another address", "%s is held", addr)
	case len(by) == 0:
		d.say("port", "fail", "stop who holds it (root can see who: ss -ltnp), or set another address", "%s is held by a process that cannot be seen from here", addr)
	default:
		d.say("port", "fail", "stop that process, or set another address", "%s is held%s", addr, processes(by))
	}
}

// processes gives ` by NAME (pid N)` for each, and nothing for none.
func processes(pids []int) string {
	var names []string
	for _, pid := range pids {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		names = append(names, fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), pid))
	}
	if len(names) == 0 {
		return ""
	}
	return " by " + strings.Join(names, " and ")
}

// portHolders are the processes that listen on the port of addr, as far as /proc shows them.
func portHolders(addr string) []int {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil
	}
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, _ := os.ReadFile(table)
		for line := range strings.Lines(string(data)) {
			const local, state, inode, listening = 1, 3, 9, "0A"
			f := strings.Fields(line)
			if len(f) > inode && f[state] == listening && strings.HasSuffix(f[local], fmt.Sprintf(":%04X", port)) {
				sockets["socket:["+f[inode]+"]"] = true
			}
		}
	}
	return holders(func(link string) bool { return sockets[link] })
}

// lockHolders are the processes that hold f's file open and locked, as far as /proc shows them.
func lockHolders(f *os.File) []int {
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	var pids []int
	data, _ := os.ReadFile("/proc/locks")
	for line := range strings.Lines(string(data)) {
		// 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END, with -> before the kind for those that wait
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(sys.Ino, 10)) {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// holders are the processes with an open descriptor whose link is wanted.
func holders(wanted func(link string) bool) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range dirs {
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if slices.ContainsFunc(fds, func(e fs.DirEntry) bool {
			link, err := os.Readlink(filepath.Join(dir, e.Name()))
			return err == nil && wanted(link)
		}) {
			pids = append(pids, pid)
		}
	}
	return pids
}
