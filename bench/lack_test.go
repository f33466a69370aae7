package bench_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
)

// TestNoResultWithoutDescriptors: more connections than the kernel lets the process have are the generator's lack.
func TestNoResultWithoutDescriptors(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	cfg := small("storm", b)
	cfg.Conns = 2_000_000 // over fs.nr_open, beyond which not even root can go
	if lim.Max > 2_000_000 {
		t.Skip("this process may have any number of descriptors")
	}
	var lacks *bench.LackError
	res, err := bench.Run(t.Context(), cfg)
	if !errors.As(err, &lacks) || !strings.Contains(err.Error(), "ulimit -n") || res == nil || res.OK || res.Void == "" {
		t.Errorf("%v, %+v", err, res)
	}
}
