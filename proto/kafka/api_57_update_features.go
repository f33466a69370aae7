package kafka

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// updateFeatures takes each feature at its one level.
func updateFeatures(r *request, m *kmsg.UpdateFeaturesRequest) {
	resp := m.ResponseKind().(*kmsg.UpdateFeaturesResponse)
	if resp.ErrorCode = refused(r.c.mayNode(broker.OperationAlter), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	for i := range m.FeatureUpdates {
		out := kmsg.NewUpdateFeaturesResponseResult()
		out.Feature = m.FeatureUpdates[i].Feature
		if code, why := featureFault(out.Feature, m.FeatureUpdates[i].MaxVersionLevel); code != wire.None {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
			if m.Version >= 2 && resp.ErrorCode == 0 { // it names no results
				resp.ErrorCode, resp.ErrorMessage = out.ErrorCode, out.ErrorMessage
			}
		}
		resp.Results = append(resp.Results, out)
	}
	r.respond(resp)
}

func featureFault(name string, level int16) (wire.ErrorCode, string) {
	for _, f := range features {
		switch {
		case f.name != name:
		case f.level == level:
			return wire.None, ""
		default:
			return wire.InvalidUpdateVersion, "the level of " + name + " is " + strconv.Itoa(int(f.level))
		}
	}
	return wire.InvalidUpdateVersion, "there is no feature " + name
}
