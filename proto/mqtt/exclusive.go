package mqtt

import (
	"bytes"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

var exclusivePrefix = []byte("$exclusive/")

// failSubscribeQuota explains 0x97 in a SUBACK, which is said of both.
const failSubscribeQuota = "too many subscriptions, or another client has the exclusive subscription"

// cutExclusive takes $exclusive/ off a filter, as EMQX knows it: what follows is the filter proper.
func cutExclusive(full []byte) (filter []byte, exclusive bool) {
	return bytes.CutPrefix(full, exclusivePrefix)
}

// exclusiveFits says whether a filter may be subscribed to in the way that it asks for: not exclusively where that is off, nor shared and
// exclusively at once.
func exclusiveFits(f *wire.Filter, exclusive bool, s *Settings) bool {
	if bytes.HasPrefix(f.Topic, exclusivePrefix) {
		return false // $share/GROUP/$exclusive/, or twice
	}
	return !exclusive || s.Exclusive && f.Share == nil
}
