package testx

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
)

// Child is a process that a test has started and that ends when its standard input does.
type Child struct {
	PID int
	In  io.WriteCloser
	Out io.Reader
}

// StartChild runs a command, most often this test binary (os.Args[0]), with further environment variables. When the test ends, the child's
// standard input does, it is waited for, and that it failed is an error. What it says on standard error is shown.
func StartChild(t testing.TB, command []string, env ...string) *Child {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &Child{cmd.Process.Pid, in, out}
}

// Ports that ClosedAddr gives: below those that the system hands out to connections, or one of them could take an address before its listener, or
// while that is down. A process has a block of its own, by its number.
const (
	portsFrom  = 10_000
	portBlock  = 200
	portBlocks = 110
)

var portsGiven atomic.Uint32

// ClosedAddr is a TCP address of loopback where nobody listens. It stays free for whoever asked, until the process has asked for some 200.
func ClosedAddr(t testing.TB) string {
	t.Helper()
	base := portsFrom + os.Getpid()%portBlocks*portBlock
	for range portBlock {
		at := net.JoinHostPort("127.0.0.1", strconv.Itoa(base+int(portsGiven.Add(1)%portBlock)))
		if l, err := net.Listen("tcp", at); err == nil {
			_ = l.Close()
			return at
		}
	}
	t.Fatal("no port is free")
	return ""
}
