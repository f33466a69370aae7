package mosquitto

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
)

var update = flag.Bool("update", false, "write testdata/want.* anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made; -update writes it anew. It would be:\n%s", path, got)
	}
}

// TestPlant: a broker's files as they have grown over the years, each line of them carried over or told.
func TestPlant(t *testing.T) {
	r, err := Translate("testdata/mosquitto.conf", "/etc/sluice")
	if err != nil {
		t.Fatal(err)
	}
	var notes strings.Builder
	for _, n := range r.Notes {
		notes.WriteString(n.String() + "\n")
	}
	golden(t, "want.yaml", string(r.Files["sluice.yaml"]))
	golden(t, "want.users", string(r.Files["users"]))
	golden(t, "want.acl", string(r.Files["acl"]))
	golden(t, "want.notes", notes.String())
	if string(r.Files["bridge-hq-bridge.password"]) != "hush hush\n" || r.Users != 2 || len(r.Files) != 4 {
		t.Errorf("files %v, %d users", len(r.Files), r.Users)
	}
	for name, data := range r.Files {
		if name != "bridge-hq-bridge.password" && strings.Contains(string(data), "hush") || strings.Contains(notes.String(), "hush") {
			t.Errorf("%s or a note shows a password", name)
		}
	}
}

// translate makes a configuration of a few lines, and checks that the parser takes it.
func translate(t *testing.T, text string) (c config.Config, notes string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c1", "k1", "c2", "k2", "ca", "passwords"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("# x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Translate(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range r.Files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := config.Load(config.LoadOptions{File: filepath.Join(dir, "sluice.yaml")})
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Files["sluice.yaml"])
	}
	for _, n := range r.Notes {
		notes += n.String() + "\n"
	}
	return l.Config, notes
}

func TestSettings(t *testing.T) {
	for _, tc := range []struct {
		name, conf string
		check      func(c *config.Config) bool
		note       string // is among the notes
	}{
		{"nothing", "", func(c *config.Config) bool {
			return c.Listeners.MQTT.TCP.String() == "127.0.0.1:1883" && c.Anonymous() == "loopback" && c.Listeners.MQTT.WS.Off()
		}, "limits.packet_size is 1MiB"},
		{"a port", "port 1884", func(c *config.Config) bool { return c.Listeners.MQTT.TCP.String() == ":1884" && c.Anonymous() == "off" }, ""},
		{"an address", "bind_address 10.1.1.1\nallow_anonymous true", func(c *config.Config) bool {
			return c.Listeners.MQTT.TCP.String() == "10.1.1.1:1883" && c.Anonymous() == "everywhere"
		}, ""},
		{"a default listener beside another", "port 1884\nlistener 1885 127.0.0.1", func(c *config.Config) bool { return len(c.Listeners.MQTT.TCP) == 2 }, ""},
		{"IPv6", "listener 1883 ::1", func(c *config.Config) bool { return c.Listeners.MQTT.TCP.String() == "[::1]:1883" }, ""},
		{"the node's own ports", "listener 8080\nprotocol websockets", func(c *config.Config) bool {
			return c.Listeners.MQTT.WS.String() == ":8080" && c.Listeners.HTTP.String() == "127.0.0.1:18080"
		}, "listeners.http"},
		{"two certificates", "listener 8883\ncertfile DIR/c1\nkeyfile DIR/k1\nlistener 8884\ncertfile DIR/c2\nkeyfile DIR/k2", func(c *config.Config) bool {
			return len(c.Listeners.MQTT.TLS) == 2 && strings.HasSuffix(c.TLS.Cert, "c1") && c.ClientAuth() == "off"
		}, "show one certificate"},
		{"a certificate is asked for", "listener 8883\ncertfile DIR/c1\nkeyfile DIR/k1\ncafile DIR/ca\nrequire_certificate true\nuse_subject_as_username true", func(c *config.Config) bool {
			return c.ClientAuth() == "required" && c.Auth.CertificateUser == "subject"
		}, "use_subject_as_username"},
		{"each listener by itself", "per_listener_settings true\nlistener 1883\nallow_anonymous true\nlistener 1884\npassword_file DIR/passwords", func(c *config.Config) bool {
			n := c.Listeners.MQTT.Named
			return c.Anonymous() == "off" && c.Auth.PasswordFile != "" && len(n) == 2 && n[0].Anonymous == "everywhere" && n[1].Anonymous == "off" && n[1].Name == "port-1884" &&
				c.Listeners.MQTT.TCP.Off()
		}, "listeners differ, so they have names"},
		{"prefixes and bounds", "allow_anonymous true\nlistener 1883\nmount_point plant/\nmax_connections 7\nlistener 1884 10.1.1.1\nlistener 1884 10.1.1.2\nprotocol websockets\nlistener 0 /run/m.sock\nmount_point odd",
			func(c *config.Config) bool {
				n := c.Listeners.MQTT.Named
				return len(n) == 4 && n[0].Mountpoint == "plant/" && n[0].Connections == 7 && n[1].Mountpoint == "" && n[1].Connections == 0 && n[2].Name == "port-1884-2" && n[2].WebSocket() &&
					n[3].Unix() && n[3].Mountpoint == "" && n[3].Anonymous == "everywhere"
			}, "mount_point odd"},
		{"certificates at one of two", "listener 8883\ncertfile DIR/c1\nkeyfile DIR/k1\nlistener 8884\ncertfile DIR/c1\nkeyfile DIR/k1\ncafile DIR/ca\nrequire_certificate true\nuse_identity_as_username true",
			func(c *config.Config) bool {
				n := c.Listeners.MQTT.Named
				return len(n) == 2 && n[0].ClientAuth == "off" && n[1].ClientAuth == "required" && strings.HasSuffix(c.TLS.ClientCA, "ca") && c.Auth.CertificateUser == "cn"
			}, "listeners differ"},
		{"one bound of all", "max_connections 5\nport 1884", func(c *config.Config) bool {
			return c.Listeners.MQTT.Connections == 5 && len(c.Listeners.MQTT.Named) == 0
		}, ""},
		{"limits", "max_queued_messages 0\nmax_inflight_messages 0\nmax_packet_size 5000\nmax_keepalive 600\nretain_available false\nlistener 1883\nmax_qos 1\nmax_connections -1",
			func(c *config.Config) bool {
				return c.Limits.SessionMessages == 0 && c.Limits.Inflight == 65535 && c.Limits.PacketSize == 5000 && c.MQTT.KeepAliveMax.Minutes() == 10 && !c.MQTT.Retain &&
					c.MQTT.MaxQoS == 1 && c.Listeners.MQTT.Connections == 0
			}, ""},
		{"a bad number", "max_queued_messages many", func(c *config.Config) bool { return c.Limits.SessionMessages == 1_000_000 }, "want a number"},
		{"nothing is kept", "persistence false", func(c *config.Config) bool { return c.Journal.Durability == "sync" }, "journal.durability"},
		{"a bridge", "connection b\naddress h\ntopic # both 2 l/ r/", func(c *config.Config) bool {
			b := c.Bridges[0]
			return b.Name == "b" && b.Addresses[0] == "mqtt://h:1883" && b.Version == "3.1.1" && b.Topics[0].String() == `{filter: "#", direction: both, qos: 2, local_prefix: "l/", remote_prefix: "r/"}`
		}, "client id b"},
		{"a bridge without topics", "connection b\naddress h", func(c *config.Config) bool { return len(c.Bridges) == 0 }, "no topics"},
		{"two bridges of one name", "connection b\naddress h\ntopic a\nconnection b\naddress i\ntopic a", func(c *config.Config) bool { return len(c.Bridges) == 1 }, "name of its own"},
		{"a bridge's option without one", "address h", func(c *config.Config) bool { return len(c.Bridges) == 0 }, "behind no connection"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, notes := translate(t, tc.conf)
			if !tc.check(&c) {
				t.Errorf("not so: %+v", c)
			}
			if !strings.Contains(notes, tc.note) {
				t.Errorf("want a note with %q, have:\n%s", tc.note, notes)
			}
		})
	}
}

// TestRules: the rules that are made say what Mosquitto's would.
func TestRules(t *testing.T) {
	r, err := Translate("testdata/mosquitto.conf", "/etc/sluice")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(file, r.Files["acl"], 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := auth.New(auth.Options{ACLFile: file})
	if err != nil {
		t.Fatal(err)
	}
	const pub, sub = broker.ActionPublish, broker.ActionSubscribe
	for _, tc := range []struct {
		user, client string
		action       broker.Action
		topic        string
		want         bool
	}{
		{"", "c", sub, "weather/now", true},
		{"", "c", pub, "weather/now", false},
		{"ada", "c", sub, "weather/now", false},
		{"ada", "c", pub, "line/1", true},
		{"ada", "c", pub, "line/secret/1", false},
		{"eve", "c", pub, "line/1", false},
		{"ada", "c", sub, "100%/x", true},
		{"ada", "c", pub, "100%/x", false},
		{"two words", "c", pub, "a b", true},
		{"", "c7", pub, "devices/c7/x", true},
		{"eve", "c7", sub, "devices/c7/x", true},
		{"eve", "c7", pub, "devices/c8/x", false},
		{"eve", "c7", pub, "devices/c7/secret", false},
		{"eve", "c", pub, "users/eve/state", true},
		{"eve", "c", sub, "users/eve/state", false},
		{"", "c", pub, "users//state", false},
		{"", "c", pub, "anything", false},
	} {
		if got := p.Authorize(&broker.Identity{User: tc.user, ClientID: tc.client}, tc.action, []byte(tc.topic)); got != tc.want {
			t.Errorf("user %q, client %s, action %d, %s: %v", tc.user, tc.client, tc.action, tc.topic, got)
		}
	}
}

func TestMissingFiles(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"password_file " + dir + "/none", "acl_file " + dir + "/none", "include_dir " + dir + "/none"} {
		file := filepath.Join(dir, "m.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Translate(file, dir); err == nil || !strings.Contains(err.Error(), "m.conf:1") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Translate(filepath.Join(dir, "none"), dir); err == nil {
		t.Error("a configuration that is not there was read")
	}
}

// FuzzTranslate: whatever a configuration says, it is translated or told, and what is made is YAML that the parser reads.
func FuzzTranslate(f *testing.F) {
	for _, name := range []string{"mosquitto.conf", "conf.d/hq.conf"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		file := filepath.Join(dir, "m.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Translate(file, dir)
		if err != nil {
			return
		}
		for name, data := range r.Files {
			if filepath.Base(name) != name {
				t.Fatalf("a file is named %q", name)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err = config.Parse("sluice.yaml", r.Files["sluice.yaml"])
		if err != nil && (strings.Contains(err.Error(), "not YAML") || strings.Contains(err.Error(), "unknown key")) {
			t.Errorf("%v\n%s", err, r.Files["sluice.yaml"])
		}
	})
}
