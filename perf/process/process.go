// Package process runs nodes as processes of their own, for the programs that measure them from outside.
package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Patience bounds what a start and an end take on a machine that has other work.
const Patience = 2 * time.Minute

// Node is a running node. It ends with the process that has started it.
type Node struct {
	PID   int
	Took  time.Duration // from its start until it was ready
	cmd   *exec.Cmd
	log   bytes.Buffer
	ended chan error
}

// Start runs binary with args, which have it start as a node, and returns when it is ready. What it logs is in the error if it does not get so far.
func Start(binary string, args ...string) (*Node, error) {
	began := time.Now()
	n := &Node{cmd: exec.Command(binary, args...), ended: make(chan error, 1)}
	n.cmd.SysProcAttr = OwnGroup()
	n.cmd.Stderr = &n.log
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	n.PID = n.cmd.Process.Pid
	ready := make(chan bool, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- strings.HasPrefix(line, "ready ")
		n.ended <- n.cmd.Wait()
	}()
	select {
	case ok := <-ready:
		if !ok {
			return nil, errors.Join(fmt.Errorf("the node did not start:\n%s", &n.log), <-n.ended)
		}
		n.Took = time.Since(began)
		return n, nil
	case <-time.After(Patience):
		n.Kill()
		return nil, fmt.Errorf("the node is not ready after %v", Patience)
	}
}

// Stop ends the node in order; one that does not come to an end is killed, and that is an error.
func (n *Node) Stop() error {
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-n.ended:
		return err
	case <-time.After(Patience):
		n.Kill()
		return fmt.Errorf("the node did not end in %v", Patience)
	}
}

// Kill ends the node at once.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill()
	<-n.ended //nolint:errcheck // it was killed
}

// Address is one of loopback that nobody listens on.
func Address() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
