//go:build !linux

package bench

import (
	"errors"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// The generator waits by epoll and reads /proc: it runs on Linux. Elsewhere Run says so.
const supported = false

const (
	wantRead  = 1
	wantWrite = 2
)

var (
	errPlatform = errors.New("the load generator runs on Linux only")
	errBlocked  = errors.New("would block")
)

type pollEvent struct {
	slot               int
	readable, writable bool
}

type poller struct{}

func newPoller() (*poller, error) { return nil, errPlatform }

func (p *poller) close()                                  {}
func (p *poller) add(int, int, uint32) error              { return errPlatform }
func (p *poller) modify(int, int, uint32) error           { return errPlatform }
func (p *poller) wake()                                   {}
func (p *poller) wait(time.Duration) ([]pollEvent, error) { return nil, errPlatform }
func prepareThread()                                      {}
func resolve(mqttclient.Target) (endpoint, error)         { return endpoint{}, errPlatform }
func (e endpoint) dial(int) (int, error)                  { return -1, errPlatform }
func dialResult(int) error                                { return errPlatform }
func sysRead(int, []byte) (int, error)                    { return 0, errPlatform }
func sysWrite(int, []byte) (int, error)                   { return 0, errPlatform }
func sysClose(int)                                        {}
func sysWaitFor(int, bool, time.Duration) error           { return errPlatform }
func raiseFileLimit(int) error                            { return errPlatform }

var generatorErrors []error

type endpoint struct{}
