package common

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Disk is a file system of its own in memory, small enough to be filled. It is seen by what is started by By, and goes with the test.
type Disk struct {
	Dir string
	By  []string // starts a program that sees it

	t    testing.TB
	root string // of who holds it
}

// NewDisk makes one, or skips the test where that is not allowed.
func NewDisk(t testing.TB, size string) *Disk {
	t.Helper()
	d := &Disk{Dir: t.TempDir(), t: t}
	flags, enter := "-m", []string{"nsenter", "-m"}
	if os.Getuid() != 0 {
		flags, enter = "-rm", []string{"nsenter", "-U", "--preserve-credentials", "-m"}
	}
	// It ends with the pipe, and the file system with it.
	cmd := exec.Command("unshare", flags, "sh", "-c", `mount -t tmpfs -o size="$1" tmpfs "$2" && echo there && exec cat`, "sh", size, d.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("a file system cannot be mounted here: ", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "there\n" {
		t.Skip("a file system cannot be mounted here")
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	d.By = append(enter, "-t", pid, "--")
	d.root = filepath.Join("/proc", pid, "root")
	return d
}

// ballast is what fills the disk.
func (d *Disk) ballast() string { return filepath.Join(d.root, d.Dir, "ballast") }

// Fill leaves no room at all.
func (d *Disk) Fill() {
	d.t.Helper()
	f, err := os.Create(d.ballast())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 64<<10); ; {
		_, err := f.Write(b)
		switch {
		case errors.Is(err, syscall.ENOSPC) && len(b) == 1:
			return
		case errors.Is(err, syscall.ENOSPC):
			b = b[:1]
		case err != nil && !errors.Is(err, io.ErrShortWrite):
			d.t.Fatal(err)
		}
	}
}

// Empty gives the room back.
func (d *Disk) Empty() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}
