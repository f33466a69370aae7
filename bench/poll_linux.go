package bench

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

const supported = true

// pollWaitMax bounds one wait: it is a raw system call, during which the runtime cannot stop this thread, so a garbage
// collection elsewhere in the process may have to wait for it.
const pollWaitMax = 10 * time.Millisecond

const (
	wantRead  = unix.EPOLLIN
	wantWrite = unix.EPOLLIN | unix.EPOLLOUT
)

type pollEvent struct {
	slot     int
	readable bool // or at its end
	writable bool
}

// poller waits for sockets. It belongs to one loop; wake alone may be called from elsewhere.
type poller struct {
	epfd, wakefd int
	raw          []unix.EpollEvent
	events       []pollEvent
	noPwait2     bool
}

const wakeSlot = -1

func newPoller() (*poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &poller{epfd: epfd, wakefd: wakefd, raw: make([]unix.EpollEvent, 1024), events: make([]pollEvent, 0, 1024)}
	if err := p.control(unix.EPOLL_CTL_ADD, wakefd, wakeSlot, wantRead); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	_ = unix.Close(p.epfd)
	_ = unix.Close(p.wakefd)
}

func (p *poller) control(op, fd, slot int, want uint32) error {
	if err := unix.EpollCtl(p.epfd, op, fd, &unix.EpollEvent{Events: want, Fd: int32(slot)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (p *poller) add(fd, slot int, want uint32) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, slot, want)
}

func (p *poller) modify(fd, slot int, want uint32) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, slot, want)
}

// wake makes a wait under way return.
func (p *poller) wake() {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.wakefd), uintptr(unsafe.Pointer(&one)), 8)
}

// wait returns after timeout at the latest. The events are valid until the next call.
//
// The raw system call keeps the processor slot of the runtime while it sleeps, and saves some 10 µs at each wake-up.
func (p *poller) wait(timeout time.Duration) ([]pollEvent, error) {
	timeout = min(max(timeout, 0), pollWaitMax)
	var n uintptr
	var errno unix.Errno
	if !p.noPwait2 {
		ts := unix.NsecToTimespec(int64(timeout))
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.raw[0])),
			uintptr(len(p.raw)), uintptr(unsafe.Pointer(&ts)), 0, 0)
		p.noPwait2 = errno == unix.ENOSYS // before Linux 5.11: whole milliseconds, the last one in a spin
	}
	if p.noPwait2 {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.raw[0])),
			uintptr(len(p.raw)), uintptr(timeout/time.Millisecond), 0, 0)
	}
	p.events = p.events[:0]
	if errno == unix.EINTR {
		return p.events, nil
	}
	if errno != 0 {
		return nil, fmt.Errorf("epoll_wait: %w", errno)
	}
	for i := range p.raw[:n] {
		e := &p.raw[i]
		if e.Fd == wakeSlot {
			var b [8]byte
			_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(p.wakefd), uintptr(unsafe.Pointer(&b[0])), 8)
			continue
		}
		p.events = append(p.events, pollEvent{
			slot:     int(e.Fd),
			readable: e.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0,
			writable: e.Events&(unix.EPOLLOUT|unix.EPOLLERR) != 0,
		})
	}
	return p.events, nil
}

// prepareThread binds the caller to a thread of its own, whose sleeps end on time.
func prepareThread() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}

// endpoint is where sockets connect to.
type endpoint struct {
	family   int
	addr     unix.Sockaddr
	loopback bool
}

func resolve(t mqttclient.Target) (endpoint, error) {
	if t.Network == "unix" {
		return endpoint{family: unix.AF_UNIX, addr: &unix.SockaddrUnix{Name: t.Addr}}, nil
	}
	a, err := net.ResolveTCPAddr("tcp", t.Addr)
	if err != nil {
		return endpoint{}, fmt.Errorf("address %s: %w", t.Addr, err)
	}
	if ip4 := a.IP.To4(); ip4 != nil {
		return endpoint{unix.AF_INET, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip4)}, ip4.IsLoopback()}, nil
	}
	return endpoint{unix.AF_INET6, &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}, false}, nil
}

// connsPerSource is how many connections share one source address on loopback, where each has about 28,000 ports.
const connsPerSource = 20_000

// dial starts a connection without waiting for it. n counts the run's connections.
func (e endpoint) dial(n int) (fd int, err error) {
	fd, err = unix.Socket(e.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if e.family != unix.AF_UNIX {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if e.loopback && n >= connsPerSource {
		_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		source := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + n/connsPerSource)}}
		if err := unix.Bind(fd, source); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("bind: %w", err)
		}
	}
	if err := unix.Connect(fd, e.sockaddr()); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// sockaddr gives a copy of the address: Connect writes into what it is given, and loops dial at the same time.
func (e endpoint) sockaddr() unix.Sockaddr {
	switch a := e.addr.(type) {
	case *unix.SockaddrInet4:
		return &unix.SockaddrInet4{Port: a.Port, Addr: a.Addr}
	case *unix.SockaddrInet6:
		return &unix.SockaddrInet6{Port: a.Port, Addr: a.Addr}
	case *unix.SockaddrUnix:
		return &unix.SockaddrUnix{Name: a.Name}
	}
	return e.addr
}

// dialResult tells how a connection that became writable ended.
func dialResult(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// errBlocked: the socket has nothing to read, or no room to write.
var errBlocked = errors.New("would block")

func sysRead(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return sysResult(n, errno)
}

func sysWrite(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return sysResult(n, errno)
}

func sysResult(n uintptr, errno unix.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR:
		return 0, errBlocked
	default:
		return 0, errno
	}
}

func sysClose(fd int) { _ = unix.Close(fd) }

// sysWaitFor blocks until fd is ready, for the handshakes outside the loops.
func sysWaitFor(fd int, write bool, timeout time.Duration) error {
	want := int16(unix.POLLIN)
	if write {
		want = unix.POLLOUT
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: want}}, int(timeout/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("timed out")
		}
		return err
	}
}

// generatorErrors are what the kernel answers when the generator has no more descriptors, ports or memory for sockets.
var generatorErrors = []error{unix.EMFILE, unix.ENFILE, unix.EADDRNOTAVAIL, unix.ENOBUFS, unix.ENOMEM}

// raiseFileLimit makes room for n descriptors.
func raiseFileLimit(n int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if lim.Cur >= uint64(n) {
		return nil
	}
	want := unix.Rlimit{Cur: uint64(n), Max: max(lim.Max, uint64(n))}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		return &LackError{fmt.Sprintf("%d open files are needed and %d allowed: raise the limit with ulimit -n %d", n, lim.Cur, n)}
	}
	return nil
}
