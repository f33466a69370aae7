package common

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// mosquittoPath is where Debian has it.
const mosquittoPath = "/usr/sbin/mosquitto"

// Mosquitto is a broker of that make, if there is one.
type Mosquitto struct {
	Address string
	File    string // its configuration

	t   testing.TB
	cmd *exec.Cmd
	log lockedBuffer
}

// NewMosquitto writes a configuration with a listener on loopback and these lines, and starts nothing. Without a Mosquitto the test is skipped.
func NewMosquitto(t testing.TB, lines ...string) *Mosquitto {
	t.Helper()
	if _, err := os.Stat(mosquittoPath); err != nil {
		t.Skip("there is no ", mosquittoPath)
	}
	dir := t.TempDir()
	m := &Mosquitto{Address: testx.ClosedAddr(t), File: filepath.Join(dir, "mosquitto.conf"), t: t}
	host, port, _ := net.SplitHostPort(m.Address)
	conf := append([]string{"listener " + port + " " + host, "persistence true", "persistence_location " + dir + "/", "autosave_interval 1", "max_queued_messages 0"}, lines...)
	if os.Getuid() == 0 {
		conf = append(conf, "user root")
	}
	if err := os.WriteFile(m.File, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	return m
}

// Start runs it, and waits until it listens.
func (m *Mosquitto) Start() {
	m.t.Helper()
	m.cmd = exec.Command(mosquittoPath, "-c", m.File)
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	testx.Eventually(m.t, time.Minute, func() bool {
		c, err := net.Dial("tcp", m.Address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, "mosquitto listens")
}

// Kill ends it with SIGKILL. It may be called again.
func (m *Mosquitto) Kill() {
	if m.cmd != nil && m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
}

// Log is what it has said.
func (m *Mosquitto) Log() string { return m.log.String() }
