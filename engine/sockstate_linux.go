package engine

import (
	"time"

	"golang.org/x/sys/unix"
)

// sockState reads TCP_INFO.
func sockState(fd int) (s SocketState, ok bool) {
	i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return s, false
	}
	return SocketState{Unsent: int(i.Notsent_bytes), Full: i.Notsent_bytes > 0 && i.Unacked == 0, Repeats: int(i.Retransmits) + int(i.Probes),
		RTT: time.Duration(i.Rtt) * time.Microsecond}, true
}
