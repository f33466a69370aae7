//go:build deps

// Package deps pins the modules that later packages import, until each is imported where it belongs.
package deps

import (
	_ "github.com/HdrHistogram/hdrhistogram-go"
	_ "github.com/bytedance/gopkg/lang/mcache"
	_ "github.com/cespare/xxhash/v2"
	_ "github.com/cloudwego/netpoll"
	_ "github.com/cockroachdb/datadriven"
	_ "github.com/cockroachdb/pebble"
	_ "github.com/cockroachdb/pebble/v2"
	_ "github.com/eclipse/paho.golang/paho"
	_ "github.com/eclipse/paho.mqtt.golang"
	_ "github.com/gobwas/ws"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/lni/dragonboat/v4"
	_ "github.com/pkg/profile"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/puzpuzpuz/xsync/v4"
	_ "github.com/spf13/cobra"
	_ "github.com/valyala/bytebufferpool"
	_ "go.uber.org/goleak"
	_ "go.yaml.in/yaml/v3"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
	_ "pgregory.net/rapid"
)
