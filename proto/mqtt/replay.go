package mqtt

import (
	"strconv"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// propertyFrom is the user property of SUBSCRIBE that has its filters start in the past: earliest, latest, an offset, or a time (RFC 3339).
const propertyFrom = "from"

// replayFrom reads where a SUBSCRIBE wants to start. False: it says so in no way that there is, or twice.
func replayFrom(user wire.UserProperties) (from broker.ReplayFrom, ok bool) {
	for r := user.Read(); ; {
		name, value, more := r.Next()
		if !more {
			return from, true
		}
		if string(name) != propertyFrom {
			continue
		}
		if from.Kind != broker.ReplayNone {
			return from, false
		}
		if from, ok = parseFrom(string(value)); !ok {
			return from, false
		}
	}
}

func parseFrom(s string) (broker.ReplayFrom, bool) {
	switch s {
	case "earliest":
		return broker.ReplayFrom{Kind: broker.ReplayEarliest}, true
	case "latest":
		return broker.ReplayFrom{Kind: broker.ReplayLatest}, true
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return broker.ReplayFrom{Kind: broker.ReplayOffset, Offset: n}, n >= 0
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	return broker.ReplayFrom{Kind: broker.ReplayTime, Milli: at.UnixMilli()}, err == nil
}

// failNotStored explains the one code that a SUBACK has for both.
const failNotStored = "subscriptions cannot be stored now, or `from` is not earliest, latest, an offset or an RFC 3339 time, or no stream lies behind the filter"
