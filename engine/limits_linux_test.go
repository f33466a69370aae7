package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/internal/testx"
)

// TestDescriptorsRunOut runs in a child with few descriptors: clients live in the parent.
func TestDescriptorsRunOut(t *testing.T) {
	for _, transport := range []string{"epoll", "netpoll"} {
		t.Run(transport, func(t *testing.T) {
			if os.Getenv("ENGINE_TEST_SERVE") == transport {
				serveWithFewDescriptors(t, transport)
				return
			}
			if os.Getenv("ENGINE_TEST_SERVE") != "" {
				t.Skip("the other transport's child")
			}
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run", "^TestDescriptorsRunOut$", "-test.v")
			cmd.Env = append(os.Environ(), "ENGINE_TEST_SERVE="+transport, "ENGINE_TEST_DIR="+dir)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var addr []byte
			testx.Eventually(t, patience, func() bool { addr, err = os.ReadFile(dir + "/addr"); return err == nil })
			useUpDescriptors(t, string(addr))
			_ = stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
}

// useUpDescriptors opens more connections than the child can take. Those that are over are closed, not left hanging, and when others
// have gone there is room again.
func useUpDescriptors(t *testing.T, addr string) {
	t.Helper()
	var conns []net.Conn
	dead := 0
	for range 120 {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		write(t, c, []byte("x"))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			conns = append(conns, c)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection hangs")
		} else {
			dead++
		}
	}
	if dead < 10 || len(conns) < 10 {
		t.Errorf("%d connections live, %d were refused", len(conns), dead)
	}
	for _, c := range conns {
		write(t, c, []byte("y"))
		wantRead(t, c, "y")
		_ = c.Close()
	}
	testx.Eventually(t, patience, func() bool {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte("z"))
		_, err = c.Read(make([]byte, 1))
		return err == nil
	}, "no room after others have gone")
}

func serveWithFewDescriptors(t *testing.T, transport string) {
	t.Helper()
	var log lockedBuilder
	s := start(t, way{transport, "tcp"}, echo(), func(o *Options, _ *ListenerOptions) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	lim := unix.Rlimit{Cur: 80, Max: 80}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv("ENGINE_TEST_DIR")
	if err := os.WriteFile(dir+"/a", []byte(s.addr.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/a", dir+"/addr"); err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Scanln() // the parent's end
	st := s.e.Stats()
	if st.DescriptorsOut == 0 || st.Refused.NoDescriptor == 0 {
		t.Errorf("%+v", st)
	}
	if text := log.String(); !strings.Contains(text, "no descriptor left") || strings.Count(text, "\n") > 20 {
		t.Errorf("log: %s", text)
	}
	s.stop()
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSocketOptions: what is set on the listening socket holds for accepted ones, so nothing is set on each.
func TestSocketOptions(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		if w.layer != "tcp" {
			return
		}
		conns := make(chan *Conn, 1)
		h := &hooks{open: func(c *Conn) { conns <- c }}
		s := start(t, w, h)
		client := s.dial()
		c := testx.Receive(t, conns, patience)
		for _, o := range []struct{ level, name int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		} {
			if v, err := unix.GetsockoptInt(int(c.fd), o.level, o.name); err != nil || v == 0 {
				t.Errorf("option %v: %d, %v", o, v, err)
			}
		}
		if c.RemoteAddr().String() != client.LocalAddr().String() {
			t.Errorf("remote %v, want %v", c.RemoteAddr(), client.LocalAddr())
		}
		done := make(chan string, 1)
		c.Loop().Post(TaskFunc(func(*Loop) { done <- c.LocalAddr().String() }))
		if got := testx.Receive(t, done, patience); got != s.addr.String() {
			t.Errorf("local %v, want %v", got, s.addr)
		}
	})
}

// TestStaleSocket: a Unix socket that a crash left is replaced, one that answers is not.
func TestStaleSocket(t *testing.T) {
	path := t.TempDir() + "/s"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	s := start(t, way{"epoll", "unix"}, echo(), func(_ *Options, o *ListenerOptions) { o.Address = path })
	c := s.dial()
	write(t, c, []byte("x"))
	wantRead(t, c, "x")
	if _, err := s.e.Listen(s.o); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
	s.stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
