package testx

import "slices"

// listenerKeys are the settings that open a listener of a node.
var listenerKeys = []string{"listeners.mqtt.tcp", "listeners.mqtt.tls", "listeners.mqtt.ws", "listeners.mqtt.wss", "listeners.mqtt.unix",
	"listeners.kafka.tcp", "listeners.kafka.tls", "listeners.grpc", "listeners.cluster", "listeners.http"}

// Listeners are the settings, KEY=VALUE, of a node that opens the listeners named, such as mqtt.tcp, on free ports of loopback, and no
// other: a default one, which a certificate alone may open, is a port that two tests at the same time would quarrel about. A name that no
// listener has panics.
func Listeners(names ...string) []string {
	set := make([]string, 0, len(listenerKeys))
	for _, key := range listenerKeys {
		at := "off"
		if i := slices.Index(names, key[len("listeners."):]); i >= 0 {
			at = "127.0.0.1:0"
			names = slices.Delete(slices.Clone(names), i, i+1)
		}
		set = append(set, key+"="+at)
	}
	if len(names) > 0 {
		panic("testx: no listeners " + names[0])
	}
	return set
}

// Flags are settings as --set takes them.
func Flags(settings ...string) []string {
	args := make([]string, 0, 2*len(settings))
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	return args
}
