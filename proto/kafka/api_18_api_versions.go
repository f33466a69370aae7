package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// apiVersions tells which APIs are spoken, at which versions (KIP-35, KIP-511).
func apiVersions(r *request, m *kmsg.ApiVersionsRequest) {
	resp := m.ResponseKind().(*kmsg.ApiVersionsResponse)
	if m.Version >= 3 && (!validSoftware(m.ClientSoftwareName) || !validSoftware(m.ClientSoftwareVersion)) {
		resp.ErrorCode = int16(wire.InvalidRequest)
		r.respond(resp)
		return
	}
	wire.APIKeys(func(k wire.APIKey) bool {
		if served[k] != nil {
			v, _ := k.Advertised()
			a := kmsg.NewApiVersionsResponseApiKey()
			a.ApiKey, a.MinVersion, a.MaxVersion = int16(k), v.Min, v.Max
			resp.ApiKeys = append(resp.ApiKeys, a)
		}
		return true
	})
	resp.FinalizedFeaturesEpoch = 0
	for _, f := range features {
		o := kmsg.NewApiVersionsResponseSupportedFeature()
		o.Name, o.MinVersion, o.MaxVersion = f.name, f.level, f.level
		resp.SupportedFeatures = append(resp.SupportedFeatures, o)
		on := kmsg.NewApiVersionsResponseFinalizedFeature()
		on.Name, on.MinVersionLevel, on.MaxVersionLevel = f.name, f.level, f.level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, on)
	}
	r.respond(resp)
}

// features are what clients ask for by level instead of by API (KIP-584): the consumer protocol, and transactions of KIP-890, which the
// Java client uses only where it is told that they are on. Each has one level, the one that is in force.
var features = [...]struct {
	name  string
	level int16
}{{"group.version", 1}, {"transaction.version", 2}}

// validSoftware follows KIP-511: letters, digits, dots and dashes, beginning and ending with a letter or digit.
func validSoftware(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (c != '.' && c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return true
}
