package server

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/sluicemq/sluice/meta"
)

// seedAsk is what a node that gets a copy asks of a node of one set of shards: of its leader that the log is held, of who gives the copy what has to be in it.
type seedAsk struct {
	set   int
	epoch uint32 // of the set, as far as the node that asks knows
	leads bool   // who gives the copy has to lead the set in it: the node that asks counts on that
	// The last frame of each of the set's shards, as its leader had them when it held its log.
	ends []uint64
}

const seedAskVersion = 1

var errSeedAsk = errors.New("server: a question about a copy that is none")

// appendAsks writes a list; of none there is nothing.
func appendAsks(dst []byte, list []seedAsk) []byte {
	if len(list) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(append(dst, seedAskVersion), uint64(len(list)))
	for i := range list {
		a := &list[i]
		leads := uint64(0)
		if a.leads {
			leads = 1
		}
		for _, v := range []uint64{uint64(a.set), uint64(a.epoch), leads, uint64(len(a.ends))} {
			dst = binary.AppendUvarint(dst, v)
		}
		for _, v := range a.ends {
			dst = binary.AppendUvarint(dst, v)
		}
	}
	return dst
}

// decodeAsks reads a list, which is in order. What it names may not be there.
func decodeAsks(b []byte) (list []seedAsk, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != seedAskVersion {
		return nil, errSeedAsk
	}
	b = b[1:]
	bad := false
	number := func(most uint64) uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > most {
			b, bad = nil, true
			return 0
		}
		b = b[n:]
		return v
	}
	for n := number(meta.SetsMax + 1); n > 0 && !bad; n-- {
		a := seedAsk{set: int(number(meta.SetsMax)), epoch: uint32(number(math.MaxUint32)), leads: number(1) == 1}
		for ends := number(meta.ShardsMax); ends > 0 && !bad; ends-- {
			a.ends = append(a.ends, number(math.MaxUint64))
		}
		if last := len(list) - 1; last >= 0 && list[last].set >= a.set {
			bad = true
		}
		list = append(list, a)
	}
	if bad || len(b) > 0 || len(list) == 0 {
		return nil, errSeedAsk
	}
	return list, nil
}
